"""The evaluation report: one web page with scores, curves, confusions and every image beside its ground truth.

``index.html`` needs nothing but itself: figures, style and scripts are in it, and so are the images of the worst
and best quality. The others are read, as one scrolls, from the scripts in ``data/`` beside it.
"""
from __future__ import annotations

import contextlib
import hashlib
import html
import json
import os
import re
import string
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Callable

import numpy as np
from pycocotools.coco import COCO
from tqdm import tqdm

from utils import report_data
from utils.files import atomic_path

IMAGES_PER_PART = 25
FEATURED = 12  # so many of the worst images and of the best are in index.html itself
_TEMPLATES = Path(__file__).resolve().parent / "report_page"
# In the order in which they run: the last one starts the page.
_SCRIPTS = (
    "elements.js", "figures.js", "confusions.js", "records.js", "drawing.js", "cards.js", "viewer.js", "page.js")
_PART_NAME = re.compile(r"part_\d{4,}\.js(\.new)?")


def write_report(folder: str, title: str, class_names_by_category: Mapping[int, str], coco_gt: COCO,
                 image_ids: Sequence[int], results_of: Callable[[int], tuple[Sequence[dict], Sequence[dict] | None]],
                 read_image: Callable[[int], np.ndarray | None], metrics: Mapping[str, dict] | None,
                 bar: bool = True) -> str:
    """Write ``folder``/index.html and ``folder``/data/part_0001.js and so on.

    An earlier report in the folder is replaced when the new one is whole; other files are left alone. Images are
    taken one by one: memory grows with their number by no more than a line of figures each.

    Args:
        folder: where to write; made if it is missing.
        title: heading of the page, for example the configuration.
        class_names_by_category: dict {category_id: name}, every category that a result can have.
        coco_gt: without "annotations" in its dataset the page only shows the detections.
        image_ids: ids of the evaluated images, in that order.
        results_of: image_id -> (bbox results, segm results), two parallel lists in COCO results format; the
            second is empty or None for a network without masks.
        read_image: image_id -> uint8 [H, W, 3] BGR, None if it cannot be read.
        metrics: {"bbox": dict, "segm": dict} as of utils.coco_results.coco_metrics; None or empty if there is no
            ground truth.
        bar: show a progress bar.

    Returns:
        Path of index.html.

    Raises:
        OSError: the folder cannot be written.
    """
    classes = report_data.Classes(class_names_by_category, coco_gt)
    describe = _Describer(coco_gt, classes, results_of, read_image, metrics or {})
    data_folder = os.path.join(folder, "data")
    os.makedirs(data_folder, exist_ok=True)
    with _removed_at_the_end(data_folder), tempfile.TemporaryFile(dir=data_folder) as file:
        records, entries = _Records(file), []
        for position, image_id in enumerate(tqdm(image_ids, desc="report", unit="image", disable=not bar)):
            record, entry = describe(image_id)
            records.add(record)
            entries.append([position, *entry])
        index = sorted(entries, key=_worst_first)
        number_of_parts = _write_parts(data_folder, records, index)
        data = {**_figures(metrics or {}, classes, describe), "title": title, "stamp": records.stamp(), "index": index}
        featured = {rank: records.text(index[rank][0]) for rank in _featured(index)}
        path = os.path.join(folder, "index.html")
        with atomic_path(path) as temporary:
            Path(temporary).write_text(_page(title, data, featured), encoding="utf-8", errors="replace")
            # From here to the end only files change their names.
            _take_over_parts(data_folder, number_of_parts)
    return path


class _Records:
    """All that is drawn of each image, as JSON texts in a file until it is known in which order they go on the page."""

    def __init__(self, file):
        self._file = file
        self._places = []  # (offset, length) of each
        self._digest = hashlib.sha256()

    def add(self, record):
        text = _script_json(record).encode("ascii")
        self._places.append((self._file.tell(), len(text)))
        self._file.write(text)
        self._digest.update(text)

    def text(self, position):
        """That of the image added at a position, from 0; once all are added."""
        start, length = self._places[position]
        self._file.seek(start)
        return self._file.read(length).decode("ascii")

    def stamp(self):
        """What tells these records from those of another report."""
        return self._digest.hexdigest()[:16]


class _Describer:
    """Puts one image after the other into plain values and adds it to the totals."""

    def __init__(self, coco_gt, classes, results_of, read_image, metrics):
        self.coco_gt, self.classes, self.results_of, self.read_image = coco_gt, classes, results_of, read_image
        self.has_gt = "annotations" in coco_gt.dataset
        self.compares_masks = "segm" in metrics
        self.saw_masks = self.compares_masks
        self.totals = report_data.Totals(len(classes.names))

    def __call__(self, image_id: int) -> tuple[dict, list]:
        """(record, entry): all that is drawn of the image, and its line of the page's index."""
        bbox_results, segm_results = self.results_of(image_id)
        # Without metrics there is nothing to compare, and masks are shown where there are any.
        use_masks = bool(segm_results) and (self.compares_masks or not self.has_gt)
        detections = report_data.detected_objects(bbox_results, segm_results if use_masks else None, self.classes)
        self.saw_masks = self.saw_masks or use_masks
        ground_truth = report_data.ground_truth_objects(
            self.coco_gt, image_id, self.classes, self.compares_masks)
        overlaps = report_data.overlaps_of(detections, ground_truth)
        matches = report_data.match(overlaps, detections, ground_truth, same_class=True)
        entry = self._entry(image_id, detections, ground_truth, overlaps, matches)
        return self._record(image_id, detections, ground_truth, overlaps, matches), entry

    def _entry(self, image_id, detections, ground_truth, overlaps, matches):
        """[file name, quality, TP, FP, FN, classes, confusions]; a confusion is actual * (K + 1) + predicted."""
        background = len(self.classes.names)
        pairs = []
        if self.has_gt:
            any_class = report_data.match(overlaps, detections, ground_truth, same_class=False)
            pairs = report_data.confusion_pairs(any_class, detections, ground_truth, background)
        self.totals.add(detections, ground_truth, matches, pairs)
        quality, *counts = report_data.image_quality(overlaps, matches, detections.scores, ground_truth.crowd)
        counted = detections.classes[detections.scores >= report_data.COUNTED_SCORE].tolist()
        return [self._file_name(image_id), None if quality is None or not self.has_gt else round(quality, 4), *counts,
                sorted({*ground_truth.classes.tolist(), *counted}),
                sorted({actual * (background + 1) + predicted for actual, predicted in pairs if actual != predicted})]

    def _record(self, image_id, detections, ground_truth, overlaps, matches):
        """What is drawn: boxes and outlines are in units of 1 / OUTLINE_UNIT pixel of the thumbnail."""
        image = self.read_image(image_id)
        width, height = self._size(image_id, image, detections)
        small = report_data.thumbnail_size(width, height)
        scale = (small[0] * report_data.OUTLINE_UNIT / width, small[1] * report_data.OUTLINE_UNIT / height)
        objects = [[int(label), int(crowd), *shape] for label, crowd, shape
                   in zip(ground_truth.classes, ground_truth.crowd, _shapes(ground_truth, scale))]
        found = []
        for index, shape in enumerate(_shapes(detections, scale)):
            label, score, taken = int(detections.classes[index]), float(detections.scores[index]), int(matches[index])
            iou = round(float(overlaps[index, taken]), 3) if taken >= 0 else None
            found.append([label, round(score, 4), *shape, taken, iou])
        return {"id": image_id, "name": self._file_name(image_id), "full_size": [width, height], "size": small,
                "image": None if image is None else report_data.thumbnail(image),
                "objects": objects, "detections": found}

    def _file_name(self, image_id):
        return str(self.coco_gt.imgs[image_id].get("file_name", image_id))

    def _size(self, image_id, image, detections):
        """(width, height) of the original image, of its entry if it cannot be read."""
        if image is not None:
            return image.shape[1], image.shape[0]
        info = self.coco_gt.imgs[image_id]
        if info.get("width") and info.get("height"):
            return int(info["width"]), int(info["height"])
        right, bottom = (detections.boxes[:, :2] + detections.boxes[:, 2:]).max(axis=0, initial=1)
        return int(right), int(bottom)


def _shapes(objects, scale):
    """[box x, y, w, h, outline] of every object; the outline is "" without masks."""
    boxes = (objects.boxes * (scale * 2)).round().astype(int).tolist()
    masks = objects.masks or [None] * len(boxes)
    return [[box, "" if mask is None else report_data.outline_path(mask, scale)] for box, mask in zip(boxes, masks)]


def _worst_first(entry):
    """Key that sorts by quality; images without one go last, equal ones stay in the order evaluated."""
    position, _, quality = entry[:3]
    return quality is None, quality or 0.0, position


def _featured(index):
    """Ranks of the images that are in index.html: the worst and the best, or the first without a quality."""
    rated = sum(entry[2] is not None for entry in index)
    if not rated:
        return list(range(min(2 * FEATURED, len(index))))
    return sorted({*range(min(FEATURED, rated)), *range(max(0, rated - FEATURED), rated)})


def _figures(metrics, classes, describe):
    """The part of the page's data that is not about single images."""
    totals = describe.totals
    return {
        "has_ground_truth": describe.has_gt, "has_masks": describe.saw_masks, "images_per_part": IMAGES_PER_PART,
        "classes": classes.names, "class_objects": totals.objects.tolist(), "detections": totals.detections,
        "confusions": [[*pair, number] for pair, number in sorted(totals.confusions.items())],
        "sizes": {"edges": report_data.SIZE_EDGES, "objects": totals.sizes.tolist(), "found": totals.found.tolist()},
        "kinds": {kind: report_data.scores_of(values, classes) for kind, values in metrics.items()},
        "match_iou": report_data.MATCH_IOU, "counted_score": report_data.COUNTED_SCORE,
        "shown_score": report_data.SHOWN_SCORE, "outline_unit": report_data.OUTLINE_UNIT}


def _write_parts(data_folder, records, index):
    """Write the records in the order of the index as part_0001.js.new and so on; returns their number."""
    starts = range(0, len(index), IMAGES_PER_PART)
    for number, start in enumerate(starts, 1):
        texts = [records.text(entry[0]) for entry in index[start:start + IMAGES_PER_PART]]
        text = f'reportPart("{records.stamp()}",{number},[' + ",\n".join(texts) + "]);\n"
        Path(data_folder, _part_name(number) + ".new").write_text(text, encoding="ascii")
    return len(starts)


def _take_over_parts(data_folder, number_of_parts):
    """Let the new parts take the place of the old ones."""
    names = {_part_name(number) for number in range(1, number_of_parts + 1)}
    for name in names:
        path = os.path.join(data_folder, name)
        os.replace(path + ".new", path)
    for name in os.listdir(data_folder):
        if _PART_NAME.fullmatch(name) and name not in names:
            os.remove(os.path.join(data_folder, name))


@contextlib.contextmanager
def _removed_at_the_end(data_folder):
    """Remove new parts that did not take their place, whatever happened."""
    try:
        yield
    finally:
        for name in os.listdir(data_folder):
            if _PART_NAME.fullmatch(name) and name.endswith(".new"):
                os.remove(os.path.join(data_folder, name))


def _part_name(number):
    return f"part_{number:04d}.js"


def _page(title, data, featured):
    """The text of index.html."""
    template, style, *scripts = ((_TEMPLATES / name).read_text(encoding="utf-8")
                                 for name in ("page.html", "style.css", *_SCRIPTS))
    return string.Template(template).substitute(
        title=html.escape(title), style=style, data=_script_json(data),
        featured="{" + ",".join(f'"{rank}":{record}' for rank, record in featured.items()) + "}",
        scripts="\n".join(f"<script>\n{script}</script>" for script in scripts))


def _script_json(value):
    """JSON in ASCII that may stand in a script of an HTML page: no text in it can end the script."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")
