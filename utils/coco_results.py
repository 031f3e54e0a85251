"""Detections in COCO results format and their score by pycocotools' COCOeval, the only metric used here.

``CocoResults`` collects what the network found, image by image; ``evaluate_results`` compares it with the
ground truth. train.py and eval.py both go through this file, so that their figures cannot differ.

Shapes: D detections of one image, H W size of the original image. Boxes are pixels of the original image.
"""
from __future__ import annotations

import contextlib
import io
import math
import numbers
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from utils.files import write_json
from utils.instances import Instances, RleMasks

METRIC_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
IOU_PERCENTS = tuple(range(50, 100, 5))
# The original's own names for the two kinds of result, used in its table and in its log.
ROW_NAMES = {"bbox": "box", "segm": "mask"}

Results = list[dict[str, Any]]  # in COCO results format, of boxes or of masks


class CocoFormat:
    """Detections of one image as COCO results, by the original's rules for its two JSON files.

    Integer box as x, y, w, h; no detection whose integer box has zero area in either of them; category ids through the
    label map; separate box and mask scores.

    Args:
        label_map: dict {category_id: label}, labels counted from 1 as in data/config.py.

    Raises:
        ValueError: two categories share a label, so that results could not be told apart.
    """

    def __init__(self, label_map: Mapping[int, int]) -> None:
        self._category_of_class = {label - 1: category for category, label in label_map.items()}
        if len(self._category_of_class) != len(label_map):
            raise ValueError("label_map gives one label to several category ids; give each its own label")
        self._classes = list(self._category_of_class)

    def __call__(self, image_id: int | str, found: Instances) -> tuple[Results, Results]:
        """COCO results of one image.

        Args:
            image_id: id of the image in the COCO file. found: ``utils.instances.Instances``; boxes are integers.

        Returns:
            (bbox, segm): lists of {"image_id", "category_id", "bbox": [x, y, w, h], "score"} and of {"image_id",
            "category_id", "segmentation": RLE, "score"}; segm is empty without masks.

        Detections of a class without a category are left out: the data set does not have the class, and COCO has no
        way to write them.
        """
        image_id = image_id.item() if isinstance(image_id, np.generic) else image_id
        found = found[np.isin(found.classes, self._classes)]
        # A box that lies outside the image comes out of the clamp with x2 < x1: it has no area either.
        found = found[(found.boxes[:, 2] > found.boxes[:, 0]) & (found.boxes[:, 3] > found.boxes[:, 1])]
        common = [{"image_id": image_id, "category_id": self._category_of_class[number]}
                  for number in found.classes.tolist()]
        bbox = [{**entry, "bbox": [round(float(value), 1) for value in (x1, y1, x2 - x1, y2 - y1)], "score": score}
                for entry, (x1, y1, x2, y2), score in zip(common, found.boxes.tolist(), found.scores.tolist())]
        if not found.has_masks:
            return bbox, []
        segm = [{**entry, "segmentation": rle, "score": score}
                for entry, rle, score in zip(common, found.rle(), found.mask_scores.tolist())]
        return bbox, segm

    def instances(self, results: tuple[Results, Results], class_names: Sequence[str] | None, height: int, width: int
                  ) -> Instances:
        """The way back: (bbox, segm) of one image -> ``utils.instances.Instances``.

        Args:
            results: as this class gives them. class_names: names by class index. height, width: of the image.
        """
        bbox, segm = results
        class_of_category = {category: number for number, category in self._category_of_class.items()}
        boxes = np.array([entry["bbox"] for entry in bbox]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        masks = RleMasks([entry["segmentation"] for entry in segm]) if segm else None
        return Instances([class_of_category[entry["category_id"]] for entry in bbox],
                         np.array([entry["score"] for entry in bbox]), boxes, masks, class_names, height, width,
                         np.array([entry["score"] for entry in segm]) if segm else None)


class CocoResults:
    """Detections of a whole run in memory.

    Args:
        label_map: as ``CocoFormat``. has_masks: whether the network has masks.

    Attributes:
        done: places that need not be added, none.
    """

    done: frozenset[int] = frozenset()

    def __init__(self, label_map: Mapping[int, int], has_masks: bool = True) -> None:
        self._format = CocoFormat(label_map)
        self._has_masks = has_masks
        self._places: dict[int, tuple[Results, Results]] = {}

    def add(self, place: int, image_id: int | str, found: Instances | None) -> None:
        """Add the detections of one image.

        Args:
            place: the image's number in the order of evaluation. image_id: id of the image in the COCO file.
            found: ``utils.instances.Instances``, or None for an image that could not be read.
        """
        self._places[place] = ([], []) if found is None else self._format(image_id, found)

    def of_place(self, place: int) -> tuple[Results, Results]:
        """(bbox, segm) of an image, as of ``CocoFormat``."""
        return self._places[place]

    def lists(self) -> dict[str, Results]:
        """{"bbox": all box results, "segm": all mask results if there are masks}, in the order of evaluation."""
        parts = [self._places[place] for place in sorted(self._places)]
        kinds = ("bbox", "segm") if self._has_masks else ("bbox",)
        return {kind: [entry for part in parts for entry in part[number]] for number, kind in enumerate(kinds)}

    def part(self) -> dict[int, tuple[Results, Results]]:
        """What was added, as plain values that another process can be sent."""
        return self._places

    def merge(self, parts: Iterable[dict[int, tuple[Results, Results]]]) -> None:
        """Add what other processes have, each as `part` gives it."""
        for part in parts:
            self._places.update(part)


def coco_metrics(coco_gt: COCO, results: Results, iou_type: str, image_ids: Iterable[int | str]) -> dict[str, Any]:
    """COCOeval of one kind of result, on the images that were really evaluated.

    Neither the ground truth nor the results are changed: COCOeval writes into both, so it gets copies. Ground
    truth counts whole, whatever its size; only an annotation that has no outline at all (fewer than three
    corners) cannot take part in "segm", where COCOeval itself would fail.

    Args:
        coco_gt: pycocotools COCO with the ground truth; it may have no annotations at all.
        results: list of COCO results; those of images outside ``image_ids`` are left out.
        iou_type: "bbox" or "segm".
        image_ids: ids of the evaluated images; those without annotations or without results count as in COCO.

    Returns:
        dict: the twelve METRIC_NAMES as fractions (-1 where there is no ground truth to measure), "per_iou"
        (list of ten AP at IoU .50 to .95), "per_class" ({category name: AP}, classes with ground truth only),
        "summary" (the twelve lines that COCOeval prints), "evaluation" (the COCOeval itself, with its curves).

    Raises:
        ValueError: an image id that the ground truth does not have.
    """
    wanted = set(image_ids)
    unknown = wanted.difference(coco_gt.imgs)
    if unknown:
        raise ValueError(f"{len(unknown)} evaluated image ids are not in the annotation file, for example "
                         f"{sorted(unknown, key=str)[0]}; check dataset.valid_info")
    # COCOeval adds keys to the dicts it is given.
    chosen = [dict(result) for result in results if result["image_id"] in wanted]
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = _private_ground_truth(coco_gt, wanted, iou_type)
        detections = ground_truth.loadRes(chosen) if chosen else _coco_of(ground_truth.dataset, [])
        evaluation = COCOeval(ground_truth, detections, iou_type)
        evaluation.params.imgIds = sorted(wanted)
        evaluation.evaluate()
        evaluation.accumulate()
    summary = io.StringIO()
    with contextlib.redirect_stdout(summary):
        evaluation.summarize()

    # [10 IoU, 101 recall, categories] for objects of every area and up to 100 detections per image
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    metrics: dict[str, Any] = dict(zip(METRIC_NAMES, (float(value) for value in evaluation.stats)))
    metrics["per_iou"] = [mean_of_measured(at_iou) for at_iou in precision]
    metrics["per_class"] = {
        str(ground_truth.cats[category].get("name", category)): mean_of_measured(precision[:, :, column])
        for column, category in enumerate(evaluation.params.catIds) if (precision[:, :, column] > -1).any()}
    metrics["summary"] = summary.getvalue()
    metrics["evaluation"] = evaluation
    return metrics


def evaluate_results(coco_gt: COCO, results: Mapping[str, Results], image_ids: Iterable[int | str]
                     ) -> tuple[dict[str, dict[str, Any]], str]:
    """Score a run and put it into words.

    Args:
        coco_gt: pycocotools COCO with the ground truth.
        results: {"bbox": list of COCO results, "segm": the same of masks}, or one of them.
        image_ids: ids of the images that were evaluated (a part of the data set with ``--max_images``).

    Returns:
        (metrics, text): metrics {"bbox": dict, "segm": dict} as of ``coco_metrics``, of the kinds given, text the
        COCOeval tables and the original's compact table, ready to print.
    """
    wanted, metrics, parts = set(image_ids), {}, []
    if not any(coco_gt.imgToAnns.get(image_id) for image_id in wanted):
        parts.append("None of the evaluated images has an annotation: there is nothing to measure (-1, -).")
    for iou_type, found in results.items():
        metrics[iou_type] = coco_metrics(coco_gt, found, iou_type, image_ids)
        count = sum(result["image_id"] in wanted for result in found)
        parts.append(f"COCO {ROW_NAMES[iou_type]} ({iou_type}), {len(wanted)} images, {count} detections:\n"
                     + metrics[iou_type]["summary"])
    parts.append(compact_table(metrics))
    return metrics, "\n".join(parts)


def compact_table(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """The original's table (per cent at every IoU) with COCOeval's figures; ``-`` where there are none."""
    head = ["all"] + [f".{percent}" for percent in IOU_PERCENTS]
    line = "+".join(["-" * 7] * (len(head) + 1)) + "+"
    rows = [" " * 7 + "|" + "|".join(f"  {name}  " for name in head) + "|", line]
    for iou_type, values in metrics.items():
        cells = "|".join(_percent_cell(value) for value in [values["AP"], *values["per_iou"]])
        rows.append(f" {ROW_NAMES[iou_type]:>5s} |" + cells + "|")
    return "\n" + "\n".join(rows + [line]) + "\n\n"


def validation_figures(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """What a ``val`` line of the log holds, in the original's shape.

    Returns:
        {"box": {"all", "50", "55", ..., "95"}, "mask": {...}}, per cent rounded to 0.01; None where nothing
        could be measured.
    """
    figures = {}
    for iou_type, values in metrics.items():
        names = ["all"] + [str(percent) for percent in IOU_PERCENTS]
        figures[ROW_NAMES[iou_type]] = {
            name: None if value < 0 else round(100 * value, 2)
            for name, value in zip(names, [values["AP"], *values["per_iou"]])}
    return figures


def write_metrics(path: str | os.PathLike[str], metrics: Mapping[str, Mapping[str, Any]]) -> None:
    """Write {"bbox": {twelve fractions}, "segm": {...}} as JSON, whatever else ``metrics`` carries."""
    fractions = {kind: {name: values[name] for name in METRIC_NAMES} for kind, values in metrics.items()}
    write_json(path, fractions, indent=2)


def _private_ground_truth(coco_gt: COCO, wanted: Iterable[int | str], iou_type: str) -> COCO:
    """COCO object of copied annotations of the wanted images, completed by what COCOeval relies on."""
    annotations: Results = []
    for image_id in sorted(wanted):
        for original in coco_gt.imgToAnns.get(image_id, []):
            annotation = completed_annotation(original, coco_gt.imgs[image_id], iou_type)
            if annotation is not None:
                # COCOeval takes a match with id 0 for no match: files that count from 0 would lose an object.
                annotation["id"] = len(annotations) + 1
                annotations.append(annotation)
    categories = coco_gt.dataset.get("categories")
    if categories is None:
        used = sorted({annotation["category_id"] for annotation in annotations})
        categories = [{"id": category, "name": str(category)} for category in used]
    images = [coco_gt.imgs[image_id] for image_id in sorted(wanted)]
    return _coco_of({"images": images, "categories": categories}, annotations)


def completed_annotation(original: Mapping[str, Any], image: Mapping[str, Any], iou_type: str) -> dict[str, Any] | None:
    """Copy of an annotation with iscrowd, bbox and area; None if it has nothing of this kind to compare.

    A bbox that is not four finite numbers, or an area that is none from 0 on, is taken for missing.
    """
    annotation = dict(original)
    annotation.setdefault("iscrowd", 0)
    bbox: Any = annotation.get("bbox")
    area: Any = annotation.get("area")
    if not (isinstance(bbox, (list, tuple)) and len(bbox) == 4 and all(map(_is_finite, bbox))):
        annotation.pop("bbox", None)
    if not (_is_finite(area) and area >= 0):
        annotation.pop("area", None)
    outline = annotation.get("segmentation")
    if isinstance(outline, list):
        # Fewer than three corners enclose nothing, and pycocotools reads four numbers as a box.
        outline = [polygon for polygon in outline if len(polygon) >= 6]
    if outline and (iou_type == "segm" or "bbox" not in annotation or "area" not in annotation):
        rle = _rle(outline, image["height"], image["width"])
        annotation["segmentation"] = rle
        annotation.setdefault("bbox", [float(value) for value in mask_utils.toBbox(rle)])
        annotation.setdefault("area", float(mask_utils.area(rle)))
    if not (outline if iou_type == "segm" else annotation.get("bbox")):
        return None
    if "area" not in annotation:
        annotation["area"] = float(annotation["bbox"][2] * annotation["bbox"][3])
    return annotation


def _is_finite(value: Any) -> bool:
    """Whether this is a finite number, of Python or numpy."""
    return isinstance(value, numbers.Real) and math.isfinite(value)


def _rle(outline: Any, height: int, width: int) -> dict[str, Any]:
    """Compressed RLE of a COCO segmentation: polygons, uncompressed or compressed RLE."""
    if isinstance(outline, list):
        return mask_utils.merge(mask_utils.frPyObjects(outline, height, width))
    if isinstance(outline["counts"], list):
        return mask_utils.frPyObjects(outline, height, width)
    return outline


def _coco_of(dataset: Mapping[str, Any], annotations: Results) -> COCO:
    """COCO object over the images and categories of ``dataset``; prints, as pycocotools does."""
    coco = COCO()
    coco.dataset = {"info": {}, "images": dataset["images"], "categories": dataset["categories"],
                    "annotations": annotations}
    coco.createIndex()
    return coco


def mean_of_measured(values: np.ndarray) -> float:
    """Mean of COCOeval's figures, of any shape, without its -1 for "no ground truth"; -1.0 if nothing is left."""
    measured = values[values > -1]
    return float(measured.mean()) if measured.size else -1.0


def _percent_cell(value: float) -> str:
    return "   -   " if value < 0 else f"{100 * value:6.2f} "


def class_table(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """One line for every class that has ground truth: name and AP in per cent for boxes and masks."""
    names = list(dict.fromkeys(name for values in metrics.values() for name in values["per_class"]))
    width = max([len(name) for name in names] + [5])
    rows = ["class".ljust(width) + " |" + "|".join(f" {ROW_NAMES[kind]:>5s} " for kind in metrics) + "|"]
    rows += [name.ljust(width) + " |" + "|".join(_percent_cell(values["per_class"].get(name, -1.0))
                                                 for values in metrics.values()) + "|" for name in names]
    return "\n".join(rows) + "\n"
