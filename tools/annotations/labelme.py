"""labelme: one JSON file a picture, beside it or elsewhere.

Polygons, rectangles, circles and masks are read; points and lines have no area. Shapes of one label and group_id are
one object, and one of them that lies wholly inside another is a hole in it (one inside a hole is filled again).
"""
from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as mask_utils

from data.images import decode_rle
from tools.annotations.objects import Job, Object, Picture, Source, encode, outline, polygons
from tools.annotations.pictures import UNREADABLE, Unusable, files_under, open_picture, relative, stem_of

ARC_ERROR = 0.05  # pixels between a circle and the polygon in its place
NO_OBJECT = ("__ignore__", "_background_")  # labels that labelme's own converters set aside


def class_names(source: Source) -> None:
    """None: the labels in the files are the classes."""


def find(source: Source) -> list[Job]:
    """Every JSON file in the folder and those inside it."""
    return [Job(relative(path, source.annotations), [path]) for path in files_under(source.annotations, (".json",))]


def read(source: Source, job: Job) -> Picture:
    """One labelme file.

    Raises:
        Unusable: it is damaged or of another kind, or its picture cannot be used.
    """
    content = _content(job.files[0])
    folder = job.files[0][:-len(job.name)] + job.name.rpartition("/")[0]
    file = open_picture(source.pictures.find(content["imagePath"], folder))
    width, height = content.get("imageWidth"), content.get("imageHeight")
    picture = Picture(file, [], file.orientation_of(width, height))
    groups: dict[Any, list[Any]] = {}
    for number, shape in enumerate(content["shapes"]):
        try:
            label = shape["label"]
            if not isinstance(label, (str, int)):
                raise TypeError
            label = str(label).strip()
            group = shape.get("group_id")
            part = _part(shape, *picture.size)
        except Unusable as error:
            source.report.leave_out(error, job.name)
            continue
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
            source.report.leave_out("a shape without usable label or points", job.name)
            continue
        if not label or label in NO_OBJECT:
            source.report.leave_out(f"a shape with the label '{label}'", job.name)
        else:
            groups.setdefault((label, number, None) if group is None else (label, None, str(group)), []).append(part)
    picture.objects = [Object(label, _joined(parts, *picture.size)) for (label, _, _), parts in groups.items()]
    return picture


def report_unannotated(source: Source, jobs: list[Job], pictures: list[Picture]) -> None:
    """Reports the pictures that no labelme file is about."""
    used = {picture.file.path for picture in pictures}
    stems = {stem_of(job.name) for job in jobs}  # a damaged file does not say which picture it was about
    for path in source.pictures.paths:
        name = relative(path, source.images)
        if path not in used and stem_of(name) not in stems:
            source.report.leave_out("a picture without a labelme file", name)


def _content(path: str) -> Mapping[str, Any]:
    try:
        with open(path, encoding="utf-8-sig") as file:
            content = json.load(file)
    except (OSError, ValueError, RecursionError):
        raise Unusable("a JSON file that is damaged") from None
    if not (isinstance(content, dict) and isinstance(content.get("shapes"), list)
            and isinstance(content.get("imagePath"), str)):
        raise Unusable("a JSON file that is not labelme's (no shapes, or no imagePath)")
    return content


def _part(shape: Mapping[str, Any], width: int, height: int) -> Any:
    """An outline [x, y, ...] or, for a drawn mask, an RLE."""
    kind, points = shape.get("shape_type") or "polygon", shape["points"]
    if kind == "mask":
        return _drawn_mask(shape, width, height)
    if kind == "circle" and len(points) == 2:
        points = _circle(*np.array(points, np.float64))
    elif kind == "rectangle" and len(points) == 2:
        (x1, y1), (x2, y2) = points
        points = [[x1, y1], [x2, y1], [x2, y2], [x1, y2]]
    elif kind not in ("polygon", "rectangle"):
        raise Unusable(f"a shape of the type {kind}, which has no area")
    return outline(points, width, height)


def _circle(center: np.ndarray, border: np.ndarray) -> np.ndarray:
    radius = float(np.hypot(*(border - center)))
    if not radius < 1e6:  # also one that is no number
        raise Unusable("a circle of a radius that is no usable number")
    count = max(16, math.ceil(math.pi / math.acos(1 - min(1, ARC_ERROR / max(radius, ARC_ERROR)))))
    angles = np.arange(count) * (2 * math.pi / count)
    return center + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _drawn_mask(shape: Mapping[str, Any], width: int, height: int) -> Any:
    """labelme keeps the part of the mask in its box as a PNG, in base64."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(shape["mask"]))) as image:
            part = np.asarray(image.convert("L")) > 0
        left, top = (round(float(value)) for value in np.array(shape["points"], np.float64)[0])
    except UNREADABLE:
        raise Unusable("a shape of the type mask that is damaged") from None
    mask = np.zeros((height, width), bool)
    part = part[max(-top, 0):, max(-left, 0):][:max(height - max(top, 0), 0), :max(width - max(left, 0), 0)]
    mask[max(top, 0):, max(left, 0):][:part.shape[0], :part.shape[1]] = part
    return encode(mask)


def _joined(parts: list[Any], width: int, height: int) -> Any:
    """The COCO segmentation of all parts of an object: polygons, or an RLE if there are holes or drawn masks."""
    outlines = [part for part in parts if isinstance(part, list)]
    if len(parts) == 1:
        return polygons(outlines, width, height) if outlines else parts[0]
    rles = [mask_utils.frPyObjects([part], height, width)[0] if isinstance(part, list) else part for part in parts]
    areas = mask_utils.area(rles)
    # With `iscrowd` pycocotools divides by the first one's own area: 1 where it lies wholly inside the second.
    inside = mask_utils.iou(rles, rles, [1] * len(rles)) >= 1
    depth = (inside & (areas[:, np.newaxis] < areas)).sum(axis=1)
    if len(outlines) == len(parts) and not (depth % 2).any():
        return polygons(outlines, width, height)
    mask = np.zeros((height, width), np.uint8)
    for index in np.argsort(depth, kind="stable"):
        part = decode_rle(rles[index]).astype(bool)
        mask[part] = depth[index] % 2 == 0
    return encode(mask)
