"""The training criterion: match every picture, call the loss terms, normalise (Sec. 3.3 to 5)."""
import functools

import paddle
import paddle.nn.functional as F

from layers.ablation_losses import (
    class_existence_loss,
    coeff_diversity_loss,
    direct_mask_loss,
    focal_conf_loss,
    objectness_focal_conf_loss,
    sigmoid_focal_conf_loss,
)
from layers.box_utils import decode
from layers.losses import (
    box_loss,
    downsample_masks,
    mask_iou_loss,
    mask_loss,
    ohem_conf_loss,
    semantic_segmentation_loss,
)
from layers.matching import match
from layers.output_utils import assemble_masks

# Box, mask, coefficient diversity, class, mask IoU, class existence, semantic segmentation.
TERMS = "BMDCIES"
FOCAL_LOSSES = {"focal": focal_conf_loss, "sigmoid": sigmoid_focal_conf_loss, "objectness": objectness_focal_conf_loss}


class MultiBoxLoss:
    """The terms as the original weighs and normalises them.

    All are divided by the batch's number of positive priors, but E and S by the batch size. Without a positive prior
    those that need one are 0 (the original divides by zero).

    Args:
        cfg: the network's configuration, read at construction only.
        maskiou_net: the network's `maskiou_net`, whose estimate I judges; None without cfg.use_maskiou.
    """

    def __init__(self, cfg, maskiou_net=None):
        self.thresholds = (cfg.positive_iou_threshold, cfg.negative_iou_threshold, cfg.crowd_iou_threshold)
        if cfg.conf_mode == "ohem":
            self.conf_loss = functools.partial(ohem_conf_loss, negpos_ratio=cfg.ohem_negpos_ratio)
        else:
            self.conf_loss = functools.partial(FOCAL_LOSSES[cfg.conf_mode], alpha=cfg.focal_loss_alpha,
                                               gamma=cfg.focal_loss_gamma)
        self.masks_to_train = cfg.masks_to_train
        self.crop_masks = cfg.mask_proto_crop
        self.has_direct_masks = cfg.mask_type == "direct" and cfg.eval_mask_branch
        self.maskiou_net = maskiou_net
        self.discard_mask_area = cfg.discard_mask_area
        self.has_diversity_loss = cfg.mask_proto_coeff_diversity_loss
        self.weights = {"B": cfg.bbox_alpha, "M": cfg.mask_alpha, "D": cfg.mask_proto_coeff_diversity_alpha,
                        "C": cfg.conf_alpha, "E": cfg.class_existence_alpha, "S": cfg.semantic_segmentation_alpha,
                        "I": cfg.mask_scoring_alpha if cfg.use_mask_scoring else cfg.maskiou_alpha}

    def __call__(self, out, targets):
        """The loss of one batch.

        Args:
            out: what `Yolact.forward` returns in training mode.
            targets: list of B samples with boxes float32 [N, 4] relative corner form, labels int64 [N] 0-based,
                masks uint8 [N, H, W] and num_crowds; crowds are the last rows. ndarrays; never changed.

        Returns: dict of scalars in the order of TERMS: B, M, C and those that the network has an output for.
        """
        objects = [self._without_crowds(target) for target in targets]
        matches = [match(boxes, labels, crowd_boxes, out["priors"], *self.thresholds)
                   for boxes, labels, _, crowd_boxes in objects]
        positives = [paddle.nonzero(conf > 0).flatten() for _, conf, _ in matches]

        losses = {"B": self._boxes(out, matches, positives),
                  "C": self.conf_loss(out["conf"], paddle.stack([conf for _, conf, _ in matches]))}
        if "proto" in out:
            losses.update(self._masks(out, objects, matches, positives))
        elif self.has_direct_masks:
            losses["M"] = self._direct_masks(out, objects, matches, positives)
        if "classes" in out:
            losses["E"] = class_existence_loss(out["classes"], [labels for _, labels, _, _ in objects])
        if "segm" in out:
            losses["S"] = self._segmentation(out["segm"], objects)

        num_positive = max(1, sum(p.shape[0] for p in positives))
        return {name: losses[name] * self.weights[name] / (len(targets) if name in "ES" else num_positive)
                for name in TERMS if name in losses}

    @staticmethod
    def _without_crowds(target):
        """One sample -> (boxes, labels, masks, crowd boxes) as tensors."""
        count = len(target.labels) - target.num_crowds
        boxes = paddle.to_tensor(target.boxes)
        labels, masks = paddle.to_tensor(target.labels[:count]), paddle.to_tensor(target.masks[:count])
        return boxes[:count], labels, masks, boxes[count:]

    @staticmethod
    def _boxes(out, matches, positives):
        loc = paddle.concat([out["loc"][i].index_select(p) for i, p in enumerate(positives) if p.shape[0]] or
                            [out["loc"][0, :1] * 0])
        target = paddle.concat([matches[i][0].index_select(p) for i, p in enumerate(positives) if p.shape[0]] or
                               [paddle.zeros_like(loc)])
        return box_loss(loc, target)

    def _masks(self, out, objects, matches, positives):
        """M, and D and I if they are wanted, from the prototypes."""
        height, width = out["proto"].shape[1:3]
        zero = 0.0 if any(p.shape[0] for p in positives) else out["proto"].sum() * 0.0
        losses = {"M": zero}
        if self.has_diversity_loss:
            losses["D"] = zero
        if self.maskiou_net is not None or "score" in out:
            losses["I"] = out["proto"].sum() * 0.0
        for i, (boxes, labels, masks, _) in enumerate(objects):
            if positives[i].shape[0] == 0:
                continue
            gt_index = matches[i][2].index_select(positives[i])
            if self.has_diversity_loss:
                losses["D"] += coeff_diversity_loss(out["mask"][i].index_select(positives[i]), gt_index)
            chosen, gt_index, scale = self._sample(positives[i], gt_index)
            gt_boxes = boxes.index_select(gt_index)
            gt_masks = downsample_masks(masks, height, width).index_select(gt_index).transpose([1, 2, 0])
            predicted = assemble_masks(out["proto"][i], out["mask"][i].index_select(chosen), gt_boxes, self.crop_masks)
            losses["M"] += mask_loss(predicted, gt_masks, gt_boxes, self.crop_masks) * scale
            if "I" in losses:
                losses["I"] += self._mask_iou(out, i, chosen, predicted, gt_masks, labels.index_select(gt_index))
        return {**losses, "M": losses["M"] / height / width}

    def _sample(self, positives, gt_index):
        """At most `masks_to_train` positives, a random choice, their objects, and what scales their loss up to all."""
        count = positives.shape[0]
        if count <= self.masks_to_train:
            return positives, gt_index, 1.0
        chosen = paddle.randperm(count)[:self.masks_to_train]
        return positives.index_select(chosen), gt_index.index_select(chosen), count / self.masks_to_train

    def _mask_iou(self, out, i, priors, masks, gt_masks, labels):
        """I of picture i: of its objects that are large enough, by the re-scoring network or the head's branch."""
        kept = paddle.nonzero(gt_masks.sum(axis=[0, 1]) > self.discard_mask_area).flatten()
        if kept.shape[0] == 0:
            return 0.0
        masks, gt_masks = masks.index_select(kept, axis=2), gt_masks.index_select(kept, axis=2)
        if self.maskiou_net is not None:
            estimate = self.maskiou_net.of_class(masks, labels.index_select(kept))
        else:
            estimate = F.sigmoid(out["score"][i, :, 0].index_select(priors.index_select(kept)))
        return mask_iou_loss(estimate, masks, gt_masks)

    @staticmethod
    def _direct_masks(out, objects, matches, positives):
        """M of masks that are predicted pixel by pixel."""
        total = out["mask"].sum() * 0.0
        for i, (_, _, masks, _) in enumerate(objects):
            if positives[i].shape[0]:
                gt_index = matches[i][2].index_select(positives[i])
                boxes = decode(out["loc"][i].index_select(positives[i]), out["priors"].index_select(positives[i]))
                total += direct_mask_loss(out["mask"][i].index_select(positives[i]), boxes, masks, gt_index)
        return total

    @staticmethod
    def _segmentation(segm, objects):
        height, width = segm.shape[2:]
        total = 0.0
        for i, (_, labels, masks, _) in enumerate(objects):
            gt_masks = downsample_masks(masks, height, width) if masks.shape[0] else None
            total += semantic_segmentation_loss(segm[i], gt_masks, labels)
        return total / height / width


def criteria(cfg, maskiou_net=None):
    """[(first iteration, MultiBoxLoss)]: the config's from 0 on, then as its `delayed_settings` change it in turn."""
    found = [(0, MultiBoxLoss(cfg, maskiou_net))]
    for iteration, changes in sorted(cfg.delayed_settings, key=lambda change: change[0]):
        cfg = cfg.copy(changes)
        found.append((iteration, MultiBoxLoss(cfg, maskiou_net)))
    return found
