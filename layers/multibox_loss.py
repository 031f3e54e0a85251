"""The training criterion: match every picture, call the loss terms, normalise (Sec. 3.3 to 5)."""
from __future__ import annotations

import functools
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor

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
from layers.mask_iou_net import FastMaskIoUNet
from layers.matching import match
from layers.output_utils import assemble_masks

# Box, mask, coefficient diversity, class, mask IoU, class existence, semantic segmentation.
TERMS = "BMDCIES"
FOCAL_LOSSES = {"focal": focal_conf_loss, "sigmoid": sigmoid_focal_conf_loss, "objectness": objectness_focal_conf_loss}


class Picture(NamedTuple):
    """The objects of one picture without its crowds, and what its priors are to learn; tensors.

    boxes: [N, 4]. labels: int64 [N]. masks: uint8 [N, H, W]. loc: [P, 4], conf: int64 [P]: see layers.matching.
    positives: int64 [n], the priors that have an object, and gt_index: int64 [n], which. seed: integers that the
    choice of its masks depends on.
    """

    boxes: Tensor
    labels: Tensor
    masks: Tensor
    loc: Tensor
    conf: Tensor
    positives: Tensor
    gt_index: Tensor
    seed: tuple[int, ...]


class MultiBoxLoss:
    """The terms as the original weighs and normalises them.

    All are divided by the batch's number of positive priors, but E and S by the batch size. Without a positive prior
    those that need one are 0 (the original divides by zero).

    Args:
        cfg: the network's configuration, read at construction only.
        maskiou_net: the network's `maskiou_net`, whose estimate I judges; None without cfg.use_maskiou.
    """

    def __init__(self, cfg: Any, maskiou_net: FastMaskIoUNet | None = None) -> None:
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

    def __call__(self, out: dict[str, Tensor], samples: Sequence[Any], key: tuple[int, ...] = ()) -> dict[str, Tensor]:
        """The loss of one batch.

        Args:
            out: what `Yolact.forward` returns in training mode.
            samples: list of B samples, see `match`. key: of the random choice of masks, see `match`.

        Returns: dict of scalars in the order of TERMS: B, M, C and those that the network has an output for.
        """
        pictures = self.match(samples, out["priors"], key)
        return self.terms(out, pictures, sum(len(picture.positives) for picture in pictures), len(pictures))

    def match(self, samples: Sequence[Any], priors: Tensor, key: tuple[int, ...] = ()) -> list[Picture]:
        """What the priors of each picture are to learn.

        Args:
            samples: list of pictures with boxes float32 [N, 4] relative corner form, labels int64 [N] 0-based,
                masks uint8 [N, H, W], num_crowds (crowds are the last rows) and image_id. ndarrays; never changed.
            priors: [P, 4] centre form.
            key: integers. Of more than `masks_to_train` positives a random choice enters M; it depends on these and
                the picture's id alone, not on the batch or the process that the picture is in.

        Returns: list of Picture.
        """
        pictures = []
        for sample in samples:
            count = len(sample.labels) - sample.num_crowds
            boxes = paddle.to_tensor(sample.boxes)
            labels, masks = paddle.to_tensor(sample.labels[:count]), paddle.to_tensor(sample.masks[:count])
            loc, conf, index = match(boxes[:count], labels, boxes[count:], priors, *self.thresholds)
            positives = paddle.nonzero(conf > 0).flatten()
            gt_index = index.index_select(positives) if len(positives) else index[:0]
            seed = (*key, zlib.crc32(f"{sample.image_id}".encode()))
            pictures.append(Picture(boxes[:count], labels, masks, loc, conf, positives, gt_index, seed))
        return pictures

    def terms(self, out: dict[str, Tensor], pictures: list[Picture], num_positive: int,
              num_pictures: int) -> dict[str, Tensor]:
        """The loss terms of some pictures of a batch.

        Args:
            out: the network's output for them. pictures: what `match` returns for them.
            num_positive, num_pictures: of the whole batch, which may be spread over several calls and processes: its
                loss is the sum of theirs.
        """
        losses = {"B": self._boxes(out, pictures),
                  "C": self.conf_loss(out["conf"], paddle.stack([picture.conf for picture in pictures]))}
        if "proto" in out:
            losses.update(self._masks(out, pictures))
        elif self.has_direct_masks:
            losses["M"] = self._direct_masks(out, pictures)
        if "classes" in out:
            losses["E"] = class_existence_loss(out["classes"], [picture.labels for picture in pictures])
        if "segm" in out:
            losses["S"] = self._segmentation(out["segm"], pictures)
        return {name: losses[name] * self.weights[name] / (num_pictures if name in "ES" else max(1, num_positive))
                for name in TERMS if name in losses}

    @staticmethod
    def _boxes(out: dict[str, Tensor], pictures: list[Picture]) -> Tensor:
        if not any(len(picture.positives) for picture in pictures):
            return out["loc"].sum() * 0.0
        target = paddle.concat([picture.loc.index_select(picture.positives) for picture in pictures
                                if len(picture.positives)])
        return box_loss(paddle.concat(gather(out["loc"], [picture.positives for picture in pictures])), target)

    def _masks(self, out: dict[str, Tensor], pictures: list[Picture]) -> dict[str, Tensor]:
        """M, and D and I if they are wanted, from the prototypes."""
        height, width = out["proto"].shape[1:3]
        zero = 0.0 if any(len(picture.positives) for picture in pictures) else out["proto"].sum() * 0.0
        losses = {"M": zero}
        if self.has_diversity_loss:
            losses["D"] = zero
            for coeffs, picture in zip(gather(out["mask"], [picture.positives for picture in pictures]), pictures):
                if len(coeffs):
                    losses["D"] += coeff_diversity_loss(coeffs, picture.gt_index)
        if self.maskiou_net is not None or "score" in out:
            losses["I"] = out["proto"].sum() * 0.0
        samples = [self._sample(picture) for picture in pictures]
        coeffs = gather(out["mask"], [chosen for chosen, _, _ in samples])
        for i, (picture, proto) in enumerate(zip(pictures, out["proto"].unbind(0))):
            chosen, gt_index, scale = samples[i]
            if not len(chosen):
                continue
            gt_boxes = picture.boxes.index_select(gt_index)
            gt_masks = downsample_masks(picture.masks, height, width).index_select(gt_index).transpose([1, 2, 0])
            predicted = assemble_masks(proto, coeffs[i], gt_boxes, self.crop_masks)
            losses["M"] += mask_loss(predicted, gt_masks, gt_boxes, self.crop_masks) * scale
            if "I" in losses:
                labels = picture.labels.index_select(gt_index)
                losses["I"] += self._mask_iou(out, i, chosen, predicted, gt_masks, labels)
        return {**losses, "M": losses["M"] / height / width}

    def _sample(self, picture: Picture) -> tuple[Tensor, Tensor, float]:
        """At most `masks_to_train` positives, a random choice, their objects, and what scales their loss up to all."""
        count = len(picture.positives)
        if count <= self.masks_to_train:
            return picture.positives, picture.gt_index, 1.0
        random = np.random.RandomState(np.random.SeedSequence(picture.seed).generate_state(8))
        chosen = paddle.to_tensor(random.permutation(count)[:self.masks_to_train])
        return (picture.positives.index_select(chosen), picture.gt_index.index_select(chosen),
                count / self.masks_to_train)

    def _mask_iou(self, out: dict[str, Tensor], i: int, priors: Tensor, masks: Tensor,
                  gt_masks: Tensor, labels: Tensor) -> Tensor | float:
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
    def _direct_masks(out: dict[str, Tensor], pictures: list[Picture]) -> Tensor:
        """M of masks that are predicted pixel by pixel."""
        total = out["mask"].sum() * 0.0
        positives = [picture.positives for picture in pictures]
        for picture, masks, loc in zip(pictures, gather(out["mask"], positives), gather(out["loc"], positives)):
            if len(masks):
                boxes = decode(loc, out["priors"].index_select(picture.positives))
                total += direct_mask_loss(masks, boxes, picture.masks, picture.gt_index)
        return total

    @staticmethod
    def _segmentation(segm: Tensor, pictures: list[Picture]) -> Tensor:
        height, width = segm.shape[2:]
        total = 0.0
        for logits, picture in zip(segm.unbind(0), pictures):
            gt_masks = downsample_masks(picture.masks, height, width) if len(picture.masks) else None
            total += semantic_segmentation_loss(logits, gt_masks, picture.labels)
        return total / height / width


def gather(values: Tensor, chosen: list[Tensor]) -> list[Tensor]:
    """Rows of each picture's values: [B, P, X] and B times int64 [n] -> B times [n, X].

    In one piece: the backward of a slice of one picture would make zeros for the whole batch every time.
    """
    counts = [len(rows) for rows in chosen]
    if not sum(counts):
        return [values[0, :0] for _ in chosen]
    offsets = [rows + i * values.shape[1] for i, rows in enumerate(chosen) if len(rows)]
    found = values.flatten(0, 1).index_select(paddle.concat(offsets))
    starts = np.cumsum([0, *counts])
    return [found[start:stop] for start, stop in zip(starts[:-1].tolist(), starts[1:].tolist())]


def criteria(cfg: Any, maskiou_net: FastMaskIoUNet | None = None) -> list[tuple[int, MultiBoxLoss]]:
    """[(first iteration, MultiBoxLoss)]: the config's from 0 on, then as its `delayed_settings` change it in turn."""
    found = [(0, MultiBoxLoss(cfg, maskiou_net))]
    for iteration, changes in sorted(cfg.delayed_settings, key=lambda change: change[0]):
        cfg = cfg.copy(changes)
        found.append((iteration, MultiBoxLoss(cfg, maskiou_net)))
    return found
