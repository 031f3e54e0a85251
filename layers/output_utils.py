"""From detections to masks and pixel boxes of the original picture (Sec. 3.3)."""
from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor

from layers.box_utils import crop, crop_bounds, sanitize_coordinates

STRIP = 1 << 18  # pixels that are enlarged at once, as floats


def assemble_masks(proto: Tensor, coeffs: Tensor, boxes: Tensor, crop_masks: bool = True) -> Tensor:
    """Linear combination of prototypes: sigmoid(P C^T), eq. 1, cropped to the boxes.

    Args:
        proto: [h, w, K]. coeffs: [D, K]. boxes: [D, 4] relative.

    Returns: [h, w, D] in 0..1.
    """
    masks = F.sigmoid(paddle.matmul(proto, coeffs, transpose_y=True))
    return crop(masks, boxes) if crop_masks else masks


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-logits)). float32, any shape -> the same."""
    with np.errstate(over="ignore"):  # infinity is right
        return 1 / (1 + np.exp(-logits))


@functools.lru_cache(maxsize=16)
def interpolation(size: int, samples: int) -> np.ndarray:
    """Bilinear interpolation of a side without aligned corners, as a matrix: float32 [size, samples].

    Row p holds how much each sample counts for pixel p; the outermost samples stand for all beyond them.
    """
    place = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(samples / size)
    place = np.maximum(place - np.float32(0.5), 0)
    before = np.minimum(place.astype(np.int64), samples - 1)
    share = place - before
    weights = np.zeros((size, samples), np.float32)
    pixels = np.arange(size)
    weights[pixels, before] = 1 - share
    weights[pixels, np.minimum(before + 1, samples - 1)] += share
    return weights


def _reach(samples: np.ndarray, size: int, small_size: int) -> tuple[int, int]:
    """First and last (exclusive) pixel of a side of `size` that lies next to one of the rising `samples`."""
    first, last = ((sample + 0.5) * size / small_size - 0.5 for sample in (samples[0] - 1, samples[-1] + 1))
    return max(0, int(first) - 1), min(size, int(last) + 2)


class PictureMasks:
    """Masks of one picture in the network's resolution; each is enlarged, bilinearly, then cut at 0.5, when asked for.

    Only the part is made that can be over 0.5, which is next to the samples over 0.5: the result is that of making and
    enlarging everything, and a hundred masks of a huge picture need the memory of the one in hand.

    Args:
        small: float32 [D, h, w] in 0..1; or with `logits` what a sigmoid makes such masks of.
        height, width: of the picture, in pixels.
        regions: int [D, 4], the pixel boxes that the masks fill (mask_type "direct"); None: the whole picture.
        crops: int [D, 4], x1, y1, x2, y2 in samples, outside of which the masks are 0; None: nowhere.
        logits: whether `small` is what comes before the sigmoid.
    """

    def __init__(self, small: np.ndarray, height: int, width: int, regions: np.ndarray | None = None,
                 crops: np.ndarray | None = None, logits: bool = False) -> None:
        self.small = small
        self.height = height
        self.width = width
        self.regions = regions
        self.crops = crops
        self.logits = logits

    def __len__(self) -> int:
        return len(self.small)

    def __getitem__(self, chosen: np.ndarray | slice) -> PictureMasks:
        """Those of an index array or a slice, as PictureMasks."""
        regions, crops = (None if part is None else part[chosen] for part in (self.regions, self.crops))
        return PictureMasks(self.small[chosen], self.height, self.width, regions, crops, self.logits)

    def window(self, index: int) -> tuple[int, int, np.ndarray]:
        """The part of one mask outside of which it is empty.

        Returns: (x, y, bool [rows, columns]), x and y the pixel of its upper left corner; [0, 0] for an empty mask.
        """
        left, top, right, bottom = (0, 0, self.width, self.height) if self.regions is None else self.regions[index]
        samples, x, y, columns, rows = self._over_half(index)
        if not len(rows) or right <= left or bottom <= top:
            return 0, 0, np.zeros((0, 0), bool)
        height, width = self.small.shape[1:]
        x1, x2 = _reach(columns, right - left, width)
        y1, y2 = _reach(rows, bottom - top, height)
        lines = samples @ interpolation(int(right - left), width)[x1:x2, x:x + samples.shape[1]].T
        weights = interpolation(int(bottom - top), height)[y1:y2, y:y + samples.shape[0]]
        window = np.empty((y2 - y1, x2 - x1), bool)
        step = max(1, STRIP // (x2 - x1))
        for start in range(0, len(window), step):
            strip = slice(start, start + step)
            np.greater(weights[strip] @ lines, 0.5, out=window[strip])
        return int(left + x1), int(top + y1), window

    def _over_half(self, index: int) -> tuple[np.ndarray, int, int, np.ndarray, np.ndarray]:
        """The samples of a mask that are not 0 by its crop, and next to samples over 0.5.

        Those left out could not bring a pixel over 0.5.

        Returns: those samples, float32 [r, c] in 0..1; column and row of the first of them; columns and rows that have
        one over 0.5.
        """
        small = self.small[index]
        x1, y1, x2, y2 = (0, 0, *small.shape[::-1]) if self.crops is None else np.maximum(self.crops[index], 0).tolist()
        small = small[y1:y2, x1:x2]
        over = small > (0.0 if self.logits else 0.5)
        rows, columns = np.flatnonzero(over.any(axis=1)), np.flatnonzero(over.any(axis=0))
        if not len(rows):
            return small, x1, y1, columns, rows
        top, left = max(rows[0] - 1, 0), max(columns[0] - 1, 0)
        samples = small[top:rows[-1] + 2, left:columns[-1] + 2]
        return sigmoid(samples) if self.logits else samples, left + x1, top + y1, columns + x1, rows + y1

    def numpy(self) -> np.ndarray:
        """All of them: bool [D, height, width]."""
        masks = np.zeros((len(self), self.height, self.width), bool)
        for index, mask in enumerate(masks):
            x, y, window = self.window(index)
            mask[y:y + window.shape[0], x:x + window.shape[1]] = window
        return masks


class Detections(NamedTuple):
    """What was found in one picture, by falling score (of the box); tensors, or ndarrays after `numpy()`.

    classes: int64 [D], 0-based without background. scores: float32 [D]. boxes: int64 [D, 4], x1, y1, x2, y2 in pixels.
    masks: PictureMasks, or None without a mask branch. mask_scores: float32 [D], those of the masks: the same as scores
    unless the network re-scores masks. rows: int64 [D], which of the detections handed in each one is.
    """

    classes: Any
    scores: Any
    boxes: Any
    masks: Any
    mask_scores: Any
    rows: Any

    def numpy(self) -> Detections:
        """The same as ndarrays; the masks stay PictureMasks."""
        return Detections(*(part.numpy() if isinstance(part, Tensor) else part for part in self))

    def best(self, count: int | None, threshold: float) -> Detections:
        """Of ndarrays, the `count` (None: all) with the highest scores above a threshold, by falling score."""
        order = (-self.scores).argsort(kind="stable")[:count]
        order = order[self.scores[order] > threshold]
        return Detections(*(None if part is None else part[order] for part in self))


@paddle.no_grad()
def postprocess(detection: dict[str, Tensor], width: int, height: int, score_threshold: float = 0.0,
                crop_masks: bool = True, direct_masks: bool = False, maskiou_net: Any = None,
                rescore_bbox: bool = False) -> Detections:
    """Finish the detections of one picture. The input is not changed.

    Args:
        detection: one dict of `Detect`.
        width, height: of the original picture, in pixels.
        score_threshold: only detections scored above it are kept (before re-scoring); 0 keeps all.
        crop_masks: cut masks to their boxes, at prototype resolution (so a mask may spill a little over its
            integer box).
        direct_masks: the network predicts masks pixel by pixel (mask_type "direct").
        maskiou_net: a FastMaskIoUNet, or another object with its `of_class`, re-scores the masks: their scores are
            multiplied by the estimated IoU (YOLACT++, Sec. 6.1). None: it does not.
        rescore_bbox: re-score the boxes as well.

    Returns:
        Detections. Boxes are clamped to the picture, then truncated, as the original.
    """
    classes, scores, boxes, coeffs = (detection[k] for k in ("class", "score", "box", "mask"))
    rows = paddle.arange(scores.shape[0])
    if score_threshold > 0 and scores.shape[0] > 0:
        keep = paddle.nonzero(scores > score_threshold).flatten()
        classes, scores, boxes, coeffs, rows = (x.index_select(keep) if keep.shape[0] else x[:0]
                                                for x in (classes, scores, boxes, coeffs, rows))
    if scores.shape[0] == 0:
        has_masks = "proto" in detection or direct_masks
        masks = PictureMasks(np.zeros((0, 1, 1), np.float32), height, width) if has_masks else None
        return Detections(classes, scores, boxes.astype("int64"), masks, scores, rows)

    x1, x2 = sanitize_coordinates(boxes[:, 0], boxes[:, 2], width)
    y1, y2 = sanitize_coordinates(boxes[:, 1], boxes[:, 3], height)
    pixel_boxes = paddle.stack([x1, y1, x2, y2], axis=1).astype("int64")
    masks, mask_scores = None, scores
    if "proto" in detection:
        crops = crop_bounds(boxes, *detection["proto"].shape[:2]).numpy() if crop_masks else None
        if maskiou_net is None:
            masks = paddle.matmul(coeffs, detection["proto"].flatten(0, 1), transpose_y=True)
            masks = masks.reshape([-1, *detection["proto"].shape[:2]])
        else:
            masks = assemble_masks(detection["proto"], coeffs, boxes, crop_masks)
            mask_scores = scores * maskiou_net.of_class(masks, classes)
            masks = masks.transpose([2, 0, 1])
        masks = PictureMasks(masks.numpy(), height, width, crops=crops, logits=maskiou_net is None)
    elif direct_masks:
        side = round(coeffs.shape[1] ** 0.5)
        masks = PictureMasks(coeffs.reshape([-1, side, side]).numpy(), height, width, pixel_boxes.numpy())
    return Detections(classes, mask_scores if rescore_bbox else scores, pixel_boxes, masks, mask_scores, rows)
