"""Which prior learns which object: SSD matching with YOLACT's thresholds and COCO crowds (the original's `match`)."""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import paddle
from paddle import Tensor

from layers.box_utils import encode, jaccard, point_form

NEUTRAL = -1  # the prior takes no part in the class loss
BACKGROUND = 0


def match(boxes: Tensor, labels: Tensor, crowd_boxes: Tensor, priors: Tensor,
          positive_iou: float, negative_iou: float, crowd_iou: float) -> tuple[Tensor, Tensor, Tensor]:
    """Match the priors with the objects of one picture.

    A prior takes the object it overlaps most. IoU under `positive_iou` makes it neutral, under `negative_iou`
    background. Then every object gets a prior of its own, the one it overlaps most, however little. Background and
    neutral priors that lie by more than `crowd_iou` of their own area in a crowd region are neutral.

    Args:
        boxes: float32 [N, 4] objects, corner form; N may be 0 (then nothing is positive). labels: int64 [N], 0-based.
        crowd_boxes: float32 [M, 4], M may be 0.
        priors: [P, 4] centre form.
        positive_iou, negative_iou, crowd_iou: thresholds.

    Returns:
        (loc [P, 4] encoded offsets to the matched object, conf int64 [P] with 0 background, -1 neutral, otherwise
        label + 1, index int64 [P] of the matched object). loc and index mean something for positives only.
    """
    prior_boxes = point_form(priors)
    if boxes.shape[0]:
        overlaps = jaccard(boxes, prior_boxes).numpy()
        index = overlaps.argmax(axis=0)
        best = overlaps.max(axis=0)
        for object_index, prior_index in best_prior_each(overlaps):
            index[prior_index] = object_index
            best[prior_index] = 2.0  # over every threshold
        conf = labels.numpy()[index] + 1
        conf[best < positive_iou] = NEUTRAL
        conf[best < negative_iou] = BACKGROUND
        index = paddle.to_tensor(index)
        loc = encode(boxes.index_select(index), priors)
    else:
        conf = np.full([priors.shape[0]], BACKGROUND, dtype="int64")
        index = paddle.zeros([priors.shape[0]], "int64")
        loc = paddle.zeros_like(priors)
    if crowd_boxes.shape[0]:
        in_crowd = jaccard(prior_boxes, crowd_boxes, iscrowd=True).max(axis=1).numpy() > crowd_iou
        conf[(conf == BACKGROUND) & in_crowd] = NEUTRAL
    return loc, paddle.to_tensor(conf), index


def best_prior_each(overlaps: np.ndarray) -> Iterator[tuple[int, int]]:
    """Give every object a different prior, greedily by the highest overlap left.

    Args:
        overlaps: float32 ndarray [N, P]; overwritten.

    Yields: (object index, prior index), N times (less if P < N).
    """
    best_prior = overlaps.argmax(axis=1)
    best = overlaps.max(axis=1)
    for _ in range(min(overlaps.shape)):
        chosen = best.argmax()
        taken = best_prior[chosen]
        yield chosen, taken
        overlaps[:, taken] = -1
        best[chosen] = -1
        # Only objects that wanted the prior just taken have to look again; -1 marks those that have theirs.
        again = np.flatnonzero((best_prior == taken) & (best >= 0))
        best_prior[again] = overlaps[again].argmax(axis=1)
        best[again] = overlaps[again].max(axis=1)
