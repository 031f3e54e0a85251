"""From detections to masks and pixel boxes of the original picture (Sec. 3.3)."""
from typing import Any, NamedTuple

import paddle
import paddle.nn.functional as F

from layers.box_utils import crop, sanitize_coordinates

# Upsampled floats alive at once: 128 MiB. The masks themselves take a byte a pixel each.
MAX_UPSAMPLED = 1 << 25


def assemble_masks(proto, coeffs, boxes, crop_masks=True):
    """Linear combination of prototypes: sigmoid(P C^T), eq. 1, cropped to the boxes.

    Args:
        proto: [h, w, K]. coeffs: [D, K]. boxes: [D, 4] relative.

    Returns: [h, w, D] in 0..1.
    """
    masks = F.sigmoid(paddle.matmul(proto, coeffs, transpose_y=True))
    return crop(masks, boxes) if crop_masks else masks


def upsample_masks(masks, width, height):
    """Bilinear to the picture, then threshold at 0.5. [h, w, D] float -> bool [D, height, width], in bounded memory."""
    masks = masks.transpose([2, 0, 1]).unsqueeze(0)
    step = max(1, MAX_UPSAMPLED // (width * height))
    parts = [F.interpolate(masks[:, i:i + step], size=[height, width], mode="bilinear", align_corners=False) > 0.5
             for i in range(0, masks.shape[1], step)]
    return paddle.concat(parts, axis=1).squeeze(0)


def paste_masks(masks, boxes, width, height):
    """Masks predicted pixel by pixel into their boxes: bilinear to the box's size, then threshold at 0.5.

    Args:
        masks: [D, S, S] in 0..1. boxes: int64 [D, 4] pixels of the picture.

    Returns: bool [D, height, width], in bounded memory.
    """
    step = max(1, MAX_UPSAMPLED // (2 * width * height))
    x, y = paddle.arange(width, dtype="float32"), paddle.arange(height, dtype="float32").unsqueeze(1)
    parts = []
    for i in range(0, masks.shape[0], step):
        x1, y1, x2, y2 = (edge.reshape([-1, 1, 1]) for edge in boxes[i:i + step].astype("float32").unbind(axis=1))
        inside = (x >= x1).logical_and(x < x2).logical_and((y >= y1).logical_and(y < y2))
        # Where each pixel's centre lies in its box, -1..1.
        columns = 2 * (x + 0.5 - x1) / (x2 - x1).clip(min=1) - 1
        rows = 2 * (y + 0.5 - y1) / (y2 - y1).clip(min=1) - 1
        grid = paddle.stack([columns.expand(inside.shape), rows.expand(inside.shape)], axis=-1).clip(-2, 2)
        values = F.grid_sample(masks[i:i + step].unsqueeze(1), grid, padding_mode="border", align_corners=False)
        parts.append((values.squeeze(1) > 0.5).logical_and(inside))
    return paddle.concat(parts)


class Detections(NamedTuple):
    """What was found in one picture, by falling score (of the box); tensors, or ndarrays after `numpy()`.

    classes: int64 [D], 0-based without background. scores: float32 [D]. boxes: int64 [D, 4], x1, y1, x2, y2 in pixels.
    masks: bool [D, height, width], or None without a mask branch. mask_scores: float32 [D], those of the masks: the
    same as scores unless the network re-scores masks.
    """

    classes: Any
    scores: Any
    boxes: Any
    masks: Any
    mask_scores: Any

    def numpy(self):
        """The same as ndarrays."""
        return Detections(*(None if part is None else part.numpy() for part in self))

    def best(self, count, threshold):
        """Of ndarrays, the `count` (None: all) with the highest scores above a threshold, by falling score."""
        order = (-self.scores).argsort(kind="stable")[:count]
        order = order[self.scores[order] > threshold]
        return Detections(*(None if part is None else part[order] for part in self))


@paddle.no_grad()
def postprocess(detection, width, height, score_threshold=0.0, crop_masks=True, direct_masks=False, maskiou_net=None,
                rescore_bbox=False):
    """Finish the detections of one picture. The input is not changed.

    Args:
        detection: one dict of `Detect`.
        width, height: of the original picture, in pixels.
        score_threshold: only detections scored above it are kept (before re-scoring); 0 keeps all.
        crop_masks: cut masks to their boxes, at prototype resolution (so a mask may spill a little over its
            integer box).
        direct_masks: the network predicts masks pixel by pixel (mask_type "direct").
        maskiou_net: re-scores the masks: their scores are multiplied by the estimated IoU (YOLACT++, Sec. 6.1).
        rescore_bbox: re-score the boxes as well.

    Returns:
        Detections. Boxes are clamped to the picture, then truncated, as the original.
    """
    classes, scores, boxes, coeffs = (detection[k] for k in ("class", "score", "box", "mask"))
    if score_threshold > 0 and scores.shape[0] > 0:
        keep = paddle.nonzero(scores > score_threshold).flatten()
        classes, scores, boxes, coeffs = (x.index_select(keep) if keep.shape[0] else x[:0]
                                          for x in (classes, scores, boxes, coeffs))
    if scores.shape[0] == 0:
        masks = paddle.zeros([0, height, width], "bool") if "proto" in detection or direct_masks else None
        return Detections(classes, scores, boxes.astype("int64"), masks, scores)

    x1, x2 = sanitize_coordinates(boxes[:, 0], boxes[:, 2], width)
    y1, y2 = sanitize_coordinates(boxes[:, 1], boxes[:, 3], height)
    pixel_boxes = paddle.stack([x1, y1, x2, y2], axis=1).astype("int64")
    masks, mask_scores = None, scores
    if "proto" in detection:
        small_masks = assemble_masks(detection["proto"], coeffs, boxes, crop_masks)
        if maskiou_net is not None:
            mask_scores = scores * maskiou_net.of_class(small_masks, classes)
        masks = upsample_masks(small_masks, width, height)
    elif direct_masks:
        side = round(coeffs.shape[1] ** 0.5)
        masks = paste_masks(coeffs.reshape([-1, side, side]), pixel_boxes, width, height)
    return Detections(classes, mask_scores if rescore_bbox else scores, pixel_boxes, masks, mask_scores)
