"""The loss terms that the papers compare with, off in the published networks: pure functions, summed over a batch.

Focal loss (Lin et al. 2017) in three kinds, class existence, coefficient diversity, and the direct masks of fc-mask.
"""
from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from layers.box_utils import sanitize_coordinates


def _focal(log_probability: Tensor, alpha: Tensor, gamma: float) -> Tensor:
    """-alpha (1 - p)^gamma log p, from log p; alpha of the same shape."""
    # At p = 1 the power's derivative would be infinite for gamma < 1.
    return -alpha * (-paddle.expm1(log_probability)).clip(min=1e-12) ** gamma * log_probability


def _log_softmax(logits: Tensor) -> Tensor:
    """Paddle's own is cut off at -64 on the CPU."""
    return logits - paddle.logsumexp(logits, axis=-1, keepdim=True)


def _flat(conf: Tensor, conf_target: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and labels of all priors that are not neutral. [B, P, C], [B, P] -> [n, C], [n]."""
    kept = paddle.nonzero(conf_target.flatten() >= 0).flatten()
    return conf.reshape([-1, conf.shape[-1]]).index_select(kept), conf_target.flatten().index_select(kept)


def _foreground_alpha(labels: Tensor, alpha: float) -> Tensor:
    """The focal loss's alpha for objects, 1 - alpha for background. int64 [n] -> float32 [n]."""
    foreground = (labels > 0).astype("float32")
    return alpha * foreground + (1 - alpha) * (1 - foreground)


def focal_conf_loss(conf: Tensor, conf_target: Tensor, alpha: float, gamma: float) -> Tensor:
    """C by focal loss on a softmax over background and classes.

    Args:
        conf: [B, P, C] logits. conf_target: int64 [B, P], -1 neutral, 0 background. alpha, gamma: of the focal loss.

    Returns: scalar sum over all priors that are not neutral.
    """
    conf, labels = _flat(conf, conf_target)
    log_probability = _log_softmax(conf).take_along_axis(labels.unsqueeze(1), axis=1).squeeze(1)
    return _focal(log_probability, _foreground_alpha(labels, alpha), gamma).sum()


def sigmoid_focal_conf_loss(conf: Tensor, conf_target: Tensor, alpha: float, gamma: float) -> Tensor:
    """C by focal loss on a sigmoid of each class, as RetinaNet; the background's logit is not used.

    Arguments and result as `focal_conf_loss`.
    """
    conf, labels = _flat(conf, conf_target)
    target = F.one_hot(labels, conf.shape[-1])[:, 1:]
    log_probability = F.log_sigmoid(conf[:, 1:] * (2 * target - 1))
    return _focal(log_probability, alpha * target + (1 - alpha) * (1 - target), gamma).sum()


def objectness_focal_conf_loss(conf: Tensor, conf_target: Tensor, alpha: float, gamma: float) -> Tensor:
    """C by focal loss on the objectness, the first logit, and cross entropy over the classes for positives.

    Arguments and result as `focal_conf_loss`.
    """
    conf, labels = _flat(conf, conf_target)
    sign = 2 * (labels > 0).astype(conf.dtype) - 1
    objectness = _focal(F.log_sigmoid(conf[:, 0] * sign), _foreground_alpha(labels, alpha), gamma).sum()
    positive = paddle.nonzero(labels > 0).flatten()
    if positive.shape[0] == 0:
        return objectness
    classes = _log_softmax(conf[:, 1:].index_select(positive))
    return objectness - classes.take_along_axis(labels.index_select(positive).unsqueeze(1) - 1, axis=1).sum()


def class_existence_loss(classes: Tensor, labels: list[Tensor]) -> Tensor:
    """E: binary cross entropy of which classes are in each picture, the picture's crowds left out.

    Args:
        classes: [B, C - 1] logits. labels: list of B int64 [N], 0-based.

    Returns: scalar sum.
    """
    target = paddle.stack([F.one_hot(picture, classes.shape[1]).max(axis=0) if picture.shape[0]
                           else paddle.zeros([classes.shape[1]]) for picture in labels])
    return F.binary_cross_entropy_with_logits(classes, target, reduction="sum")


def coeff_diversity_loss(coeffs: Tensor, gt_index: Tensor) -> Tensor:
    """D of one picture: coefficients of priors with the same object should agree, of different objects differ.

    The cosine similarity of every pair, scaled to 0..1, is the loss of two objects, 1 minus it that of one.

    Args:
        coeffs: [n, K] of the picture's positive priors. gt_index: int64 [n], the object of each.

    Returns: scalar sum over all pairs, divided by n.
    """
    direction = F.normalize(coeffs, axis=1)
    similarity = (paddle.matmul(direction, direction, transpose_y=True) + 1) / 2
    same = (gt_index.unsqueeze(0) == gt_index.unsqueeze(1)).astype(coeffs.dtype)
    return (same * (1 - similarity) + (1 - same) * similarity).sum() / coeffs.shape[0]


def direct_mask_loss(masks: Tensor, boxes: Tensor, gt_masks: Tensor, gt_index: Tensor) -> Tensor:
    """M of one picture for masks predicted pixel by pixel (fc-mask, YOLACT Table 2c): binary cross entropy.

    Args:
        masks: [n, S * S] in 0..1, of the positive priors. boxes: [n, 4] relative, the boxes predicted for them.
        gt_masks: uint8 [N, H, W]. gt_index: int64 [n], the object of each prior.

    Returns: scalar sum over masks and pixels.
    """
    side = round(masks.shape[1] ** 0.5)
    with paddle.no_grad():
        target = pooled_crops(gt_masks, gt_index, boxes.clip(0, 1), side) > 0.5
    return F.binary_cross_entropy(masks, target.astype(masks.dtype).flatten(1), reduction="sum")


def pooled_crops(masks: Tensor, index: Tensor, boxes: Tensor, side: int) -> Tensor:
    """The boxes' parts of masks, averaged to side x side cells (as PyTorch's adaptive average pooling).

    Sums over a rectangle are differences of the integral image, so that no box needs a loop of its own.

    Args:
        masks: uint8 [N, H, W]. index: int64 [n], whose mask each box is of. boxes: [n, 4] relative.

    Returns: float32 [n, side, side]; 0 where a box is empty.
    """
    height, width = masks.shape[1:]
    integral = F.pad(masks.astype("int64").cumsum(axis=1).cumsum(axis=2).unsqueeze(0), [1, 0, 1, 0]).squeeze(0)
    x1, x2 = sanitize_coordinates(boxes[:, 0], boxes[:, 2], width)
    y1, y2 = sanitize_coordinates(boxes[:, 1], boxes[:, 3], height)
    left, right = _cells(x1, x2, side)
    top, bottom = _cells(y1, y2, side)

    def corner(rows: Tensor, columns: Tensor) -> Tensor:
        flat = (index.reshape([-1, 1, 1]) * (height + 1) + rows.unsqueeze(2)) * (width + 1) + columns.unsqueeze(1)
        return integral.flatten().index_select(flat.flatten()).reshape(flat.shape)

    sums = corner(bottom, right) - corner(top, right) - corner(bottom, left) + corner(top, left)
    areas = (bottom - top).unsqueeze(2) * (right - left).unsqueeze(1)
    return sums.astype("float32") / areas.clip(min=1).astype("float32")


def _cells(low: Tensor, high: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """First and behind-last pixel of each of `side` cells of the intervals [low, high) -> two int64 [n, side]."""
    low, high = low.astype("int64").unsqueeze(1), high.astype("int64").unsqueeze(1)
    step = paddle.arange(side, dtype="int64")
    length = high - low
    # Down and up, so that neighbours share a pixel rather than leave one out.
    return low + step * length // side, low + -(-(step + 1) * length // side)
