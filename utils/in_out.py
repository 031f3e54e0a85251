"""What ``--image``, ``--images`` and ``--video`` are given: IN, or IN:OUT, where names may hold colons themselves."""
from __future__ import annotations

import os
import re

from utils.runtime import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")  # of pictures


def split_in_out(text):
    """Split IN:OUT at the colon that leaves an IN that exists, a file or a folder; the longest such IN counts.

    Args:
        text: as the user wrote it; ``IN``, ``IN:`` and ``IN:OUT`` are understood.

    Returns:
        (IN, OUT), OUT None where the text has none. If no IN exists, IN is what stands before the first colon that
        is not a Windows drive's, for the message that it is missing.
    """
    colons = [match.start() for match in re.finditer(":", text)]
    for at in [len(text), *reversed(colons)]:
        if at and os.path.exists(text[:at]):
            return text[:at], text[at + 1:] or None
    drive = re.match(r"[A-Za-z]:[\\/]", text)
    at = next((at for at in colons if not drive or at > 1), len(text))
    return text[:at], text[at + 1:] or None


def check_another(source, target):
    """Refuse to overwrite what is read.

    Raises:
        UserError: the two paths are one file.
    """
    if os.path.exists(target) and os.path.exists(source) and os.path.samefile(source, target):
        raise UserError(f"{target} would overwrite what is read; name another after the colon, IN:OUT")
