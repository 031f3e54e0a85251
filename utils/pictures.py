"""Which pictures ``--image`` and ``--images`` name, and where the results go."""
from __future__ import annotations

import os

from utils.runtime import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def one_picture(text, output_folder):
    """``--image=IN[:OUT]`` as [(IN, OUT)]; OUT defaults to IN's name as .png in the output folder.

    Raises:
        UserError: there is no file IN.
    """
    source, _, target = text.partition(":")
    if not os.path.isfile(source):
        raise UserError(f"there is no file {source}; correct --image")
    stem = os.path.splitext(os.path.basename(source))[0]
    return [(source, target or os.path.join(output_folder, stem + ".png"))]


def folder_of_pictures(text):
    """``--images=IN:OUT`` as [(picture in IN, .png in OUT)], by name.

    Raises:
        UserError: a folder is missing in the text or on the disk, or IN holds no picture.
    """
    folder, _, out = text.partition(":")
    if not os.path.isdir(folder) or not out:
        raise UserError(f"--images={text}: write IN:OUT with an existing folder IN")
    names = sorted(name for name in os.listdir(folder) if name.lower().endswith(SUFFIXES))
    if not names:
        raise UserError(f"there is no picture ({', '.join(SUFFIXES)}) in {folder}; correct --images")
    stems = [os.path.splitext(name)[0] for name in names]
    # a.jpg beside a.png: each keeps its whole name, so that neither result overwrites the other.
    targets = [(name if stems.count(stem) > 1 else stem) + ".png" for name, stem in zip(names, stems)]
    return [(os.path.join(folder, name), os.path.join(out, target)) for name, target in zip(names, targets)]
