"""Pictures and objects on their way to the network: the evaluation transform and the training augmentation.

Training follows the original's SSD-style augmentation step by step: brightness, contrast, saturation and hue;
expansion onto a mean-coloured canvas; random crop; mirror (flip, quarter turns); resize to a square of `max_size`
(to its area with `preserve_aspect_ratio`); removal of vanished boxes; normalisation as the backbone wants it.

All random numbers are drawn first, in the original's order and from one `numpy.random.RandomState`, so that a
seed gives the original's sample; the pixels are touched afterwards and only where the crop will show them.

Shapes: N objects, H W of the picture, S = max_size. Boxes are x1, y1, x2, y2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from utils.augmentation_draws import Photometric, Placement, draw_crop, draw_expand, draw_photometric

SMALLEST_SIDE = 1.0  # pixels of the network's input; boxes not wider and higher are left out

Transformed = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # image, masks, boxes, labels


def distort(image: np.ndarray, draw: Photometric) -> np.ndarray:
    """Applies a colour distortion; values are not clipped, as in the original.

    Args:
        image: float32 [H, W, 3] BGR, 0..255; may be written to.
    Returns:
        float32 [H, W, 3] BGR.
    """
    if draw.brightness is not None:
        image += np.float32(draw.brightness)
    if draw.contrast is not None and draw.contrast_first:
        image *= np.float32(draw.contrast)
    # Without saturation and hue the way to HSV and back changes only negative values (it reflects them).
    if draw.saturation is not None or draw.hue is not None or (draw.brightness or 0) < 0:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
        if draw.saturation is not None:
            image[:, :, 1] *= np.float32(draw.saturation)
        if draw.hue is not None:
            # As the original; OpenCV's way back is wrong below 0 degrees in rows of 8 pixels and more.
            hue = cv2.extractChannel(image, 0)
            hue += np.float32(draw.hue)
            hue -= np.float32(360) * (hue > 360)
            hue += np.float32(360) * (hue < 0)
            image = cv2.insertChannel(hue, image, 0)
        image = cv2.cvtColor(image, cv2.COLOR_HSV2BGR)
    if draw.contrast is not None and not draw.contrast_first:
        image *= np.float32(draw.contrast)
    return image


def place_boxes(boxes: np.ndarray, placement: Placement) -> np.ndarray:
    """Boxes of the picture (float [N, 4], pixels) to their place on the canvas, clipped to it and turned."""
    height, width = placement.height, placement.width
    x1, y1, x2, y2 = (boxes + [placement.left, placement.top] * 2).T
    x1, x2 = np.maximum(x1, 0), np.minimum(x2, width)
    y1, y2 = np.maximum(y1, 0), np.minimum(y2, height)
    if placement.mirror:
        x1, x2 = width - x2, width - x1
    if placement.flip:
        y1, y2 = height - y2, height - y1
    for _ in range(placement.quarter_turns):
        x1, y1, x2, y2 = y1, width - x2, y2, width - x1
        height, width = width, height
    return np.stack([x1, y1, x2, y2], axis=1)


def place_planes(planes: Sequence[np.ndarray], picture_size: tuple[int, int], placement: Placement,
                 out: np.ndarray) -> None:
    """Resizes single-channel planes as they lie on the canvas, zero around them, bilinearly to the size of `out`.

    Planes are resized one by one: OpenCV is fastest so, and it has no limit on their number.

    Args:
        planes: arrays that hold `placement.window(*picture_size)` of the picture, float32 or uint8.
        out: [len(planes), height, width] of that dtype, written to.
    """
    rows, columns = placement.window(*picture_size)
    shape = (rows.stop - rows.start, columns.stop - columns.start)
    canvas = None
    if shape != (placement.height, placement.width):
        canvas = np.zeros((placement.height, placement.width), out.dtype)
        top, left = rows.start + placement.top, columns.start + placement.left
        if placement.mirror:
            left = placement.width - left - shape[1]
        if placement.flip:
            top = placement.height - top - shape[0]
        inside = canvas[top : top + shape[0], left : left + shape[1]]
    flip_code = {(True, False): 1, (False, True): 0, (True, True): -1}.get((placement.mirror, placement.flip))
    for plane, target in zip(planes, out):
        if flip_code is not None:
            plane = cv2.flip(plane, flip_code)
        if canvas is not None:
            inside[...] = plane
            plane = canvas
        if placement.quarter_turns:
            plane = np.rot90(plane, placement.quarter_turns)
        cv2.resize(np.ascontiguousarray(plane), target.shape[::-1], dst=target)


class Normalize:
    """Brings planes with values 0..255 into the channel order and range that the backbone was trained with.

    Args:
        transform: mapping with `channel_order` ('RGB' or 'BGR'), and one of `normalize` ((x - mean) / std),
            `subtract_means` (x - mean), `to_float` (x / 255) that holds; they are asked in this order.
        means, std: three numbers, BGR.
    Attributes:
        source: for each channel of the result, its index in BGR.
    """

    def __init__(self, transform: Any, means: Sequence[float], std: Sequence[float]) -> None:
        self.source = ["BGR".index(channel) for channel in transform["channel_order"]]
        self.means, self.divisors = np.zeros(3, np.float32), np.ones(3, np.float32)
        if transform["normalize"]:
            self.means, self.divisors = np.asarray(means, np.float32), np.asarray(std, np.float32)
        elif transform["subtract_means"]:
            self.means = np.asarray(means, np.float32)
        elif transform["to_float"]:
            self.divisors = np.full(3, 255, np.float32)

    def __call__(self, planes: np.ndarray, taken: Sequence[float] | np.ndarray = (0, 0, 0)) -> np.ndarray:
        """Normalises float32 [3, S, S], already in the result's order, in place.

        Args:
            taken: what was subtracted before from each of the BGR channels.
        """
        for plane, channel in zip(planes, self.source):
            mean = self.means[channel] - np.float32(taken[channel])
            if mean != 0:
                plane -= mean
            if self.divisors[channel] != 1:
                plane /= self.divisors[channel]
        return planes


def input_size(height: int, width: int, max_size: int, preserve_aspect_ratio: bool) -> tuple[int, int]:
    """(height, width) that a picture is resized to: a square, or its own aspect ratio at about the square's area."""
    if not preserve_aspect_ratio:
        return max_size, max_size
    ratio = (width / height) ** 0.5
    return max(1, int(max_size / ratio)), max(1, int(max_size * ratio))


def base_transform(image_bgr: np.ndarray, max_size: int, transform: Any, means: Sequence[float],
                   std: Sequence[float], preserve_aspect_ratio: bool = False) -> np.ndarray:
    """The evaluation transform: bilinear resize to `input_size`, then `Normalize`.

    One function for data sets and single pictures: it equals the original's BaseTransform and
    FastBaseTransform.

    Args:
        image_bgr: [H, W, 3], uint8 or float, 0..255.
    Returns:
        float32 [3, max_size, max_size], or [3, h, w] of `input_size`, in the backbone's channel order.
    """
    normalize = Normalize(transform, means, std)
    channels = cv2.split(image_bgr)
    height, width = image_bgr.shape[:2]
    planes = np.empty((3, *input_size(height, width, max_size, preserve_aspect_ratio)), np.float32)
    for target, channel in zip(planes, normalize.source):
        cv2.resize(channels[channel].astype(np.float32), target.shape[::-1], dst=target)
    return normalize(planes)


def relative_boxes(boxes: np.ndarray, height: float, width: float) -> np.ndarray:
    """Boxes in pixels to float32 [N, 4], relative 0..1."""
    return (boxes / [width, height, width, height]).astype(np.float32).reshape(-1, 4)


def stack_masks(masks: Sequence[np.ndarray], height: int, width: int) -> np.ndarray:
    """uint8 [N, H, W], also for no masks."""
    stacked = np.empty((len(masks), height, width), np.uint8)
    for i, mask in enumerate(masks):
        stacked[i] = mask
    return stacked


class BaseTransform:
    """The evaluation transform of a data set: `base_transform` for the picture; masks keep their size.

    Args:
        max_size, transform, means, std, preserve_aspect_ratio: as of `base_transform`.
    """

    def __init__(self, max_size: int, transform: Any, means: Sequence[float], std: Sequence[float],
                 preserve_aspect_ratio: bool = False) -> None:
        self.max_size, self.preserve_aspect_ratio = max_size, preserve_aspect_ratio
        self.transform, self.means, self.std = transform, means, std

    def __call__(self, rng: np.random.RandomState | None, image_bgr: np.ndarray, masks: Sequence[np.ndarray],
                 boxes: np.ndarray, labels: np.ndarray) -> Transformed:
        """As `SSDAugmentation`, but draws nothing; masks come back as uint8 [N, H, W]."""
        height, width = image_bgr.shape[:2]
        image = base_transform(image_bgr, self.max_size, self.transform, self.means, self.std,
                               self.preserve_aspect_ratio)
        return image, stack_masks(masks, height, width), relative_boxes(boxes, height, width), labels


class SSDAugmentation:
    """The training augmentation of the original: its steps, ranges, probabilities and order (see the head).

    Args:
        max_size, preserve_aspect_ratio: of the result, as `input_size`. transform, means, std: as `Normalize`; the
            means fill the canvas.
        photometric_distort ... random_rot90: switches (the original's random_flip switched random_rot90 too).
        discard_box_width, discard_box_height: boxes not wider and higher than this many pixels of the result
            are dropped with their masks. The original's 4/550 never fired; here boxes under a pixel always
            go, as no prior can fit them and their loss has no bound.
    """

    def __init__(self, max_size: int, transform: Any, means: Sequence[float], std: Sequence[float],
                 photometric_distort: bool = True, expand: bool = True, random_sample_crop: bool = True,
                 random_mirror: bool = True, random_flip: bool = False, random_rot90: bool = False,
                 discard_box_width: float = 0.0, discard_box_height: float = 0.0,
                 preserve_aspect_ratio: bool = False) -> None:
        self.max_size, self.preserve_aspect_ratio = max_size, preserve_aspect_ratio
        self.fill = np.asarray(means, np.float32)
        self.normalize = Normalize(transform, means, std)
        self.photometric_distort, self.expand = photometric_distort, expand
        self.random_sample_crop, self.random_mirror = random_sample_crop, random_mirror
        self.random_flip, self.random_rot90 = random_flip, random_rot90
        self.smallest_box = (max(SMALLEST_SIDE, discard_box_width), max(SMALLEST_SIDE, discard_box_height))

    def draw(self, rng: np.random.RandomState, height: int, width: int, boxes: np.ndarray, labels: np.ndarray
             ) -> tuple[Photometric, Placement, np.ndarray]:
        """Draws everything random about one sample, in the original's order.

        Args:
            height, width: of the picture. boxes: float [N, 4], its pixels. labels: int [N], crowds below 0.
        Returns:
            the colour distortion, the placement, and the indices of the objects that the crop keeps.
        """
        photometric = draw_photometric(rng) if self.photometric_distort else Photometric()
        placement = draw_expand(rng, height, width) if self.expand else Placement(height, width)
        kept = np.arange(len(boxes))
        if self.random_sample_crop:
            on_canvas = boxes + [placement.left, placement.top] * 2
            crop = draw_crop(rng, placement.height, placement.width, on_canvas, labels)
            if crop is not None:
                (x1, y1, x2, y2), inside = crop
                placement = Placement(y2 - y1, x2 - x1, placement.top - y1, placement.left - x1)
                kept = np.flatnonzero(inside)
        placement.mirror = bool(self.random_mirror and rng.randint(2))
        placement.flip = bool(self.random_flip and rng.randint(2))
        placement.quarter_turns = int(rng.randint(4)) if self.random_rot90 else 0
        return photometric, placement, kept

    def __call__(self, rng: np.random.RandomState, image_bgr: np.ndarray, masks: Sequence[np.ndarray],
                 boxes: np.ndarray, labels: np.ndarray) -> Transformed:
        """Augments one sample; the arguments are not changed.

        Args:
            image_bgr: uint8 [H, W, 3]. masks: N arrays uint8 [H, W], 0 or 1. boxes: float [N, 4], pixels.
            labels: int64 [N], crowds (-1) last.
        Returns:
            image float32 [3, S, S], masks uint8 [M, S, S], boxes float32 [M, 4] relative 0..1, labels int64
            [M]; M <= N.
        """
        height, width = image_bgr.shape[:2]
        photometric, placement, kept = self.draw(rng, height, width, boxes, labels)
        canvas_height, canvas_width = placement.turned_size()
        size = input_size(canvas_height, canvas_width, self.max_size, self.preserve_aspect_ratio)
        scale = np.array([size[1] / canvas_width, size[0] / canvas_height] * 2)
        boxes = place_boxes(boxes[kept], placement) * scale
        large_enough = ((boxes[:, 2:] - boxes[:, :2]) > self.smallest_box).all(axis=1)
        boxes, kept = boxes[large_enough], kept[large_enough]

        window = placement.window(height, width)
        seen = distort(image_bgr[window].astype(np.float32), photometric)
        image = self._place_image(seen, (height, width), placement, size)
        placed = np.empty((len(kept), *size), np.uint8)
        place_planes([masks[i][window] for i in kept], (height, width), placement, placed)
        return image, placed, relative_boxes(boxes, *size), labels[kept]

    def _place_image(self, seen: np.ndarray, picture_size: tuple[int, int], placement: Placement,
                     size: tuple[int, int]) -> np.ndarray:
        """The picture's visible part, float32 [h, w, 3] BGR, to the network's input, float32 [3, *size]."""
        channels = cv2.split(seen)
        is_filled = seen.shape[:2] != (placement.height, placement.width)
        if is_filled:
            # The canvas is zero around the picture, so the fill colour has to be the zero of these planes.
            channels = [channel - level for channel, level in zip(channels, self.fill)]
        planes = np.empty((3, *size), np.float32)
        ordered = [channels[channel] for channel in self.normalize.source]
        place_planes(ordered, picture_size, placement, planes)
        return self.normalize(planes, self.fill if is_filled else (0, 0, 0))


def build_augmentation(cfg: Any, means: Sequence[float], std: Sequence[float], training: bool
                       ) -> BaseTransform | SSDAugmentation:
    """The transform that a network config asks for; every key is read here, once.

    Args:
        cfg: network config: `max_size`, `backbone.transform`; for training also `augment_*`, `discard_box_*`.
        means, std: three numbers, BGR. training: augment, else only resize and normalise.
    """
    transform = cfg.backbone.transform
    if not training:
        return BaseTransform(cfg.max_size, transform, means, std, cfg.preserve_aspect_ratio)
    return SSDAugmentation(
        cfg.max_size, transform, means, std,
        photometric_distort=cfg.augment_photometric_distort,
        expand=cfg.augment_expand,
        random_sample_crop=cfg.augment_random_sample_crop,
        random_mirror=cfg.augment_random_mirror,
        random_flip=cfg.augment_random_flip,
        random_rot90=cfg.augment_random_rot90,
        discard_box_width=cfg.discard_box_width,
        discard_box_height=cfg.discard_box_height,
        preserve_aspect_ratio=cfg.preserve_aspect_ratio)
