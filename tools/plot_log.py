"""Draw the logs of training runs: loss terms, learning rate, validation AP and time over the iterations.

    python tools/plot_log.py logs/yolact_base.log --out curves.png
    python tools/plot_log.py logs/first.log logs/second.log --out both.png     # several runs in the same axes

Reads the JSON lines that train.py writes. A run that was interrupted and resumed appears as one curve: where
sessions overlap, the later one counts. Dotted vertical lines show where sessions begin.
"""
from __future__ import annotations

import argparse
import functools
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if __package__ in (None, ""):  # run as a script: python tools/plot_log.py
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from utils.charts import INK, LINE_COLORS, PALE_INK, new_figure, save_figure, style_axes  # noqa: E402
from utils.training_log import LOSS_NAMES, LogError, TrainingLog, in_order, read_log  # noqa: E402

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINES = {"mask": "-", "box": "--"}  # of AP
# More points than a plot has pixels only make it slow: a full COCO run logs 800,000 iterations.
MAX_POINTS = 4000
FEW_POINTS = 80  # have markers: between gaps a single point makes no line
MAX_NAME = 60  # characters


class Curve(NamedTuple):
    """What a run has of a panel: iterations int [n], values float [n], and the style of the line."""

    iterations: np.ndarray
    values: np.ndarray
    line: str = "-"


class Panel(NamedTuple):
    """A title, what takes its curves out of a log, what draws one, and what sets the y axis for all of them."""

    title: str
    curves_of: Callable[[TrainingLog], list[Curve]]
    draw: Callable[[Axes, Curve, str], None]
    limit: Callable[[Axes, list[Curve]], None]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line as a namespace; exits with a message on a wrong one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", nargs="+", metavar="LOG", help="log of train.py; several share the same axes")
    parser.add_argument("--out", required=True, metavar="FILE.png", help="picture to write")
    parser.add_argument("--last_session", action="store_true",
                        help="only the last session of each log; otherwise resumed sessions are joined")
    return parser.parse_args(argv)


def plot_logs(log_files: Sequence[str], out_png: str, last_session: bool = False) -> None:
    """Write one picture with a panel for every loss term, the learning rate, validation AP and time per iteration.

    What no log holds has no panel.

    Args:
        log_files: paths of logs; several are drawn in the same axes, each in its colour.
        out_png: PNG file; its folder is made.
        last_session: draw only the last session of every log.

    Raises:
        LogError: a log is missing or has no training record.
    """
    logs = [read_log(path, last_session) for path in log_files]
    panels = panels_of(logs)
    rows = -(-len(panels) // 2)
    figure = new_figure(12, 1.0 + 2.7 * rows, dpi=120)
    grid = figure.add_gridspec(rows, 2)
    for position, panel in enumerate(panels):
        row, column = divmod(position, 2)
        is_alone = column == 0 and position == len(panels) - 1
        _draw_panel(figure.add_subplot(grid[row, :] if is_alone else grid[row, column]), panel, logs)
    _headline(figure, run_names(log_files))
    save_figure(figure, out_png)


def panels_of(logs: Sequence[TrainingLog]) -> list[Panel]:
    """The panels of what the logs hold."""
    panels = [Panel(LOSS_NAMES.get(term, term), functools.partial(_loss_curves, term=term), _draw_noisy, _limit_settled)
              for term in in_order([log.losses for log in logs])]
    panels += [Panel("learning rate", lambda log: [Curve(log.iterations, log.learning_rates)], _draw, _limit_rate),
               Panel("time per iteration (s)", _time_curves, _draw_noisy, _limit_settled),
               Panel("validation AP (%)", _precision_curves, _draw, _limit_precision)]
    return [panel for panel in panels if any(_curves(panel, log) for log in logs)]


def run_names(log_files: Sequence[str]) -> list[str]:
    """A short name for every log: the file's, or the path below the common folder where file names are equal."""
    paths = [os.path.splitext(os.path.abspath(path))[0] for path in log_files]
    names = [os.path.basename(path) for path in paths]
    if len(set(names)) == len(names):
        return names
    return [os.path.relpath(path, os.path.commonpath(map(os.path.dirname, paths))) for path in paths]


def smoothed(values: np.ndarray, window: int) -> np.ndarray:
    """Centred mean over `window` values (1 or more), cut off at the ends and blind to values that are not finite.

    Args:
        values: float [n].

    Returns: float [n]; NaN where no value of the window is finite.
    """
    finite = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    places = np.arange(len(values))
    first, last = np.maximum(places - window // 2, 0), np.minimum(places + window // 2 + 1, len(values))
    total, number = sums[last] - sums[first], counts[last] - counts[first]
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


# --- what a panel shows -----------------------------------------------------------------------------------------


def _loss_curves(log: TrainingLog, term: str) -> list[Curve]:
    return [Curve(log.iterations, log.losses[term])] if term in log.losses else []


def _time_curves(log: TrainingLog) -> list[Curve]:
    """Without the first iteration of every session, which pays for allocation and the start of the workers."""
    is_usual = ~np.isin(log.iterations, log.session_starts)
    return [Curve(log.iterations, np.where(is_usual, log.seconds, np.nan))]


def _precision_curves(log: TrainingLog) -> list[Curve]:
    return [Curve(log.validated, log.precisions[kind], line) for kind, line in LINES.items()]


def _curves(panel: Panel, log: TrainingLog) -> list[Curve]:
    """Those that have a value to draw."""
    return [curve for curve in panel.curves_of(log) if np.isfinite(curve.values).any()]


# --- drawing ----------------------------------------------------------------------------------------------------


def _draw_panel(axes: Axes, panel: Panel, logs: Sequence[TrainingLog]) -> None:
    """The curves of all logs, and dotted lines where their sessions begin."""
    from matplotlib.ticker import MaxNLocator

    drawn = []
    for log, color in zip(logs, itertools.cycle(LINE_COLORS)):
        curves = _curves(panel, log)
        for curve in curves:
            panel.draw(axes, curve, color)
        for start in log.session_starts if curves else ():
            if start > 0:
                axes.axvline(start, color=color, alpha=0.4, linewidth=0.9, linestyle=":", zorder=1)
        drawn += curves
    panel.limit(axes, drawn)
    style_axes(axes, panel.title, "iteration")
    last = max(1, *(log.iterations[-1] for log in logs))
    axes.set_xlim(-0.01 * last, 1.01 * last)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10], integer=True))


def _draw(axes: Axes, curve: Curve, color: str) -> None:
    step = max(1, len(curve.values) // MAX_POINTS)
    axes.plot(curve.iterations[::step], curve.values[::step], curve.line, color=color, linewidth=1.6, zorder=3,
              marker="o" if len(curve.values) < FEW_POINTS else None, markersize=3)


def _draw_noisy(axes: Axes, curve: Curve, color: str) -> None:
    """Raw values pale, running mean strong."""
    step = max(1, len(curve.values) // MAX_POINTS)
    axes.plot(curve.iterations[::step], curve.values[::step], color=color, linewidth=0.7, alpha=0.22, zorder=2)
    _draw(axes, curve._replace(values=smoothed(curve.values, max(1, len(curve.values) // 40))), color)


def _limit_settled(axes: Axes, curves: list[Curve]) -> None:
    """From 0 to above what is usual; the first iterations may leave the top."""
    # The loss of an untrained network is many times that of a trained one and would flatten the rest.
    settled = [_finite(curve.values[len(curve.values) // 50:]) for curve in curves]
    axes.set_ylim(0, 1.1 * max((np.percentile(values, 99.5) for values in settled if values.size), default=0) or 1.0)


def _limit_rate(axes: Axes, curves: list[Curve]) -> None:
    """Linear from 0, or logarithmic where steps have made the rate too small to be seen."""
    rates = [_finite(curve.values) for curve in curves]
    highest = max(float(values.max()) for values in rates)
    if highest > 0 and any((values < 0.02 * highest).mean() > 0.1 for values in rates):
        positive = np.concatenate([values[values > 0] for values in rates])
        axes.set_yscale("log")
        axes.set_ylim(max(0.5 * positive.min(), 1e-5 * highest), 2 * highest)
    else:
        axes.set_ylim(0, 1.08 * highest or 1.0)
        axes.yaxis.set_major_formatter(lambda rate, _: f"{rate:g}")  # a power of ten above the axis moves the title


def _limit_precision(axes: Axes, curves: list[Curve]) -> None:
    """From 0 to above the highest, with a legend of the kinds of line."""
    from matplotlib.lines import Line2D

    axes.set_ylim(0, 1.08 * max(float(_finite(curve.values).max()) for curve in curves) or 1.0)
    lines = [Line2D([], [], color=PALE_INK, linestyle=line, linewidth=1.5, label=kind)
             for kind, line in LINES.items() if any(curve.line == line for curve in curves)]
    axes.legend(handles=lines, fontsize=8.5, frameon=False, loc="lower right", ncols=2)


def _finite(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]


def _headline(figure: Figure, names: Sequence[str]) -> None:
    """The run's name above the panels, or a legend of several."""
    from matplotlib.lines import Line2D

    names = [name if len(name) <= MAX_NAME else f"...{name[3 - MAX_NAME:]}" for name in names]
    if len(names) == 1:
        figure.suptitle(names[0], fontsize=13, fontweight="bold", color=INK)
        return
    lines = [Line2D([], [], color=color, linewidth=2.5, label=name)
             for name, color in zip(names, itertools.cycle(LINE_COLORS))]
    columns = max(1, min(len(names), 130 // (max(map(len, names)) + 8)))
    figure.legend(handles=lines, loc="outside upper center", ncols=columns, fontsize=10.5, frameon=False)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; a user's mistake ends in one line and exit code 1."""
    args = parse_args(argv)
    try:
        plot_logs(args.logs, args.out, args.last_session)
    except LogError as error:
        sys.exit(f"plot_log.py: error: {error}")
    except OSError as error:
        sys.exit(f"plot_log.py: error: cannot write {args.out} ({error.strerror}); correct --out")
    print(f"written: {args.out}")


if __name__ == "__main__":
    main()
