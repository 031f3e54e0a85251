"""Draw the log of a training run: loss terms, learning rate and validation AP over the iterations.

    python tools/plot_log.py logs/yolact_base.log --out losses.png
    python tools/plot_log.py logs/first.log logs/second.log --out both.png     # two runs in the same axes

Reads the JSON lines that train.py writes. A run that was interrupted and resumed appears as one curve: where
sessions overlap, the later one counts.
"""

import argparse
import json
import os
import sys

import numpy as np

if __package__ in (None, ""):  # run as a script: python tools/plot_log.py
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from utils.files import atomic_path  # noqa: E402

TERM_NAMES = {"T": "total loss", "B": "box (B)", "C": "class (C)", "M": "mask (M)", "I": "mask IoU (I)",
              "D": "coefficient diversity (D)", "E": "class existence (E)",
              "S": "semantic segmentation (S)"}
LINE_COLORS = ("#1d4e89", "#c8553d", "#2a9d52", "#8348c4", "#b08900", "#00838f")
# More points than a plot has pixels only make it slow: a full COCO run logs 800,000 iterations.
_MAX_POINTS = 4000


class LogError(ValueError):
    """A log that cannot be read or holds nothing to draw; the message names the file."""


def read_log(path, last_session=False):
    """Read the training and validation records of a log.

    Args:
        path: JSON-lines file; lines that are cut off (a killed run) are skipped.
        last_session: take only the last session that trained, instead of all of them joined.

    Returns:
        dict: "iter" int [n] rising, "lr" float [n], "loss" {letter: float [n]}, "val" list of
        (iteration, {"box": AP, "mask": AP} in per cent).

    Raises:
        LogError: no such file, or no training record in it.
    """
    try:
        with open(path, encoding="utf-8") as file:
            records = [record for record in map(_record, file) if record is not None]
    except OSError as error:
        raise LogError(f"cannot read {path} ({error.strerror}); give a log that train.py wrote") from error
    trained = [record["session"] for record in records if record["type"] == "train"]
    if not trained:
        raise LogError(f"{path} holds no training record; give a log that train.py wrote (logs/<config>.log)")
    if last_session:
        records = [record for record in records if record["session"] == trained[-1]]

    train = _joined([record["data"] for record in records if record["type"] == "train"])
    val = _joined([record["data"] for record in records if record["type"] == "val"])
    terms = [term for term in TERM_NAMES if any(term in entry["loss"] for entry in train)]
    terms += sorted({term for entry in train for term in entry["loss"]}.difference(terms))
    losses = {term: [entry["loss"].get(term, np.nan) for entry in train] for term in terms}
    return {
        "iter": np.array([entry["iter"] for entry in train]),
        "lr": np.array([entry["lr"] for entry in train], np.float64),
        "loss": {term: np.array(values, np.float64) for term, values in losses.items()},
        "val": [(entry["iter"], _average_precision(entry)) for entry in val],
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


def plot_losses(log_files, out_png, last_session=False):
    """Write one picture with a panel for every loss term, the learning rate and validation AP (if logged).

    Args:
        log_files: paths of logs; several are drawn in the same axes.
        out_png: PNG file; its folder is made.
        last_session: draw only the last session of every log.

    Raises:
        LogError: a log is missing or has no training record.
    """
    # Figure objects instead of pyplot: no display, no global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    logs = [read_log(path, last_session) for path in log_files]
    names = _short_names(log_files)
    terms = list(dict.fromkeys(term for log in logs for term in log["loss"]))
    with_val = any(log["val"] for log in logs)
    panels = terms + ["lr"] + (["val"] if with_val else [])
    rows = -(-len(panels) // 2)
    figure = Figure(figsize=(11, 0.9 + 2.7 * rows), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)
    grid = figure.add_gridspec(rows, 2)
    titles = {**TERM_NAMES, "lr": "learning rate", "val": "validation AP (%)"}
    for position, panel in enumerate(panels):
        row, column = divmod(position, 2)
        alone = column == 0 and position == len(panels) - 1
        axes = figure.add_subplot(grid[row, :] if alone else grid[row, column])
        draw = {"lr": _draw_lr, "val": _draw_val}.get(panel, _draw_term)
        for index, (log, name) in enumerate(zip(logs, names)):
            draw(axes, log, panel, LINE_COLORS[index % len(LINE_COLORS)], name if len(logs) > 1 else None)
        _style(axes, titles.get(panel, panel), max(log["iter"][-1] for log in logs))
    title = ", ".join(names) + ": loss terms and their running mean"
    figure.suptitle(title, fontsize=13, fontweight="bold", color="#1c2733")
    with atomic_path(out_png) as temporary:
        figure.savefig(temporary, format="png")


def _record(line):
    """A log line as a dict, or None if it is cut off or of another kind."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and {"type", "session", "data"} <= record.keys() else None


def _joined(entries):
    """Entries in the order of their iteration; of several with the same one, the last written."""
    # A resumed run starts at its checkpoint, so what the interrupted one did after that is void.
    joined = []
    for entry in entries:
        while joined and joined[-1]["iter"] >= entry["iter"]:
            joined.pop()
        joined.append(entry)
    return joined


def _average_precision(entry):
    """{"box": AP, "mask": AP} in per cent of a validation record; what was not measured is left out."""
    found = {}
    for name in ("box", "mask"):
        value = (entry.get(name) or {}).get("all")
        if value is not None:
            found[name] = value
    return found


def _short_names(log_files):
    """File names without ending, with the folder where two are equal."""
    names = [os.path.splitext(os.path.basename(path))[0] for path in log_files]
    return names if len(set(names)) == len(names) else [os.path.splitext(path)[0] for path in log_files]


def _draw_term(axes, log, term, color, name):
    """Raw values pale, running mean strong; the first iterations may leave the top of the axis."""
    if term not in log["loss"]:
        return
    values = log["loss"][term]
    step = max(1, len(values) // _MAX_POINTS)
    mean = smoothed(values, max(1, len(values) // 40))
    axes.plot(log["iter"][::step], values[::step], color=color, alpha=0.22, linewidth=0.7)
    axes.plot(log["iter"][::step], mean[::step], color=color, linewidth=1.7, label=name)
    # The loss of an untrained network is many times that of a trained one and would flatten the rest.
    settled = values[len(values) // 50:]
    settled = settled[np.isfinite(settled)]
    if settled.size:
        top = 1.1 * np.percentile(settled, 99.5)
        axes.set_ylim(0, max(top, axes.get_ylim()[1] if len(axes.lines) > 2 else 0.0) or 1.0)


def _draw_lr(axes, log, _, color, name):
    step = max(1, len(log["iter"]) // _MAX_POINTS)
    axes.plot(log["iter"][::step], log["lr"][::step], color=color, linewidth=1.7, label=name)
    _show_from_zero(axes)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)


def _draw_val(axes, log, _, color, name):
    for kind, line in (("mask", "-"), ("box", "--")):
        points = [(iteration, found[kind]) for iteration, found in log["val"] if kind in found]
        if points:
            axes.plot(*zip(*points), line, color=color, linewidth=1.5, marker="o", markersize=3.5,
                      label=f"{name}, {kind}" if name else kind)
    _show_from_zero(axes)


def _show_from_zero(axes):
    """The y axis from 0 to a little above the highest line of all runs drawn so far."""
    heights = [np.max(line.get_ydata()) for line in axes.lines if len(line.get_ydata())]
    axes.set_ylim(0, 1.08 * max(heights, default=0.0) or 1.0)


def _style(axes, title, last_iteration):
    axes.set_title(title, loc="left", fontsize=10.5, color="#1c2733")
    axes.set_xlabel("iteration", fontsize=9, color="#4a5560")
    axes.tick_params(labelsize=8.5, colors="#4a5560")
    axes.grid(True, color="#e3e7eb", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set_xlim(-0.01 * last_iteration, 1.01 * last_iteration or 1)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("bottom", "left"):
        axes.spines[side].set_color("#b5bec7")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8.5, frameon=False)


def main(argv=None):
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Draw losses, learning rate and validation AP of a run.")
    parser.add_argument("logs", nargs="+", metavar="LOG", help="log of train.py; several share the same axes")
    parser.add_argument("--out", required=True, metavar="FILE.png", help="picture to write")
    parser.add_argument("--last_session", action="store_true",
                        help="only the last session of each log; otherwise resumed sessions are joined")
    args = parser.parse_args(argv)
    try:
        plot_losses(args.logs, args.out, args.last_session)
    except LogError as error:
        parser.error(str(error))
    print(f"wrote {args.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
