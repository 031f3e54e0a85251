"""The training criterion: match every picture, call the loss terms, normalise (Sec. 3.3 to 5)."""
import paddle

from layers.losses import box_loss, downsample_masks, lincomb_mask_loss, ohem_conf_loss, semantic_segmentation_loss
from layers.matching import match


class MultiBoxLoss:
    """B, M, C and S as the original weighs and normalises them.

    B, M and C are divided by the batch's number of positive priors, S by the batch size. Without a positive prior
    B, M and C are 0 (the original divides by zero).

    Args:
        cfg: the network's configuration, read at construction only.
    """

    def __init__(self, cfg):
        self.thresholds = (cfg.positive_iou_threshold, cfg.negative_iou_threshold, cfg.crowd_iou_threshold)
        self.negpos_ratio = cfg.ohem_negpos_ratio
        self.masks_to_train = cfg.masks_to_train
        self.crop_masks = cfg.mask_proto_crop
        self.bbox_alpha, self.conf_alpha, self.mask_alpha = cfg.bbox_alpha, cfg.conf_alpha, cfg.mask_alpha
        self.segmentation_alpha = cfg.semantic_segmentation_alpha

    def __call__(self, out, targets):
        """The loss of one batch.

        Args:
            out: what `Yolact.forward` returns in training mode.
            targets: list of B samples with boxes float32 [N, 4] relative corner form, labels int64 [N] 0-based,
                masks uint8 [N, H, W] and num_crowds; crowds are the last rows. ndarrays; never changed.

        Returns: dict of scalars in the original's order: B, M, C and, if the network has that branch, S.
        """
        objects = [self._without_crowds(target) for target in targets]
        matches = [match(boxes, labels, crowd_boxes, out["priors"], *self.thresholds)
                   for boxes, labels, _, crowd_boxes in objects]
        conf_target = paddle.stack([conf for _, conf, _ in matches])
        positives = [paddle.nonzero(conf > 0).flatten() for _, conf, _ in matches]
        num_positive = max(1, sum(p.shape[0] for p in positives))

        losses = {"B": self._boxes(out, matches, positives) * self.bbox_alpha / num_positive}
        if "proto" in out:
            losses["M"] = self._masks(out, objects, matches, positives) * self.mask_alpha / num_positive
        losses["C"] = ohem_conf_loss(out["conf"], conf_target, self.negpos_ratio) * self.conf_alpha / num_positive
        if "segm" in out:
            losses["S"] = self._segmentation(out["segm"], objects) * self.segmentation_alpha / len(targets)
        return losses

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
        height, width = out["proto"].shape[1:3]
        terms = []
        for i, (boxes, _, masks, _) in enumerate(objects):
            if positives[i].shape[0] == 0:
                continue
            gt_index = matches[i][2].index_select(positives[i])
            gt_masks = downsample_masks(masks, height, width)
            terms.append(lincomb_mask_loss(out["proto"][i], out["mask"][i].index_select(positives[i]),
                                           boxes.index_select(gt_index), gt_masks, gt_index, self.masks_to_train,
                                           self.crop_masks))
        total = sum(terms) if terms else out["proto"].sum() * 0.0
        return total / height / width

    @staticmethod
    def _segmentation(segm, objects):
        height, width = segm.shape[2:]
        total = 0.0
        for i, (_, labels, masks, _) in enumerate(objects):
            gt_masks = downsample_masks(masks, height, width) if masks.shape[0] else None
            total += semantic_segmentation_loss(segm[i], gt_masks, labels)
        return total / height / width
