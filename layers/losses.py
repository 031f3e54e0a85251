"""The terms of YOLACT's loss (Sec. 3.3 to 5), one pure function each, summed over a batch and not yet normalised."""
import paddle
import paddle.nn.functional as F

from layers.box_utils import center_size, crop


def box_loss(loc, loc_target):
    """B: smooth L1 of the positive priors' offsets. [n, 4], [n, 4] -> scalar."""
    return F.smooth_l1_loss(loc, loc_target, reduction="sum")


def ohem_conf_loss(conf, conf_target, negpos_ratio):
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


def downsample_masks(masks, height, width):
    """Ground-truth masks at a feature map's size: bilinear, then binary. [N, H, W] -> float32 [N, height, width]."""
    masks = F.interpolate(masks.astype("float32").unsqueeze(0), size=[height, width], mode="bilinear",
                          align_corners=False)
    return (masks.squeeze(0) > 0.5).astype("float32")


def lincomb_mask_loss(proto, coeffs, gt_boxes, gt_masks, gt_index, masks_to_train, crop_masks):
    """M of one picture: pixel-wise binary cross entropy of the assembled masks (Sec. 3.3, "Loss Functions").

    The prediction is cropped to its ground-truth box, the ground truth is not; each mask's sum is divided by the
    area of its ground-truth box, so that small objects count as much as large ones (Sec. 3.3, "Cropping Masks").

    Args:
        proto: [h, w, K]. coeffs: [n, K] of the picture's positive priors.
        gt_boxes: [n, 4] relative and gt_index: int64 [n], the object each positive is matched with.
        gt_masks: float32 [N, h, w], 0 or 1.
        masks_to_train: at most so many positives, a random choice, are used; the loss is scaled up to all.

    Returns: scalar sum over positives, times h * w if cropped.
    """
    height, width = proto.shape[:2]
    positives = coeffs.shape[0]
    if positives > masks_to_train:
        chosen = paddle.randperm(positives)[:masks_to_train]
        coeffs, gt_boxes, gt_index = (x.index_select(chosen) for x in (coeffs, gt_boxes, gt_index))
    masks = F.sigmoid(paddle.matmul(proto, coeffs, transpose_y=True))
    if crop_masks:
        masks = crop(masks, gt_boxes)
    target = gt_masks.index_select(gt_index).transpose([1, 2, 0])
    pixels = F.binary_cross_entropy(masks, target, reduction="none").sum(axis=[0, 1])
    size = center_size(gt_boxes)[:, 2:]
    loss = (pixels / (size[:, 0] * width) / (size[:, 1] * height)).sum() * (height * width if crop_masks else 1)
    return loss * (positives / masks_to_train) if positives > masks_to_train else loss


def semantic_segmentation_loss(segm, gt_masks, labels):
    """S of one picture: per-class binary cross entropy against the union of each class's masks (Sec. 5).

    Args:
        segm: [C - 1, h, w] logits. gt_masks: float32 [N, h, w], 0 or 1. labels: int64 [N], 0-based.

    Returns: scalar sum over classes and pixels.
    """
    target = paddle.zeros_like(segm)
    if labels.shape[0]:
        one_hot = F.one_hot(labels, segm.shape[0]).astype(gt_masks.dtype)
        target = paddle.matmul(one_hot, gt_masks.flatten(1), transpose_x=True).clip(max=1).reshape(segm.shape)
    return F.binary_cross_entropy_with_logits(segm, target, reduction="sum")
