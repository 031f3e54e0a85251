"""Which formats there are, where their pictures are, and reading one of them picture by picture."""
from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import Callable, NamedTuple

from tqdm import tqdm

from data.findings import few
from data.images import DatasetError
from tools.annotations import instance_masks, labelme, voc, yolo
from tools.annotations.objects import Job, Picture, Source, names_in
from tools.annotations.pictures import Unusable, files_under, relative


class Format(NamedTuple):
    """How one format is read. images: where pictures may be, from the annotations' folder; marks: what tells it."""

    class_names: Callable[[Source], list[str] | None]
    find: Callable[[Source], list[Job]]
    read: Callable[[Source, Job], Picture]
    images: Sequence[str]
    marks: Sequence[str]


FORMATS = {
    "voc": Format(voc.class_names, voc.find_voc, voc.read_voc, ["JPEGImages"], [voc.OBJECTS]),
    "sbd": Format(voc.class_names, voc.find_sbd, voc.read_sbd, ["img"], ["inst"]),
    "yolo": Format(yolo.class_names, yolo.find, yolo.read, ["images", "../images", "."], ["data.yaml", "labels"]),
    "instance_masks": Format(instance_masks.class_names, instance_masks.find, instance_masks.read, ["../images", "."],
                             []),
    "labelme": Format(labelme.class_names, labelme.find, labelme.read, ["."], []),
}


def guess_format(folder: str) -> str:
    """The format that a folder's entries belong to.

    Raises:
        DatasetError: none or several do.
    """
    names = os.listdir(folder)
    found = [name for name, kind in FORMATS.items() if set(kind.marks) & set(names)]
    if not found and next(files_under(folder, (".json",)), None):
        found = ["labelme"]
    if len(found) != 1:
        raise DatasetError(f"what is in {folder} does not tell the format; give --format, one of "
                           f"{', '.join(sorted(FORMATS))}")
    return found[0]


def image_folder(annotations: str, given: str | None, kind: Format) -> str:
    """The folder of the pictures, given or where the format has them.

    Raises:
        DatasetError: it is not there.
    """
    candidates = [given] if given else [os.path.normpath(os.path.join(annotations, name)) for name in kind.images]
    for folder in candidates:
        if os.path.isdir(folder):
            return folder
    raise DatasetError(f"the folder of the pictures {candidates[0]} does not exist; correct --images")


def given_classes(text: str | None) -> list[str] | None:
    """The names of --classes; None if it is not given.

    Raises:
        DatasetError: there is no name, or one twice, or the file is no text.
    """
    if text is None:
        return None
    names = names_in(text) if os.path.isfile(text) else [name.strip() for name in text.split(",") if name.strip()]
    if not names or len(set(names)) < len(names):
        raise DatasetError(f"--classes={text} has no name, or one twice; give each class once, as a,b,c")
    return names


def own_classes(kind: Format, source: Source) -> list[str] | None:
    """The names that a data set itself gives its classes; None if that is only told by its objects.

    Raises:
        DatasetError: one is empty, or stands twice.
    """
    names = kind.class_names(source)
    if names is not None and (not all(names) or len(set(names)) < len(names)):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise DatasetError(f"the class names of {source.annotations} have one that is empty, or stands twice "
                           f"({few(twice)}); correct them, or give the names as --classes=first,second")
    return names


def read_all(kind: Format, source: Source, jobs: Sequence[Job]) -> list[Picture]:
    """The pictures of all jobs that can be used, each once.

    Raises:
        DatasetError: none can.
    """
    pictures, taken = [], set()
    for job in tqdm(jobs, desc="reading", unit="picture"):
        try:
            picture = kind.read(source, job)
        except Unusable as error:
            source.report.leave_out(error, job.name)
            continue
        path = os.path.realpath(picture.file.path)
        if path in taken:
            source.report.leave_out("a second annotation of the same picture", job.name)
        else:
            taken.add(path)
            pictures.append(picture)
    if not pictures:
        why = source.report.reasons() or "there is no annotation of this format"
        raise DatasetError(f"nothing in {source.annotations} can be converted: {why}; correct --annotations, --images "
                           f"or --format")
    return pictures


def keep_known(pictures: Sequence[Picture], source: Source, skip_unknown: bool) -> list[str]:
    """Takes objects of unknown classes away and returns the names of the classes, in order.

    Raises:
        DatasetError: there are such objects and they are not to be skipped, or there is no object at all.
    """
    found = Counter(item.name for picture in pictures for item in picture.objects)
    if not found:
        raise DatasetError(f"there is no object in the {len(pictures)} pictures of {source.annotations}; correct "
                           f"--annotations or --images; left out: {source.report.reasons() or 'nothing'}")
    if source.classes is None:
        return sorted(found)
    known = set(source.classes)
    unknown = {name: count for name, count in found.items() if name not in known}
    if unknown and not skip_unknown:
        listed = ", ".join(f"{name}: {count}" for name, count in sorted(unknown.items()))
        raise DatasetError(f"{len(unknown)} classes of objects are not among the {len(known)} known ({listed}); name "
                           f"all with --classes, or leave their objects out with --skip_unknown")
    for picture in pictures if unknown else ():
        for item in picture.objects:
            if item.name in unknown:
                source.report.leave_out(f"an object of the unknown class {item.name}",
                                        relative(picture.file.path, source.images))
        picture.objects = [item for item in picture.objects if item.name in known]
    if len(unknown) == len(found):
        raise DatasetError(f"no object is left: none is of the classes {few(source.classes)}; the annotations have "
                           f"{few(unknown)}; correct --classes")
    return source.classes
