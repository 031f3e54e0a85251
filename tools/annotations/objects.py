"""What the readers of the formats hand over: pictures with their objects, and a report of what was left out.

Positions are pixels of the picture as it was annotated, x to the right and y down, (0, 0) the upper left corner of the
upper left pixel, as in COCO. H W are the size of that picture.
"""
from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as mask_utils

from data.images import FARTHEST, DatasetError, decode_rle, is_usable_polygon, to_rle
from tools.annotations.pictures import PictureFile, PictureIndex, Unusable, turn_mask, turn_points


@dataclass(frozen=True)
class Object:
    """One object: its class, and its mask as COCO has it, polygons [[x, y, x, y, ...], ...] or a compressed RLE."""

    name: str
    segmentation: list[list[float]] | dict[str, Any]
    is_crowd: bool = False


@dataclass
class Picture:
    """One picture and its objects.

    orientation: EXIF orientation under which it was annotated; 1: positions count stored pixels.
    split: "train" or "val" where the data set says so itself.
    """

    file: PictureFile
    objects: list[Object]
    orientation: int = 1
    split: str | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) as annotated."""
        return self.file.size_under(self.orientation)


class Job(NamedTuple):
    """One picture to read. name: for messages; files: of its annotation; picture: path, or "" if a file says it."""

    name: str
    files: Sequence[str]
    picture: str = ""
    split: str | None = None


@dataclass
class Report:
    """What was left out and what else to know: the reason, then the names of the files that it is true of."""

    left_out: dict[str, list[str]] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)

    def leave_out(self, reason: object, name: str) -> None:
        """Counts something that is left out, named by the file that it is in."""
        self.left_out.setdefault(str(reason), []).append(name)

    def note(self, fact: str, name: str) -> None:
        """Counts something that is kept, but worth knowing."""
        self.notes.setdefault(fact, []).append(name)

    def reasons(self) -> str:
        """The three most frequent reasons for leaving something out, for an error message; "" if there is none."""
        return "; ".join(" ".join(line.split()) for line in Report(self.left_out).lines()[1:4])

    def lines(self) -> list[str]:
        """The report for people, most frequent first; empty if there is nothing to say."""
        found = []
        for title, entries in (("left out:", self.left_out), ("to know:", self.notes)):
            if entries:
                found.append(title)
            for reason, names in sorted(entries.items(), key=lambda entry: -len(entry[1])):
                different = list(dict.fromkeys(names))
                more = ", ..." if len(different) > 3 else ""
                found.append(f"  {len(names):6d}  {reason} ({', '.join(different[:3])}{more})")
        return found


@dataclass
class Source:
    """What a reader is given. annotations, images: folders. classes: the names in order, None: not known yet."""

    annotations: str
    images: str
    classes: list[str] | None
    report: Report

    @functools.cached_property
    def pictures(self) -> PictureIndex:
        """The pictures in `images`, looked up once."""
        return PictureIndex(self.images)


def names_in(path: str) -> list[str]:
    """The lines of a text file of class names, without empty ones.

    Raises:
        DatasetError: it is not in UTF-8.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            return [line.strip() for line in file if line.strip()]
    except UnicodeDecodeError:
        raise DatasetError(f"{path} is no text in UTF-8; save it as that") from None


def outline(points: Any, width: int, height: int) -> list[float]:
    """A polygon as COCO has it, x, y, x, y, ..., to 1/100 pixel.

    Args:
        points: [[x, y], ...] as it was read. width, height: of the picture.
    Raises:
        Unusable: it is no polygon of three points or more, or far away from the picture.
    """
    try:
        corners = np.array(points, np.float64)
        if corners.ndim != 2 or corners.shape[1] != 2 or not np.isfinite(corners).all():
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise Unusable("an outline that is no list of points x, y") from None
    if len(corners) < 3:
        raise Unusable("an outline of fewer than three points")
    if (np.abs(corners) > np.array([width, height]) * FARTHEST).any():
        raise Unusable(f"an outline further than {FARTHEST} times the picture's size away from it")
    polygon = corners.round(2).ravel().tolist()
    if not is_usable_polygon(polygon):
        raise Unusable("an outline around nothing")
    return polygon


def polygons(outlines: list[list[float]], width: int, height: int) -> list[list[float]] | dict[str, Any]:
    """Outlines as a COCO segmentation: themselves, or the RLE of what is inside if they leave the picture."""
    corners = np.concatenate(outlines).reshape(-1, 2)
    if (corners < 0).any() or (corners > (width, height)).any():
        return readable(to_rle(outlines, height, width))
    return outlines


def encode(mask: np.ndarray) -> dict[str, Any]:
    """A mask [H, W] as a compressed RLE for JSON."""
    return readable(mask_utils.encode(np.asfortranarray(mask, np.uint8)))


def readable(rle: dict[str, Any]) -> dict[str, Any]:
    """A compressed RLE of pycocotools with counts that JSON can hold."""
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def encode_labels(labels: np.ndarray) -> list[tuple[int, dict[str, Any], np.ndarray]]:
    """All objects of a label map at once, in the order of their labels.

    Args:
        labels: int [H, W], 0 for background.
    Returns:
        (label, compressed RLE, positions of the pixels in the map flattened by column) of each.
    """
    height, width = labels.shape
    flat = labels.ravel(order="F")
    positions = np.flatnonzero(flat)
    positions = positions[np.argsort(flat[positions], kind="stable")]
    values, first = np.unique(flat[positions], return_index=True)
    found = []
    for value, pixels in zip(values.tolist(), np.split(positions, first[1:])):
        begins = np.flatnonzero(np.diff(pixels, prepend=-2) != 1)
        ends = np.append(begins[1:], len(pixels)) - 1
        edges = np.stack([pixels[begins], pixels[ends] + 1], axis=1).ravel()
        counts = np.diff(edges, prepend=0, append=height * width).tolist()
        rle = mask_utils.frPyObjects({"size": [height, width], "counts": counts}, height, width)
        found.append((value, readable(rle), pixels))
    return found


def turned(item: Object, picture: Picture) -> Object:
    """The object with its positions in stored pixels."""
    file, orientation, segmentation = picture.file, picture.orientation, item.segmentation
    if orientation == 1:
        return item
    if isinstance(segmentation, dict):
        return Object(item.name, encode(turn_mask(decode_rle(segmentation), orientation)), item.is_crowd)
    corners = [np.array(polygon).reshape(-1, 2) for polygon in segmentation]
    stored = [turn_points(points, orientation, file.width, file.height).round(2).ravel().tolist() for points in corners]
    return Object(item.name, stored, item.is_crowd)
