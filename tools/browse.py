"""Shows what the network is trained on: augmented pictures with masks, boxes, labels and the anchors that learn them.

    python tools/browse.py --config=yolact_base_config
    python tools/browse.py --config=yolact_base_config --images=139,285 --repeat=6 --columns=6
    python tools/browse.py --config=yolact_base_config --split=valid --count=30 --out=results/valid.png

The pictures are the first that train.py takes with the same --seed, augmented as there and turned back into colours
from the network's input. Their anchors are matched as in the loss. Look for objects without a mask, wrong names,
objects of a few pixels, and labels with a "!": too many of those say that the anchors do not fit the objects, which
tools/anchor_cluster.py measures.
"""
from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

if __package__ in (None, ""):  # run as a script: python tools/browse.py
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# Before paddle: this sets what paddle reads at its import.
from utils.runtime import UserError, seed_number, select_device, set_up_messages, str2bool  # noqa: E402

# isort: split
import numpy as np  # noqa: E402
import paddle  # noqa: E402
from tqdm import tqdm  # noqa: E402

from data.coco import COCODetection, Sample, collate, image_order, load_dataset  # noqa: E402
from data.coco_checks import class_names_of, find_fault  # noqa: E402
from data.config import (  # noqa: E402
    COLORS,
    MEANS,
    STD,
    ConfigError,
    cfg,
    configure,
)
from data.feature_maps import sides_of_levels  # noqa: E402
from data.images import DatasetError  # noqa: E402
from eval import load_validation_set  # noqa: E402
from layers.box_utils import jaccard, point_form  # noqa: E402
from layers.multibox_loss import MultiBoxLoss  # noqa: E402
from layers.priors import make_priors  # noqa: E402
from utils.augmentations import build_augmentation  # noqa: E402
from utils.config_options import add_config_options  # noqa: E402
from utils.loader import epoch_permutation, sample_random_state  # noqa: E402
from utils.sample_sheet import Objects, Tile, compose, draw_sample, restore_picture  # noqa: E402
from utils.visualize import write_image  # noqa: E402

USER_ERRORS = (UserError, ConfigError, DatasetError, OSError)
ROWS = 8  # of a sheet; what is more goes into further files


class Matching(NamedTuple):
    """What the anchors of one picture are to learn; its N objects are those that are no crowds.

    anchors: float32 [n, 4], the positive ones, x1, y1, x2, y2, relative 0..1. owners: int [n], of which object.
    counts: int [N], positive anchors of each object. best_iou: float32 [N], with any anchor.
    """

    anchors: np.ndarray
    owners: np.ndarray
    counts: np.ndarray
    best_iou: np.ndarray


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line as a namespace; exits with a message on a wrong one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add_config_options(add, "yolact_base_config", "max_size=400 dataset.train_info=train.json")
    add("--out", default="results/browse.png",
        help=f"the sheet; with more than {ROWS} rows the next are NAME_2.png, ... (default: %(default)s)")
    add("--seed", type=seed_number, default=0, help="of order and augmentation, as train.py's (default: %(default)s)")
    add("--split", choices=("train", "valid"), default="train",
        help="valid: the pictures of the validation, which are not augmented (default: %(default)s)")
    add("--count", type=int, default=12, help="how many pictures (default: %(default)s)")
    add("--images", metavar="ID,ID", help="these pictures, by their ids in the JSON, instead of the first ones")
    add("--repeat", type=int, default=1, help="show every picture as in so many epochs (default: %(default)s)")
    add("--columns", type=int, default=4, help="pictures in a row (default: %(default)s)")
    add("--batch_size", type=int, default=8, help="as train.py's: with preserve_aspect_ratio the first picture of a "
        "batch gives the others its size (default: %(default)s)")
    add("--anchors", type=str2bool, default=True, help="draw the positive anchors (default: %(default)s)")
    add("--no_augmentation", dest="augment", action="store_false", help="training pictures as annotated, only resized")
    args = parser.parse_args(argv)
    for option in ("count", "repeat", "columns", "batch_size"):
        if getattr(args, option) < 1:
            parser.error(f"--{option} {getattr(args, option)} is too small; use 1 or more")
    args.augment = args.augment and args.split == "train"
    if args.repeat > 1 and not args.augment:
        parser.error("--repeat shows one picture augmented again and again; leave out --no_augmentation and "
                     "--split=valid")
    return args


def chosen_dataset(args: argparse.Namespace) -> COCODetection:
    """The data set that --split names, augmented as wanted.

    Raises:
        DatasetError: as COCODetection. UserError: it has no annotations.
    """
    if args.split == "train":
        return load_dataset(cfg.dataset, build_augmentation(cfg, MEANS, STD, training=args.augment), training=True)
    validation = load_validation_set()
    if not validation.has_gt:
        raise UserError(f"{validation.info_file} has no annotations to show; correct dataset.valid_info")
    return validation


def chosen_indices(dataset: COCODetection, args: argparse.Namespace) -> list[int]:
    """Positions in `dataset.ids` of the pictures to show: --images, or the first of training or validation.

    Raises:
        UserError: --images has an id that is not in the data set.
    """
    if args.images is None:
        order = (epoch_permutation(len(dataset), args.seed, 0).tolist() if args.split == "train"
                 else image_order(dataset.ids))
        return order[:args.count]
    known = {str(image_id): index for index, image_id in enumerate(dataset.ids)}
    wanted = [text.strip() for text in args.images.split(",")]
    for text in wanted:
        if text not in known:
            raise UserError(f"--images: {dataset.info_file} has no picture with objects of the id {text!r}; known are "
                            f"{', '.join(list(known)[:5])}, ...")
    return [known[text] for text in wanted]


def samples_of(dataset: COCODetection, args: argparse.Namespace) -> Iterator[tuple[int, np.ndarray, Sample]]:
    """Yield (epoch, image float32 [3, H, W], sample without it) as the training's loader makes them.

    Of the validation, pictures that cannot be read are missing.
    """
    jobs = [(epoch, index) for index in chosen_indices(dataset, args) for epoch in range(args.repeat)]
    # Only in the training's own order do the samples meet the others of their batch.
    together = args.batch_size if args.augment and args.images is None and args.repeat == 1 else 1
    for start in tqdm(range(0, len(jobs), together), desc="samples", disable=not sys.stderr.isatty()):
        made = [(epoch, dataset.sample(index, sample_random_state(args.seed, epoch, index)))
                for epoch, index in jobs[start:start + together]]
        readable = [(epoch, sample) for epoch, sample in made if sample is not None]
        if readable:
            batch = collate([sample for _, sample in readable])
            yield from zip([epoch for epoch, _ in readable], batch.images, batch.samples)


def priors_of(config: Any, height: int, width: int) -> paddle.Tensor:
    """All anchors of a network for an input of some pixels: float32 [P, 4], centre form, as Yolact makes them."""
    backbone = config.backbone
    sides = (sides_of_levels(side, backbone, config.fpn) for side in (height, width))
    return paddle.to_tensor(np.concatenate([
        make_priors(rows, columns, scales, ratios, config.max_size, backbone.use_square_anchors)
        for rows, columns, scales, ratios in zip(*sides, backbone.pred_scales, backbone.pred_aspect_ratios)]))


def match_sample(criterion: MultiBoxLoss, sample: Sample, priors: paddle.Tensor) -> Matching:
    """The anchors of one picture, matched by the loss itself.

    Args:
        criterion: the training's. sample: its image is not needed. priors: [P, 4] centre form.
    """
    picture = criterion.match([sample], priors)[0]
    corners, count = point_form(priors), len(picture.boxes)
    owners = picture.gt_index.numpy()
    best_iou = jaccard(picture.boxes, corners).max(axis=1).numpy() if count else np.zeros(0, np.float32)
    return Matching(corners.numpy()[picture.positives.numpy()], owners, np.bincount(owners, minlength=count), best_iou)


def draw_tile(image: np.ndarray, sample: Sample, matching: Matching, show_anchors: bool) -> np.ndarray:
    """A sample with everything on it, uint8 [H, W, 3] BGR, from the network's input, float32 [3, H, W]."""
    names = [f"{cfg.dataset.class_names[label]} {count}{'!' if iou < cfg.positive_iou_threshold else ''}"
             for label, count, iou in zip(sample.labels, matching.counts, matching.best_iou)]
    shown = slice(None) if show_anchors else slice(0)
    objects = Objects(sample.boxes, sample.masks, names + ["crowd"] * sample.num_crowds, sample.labels < 0,
                      matching.anchors[shown], matching.owners[shown])
    return draw_sample(restore_picture(image, cfg.backbone.transform, MEANS, STD), objects, COLORS)


def left_out(dataset: COCODetection, sample: Sample) -> int:
    """How many usable annotations of the sample's picture, crowds apart, it has no object of."""
    info = dataset.coco.imgs[sample.image_id]
    usable = [annotation for annotation in dataset.coco.imgToAnns[sample.image_id]
              if not annotation.get("iscrowd") and find_fault(annotation, info) is None]
    return len(usable) - (len(sample.labels) - sample.num_crowds)


def caption(sample: Sample, matching: Matching, epoch: int | None, missing: int) -> list[str]:
    """Two lines below a picture."""
    parts = [_number(len(matching.counts), "object")]
    parts += [_number(sample.num_crowds, "crowd")] if sample.num_crowds else []
    parts += [f"{missing} left out"] if missing else []
    lines = [f"image {sample.image_id}{'' if epoch is None else f', epoch {epoch}'}: {', '.join(parts)}"]
    if not len(matching.counts):
        return [*lines, "no object: every anchor is background"]
    least, most = matching.counts.min(), matching.counts.max()
    forced = (matching.best_iou < cfg.positive_iou_threshold).sum()
    spread = f"{least}" if least == most else f"{least} to {most}, median {np.median(matching.counts):g}"
    return [*lines, f"positive anchors per object: {spread}" + (f"; {forced} by force (!)" if forced else "")]


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def summary(matchings: Sequence[Matching], crowds: int, missing: int) -> str:
    """What the pictures have together, as a table of lines."""
    counts = np.concatenate([matching.counts for matching in matchings])
    best = np.concatenate([matching.best_iou for matching in matchings])
    rows = [("pictures", f"{len(matchings)}"), ("objects", f"{len(counts)}, and {_number(crowds, 'crowd')}"),
            ("annotated, but cut off or too small", f"{missing}")]
    if len(counts):
        forced = (best < cfg.positive_iou_threshold).sum()
        rows += [("positive anchors per object", f"least {counts.min()}, median {np.median(counts):g}, "
                                                 f"most {counts.max()}"),
                 ("objects with an anchor of IoU > 0.5", f"{100 * (best > 0.5).mean():.1f} %"),
                 ("objects with an anchor by force only (!)", f"{forced}, {100 * forced / len(counts):.1f} %")]
    return "\n".join(f"{name:42s}{value}" for name, value in rows)


def run(args: argparse.Namespace) -> None:
    """Everything but the handling of the user's mistakes."""
    configure(args.config, args.dataset, args.override)
    cfg.dataset.class_names = class_names_of(cfg.dataset)
    select_device(False)
    dataset, criterion = chosen_dataset(args), MultiBoxLoss(cfg)
    kind = f"training, seed {args.seed}" if args.augment else f"{args.split}, not augmented"
    title = f"{cfg.name}, {dataset.name}, max_size {cfg.max_size}: {kind}"
    tiles: list[Tile] = []
    matchings, crowds, missing, files = [], 0, 0, 0
    for epoch, image, sample in samples_of(dataset, args):
        matching = match_sample(criterion, sample, priors_of(cfg, image.shape[1], image.shape[2]))
        out_of_sight = left_out(dataset, sample)
        matchings.append(matching)
        crowds, missing = crowds + sample.num_crowds, missing + out_of_sight
        tiles.append(Tile(draw_tile(image, sample, matching, args.anchors),
                          caption(sample, matching, epoch if args.augment else None, out_of_sight)))
        if len(tiles) == ROWS * args.columns:
            files += 1
            _write(args, tiles, title, files)
            tiles = []
    if tiles:
        files += 1
        _write(args, tiles, title, files)
    if not matchings:
        raise UserError("none of the pictures can be read; see the warnings above")
    print(f"{summary(matchings, crowds, missing)}\nwritten to {args.out}"
          + (f" and {_number(files - 1, 'further file')}" if files > 1 else ""))


def _write(args: argparse.Namespace, tiles: Sequence[Tile], title: str, number: int) -> None:
    """Write one sheet; from the second on its number is part of the name."""
    stem, suffix = os.path.splitext(args.out)
    path = args.out if number == 1 else f"{stem}_{number}{suffix}"
    write_image(path, compose(tiles, args.columns, title, cfg.positive_iou_threshold))


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; a user's mistake ends in one line and exit code 1."""
    set_up_messages()
    args = parse_args(argv)
    try:
        run(args)
    except USER_ERRORS as error:
        sys.exit(f"browse.py: error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
