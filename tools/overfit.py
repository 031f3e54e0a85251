"""Can this network learn this data at all? Trains on a few pictures and measures on the same pictures.

    python tools/overfit.py --config=yolact_resnet50_config --images=data/coco/train2017 \\
        --info=data/coco/annotations/instances_train2017.json

A config, a label map, a learning rate or a change to the code that is wrong shows here in minutes. Steps:

1. The first --count pictures (by image id) with a non-crowd object over --min_area of the picture are chosen;
   only those objects go into OUT/subset.json.
2. train.py trains on them as one batch, without augmentation. AdamW at 2e-4 with a cosine schedule and random
   weights are defaults; -o overrides them like any other key of the config.
3. eval.py measures mask AP on the same pictures: OUT/metrics.json and OUT/predictions.png.
4. The ground truth itself, brought to the size of the prototypes as in training and back to the picture as
   in evaluation, is measured by the same code. A network whose masks are right scores about as much, so this
   is the bound to compare with (no strict one: the network's masks are not binary when they are enlarged).

OUT/overfit.json holds both figures and their ratio. From 0.85 on, network, losses and data fit together.
"""
from __future__ import annotations

import argparse
import json
import logging
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

if __package__ in (None, ""):  # run as a script: python tools/overfit.py
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from utils.runtime import UserError, select_device, set_threads, set_up_messages, str2bool  # noqa: E402

# isort: split
# What follows imports paddle, for which utils.runtime has to have set the scene.
import numpy as np  # noqa: E402
import paddle  # noqa: E402
from pycocotools import mask as mask_utils  # noqa: E402

import eval as evaluation  # noqa: E402
from data.coco import COCODetection, load_dataset  # noqa: E402
from data.coco_checks import class_names_of, find_fault  # noqa: E402
from data.config import MEANS, STD, ConfigError, apply_overrides, cfg, set_cfg  # noqa: E402
from data.config_types import YolactConfig  # noqa: E402
from data.images import DatasetError, to_rle  # noqa: E402
from layers.losses import downsample_masks  # noqa: E402
from layers.output_utils import PictureMasks  # noqa: E402
from utils.augmentation_draws import Placement  # noqa: E402
from utils.augmentations import build_augmentation, place_planes  # noqa: E402
from utils.checkpoint_files import Name  # noqa: E402
from utils.coco_results import METRIC_NAMES, CocoResults, evaluate_results  # noqa: E402
from utils.files import write_json  # noqa: E402
from utils.instances import Instances  # noqa: E402
from utils.update import SMALLEST_BN_BATCH  # noqa: E402
from yolact import Yolact  # noqa: E402

REPO = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RESULTS = ("metrics.json", "overfit.json", "predictions.png")
LONGEST_WARMUP = 50  # iterations


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line as a namespace; exits with a message on a wrong one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--config", default="yolact_resnet50_config", help="name in data/config.py (default: %(default)s)")
    add("--images", metavar="DIR", help="folder of pictures (default: the config's dataset.train_images)")
    add("--info", metavar="FILE.json", help="COCO annotations (default: the config's dataset.train_info)")
    add("--count", type=int, default=8,
        help=f"pictures, which are the batch too; below {SMALLEST_BN_BATCH} train.py freezes batch norm "
             "(default: %(default)s)")
    add("--min_area", type=float, default=0.1,
        help="only objects over this share of their picture are learnt (default: %(default)s)")
    add("--max_size", type=int, default=128,
        help="side of the network's input in pixels; the anchors scale along (default: %(default)s)")
    add("--iterations", type=int, default=400, help="updates, each on all pictures (default: %(default)s)")
    add("--out", default="results/overfit",
        help="folder for results, subset.json, weights/ and logs/ (default: %(default)s)")
    add("-o", "--override", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="change config keys, those that this tool sets too: -o lr=1e-3 optimizer=sgd "
             "(backbone.path, of ImageNet weights, is looked up from OUT/weights)")
    add("--num_workers", type=int, default=1, help="processes that load pictures (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the initial weights (default: %(default)s)")
    add("--cuda", type=str2bool, nargs="?", const=True, default=False, help="train and measure on a GPU")
    args = parser.parse_args(argv)
    for option in ("count", "iterations", "max_size"):
        if getattr(args, option) < 1:
            parser.error(f"--{option} {getattr(args, option)} is too small; use 1 or more")
    if not 0 <= args.min_area < 1:
        parser.error(f"--min_area {args.min_area} is no share of a picture; use a number from 0 up to 1")
    return args


def default_overrides(args: argparse.Namespace) -> list[str]:
    """The KEY=VALUE that make a training learn a few pictures by heart, for the global cfg."""
    overrides = [f"{key}=False" for key in cfg if key.startswith("augment_")]
    return [*overrides, f"max_size={args.max_size}", f"max_iter={args.iterations}",
            "optimizer=adamw", "lr=2e-4", "lr_warmup_init=1e-6", "lr_schedule=cosine",
            f"lr_warmup_until={min(LONGEST_WARMUP, args.iterations // 10)}", "backbone.path=None"]


def choose(dataset: COCODetection, count: int, min_area: float) -> dict[str, Any]:
    """The first pictures by id that can be read and have large objects, with those objects, as a COCO file.

    Args:
        dataset: of training. count: pictures wanted.
        min_area: non-crowd objects whose mask covers more than this share of the picture are kept.
    Returns:
        dict with images, annotations and categories, as the data set's own file has them.
    Raises:
        UserError: there are fewer pictures.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id in sorted(dataset.ids):
        large = large_objects(dataset.coco.imgToAnns[image_id], dataset.coco.imgs[image_id], min_area)
        if not large:
            continue
        try:
            dataset.load_image(dataset.ids.index(image_id))
        except DatasetError as error:
            logging.warning("image %s is not chosen: %s", image_id, error)
            continue
        images.append(dataset.coco.imgs[image_id])
        annotations += large
        if len(images) == count:
            return {"images": images, "annotations": annotations,
                    "categories": dataset.coco.dataset.get("categories", [])}
    raise UserError(f"only {len(images)} of the {len(dataset)} pictures with objects in {dataset.info_file} "
                    f"have one over {min_area:g} of the picture, but --count is {count}; lower --min_area or "
                    "--count")


def large_objects(annotations: Sequence[dict[str, Any]], image: dict[str, Any],
                  min_area: float) -> list[dict[str, Any]]:
    """The usable non-crowd annotations whose mask covers more than `min_area` (0..1) of the picture."""
    least = min_area * image["height"] * image["width"]
    return [annotation for annotation in annotations
            if not annotation.get("iscrowd") and find_fault(annotation, image) is None
            and mask_utils.area(to_rle(annotation["segmentation"], image["height"], image["width"])) > least]


def reduce_and_restore(masks: np.ndarray, max_size: int, proto_size: tuple[int, int]) -> np.ndarray:
    """What is left of masks after the way that training and evaluation take them.

    Resized to the network's input as the augmentation does it, to the prototypes as the mask loss does it
    (bilinear, > 0.5), and enlarged to the picture as evaluation does it (bilinear, > 0.5).

    Args:
        masks: bool or uint8 [N, H, W] of the picture as stored. max_size: side of the network's input in
            pixels. proto_size: (height, width) of the prototypes.
    Returns:
        bool [N, H, W].
    """
    count, height, width = masks.shape
    if count == 0:
        return masks.astype(bool)
    resized = np.empty((count, max_size, max_size), np.uint8)
    place_planes(list(masks.astype(np.uint8)), (height, width), Placement(height, width), resized)
    reduced = downsample_masks(paddle.to_tensor(resized), *proto_size)
    return PictureMasks(reduced.numpy(), height, width).numpy()


def bound_of(dataset: COCODetection, max_size: int, proto_size: tuple[int, int]) -> dict[str, float]:
    """COCOeval's figures for the ground truth after `reduce_and_restore`, handed in as if it were detected.

    An object of which nothing is left counts as missed.

    Args:
        dataset: none of its objects is a crowd. max_size, proto_size: as for `reduce_and_restore`.
    Returns:
        dict with the figures of "segm", METRIC_NAMES as fractions.
    """
    results = CocoResults(dataset.label_map)
    for position, image_id in enumerate(dataset.ids):
        classes, masks, boxes = dataset.ground_truth(position)
        restored = reduce_and_restore(masks, max_size, proto_size)
        left = restored.any(axis=(1, 2))
        pixel_boxes = np.concatenate([np.floor(boxes[:, :2]), np.ceil(boxes[:, 2:])], axis=1).astype(np.int64)
        results.add(position, image_id, Instances(classes[left], np.ones(left.sum()), pixel_boxes[left], restored[left],
                                                  dataset.class_names, *masks.shape[1:]))
    metrics, _ = evaluate_results(dataset.coco, results.lists(), dataset.ids)
    return {name: metrics["segm"][name] for name in METRIC_NAMES}


@paddle.no_grad()
def prototype_size(config: YolactConfig) -> tuple[int, int]:
    """(height, width) of the prototypes of a config's network, found by running it once.

    Raises:
        UserError: the network has no mask branch.
    """
    if not config.eval_mask_branch:
        raise UserError("eval_mask_branch is off, so the network has no masks to measure; set it to True")
    net = Yolact(config)
    net.eval()
    height, width = net(paddle.zeros([1, 3, config.max_size, config.max_size]))["proto"].shape[1:3]
    return int(height), int(width)


def prepare(args: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Fill the global cfg and write OUT/subset.json, both data sets of the cfg from now on.

    Returns:
        (content of subset.json, "KEY=VALUE" of everything that differs from the config).
    """
    set_cfg(args.config)
    overrides = [*default_overrides(args), *args.override]
    overrides += [f"dataset.train_{key}={value}" for key, value in (("images", args.images), ("info", args.info))
                  if value is not None]
    apply_overrides(overrides)
    dataset = cfg.dataset
    dataset.class_names = class_names_of(dataset)
    source = load_dataset(dataset, build_augmentation(cfg, MEANS, STD, training=False), training=True)
    subset = choose(source, args.count, args.min_area)

    for name in RESULTS:  # those of an earlier run must not be taken for this one's, should it fail
        if os.path.exists(os.path.join(args.out, name)):
            os.remove(os.path.join(args.out, name))
    info = os.path.join(args.out, "subset.json")
    write_json(info, subset)
    data = [f"dataset.{split}_{key}={value}" for split in ("train", "valid")
            for key, value in (("images", dataset.train_images), ("info", info))] + ["dataset.has_gt=True"]
    apply_overrides(data)
    return subset, overrides + data


def train(args: argparse.Namespace, overrides: Sequence[str]) -> str:
    """Run train.py as a command of its own; returns the path of the weights.

    Raises:
        SystemExit: it failed, and has said why.
    """
    folder = os.path.join(args.out, "weights")
    # No checkpoint on Ctrl-C and none in between: a training of minutes is not continued.
    options = [f"--config={args.config}", f"--batch_size={args.count}", "--no_autoscale",
               "--validation_epoch=-1", f"--num_workers={args.num_workers}", f"--seed={args.seed}",
               f"--cuda={args.cuda}", "--no_interrupt", f"--save_interval={cfg.max_iter}",
               f"--save_folder={folder}", f"--log_folder={os.path.join(args.out, 'logs')}", "-o", *overrides]
    print("$ python train.py " + " ".join(map(shlex.quote, options)), flush=True)
    command = [sys.executable, os.path.join(REPO, "train.py"), *options]
    status = subprocess.run(command, check=False).returncode
    if status != 0:
        sys.exit(status)
    # One batch is an epoch.
    return os.path.join(folder, f"{Name(cfg.name, cfg.max_iter, cfg.max_iter)}.pdparams")


def evaluate(args: argparse.Namespace, weights: str) -> dict[str, dict[str, float]]:
    """Run eval.py on the pictures trained on; returns its metrics.json, {"bbox": {...}, "segm": {...}}."""
    options = [f"--trained_model={weights}", f"--output_folder={args.out}", "--comparison", "--no_bar",
               f"--cuda={args.cuda}"]
    print("$ python eval.py " + " ".join(map(shlex.quote, options)), flush=True)
    evaluation.main(options)
    with open(os.path.join(args.out, "metrics.json"), encoding="utf-8") as file:
        return json.load(file)


def run(args: argparse.Namespace) -> None:
    """Everything but the handling of the user's mistakes."""
    start = time.time()
    subset, overrides = prepare(args)
    image_ids = [image["id"] for image in subset["images"]]
    print(f"{len(image_ids)} pictures with {len(subset['annotations'])} objects over {args.min_area:g} of "
          f"their picture: {', '.join(map(str, image_ids))}", flush=True)
    if args.count < SMALLEST_BN_BATCH:
        logging.warning("with --count below %d train.py freezes batch norm as it is in a network of random "
                        "weights, and a deep one may not learn", SMALLEST_BN_BATCH)
    select_device(False)  # the bound takes no time, and the GPU is left to train.py
    set_threads()
    height, width = prototype_size(cfg)
    bound = bound_of(evaluation.load_validation_set(), cfg.max_size, (height, width))

    weights = train(args, overrides)
    network = evaluate(args, weights)
    found, most = network["segm"]["AP"], bound["AP"]
    report = {"mask_AP": found, "bound": most, "ratio": found / most if most > 0 else None,
              "box_AP": network["bbox"]["AP"], "config": cfg.name, "max_size": cfg.max_size,
              "prototypes": [height, width], "iterations": cfg.max_iter, "min_area": args.min_area,
              "seed": args.seed, "overrides": overrides, "image_ids": image_ids,
              "objects": len(subset["annotations"]), "weights": weights,
              "seconds": round(time.time() - start, 1), "network": network["segm"], "ground_truth": bound}
    write_json(os.path.join(args.out, "overfit.json"), report, indent=2)
    ratio = "-" if report["ratio"] is None else f"{report['ratio']:.3f}"
    print(f"{found:.3f} mask AP of the network on the {len(image_ids)} pictures it was trained on\n"
          f"{most:.3f} mask AP of their ground truth, reduced to {height} x {width} and back: the bound\n"
          f"{ratio} of the bound is reached\n"
          f"written: {os.path.join(args.out, 'overfit.json')}")


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; a user's mistake ends in one line and exit code 1."""
    set_up_messages()
    args = parse_args(argv)
    try:
        run(args)
    except (UserError, ConfigError, DatasetError, OSError) as error:
        sys.exit(f"overfit.py: error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
