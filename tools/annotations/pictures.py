"""Picture files as annotations refer to them: found by name, measured without decoding, upright or as stored."""
from __future__ import annotations

import os
import re
import struct
import unicodedata
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from utils.in_out import PICTURE_SUFFIXES

_ORIENTATION = 0x0112  # EXIF tag
# EXIF orientation: how the upright picture becomes the stored one: transpose it, then mirror x, mirror y.
_TO_STORED = {
    1: (False, False, False), 2: (False, True, False), 3: (False, True, True), 4: (False, False, True),
    5: (True, False, False), 6: (True, False, True), 7: (True, True, True), 8: (True, True, False),
}
# What Pillow raises for files that are cut off, damaged, too large to be meant, or no pictures.
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, TypeError, LookupError, OverflowError, struct.error,
              Image.DecompressionBombError)
_PARTS = {"images", "labels", "masks"}  # folders by which files of one picture differ, as in images/a.jpg, labels/a.txt


class Unusable(ValueError):
    """A file or an object that is left out; the message says why, in words that many of them can share."""


@dataclass(frozen=True)
class PictureFile:
    """A picture on disk. width, height: of the stored pixels. orientation: its EXIF tag, 1 to 8."""

    path: str
    width: int
    height: int
    orientation: int

    def size_under(self, orientation: int) -> tuple[int, int]:
        """(width, height) after the EXIF orientation is applied."""
        return (self.height, self.width) if _TO_STORED[orientation][0] else (self.width, self.height)

    def orientation_of(self, width: int | None, height: int | None) -> int:
        """The orientation under which it was annotated, from the size that the annotation gives, if it does.

        Most tools show pictures upright, so that this counts wherever the size cannot tell.

        Raises:
            Unusable: the size is neither that of the upright nor that of the stored picture.
        """
        if width is None or height is None or (width, height) == self.size_under(self.orientation):
            return self.orientation
        if (width, height) == (self.width, self.height):
            return 1
        raise Unusable("an annotation for another size than the picture's")


def open_picture(path: str) -> PictureFile:
    """Reads size and orientation from a picture's header.

    Raises:
        Unusable: it is no picture that Pillow knows.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of very large pictures and of odd EXIF
            with Image.open(path) as image:
                # Of a PNG without EXIF in its header Pillow decodes all to look behind the pixels.
                has_tag = image.format != "PNG" or "exif" in image.info
                orientation = image.getexif().get(_ORIENTATION, 1) if has_tag else 1
                width, height = image.size
                return PictureFile(path, width, height, orientation if orientation in _TO_STORED else 1)
    except UNREADABLE:
        raise Unusable("a picture that cannot be read") from None


def turn_points(points: np.ndarray, orientation: int, width: int, height: int) -> np.ndarray:
    """Points [P, 2] of the upright picture in the stored one, of the size given."""
    transpose, mirror_x, mirror_y = _TO_STORED[orientation]
    x, y = points[:, ::-1].T if transpose else points.T
    return np.stack([width - x if mirror_x else x, height - y if mirror_y else y], axis=1)


def turn_mask(mask: np.ndarray, orientation: int) -> np.ndarray:
    """A mask [H, W] of the upright picture as one of the stored picture."""
    transpose, mirror_x, mirror_y = _TO_STORED[orientation]
    mask = mask.T if transpose else mask
    return mask[::-1 if mirror_y else 1, ::-1 if mirror_x else 1]


def read_labels(path: str) -> tuple[np.ndarray, bool]:
    """The values of a label picture: grey of 8 or 16 bit or palette indices, or colours as one number each.

    Returns:
        int64 [H, W], 0 where it is black; whether these are colours.
    Raises:
        Unusable: it cannot be read.
    """
    try:
        with Image.open(path) as image:
            image.load()
            if image.mode in ("RGB", "RGBA"):
                colours = np.asarray(image.convert("RGB")).astype(np.int64)
                return colours @ np.array([1 << 16, 1 << 8, 1]), True
            if image.mode == "LA":
                image = image.getchannel("L")
            if image.mode in ("1", "L", "P") or image.mode.startswith("I"):
                labels = np.asarray(image).astype(np.int64)
                if labels.min() >= 0 and labels.max() < 1 << 16:  # others are in no PNG, whatever the suffix says
                    return labels, False
    except UNREADABLE:
        pass
    raise Unusable("a mask picture that cannot be read")


def files_under(folder: str, suffixes: tuple[str, ...]) -> Iterator[str]:
    """Paths of all files in a folder and those inside it with one of the suffixes, sorted; hidden ones are not seen."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        for name in sorted(names):
            if name.lower().endswith(suffixes) and not name.startswith("."):
                yield os.path.join(parent, name)


def relative(path: str, folder: str) -> str:
    """The path from a folder on, with / between its parts."""
    return os.path.relpath(path, folder).replace(os.sep, "/")


def stem_of(name: str) -> str:
    """What the files of one picture have in common: the relative path, but for the suffix and folders like labels/."""
    *folders, name = _composed(name).split("/")
    return "/".join([part for part in folders if part.lower() not in _PARTS] + [os.path.splitext(name)[0]])


def _composed(name: str) -> str:
    # macOS writes an accent as a character of its own, other systems do not.
    return unicodedata.normalize("NFC", name)


def _is_preview(path: str) -> bool:
    """Whether an earlier run of tools/x2coco.py wrote this picture, into the folder that it now reads."""
    stem = path.removesuffix("_preview.png")
    return stem != path and all(os.path.isfile(f"{stem}_{split}.json") for split in ("train", "val"))


class PictureIndex:
    """The pictures in a folder and those inside it, by name, each a path or, where several have it, None.

    Attributes: folder. paths: all, sorted. by_stem: {stem_of the relative path: path or None}.
    """

    def __init__(self, folder: str):
        self.folder = folder
        self.paths = [path for path in files_under(folder, PICTURE_SUFFIXES) if not _is_preview(path)]
        self.by_stem: dict[str, str | None] = {}
        self._by_name: dict[str, str | None] = {}
        for path in self.paths:
            name = _composed(relative(path, folder))
            stem = stem_of(name)
            self.by_stem[stem] = None if stem in self.by_stem else path
            for key in {name, "/" + os.path.basename(name)}:
                self._by_name[key] = None if key in self._by_name else path

    def find(self, name: str, folder: str) -> str:
        """The picture that an annotation names, by its path from `folder` or from the index's, else by its bare name.

        Raises:
            Unusable: there is none, or several have the name.
        """
        name = _composed(re.sub(r"[\\/]+", "/", name))
        beside = _composed(relative(os.path.join(folder, name), self.folder))
        for key in (beside, os.path.normpath(name).replace(os.sep, "/"), "/" + name.rsplit("/", 1)[-1]):
            if key in self._by_name:
                return _the_one(self._by_name[key])
        if os.path.isfile(os.path.join(folder, name)):
            return os.path.join(folder, name)
        raise Unusable("an annotation whose picture is missing")

    def of_stem(self, stem: str) -> str:
        """The picture with a stem, as `find`."""
        if stem not in self.by_stem:
            raise Unusable("an annotation whose picture is missing")
        return _the_one(self.by_stem[stem])


def _the_one(path: str | None) -> str:
    if path is None:
        raise Unusable("an annotation that several pictures have the name of")
    return path
