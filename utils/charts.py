"""What the charts of the tools have in common: colours, axes and files. matplotlib is imported when one is drawn."""
from __future__ import annotations

import os
from typing import TYPE_CHECKING

from utils.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINE_COLORS = ("#1d4e89", "#c8553d", "#2a9d52", "#8348c4", "#b08900", "#00838f")
INK, PALE_INK = "#1c2733", "#4a5560"
_FRAME, _GRID = "#b5bec7", "#e3e7eb"


def new_figure(width: float, height: float, dpi: int) -> Figure:
    """An empty figure of so many inches; its axes are laid out so that nothing overlaps."""
    from matplotlib.figure import Figure  # not pyplot: no display, no global state
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return Figure(figsize=(width, height), dpi=dpi, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))


def style_axes(axes: Axes, title: str, x_label: str) -> None:
    """Give axes their title and the look of all charts: a pale grid, and a frame on two sides."""
    axes.set_title(title, loc="left", fontsize=10.5, color=INK)
    axes.set_xlabel(x_label, fontsize=9, color=PALE_INK)
    axes.tick_params(labelsize=8.5, colors=PALE_INK)
    axes.grid(True, color=_GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(_FRAME)


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure as PNG, whole or not at all; the folder is made."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")
