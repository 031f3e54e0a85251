"""Pictures of detections: one picture with masks, boxes and labels.

Everything is drawn into arrays; no window or display is needed. Masks are drawn window by window, so that a hundred
of them in a huge picture need little more memory than the picture.
Shapes: D detections of one picture, H W its size. Pictures are BGR as OpenCV reads them, boxes are pixels.
"""
from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from utils.files import atomic_path
from utils.instances import Instances
from utils.labels import Label, draw_labels

MASK_ALPHA = 0.45
COLOR_STRIDE = 5  # the original's: keeps neighbours apart in its list of colours
_OUTLINE = 2.5  # how fast an outline reaches its full colour from both sides


def draw_detections(image_bgr: np.ndarray, found: Instances, colors: Sequence[Sequence[int]], show_masks: bool = True,
                    show_boxes: bool = True, show_text: bool = True, show_scores: bool = True,
                    color_by: str = "instance") -> np.ndarray:
    """Draw detections over a copy of a picture, the one with the highest score on top.

    Masks are blended by the original's formula: image * prod_j(1 - a m_j) + sum_j colour_j a m_j
    prod_{k<j}(1 - a m_k), with a = 0.45 and j in the order of falling scores, rounded after each mask. m is 1 inside
    and falls to 0 across a mask's edge, where an outline in the mask's colour is drawn.

    Args:
        image_bgr: uint8 [H, W, 3].
        found: utils.instances.Instances of the picture; without scores (ground truth) in the order given.
        colors: list of (red, green, blue), 0..255, such as COLORS of data/config.py.
        show_masks, show_boxes, show_text, show_scores: what to draw; scores are part of the text.
        color_by: "instance": the colours go by falling score; "class": by class.

    Returns:
        uint8 [H, W, 3].

    Raises:
        ValueError: color_by is neither.
    """
    order = by_falling_score(found)
    if color_by == "instance":
        numbers = list(range(len(order)))
    elif color_by == "class":
        numbers = [int(found.classes[index]) for index in order]
    else:
        raise ValueError(f"color_by is 'instance' or 'class', not {color_by!r}")
    drawn = np.ascontiguousarray(image_bgr).copy()
    draw_objects(drawn, found, order, [color_of(number, colors) for number in numbers], show_masks, show_boxes,
                 show_text, show_scores)
    return drawn


def draw_objects(image: np.ndarray, found: Any, order: Sequence[int], object_colors: Sequence[tuple[int, int, int]],
                 show_masks: bool = True, show_boxes: bool = True, show_text: bool = True, show_scores: bool = True,
                 crowded: float = 1.0) -> None:
    """Draw objects in the colours given, the first on top; changes ``image``.

    Args:
        image: uint8 [H, W, 3] BGR, contiguous.
        found: utils.instances.Instances, or an object with its names, scores, boxes, has_masks and window.
        order: indices of the objects to draw. object_colors: list of (blue, green, red), in that order.
        show_masks, show_boxes, show_text, show_scores: what to draw.
        crowded: as for utils.labels.draw_labels.
    """
    if show_masks and found.has_masks:
        reach = max(1, min(10, round(min(image.shape[:2]) / 600)))
        for index, color in zip(reversed(order), reversed(object_colors)):
            paint_mask(image, found.window(index), color, reach)
    shown = [(index, _visible_corners(found.boxes[index], image.shape), color)
             for index, color in zip(order, object_colors)]
    shown = [(index, box, color) for index, box, color in shown if box is not None]
    if show_boxes:
        thickness = max(1, round(min(image.shape[:2]) / 500))
        for _, (x1, y1, x2, y2), color in reversed(shown):
            cv2.rectangle(image, (x1, y1), (x2, y2), color, thickness)
    if show_text:
        names, scores = found.names, found.scores if show_scores else None
        draw_labels(image, [Label(names[index], "" if scores is None else f"{float(scores[index]):.2f}", box, color)
                            for index, box, color in shown], crowded)


def paint_mask(image: np.ndarray, window: tuple[int, int, np.ndarray], color: tuple[int, int, int],
               reach: int = 1) -> None:
    """Blend one mask and its outline over a picture; changes ``image``.

    Args:
        image: uint8 [H, W, 3] BGR, contiguous.
        window: (x, y, bool [rows, columns]), the part of the mask outside of which it is empty, inside the picture.
        color: (blue, green, red).
        reach: how many pixels to either side of the edge the mask fades and its outline goes.
    """
    x, y, mask = window
    if not mask.size:
        return
    height, width = image.shape[:2]
    rows, columns = mask.shape
    top, left = min(reach, y), min(reach, x)
    bottom, right = min(reach, height - y - rows), min(reach, width - x - columns)
    part = image[y - top:y + rows + bottom, x - left:x + columns + right]
    hard = cv2.copyMakeBorder(mask.astype(np.uint8) * 255, top, bottom, left, right, cv2.BORDER_CONSTANT, value=0)
    # A mask does not end where the picture does, so the border is repeated.
    soft = cv2.blur(hard, (2 * reach + 1, 2 * reach + 1), borderType=cv2.BORDER_REPLICATE)
    hard >>= 1
    soft = np.maximum(soft, hard, out=hard)  # what is thinner than the blur stays to be seen
    inside = soft == 255
    edge = (soft > 0) & ~inside

    values = np.arange(256)[:, np.newaxis]
    blended = np.rint(values * (1 - MASK_ALPHA) + np.array(color) * MASK_ALPHA).astype(np.uint8)
    filled = cv2.LUT(part, blended[np.newaxis])
    at_edge = part[edge].astype(np.float32)
    cv2.copyTo(filled, inside.view(np.uint8), part)
    part[edge] = np.rint(at_edge + (np.array(color, np.float32) - at_edge) * _edge_opacity()[soft[edge], np.newaxis])


def resize_window(window: tuple[int, int, np.ndarray], size: tuple[int, int],
                  new_size: tuple[int, int]) -> tuple[int, int, np.ndarray]:
    """The window of a mask in another size of its picture, with smooth instead of stepped edges.

    Args:
        window: (x, y, bool [rows, columns]). size, new_size: (height, width) of the whole picture.

    Returns:
        (x, y, bool [rows, columns]).
    """
    x, y, mask = window
    if not mask.size:
        return window
    whole = np.zeros(size, np.uint8)
    whole[y:y + mask.shape[0], x:x + mask.shape[1]] = mask * np.uint8(255)
    resized = cv2.resize(whole, new_size[::-1], interpolation=cv2.INTER_LINEAR) > 127
    x, y, width, height = cv2.boundingRect(resized.view(np.uint8))
    return x, y, resized[y:y + height, x:x + width]


def by_falling_score(found: Instances) -> list[int]:
    """Indices in the order of falling scores, equal ones as given; the given order if there are no scores."""
    if found.scores is None:
        return list(range(len(found)))
    return np.argsort(-np.asarray(found.scores), kind="stable").tolist()


def color_of(number: int, colors: Sequence[Sequence[int]]) -> tuple[int, int, int]:
    """(blue, green, red) of a rank or a class, from a list of (red, green, blue)."""
    red, green, blue = colors[number * COLOR_STRIDE % len(colors)]
    return int(blue), int(green), int(red)


def write_image(path: str, image_bgr: np.ndarray) -> None:
    """Write a picture, uint8 [H, W, 3] (format by the suffix), atomically; its folder is made.

    Raises:
        OSError: it cannot be written, or OpenCV has no encoder for the suffix.
    """
    suffix = os.path.splitext(path)[1]
    try:
        encoded = cv2.imencode(suffix, image_bgr)[1]
    except cv2.error:
        raise OSError(f"{path}: OpenCV cannot write the format {suffix!r}; take .png or .jpg") from None
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(encoded.tobytes())


def _edge_opacity():
    """How much of a mask's colour to put where the mask is m = 0..255 / 255: its share of the blend, then the outline.

    The outline is strongest at m = 0.5, which is the edge itself.
    """
    m = np.arange(256, dtype=np.float32) / 255
    return 1 - (1 - MASK_ALPHA * m) * (1 - np.minimum(1, _OUTLINE * np.minimum(m, 1 - m)))


def _visible_corners(box, shape):
    """Integer corners of the part of a box inside the picture, both inclusive; None if no part is."""
    x1, y1, x2, y2 = (int(round(float(value))) for value in box)
    height, width = shape[:2]
    if x2 < 0 or y2 < 0 or x1 >= width or y1 >= height or x2 < x1 or y2 < y1:
        return None
    return max(x1, 0), max(y1, 0), min(x2, width - 1), min(y2, height - 1)
