"""The figures of tools/benchmark.py --inference as text, and those of its scaling as pictures."""
from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from tools.benchmarks.agreement import AT_ALL, SAME_MASK, SAME_SCORE
from tools.benchmarks.engines import EAGER
from tools.benchmarks.scaling import COUNT, MEGAPIXEL
from tools.benchmarks.versus import THEIRS
from utils.charts import INK, LINE_COLORS, new_figure, save_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AROUND = "all but the network"
# (heading of the axis, what is held still along it)
AXES = {"objects": ("objects found", f"picture of {MEGAPIXEL} megapixels"),
        "megapixels": ("megapixels of the picture", f"{COUNT} objects found")}
MEASURES = {"median_ms": "milliseconds", "peak_mib": "MiB of arrays at most"}
STAGE_COLORS = dict(zip(("load", "detection", "masks", "encode", "transform"), LINE_COLORS))
LEAST = 0.05  # milliseconds or MiB that are drawn
LABEL_GAP = 0.043  # of the axis: the least between two labels
# Columns of the table of engines: its two headings, width, where the figure stands, how it is written.
COLUMNS = (
    ("network alone", "median ms", 11, ("network", "median_ms"), "{:.1f}"),
    ("", "p95 ms", 9, ("network", "p95_ms"), "{:.1f}"),
    ("", "GFLOP/s", 9, ("network", "gflops"), "{:.0f}"),
    ("", "of ceiling", 12, ("network", "of_ceiling"), "{:.0%}"),
    ("", "x eager", 9, ("network", "times_eager"), "{:.2f}"),
    ("picture to masks", "median ms", 11, ("picture", "median_ms"), "{:.1f}"),
    ("", "FPS", 8, ("picture", "fps"), "{:.2f}"),
    ("", "x eager", 9, ("picture", "times_eager"), "{:.2f}"),
    ("overlapped", "FPS", 9, ("overlapped", "fps"), "{:.2f}"),
    ("", "of bare", 9, ("overlapped", "of_bare_network"), "{:.0%}"),
    ("as eager finds", "same", 9, ("agreement", "same"), "{:.1%}"),
    ("", "at all", 9, ("agreement", "at_all"), "{:.1%}"),
    ("", "score +-", 10, ("agreement", "largest_score_difference"), "{:.6f}"),
    ("", "mask IoU", 10, ("agreement", "smallest_mask_iou"), "{:.4f}"),
)


def written(value: float | None, form: str) -> str:
    """A figure, or a dash for one that there is not."""
    return "-" if value is None else form.format(value)


def machine_report(figures: dict[str, Any]) -> str:
    """Processor, ceilings, and what the network needs."""
    lines = [f"machine: {figures['processor']}, {figures['threads']} threads"]
    for precision, found in figures["ceilings"].items():
        others = ", ".join(f"{name} {speed:.0f}" for name, speed in found["of_libraries"].items())
        lines.append(f"  matrix products of {precision} at best: {found['gflops']:.0f} GFLOP/s ({others})")
    lines.append(f"  the network: {figures['gflop']:.4g} GFLOP a picture (a multiplication and an addition are 2)")
    return "\n".join([*lines, *(f"  left out: {reason}" for reason in figures["left_out"])])


def accuracy_report(accuracy: dict[str, dict[str, float]]) -> str:
    """AP of every engine in points of 100, and its distance from eager's."""
    eager = accuracy[str(EAGER)]
    lines = [f"{'on the validation set':26}" + "".join(f"{f'{kind} AP':>12}{'- eager':>9}" for kind in eager)]
    for name, found in accuracy.items():
        lines.append(f"{name:26}" + "".join(f"{100 * found[kind]:12.2f}{100 * (found[kind] - eager[kind]):+9.2f}"
                                            for kind in eager))
    return "\n".join(lines)


def engines_report(engines: dict[str, dict[str, Any]], pictures: int) -> str:
    """A row for every engine, and what its columns mean."""
    lines = [f"{'':20}{_groups()}",
             f"{'engine':20}" + "".join(f"{heading:>{width}}" for _, heading, width, *_ in COLUMNS)]
    for name, figures in engines.items():
        lines.append(f"{name:20}" + "".join(f"{written(figures[group][key], form):>{width}}"
                                            for _, _, width, (group, key), form in COLUMNS))
    found = next(iter(engines.values()))["agreement"]["detections"]
    return "\n".join([*lines, *(f"  {name}: {figures['backend']}" for name, figures in engines.items()), (
        "  of ceiling: of the machine's matrix products of that precision; x eager: as many times as fast as "
        f"{EAGER},\n    on the same pictures at about the same time\n"
        f"  overlapped: {pictures} pictures as eval.py detects in a data set, with COCO run lengths; of bare: of the "
        f"bare\n    network's FPS\n"
        f"  as eager finds, same: share of its {found} detections that is found with the same class, a score within "
        f"{SAME_SCORE:g} and\n    a mask IoU from {SAME_MASK:g}; at all: with the same class and an IoU over "
        f"{AT_ALL:g}; the largest difference and the\n    smallest IoU of these")])


def _groups() -> str:
    """The line above the headings: what the columns of each group have in common."""
    widths: dict[str, int] = {}
    for name, _, width, *_ in COLUMNS:
        group = name or list(widths)[-1]
        widths[group] = widths.get(group, 0) + width
    return "".join("  " + f" {group} ".center(width - 2, "-") for group, width in widths.items())


def stages_report(name: str, stages: dict[str, dict[str, float]]) -> str:
    """One engine's stages."""
    lines = [f"{name + ', one picture at a time':42}{'median ms':>11}{'p95 ms':>11}"]
    lines += [f"  {stage:40}{row['median_ms']:11.1f}{row['p95_ms']:11.1f}" for stage, row in stages.items()]
    return "\n".join(lines)


def scaling_report(figures: dict[str, dict[str, Any]]) -> str:
    """Both axes, time and memory."""
    parts = []
    for axis, points in figures.items():
        heading, still = AXES[axis]
        for key, measure in MEASURES.items():
            lines = [f"{f'{measure}, by {heading}':52}" + "".join(f"{value:>9}" for value in points)
                     + f"   ({still})"]
            for stage in next(iter(points.values())):
                lines.append(f"  {stage:50}" + "".join(f"{point[stage][key]:9.1f}" for point in points.values()))
            if key == "median_ms":
                sums = [sum(row[key] for row in point.values()) for point in points.values()]
                lines.append(f"  {'all of these':50}" + "".join(f"{total:9.1f}" for total in sums))
            parts.append("\n".join(lines))
    return "\n".join([*parts, "  MiB: what Python and numpy allocate in a stage; Paddle's tensors are not seen"])


def versus_report(figures: dict[str, dict[str, Any]]) -> str:
    """Every command's milliseconds a picture beside those of the other implementation."""
    lines = [f"{'commands, without their start':42}{'ms a picture':>13}{'of theirs':>11}"]
    for name, row in figures.items():
        lines.append(f"  {name:40}{row['ms_per_picture']:13.1f}{written(row['of_theirs'], '{:.2f}'):>11}")
    if any(row["of_theirs"] is None for row in figures.values()):
        lines.append("  too few pictures for a command that is so fast; a larger --count tells more")
    return "\n".join([*lines, f"  {THEIRS}: {figures[THEIRS]['command']}"])


# ---------------------------------------------------------------------------------------------- Pictures


def plot_scaling(figures: dict[str, dict[str, Any]], folder: str) -> list[str]:
    """Write a PNG for each axis, time beside memory; returns their paths.

    Args:
        figures: of tools.benchmarks.scaling.measure_scaling. folder: is made if it is missing.
    """
    paths = []
    for axis, points in figures.items():
        heading, still = AXES[axis]
        figure = new_figure(11.0, 4.8, dpi=130)
        figure.suptitle(f"Cost of a picture around the network, by {heading}", fontsize=13, fontweight="bold",
                        color=INK)
        for axes, (key, measure) in zip(figure.subplots(1, 2), MEASURES.items()):
            _plot(axes, points, key)
            style_axes(axes, f"{measure} ({still})", heading)
        paths.append(os.path.join(folder, f"scaling_{axis}.png"))
        save_figure(figure, paths[-1])
    return paths


def _plot(axes: Axes, points: dict[str, Any], key: str) -> None:
    """A line for each stage over the numbers of an axis, both logarithmic, with its name at its end."""
    from matplotlib.ticker import LogLocator

    numbers = [float(value) for value in points]
    axes.set_xscale("log")
    axes.set_yscale("log")
    ends = {}
    for stage in next(iter(points.values())):
        values = [point[stage][key] for point in points.values()]
        if min(values) < LEAST:
            continue
        ends[stage] = values[-1]
        axes.plot(numbers, values, color=STAGE_COLORS.get(stage, INK), linewidth=1.8, marker="o", markersize=4)
    axes.set_xticks(numbers, list(points))
    axes.xaxis.minorticks_off()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlim(numbers[0] * 0.88, numbers[-1] * 1.12)
    _label_ends(axes, ends)


def _label_ends(axes: Axes, ends: dict[str, float]) -> None:
    """Names of the stages beyond the ends of their lines, moved apart where the ends are close together."""
    heights: dict[str, float] = {}
    for stage in sorted(ends, key=lambda stage: ends[stage]):
        height = axes.transAxes.inverted().transform(axes.transData.transform((1, ends[stage])))[1]
        heights[stage] = max(height, max(heights.values(), default=-1) + LABEL_GAP)
    for stage, height in heights.items():
        axes.text(1.01, height, stage, transform=axes.transAxes, color=STAGE_COLORS.get(stage, INK), fontsize=9.5,
                  va="center")
