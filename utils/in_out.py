"""Where commands read and write: IN or IN:OUT, where names may hold colons themselves; what may be written."""
from __future__ import annotations

import os
import re

from utils.errors import UserError

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def split_in_out(text: str) -> tuple[str, str | None]:
    """Split IN:OUT at the colon that leaves an IN that exists, a file or a folder; the longest such IN counts.

    Args:
        text: what ``--image``, ``--images`` or ``--video`` is given; ``IN``, ``IN:`` and ``IN:OUT`` are understood.

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


def check_another(source: str, target: str) -> None:
    """Refuse to overwrite what is read.

    Raises:
        UserError: the two paths are one file.
    """
    if os.path.exists(target) and os.path.exists(source) and os.path.samefile(source, target):
        raise UserError(f"{target} would overwrite what is read; name another after the colon, IN:OUT")


def check_writable(folder: str, option: str) -> None:
    """Make a folder and see that a file can be made in it: before hours of work that would be lost.

    Args:
        option: of the command line, for the message.

    Raises:
        UserError: it cannot be written.
    """
    probe = os.path.join(folder, f".{os.getpid()}.tmp")
    try:
        os.makedirs(folder, exist_ok=True)
        with open(probe, "w", encoding="utf-8"):
            pass
        os.remove(probe)
    except OSError as error:
        raise UserError(f"cannot write into {folder} ({error.strerror}); choose another {option}") from error
