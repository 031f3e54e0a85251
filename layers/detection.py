"""From network outputs to detections: score threshold, then fast (Sec. 5), cross-class or traditional NMS."""
from __future__ import annotations

import math

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor
from paddle.vision.ops import nms

from layers.box_utils import decode, jaccard


def objectness_scores(conf: Tensor) -> Tensor:
    """Scores from an objectness, the first logit, that multiplies a softmax over the classes. [..., C] -> [..., C]."""
    objectness = F.sigmoid(conf[..., :1])
    return paddle.concat([1 - objectness, objectness * F.softmax(conf[..., 1:], axis=-1)], axis=-1)


# Class scores from the logits [..., C], as the class loss (the config's conf_mode) has taught them.
CLASS_SCORES = {"ohem": F.softmax, "focal": F.softmax, "sigmoid": F.sigmoid, "objectness": objectness_scores}


def highest(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` highest of scores [C - 1, n] -> (scores, positions in the flattened scores), by falling score."""
    flat = scores.flatten()
    best_of_box = scores.max(axis=0)
    if count < best_of_box.shape[0]:  # `count` boxes reach `least`, so none of the highest scores is lower
        least = paddle.topk(best_of_box, count)[0][-1]
        few = paddle.nonzero(flat >= least).flatten()
        best, order = paddle.topk(flat.index_select(few), count)
        return best, few.index_select(order)
    return paddle.topk(flat, count)


def pairs_of_class(classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Every pair of equal classes.

    Args:
        classes: int64 [n].

    Returns: (the former of every pair, the latter, both int64 [pairs]; how many equal ones come before, int64 [n]).
    """
    numbers = paddle.arange(len(classes))
    order = paddle.argsort(classes * len(classes) + numbers)  # by class, each in the order they have
    grouped = classes.index_select(order)
    rank = numbers - paddle.searchsorted(grouped, grouped)
    latter = paddle.repeat_interleave(numbers, rank)
    if latter.shape[0] == 0:
        return latter, latter, rank
    distance = paddle.arange(latter.shape[0]) - (paddle.cumsum(rank) - rank).index_select(latter)
    former = latter - 1 - distance
    return order.index_select(former), order.index_select(latter), paddle.scatter(rank, order, rank)


class Detect:
    """Turns the network's outputs into one set of detections a picture.

    Args:
        top_k: candidates a class (or, cross-class, in all) that enter Fast NMS.
        conf_thresh: priors whose best foreground score is not above this are dropped.
        nms_thresh: IoU above which the lower-scored of two boxes goes.
        max_num_detections: detections kept of a picture (cross-class Fast NMS keeps up to top_k, as the original).
        max_size: input size in pixels; traditional NMS counts in pixels.
        use_fast_nms, cross_class_nms: the mode. Traditional NMS is always per class.
        conf_mode: how class scores follow from the logits, a key of CLASS_SCORES.
    """

    def __init__(self, top_k: int, conf_thresh: float, nms_thresh: float, max_num_detections: int, max_size: int,
                 use_fast_nms: bool = True, cross_class_nms: bool = False, conf_mode: str = "ohem") -> None:
        self.top_k = top_k
        self.conf_thresh = conf_thresh
        self.nms_thresh = nms_thresh
        self.max_num_detections = max_num_detections
        self.max_size = max_size
        self.use_fast_nms = use_fast_nms
        self.cross_class_nms = cross_class_nms
        self.class_scores = CLASS_SCORES[conf_mode]

    @paddle.no_grad()
    def __call__(self, out: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        """Detect in a batch.

        Args:
            out: what `Yolact.forward` returns.

        Returns:
            list of B dicts, sorted by score: box [D, 4] corner form relative, class [D] int64 0-based without
            background, score [D], mask [D, K] coefficients or direct masks, and proto [h, w, K] if the network has a
            protonet. D may be 0.
        """
        detections = []
        for i in range(out["conf"].shape[0]):
            logits = out["conf"][i]
            near = self.near_threshold(logits)
            scores = self.class_scores(logits.index_select(near))
            if "score" in out:  # mask scoring
                scores = scores * F.sigmoid(out["score"][i].index_select(near))
            boxes = decode(out["loc"][i].index_select(near), out["priors"].index_select(near))
            found = self.detect(boxes, out["mask"][i].index_select(near), scores)
            if "proto" in out:
                found["proto"] = out["proto"][i]
            detections.append(found)
        return detections

    def near_threshold(self, logits: Tensor) -> Tensor:
        """Priors whose score may be above conf_thresh, most of them not being so: nothing is computed for the others.

        Of a softmax, a class has at most the probability that it would have against the background alone.

        Args:
            logits: [P, C], background first.

        Returns: indices, int64 [n], n >= 1.
        """
        if self.class_scores is not F.softmax or not 0 < self.conf_thresh < 1:
            return paddle.arange(logits.shape[0])
        least = math.log(self.conf_thresh / (1 - self.conf_thresh)) - 1e-3  # more than rounding
        foreground = logits.clone()
        foreground[:, 0] = -float("inf")  # leaving out the column would copy more slowly
        near = paddle.nonzero(foreground.max(axis=1) - logits[:, 0] > least).flatten()
        return near if near.shape[0] else paddle.zeros([1], "int64")

    def detect(self, boxes: Tensor, coeffs: Tensor, scores: Tensor) -> dict[str, Tensor]:
        """One picture: boxes [P, 4], coeffs [P, K], scores [P, C] with background -> `__call__`'s dict, no proto."""
        best = scores[:, 1:].max(axis=1)
        keep = paddle.nonzero(best > self.conf_thresh).flatten()
        if keep.shape[0] == 0:
            return {"box": paddle.zeros([0, 4], boxes.dtype), "class": paddle.zeros([0], "int64"),
                    "score": paddle.zeros([0], scores.dtype), "mask": paddle.zeros([0, coeffs.shape[1]], coeffs.dtype)}
        boxes, coeffs = boxes.index_select(keep), coeffs.index_select(keep)
        scores = scores.index_select(keep)[:, 1:].transpose([1, 0])
        if not self.use_fast_nms:
            index, classes, scores = self.traditional_nms(boxes, scores)
        elif self.cross_class_nms:
            index, classes, scores = self.cross_class_fast_nms(boxes, scores)
        else:
            index, classes, scores = self.fast_nms(boxes, scores)
        return {"box": boxes.index_select(index), "class": classes, "score": scores, "mask": coeffs.index_select(index)}

    def fast_nms(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Fast NMS (Sec. 5): a box goes if any higher-scored box of its class overlaps it, even one that went itself.

        There is no second score threshold, as in the original: every class contributes, so that AP has its tail. As a
        box goes only because of boxes with higher scores, the highest are looked at alone, and more of them if too few
        are left: the result is that of comparing all.

        Args:
            boxes: [n, 4]. scores: [C - 1, n].

        Returns: (index into boxes [D], classes [D], scores [D]), by falling score.
        """
        wanted, count = min(self.max_num_detections, scores.size), min(4 * self.max_num_detections, scores.size)
        best, entry = highest(scores, count)
        classes, index = entry // scores.shape[1], entry % scores.shape[1]
        kept = paddle.nonzero(self.not_overlapped(boxes.index_select(index), classes)).flatten()
        if kept.shape[0] < wanted and count < scores.size:
            best, classes, index = self.candidates(scores)
            for more in (4 * count, 16 * count, len(index)):
                kept = self.not_overlapped(boxes.index_select(index[:more]), classes[:more])
                kept = paddle.nonzero(kept).flatten()
                if kept.shape[0] >= wanted:
                    break
        kept = kept[:wanted]
        return index.index_select(kept), classes.index_select(kept), best.index_select(kept)

    def candidates(self, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The top_k of every class. scores [C - 1, n] -> (scores, classes, index of boxes), by falling score."""
        each = min(self.top_k, scores.shape[1])
        best, index = paddle.topk(scores, each, axis=1)
        best, order = paddle.topk(best.flatten(), best.size)
        return best, order // each, index.flatten().index_select(order)

    def not_overlapped(self, boxes: Tensor, classes: Tensor) -> Tensor:
        """Which boxes Fast NMS keeps: those among the top_k of their class that none before overlaps.

        Args:
            boxes: [n, 4] by falling score. classes: int64 [n].

        Returns: bool [n].
        """
        earlier, later, rank = pairs_of_class(classes)
        kept = rank < self.top_k
        if later.shape[0] == 0:
            return kept
        overlap = jaccard(boxes.index_select(earlier).unsqueeze(1), boxes.index_select(later).unsqueeze(1)).flatten()
        over = paddle.logical_not(overlap <= self.nms_thresh)  # so of a box without area, whose IoU is not a number
        return paddle.logical_and(kept, paddle.bincount(later, over.astype("float32"), len(boxes)) == 0)

    def cross_class_fast_nms(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Fast NMS over all classes at once, each box with its best class. Arguments and results as `fast_nms`."""
        classes = scores.argmax(axis=0)
        scores, index = paddle.topk(scores.max(axis=0), min(self.top_k, scores.shape[1]))
        boxes = boxes.index_select(index)
        overlap_before = paddle.triu(jaccard(boxes, boxes), diagonal=1).max(axis=0)  # with boxes of higher scores
        kept = paddle.nonzero(overlap_before <= self.nms_thresh).flatten()
        index = index.index_select(kept)
        return index, classes.index_select(index), scores.index_select(kept)

    def traditional_nms(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sequential NMS of every class, in pixels of the network's input. Arguments and results as `fast_nms`.

        The original counts pixels inclusively (areas are (x2 - x1 + 1) * (y2 - y1 + 1)) and suppresses at IoU >=
        threshold; shifting the far corner by one pixel and the threshold by one float gives the same from Paddle's
        operator.
        """
        pixels = boxes * self.max_size + paddle.to_tensor([0.0, 0.0, 1.0, 1.0], dtype=boxes.dtype)
        threshold = float(np.nextafter(np.float32(self.nms_thresh), np.float32(0)))
        index, classes, kept_scores = [], [], []
        above = scores > self.conf_thresh
        for label in paddle.nonzero(above.any(axis=1)).flatten().tolist():
            candidates = paddle.nonzero(above[label]).flatten()
            class_scores = scores[label].index_select(candidates)
            kept = nms(pixels.index_select(candidates), threshold, class_scores)
            index.append(candidates.index_select(kept))
            classes.append(paddle.full([kept.shape[0]], label, "int64"))
            kept_scores.append(class_scores.index_select(kept))
        found = paddle.concat(kept_scores)
        best, order = paddle.topk(found, min(self.max_num_detections, found.shape[0]))
        return paddle.concat(index).index_select(order), paddle.concat(classes).index_select(order), best
