"""What the training augmentation draws at random: colours, canvas, crop, mirror; no pixel is touched here.

Ranges, probabilities and the order of the draws are the original's, so that a seed gives the original's
sample. Boxes are x1, y1, x2, y2 in pixels; N objects, H W of the picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BRIGHTNESS_DELTA = 32.0
CONTRAST_RANGE = (0.5, 1.5)
SATURATION_RANGE = (0.5, 1.5)
HUE_DELTA = 18.0
EXPAND_RATIO = (1.0, 4.0)
# The original's crop modes: None keeps the whole picture. The others ask for a minimum IoU between the crop
# and some box, but its test can never reject, so they all act alike. Kept, because repairing it halved the
# original's mAP.
CROP_MODES = (None, 0.1, 0.3, 0.7, 0.9, "any")
CROP_TRIES = 50
CROP_MIN_SIDE = 0.3
CROP_ASPECT = (0.5, 2.0)


@dataclass
class Photometric:
    """One draw of the colour distortion; None means that the step is not applied.

    brightness: added to every channel (grey levels); contrast, saturation: factors; hue: added, in degrees;
    contrast_first: contrast goes before the HSV steps, else after them.
    """

    brightness: float | None = None
    contrast: float | None = None
    saturation: float | None = None
    hue: float | None = None
    contrast_first: bool = True


@dataclass
class Placement:
    """Where the H x W picture lies on the canvas that is resized to the network's input.

    height, width: size of the canvas in pixels; top, left: the picture's corner on it, negative where the
    canvas (a crop) begins inside the picture. mirror (left-right), flip (upside down) and quarter_turns
    (counter-clockwise) are then applied to the canvas, in this order.
    """

    height: int
    width: int
    top: int = 0
    left: int = 0
    mirror: bool = False
    flip: bool = False
    quarter_turns: int = 0

    def turned_size(self) -> tuple[int, int]:
        """(height, width) after the quarter turns."""
        return (self.width, self.height) if self.quarter_turns % 2 else (self.height, self.width)

    def window(self, height: int, width: int) -> tuple[slice, slice]:
        """Rows and columns of an H x W picture that show on the canvas."""
        return (
            slice(max(0, -self.top), min(height, self.height - self.top)),
            slice(max(0, -self.left), min(width, self.width - self.left)),
        )


def draw_photometric(rng: np.random.RandomState) -> Photometric:
    """Draws the colour distortion: every step with probability 0.5, the two orders of contrast alike."""
    draw = Photometric()
    if rng.randint(2):
        draw.brightness = rng.uniform(-BRIGHTNESS_DELTA, BRIGHTNESS_DELTA)
    draw.contrast_first = bool(rng.randint(2))
    if draw.contrast_first and rng.randint(2):
        draw.contrast = rng.uniform(*CONTRAST_RANGE)
    if rng.randint(2):
        draw.saturation = rng.uniform(*SATURATION_RANGE)
    if rng.randint(2):
        draw.hue = rng.uniform(-HUE_DELTA, HUE_DELTA)
    if not draw.contrast_first and rng.randint(2):
        draw.contrast = rng.uniform(*CONTRAST_RANGE)
    return draw


def draw_expand(rng: np.random.RandomState, height: int, width: int) -> Placement:
    """Draws a canvas 1 to 4 times the picture's sides and the place on it; half the time none."""
    if rng.randint(2):
        return Placement(height, width)
    ratio = rng.uniform(*EXPAND_RATIO)
    left = rng.uniform(0, width * ratio - width)
    top = rng.uniform(0, height * ratio - height)
    return Placement(int(height * ratio), int(width * ratio), int(top), int(left))


def draw_crop(
    rng: np.random.RandomState, height: int, width: int, boxes: np.ndarray, labels: np.ndarray
) -> tuple[tuple[int, int, int, int], np.ndarray] | None:
    """Draws a crop of an H x W canvas that holds the centre of at least one object that is no crowd.

    Args:
        boxes: float [N, 4], pixels of the canvas. labels: int [N], crowds below 0.
    Returns:
        ((x1, y1, x2, y2), kept bool [N]): crop in pixels, and the objects whose centre is inside; None: no
        crop.
    """
    centers_x = (boxes[:, 0] + boxes[:, 2]) / 2
    centers_y = (boxes[:, 1] + boxes[:, 3]) / 2
    while True:
        if CROP_MODES[rng.randint(len(CROP_MODES))] is None:
            return None
        for _ in range(CROP_TRIES):
            crop_width = rng.uniform(CROP_MIN_SIDE * width, width)
            crop_height = rng.uniform(CROP_MIN_SIDE * height, height)
            if not CROP_ASPECT[0] <= crop_height / crop_width <= CROP_ASPECT[1]:
                continue
            # As the original: uniform(low) keeps numpy's high = 1, so the corner runs from 1 to the far end.
            left = rng.uniform(width - crop_width)
            top = rng.uniform(height - crop_height)
            x1, y1, x2, y2 = int(left), int(top), int(left + crop_width), int(top + crop_height)
            kept = (x1 < centers_x) & (centers_x < x2) & (y1 < centers_y) & (centers_y < y2)
            if (kept & (labels >= 0)).any():
                return (x1, y1, x2, y2), kept
