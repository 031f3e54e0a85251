"""How well anchors cover boxes, and anchors that cover them better; numpy and OpenCV only.

Shapes: N boxes, A anchor shapes of a level. Boxes are relative to the picture, 0..1, in centre form (x, y, w, h).
"""
from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

WELL_COVERED = 0.5  # IoU over which an object counts as covered; the papers' threshold for positive anchors
_CHUNK = 1 << 16  # boxes at once: some ten megabytes
_ATTEMPTS = 5
_STOP = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 200, 1e-5)
_STEPS = (0.7, 0.85, 0.95, 1.05, 1.18, 1.4)
_SMALLEST_GAIN = 1e-4


def best_iou(boxes: np.ndarray, levels: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """IoU of every box with the anchor that overlaps it most, over the whole grids.

    The overlap along an axis falls with the distance of the centres, so of a level's equal anchors the one in the cell
    that holds the box's centre is the best, and no other has to be looked at.

    Args:
        boxes: float [N, 4].
        levels: for each level its cells, int [N, 2] or [1, 2] (columns and rows, which may differ from picture to
            picture), and its anchors' widths and heights, float [A, 2], relative 0..1.

    Returns:
        float64 [N], 0..1.
    """
    best = np.zeros(len(boxes))
    for start in range(0, len(boxes), _CHUNK):
        part = slice(start, start + _CHUNK)
        for cells, shapes in levels:
            found = _iou_in_own_cell(boxes[part], cells if len(cells) == 1 else cells[part], shapes).max(axis=1)
            best[part] = np.maximum(best[part], found)
    return best


def _iou_in_own_cell(boxes: np.ndarray, cells: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    """IoU [N, A] of boxes with the anchors of the cells that their centres lie in."""
    centres, sides = boxes[:, :2], boxes[:, 2:]
    own = np.clip(np.floor(centres * cells), 0, cells - 1)
    distance = np.abs((own + 0.5) / cells - centres)[:, np.newaxis]
    sides = sides[:, np.newaxis]
    overlap = np.minimum(np.minimum(sides, shapes), (sides + shapes) / 2 - distance).clip(min=0)
    inter = overlap.prod(axis=2)
    return inter / (sides.prod(axis=2) + shapes.prod(axis=1) - inter)


def log_kmeans(values: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Centres of k-means over the logarithms of positive values, so that ratios count and not differences.

    Args:
        values: float [N], N >= count. count: how many centres. seed: of the first centres.

    Returns:
        float64 [count], rising.
    """
    cv2.setRNGSeed(seed)
    points = np.log(values).astype(np.float32).reshape(-1, 1)
    centres = cv2.kmeans(points, count, None, _STOP, _ATTEMPTS, cv2.KMEANS_PP_CENTERS)[2]
    return np.exp(np.sort(centres.ravel().astype(np.float64)))


def fit_scales(boxes: np.ndarray, cells: Sequence[np.ndarray], scales: Sequence[Sequence[float]],
               ratios: Sequence[Sequence[float]]) -> list[list[float]]:
    """Move anchor sizes, one at a time and as long as it helps, towards more boxes with an anchor of IoU over 0.5.

    What grows is that share plus the mean best IoU. k-means alone knows nothing of the grids: on COCO its small
    anchors would fall between the cells' centres, and cover less than the config's.

    Args:
        boxes: float [N, 4]. cells: as `best_iou`, of each level.
        scales: sizes of each level, relative 0..1, rising from level to level; they stay in this order.
        ratios: width / height of each level's anchors.

    Returns:
        the scales moved.
    """
    flat = [float(scale) for level in scales for scale in level]
    level_of = [number for number, level in enumerate(scales) for _ in level]

    def covered(level):
        sizes = [size for size, of in zip(flat, level_of) if of == level]
        return _iou_in_own_cell(boxes, cells[level], shapes_of(sizes, ratios[level])).max(axis=1)

    by_level = np.stack([covered(level) for level in range(len(scales))])
    value, before = _worth(by_level.max(axis=0)), -1.0
    while value > before + _SMALLEST_GAIN:
        before = value
        for index, level in enumerate(level_of):
            others = np.delete(by_level, level, axis=0).max(axis=0, initial=0)
            for factor in _STEPS:
                old, flat[index] = flat[index], flat[index] * factor
                found = covered(level)
                if flat == sorted(flat) and _worth(np.maximum(others, found)) > value:
                    value, by_level[level] = _worth(np.maximum(others, found)), found
                else:
                    flat[index] = old
    return [[size for size, of in zip(flat, level_of) if of == level] for level in range(len(scales))]


def shapes_of(scales: Sequence[float], ratios: Sequence[float]) -> np.ndarray:
    """Widths and heights, float64 [A, 2], of anchors of every scale (side of the square of its area) and ratio."""
    roots = np.sqrt(np.asarray(ratios, np.float64))
    return np.stack([np.outer(scales, roots).ravel(), np.outer(scales, 1 / roots).ravel()], axis=1)


def _worth(ious: np.ndarray) -> float:
    return float((ious > WELL_COVERED).mean() + ious.mean())
