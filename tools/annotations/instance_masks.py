"""Masks as PNG pictures, one for all objects of a picture, or one for each object.

MASKS/a.png for IMAGES/a.jpg, black for background. With one class each value or colour is an object. With several it
is grey of 16 bit as Cityscapes' instanceIds: class * 1000 + object, the classes from 1 in the order of --classes; a
value under 1000 is a region of many objects (COCO's crowd) of the class it names. Or MASKS/a/<class>_<n>.png, each
one object, wherever it is not black.
"""
from __future__ import annotations

import os
import re

import numpy as np

from data.images import DatasetError
from tools.annotations.objects import Job, Object, Picture, Source, encode, encode_labels
from tools.annotations.pictures import Unusable, files_under, open_picture, read_labels, relative, stem_of

CLASS_STEP = 1000
_OBJECT_NAME = re.compile(r"(?P<name>.+)_\d+")


def class_names(source: Source) -> None:
    """None: they are in the names of the files, or have to be given."""


def find(source: Source) -> list[Job]:
    """Every picture that has masks.

    Raises:
        DatasetError: pictures and masks are in the same folder.
    """
    if os.path.realpath(source.images) == os.path.realpath(source.annotations):
        raise DatasetError(f"the masks are in {source.annotations}; give the folder of the pictures as --images")
    masks: dict[str, list[str]] = {}
    for path in files_under(source.annotations, (".png",)):
        name = stem_of(relative(path, source.annotations))
        # A folder with the name of a picture holds that picture's masks.
        folder = name.rpartition("/")[0]
        masks.setdefault(folder if folder in source.pictures.by_stem else name, []).append(path)
    jobs = []
    for stem, paths in masks.items():
        name = relative(paths[0], source.annotations)
        try:
            jobs.append(Job(name, paths, source.pictures.of_stem(stem)))
        except Unusable as error:
            source.report.leave_out(error, name)
        if not source.classes and stem in source.pictures.by_stem and stem_of(name) == stem:
            raise DatasetError(f"{name} does not name its classes; give them as --classes=first,second, in the order "
                               f"of their numbers")
    for stem in sorted(source.pictures.by_stem.keys() - masks.keys()):
        source.report.leave_out("a picture without masks", stem)
    return jobs


def read(source: Source, job: Job) -> Picture:
    """One picture and all its masks.

    Raises:
        Unusable: one of them is damaged, or they differ in size.
    """
    file = open_picture(job.picture)
    picture = Picture(file, [])
    masks = [(path, *read_labels(path)) for path in job.files]
    shapes = {labels.shape for _, labels, _ in masks}
    if len(shapes) > 1:
        raise Unusable("masks of one picture that differ in size")
    height, width = shapes.pop()
    picture.orientation = file.orientation_of(width, height)
    for path, labels, is_colour in masks:
        if stem_of(relative(path, source.annotations)) == stem_of(relative(job.picture, source.images)):
            picture.objects += _objects(labels, is_colour, source.classes or [])
            continue
        match = _OBJECT_NAME.fullmatch(os.path.splitext(os.path.basename(path))[0])
        if match:
            picture.objects.append(Object(match["name"], encode(labels != 0)))
        else:
            source.report.leave_out("a mask that is not named <class>_<n>.png", relative(path, source.annotations))
    return picture


def _objects(labels: np.ndarray, is_colour: bool, classes: list[str]) -> list[Object]:
    """The objects in one picture of all masks."""
    if len(classes) == 1:
        return [Object(classes[0], rle) for _, rle, _ in encode_labels(labels)]
    if is_colour:
        raise Unusable("a mask in colours, which do not tell several classes apart")
    objects = []
    for value, rle, _ in encode_labels(labels):
        number = value // CLASS_STEP if value >= CLASS_STEP else value
        name = classes[number - 1] if number <= len(classes) else f"number {number}"
        objects.append(Object(name, rle, value < CLASS_STEP))
    return objects
