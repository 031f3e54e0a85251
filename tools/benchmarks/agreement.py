"""How much of what one engine finds in pictures another one finds as well. D detections of a picture."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as mask_utils

from utils.instances import Instances

SAME_SCORE, SAME_MASK = 1e-3, 0.99  # largest difference and smallest IoU of detections that are the same
AT_ALL = 0.5  # IoU of those that are meant to be the same


class Found(NamedTuple):
    """The detections of one picture, small enough to keep those of many.

    classes: int [D]. scores: float [D]. rles: D COCO run lengths, of the boxes without a mask branch.
    """

    classes: np.ndarray
    scores: np.ndarray
    rles: list[dict[str, Any]]


def found_of(instances: Instances) -> Found:
    """The masks encoded as for COCO; without masks, the boxes."""
    if instances.has_masks:
        rles = instances.rle()
    else:
        low, high = instances.boxes[:, :2], instances.boxes[:, 2:]
        rles = mask_utils.frPyObjects(np.concatenate([low, high - low], axis=1).astype(np.float64),
                                      instances.height, instances.width) if len(instances) else []
    return Found(instances.classes, instances.scores, rles)


def partners(first: Found, second: Found) -> tuple[np.ndarray, np.ndarray]:
    """For each detection of `first` the one of `second` of its class that shares most of its mask, each taken once.

    Returns: (IoU of the masks, 0 without a partner; absolute difference of the scores), float [D] each.
    """
    count = len(first.rles)
    if not count or not len(second.rles):
        return np.zeros(count), np.zeros(count)
    overlap = mask_utils.iou(first.rles, second.rles, [0] * len(second.rles))
    empty = [mask_utils.area(found.rles) == 0 for found in (first, second)]
    overlap[np.ix_(*empty)] = 1  # two masks without a pixel are the same
    overlap[first.classes[:, np.newaxis] != second.classes] = 0
    difference = np.abs(first.scores[:, np.newaxis] - second.scores)
    highest, of_scores = np.zeros(count), np.zeros(count)
    for row in range(count):
        column = np.lexsort((difference[row], -overlap[row]))[0]
        highest[row], of_scores[row] = overlap[row, column], difference[row, column]
        overlap[:, column] = 0
    return highest, of_scores


def agreement(eager: Sequence[Found], others: Sequence[Found]) -> dict[str, Any]:
    """How much of what one engine found in pictures another one finds as well.

    Returns: {"detections": of `eager`; "same": share of them that is found with the same class, a score within
        SAME_SCORE and a mask IoU of at least SAME_MASK; "at_all": share that is found with the same class and an IoU
        above AT_ALL; "largest_score_difference", "smallest_mask_iou": of these}; None for figures of nothing.
    """
    pairs = [partners(first, second) for first, second in zip(eager, others)]
    overlap, difference = (np.concatenate([pair[part] for pair in pairs]) for part in (0, 1))
    same, at_all = (overlap >= SAME_MASK) & (difference <= SAME_SCORE), overlap > AT_ALL
    return {"detections": len(overlap),
            "same": float(same.mean()) if len(same) else None,
            "at_all": float(at_all.mean()) if len(same) else None,
            "largest_score_difference": float(difference[at_all].max()) if at_all.any() else None,
            "smallest_mask_iou": float(overlap[at_all].min()) if at_all.any() else None}
