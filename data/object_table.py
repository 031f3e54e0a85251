"""All objects of a data set as columns of numbers: boxes, and the extents and areas of masks.

Shapes: N objects. Boxes and extents are x1, y1, x2, y2 in pixels of the picture as stored.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

from data.images import is_usable_polygon, sound_rle

_POLYGONS_AT_ONCE = 20000  # annotations whose points are in memory as arrays


@dataclass
class ObjectTable:
    """The usable annotations of a data set, in the file's order; without those of `mask_faults`.

    ids: N annotation ids. image: int64 [N], position of the picture among the sound images. label: int64 [N], 0-based,
    crowds -1, without a class -2. boxes: float64 [N, 4], as annotated. sizes: float64 [N, 2], width and height of the
    object's picture. areas: float64 [N], as annotated, NaN without a number. extents: float64 [N, 4] and mask_areas:
    float64 [N], of the masks. mask_faults: {what is wrong with the mask: ids}.
    """

    ids: list[Any]
    image: np.ndarray
    label: np.ndarray
    boxes: np.ndarray
    sizes: np.ndarray
    areas: np.ndarray
    extents: np.ndarray
    mask_areas: np.ndarray
    mask_faults: dict[str, list[Any]] = field(default_factory=dict)

    @property
    def clipped(self) -> np.ndarray:
        """float64 [N, 4], the boxes inside their pictures, as `clipped_box` gives them."""
        return np.clip(self.boxes, 0, np.tile(self.sizes, 2))

    def input_sides(self, max_size: int, preserve_aspect_ratio: bool = False) -> np.ndarray:
        """float64 [N, 2], width and height of the boxes in pixels of the network's input, without augmentation."""
        sides = self.clipped[:, 2:] - self.clipped[:, :2]
        if preserve_aspect_ratio:
            return sides * max_size / np.sqrt(self.sizes.prod(axis=1, keepdims=True))
        return sides * max_size / self.sizes


@np.errstate(over="ignore", invalid="ignore")  # of corners at 1e308 pixels, which are left out in the end
def object_table(annotations: Sequence[Mapping[str, Any]], images: Sequence[Mapping[str, Any]],
                 label_map: Mapping[Any, int]) -> ObjectTable:
    """The columns of annotations in which `find_fault` finds nothing.

    Args:
        images: entries that the annotations belong to. label_map: {category_id: 1-based label}; what it lacks is -2.
    """
    position = {image["id"]: number for number, image in enumerate(images)}
    image = np.fromiter((position[one["image_id"]] for one in annotations), np.int64, len(annotations))
    label = np.fromiter((-1 if one.get("iscrowd") else label_map.get(one["category_id"], -1) - 1
                         for one in annotations), np.int64, len(annotations))
    boxes = np.array([one["bbox"] for one in annotations], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    # Without annotations, images need no size.
    sides = [(one["width"], one["height"]) for one in images] if annotations else []
    sizes = np.array(sides, np.float64).reshape(-1, 2)[image]
    areas = np.fromiter((_number(one.get("area")) for one in annotations), np.float64, len(annotations))
    extents, mask_areas = np.full((len(annotations), 4), np.nan), np.full(len(annotations), np.nan)
    table = ObjectTable([one["id"] for one in annotations], image, label, boxes, sizes, areas, extents, mask_areas)
    outlines = [one["segmentation"] for one in annotations]
    polygons = [number for number, outline in enumerate(outlines) if isinstance(outline, list)]
    for start in range(0, len(polygons), _POLYGONS_AT_ONCE):
        some = polygons[start : start + _POLYGONS_AT_ONCE]
        extents[some], mask_areas[some] = polygon_extents([outlines[number] for number in some])
    _measure_rasterised(table, outlines)
    return _chosen(table, np.flatnonzero(~np.isnan(mask_areas)))


def _chosen(table: ObjectTable, places: np.ndarray) -> ObjectTable:
    """The table with the objects at these places only."""
    columns = {name: value[places] for name, value in vars(table).items() if isinstance(value, np.ndarray)}
    return replace(table, ids=[table.ids[place] for place in places.tolist()], **columns)


def _number(value: Any) -> float:
    return value if type(value) in (int, float) and abs(value) < 1e300 else np.nan  # an integer may be any size


def polygon_extents(outlines: Sequence[Sequence[Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Extents, float64 [N, 4], and sums of the areas, float64 [N], of N lists of polygons with a usable one in each."""
    usable = [[polygon for polygon in outline if is_usable_polygon(polygon)] for outline in outlines]
    polygons = list(itertools.chain.from_iterable(usable))
    # Corners of each polygon, and polygons of each outline, lie one behind the other.
    corners = np.fromiter(map(len, polygons), np.int64, len(polygons)) // 2
    points = np.fromiter(itertools.chain.from_iterable(polygons), np.float64, 2 * corners.sum()).reshape(-1, 2)
    first = np.cumsum(corners) - corners
    # From each polygon's first corner: so the products keep their digits, and the edge to it, or to the next
    # polygon's, counts nothing in the shoelace formula.
    near = points - np.repeat(points[first], corners, axis=0)
    following = np.roll(near, -1, axis=0)
    cross = near[:, 0] * following[:, 1] - following[:, 0] * near[:, 1]
    counts = np.fromiter(map(len, usable), np.int64, len(usable))
    owner = np.cumsum(counts) - counts
    low = np.minimum.reduceat(np.minimum.reduceat(points, first), owner)
    high = np.maximum.reduceat(np.maximum.reduceat(points, first), owner)
    return np.hstack([low, high]), np.add.reduceat(np.abs(np.add.reduceat(cross, first)) / 2, owner)


def _measure_rasterised(table: ObjectTable, outlines: Sequence[Any]) -> None:
    """Fills in the figures of run lengths, and looks for pixels in polygons that are thin or beyond the border."""
    sides = table.extents[:, 2:] - table.extents[:, :2]
    is_thin = table.mask_areas < 2 * sides.max(axis=1, initial=0)
    is_outside = ((table.extents < -1) | (table.extents > np.tile(table.sizes, 2) + 1)).any(axis=1)
    doubtful = np.isnan(table.mask_areas) | is_thin | is_outside
    for number in np.flatnonzero(doubtful).tolist():
        width, height = table.sizes[number].astype(int).tolist()
        try:
            rle = sound_rle(outlines[number], height, width)
        except ValueError as error:
            table.mask_faults.setdefault(str(error), []).append(table.ids[number])
            table.mask_areas[number] = np.nan
            continue
        if isinstance(outlines[number], dict):
            x, y, box_width, box_height = mask_utils.toBbox(rle)
            table.extents[number] = x, y, x + box_width, y + box_height
            table.mask_areas[number] = mask_utils.area(rle)
