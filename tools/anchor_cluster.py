"""Do the config's anchors fit your objects? Measures them, and proposes others where these cover more.

    python tools/anchor_cluster.py --config=yolact_base_config -o dataset.train_info=my/train.json
    python tools/anchor_cluster.py --config=yolact_resnet50_config --info=my/train.json --aspect_ratios --plot=boxes.png

Takes the place of the original's cluster_bbox_sizes.py, bbox_recall.py and optimize_bboxes.py. Only the annotation
file is read, no picture. For every object the IoU with the best anchor of the real grids is found; an object that no
anchor covers by 0.5 gets a single positive anchor in training, by force, and is learnt badly. Proposals keep the
config's number of anchors. Their sizes start at k-means over the objects' sizes and at the config's, and are then moved
as long as it helps. They are fitted to half of the pictures and measured, like the config's, on the other half.

Anchors are pixels of the network's input (max_size), and so are all sizes here: objects are measured as resized to
the square, without augmentation; with preserve_aspect_ratio too, because the anchors stretch with the picture. A
network keeps the anchors that it was trained with; with others it has to be trained again.
"""
from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

if __package__ in (None, ""):  # run as a script: python tools/anchor_cluster.py
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from data.coco_checks import clipped_box, find_fault, read_info  # noqa: E402
from data.config import ConfigError, cfg, configure  # noqa: E402
from data.feature_maps import sides_of_levels  # noqa: E402
from data.images import DatasetError  # noqa: E402
from layers.priors import make_priors  # noqa: E402
from utils.anchors import WELL_COVERED, best_iou, fit_scales, log_kmeans  # noqa: E402
from utils.augmentations import SMALLEST_SIDE, input_size  # noqa: E402
from utils.charts import save_figure  # noqa: E402
from utils.config_options import add_config_options  # noqa: E402

USER_ERRORS = (ConfigError, DatasetError, OSError)
MOST_FITTED = 5000  # objects; more do not change the result
MOST_DRAWN = 20000
# Of an object's area (COCO's limits) and its width / height, at the network's input; the last value is not included.
SIZES = {"small, under 32 x 32": (0, 32 ** 2), "medium": (32 ** 2, 96 ** 2), "large, from 96 x 96": (96 ** 2, np.inf)}
ASPECTS = {"over 3 times as high": (0, 1 / 3), "1.5 to 3 times as high": (1 / 3, 1 / 1.5),
           "about square": (1 / 1.5, 1.5),
           "1.5 to 3 times as wide": (1.5, 3), "over 3 times as wide": (3, np.inf)}


class Objects(NamedTuple):
    """Objects of many pictures: boxes float64 [N, 4] centre form, relative 0..1; of which picture, int [N]; and that
    picture's height and width, int [N, 2]."""

    boxes: np.ndarray
    pictures: np.ndarray
    sizes: np.ndarray

    def of(self, chosen: np.ndarray) -> Objects:
        """Those of an index or bool array."""
        return Objects(*(part[chosen] for part in self))


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line as a namespace; exits with a message on a wrong one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add_config_options(add, "yolact_base_config", "max_size=400 dataset.train_info=train.json")
    add("--info", metavar="FILE.json", help="COCO annotations (default: the config's dataset.train_info)")
    add("--aspect_ratios", action="store_true", help="propose aspect ratios too, by k-means (default: the config's)")
    add("--plot", metavar="FILE.png", help="draw the objects' sizes, the anchors, and how many they cover")
    add("--seed", type=int, default=0, help="of the choice of pictures and of k-means (default: %(default)s)")
    args = parser.parse_args(argv)
    if not 0 <= args.seed < 2 ** 31:
        parser.error(f"--seed {args.seed} is out of range; use 0 to {2 ** 31 - 1}")
    return args


def read_objects(info_file: str, key: str) -> Objects:
    """The objects that a training would use, crowds apart.

    Raises:
        DatasetError: the file cannot be read, or has none; names the `key` to correct.
    """
    content = read_info(info_file, key, has_gt=True)
    images = {image["id"]: (number, image) for number, image in enumerate(content["images"])}
    boxes, pictures, sizes = [], [], []
    for annotation in tqdm(content.get("annotations", []), desc="reading boxes", unit="object", leave=False,
                           disable=not sys.stderr.isatty()):
        number, image = images.get(annotation["image_id"], (-1, None))
        if annotation.get("iscrowd") or find_fault(annotation, image) is not None:
            continue
        height, width = image["height"], image["width"]
        x1, y1, x2, y2 = clipped_box(annotation["bbox"], height, width)
        boxes.append(((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height))
        pictures.append(number)
        sizes.append((height, width))
    if not boxes:
        raise DatasetError(f"{info_file} has no object with a box and a mask; correct {key}")
    return Objects(np.array(boxes), np.array(pictures), np.array(sizes))


def cells_of(config: Any, sizes: np.ndarray) -> list[np.ndarray]:
    """Columns and rows of every level for pictures of some sizes: for each level int [N, 2]; [1, 2] if all are alike.

    Args:
        config: of the network. sizes: heights and widths of pictures, [N, 2].
    """
    if not config.preserve_aspect_ratio:
        sizes = sizes[:1]
    inputs = np.array([input_size(height, width, config.max_size, config.preserve_aspect_ratio)
                       for height, width in sizes])
    sides, number = np.unique(inputs, return_inverse=True)
    cells = np.array([sides_of_levels(side, config.backbone, config.fpn) for side in sides.tolist()])
    return list(cells[number.reshape(inputs.shape)][:, ::-1].transpose(2, 0, 1))


def anchor_shapes(config: Any) -> list[np.ndarray]:
    """Widths and heights of every level's anchors, float64 [A, 2], relative 0..1."""
    backbone = config.backbone
    return [make_priors(1, 1, scales, ratios, config.max_size, backbone.use_square_anchors)[:, 2:].astype(np.float64)
            for scales, ratios in zip(backbone.pred_scales, backbone.pred_aspect_ratios)]


def coverage(config: Any, objects: Objects) -> np.ndarray:
    """IoU of every object with the anchor of a config that overlaps it most: float64 [N]."""
    return best_iou(objects.boxes, list(zip(cells_of(config, objects.sizes), anchor_shapes(config))))


def split(objects: Objects, seed: int) -> tuple[Objects, Objects]:
    """The objects of a random half of the pictures, and those of the other half.

    Raises:
        DatasetError: they all lie in one picture.
    """
    order = np.random.RandomState(seed).permutation(np.unique(objects.pictures))
    if len(order) < 2:
        raise DatasetError("all objects lie in one picture; give annotations of at least two")
    first = np.isin(objects.pictures, order[:len(order) // 2])
    return objects.of(first), objects.of(~first)


def propose(config: Any, objects: Objects, with_ratios: bool, seed: int) -> dict[str, dict]:
    """What to try instead of a config's anchors: {name: values for its `backbone`}.

    Args:
        config: of the network. objects: what to fit. with_ratios: propose aspect ratios too.

    Raises:
        DatasetError: there are fewer objects than anchor sizes.
    """
    backbone = config.backbone
    proposals = {}
    if backbone.use_square_anchors:
        proposals["true ratios"] = _anchors(backbone.pred_scales, backbone.pred_aspect_ratios)
    chosen = np.random.RandomState(seed).permutation(len(objects.boxes))[:MOST_FITTED]
    objects = objects.of(chosen)
    ratios = [[ratio for part in level for ratio in part] for level in backbone.pred_aspect_ratios]
    needed = max(sum(map(len, backbone.pred_scales)), *map(len, ratios))
    if len(chosen) < needed:
        raise DatasetError(f"half of the pictures have {len(chosen)} objects, too few to fit {needed} anchor sizes to; "
                           "annotate more, and keep the config's anchors")
    proposals["new scales"] = _anchors(_best_scales(config, objects, ratios, seed), [[level] for level in ratios])
    if with_ratios:
        aspects = objects.boxes[:, 2] / objects.boxes[:, 3]
        ratios = [log_kmeans(aspects, len(level), seed).round(2).tolist() for level in ratios]
        proposals["new scales, ratios"] = _anchors(_best_scales(config, objects, ratios, seed),
                                                   [[level] for level in ratios])
    return proposals


def _anchors(scales, ratios):
    return {"pred_scales": scales, "pred_aspect_ratios": ratios, "use_square_anchors": False}


def _best_scales(config, objects, ratios, seed):
    """Scales in pixels that cover the objects best, found from k-means and from the config's own."""
    cells, own = cells_of(config, objects.sizes), config.backbone.pred_scales
    sides = iter(log_kmeans(np.sqrt(objects.boxes[:, 2:].prod(axis=1)), sum(map(len, own)), seed).tolist())
    starts = [[[next(sides) for _ in level] for level in own],
              [[scale / config.max_size for scale in level] for level in own]]
    found = []
    for start in starts:
        fitted = fit_scales(objects.boxes, cells, start, ratios)
        scales = [[round(scale * config.max_size, 1) for scale in level] for level in fitted]
        values = _anchors(scales, [[level] for level in ratios])
        ious = coverage(config.copy({"backbone": values}), objects)
        found.append(((ious > WELL_COVERED).mean() + ious.mean(), scales))
    return max(found)[1]


def table(config: Any, objects: Objects, ious: Mapping[str, np.ndarray]) -> str:
    """Share of objects over IoU 0.5 and mean best IoU, by size and aspect ratio, for each set of anchors.

    Args:
        config: of the network. objects: N. ious: {name: float [N]}.
    """
    pixels = objects.boxes[:, 2:] * config.max_size
    groups = {"all": np.ones(len(pixels), bool)}
    for values, limits in ((pixels.prod(axis=1), SIZES), (pixels[:, 0] / pixels[:, 1], ASPECTS)):
        groups.update({name: (values >= low) & (values < high) for name, (low, high) in limits.items()})
    lines = [f"{'':24s}{'objects':>8s}" + "".join(f"{name:>20s}" for name in ious),
             f"{'':32s}" + f"{'> 0.5':>12s}{'mean':>8s}" * len(ious)]
    for name, chosen in groups.items():
        cells = [f"{100 * (iou[chosen] > WELL_COVERED).mean():10.1f} %{iou[chosen].mean():8.3f}" if chosen.any()
                 else f"{'-':>12s}{'-':>8s}" for iou in ious.values()]
        lines.append(f"{name:24s}{chosen.sum():8d}" + "".join(cells))
    return "\n".join(lines)


def is_better(new: np.ndarray, old: np.ndarray) -> bool:
    """Whether more objects are covered, and by more than chance: twice the standard error of McNemar's test."""
    gained = ((new > WELL_COVERED) & (old <= WELL_COVERED)).sum()
    lost = ((new <= WELL_COVERED) & (old > WELL_COVERED)).sum()
    return bool(gained - lost > 2 * np.sqrt(gained + lost))


def advice(config: Any, values: Mapping[str, Any]) -> str:
    """How to use a proposal: lines for data/config.py, and the options for one run."""
    lines = "\n".join(f'        "{key}": {value},' for key, value in values.items())
    options = " ".join(f'"backbone.{key}={value}"'.replace(" ", "") for key, value in values.items())
    return (f"For your config in data/config.py; pixels at max_size={config.max_size}:\n\n"
            f'    "backbone": {{\n{lines}\n    }},\n\nor for one run:\n\n    -o {options}\n\n'
            "A network trained with other anchors has to be trained again with these: its heads learnt offsets\n"
            "from the old ones. To fine-tune released weights, keep the anchors of their config.")


def plot(path: str, config: Any, proposal: Any, objects: Objects) -> None:
    """Draw the objects' widths and heights with the anchors, and the share covered by size; written atomically.

    Args:
        path: of the PNG. config, proposal: networks' configs, whose anchors are compared. objects: to be measured.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator, ScalarFormatter

    figure = Figure(figsize=(13, 6.4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    compared = ((config, "your anchors", "#202020", "s"), (proposal, "proposal", "#d62728", "D"))
    _draw_shapes(left, objects.boxes[:, 2:] * config.max_size, compared)
    _draw_shares(right, np.sqrt(objects.boxes[:, 2:].prod(axis=1)) * config.max_size, objects, compared)
    left.set_yscale("log", base=2)
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        for axis in (axes.xaxis, left.yaxis):
            axis.set_major_formatter(ScalarFormatter())
            axis.set_minor_locator(NullLocator())
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=3, frameon=False)
        axes.grid(True, color="#e4e4e4", linewidth=0.6)
        axes.set_axisbelow(True)
    save_figure(figure, path)


def _draw_shapes(axes, pixels, compared):
    """Objects and anchors by width and height, pixels [N, 2]."""
    few = pixels[np.random.RandomState(0).permutation(len(pixels))[:MOST_DRAWN]]
    axes.scatter(*few.T, s=7, color="#8fabc8", linewidths=0, alpha=min(1, 0.1 + 1000 / len(few)), label="objects")
    for config, name, color, mark in compared:
        shapes = np.concatenate(anchor_shapes(config)) * config.max_size
        axes.scatter(*shapes.T, s=46, marker=mark, facecolors="none", edgecolors=color, linewidths=1.6, label=name)
    axes.set(xlabel="width, pixels", ylabel="height, pixels", title=f"at max_size={compared[0][0].max_size}")


def _draw_shares(axes, side, objects, compared):
    """Share of the objects that are covered, by size (float [N], pixels)."""
    bins = min(16, max(2, int(np.sqrt(len(side)))))
    edges = np.geomspace(side.min() * 0.999, side.max() * 1.001, bins + 1)
    bin_of = np.digitize(side, edges) - 1
    counts = np.bincount(bin_of, minlength=bins)
    axes.bar(edges[:-1], counts / counts.max(), np.diff(edges), align="edge", color="#d6e0ea", label="objects")
    shown, middle = counts > 0, np.sqrt(edges[1:] * edges[:-1])
    for config, name, color, mark in compared:
        covered = np.bincount(bin_of, coverage(config, objects) > WELL_COVERED, minlength=bins)
        axes.plot(middle[shown], covered[shown] / counts[shown], color=color, marker=mark, markersize=4, label=name)
    axes.set(xlabel="side of the square of the object's area, pixels", ylim=(0, 1.03),
             title=f"share of objects with an anchor of IoU over {WELL_COVERED}")


def run(args: argparse.Namespace) -> None:
    """Everything but the handling of the user's mistakes."""
    configure(args.config, args.dataset, args.override)
    info_file, key = (args.info, "--info") if args.info else (cfg.dataset.train_info, "dataset.train_info")
    objects = read_objects(info_file, key)
    visible = (objects.boxes[:, 2:] * cfg.max_size > SMALLEST_SIDE).all(axis=1)
    print(f"{info_file}: {len(visible)} objects in {len(np.unique(objects.pictures))} pictures; {(~visible).sum()} of "
          f"them left out, a pixel or less at max_size={cfg.max_size}, as in training")
    if not visible.any():
        raise DatasetError(f"no object is larger than a pixel at max_size={cfg.max_size}; raise max_size")
    fitted, measured = split(objects.of(visible), args.seed)
    proposals = propose(cfg, fitted, args.aspect_ratios, args.seed)
    if cfg.backbone.use_square_anchors:
        print(f"use_square_anchors: all anchors of {cfg.name} are squares, of side scale * sqrt(ratio). The released "
              "networks need that;\na network of your own does not, so the proposals have true aspect ratios.")
    configs = {"yours": cfg.copy(), **{name: cfg.copy({"backbone": values}) for name, values in proposals.items()}}
    ious = {name: coverage(config, measured) for name, config in configs.items()}
    print("\nBest anchor's IoU, on the half of the pictures that nothing was fitted to:\n\n"
          f"{table(cfg, measured, ious)}\n")
    best = max(proposals, key=lambda name: (ious[name] > WELL_COVERED).mean())
    if is_better(ious[best], ious["yours"]):
        print(f"'{best}' covers more objects than yours. {advice(cfg, proposals[best])}")
    else:
        print("Keep yours: no proposal covers more objects by more than chance.")
    if args.plot:
        plot(args.plot, cfg, configs[best], measured)
        print(f"written to {args.plot} ('proposal' is '{best}')")


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; a user's mistake ends in one line and exit code 1."""
    args = parse_args(argv)
    try:
        run(args)
    except USER_ERRORS as error:
        sys.exit(f"anchor_cluster.py: error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
