"""Draw the logs of training runs: loss terms, learning rate, validation AP and time over the iterations.

    python tools/plot_log.py logs/yolact_base.log --out curves.png
    python tools/plot_log.py logs/first.log logs/second.log --out both.png     # several runs in the same axes

Reads the JSON lines that train.py writes. A run that was interrupted and resumed appears as one curve: where
sessions overlap, the later one counts. Dotted vertical lines show where sessions begin.
"""

import argparse
import itertools
import json
import os
import sys

import numpy as np

if __package__ in (None, ""):  # run as a script: python tools/plot_log.py
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from utils.files import atomic_path  # noqa: E402

TERM_NAMES = {"T": "total loss", "B": "box (B)", "C": "class (C)", "M": "mask (M)", "S": "semantic segmentation (S)",
              "I": "mask IoU (I)", "D": "coefficient diversity (D)", "E": "class existence (E)"}
LINE_COLORS = ("#1d4e89", "#c8553d", "#2a9d52", "#8348c4", "#b08900", "#00838f")
# More points than a plot has pixels only make it slow: a full COCO run logs 800,000 iterations.
_MAX_POINTS = 4000
_MAX_NAME = 60


class LogError(ValueError):
    """A log that cannot be read or holds nothing to draw; the message names the file."""


def read_log(path, last_session=False):
    """Read the training and validation records of a log.

    Args:
        path: JSON-lines file; lines that are cut off (a killed run) and records of another kind are skipped.
        last_session: take only the last session that trained, instead of all of them joined.

    Returns:
        dict: "iter" int [n] rising, "lr" and "seconds" (of an iteration) float [n], "loss" {letter: float [n]},
        "val" list of (iteration, {"box": AP, "mask": AP} in per cent), "starts" first
        iterations of the sessions. What a record lacks is NaN.

    Raises:
        LogError: no such file, or no training record in it.
    """
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            records = [record for record in map(_record, file) if record is not None]
    except OSError as error:
        raise LogError(f"cannot read {path} ({error.strerror}); give a log that train.py wrote") from error
    trained = [record["session"] for record in records if record["type"] == "train"]
    if not trained:
        raise LogError(f"{path} holds no training record; give a log that train.py wrote (logs/<config>.log)")
    if last_session:
        records = [record for record in records if record["session"] == trained[-1]]

    train, val, starts = _joined(records)
    terms = [term for term in TERM_NAMES if any(term in entry["loss"] for entry in train)]
    terms += sorted({term for entry in train for term in entry["loss"]}.difference(terms))
    return {
        "iter": np.array([entry["iter"] for entry in train]),
        "lr": _column(train, "lr"),
        "seconds": _column(train, "elapsed"),
        "loss": {term: _column([entry["loss"] for entry in train], term) for term in terms},
        "val": [(entry["iter"], _average_precision(entry)) for entry in val],
        "starts": starts,
    }


def smoothed(values, window):
    """Centred mean over ``window`` values, cut off at the ends and blind to values that are not finite.

    Args:
        values: float [n].
        window: number of values, at least 1.

    Returns:
        float [n]; NaN where no value of the window is finite.
    """
    finite = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    places = np.arange(len(values))
    first, last = np.maximum(places - window // 2, 0), np.minimum(places + window // 2 + 1, len(values))
    total, number = sums[last] - sums[first], counts[last] - counts[first]
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def plot_logs(log_files, out_png, last_session=False):
    """Write one picture with a panel for every loss term, the learning rate, validation AP and time per iteration.

    What no log holds has no panel.

    Args:
        log_files: paths of logs; several are drawn in the same axes, each in its colour.
        out_png: PNG file; its folder is made.
        last_session: draw only the last session of every log.

    Raises:
        LogError: a log is missing or has no training record.
    """
    # Figure objects instead of pyplot: no display, no global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    logs = [read_log(path, last_session) for path in log_files]
    names = run_names(log_files)
    panels = _panels(logs)
    rows = -(-len(panels) // 2)
    figure = Figure(figsize=(12, 1.0 + 2.7 * rows), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)
    grid = figure.add_gridspec(rows, 2)
    for position, (title, values_of, draw, limit) in enumerate(panels):
        row, column = divmod(position, 2)
        alone = column == 0 and position == len(panels) - 1
        axes = figure.add_subplot(grid[row, :] if alone else grid[row, column])
        runs = [(log, values_of(log), color) for log, color in zip(logs, itertools.cycle(LINE_COLORS))]
        runs = [run for run in runs if _has_values(run[1])]
        for log, values, color in runs:
            draw(axes, log, values, color)
            _draw_starts(axes, log, color)
        limit(axes, [values for _, values, _ in runs])
        _style(axes, title, max(log["iter"][-1] for log in logs))
    _headline(figure, names)
    with atomic_path(out_png) as temporary:
        figure.savefig(temporary, format="png")


def run_names(log_files):
    """A short name for every log: the file's, or what differs in the paths where file names are equal."""
    names = [os.path.splitext(os.path.basename(path))[0] for path in log_files]
    paths = [os.path.splitext(os.path.abspath(path))[0].split(os.sep) for path in log_files]
    if len(set(names)) == len(names) or all(path == paths[0] for path in paths):
        return names
    shortest = min(map(len, paths))  # one part is left of the shortest path, even if it is within the others
    same = [len(set(parts)) == 1 for parts in zip(*(path[::-1] for path in paths))]
    end = min((same + [False]).index(False), shortest - 1)
    same = [len(set(parts)) == 1 for parts in zip(*(path[:len(path) - end] for path in paths))]
    start = min((same + [False]).index(False), shortest - end - 1)
    return ["/".join(path[start:len(path) - end]) for path in paths]


def _record(line):
    """A log line as a dict, or None if it is cut off, of another kind or without what is read of it."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if not (isinstance(record, dict) and {"type", "session", "data"} <= record.keys()):
        return None
    data = record["data"]
    if record["type"] not in ("train", "val") or not isinstance(data, dict) or not isinstance(data.get("iter"), int):
        return None
    if record["type"] == "train" and not isinstance(data.get("loss"), dict):
        return None
    return record


def _joined(records):
    """(training entries, validation entries, starts of sessions), each with rising iterations."""
    # A resumed run starts at its checkpoint, so what the interrupted one did after that is void. A validation
    # after k iterations comes before training iteration k and stays when that one is repeated.
    train, val, starts = [], [], []
    session = None
    for record in records:
        entry, first = record["data"], record["data"]["iter"]
        if record["type"] == "val":
            _drop(val, lambda old, first=first: old["iter"] >= first)
            val.append(entry)
            continue
        _drop(train, lambda old, first=first: old["iter"] >= first)
        _drop(val, lambda old, first=first: old["iter"] > first)
        if record["session"] != session:
            session = record["session"]
            _drop(starts, lambda old, first=first: old >= first)
            starts.append(first)
        train.append(entry)
    return train, val, starts


def _drop(entries, is_void):
    """Take entries off the end as long as they are void."""
    while entries and is_void(entries[-1]):
        entries.pop()


def _column(entries, key):
    """Float array of one key; NaN where it is missing or null (JSON has no NaN)."""
    values = [entry.get(key) for entry in entries]
    return np.array([value if isinstance(value, (int, float)) else np.nan for value in values], np.float64)


def _average_precision(entry):
    """{"box": AP, "mask": AP} in per cent of a validation record; what was not measured is left out."""
    found = {}
    for name in ("box", "mask"):
        figures = entry.get(name)
        value = figures.get("all") if isinstance(figures, dict) else None
        if isinstance(value, (int, float)):
            found[name] = value
    return found


def _panels(logs):
    """[(title, function that takes its values out of a log, draw, set the y axis)] of what the logs hold."""
    def loss(term):
        return lambda log: log["loss"].get(term, np.full(len(log["iter"]), np.nan))

    terms = [term for term in TERM_NAMES if any(term in log["loss"] for log in logs)]
    terms += sorted({term for log in logs for term in log["loss"]}.difference(terms))
    panels = [(TERM_NAMES.get(term, term), loss(term), _draw_noisy, _limit_settled) for term in terms]
    panels += [("learning rate", lambda log: log["lr"], _draw_line, _limit_rate),
               ("time per iteration (s)", _usual_seconds, _draw_noisy, _limit_settled)]
    panels.append(("validation AP (%)", lambda log: log["val"], _draw_val, _limit_val))
    return [panel for panel in panels if any(_has_values(panel[1](log)) for log in logs)]


def _has_values(values):
    """Whether there is something to draw in an array, or in the list of validations."""
    if isinstance(values, list):
        return any(found for _, found in values)
    return bool(np.isfinite(values).any())


def _usual_seconds(log):
    """Times without the first iteration of every session, which pays for allocation and the start of the workers."""
    return np.where(np.isin(log["iter"], log["starts"]), np.nan, log["seconds"])


def _draw_noisy(axes, log, values, color):
    """Raw values pale, running mean strong."""
    step = max(1, len(values) // _MAX_POINTS)
    window = max(1, len(values) // 40)
    raw = {"linewidth": 0.7, "alpha": 0.22} if window > 1 else {"linewidth": 0.0}
    axes.plot(log["iter"][::step], values[::step], color=color, zorder=2, **raw)
    marker = "o" if window == 1 else None  # between gaps a single point makes no line
    mean = smoothed(values, window)
    axes.plot(log["iter"][::step], mean[::step], color=color, linewidth=1.6, marker=marker, markersize=3,
              zorder=3)


def _draw_line(axes, log, values, color):
    step = max(1, len(values) // _MAX_POINTS)
    axes.plot(log["iter"][::step], values[::step], color=color, linewidth=1.6,
              marker="o" if len(values) == 1 else None, markersize=3)


def _draw_val(axes, log, values, color):
    for kind, line in (("mask", "-"), ("box", "--")):
        points = [(iteration, found[kind]) for iteration, found in values if kind in found]
        if points:
            axes.plot(*zip(*points), line, color=color, linewidth=1.5, marker="o", markersize=3)


def _draw_starts(axes, log, color):
    """Dotted lines where the run was resumed."""
    for start in log["starts"]:
        if start > 0:
            axes.axvline(start, color=color, alpha=0.4, linewidth=0.9, linestyle=":", zorder=1)


def _limit_settled(axes, runs):
    """From 0 to above what is usual; the first iterations may leave the top."""
    # The loss of an untrained network is many times that of a trained one and would flatten the rest.
    tops = []
    for values in runs:
        settled = values[len(values) // 50:]
        settled = settled[np.isfinite(settled)]
        if settled.size:
            tops.append(np.percentile(settled, 99.5))
    axes.set_ylim(0, 1.1 * max(tops, default=0.0) or 1.0)


def _limit_rate(axes, runs):
    """Linear from 0, or logarithmic where steps have made the rate too small to be seen."""
    rates = [values[np.isfinite(values)] for values in runs]
    highest = max(float(values.max(initial=0.0)) for values in rates)
    if any((values < 0.02 * highest).mean() > 0.1 for values in rates if values.size):
        positive = np.concatenate([values[values > 0] for values in rates])
        axes.set_yscale("log")
        axes.set_ylim(max(0.5 * positive.min(), 1e-5 * highest), 2 * highest)
    else:
        axes.set_ylim(0, 1.08 * highest or 1.0)
        axes.yaxis.set_major_formatter(lambda rate, _: f"{rate:g}")  # a power of ten above the axis moves the title


def _limit_val(axes, runs):
    from matplotlib.lines import Line2D

    highest = max(value for values in runs for _, found in values for value in found.values())
    axes.set_ylim(0, 1.08 * highest or 1.0)
    kinds = {kind for values in runs for _, found in values for kind in found}
    lines = [Line2D([], [], color="#4a5560", linestyle=line, linewidth=1.5, label=kind)
             for kind, line in (("mask", "-"), ("box", "--")) if kind in kinds]
    axes.legend(handles=lines, fontsize=8.5, frameon=False, loc="lower right", ncols=2)


def _style(axes, title, last_iteration):
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, loc="left", fontsize=10.5, color="#1c2733")
    axes.set_xlabel("iteration", fontsize=9, color="#4a5560")
    axes.tick_params(labelsize=8.5, colors="#4a5560")
    axes.grid(True, color="#e3e7eb", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set_xlim(-0.01 * max(last_iteration, 1), 1.01 * max(last_iteration, 1))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10], integer=True))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("bottom", "left"):
        axes.spines[side].set_color("#b5bec7")


def _headline(figure, names):
    """The run's name above the panels, or a legend of several."""
    from matplotlib.lines import Line2D

    names = [name if len(name) <= _MAX_NAME else f"{name[:18]}...{name[21 - _MAX_NAME:]}" for name in names]
    if len(names) == 1:
        figure.suptitle(names[0], fontsize=13, fontweight="bold", color="#1c2733")
        return
    lines = [Line2D([], [], color=LINE_COLORS[index % len(LINE_COLORS)], linewidth=2.5, label=name)
             for index, name in enumerate(names)]
    columns = max(1, min(len(names), 130 // (max(map(len, names)) + 8)))
    figure.legend(handles=lines, loc="outside upper center", ncols=columns, fontsize=10.5, frameon=False)


def main(argv=None):
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", nargs="+", metavar="LOG", help="log of train.py; several share the same axes")
    parser.add_argument("--out", required=True, metavar="FILE.png", help="picture to write")
    parser.add_argument("--last_session", action="store_true",
                        help="only the last session of each log; otherwise resumed sessions are joined")
    args = parser.parse_args(argv)
    try:
        plot_logs(args.logs, args.out, args.last_session)
    except LogError as error:
        parser.exit(2, f"plot_log.py: error: {error}\n")
    except OSError as error:
        parser.exit(2, f"plot_log.py: error: cannot write {args.out} ({error.strerror}); correct --out\n")
    print(f"wrote {args.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
