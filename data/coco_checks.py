"""What a COCO annotation file must hold before anything is built on it, and which annotations are usable.

Rules give all that they find; who builds on the file raises the first error, data/inspection.py tells them all. Every
error names the config key to change. Boxes are in pixels of the picture.
"""

from __future__ import annotations

import collections
import gc
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from data.findings import Finding, finding_of, raise_first, short
from data.images import DatasetError, is_usable_polygon

# What may stand where, and the types of it: those of one key are all of one group, to be compared and sorted.
_KINDS: dict[tuple[str, str], tuple[str, tuple[set[type], ...]]] = {
    ("images", "id"): ("an integer everywhere, or a string everywhere", ({int}, {str})),
    ("images", "file_name"): ("the picture's name as a string", ({str},)),
    ("categories", "id"): ("a number everywhere, or a string everywhere", ({int, float}, {str})),
    ("annotations", "id"): ("a number or string", ({int, float, str},)),
    ("annotations", "image_id"): ("the id of one of 'images'", ({int, float, str},)),
    ("annotations", "category_id"): ("a number everywhere, or a string everywhere", ({int, float}, {str})),
}
_KEYS = {part: [key for of_part, key in _KINDS if of_part == part] for part in ("images", "categories", "annotations")}


def read_info(info_file: str, info_key: str, has_gt: bool) -> dict[str, Any]:
    """`load_info`, then `check_info`."""
    content = load_info(info_file, info_key)
    check_info(content, info_file, has_gt)
    return content


def load_info(info_file: str, info_key: str) -> dict[str, Any]:
    """`read_content`, of which an error is raised as a DatasetError."""
    content, findings = read_content(info_file, info_key)
    raise_first(findings, info_file)
    return content


def read_content(info_file: str, info_key: str) -> tuple[dict[str, Any], list[Finding]]:
    """Loads an annotation file.

    Args:
        info_key: config key that names the file, for messages.
    Returns:
        what it holds; the error that it cannot be read, is no JSON, or has no images, and then {}.
    """
    fix = f"correct {info_key}"
    # The collector would look through the millions of new lists again and again, and there is nothing to collect.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        with open(info_file, encoding="utf-8-sig") as file:
            content = json.load(file)
    except OSError as error:
        return {}, [Finding("error", f"the annotation file cannot be read ({error.strerror})", fix)]
    except (ValueError, RecursionError) as error:
        return {}, [Finding("error", f"the file is cut off or no JSON ({error})", f"{fix}, or fetch the file again")]
    finally:
        if was_enabled:
            gc.enable()
    if not isinstance(content, dict) or not content.get("images"):
        return {}, [Finding("error", "there are no 'images', so it is no COCO instance file", fix)]
    return content, []


def check_info(content: Mapping[str, Any], info_file: str, has_gt: bool) -> None:
    """Checks a loaded annotation file for the entries that everything else relies on.

    Args:
        has_gt: annotations, if any, will be read.
    Raises:
        DatasetError: it lacks an entry, or has an id of the wrong kind.
    """
    raise_first(sound_content(content, has_gt)[1], info_file)


def sound_content(content: Mapping[str, Any], has_gt: bool) -> tuple[dict[str, list], list[Finding]]:
    """The entries that everything else can rely on, and what is wrong with the others.

    Returns:
        {part: its sound entries}, without "annotations" if there are none or none will be read; and the errors.
    """
    parts = ["images", "categories"] + (["annotations"] if has_gt and "annotations" in content else [])
    sound, findings = {}, []
    for part in parts:
        sound[part], of_part = _sound_entries(content.get(part, []), part)
        findings += of_part
    if "annotations" in sound:
        images = sound["images"]
        sound["images"] = [image for image in images if _has_size(image)]
        unsized = [image for image in images if not _has_size(image)] if len(sound["images"]) < len(images) else []
        findings += finding_of("error", "images have no positive whole numbers as width and height",
                               "add their size in pixels, which COCO annotations need",
                               [f"image {image['id']}" for image in unsized], len(images))
    return sound, findings


def _has_size(image: Mapping[str, Any]) -> bool:
    sides = (image.get("width", 0), image.get("height", 0))
    return all(is_number(side) and side > 0 and side == int(side) for side in sides)


def _sound_entries(entries: Any, part: str) -> tuple[list, list[Finding]]:
    """The entries of a part that are objects with all keys of `_KINDS`, of the right kind; the errors."""
    if not isinstance(entries, list):
        return [], [Finding("error", f"'{part}' is no list of objects", "write it as in COCO's own files")]
    whole = {position: entry for position, entry in enumerate(entries) if isinstance(entry, dict)}
    odd = [f"entry {position}" for position in range(len(entries)) if position not in whole]
    findings = finding_of("error", f"entries of '{part}' are no objects", "write them as in COCO's own files",
                          odd, len(entries))
    unusable: set[int] = set()
    for key in _KEYS[part]:
        words, kinds = _KINDS[part, key]
        types = collections.Counter(type(entry.get(key)) for entry in whole.values())
        # What most entries have says which kind the others should be of.
        kind = max(kinds, key=lambda kind: sum(types[one] for one in kind))
        if set(types) <= kind:
            continue
        missing = [position for position, entry in whole.items() if entry.get(key) is None]
        wrong = [position for position, entry in whole.items()
                 if entry.get(key) is not None and type(entry[key]) not in kind]
        findings += finding_of("error", f"entries of '{part}' have no '{key}'", "add it",
                               [f"entry {position}" for position in missing], len(entries))
        findings += finding_of("error", f"entries of '{part}' have a wrong {key}", f"write {words}",
                               [f"entry {position}: {short(whole[position][key])}" for position in wrong],
                               len(entries))
        unusable.update(missing, wrong)
    return [entry for position, entry in whole.items() if position not in unusable], findings


def class_names_of(dataset: Any) -> list[str]:
    """The names of a data set's classes, in the order of their labels.

    Args:
        dataset: a DatasetConfig, or anything with class_names, label_map, train_info and valid_info. With the
            class_names None they are those of the categories of train_info, by category id; of valid_info if
            train_info is not there.
    Raises:
        DatasetError: the names are to come from the file, but it cannot be read, its categories lack a name or
            have one twice, or a label_map is given, which numbers classes of another order.
    """
    if dataset.class_names is not None:
        return list(dataset.class_names)
    if dataset.label_map is not None:
        raise DatasetError(LABELS_WITHOUT_NAMES.line())
    has_train = os.path.isfile(dataset.train_info) or not os.path.isfile(dataset.valid_info)
    info_file, info_key = ((dataset.train_info, "dataset.train_info") if has_train
                           else (dataset.valid_info, "dataset.valid_info"))
    names, findings = names_of_categories(read_info(info_file, info_key, has_gt=False).get("categories", []))
    raise_first(findings, info_file)
    return names


LABELS_WITHOUT_NAMES = Finding(
    "error", "dataset.label_map is given without dataset.class_names, so its labels have no names",
    "give dataset.class_names as well, or leave dataset.label_map out")


def names_of_categories(categories: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[Finding]]:
    """The names of an annotation file's categories, by their ids; what keeps them from being those of classes."""
    if not categories:
        return [], [Finding("error", "there are no 'categories' to take the names of the classes from",
                            "give dataset.class_names")]
    nameless = [category["id"] for category in categories if not has_name(category)]
    findings = finding_of("error", "categories have no name", "write one, or give dataset.class_names",
                          [f"id {number}" for number in nameless], len(categories))
    named = sorted(filter(has_name, categories), key=lambda category: category["id"])
    for key in ("id", "name"):
        twice = repeated(category[key] for category in named)
        findings += finding_of("error", f"category {key}s stand more than once",
                               "give each category its own, or give dataset.class_names", twice, len(categories))
    return list(dict.fromkeys(category["name"] for category in named)), findings


def has_name(category: Mapping[str, Any]) -> bool:
    """Whether the name of a category can be that of a class."""
    return isinstance(category.get("name"), str) and bool(category["name"].strip())


def repeated(values: Iterable[Any]) -> list[Any]:
    """The values that occur more than once."""
    return [value for value, count in collections.Counter(values).items() if count > 1]


def find_files(images: Iterable[Mapping[str, Any]], image_folder: str) -> tuple[dict[Any, str], list[str]]:
    """{image id: path} of the pictures that are in the folder, in their order; the file names that are not."""
    listing = set(os.listdir(image_folder))
    files, missing = {}, []
    for image in images:
        names = [image["file_name"]]
        if names[0].startswith("COCO_"):
            # COCO 2014 names carry a prefix (COCO_val2014_...) that the folders of 2017 dropped.
            names.append(names[0].split("_")[-1])
        for name in names:
            path = os.path.join(image_folder, name)
            if name in listing or (os.path.dirname(name) and os.path.isfile(path)):
                files[image["id"]] = path
                break
        else:
            missing.append(image["file_name"])
    return files, missing


def missing_pictures(missing: Sequence[str], total: int, image_folder: str, images_key: str, info_key: str,
                     training: bool) -> list[Finding]:
    """What it means that these pictures of `total` are not in the folder."""
    if missing and len(missing) == total:
        return [Finding("error", f"none of the {total} pictures is in {image_folder}",
                        f"correct {images_key} or {info_key}", total, tuple(missing[:1]))]
    fate = "are left out" if training else "count as missed"
    return finding_of("warning", f"pictures are not in {image_folder} and {fate}", f"correct {images_key}", missing,
                      total)


def nothing_to_train_on(info_key: str) -> Finding:
    """The error of a training set without any sample."""
    return Finding("error", "there is no picture with usable annotations", f"correct {info_key}")


def clipped_box(bbox: Sequence[float], height: float, width: float) -> tuple[float, float, float, float]:
    """A COCO box (x, y, w, h) as x1, y1, x2, y2 inside the picture; x2 <= x1 or y2 <= y1: nothing is left."""
    x, y, box_width, box_height = bbox
    return max(x, 0.0), max(y, 0.0), min(x + box_width, float(width)), min(y + box_height, float(height))


def usable_annotations(annotations: Iterable[Mapping[str, Any]], images: Mapping[Any, Mapping[str, Any]]
                       ) -> tuple[list[Mapping[str, Any]], dict[str, list[Any]]]:
    """The annotations without a fault, and {fault: ids of the others}.

    Args:
        images: {image id: its entry}.
    """
    usable, faults = [], collections.defaultdict(list)
    for annotation in annotations:
        fault = find_fault(annotation, images.get(annotation["image_id"]))
        if fault is None:
            usable.append(annotation)
        else:
            faults[fault].append(annotation["id"])
    return usable, dict(faults)


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
    if isinstance(counts, list):
        return all(type(run) is int and run >= 0 for run in counts) and sum(counts) == height * width
    return isinstance(counts, (str, bytes)) and bool(counts)


def is_number(value: Any) -> bool:
    """Whether a value of a JSON file is a finite number."""
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:  # an integer of hundreds of digits
        return False
