"""The pictures that ``--image`` and ``--images`` name: which they are, detection in them, what COCO would call them."""
from __future__ import annotations

import collections
import logging
import os
from collections.abc import Sequence
from typing import Any, Callable

import numpy as np
from tqdm import tqdm

from utils.in_out import PICTURE_SUFFIXES, check_writable, split_in_out
from utils.instances import Instances
from utils.overlap import Behind
from utils.predictor import Predictor, as_image
from utils.runtime import UserError

UNREADABLE = (ValueError, OSError)  # of as_image
NAMED = 3  # names that a warning lists


def one_picture(text: str, output_folder: str) -> list[tuple[str, str]]:
    """``--image=IN[:OUT]`` as [(IN, OUT)]; OUT defaults to IN's name as .png in the output folder.

    Raises:
        UserError: there is no file IN.
    """
    source, target = split_in_out(text)
    if not os.path.isfile(source):
        raise UserError(f"there is no file {source}; correct --image")
    stem = os.path.splitext(os.path.basename(source))[0]
    return _checked([(source, target or os.path.join(output_folder, stem + ".png"))])


def folder_of_pictures(text: str) -> list[tuple[str, str]]:
    """``--images=IN:OUT`` as [(picture in IN or a folder of it, .png in OUT)], by name, in the same folders.

    Files of other kinds are left out and told in one warning; hidden ones, and OUT itself if it is in IN, silently.

    Raises:
        UserError: a folder is missing in the text or on the disk, or IN holds no picture.
    """
    folder, out = split_in_out(text)
    if not os.path.isdir(folder) or not out:
        raise UserError(f"--images={text}: write IN:OUT with an existing folder IN")
    files = list(_files_below(folder, out))
    names = [name for name in files if name.lower().endswith(PICTURE_SUFFIXES)]
    others = [name for name in files if not name.lower().endswith(PICTURE_SUFFIXES)]
    if others:
        more = ", ..." if len(others) > NAMED else ""
        logging.warning("%d files in %s are no pictures (%s) and are skipped: %s%s", len(others), folder,
                        ", ".join(PICTURE_SUFFIXES), ", ".join(others[:NAMED]), more)
    if not names:
        raise UserError(f"there is no picture ({', '.join(PICTURE_SUFFIXES)}) in {folder}; correct --images")
    return _checked([(os.path.join(folder, name), os.path.join(out, f"{target}.png"))
                     for name, target in zip(names, _different_stems(names))])


def _files_below(folder, left_out):
    """Paths, from the folder on, of the files in it and its folders by name; without hidden ones and one folder."""
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".")
                            and os.path.realpath(os.path.join(parent, name)) != os.path.realpath(left_out))
        for name in sorted(files):
            if not name.startswith(".") and os.path.isfile(os.path.join(parent, name)):
                yield os.path.relpath(os.path.join(parent, name), folder)


def _different_stems(names):
    """The names without their suffixes; of a.jpg beside a.png with, so that neither result overwrites the other."""
    stems = [os.path.splitext(name)[0] for name in names]
    for _ in range(2):  # the second time for a.jpg.png beside a.jpg and a.png
        count = collections.Counter(stem.casefold() for stem in stems)
        stems = [name if count[stem.casefold()] > 1 else stem for name, stem in zip(names, stems)]
    return stems


def _checked(pairs):
    """The pairs, if no result overwrites a picture that is read and all can be written.

    Raises:
        UserError: otherwise.
    """
    sources = {os.path.realpath(source) for source, _ in pairs}
    for _, target in pairs:
        if os.path.isdir(target):
            raise UserError(f"{target} is a folder; name a file, such as {os.path.join(target, 'out.png')}")
        if os.path.realpath(target) in sources:
            raise UserError(f"{target} would overwrite a picture that is read; name another place after the colon, "
                            "IN:OUT")
        suffix = os.path.splitext(target)[1].lower()
        if suffix not in PICTURE_SUFFIXES:
            raise UserError(f"{target}: {suffix or 'no suffix'} is no kind of picture that can be written; take .png "
                            "or .jpg")
    for folder in {os.path.dirname(target) for _, target in pairs}:
        check_writable(folder or ".", "OUT")
    return pairs


def picture_ids(sources: Sequence[str]) -> list[int]:
    """An image id for every picture: the number that it is called, as COCO's are, if all are; else 1, 2, 3, ..."""
    stems = [os.path.splitext(os.path.basename(source))[0] for source in sources]
    if all(stem.isascii() and stem.isdigit() for stem in stems) and len(set(map(int, stems))) == len(stems):
        return [int(stem) for stem in stems]
    return list(range(1, len(sources) + 1))


def detect_files(predictor: Predictor, sources: Sequence[str], places: Sequence[int],
                 finish: Callable[[int, np.ndarray | None, Instances | None], np.ndarray | None], window: Any = None,
                 bar: bool = True) -> tuple[list[int], bool]:
    """Detect in pictures: reading is ahead of the network, `finish` (drawing, writing) behind it.

    Args:
        predictor: Predictor. sources: paths. places: the indices of those to do.
        finish: (place, uint8 [H, W, 3] BGR, Instances) -> the drawn picture, called in a thread of its own; with None
            and None for a picture that could not be read.
        window: utils.screen window that shows what was drawn, and may end the work; or None. bar: progress bar.

    Returns:
        (indices of the pictures that were done, whether the user ended it in the window). A picture that cannot be read
        costs a warning.

    Raises:
        DatasetError: a picture that is the only one cannot be read.
    """
    done, ended = [], False
    with Behind(finish) as finish_behind, tqdm(
            predictor.detect_many(_read(sources, places)), total=len(places), desc="Detecting", unit="image",
            disable=not bar, dynamic_ncols=True) as progress:
        for place, image, found in progress:
            drawn = finish_behind(place, image, found)
            if image is None:
                continue
            done.append(place)
            if window is not None and not window.show(drawn.result(), None):
                ended = True
                break
    return done, ended


def _read(sources, places):
    """(place, picture) of the places; None for a picture that cannot be read, unless it is the only one."""
    for place in places:
        try:
            image = as_image(sources[place])
        except UNREADABLE as error:
            if len(sources) == 1:
                raise
            logging.warning("a picture is skipped: %s", error)
            image = None
        yield place, image


def image_info(sources: Sequence[str], ids: Sequence[int], categories: dict[int, str]) -> dict[str, list]:
    """What belongs to result files without annotations, in COCO's form: which file an image_id is.

    Args:
        sources: paths. ids: their image ids. categories: {category id: name}.
    """
    return {"images": [{"id": image_id, "file_name": source} for image_id, source in zip(ids, sources)],
            "categories": [{"id": number, "name": name} for number, name in categories.items()]}
