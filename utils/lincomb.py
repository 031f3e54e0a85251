"""A figure of how the mask of one detection comes from the prototypes (Sec. 3.1 and 3.3, eq. 1).

Shapes: h w of the prototypes, K how many there are, H W of the picture.
"""
from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from utils.charts import save_figure
from utils.labels import fit_heading, font_file
from utils.visualize import paint_mask, resize_window

_MOST_SHOWN = 12  # prototypes, one by one
_COLUMNS = 8  # cells in a row: four pairs of a prototype and the sum after it
_BAR_COLUMN = 6  # where the colour bars begin in the last row
_MOST_SUM = 6.0  # a sum beyond it has the colour of this one: the sigmoid of 6 is 0.998
_PICTURE_SIDE = 400  # pixels; larger pictures are made smaller for the figure
_PLUS, _MINUS, _INK, _PALE_INK = "#b2182b", "#2166ac", "#1c2733", "#66727f"  # plus and minus as in the sums' colours
_MASK_BGR = (37, 231, 253)  # the upper end of the masks' colours


def lincomb_figure(path: str | os.PathLike[str], image_bgr: np.ndarray, protos: np.ndarray, coeffs: np.ndarray,
                   mask: tuple[int, int, np.ndarray], box: Sequence[float], title: str, crop: bool = True) -> None:
    """Write a figure of how one mask is put together: prototypes times coefficients, sum, sigmoid, crop, 0.5.

    The 12 prototypes with the largest absolute coefficients are shown one by one, times these, each with the sum up
    to it; the others together.

    Args:
        path: PNG file; its folder is made.
        image_bgr: uint8 [H, W, 3].
        protos: float32 [h, w, K] of the picture. coeffs: float32 [K] of the detection.
        mask: the final mask as utils.instances.Instances.window gives it: (x, y, bool [rows, columns]) in pixels.
        box: x1, y1, x2, y2 of the detection, in pixels of the picture.
        title: the line at the top, such as the class and the score.
        crop: whether masks are cut to their boxes.
    """
    save_figure(build_lincomb_figure(image_bgr, protos, coeffs, mask, box, title, crop), path)


def build_lincomb_figure(image_bgr: np.ndarray, protos: np.ndarray, coeffs: np.ndarray,
                         mask: tuple[int, int, np.ndarray], box: Sequence[float], title: str, crop: bool = True) -> Any:
    """The matplotlib Figure that ``lincomb_figure`` writes; arguments as there."""
    protos, coeffs = np.asarray(protos, np.float32), np.asarray(coeffs, np.float32)
    order = np.argsort(-np.abs(coeffs), kind="stable")
    shown, others = order[:_MOST_SHOWN], order[_MOST_SHOWN:]
    sums = np.cumsum(protos[:, :, shown] * coeffs[shown], axis=2)
    rest, total = protos[:, :, others] @ coeffs[others], protos @ coeffs
    sum_style = {"cmap": "RdBu_r", "vmin": -_MOST_SUM, "vmax": _MOST_SUM}
    mask_style = {"cmap": "viridis", "vmin": 0, "vmax": 1}

    size = image_bgr.shape[:2]
    last_row = -(-2 * len(shown) // _COLUMNS)
    sheet = _Sheet(last_row + 1, size)
    sheet.write_head(title, _explanation(len(shown), len(others), rest))
    for rank, index in enumerate(shown):
        row, column = divmod(2 * rank, _COLUMNS)
        sheet.show(row, column, protos[:, :, index] * coeffs[index], f"{_signed(coeffs[index])} × prototype {index}",
                   sum_style, _PLUS if coeffs[index] > 0 else _MINUS)
        sheet.show(row, column + 1, sums[:, :, rank], f"sum of {rank + 1}", sum_style)

    steps = [(rest, f"the other {len(others)} together", sum_style)] if len(others) else []
    steps.append((total, f"sum of all {len(order)}", sum_style))
    soft = 1 / (1 + np.exp(-np.clip(total, -80, 80)))
    steps.append((soft, "sigmoid", mask_style))
    if crop:
        steps.append((_cut(soft, box, size), "cut to the box", mask_style))
    steps.append((_over_picture(image_bgr, mask), "over 0.5: the mask", {}))
    for column, step in enumerate(steps):
        sheet.show(last_row, column, *step)
        sheet.outline(box)
    sheet.color_bar(last_row, _BAR_COLUMN, "products and sums", sum_style, "both")
    sheet.color_bar(last_row, _BAR_COLUMN + 1, "after the sigmoid", mask_style)
    return sheet.figure


class _Sheet:
    """A matplotlib figure with rows of cells in the picture's shape, and a head above them.

    Args:
        rows: of cells. size: (height, width) of the picture in pixels.
    """

    # Inches.
    HEAD, MARGIN, GAP, CELL_HEAD, CELL_WIDTH = 0.85, 0.3, 0.14, 0.26, 1.75

    def __init__(self, rows: int, size: tuple[int, int]) -> None:
        # Here, because nothing else of a program that detects objects needs so much of matplotlib.
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.size = size
        ratio = min(max(size[0] / size[1], 0.4), 1.6)  # a very long picture stands small in its cell
        self.cell_height = self.CELL_WIDTH * ratio
        self.inches = (2 * self.MARGIN + _COLUMNS * (self.CELL_WIDTH + self.GAP) - self.GAP,
                       self.HEAD + rows * (self.CELL_HEAD + self.cell_height + self.GAP) + self.MARGIN)
        self.figure: Any = Figure(figsize=self.inches, dpi=110, facecolor="white")
        FigureCanvasAgg(self.figure)

    def write_head(self, title: str, explanation: str) -> None:
        """The two lines at the top; a long title is made smaller."""
        left = self.MARGIN / self.inches[0]
        heading = self.figure.text(left, 1 - 0.3 / self.inches[1], title, family=_families(title), fontsize=15,
                                   color=_INK, va="center", parse_math=False)  # a "$" is one
        fit_heading(heading, (self.inches[0] - 2 * self.MARGIN) * self.figure.dpi)
        self.figure.text(left, 1 - 0.6 / self.inches[1], explanation, fontsize=9.5, color=_PALE_INK, va="center")

    def show(self, row: int, column: int, array: np.ndarray, head: str, style: Mapping[str, Any], color: str = _INK
             ) -> None:
        """Fill a cell with an array, enlarged to the picture's size, under a line of text."""
        axes = self.figure.add_axes(self._cell(row, column, self.cell_height))
        height, width = self.size
        axes.imshow(array, extent=(0, width, height, 0), **style)
        axes.set(xticks=[], yticks=[])
        axes.set_title(head, fontsize=8.5, color=color, pad=3)
        for spine in axes.spines.values():
            spine.set(color="#c8ced4", linewidth=0.6)

    def outline(self, box: Sequence[float]) -> None:
        """Draw the box in the cell filled last."""
        x1, y1, x2, y2 = (float(value) for value in box)
        self.figure.axes[-1].plot([x1, x2, x2, x1, x1], [y1, y1, y2, y2, y1], color="#ff9800", linewidth=1)

    def color_bar(self, row: int, column: int, head: str, style: Mapping[str, Any], extend: str = "neither") -> None:
        """A colour bar across a cell, with its meaning above; `extend`: at which ends values go beyond it."""
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        left, bottom, width, height = self._cell(row, column, 0.13)
        axes = self.figure.add_axes((left + 0.06 * width, bottom, 0.88 * width, height))
        bar = self.figure.colorbar(ScalarMappable(Normalize(style["vmin"], style["vmax"]), style["cmap"]), cax=axes,
                                   orientation="horizontal", extend=extend)
        bar.ax.tick_params(labelsize=8, colors=_PALE_INK)
        bar.locator.set_params(nbins=4)
        bar.outline.set_visible(False)
        axes.set_title(head, fontsize=8.5, color=_INK, pad=3)

    def _cell(self, row: int, column: int, height: float) -> tuple[float, float, float, float]:
        """Rectangle in the figure, 0..1, of the upper `height` inches of a cell: left, bottom, width, height."""
        left = self.MARGIN + column * (self.CELL_WIDTH + self.GAP)
        top = self.HEAD + row * (self.CELL_HEAD + self.cell_height + self.GAP) + self.CELL_HEAD
        return (left / self.inches[0], 1 - (top + height) / self.inches[1], self.CELL_WIDTH / self.inches[0],
                height / self.inches[1])


def _families(text: str) -> list[str]:
    """Names of fonts for matplotlib that have the characters of a text."""
    from matplotlib.font_manager import FontProperties, fontManager

    paths = dict.fromkeys(font_file(character) for character in "a" + text)
    known = {entry.fname for entry in fontManager.ttflist}
    for path in paths:
        if path not in known:
            fontManager.addfont(path)
    return [FontProperties(fname=path).get_name() for path in paths]


def _signed(number: float) -> str:
    return f"{number:+.2f}".replace("-", "−")


def _explanation(shown: int, others: int, rest: np.ndarray) -> str:
    """The line under the title."""
    text = "prototypes by falling size of their coefficients, each with the sum up to it"
    if not others:
        return f"All {shown} {text}."
    return (f"The first {shown} {text}. The other {others} add between {_signed(rest.min())} and "
            f"{_signed(rest.max())}.")


def _cut(soft: np.ndarray, box: Sequence[float], size: tuple[int, int]) -> np.ndarray:
    """A copy with zeros outside the box and one sample around it, as masks are cut (layers.box_utils.crop)."""
    (height, width), (rows, columns) = size, soft.shape
    x1, y1, x2, y2 = (float(value) for value in box)
    row, column = np.arange(rows)[:, np.newaxis], np.arange(columns)
    inside = ((row >= y1 / height * rows - 1) & (row < y2 / height * rows + 1)
              & (column >= x1 / width * columns - 1) & (column < x2 / width * columns + 1))
    return soft * inside


def _over_picture(image_bgr: np.ndarray, mask: tuple[int, int, np.ndarray]) -> np.ndarray:
    """The picture, RGB, not larger than the figure can show, under the mask."""
    size = image_bgr.shape[:2]
    factor = min(1.0, _PICTURE_SIDE / max(size))
    small = max(1, round(size[0] * factor)), max(1, round(size[1] * factor))
    picture = cv2.resize(image_bgr, small[::-1], interpolation=cv2.INTER_AREA)
    paint_mask(picture, resize_window(mask, size, small), _MASK_BGR)
    return picture[:, :, ::-1]
