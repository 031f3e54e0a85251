"""The figures of the evaluation report: matching, quality of an image, confusions, curves, outlines.

Shapes: D detections, G ground truths, K classes, counted from 0 in the order of ``Classes``. Boxes are x, y, w, h
in pixels of the original image, as in COCO files.
"""
from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO

from utils.coco_results import METRIC_NAMES, completed_annotation, mean_of_measured
from utils.instances import RleMasks

MATCH_IOU = 0.5
COUNTED_SCORE = 0.3  # from here on a detection counts in the quality, the confusions and the sizes
SHOWN_SCORE = 0.05  # detections below are not in the report at all
UNMATCHED, IGNORED = -1, -2
# Edges of sqrt(area) in pixels; 32 and 96 part COCO's small, medium and large, the last bin is open.
SIZE_EDGES = (0, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384)
AREA_NAMES = ("all", "small", "medium", "large")
THUMBNAIL_SIDE = 400
OUTLINE_UNIT = 10  # coordinates of outlines and boxes are tenths of a pixel of the thumbnail
_OUTLINE_ERROR = 0.5  # pixels of the thumbnail
_JPEG_QUALITY = 80


class Classes:
    """Names of the classes and the place of every category id among them.

    Attributes:
        names: list of K names: the given ones, then those that only the ground truth has.
        index_of: dict {category_id: index}.
    """

    def __init__(self, class_names_by_category: Mapping[int, str], coco_gt: COCO):
        names: dict[int, Any] = dict(class_names_by_category)
        for category_id, category in coco_gt.cats.items():
            names.setdefault(category_id, category.get("name", category_id))
        for annotation in coco_gt.anns.values():
            names.setdefault(annotation["category_id"], annotation["category_id"])
        self.names = [str(name) for name in names.values()]
        self.index_of = {category_id: index for index, category_id in enumerate(names)}


@dataclass
class Objects:
    """Ground truths or detections of one image, detections by falling score.

    classes: int [N]. boxes: float [N, 4]. masks: list of N compressed RLE, or None where boxes are compared.
    scores: float [N], 1 for ground truth. crowd: bool [N]. areas: float [N], pixels of the original image.
    """

    classes: np.ndarray
    boxes: np.ndarray
    masks: list | None
    scores: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray


def ground_truth_objects(coco_gt: COCO, image_id: int, classes: Classes, has_masks: bool) -> Objects:
    """Annotations of an image; one that has nothing of the kind compared is left out, as in COCOeval.

    Args:
        has_masks: whether masks or boxes are compared.
    """
    rows = []
    for annotation in coco_gt.imgToAnns.get(image_id, []):
        whole = completed_annotation(annotation, coco_gt.imgs[image_id], "segm" if has_masks else "bbox")
        if whole is not None:
            rows.append((classes.index_of[whole["category_id"]], whole["bbox"],
                         whole["segmentation"] if has_masks else None, 1.0, bool(whole["iscrowd"]), whole["area"]))
    return _objects_of(rows, has_masks)


def detected_objects(bbox_results: Sequence[dict], segm_results: Sequence[dict] | None, classes: Classes) -> Objects:
    """Detections of an image with a score of at least SHOWN_SCORE, by falling score.

    Args:
        bbox_results: list of COCO results. segm_results: the parallel list, whose scores count if there is one;
            empty or None for a network without masks.
    """
    rows = []
    for number, result in enumerate(bbox_results):
        mask = segm_results[number]["segmentation"] if segm_results else None
        score = (segm_results or bbox_results)[number]["score"]
        box = result["bbox"]
        if score >= SHOWN_SCORE:
            rows.append((classes.index_of[result["category_id"]], box, mask, score, False, box[2] * box[3]))
    rows.sort(key=lambda row: -row[3])
    return _objects_of(rows, bool(segm_results))


def overlaps_of(detections: Objects, ground_truth: Objects) -> np.ndarray:
    """IoU of every detection with every ground truth, float [D, G]; with a crowd the share of the detection."""
    count = len(detections.classes), len(ground_truth.classes)
    if 0 in count:
        return np.zeros(count)
    compared = [objects.boxes if objects.masks is None else objects.masks for objects in (detections, ground_truth)]
    return np.asarray(mask_utils.iou(*compared, ground_truth.crowd.astype(np.uint8).tolist())).reshape(count)


def match(overlaps: np.ndarray, detections: Objects, ground_truth: Objects, same_class: bool) -> np.ndarray:
    """Greedy matching: by falling score each detection takes the free ground truth it overlaps most.

    The matches of the detections above any score do not depend on those below it.

    Args:
        overlaps: float [D, G] of ``overlaps_of``.
        same_class: only ground truth of the detection's own class can be taken.

    Returns:
        int [D]: index of the ground truth; UNMATCHED; or IGNORED for an unmatched one that lies in a crowd.
    """
    matches = np.full(len(overlaps), UNMATCHED)
    free = ~ground_truth.crowd
    for index, row in enumerate(overlaps):
        fits = row >= MATCH_IOU
        if same_class:
            fits = fits & (ground_truth.classes == detections.classes[index])
        if (fits & free).any():
            matches[index] = np.argmax(np.where(fits & free, row, -1.0))
            free[matches[index]] = False
        elif (fits & ground_truth.crowd).any():
            matches[index] = IGNORED
    return matches


def image_quality(overlaps: np.ndarray, matches: np.ndarray, scores: np.ndarray, crowd: np.ndarray,
                  ) -> tuple[float | None, int, int, int]:
    """Panoptic quality of one image (Kirillov et al. 2019, eq. 1) at COUNTED_SCORE, all classes together.

    Args:
        overlaps: float [D, G]. matches: int [D] of ``match`` with same_class. scores: float [D]. crowd: bool [G].

    Returns:
        (quality, TP, FP, FN): quality is the IoU of the matches summed, over TP + FP/2 + FN/2; None where there
        is nothing to find and nothing found.
    """
    counted = scores >= COUNTED_SCORE
    pairs = [(index, matches[index]) for index in np.flatnonzero(counted & (matches >= 0))]
    positives = len(pairs)
    false = int((counted & (matches == UNMATCHED)).sum())
    missed = int((~crowd).sum()) - positives
    total = positives + false / 2 + missed / 2
    quality = sum(float(overlaps[pair]) for pair in pairs) / total if total else None
    return quality, positives, false, missed


def confusion_pairs(matches: np.ndarray, detections: Objects, ground_truth: Objects,
                    background: int) -> list[tuple[int, int]]:
    """What an image adds to the confusion matrix.

    Args:
        matches: int [D] of ``match`` regardless of class. background: index of the background, K.

    Returns:
        list of (class of the ground truth, predicted class); ``background`` on the left is a detection where
        nothing is annotated, on the right an object that was not found.
    """
    pairs, missed = [], ~ground_truth.crowd
    for index in np.flatnonzero(detections.scores >= COUNTED_SCORE):
        taken = matches[index]
        if taken != IGNORED:
            actual = ground_truth.classes[taken] if taken >= 0 else background
            pairs.append((int(actual), int(detections.classes[index])))
        if taken >= 0:
            missed[taken] = False
    return pairs + [(int(label), background) for label in ground_truth.classes[missed]]


class Totals:
    """Sums over all images: confusions, objects of a class, objects and found ones by size.

    Attributes:
        confusions: Counter {(actual, predicted): number}. objects: int [K], without crowds.
        sizes, found: int, one per bin of SIZE_EDGES, without crowds.
        detections: number of detections that count.
    """

    def __init__(self, num_classes: int):
        self.confusions: Counter[tuple[int, int]] = Counter()
        self.objects = np.zeros(num_classes, np.int64)
        self.sizes = np.zeros(len(SIZE_EDGES), np.int64)
        self.found = np.zeros(len(SIZE_EDGES), np.int64)
        self.detections = 0

    def add(self, detections: Objects, ground_truth: Objects, matches: np.ndarray,
            pairs: Sequence[tuple[int, int]]) -> None:
        """Add an image: ``matches`` int [D] with classes in agreement, ``pairs`` of ``confusion_pairs``."""
        counted = detections.scores >= COUNTED_SCORE
        real, is_found = ~ground_truth.crowd, np.zeros(len(ground_truth.classes), bool)
        is_found[matches[counted & (matches >= 0)]] = True
        bins = np.searchsorted(SIZE_EDGES, np.sqrt(ground_truth.areas), side="right") - 1
        np.add.at(self.sizes, bins[real], 1)
        np.add.at(self.found, bins[real & is_found], 1)
        np.add.at(self.objects, ground_truth.classes[real], 1)
        self.confusions.update(pairs)
        self.detections += int(counted.sum())


def scores_of(values: Mapping[str, Any], classes: Classes) -> dict[str, Any]:
    """Everything that the page shows of one kind ("bbox" or "segm").

    Args:
        values: what utils.coco_results.coco_metrics gives, with its "evaluation".

    Returns:
        dict of plain values, None for COCOeval's -1: "summary" {twelve names: fraction}, "per_iou" (ten),
        "classes" (AP by class), "curves" and "mean_curves" (see ``_curves``), "recall" {area: [at IoU .50,
        mean over the IoUs]}.
    """
    evaluation = values["evaluation"]
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # [IoU, recall, class], all areas, most detections
    recall = evaluation.eval["recall"][:, :, :, -1]  # [IoU, class, area]
    average: list = [None] * len(classes.names)
    curves: list = [None] * len(classes.names)
    for column, category_id in enumerate(evaluation.params.catIds):
        index = classes.index_of[category_id]
        average[index] = _measured(mean_of_measured(precision[:, :, column]))
        curves[index] = _curves(precision[:, :, column:column + 1])
    summary = {name: _measured(values[name]) for name in METRIC_NAMES}
    by_area = {name: [_measured(mean_of_measured(recall[0, :, area])), _measured(mean_of_measured(recall[:, :, area]))]
               for area, name in enumerate(AREA_NAMES)}
    return {"summary": summary, "per_iou": [_measured(value) for value in values["per_iou"]], "classes": average,
            "curves": curves, "mean_curves": _curves(precision), "recall": by_area}


def thumbnail(image: np.ndarray) -> str:
    """A small JPEG of an image.

    Args:
        image: uint8 [H, W, 3] BGR.

    Returns:
        base64 text of a JPEG whose size is ``thumbnail_size``.
    """
    width, height = thumbnail_size(image.shape[1], image.shape[0])
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    encoded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1]
    return base64.b64encode(encoded.tobytes()).decode("ascii")


def thumbnail_size(width: int, height: int) -> tuple[int, int]:
    """(width, height) with a longest side of at most THUMBNAIL_SIDE pixels."""
    scale = min(1.0, THUMBNAIL_SIDE / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def outline_path(mask: dict[str, Any], scale: tuple[float, float]) -> str:
    """Outline of a mask as an SVG path, to be filled by the even-odd rule.

    Args:
        mask: compressed RLE. scale: (x, y), units of the path per pixel of the mask.

    Returns:
        str: closed polygons of whole numbers, relative to each one's first point; empty for an empty mask.
    """
    left, top, inside = RleMasks([mask]).window(0)
    if not inside.size:
        return ""
    contours = cv2.findContours(inside.astype(np.uint8, order="C"), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)[-2]
    error = _OUTLINE_ERROR * OUTLINE_UNIT / max(scale)
    parts = []
    for contour in contours:
        corners = cv2.approxPolyDP(contour, error, True)[:, 0]
        # Contours run through the centres of pixels.
        points = np.rint((corners + (left + 0.5, top + 0.5)) * scale).astype(int)
        steps = " ".join(map(str, np.diff(points, axis=0).ravel().tolist()))
        parts.append(f"M{points[0, 0]} {points[0, 1]}{'l' if steps else ''}{steps}z")
    return "".join(parts)


def _objects_of(rows, has_masks):
    """Objects of rows (class, box, mask, score, crowd, area)."""
    classes, boxes, masks, scores, crowd, areas = zip(*rows) if rows else [()] * 6
    return Objects(np.array(classes, np.int64), np.array(boxes, np.float64).reshape(-1, 4),
                   list(masks) if has_masks else None, np.array(scores, np.float64), np.array(crowd, bool),
                   np.array(areas, np.float64))


def _curves(precision):
    """Mean over the classes of the precision at each recall, for three choices of IoU.

    Args:
        precision: [10 IoU, 101 recall, classes], -1 where there is no ground truth.

    Returns:
        None without ground truth, else {"50", "75", "mean"}: [AP, precisions in thousandths at recall 0, .01, ...],
        zeros at the end left off.
    """
    with_objects = precision[:, :, (precision > -1).any(axis=(0, 1))]
    if not with_objects.size:
        return None
    mean = with_objects.mean(axis=2)
    chosen = {"50": mean[0], "75": mean[5], "mean": mean.mean(axis=0)}
    return {name: [round(float(curve.mean()), 5), np.trim_zeros(np.rint(1000 * curve).astype(int), "b").tolist()]
            for name, curve in chosen.items()}


def _measured(value):
    """A fraction rounded for the page; None for COCOeval's -1."""
    return None if value < 0 else round(value, 5)
