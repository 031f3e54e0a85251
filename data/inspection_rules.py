"""What may be wrong or odd in an annotation file whose entries are sound: one function for each kind of mistake.

Each takes a `Subject` and returns findings. Shapes: N objects. Boxes are pixels of the picture as stored.
"""

from __future__ import annotations

import collections
import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.coco_checks import find_files, has_name, missing_pictures, nothing_to_train_on, repeated
from data.findings import Finding, finding_of, short
from data.object_table import ObjectTable

BORDER = 1.0  # pixels that a box may be beyond the picture's border, by rounding
BOX_PIXELS, BOX_SHARE = 2.0, 0.05  # a box and its mask's extent may differ by the larger of both
HARD_SIDE = 4.0  # pixels of the network's input: half a cell of the finest level
MANY_HARD = 0.2
IMBALANCE = 100


@dataclass
class Subject:
    """A data set on its way through the rules.

    training: for training, else for validation. has_gt: it has annotations that will be read. images, categories,
    annotations: sound entries. has_all_images: no entry of 'images' was unsound. faults: {fault: ids of the annotations
    that have it}. labels: {category_id: 1-based label}. files: {image id: path}, filled by `missing_files`.
    max_size, preserve_aspect_ratio: of the network's input. smallest_box: width and height, in its pixels, up to which
    training leaves objects out (utils/augmentations.py).
    """

    image_folder: str
    images_key: str
    info_key: str
    training: bool
    has_gt: bool
    images: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    has_all_images: bool
    class_names: list[str]
    label_map: Mapping[Any, int] | None
    labels: dict[Any, int]
    faults: dict[str, list[Any]]
    table: ObjectTable
    files: dict[Any, str]
    max_size: int
    preserve_aspect_ratio: bool
    smallest_box: tuple[float, float]


def repeated_entries(subject: Subject) -> list[Finding]:
    """Ids and file names that stand more than once."""
    findings = []
    for part in ("images", "annotations", "categories"):
        entries = getattr(subject, part)
        twice = repeated(entry["id"] for entry in entries)
        fate = "" if part == "annotations" else ", of which only the last counts"
        findings += finding_of("warning", f"ids of '{part}' stand more than once{fate}",
                               "give each entry an id of its own", twice, len(entries))
    twice = repeated(image["file_name"] for image in subject.images)
    return findings + finding_of("warning", "file names stand more than once in 'images'",
                                 "join the entries, with all annotations of the picture", twice, len(subject.images))


def missing_files(subject: Subject) -> list[Finding]:
    """Pictures that are not in the folder. Fills in `subject.files`; the pictures are not opened."""
    if not os.path.isdir(subject.image_folder):
        return [Finding("error", f"the picture folder {subject.image_folder} does not exist",
                        f"correct {subject.images_key}")]
    try:
        subject.files, missing = find_files(subject.images, subject.image_folder)
    except OSError as error:
        return [Finding("error", f"the picture folder {subject.image_folder} cannot be read ({error.strerror})",
                        f"correct its permissions, or {subject.images_key}")]
    findings = missing_pictures(missing, len(subject.images), subject.image_folder, subject.images_key,
                                subject.info_key, subject.training)
    if missing:
        there = {os.path.splitext(name)[0].casefold(): name for name in os.listdir(subject.image_folder)}
        likely = [(name, there.get(os.path.splitext(os.path.basename(name))[0].casefold())) for name in missing]
        findings += finding_of("note", "missing pictures are there under another folder, ending or case",
                               "correct the file_name in 'images'",
                               [f"{name}: {found}" for name, found in likely if found], len(missing))
    return findings


def left_out_annotations(subject: Subject) -> list[Finding]:
    """Annotations that `find_fault` refuses, or whose masks are empty or damaged; nothing left to train on."""
    findings, total = [], len(subject.annotations)
    for fault, ids in sorted({**subject.faults, **subject.table.mask_faults}.items()):
        # An image that was unsound has been told; its annotations are no mistake of their own.
        if subject.has_all_images or "among the images" not in fault:
            reason = f"with {fault}" if fault in subject.faults else fault
            findings += finding_of("warning", f"annotations are left out: {reason}", "correct or remove them",
                                   [f"id {number}" for number in ids], total)
    with_objects = {subject.images[number]["id"] for number in np.unique(subject.table.image).tolist()}
    if subject.training and subject.files and not with_objects & subject.files.keys():
        findings.append(nothing_to_train_on(subject.info_key))
    elif subject.has_gt and not subject.training and not (subject.table.label != -1).any():
        crowds = " but of crowds" if with_objects else ""
        findings.append(Finding("warning", f"there is no usable annotation{crowds}, so nothing can be measured",
                                f"correct {subject.info_key}"))
    return findings


def category_names(subject: Subject) -> list[Finding]:
    """Classes and categories that do not belong together, by their names."""
    names = {category["id"]: category["name"] for category in subject.categories if has_name(category)}
    if not names:
        return []
    if subject.label_map is not None:
        renamed = [f"category {number} {names[number]!r}: class {subject.class_names[label - 1]!r}"
                   for number, label in subject.labels.items()
                   if number in names and 1 <= label <= len(subject.class_names)
                   and names[number] != subject.class_names[label - 1]]
        return finding_of("warning", "categories have a class of another name in dataset.label_map",
                          "correct dataset.label_map, if that is no renaming", renamed, len(names))
    unmatched = [name for name in names.values() if name not in subject.class_names]
    absent = [name for name in subject.class_names if name not in names.values()]
    findings = finding_of("warning", "classes are no category of the file", "write the names as the file has them",
                          [short(name, str) + _closest(name, unmatched) for name in absent], len(subject.class_names))
    used = {annotation["category_id"] for annotation in subject.annotations}
    idle = [name for number, name in names.items() if name in unmatched and number not in used]
    return findings + finding_of("note", "categories are no class, and no annotation has them",
                                 "nothing has to be done", idle, len(names))


def _closest(name: str, names: Sequence[str]) -> str:
    """The most similar of the names, as a remark behind one that is unknown."""
    folded = {other.casefold().strip(): other for other in names}
    found = difflib.get_close_matches(name.casefold().strip(), folded, n=1, cutoff=0.6)
    return f": the file has {folded[found[0]]!r}" if found else ""


def class_balance(subject: Subject) -> list[Finding]:
    """Classes without objects, and how much the numbers of the others differ."""
    if not subject.has_gt or not len(subject.table.ids):
        return []
    counts = np.bincount(subject.table.label[subject.table.label >= 0], minlength=len(subject.class_names)).tolist()
    numbers = sorted((count, name) for count, name in zip(counts, subject.class_names) if count)
    fix = "annotate some, or leave the class out" if subject.training else "their AP is not measured"
    findings = finding_of("warning" if subject.training else "note", "classes have no object", fix,
                          [name for count, name in zip(counts, subject.class_names) if not count], len(counts))
    if subject.training and numbers and numbers[-1][0] > IMBALANCE * numbers[0][0]:
        rare = [f"{short(name, str)}: {count}" for count, name in numbers if count * IMBALANCE < numbers[-1][0]]
        findings += finding_of("note", f"classes have less than 1/{IMBALANCE} of the {numbers[-1][0]} objects of "
                               f"{short(numbers[-1][1])}", "expect a low AP, or annotate more of them", rare,
                               len(counts))
    return findings


def category_ids(subject: Subject) -> list[Finding]:
    """Ids from 0, which COCO's own tools and many others take for the background."""
    zero = [short(category.get("name"), str) for category in subject.categories if category["id"] == 0]
    return finding_of("note", "categories have the id 0, where COCO counts from 1",
                      "it does no harm here; number from 1 for other programs", zero, len(subject.categories))


def box_places(subject: Subject) -> list[Finding]:
    """Boxes as corners, beyond the border, or not around their masks; width and height of a picture exchanged."""
    table, total = subject.table, len(subject.table.ids)
    as_corners = table.boxes.copy()
    as_corners[:, 2:] -= as_corners[:, :2]
    fits = _fits(table.boxes, table)
    corners_fit = _fits(as_corners, table) & ~fits
    if total and corners_fit.sum() > total / 2:
        return finding_of("warning", "boxes fit their masks if they are read as x1, y1, x2, y2",
                          "write x, y, width, height", _ids(table, corners_fit), total)
    beyond = np.maximum(-table.boxes[:, :2], table.boxes[:, 2:] - table.sizes).max(axis=1, initial=0) > BORDER
    swapped = _swapped(table, len(subject.images))
    findings = finding_of("warning", "images seem to have width and height exchanged", "correct them in 'images'",
                          [f"image {subject.images[number]['id']}" for number in swapped], len(subject.images))
    findings += finding_of("warning", f"boxes are more than {BORDER:g} pixel beyond the border and are cut",
                           "correct the boxes, or the size of the image", _ids(table, beyond), total)
    return findings + finding_of(
        "warning", f"boxes are not those of their masks (by over {BOX_PIXELS:g} pixels and {BOX_SHARE:.0%})",
        "compute the box from the mask", _ids(table, ~fits), total)


def _ids(table: ObjectTable, chosen: np.ndarray) -> list[str]:
    return [f"id {table.ids[number]}" for number in np.flatnonzero(chosen).tolist()]


def _fits(boxes: np.ndarray, table: ObjectTable) -> np.ndarray:
    """bool [N], whether boxes (x1, y1, x2, y2) are those of the masks, inside the picture."""
    border = np.tile(table.sizes, 2)
    extents = np.clip(table.extents, 0, border)
    tolerance = np.maximum(BOX_PIXELS, BOX_SHARE * np.tile(extents[:, 2:] - extents[:, :2], 2))
    return (np.abs(np.clip(boxes, 0, border) - extents) <= tolerance).all(axis=1)


def _swapped(table: ObjectTable, images: int) -> list[int]:
    """Positions of images whose boxes go beyond the border, but would not with width and height exchanged."""
    furthest, sizes = np.zeros((images, 2)), np.zeros((images, 2))
    np.maximum.at(furthest, table.image, table.boxes[:, 2:])
    sizes[table.image] = table.sizes
    beyond = (furthest > sizes + BORDER).any(axis=1)
    swapped = beyond & (furthest <= sizes[:, ::-1] + BORDER).all(axis=1)
    # A single box that is too large is more likely than a size that is wrong for few pictures only.
    return np.flatnonzero(swapped).tolist() if swapped.sum() > beyond.sum() / 2 else []


def areas(subject: Subject) -> list[Finding]:
    """The `area` of annotations, by which COCO tells small, medium and large objects apart."""
    table, fix = subject.table, "write the mask's pixels; AP of small, medium and large objects is measured by it"
    with np.errstate(invalid="ignore", divide="ignore"):
        is_wrong = (table.areas > 0) & (np.abs(np.log2(table.areas / table.mask_areas)) > 1)
    is_wrong &= np.abs(table.areas - table.mask_areas) > 16
    total = len(table.ids)
    return (finding_of("note", "annotations have no positive area", fix, _ids(table, ~(table.areas > 0)), total)
            + finding_of("note", "areas are not those of the masks, by more than a factor 2", fix,
                         _ids(table, is_wrong), total))


def object_sizes(subject: Subject) -> list[Finding]:
    """Objects that are small in the network's input, without augmentation."""
    table = subject.table
    sides = table.input_sides(subject.max_size, subject.preserve_aspect_ratio)
    is_object = table.label >= 0
    is_dropped = is_object & (sides <= subject.smallest_box).any(axis=1) & subject.training
    is_hard = is_object & ~is_dropped & (sides < HARD_SIDE).any(axis=1)
    total, width, height = int(is_object.sum()), *subject.smallest_box
    findings = finding_of("warning", f"objects are at most {width:g} wide or {height:g} high in the network's "
                          f"input and never learnt", "raise max_size, or cut the pictures into parts",
                          _ids(table, is_dropped), total)
    level = "warning" if is_hard.sum() > MANY_HARD * total else "note"
    return findings + finding_of(level, f"objects are under {HARD_SIDE:g} pixels wide or high in the network's input, "
                                 f"with max_size {subject.max_size}", "they are hard to detect: raise max_size",
                                 _ids(table, is_hard), total)


def pictures_and_crowds(subject: Subject) -> list[Finding]:
    """Images without objects, and regions that stand for many."""
    if not subject.has_gt:
        return []
    filled = set(np.unique(subject.table.image).tolist())
    empty = [image["file_name"] for number, image in enumerate(subject.images) if number not in filled]
    fix = "training leaves them out" if subject.training else "whatever is detected there is wrong"
    crowds = np.array([bool(one.get("iscrowd")) for one in subject.annotations], bool)
    ids = [f"id {subject.annotations[number]['id']}" for number in np.flatnonzero(crowds).tolist()]
    return (finding_of("note", "images have no usable annotation", fix, empty, len(subject.images))
            + finding_of("note", "annotations are crowds", "they are neither learnt nor counted as missed", ids,
                         len(subject.annotations)))


RULES = (missing_files, repeated_entries, category_names, category_ids, left_out_annotations, box_places, object_sizes,
         class_balance, areas, pictures_and_crowds)


def in_both(files: Mapping[Any, str], images: Sequence[Mapping[str, Any]], other_files: Mapping[Any, str],
            other_images: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Pictures that training and validation share: by their file, or by id and name where folders are copies.

    Args:
        files: {image id: path} and images: entries, of one of them; then of the other.
    """
    paths = {os.path.realpath(path) for path in other_files.values()}
    names = collections.Counter((image["id"], image["file_name"]) for image in other_images)
    shared = [image["file_name"] for image in images
              if (image["id"], image["file_name"]) in names
              or (image["id"] in files and os.path.realpath(files[image["id"]]) in paths)]
    return finding_of("warning", "validation pictures are training pictures as well, so that scores are too high",
                      "take them out of one of the files", shared, len(images))
