"""What a COCO annotation file must hold before anything is built on it, and which annotations are usable.

Every error names the config key to change. Boxes are in pixels of the picture.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from data.images import DatasetError, is_usable_polygon

# What may stand where, and the types of it: those of one key are all of one group, to be compared and sorted.
_KINDS = {
    ("images", "id"): ("an integer everywhere, or a string everywhere", ({int}, {str})),
    ("images", "file_name"): ("the picture's name as a string", ({str},)),
    ("categories", "id"): ("a number everywhere, or a string everywhere", ({int, float}, {str})),
    ("annotations", "id"): ("a number or string", ({int, float, str},)),
    ("annotations", "image_id"): ("the id of one of 'images'", ({int, float, str},)),
    ("annotations", "category_id"): ("a number everywhere, or a string everywhere", ({int, float}, {str})),
}


def read_info(info_file: str, info_key: str, has_gt: bool) -> dict[str, Any]:
    """Loads an annotation file and checks it for the entries that everything else relies on.

    Args:
        info_key: config key that names the file, for messages. has_gt: annotations, if any, will be read.
    Raises:
        DatasetError: the file is missing, is no JSON, lacks an entry, or has an id of the wrong kind.
    """
    fix = f"correct {info_key}"
    try:
        with open(info_file, encoding="utf-8-sig") as file:
            content = json.load(file)
    except OSError as error:
        raise DatasetError(
            f"the annotation file {info_file} cannot be read ({error.strerror}); {fix}") from error
    except ValueError as error:
        raise DatasetError(
            f"{info_file} is cut off or no JSON ({error}); {fix}, or fetch the file again") from error
    if not isinstance(content, dict) or not content.get("images"):
        raise DatasetError(f"{info_file} has no 'images', so it is no COCO instance file; {fix}")
    with_annotations = has_gt and "annotations" in content
    _check_entries(content, "images", ("id", "file_name"), info_file)
    _check_entries(content, "categories", ("id",), info_file)
    if with_annotations:
        _check_entries(content, "annotations", ("id", "image_id", "category_id"), info_file)
        for image in content["images"]:
            if not (is_number(image.get("width")) and is_number(image.get("height"))):
                raise DatasetError(f"image {image['id']} in {info_file} has no numbers as width and height; "
                                   f"add its size in pixels, which COCO annotations need")
    return content


def _check_entries(content: Mapping[str, Any], part: str, keys: Sequence[str], info_file: str) -> None:
    """Raises DatasetError unless `part` is a list of objects that all have `keys`, of the right kind."""
    entries = content.get(part, [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DatasetError(f"'{part}' in {info_file} is no list of objects; write it as in COCO's own files")
    for position, entry in enumerate(entries):
        for key in keys:
            if entry.get(key) is None:
                raise DatasetError(f"entry {position} of '{part}' in {info_file} has no '{key}'; add it")
    for key in keys:
        words, kinds = _KINDS[part, key]
        found = {type(entry[key]) for entry in entries}
        if not any(found <= kind for kind in kinds):
            # The first entry says which kind the others should be of.
            expected = next((kind for kind in kinds if type(entries[0][key]) in kind), set())
            position, value = next((position, entry[key]) for position, entry in enumerate(entries)
                                   if type(entry[key]) not in expected)
            raise DatasetError(f"entry {position} of '{part}' in {info_file} has the {key} {_short(value)}; "
                               f"write {words}")


def make_label_map(content: Mapping[str, Any], label_map: Mapping[Any, int] | None,
                   class_names: Sequence[str], info_file: str) -> dict[int, int]:
    """Makes {category_id: 1-based label} and checks it against the categories that the annotations use.

    Args:
        content: the annotation file. label_map: the config's, or None: categories are found by their names in
            `class_names`; a file without categories has the labels as ids, as in the original.
    Raises:
        DatasetError: an annotation's category belongs to no class, or a label to none of `class_names`.
    """
    names = {category["id"]: category.get("name") for category in content.get("categories", [])}
    if label_map is not None:
        # Keys become strings on the way through a JSON file, such as the one beside a checkpoint.
        found = {int(category_id): label for category_id, label in label_map.items()}
        fix = "correct dataset.label_map or the file"
    elif names:
        labels = {class_name: label for label, class_name in enumerate(class_names, 1)}
        found = {category_id: labels[name] for category_id, name in names.items() if name in labels}
        fix = "write the file's category names into dataset.class_names, or give dataset.label_map"
    else:
        found = {label: label for label in range(1, len(class_names) + 1)}
        fix = "give dataset.label_map"
    for category_id, label in found.items():
        if not 1 <= label <= len(class_names):
            raise DatasetError(f"dataset.label_map gives category {category_id} label {label}, but labels "
                               f"run from 1 to {len(class_names)}, the number of dataset.class_names; {fix}")
    used = {annotation["category_id"] for annotation in content.get("annotations", [])}
    for category_id in sorted(used - set(found), key=str):
        known_as = f"'{names[category_id]}'" if category_id in names else "not among its categories"
        raise DatasetError(f"category_id {category_id} ({known_as}) in {info_file} belongs to no class; "
                           f"known are the ids {_few(found)} for the names {_few(class_names)}; {fix}")
    if not found:
        raise DatasetError(f"none of the categories {_few(names.values())} of {info_file} is among the names "
                           f"{_few(class_names)}; {fix}")
    return found


def clipped_box(bbox: Sequence[float], height: int, width: int) -> tuple[float, float, float, float]:
    """A COCO box (x, y, w, h) as x1, y1, x2, y2 inside the picture; x2 <= x1 or y2 <= y1: nothing is left."""
    x, y, box_width, box_height = bbox
    return max(x, 0.0), max(y, 0.0), min(x + box_width, float(width)), min(y + box_height, float(height))


def find_fault(annotation: Mapping[str, Any], image: Mapping[str, Any] | None) -> str | None:
    """Why an annotation cannot be used, as a phrase that follows "with"; None if it can.

    Args:
        image: the entry of `images` that it belongs to, or None.
    """
    if image is None:
        return "an image_id that is not among the images"
    bbox, height, width = annotation.get("bbox"), image["height"], image["width"]
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(is_number, bbox)):
        return "no usable bbox"
    if not (bbox[2] > 0 and bbox[3] > 0):
        return "an empty bbox"
    x1, y1, x2, y2 = clipped_box(bbox, height, width)
    if not (x1 < x2 and y1 < y2):
        return "a bbox outside the image"
    if not _has_mask(annotation.get("segmentation"), height, width):
        return "an empty or degenerate segmentation"
    return None


def _has_mask(segmentation: Any, height: int, width: int) -> bool:
    if isinstance(segmentation, list):
        return any(map(is_usable_polygon, segmentation))
    if not isinstance(segmentation, dict) or segmentation.get("size") != [height, width]:
        return False
    counts = segmentation.get("counts")
    return sum(counts) == height * width if isinstance(counts, list) else bool(counts)


def is_number(value: Any) -> bool:
    """Whether a value of a JSON file is a finite number."""
    return type(value) in (int, float) and math.isfinite(value)


def _short(value: Any) -> str:
    """A value for a message, which stays one line."""
    text = repr(value)
    return text if len(text) <= 50 else f"{text[:46]} ..."


def _few(values: Iterable[Any]) -> str:
    """At most eight values for a message."""
    values = list(values)
    return ", ".join(map(str, values[:8])) + (f", ... ({len(values)} in all)" if len(values) > 8 else "")
