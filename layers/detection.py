"""From network outputs to detections: score threshold, then fast (Sec. 5), cross-class or traditional NMS."""
import math

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle.vision.ops import nms

from layers.box_utils import decode, jaccard


def objectness_scores(conf):
    """Scores from an objectness, the first logit, that multiplies a softmax over the classes. [..., C] -> [..., C]."""
    objectness = F.sigmoid(conf[..., :1])
    return paddle.concat([1 - objectness, objectness * F.softmax(conf[..., 1:], axis=-1)], axis=-1)


# Class scores from the logits [..., C], as the class loss (the config's conf_mode) has taught them.
CLASS_SCORES = {"ohem": F.softmax, "focal": F.softmax, "sigmoid": F.sigmoid, "objectness": objectness_scores}
MOST_PAIRED = 2048  # candidates of all classes that Fast NMS compares at once, each with each


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

    def __init__(self, top_k, conf_thresh, nms_thresh, max_num_detections, max_size,
                 use_fast_nms=True, cross_class_nms=False, conf_mode="ohem"):
        self.top_k = top_k
        self.conf_thresh = conf_thresh
        self.nms_thresh = nms_thresh
        self.max_num_detections = max_num_detections
        self.max_size = max_size
        self.use_fast_nms = use_fast_nms
        self.cross_class_nms = cross_class_nms
        self.class_scores = CLASS_SCORES[conf_mode]

    @paddle.no_grad()
    def __call__(self, out):
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

    def near_threshold(self, logits):
        """Priors whose score may be above conf_thresh, most of them not being so: nothing is computed for the others.

        Of a softmax, a class has at most the probability that it would have against the background alone.

        Args:
            logits: [P, C], background first.

        Returns: indices, int64 [n], n >= 1.
        """
        if self.class_scores is not F.softmax or not 0 < self.conf_thresh < 1:
            return paddle.arange(logits.shape[0])
        least = math.log(self.conf_thresh / (1 - self.conf_thresh)) - 1e-3  # more than rounding
        near = paddle.nonzero(logits[:, 1:].max(axis=1) - logits[:, 0] > least).flatten()
        return near if near.shape[0] else paddle.zeros([1], "int64")

    def detect(self, boxes, coeffs, scores):
        """One picture: boxes [P, 4], coeffs [P, K], scores [P, C] with background -> dict as above, without proto."""
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

    def fast_nms(self, boxes, scores):
        """Fast NMS (Sec. 5): a box goes if any higher-scored box of its class overlaps it, even one that went itself.

        There is no second score threshold, as in the original: every class contributes, so that AP has its tail.

        Args:
            boxes: [n, 4]. scores: [C - 1, n].

        Returns: (index into boxes [D], classes [D], scores [D]), by falling score.
        """
        candidates = min(self.top_k, scores.shape[1])
        few, more = 4 * self.max_num_detections, scores.shape[1] + 2 * self.max_num_detections
        scores, index = paddle.topk(scores, candidates, axis=1)
        for count in (few, more):
            found = self.fast_nms_of_best(boxes, scores, index, min(count, scores.size))
            if found is not None:
                return found
        overlap = self.highest_overlap_before(boxes.index_select(index.flatten()).reshape([-1, candidates, 4]))
        kept = paddle.nonzero((overlap <= self.nms_thresh).flatten()).flatten()
        best, order = self.best(scores.flatten().index_select(kept))
        kept = kept.index_select(order)
        return index.flatten().index_select(kept), kept // candidates, best

    def fast_nms_of_best(self, boxes, scores, index, count):
        """Fast NMS of the `count` highest scores of all classes together; None if too few boxes are left of them.

        A box goes only because of boxes with higher scores, so that what is left of the highest is the same as in
        comparing all.

        Args:
            boxes: [n, 4]. scores, index: [C - 1, k], of each class's candidates by falling score, into boxes.
        """
        if count > MOST_PAIRED:
            return None
        best, entry = paddle.topk(scores.flatten(), count)
        classes, index = entry // scores.shape[1], index.flatten().index_select(entry)
        of_class = (classes.unsqueeze(0) == classes.unsqueeze(1)).astype(boxes.dtype)
        kept = paddle.nonzero(self.highest_overlap_before(boxes.index_select(index), of_class) <= self.nms_thresh)
        kept = kept.flatten()[:self.max_num_detections]
        if kept.shape[0] < min(self.max_num_detections, scores.size) and count < scores.size:
            return None
        return index.index_select(kept), classes.index_select(kept), best.index_select(kept)

    def cross_class_fast_nms(self, boxes, scores):
        """Fast NMS over all classes at once, each box with its best class. Arguments and results as `fast_nms`."""
        classes = scores.argmax(axis=0)
        scores, index = paddle.topk(scores.max(axis=0), min(self.top_k, scores.shape[1]))
        overlap = self.highest_overlap_before(boxes.index_select(index))
        kept = paddle.nonzero(overlap <= self.nms_thresh).flatten()
        index = index.index_select(kept)
        return index, classes.index_select(index), scores.index_select(kept)

    def traditional_nms(self, boxes, scores):
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
        best, order = self.best(paddle.concat(kept_scores))
        return paddle.concat(index).index_select(order), paddle.concat(classes).index_select(order), best

    @staticmethod
    def highest_overlap_before(boxes, counts=1):
        """[..., n, 4] by falling score -> [..., n]: each box's highest IoU with the boxes before it.

        Args:
            counts: 1, or [n, n] with 0 where two boxes are not compared.
        """
        return paddle.triu(jaccard(boxes, boxes) * counts, diagonal=1).max(axis=-2)

    def best(self, scores):
        """The max_num_detections highest of scores [n] -> (scores, order), by falling score."""
        return paddle.topk(scores, min(self.max_num_detections, scores.shape[0]))
