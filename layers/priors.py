"""Prior boxes (anchors): RetinaNet-like, one scale a level, three aspect ratios (YOLACT Sec. 4, "Anchors")."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def make_priors(height: int, width: int, scales: Sequence[float], aspect_ratios: Sequence[Sequence[float]],
                max_size: int, use_square_anchors: bool) -> np.ndarray:
    """Priors of one feature level.

    Args:
        height, width: the level's size in cells.
        scales: prior sizes in pixels of the network's input.
        aspect_ratios: list of lists of width / height ratios; all lists are used in every cell.
        max_size: input size in pixels; widths and heights are divided by it, whatever the real input shape.
        use_square_anchors: height = width. The original's v1 configs were trained with this (an accident there, so
            their "aspect ratios" are three square sizes); released weights need it.

    Returns:
        float32 [height * width * A, 4] in centre form, relative 0..1. Cells in row order; within a cell the ratio list
        is outermost, then the scale, and the aspect ratio changes fastest, as the original's heads expect.
    """
    sizes = []
    for ratios in aspect_ratios:
        for scale in scales:
            for ratio in np.sqrt(ratios):
                w = scale * ratio / max_size
                sizes.append((w, w if use_square_anchors else scale / ratio / max_size))
    y, x = np.meshgrid((np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij")
    centres = np.stack([x, y], axis=-1).reshape(-1, 1, 2)
    shape = (len(centres), len(sizes), 2)
    priors = np.concatenate([np.broadcast_to(centres, shape), np.broadcast_to(sizes, shape)], axis=-1)
    return priors.reshape(-1, 4).astype("float32")
