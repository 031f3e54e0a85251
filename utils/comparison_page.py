"""A page of pictures that shows what was found beside what is there.

Shapes: D detections of one picture, H W its size. Pictures are BGR as OpenCV reads them, boxes are pixels.
"""
from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as mask_utils

from utils.charts import save_figure
from utils.instances import Instances
from utils.labels import fit_heading
from utils.visualize import by_falling_score, color_of, draw_objects, resize_window

# A4 portrait at 150 dots per inch, and the white space on it, in pixels.
_PAGE_WIDTH, _PAGE_HEIGHT, _PAGE_DPI = 1240, 1754, 150
_MARGIN, _HEADER, _GAP, _PAIR_GAP, _ROW_GAP = 44, 124, 8, 30, 14
_PAIRS_PER_PAGE = 12
_CROWDED = 0.05  # a label that would cover more than this of others is left out
_SAME_OBJECT_IOU = 0.3


def comparison_page(items: Sequence[dict[str, Any]], path: str | os.PathLike[str], title: str,
                    colors: Sequence[tuple[int, int, int]], score_threshold: float = 0.3) -> None:
    """Write one A4 page of picture pairs, ground truth on the left and prediction on the right.

    A prediction has the colour of the object that its box fits best. Small pictures are enlarged.

    Args:
        items: list of dicts, the first 12 of which are drawn: "image" uint8 [H, W, 3] BGR, "gt" and "pred"
            utils.instances.Instances of it, without and with scores.
        path: PNG file; its folder is made.
        title: the line at the top, for example the configuration and its AP.
        colors: list of (red, green, blue), 0..255.
        score_threshold: predictions with a lower score are not drawn.

    Raises:
        ValueError: there is no item.
    """
    if not items:
        raise ValueError("comparison_page needs at least one image, but the list of items is empty")
    items = list(items)[:_PAIRS_PER_PAGE]
    columns, (cell_width, cell_height) = _page_grid([item["image"].shape for item in items])
    pairs = [_pair(item, (cell_width, cell_height), colors, score_threshold) for item in items]
    rows = [pairs[start:start + columns] for start in range(0, len(pairs), columns)]
    heights = [max(picture.shape[0] for pair in row for picture in pair) for row in rows]
    spare = _PAGE_HEIGHT - _HEADER - _MARGIN - sum(heights)
    row_gap = min(_MARGIN, spare // (len(rows) - 1)) if len(rows) > 1 else 0
    page = np.full((_PAGE_HEIGHT, _PAGE_WIDTH, 3), 255, np.uint8)
    heads, top = [], _HEADER
    for row, height in zip(rows, heights):
        for column, pair in enumerate(row):
            for side, picture in enumerate(pair):
                left = _MARGIN + column * (2 * cell_width + _GAP + _PAIR_GAP) + side * (cell_width + _GAP)
                x, y = left + (cell_width - picture.shape[1]) // 2, top + (height - picture.shape[0]) // 2
                page[y:y + picture.shape[0], x:x + picture.shape[1]] = picture
                if row is rows[0]:
                    heads.append((left + cell_width / 2, ("ground truth", "prediction")[side]))
        top += height + row_gap
    note = f"predictions with a score of at least {score_threshold:g}"
    _save_page(page, path, title, note, heads)


class _Resized:
    """The objects of a picture in another size of it, for utils.visualize.draw_objects.

    Args:
        found: utils.instances.Instances. size, new_size: (height, width) of the picture.
    """

    def __init__(self, found: Instances, size: tuple[int, int], new_size: tuple[int, int]) -> None:
        self._found, self._size, self._new_size = found, size, new_size
        self.names, self.scores, self.has_masks = found.names, found.scores, found.has_masks
        self.boxes = found.boxes * np.tile(np.array(new_size[::-1]) / size[::-1], 2)

    def window(self, index: int) -> tuple[int, int, np.ndarray]:
        """As `Instances.window`."""
        return resize_window(self._found.window(index), self._size, self._new_size)


def _page_grid(shapes: Sequence[tuple[int, ...]]) -> tuple[int, tuple[int, int]]:
    """Columns of pairs, and (width, height) of a picture's cell, that show the pictures largest."""
    choices = []
    for columns in (1, 2, 3):
        rows = -(-len(shapes) // columns)
        pair_width = (_PAGE_WIDTH - 2 * _MARGIN - (columns - 1) * _PAIR_GAP) // columns
        cell = ((pair_width - _GAP) // 2, (_PAGE_HEIGHT - _HEADER - _MARGIN - (rows - 1) * _ROW_GAP) // rows)
        area = sum(min(cell[0] / shape[1], cell[1] / shape[0]) ** 2 * shape[0] * shape[1] for shape in shapes)
        choices.append((area, columns, cell))
    _, columns, cell = max(choices, key=lambda choice: choice[0])
    return columns, cell


def _pair(item: dict[str, Any], cell: tuple[int, int], colors: Sequence[tuple[int, int, int]], score_threshold: float
          ) -> list[np.ndarray]:
    """Pictures of the ground truth and of the prediction, both as large as the cell allows."""
    image, gt, pred = item["image"], item["gt"], item["pred"]
    size = image.shape[:2]
    factor = min(cell[0] / size[1], cell[1] / size[0])
    new_size = max(1, round(size[0] * factor)), max(1, round(size[1] * factor))
    canvas = cv2.resize(image, new_size[::-1], interpolation=cv2.INTER_CUBIC if factor > 1 else cv2.INTER_AREA)

    gt_order = by_falling_score(gt)
    order = [index for index in by_falling_score(pred) if pred.scores[index] >= score_threshold]
    ranks = _matching_ranks(gt.boxes[gt_order], pred.boxes[order])
    pictures = []
    for found, shown, shown_ranks in ((gt, gt_order, range(len(gt_order))), (pred, order, ranks)):
        pictures.append(canvas.copy())
        draw_objects(pictures[-1], _Resized(found, size, new_size), shown,
                     [color_of(rank, colors) for rank in shown_ranks], crowded=_CROWDED)
    return pictures


def _matching_ranks(gt_boxes: np.ndarray, boxes: np.ndarray) -> list[int]:
    """Colour rank of every prediction: that of the free ground truth it fits best, else one of its own."""
    count = len(gt_boxes)
    overlaps = np.reshape(mask_utils.iou(_as_xywh(boxes), _as_xywh(gt_boxes), [0] * count), (len(boxes), count))
    ranks, next_rank = [], count
    for index in range(len(boxes)):
        best = int(overlaps[index].argmax()) if count else -1
        if count and overlaps[index, best] >= _SAME_OBJECT_IOU:
            overlaps[:, best] = 0  # it is free no more
            ranks.append(best)
        else:
            ranks.append(next_rank)
            next_rank += 1
    return ranks


def _as_xywh(boxes: np.ndarray) -> np.ndarray:
    """x1, y1, x2, y2 -> float64 x, y, width, height, as pycocotools has boxes."""
    boxes = np.array(boxes, np.float64).reshape(-1, 4)
    boxes[:, 2:] -= boxes[:, :2]
    return boxes


def _save_page(page: np.ndarray, path: str | os.PathLike[str], title: str, note: str, heads: list[tuple[float, str]]
               ) -> None:
    """Set the lines of text and write the PNG."""
    # Here, because importing matplotlib takes longer than evaluating a small data set that needs no page.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_PAGE_WIDTH / _PAGE_DPI, _PAGE_HEIGHT / _PAGE_DPI), dpi=_PAGE_DPI)
    FigureCanvasAgg(figure)
    figure.figimage(page[:, :, ::-1], origin="upper")
    left, right = _MARGIN / _PAGE_WIDTH, 1 - _MARGIN / _PAGE_WIDTH
    heading = figure.text(left, 1 - 54 / _PAGE_HEIGHT, title, fontsize=13, fontweight="bold", color="#1c2733",
                          parse_math=False)
    fit_heading(heading, (right - left) * _PAGE_WIDTH)
    small: dict[str, Any] = {"fontsize": 8, "color": "#66727f"}
    figure.text(right, (_MARGIN - 26) / _PAGE_HEIGHT, note, ha="right", **small)
    for x, text in heads:
        figure.text(x / _PAGE_WIDTH, 1 - (_HEADER - 12) / _PAGE_HEIGHT, text, ha="center", **small)
    save_figure(figure, path)
