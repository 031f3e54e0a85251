"""Pascal VOC segmentation, and SBD, which annotates more of VOC's pictures in Matlab files.

VOC: JPEGImages/, SegmentationClass/ (values: 1 for the first class, ...), SegmentationObject/ (1 for the
picture's first object, ...), ImageSets/Segmentation/train.txt and val.txt.
SBD: img/, inst/, train.txt, val.txt. 255 is void.
"""
from __future__ import annotations

import os
from typing import Any

import numpy as np

from data.config import PASCAL_CLASSES
from data.images import DatasetError
from tools.annotations.labelme import NO_OBJECT
from tools.annotations.objects import Job, Object, Picture, Source, encode_labels, names_in
from tools.annotations.pictures import Unusable, open_picture, read_labels

VOID = 255
OBJECTS, CLASSES = "SegmentationObject", "SegmentationClass"


def class_names(source: Source) -> list[str]:
    """Pascal's twenty, unless class_names.txt is there, which labelme writes with its own VOC folders."""
    path = os.path.join(source.annotations, "class_names.txt")
    if not os.path.isfile(path):
        return list(PASCAL_CLASSES)
    return [name for name in names_in(path) if name not in NO_OBJECT]


def find_voc(source: Source) -> list[Job]:
    """The pictures of the lists, or all of SegmentationObject if there are no lists.

    Raises:
        DatasetError: one of the two lists is missing.
    """
    folder = os.path.join(source.annotations, OBJECTS)
    names = _listed(os.path.join(source.annotations, "ImageSets", "Segmentation"), source)
    if not names:
        names = [(name[:-4], None) for name in _names_in(folder) if name.lower().endswith(".png")]
    return [Job(name, [os.path.join(source.annotations, part, f"{name}.png") for part in (OBJECTS, CLASSES)], "", split)
            for name, split in names]


def read_voc(source: Source, job: Job) -> Picture:
    """One picture of VOC.

    Raises:
        Unusable: a file of it is missing or damaged, or sizes differ.
    """
    file = open_picture(source.pictures.of_stem(job.name))
    if not all(map(os.path.isfile, job.files)):
        raise Unusable(f"a picture without its mask in {OBJECTS} or {CLASSES}")
    (objects, is_colour), (classes, is_colour_too) = map(read_labels, job.files)
    if is_colour or is_colour_too:
        raise Unusable("a mask in colours; VOC has palette pictures")
    if objects.shape != classes.shape:
        raise Unusable(f"masks in {OBJECTS} and {CLASSES} that differ in size")
    height, width = objects.shape
    picture = Picture(file, [], file.orientation_of(width, height), job.split)
    labels = classes.ravel(order="F")
    for _, rle, pixels in encode_labels(np.where(objects == VOID, 0, objects)):
        of_object = labels[pixels]
        counts = np.bincount(of_object[(of_object > 0) & (of_object != VOID)])
        if counts.any():
            picture.objects.append(Object(_name(source, int(counts.argmax())), rle))
        else:
            source.report.leave_out(f"an object without a class in {CLASSES}", job.name)
    return picture


def find_sbd(source: Source) -> list[Job]:
    """The pictures of train.txt and val.txt.

    Raises:
        DatasetError: one of the two lists is missing, or SciPy is.
    """
    try:
        import scipy.io  # noqa: F401
    except ImportError:
        raise DatasetError("SBD's .mat files need SciPy; run: pip install scipy") from None
    names = _listed(source.annotations, source)
    if not names:
        raise DatasetError(f"{source.annotations} has no train.txt and val.txt; give SBD's folder with img/, inst/ and "
                           f"these lists as --annotations")
    return [Job(name, [os.path.join(source.annotations, "inst", f"{name}.mat")], "", split) for name, split in names]


def read_sbd(source: Source, job: Job) -> Picture:
    """One picture of SBD: as the original's convert_sbd.py, whose boxes are a pixel too small.

    Raises:
        Unusable: a file of it is missing or damaged, or sizes differ.
    """
    file = open_picture(source.pictures.of_stem(job.name))
    labels, classes = _matlab(job.files[0])
    height, width = labels.shape
    picture = Picture(file, [], file.orientation_of(width, height), job.split)
    for number, rle, _ in encode_labels(np.where(labels == VOID, 0, labels)):
        if number <= len(classes):
            picture.objects.append(Object(_name(source, int(classes[number - 1])), rle))
        else:
            source.report.leave_out("an object without an entry in Categories", job.name)
    return picture


def _matlab(path: str) -> tuple[Any, Any]:
    """Label map int64 [H, W] and the classes of its labels 1, 2, ..., int64 [N], of a file in inst/."""
    import scipy.io

    if not os.path.isfile(path):
        raise Unusable("a picture without its file in inst/")
    try:
        truth = scipy.io.loadmat(path)["GTinst"][0, 0]
        with np.errstate(invalid="ignore"):  # what is no number becomes a negative one
            labels = np.asarray(truth["Segmentation"]).astype(np.int64)
        classes = np.array([int(np.ravel(entry)[0]) for entry in np.ravel(truth["Categories"])], np.int64)
    except Exception:  # noqa: BLE001 (SciPy's readers raise nearly anything on damaged files)
        raise Unusable("a .mat file that is damaged") from None
    if labels.ndim != 2 or (labels < 0).any():
        raise Unusable("a .mat file that is damaged")
    return labels, classes


def _name(source: Source, number: int) -> str:
    names = source.classes or []
    return names[number - 1] if 1 <= number <= len(names) else f"number {number}"


def _listed(folder: str, source: Source) -> list[tuple[str, str | None]]:
    """(name, split) of train.txt and val.txt, each name once; empty if there is neither."""
    paths = {split: os.path.join(folder, f"{split}.txt") for split in ("train", "val")}
    missing = [path for path in paths.values() if not os.path.isfile(path)]
    if len(missing) == 2:
        return []
    if missing:
        raise DatasetError(f"the list {missing[0]} is missing; fetch or write it, a name without suffix in each line")
    found: dict[str, str | None] = {}
    for split, path in paths.items():
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            for name in filter(None, map(str.strip, file)):
                if name in found:
                    source.report.leave_out("a name that is in the lists twice", name)
                found.setdefault(name, split)
    return list(found.items())


def _names_in(folder: str) -> list[str]:
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []
