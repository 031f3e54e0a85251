"""YOLO segmentation: one text file a picture, each line a class and an outline in shares of the picture's size.

labels/a.txt belongs to images/a.jpg, train/labels/a.txt to train/images/a.jpg: paths are compared without folders of
the names images and labels. The classes' names come from data.yaml, or from classes.txt.
"""
from __future__ import annotations

import os
from typing import Any

import numpy as np

from data.images import DatasetError
from tools.annotations.objects import Job, Object, Picture, Source, names_in, outline, polygons
from tools.annotations.pictures import Unusable, files_under, open_picture, relative, stem_of

NOT_LABELS = ("classes.txt", "train.txt", "val.txt", "test.txt")
MOST_NAMES = 100_000


def class_names(source: Source) -> list[str]:
    """The names in data.yaml or classes.txt, in the annotations' folder or the one above.

    Raises:
        DatasetError: there is neither, or it is damaged.
    """
    for folder in (source.annotations, os.path.dirname(os.path.abspath(source.annotations))):
        for name, read_names in (("data.yaml", _yaml_names), ("data.yml", _yaml_names), ("classes.txt", names_in)):
            path = os.path.join(folder, name)
            if os.path.isfile(path):
                return read_names(path)
    raise DatasetError(f"neither data.yaml nor classes.txt is in {source.annotations} or above it; "
                       f"give the names of the classes 0, 1, ... as --classes=first,second")


def find(source: Source) -> list[Job]:
    """Every picture in the image folder: without a label file it is one without objects."""
    texts = [path for path in files_under(source.annotations, (".txt",))
             if not _is_about_all(os.path.basename(path).lower())]
    labels = {stem_of(relative(path, source.annotations)): path for path in texts}
    jobs = []
    for stem, path in source.pictures.by_stem.items():
        if path is None:
            source.report.leave_out("pictures that differ in their suffix only", stem)
        else:
            label = labels.get(stem)
            jobs.append(Job(relative(label or path, source.annotations), [label] if label else [], path))
    for stem in sorted(labels.keys() - source.pictures.by_stem.keys()):
        source.report.leave_out("an annotation whose picture is missing", relative(labels[stem], source.annotations))
    return jobs


def _is_about_all(name: str) -> bool:
    return name in NOT_LABELS or name.startswith("readme.")  # Roboflow adds README.dataset.txt


def read(source: Source, job: Job) -> Picture:
    """One picture and its label file.

    Raises:
        Unusable: one of them is damaged.
    """
    file = open_picture(job.picture)
    picture = Picture(file, [], file.orientation)
    for path in job.files:
        for number, values in _lines(path):
            try:
                picture.objects.append(_object(source, number, values, *picture.size))
            except Unusable as error:
                source.report.leave_out(error, job.name)
    return picture


def _lines(path: str) -> list[tuple[int, np.ndarray]]:
    """(class, float64 numbers behind it) of each line."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            rows = [np.array(line.split(), np.float64) for line in file if line.strip()]
        if any(row[0] != int(row[0]) or row[0] < 0 for row in rows):
            raise ValueError
        return [(int(row[0]), row[1:]) for row in rows]
    except (OSError, ValueError, OverflowError):
        raise Unusable("a label file that is damaged (a line is a class number, then numbers)") from None


def _object(source: Source, number: int, values: np.ndarray, width: int, height: int) -> Object:
    if len(values) in (4, 5):
        raise Unusable("a line with a box and no outline")
    if len(values) % 2:
        raise Unusable("a line with an odd number of coordinates")
    with np.errstate(over="ignore"):  # infinite is found by `outline`
        points = values.reshape(-1, 2) * (width, height)
    corners = outline(points, width, height)
    names = source.classes or []
    return Object(names[number] if number < len(names) else f"number {number}", polygons([corners], width, height))


def _yaml_names(path: str) -> list[str]:
    try:
        import yaml
    except ImportError:
        raise DatasetError(f"reading {path} needs PyYAML; run: pip install pyyaml, or give the names as --classes"
                           ) from None
    try:
        with open(path, encoding="utf-8-sig") as file:
            # Without types: of names such as no, on and 007 the others make truth values and numbers.
            names = yaml.load(file, Loader=yaml.BaseLoader)["names"]
        if isinstance(names, dict):
            by_number: dict[int, Any] = {int(number): name for number, name in names.items()}
            if max(by_number) >= MOST_NAMES:
                raise ValueError
            names = [by_number.get(number, f"number {number}") for number in range(max(by_number) + 1)]
        if not isinstance(names, list) or not names or len(names) > MOST_NAMES:
            raise ValueError
        if not all(isinstance(name, str) for name in names):  # by its aliases YAML can nest lists without end
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError, yaml.YAMLError):
        raise DatasetError(f"{path} has no usable 'names'; correct it, or give the names as --classes=first,second"
                           ) from None
    return [name.strip() for name in names]
