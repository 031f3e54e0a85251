"""The folder that pictures are in, and links or upright copies of them in another."""
from __future__ import annotations

import os
import shutil
from collections.abc import Sequence

from tqdm import tqdm

from data.images import DatasetError, read_image
from tools.annotations.objects import Picture, Report
from tools.annotations.pictures import relative
from utils.visualize import write_image


def common_folder(pictures: Sequence[Picture], images: str) -> str:
    """The folder that file names are relative to: of the images, or one above if pictures lie elsewhere as well."""
    folders = {os.path.dirname(os.path.abspath(picture.file.path)) for picture in pictures}
    try:
        return os.path.commonpath([os.path.abspath(images), *folders])
    except ValueError:
        raise DatasetError("the pictures are on several drives; bring them into one folder, and give it as --images"
                           ) from None


def copy_pictures(pictures: Sequence[Picture], folder: str, target: str, report: Report) -> list[Picture]:
    """Links pictures into a folder, or copies them; what was annotated upright is written so. Returns those it has."""
    copied = []
    for picture in tqdm(pictures, desc="copying", unit="picture"):
        name = relative(picture.file.path, folder)
        new = os.path.join(target, name)
        os.makedirs(os.path.dirname(new), exist_ok=True)
        try:
            if picture.orientation != 1:
                write_image(new, read_image(picture.file.path, apply_orientation=True))
            else:
                link_or_copy(picture.file.path, new)
        except DatasetError:
            report.leave_out("a picture that is cut off", name)
        else:
            copied.append(picture)
    return copied


def link_or_copy(path: str, new: str) -> None:
    """A second name for a file, or a copy of it where the file system has no such names."""
    try:
        os.link(os.path.realpath(path), new)
    except OSError:
        shutil.copyfile(path, new)


def note_turned(pictures: Sequence[Picture], folder: str, report: Report) -> None:
    """Reports the pictures that EXIF turns."""
    for picture in pictures:
        if picture.orientation != 1:
            report.note("a picture stored sideways, upside down or mirrored (EXIF), which the network sees so; its "
                        "objects are turned along, --copy writes it upright", relative(picture.file.path, folder))
