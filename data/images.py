"""Reading pictures and COCO masks from their stored form; the errors of data sets. H W of a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as mask_utils

PNG_START, JPEG_START, JPEG_END, JPEG_SCAN = b"\x89PNG", b"\xff\xd8", b"\xff\xd9", 0xDA


class DatasetError(ValueError):
    """Something about a data set that its user has to correct; the message is one sentence with the fix."""


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
    except OSError as error:
        raise DatasetError(
            f"{path} cannot be read ({error.strerror}); correct the path or its permissions") from error
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

    The counts are runs of 0 and 1 in turn, column by column. Each is written in base 32, low digit first,
    from character 48; bit 5 says that digits follow, bit 4 of the last is the sign, and from the fourth on a
    count is stored as the difference from the one two before.

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
    if runs.min() < 0 or runs.sum() != height * width:
        raise ValueError("the run-length counts do not add up to its size")
    return _fill_columns(runs, height, width)


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
    """A COCO segmentation (polygons, RLE with a list of counts, or compressed RLE) as one compressed RLE."""
    if isinstance(segmentation, list):
        polygons = [polygon for polygon in segmentation if is_usable_polygon(polygon)]
        return mask_utils.merge(mask_utils.frPyObjects(polygons, height, width))
    if isinstance(segmentation["counts"], list):
        return mask_utils.frPyObjects(segmentation, height, width)
    return segmentation


class StoredMasks(Sequence):
    """Masks of one picture, each uint8 [H, W] of 0 and 1, decoded when asked for: most training crops lose some.

    Args:
        stored: N masks, each an ndarray already or a compressed RLE.
    """

    def __init__(self, stored: Sequence[np.ndarray | Mapping[str, Any]]):
        self._stored = stored

    def __len__(self) -> int:
        return len(self._stored)

    def __getitem__(self, index: int) -> np.ndarray:
        mask = self._stored[index]
        return mask if isinstance(mask, np.ndarray) else decode_rle(mask)


def is_usable_polygon(points: Any) -> bool:
    """Whether this is a list x, y, x, y, ... of three points or more with some extent.

    pycocotools would take four numbers for a box.
    """
    if not isinstance(points, list) or len(points) < 6 or len(points) % 2:
        return False
    # `any` stops at the first difference, mostly the second point: a large file has millions of them.
    return any(x != points[0] for x in points[2::2]) and any(y != points[1] for y in points[3::2])
