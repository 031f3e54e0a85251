"""The terms of YOLACT's loss (Sec. 3.3 to 5; YOLACT++, Sec. 6.1), one pure function each: sums, not yet normalised."""
from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from layers.box_utils import center_size


def box_loss(loc: Tensor, loc_target: Tensor) -> Tensor:
    """B: smooth L1 of the positive priors' offsets. [n, 4], [n, 4] -> scalar."""
    return F.smooth_l1_loss(loc, loc_target, reduction="sum")


def ohem_conf_loss(conf: Tensor, conf_target: Tensor, negpos_ratio: int) -> Tensor:
    """C: softmax cross entropy of all positives and the hardest negatives (online hard example mining, as in SSD).

    Negatives of a picture are ranked by how little they look like background: log-sum-exp of the logits minus the
    background logit. As the original, log-sum-exp is shifted by the maximum of the whole batch.

    Args:
        conf: [B, P, C] logits. conf_target: int64 [B, P], -1 neutral, 0 background.
        negpos_ratio: negatives for each positive, in each picture.

    Returns: scalar sum over the selected priors.
    """
    with paddle.no_grad():
        shift = conf.max()
        hardness = paddle.log(paddle.exp(conf - shift).sum(axis=-1)) + shift - conf[..., 0]
        hardness = paddle.where(conf_target == 0, hardness, paddle.zeros_like(hardness))
        num_positive = (conf_target > 0).astype("int64").sum(axis=1)
        num_negative = (num_positive * negpos_ratio).clip(max=conf.shape[1] - 1)
        most = max(1, int(num_negative.max().item()))
        _, hardest = paddle.topk(hardness, most, axis=1)
        wanted = (paddle.arange(most).unsqueeze(0) < num_negative.unsqueeze(1)).astype("int64")
        mined = paddle.put_along_axis(paddle.zeros_like(conf_target), hardest, wanted, axis=1)
        chosen = paddle.logical_or(conf_target > 0, paddle.logical_and(mined > 0, conf_target == 0))
        chosen = paddle.nonzero(chosen.flatten()).flatten()
    if chosen.shape[0] == 0:
        return conf.sum() * 0.0
    logits = conf.reshape([-1, conf.shape[-1]]).index_select(chosen)
    labels = conf_target.flatten().index_select(chosen).unsqueeze(1)
    # Not F.cross_entropy: on the CPU Paddle's cuts every prior's term off at 64.
    return (paddle.logsumexp(logits, axis=1, keepdim=True) - paddle.take_along_axis(logits, labels, axis=1)).sum()


def downsample_masks(masks: Tensor, height: int, width: int) -> Tensor:
    """Ground-truth masks at a feature map's size: bilinear, then binary. [N, H, W] -> float32 [N, height, width]."""
    masks = F.interpolate(masks.astype("float32").unsqueeze(0), size=[height, width], mode="bilinear",
                          align_corners=False)
    return (masks.squeeze(0) > 0.5).astype("float32")


def mask_loss(masks: Tensor, gt_masks: Tensor, gt_boxes: Tensor, is_cropped: bool) -> Tensor:
    """M of one picture: pixel-wise binary cross entropy of the assembled masks (Sec. 3.3, "Loss Functions").

    The prediction is cropped to its ground-truth box, the ground truth is not; each mask's sum is divided by the
    area of its ground-truth box, so that small objects count as much as large ones (Sec. 3.3, "Cropping Masks").

    Args:
        masks: [h, w, n] in 0..1, of the picture's positive priors. gt_masks: float32 [h, w, n], 0 or 1, and
        gt_boxes: [n, 4] relative, of the objects that they are matched with. is_cropped: whether masks are.

    Returns: scalar sum over positives, times h * w if cropped (the original's emulation of RoI pooling).
    """
    height, width = masks.shape[:2]
    pixels = F.binary_cross_entropy(masks, gt_masks, reduction="none").sum(axis=[0, 1])
    size = center_size(gt_boxes)[:, 2:]
    return (pixels / (size[:, 0] * width) / (size[:, 1] * height)).sum() * (height * width if is_cropped else 1)


def mask_iou_loss(estimate: Tensor, masks: Tensor, gt_masks: Tensor) -> Tensor:
    """I: smooth L1 of the estimated IoU of masks (YOLACT++, Sec. 6.1).

    Args:
        estimate: [n]. masks: [h, w, n] in 0..1, binarised at 0.5 for their IoU. gt_masks: [h, w, n], 0 or 1.

    Returns: scalar sum. The IoU of two empty masks is 0.
    """
    with paddle.no_grad():
        masks = (masks > 0.5).astype(gt_masks.dtype)
        overlap = (masks * gt_masks).sum(axis=[0, 1])
        iou = overlap / (masks.sum(axis=[0, 1]) + gt_masks.sum(axis=[0, 1]) - overlap).clip(min=1)
    return F.smooth_l1_loss(estimate, iou, reduction="sum")


def semantic_segmentation_loss(segm: Tensor, gt_masks: Tensor | None, labels: Tensor) -> Tensor:
    """S of one picture: per-class binary cross entropy against the union of each class's masks (Sec. 5).

    Args:
        segm: [C - 1, h, w] logits. gt_masks: float32 [N, h, w], 0 or 1; None for N = 0. labels: int64 [N],
            0-based.

    Returns: scalar sum over classes and pixels.
    """
    target = paddle.zeros_like(segm)
    if gt_masks is not None:
        one_hot = F.one_hot(labels, segm.shape[0]).astype(gt_masks.dtype)
        target = paddle.matmul(one_hot, gt_masks.flatten(1), transpose_x=True).clip(max=1).reshape(segm.shape)
    return F.binary_cross_entropy_with_logits(segm, target, reduction="sum")
