"""Reading pictures and COCO masks from their stored form; the errors of data sets. H W of a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as mask_utils

PNG_START, JPEG_START, JPEG_END, JPEG_SCAN = b"\x89PNG", b"\xff\xd8", b"\xff\xd9", 0xDA

FARTHEST = 10  # picture sizes from its origin, for the corners of a polygon


class DatasetError(ValueError):
    """Something about a data set that its user has to correct; the message is one line with the fix."""

    def __str__(self) -> str:
        return " ".join(super().__str__().splitlines())  # names in a file may hold line ends


def is_complete(data: bytes) -> bool:
    """Whether the bytes of a picture reach its end marker.

    OpenCV fills up a cut JPEG with grey and says nothing.
    """
    if data.startswith(PNG_START):
        return b"IEND" in data
    if not data.startswith(JPEG_START):
        return True
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        if data[position + 1] == JPEG_SCAN:
            return data.rfind(JPEG_END) >= position
        # Segments are stepped over by their length, as a thumbnail in one has an end marker of its own.
        filler = data[position + 1] == 0xFF
        position += 1 if filler else 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return False


def read_image(path: str, apply_orientation: bool = False) -> np.ndarray:
    """Reads a picture of any kind OpenCV knows (grey, CMYK, 16 bit, alpha) as uint8 [H, W, 3] BGR.

    Args:
        apply_orientation: turn the picture as its EXIF tag says. Not for annotated data: COCO counts raw
            pixels.
    Raises:
        DatasetError: the file is missing, cut off or no picture.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except (OSError, ValueError) as error:  # the second: no name that a file can have
        reason = error.strerror if isinstance(error, OSError) else error
        raise DatasetError(f"{path} cannot be read ({reason}); correct the path or its permissions") from error
    flags = cv2.IMREAD_COLOR if apply_orientation else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if is_complete(data) else None
    except cv2.error:
        image = None
    if image is None:
        raise DatasetError(f"{path} is cut off or no picture that OpenCV can read; replace or remove it")
    return image


def decode_rle(rle: Mapping[str, Any]) -> np.ndarray:
    """A compressed COCO RLE to a mask, uint8 [H, W], 0 or 1: `pycocotools.mask.decode`, several times faster.

    Raises:
        ValueError: the counts do not describe a mask of that size.
    """
    return _fill_columns(runs_of(rle), *rle["size"])


def runs_of(rle: Mapping[str, Any]) -> np.ndarray:
    """The lengths, int64, of a compressed COCO RLE's runs of 0 and 1 in turn, column by column.

    Each is written in base 32, low digit first, from character 48; bit 5 says that digits follow, bit 4 of the last
    is the sign, and from the fourth on a count is stored as the difference from the one two before.

    Raises:
        ValueError: the counts do not describe a mask of that size.
    """
    height, width = rle["size"]
    counts = rle["counts"]
    counts = counts.encode() if isinstance(counts, str) else counts
    digits = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    if not len(digits) or digits[-1] & 0x20:
        raise ValueError("the run-length counts are cut off")
    last = np.flatnonzero((digits & 0x20) == 0)
    first = np.concatenate(([0], last[:-1] + 1))
    place = 5 * (np.arange(len(digits)) - np.repeat(first, last - first + 1))
    runs = np.add.reduceat((digits & 0x1F) << place, first)
    runs -= np.where(digits[last] & 0x10, np.int64(1) << (place[last] + 5), 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    # One run at a time, as the sum of longer ones may overflow to what it should be.
    if runs.min() < 0 or runs.max() > height * width or runs.sum() != height * width:
        raise ValueError("the run-length counts do not add up to its size")
    return runs


def _fill_columns(runs: np.ndarray, height: int, width: int) -> np.ndarray:
    """Runs of 0 and 1 in turn, int64, column by column, to a mask, uint8 [H, W].

    Only the columns from the first to the last with a 1 are filled run by run: most objects are small.
    """
    mask = np.zeros((height, width), np.uint8)
    if len(runs) % 2 == 0:
        runs = np.append(runs, 0)
    if len(runs) == 1 or not height:
        return mask
    first, last = runs[0] // height, width - runs[-1] // height
    runs[0] -= first * height
    runs[-1] -= (width - last) * height
    columns = np.repeat((np.arange(len(runs)) & 1).astype(np.uint8), runs).reshape(last - first, height)
    if first < last:
        mask[:, first:last] = cv2.transpose(columns).reshape(height, -1)
    return mask


def to_rle(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """A COCO segmentation (polygons, RLE with a list of counts, or compressed RLE) as one compressed RLE.

    Raises:
        ValueError: a polygon reaches far outside of the picture. pycocotools walks along every edge, which for one
            of 1e9 pixels takes all memory.
    """
    if isinstance(segmentation, list):
        polygons = [polygon for polygon in segmentation if is_usable_polygon(polygon)]
        if any(max(max(polygon), -min(polygon)) > FARTHEST * max(height, width) for polygon in polygons):
            raise ValueError(f"a polygon reaches further than {FARTHEST} picture sizes")
        return mask_utils.merge(mask_utils.frPyObjects(polygons, height, width))
    if isinstance(segmentation["counts"], list):
        return mask_utils.frPyObjects({**segmentation, "size": [height, width]}, height, width)
    return {**segmentation, "size": [height, width]}  # in the file it may be of floats


def sound_rle(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """`to_rle` of a mask that has pixels and can be decoded.

    Raises:
        ValueError: the counts are damaged, or no pixel is set; the message is a clause about the mask.
    """
    rle = to_rle(segmentation, height, width)
    if isinstance(segmentation, list):
        is_empty = not mask_utils.area(rle)
    else:
        # Polygons give a sound RLE, but one from a file shows its damage only when its runs are read.
        try:
            is_empty = not runs_of(rle)[1::2].any()
        except ValueError as error:
            raise ValueError(f"its mask is damaged ({error})") from error
    if is_empty:
        raise ValueError("its mask has no pixel")
    return rle


class StoredMasks(Sequence):
    """Masks of one picture, each uint8 [H, W] of 0 and 1, decoded when asked for: most training crops lose some.

    Args:
        stored: N compressed RLE.
    """

    def __init__(self, stored: Sequence[Mapping[str, Any]]):
        self._stored = stored

    def __len__(self) -> int:
        return len(self._stored)

    def __getitem__(self, index: Any) -> Any:
        return decode_rle(self._stored[index])


def is_usable_polygon(points: Any) -> bool:
    """Whether this is a list x, y, x, y, ... of three points or more, all finite numbers, with some extent.

    pycocotools would take four numbers for a box.
    """
    if not isinstance(points, list) or len(points) < 6 or len(points) % 2:
        return False
    try:
        if not math.isfinite(sum(points)):
            return False
    except (TypeError, OverflowError):  # text, a list, null; a number of hundreds of digits
        return False
    # `any` stops at the first difference, mostly the second point: a large file has millions of them.
    return any(x != points[0] for x in points[2::2]) and any(y != points[1] for y in points[3::2])
