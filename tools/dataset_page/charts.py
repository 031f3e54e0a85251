"""Histograms of a data set: objects per image, sizes, shapes, classes, and where objects are.

Shapes: N objects. Sides are pixels of the network's input, without augmentation.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from data.inspection import Inspection
from data.inspection_rules import HARD_SIDE
from utils.charts import LINE_COLORS, PALE_INK, new_figure

COLORS = LINE_COLORS[:2]
HEAT_CELLS = 64
MOST_PER_IMAGE = 40  # images with more objects share the last bar

# Axes, {name: inspection}, sides of the objects of each.
_Draw = Callable[[Any, Mapping[str, Inspection], Mapping[str, np.ndarray]], None]


def charts_png(inspections: Mapping[str, Inspection], max_size: int, preserve_aspect_ratio: bool = False) -> bytes:
    """All charts as a PNG.

    Args:
        inspections: {name of the split: what was found}, one or two. max_size, preserve_aspect_ratio: of the network's
            input.
    """
    sides = {name: inspection.table.input_sides(max_size, preserve_aspect_ratio)[inspection.table.label >= 0]
             for name, inspection in inspections.items()}
    charts: list[tuple[str, _Draw]] = [
        ("objects per image", _draw_per_image),
        (f"object size in the network's input ({max_size} pixels)", _draw_sizes),
        ("width / height of the objects", _draw_shapes),
        ("objects of each class", _draw_classes)]
    rows = 3
    figure = new_figure(12, 1 + 2.9 * rows, dpi=120)
    grid = figure.add_gridspec(rows, 2)
    for position, (title, draw) in enumerate(charts):
        axes = figure.add_subplot(grid[position // 2, position % 2])
        draw(axes, inspections, sides)
        _style(axes, title)
    for column, (name, inspection) in enumerate(inspections.items()):
        axes = figure.add_subplot(grid[rows - 1, column])
        _draw_places(figure, axes, inspection)
        axes.set_title(f"where objects are: {name}", loc="left", fontsize=11, fontweight="bold", color="#1b2430")
    _legend(figure, inspections)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _legend(figure: Any, inspections: Mapping[str, Inspection]) -> None:
    from matplotlib.patches import Patch

    # Names of splits only: those of classes and files may be in scripts that matplotlib's font lacks.
    handles = [Patch(color=color, alpha=0.75, label=f"{name}: {len(inspection.images):,} images, "
                     f"{int((inspection.table.label >= 0).sum()):,} objects")
               for color, (name, inspection) in zip(COLORS, inspections.items())]
    figure.legend(handles=handles, loc="outside upper left", ncols=2, frameon=False, fontsize=10)


def _style(axes: Any, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color="#1b2430")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#aab3bd")
    axes.tick_params(colors=PALE_INK, labelsize=9, which="both")
    axes.grid(axis="y", color="#e3e7ec", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.label.set(color=PALE_INK, fontsize=9)
    axes.yaxis.label.set(color=PALE_INK, fontsize=9)


def _histogram(axes: Any, values: Mapping[str, np.ndarray], edges: np.ndarray, unit: str) -> None:
    """Shares of the values of each split in the bins, in per cent, so that a small split shows beside a large one."""
    if not any(len(of_split) for of_split in values.values()):
        _say_empty(axes)
        return
    for color, of_split in zip(COLORS, values.values()):
        if len(of_split):
            counts = np.histogram(np.clip(of_split, edges[0], edges[-1]), edges)[0]
            axes.stairs(100 * counts / len(of_split), edges, fill=True, color=color, alpha=0.45)
            axes.stairs(100 * counts / len(of_split), edges, color=color, linewidth=1.3)
    axes.set_ylabel(f"% of {unit}")


def _say_empty(axes: Any) -> None:
    axes.text(0.5, 0.5, "no objects", transform=axes.transAxes, ha="center", va="center", color=PALE_INK)
    axes.set_xticks([])
    axes.set_yticks([])


def _draw_per_image(axes: Any, inspections: Mapping[str, Inspection], sides: Mapping[str, np.ndarray]) -> None:
    values = {name: np.bincount(inspection.table.image[inspection.table.label >= 0], minlength=len(inspection.images))
              if len(sides[name]) else np.empty(0) for name, inspection in inspections.items()}
    most = max((int(counts.max()) for counts in values.values() if len(counts)), default=0)
    last = min(most, MOST_PER_IMAGE)
    _histogram(axes, values, np.arange(last + 2) - 0.5, "images")
    if most > MOST_PER_IMAGE:
        ticks = list(range(0, MOST_PER_IMAGE, 10)) + [MOST_PER_IMAGE]
        axes.set_xticks(ticks, [*map(str, ticks[:-1]), f"{MOST_PER_IMAGE}+"])
    elif most:
        axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("objects")


def _draw_sizes(axes: Any, inspections: Mapping[str, Inspection], sides: Mapping[str, np.ndarray]) -> None:
    values = {name: np.sqrt(of_split.prod(axis=1)) for name, of_split in sides.items()}
    highest = max([64.0, *(float(of_split.max()) for of_split in values.values() if len(of_split))])
    _histogram(axes, values, np.geomspace(1, highest, 41), "objects")
    if any(map(len, values.values())):
        _log_ticks(axes, [one for one in (1, 4, 16, 32, 64, 128, 256, 512, 1024) if one <= highest])
        axes.axvline(HARD_SIDE, color=PALE_INK, linestyle=":", linewidth=1)
    axes.set_xlabel("root of width x height, pixels; dotted: hard to detect below")


def _draw_shapes(axes: Any, inspections: Mapping[str, Inspection], sides: Mapping[str, np.ndarray]) -> None:
    values = {name: of_split[:, 0] / of_split[:, 1] for name, of_split in sides.items()}
    _histogram(axes, values, np.geomspace(1 / 16, 16, 41), "objects")
    if any(map(len, values.values())):
        _log_ticks(axes, [1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8, 16], ["1/16", "1/8", "1/4", "1/2", *"1248", "16"])
    axes.set_xlabel("as the network sees them")


def _log_ticks(axes: Any, ticks: list[float], labels: list[str] | None = None) -> None:
    axes.set_xscale("log")
    axes.set_xticks(ticks, labels or [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)


def _draw_classes(axes: Any, inspections: Mapping[str, Inspection], sides: Mapping[str, np.ndarray]) -> None:
    if not any(map(len, sides.values())):
        _say_empty(axes)
        axes.set_xlabel("classes")
        return
    counts = [np.bincount(inspection.table.label[inspection.table.label >= 0], minlength=len(inspection.class_names))
              for inspection in inspections.values()]
    order = np.argsort(-counts[0], kind="stable")
    places = np.arange(1, len(order) + 1)
    axes.bar(places, counts[0][order], 0.8, color=COLORS[0], alpha=0.6)
    if len(counts) > 1 and len(counts[1]) == len(order):
        axes.plot(places, np.where(counts[1] > 0, counts[1], np.nan)[order], "o", color=COLORS[1], markersize=3.5)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda count, _: f"{count:,.0f}")
    axes.yaxis.set_minor_formatter("")  # where no power of ten but 1 is in sight, others would be 3 x 10^0
    axes.set_ylim(0.7, 2 * max(int(of_split.max(initial=1)) for of_split in counts))
    axes.set_xlim(0.25, max(len(order), 3) + 0.75)
    axes.set_xticks(places[::1 + len(places) // 10])
    axes.set_ylabel("objects")
    axes.set_xlabel("classes, the most frequent first")


def _draw_places(figure: Any, axes: Any, inspection: Inspection) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color("#aab3bd")
    table = inspection.table
    if not (table.label >= 0).any():
        _say_empty(axes)
        return
    heat = 100 * coverage((table.clipped / np.tile(table.sizes, 2))[table.label >= 0])
    picture = axes.imshow(heat, cmap="viridis", vmin=0, aspect="auto", interpolation="nearest")
    bar = figure.colorbar(picture, ax=axes)
    bar.set_label("% of objects whose box is here", color=PALE_INK, fontsize=9)
    bar.ax.tick_params(colors=PALE_INK, labelsize=9)


def coverage(boxes: np.ndarray, cells: int = HEAT_CELLS) -> np.ndarray:
    """float64 [cells, cells], the share of boxes (x1, y1, x2, y2, relative 0..1, [N, 4]) that reach into each cell."""
    x1, y1 = np.minimum(np.floor(boxes[:, :2] * cells).astype(int), cells - 1).T
    x2, y2 = np.clip(np.ceil(boxes[:, 2:] * cells).astype(int), 1, cells).T
    # Each box is +1 and -1 at its corners; sums along both axes fill it.
    corners = np.zeros((cells + 1, cells + 1))
    for rows, columns, sign in ((y1, x1, 1), (y2, x2, 1), (y1, x2, -1), (y2, x1, -1)):
        np.add.at(corners, (rows, columns), sign)
    return corners.cumsum(axis=0).cumsum(axis=1)[:cells, :cells] / max(len(boxes), 1)
