"""The pictures that ``--image`` and ``--images`` name: which they are, detection in them, what COCO would call them."""
from __future__ import annotations

import collections
import logging
import os

from tqdm import tqdm

from utils.in_out import split_in_out
from utils.overlap import Behind, ahead
from utils.predictor import as_image
from utils.runtime import UserError

UNREADABLE = (ValueError, OSError)  # of as_image
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
NAMED = 3  # names that a warning lists


def one_picture(text, output_folder):
    """``--image=IN[:OUT]`` as [(IN, OUT)]; OUT defaults to IN's name as .png in the output folder.

    Raises:
        UserError: there is no file IN.
    """
    source, target = split_in_out(text)
    if not os.path.isfile(source):
        raise UserError(f"there is no file {source}; correct --image")
    stem = os.path.splitext(os.path.basename(source))[0]
    return [(source, target or os.path.join(output_folder, stem + ".png"))]


def folder_of_pictures(text):
    """``--images=IN:OUT`` as [(picture in IN or a folder of it, .png in OUT)], by name, in the same folders.

    Files of other kinds are left out and told in one warning; hidden ones, and OUT itself if it is in IN, silently.

    Raises:
        UserError: a folder is missing in the text or on the disk, or IN holds no picture.
    """
    folder, out = split_in_out(text)
    if not os.path.isdir(folder) or not out:
        raise UserError(f"--images={text}: write IN:OUT with an existing folder IN")
    names, others = [], []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".")
                            and os.path.realpath(os.path.join(parent, name)) != os.path.realpath(out))
        for name in sorted(files):
            if not name.startswith("."):
                kind = names if name.lower().endswith(SUFFIXES) else others
                kind.append(os.path.relpath(os.path.join(parent, name), folder))
    if others:
        more = ", ..." if len(others) > NAMED else ""
        logging.warning("%d files in %s are no pictures (%s) and are skipped: %s%s", len(others), folder,
                        ", ".join(SUFFIXES), ", ".join(others[:NAMED]), more)
    if not names:
        raise UserError(f"there is no picture ({', '.join(SUFFIXES)}) in {folder}; correct --images")
    stems = [os.path.splitext(name)[0] for name in names]
    # a.jpg beside a.png: each keeps its whole name, so that neither result overwrites the other.
    count = collections.Counter(stems)
    targets = [(name if count[stem] > 1 else stem) + ".png" for name, stem in zip(names, stems)]
    return [(os.path.join(folder, name), os.path.join(out, target)) for name, target in zip(names, targets)]


def picture_ids(sources):
    """An image id for every picture: the number that it is called, as COCO's are, if all are; else 1, 2, 3, ..."""
    stems = [os.path.splitext(os.path.basename(source))[0] for source in sources]
    if all(stem.isascii() and stem.isdigit() for stem in stems) and len(set(map(int, stems))) == len(stems):
        return [int(stem) for stem in stems]
    return list(range(1, len(sources) + 1))


def detect_files(predictor, sources, places, finish, window=None, bar=True):
    """Detect in pictures: reading is ahead of the network, `finish` (drawing, writing) behind it.

    Args:
        predictor: Predictor. sources: paths. places: the indices of those to do.
        finish: (place, uint8 [H, W, 3] BGR, Instances) -> the drawn picture; called in a thread of its own.
        window: utils.screen window that shows what was drawn, and may end the work; or None. bar: progress bar.

    Returns:
        indices of the pictures that were done. A picture that cannot be read costs a warning.

    Raises:
        UserError: a picture that is the only one, or all of them, cannot be read.
    """
    done = []

    def pictures():
        for place in places:
            try:
                image = as_image(sources[place])
            except UNREADABLE as error:
                if len(sources) == 1:
                    raise
                logging.warning("a picture is skipped: %s", error)
            else:
                yield place, image, predictor.transform(image)

    with Behind(finish) as finish_behind, tqdm(
            ahead(pictures()), total=len(places), desc="Detecting", unit="image", disable=not bar,
            dynamic_ncols=True) as progress:
        for place, image, prepared in progress:
            drawn = finish_behind(place, image, predictor.detect_prepared([prepared], [image.shape[:2]])[0])
            done.append(place)
            if window is not None and not window.show(drawn.result(), None):
                break
    if places and not done:
        raise UserError("none of the pictures could be read; see the warnings above")
    return done


def image_info(sources, ids, categories):
    """What belongs to result files without annotations, in COCO's form: which file an image_id is.

    Args:
        sources: paths. ids: their image ids. categories: {category id: name}.
    """
    return {"images": [{"id": image_id, "file_name": source} for image_id, source in zip(ids, sources)],
            "categories": [{"id": number, "name": name} for number, name in categories.items()]}
