"""Everything that is wrong or odd about a data set, told at once: before a training, and by tools/check_dataset.py.

The rules that stop or lose something are those that data/coco.py itself goes by. No picture is opened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from data.coco_checks import (
    LABELS_WITHOUT_NAMES,
    names_of_categories,
    read_content,
    sound_content,
    usable_annotations,
)
from data.findings import LEVELS, DatasetErrors, Finding
from data.inspection_rules import RULES, Subject, in_both
from data.label_map import find_labels
from data.object_table import ObjectTable, object_table


@dataclass
class Inspection:
    """What was found in one annotation file and its folder.

    findings: errors first. content: what the file holds, None if it cannot be read; as COCODetection takes it.
    class_names: in the order of the labels. images: its sound entries. files: {image id: path} of those in the folder.
    table: the usable annotations.
    """

    info_file: str
    image_folder: str
    findings: list[Finding]
    content: dict[str, Any] | None = None
    class_names: list[str] = field(default_factory=list)
    images: list[dict[str, Any]] = field(default_factory=list)
    files: dict[Any, str] = field(default_factory=dict)
    table: ObjectTable = field(default_factory=lambda: object_table([], [], {}))

    def of_level(self, level: str) -> list[Finding]:
        """The findings of one of `data.findings.LEVELS`."""
        return [finding for finding in self.findings if finding.level == level]

    def add(self, findings: Sequence[Finding]) -> None:
        """Adds findings, errors first."""
        self.findings = sorted([*self.findings, *findings], key=lambda finding: LEVELS.index(finding.level))

    def headline(self) -> str:
        """What there is and how much is wrong with it, in one line."""
        crowds = int((self.table.label == -1).sum())
        parts = [f"{len(self.images)} images",
                 f"{len(self.table.ids) - crowds} objects of {len(self.class_names)} classes"]
        counts = [(len(self.of_level(level)), level) for level in LEVELS]
        parts += [f"{count} {level}{'s' * (count > 1)}" for count, level in counts if count]
        return f"{self.info_file}: {', '.join(parts)}"

    def text(self, levels: Sequence[str] = LEVELS) -> str:
        """The headline, then a line for each finding of these levels."""
        return "\n".join([self.headline(), *(f"  {finding.level}: {finding.line()}" for finding in self.findings
                                             if finding.level in levels)])


def inspect_dataset(info_file: str, image_folder: str, class_names: Sequence[str] | None,
                    label_map: Mapping[Any, int] | None, max_size: int, info_key: str, images_key: str,
                    has_gt: bool = True, training: bool = False, preserve_aspect_ratio: bool = False,
                    smallest_box: tuple[float, float] = (1.0, 1.0)) -> Inspection:
    """Reads an annotation file and tells all that is wrong or odd; raises nothing.

    Args:
        class_names, label_map: of the config; names None: those of the file's categories. max_size,
            preserve_aspect_ratio: of the network's input. info_key, images_key: what the user has to correct, such as
            dataset.train_info. has_gt: False: annotations are not read. training: it is to be trained on.
        smallest_box: width and height, in pixels of the network's input, up to which training leaves objects out.
    """
    content, findings = read_content(info_file, info_key)
    if findings:
        return Inspection(info_file, image_folder, findings)
    sound, findings = sound_content(content, has_gt)
    images, annotations = sound["images"], sound.get("annotations", [])
    names, of_names = _names(class_names, label_map, sound["categories"])
    labels, of_labels = find_labels(sound, label_map, names) if names else ({}, [])
    by_id = {image["id"]: image for image in images}
    usable, faults = usable_annotations(annotations, by_id)
    subject = Subject(
        image_folder, images_key, info_key, training, "annotations" in sound, images, sound["categories"], annotations,
        isinstance(content["images"], list) and len(images) == len(content["images"]), names, label_map, labels, faults,
        object_table(usable, images, labels), {}, max_size, preserve_aspect_ratio, smallest_box)
    inspection = Inspection(info_file, image_folder, [], content, names, images, subject.files, subject.table)
    inspection.add([*findings, *of_names, *of_labels, *(found for rule in RULES for found in rule(subject))])
    inspection.files = subject.files
    return inspection


def _names(class_names: Sequence[str] | None, label_map: Mapping[Any, int] | None,
           categories: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[Finding]]:
    """The names of the classes, and why they cannot be taken from the file."""
    if class_names is not None:
        return list(class_names), []
    names, findings = names_of_categories(categories)
    return names, findings if label_map is None else [LABELS_WITHOUT_NAMES, *findings]


def inspect_splits(dataset: Any, max_size: int, with_validation: bool = True, **options: Any) -> list[Inspection]:
    """Inspects the training set of a data set definition and, if asked for, the validation set.

    Args:
        dataset: a DatasetConfig; without class_names both sets go by the categories of the training set.
        options: preserve_aspect_ratio and smallest_box, as of `inspect_dataset`.
    """
    training = inspect_dataset(dataset.train_info, dataset.train_images, dataset.class_names, dataset.label_map,
                               max_size, "dataset.train_info", "dataset.train_images", training=True, **options)
    if not with_validation:
        return [training]
    names = dataset.class_names or training.class_names or None
    validation = inspect_dataset(dataset.valid_info, dataset.valid_images, names, dataset.label_map, max_size,
                                 "dataset.valid_info", "dataset.valid_images", has_gt=dataset.has_gt, **options)
    if dataset.has_gt and validation.content is not None and "annotations" not in validation.content:
        validation.add([Finding("error", "there are no annotations to validate on",
                                "correct dataset.valid_info, or train with --validation_epoch=-1")])
    validation.add(in_both(validation.files, validation.images, training.files, training.images))
    return [training, validation]


def inspect_training_data(dataset: Any, max_size: int, with_validation: bool, **options: Any) -> list[Inspection]:
    """`inspect_splits`, for a training, which an error stops.

    Raises:
        DatasetErrors: there are errors, of any set; a line for each.
    """
    inspections = inspect_splits(dataset, max_size, with_validation, **options)
    errors = [f"{inspection.info_file}: {finding.line()}" for inspection in inspections
              for finding in inspection.of_level("error")]
    if errors:
        raise DatasetErrors(errors)
    return inspections


@dataclass(frozen=True)
class ClassRow:
    """One class: its objects, the images with one, and the median side of its boxes.

    median_side: of the roots of the boxes' areas, in pixels of the network's input; NaN without objects.
    """

    name: str
    objects: int
    images: int
    median_side: float


def class_rows(inspection: Inspection, max_size: int, preserve_aspect_ratio: bool = False) -> list[ClassRow]:
    """The classes in the order of their labels; crowds are not counted."""
    table, rows = inspection.table, []
    sides = np.sqrt(table.input_sides(max_size, preserve_aspect_ratio).prod(axis=1))
    for label, name in enumerate(inspection.class_names):
        chosen = np.flatnonzero(table.label == label)
        median = float(np.median(sides[chosen])) if len(chosen) else float("nan")
        rows.append(ClassRow(name, len(chosen), len(np.unique(table.image[chosen])), median))
    return rows
