"""Where the time of a training goes: the network, all that surrounds it, and the data.

    python tools/benchmark.py --train --config=yolact_resnet50_config --batch_size=2 --iterations=5
    python tools/benchmark.py --data --config=yolact_base_config -o dataset.train_images=DIR dataset.train_info=FILE

--train: a whole iteration (waiting for data, forward, loss, backward, update) beside the bare network's forward and
    backward on such pictures, with the sum of its outputs as the loss. Both run in turn in one process, so that
    other programs slow them alike; their ratio is what the code around the network costs, 1.10 at most is the goal.
    The loss is then measured once more on its own, on the outputs of that iteration, function by function. The
    second ratio is 1 + (waiting for data + loss + its backward to the network's outputs + update) / bare.
--data: training samples (with the config's augmentation) and evaluation samples per second of one core, and where
    their time goes, in a process such as the loader's workers.

Times are medians and 95th percentiles in milliseconds. The network starts from random weights. Pictures are the
config's (cfg.dataset); if it has none on disk, or with --made_up, they are made up: with COCO's number of objects, and
COCO's size for an input of 550 pixels.
"""
from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any, Callable

if __package__ in (None, ""):  # run as a script: python tools/benchmark.py
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from utils.runtime import (  # noqa: E402
    UserError,
    available_cpus,
    peak_memory_gib,
    seed_everything,
    select_device,
    set_threads,
    set_up_messages,
    str2bool,
)

# isort: split
# What follows imports paddle, for which utils.runtime has to have set the scene.
import cv2  # noqa: E402
import numpy as np  # noqa: E402
import paddle  # noqa: E402

import data.coco  # noqa: E402
import layers.multibox_loss  # noqa: E402
import utils.augmentations  # noqa: E402
from data.coco import COCODetection, collate  # noqa: E402
from data.config import MEANS, STD, ConfigError, apply_overrides, cfg, set_cfg, set_dataset  # noqa: E402
from data.images import DatasetError  # noqa: E402
from utils.augmentations import build_augmentation  # noqa: E402
from utils.coco_results import write_json  # noqa: E402
from utils.loader import BatchLoader, sample_random_state  # noqa: E402
from yolact import Yolact  # noqa: E402

USER_ERRORS = (UserError, ConfigError, DatasetError, OSError)
GOAL = 1.10  # whole iteration / bare network
LOSS_BACKWARD = "backward to the network's outputs"
WARM_UP = 2  # iterations that are not counted
SMALLEST_BN_BATCH = 6  # of train.py
DATA_PASSES = 3
MIB = 2.0 ** 20
# Functions whose time is told apart, by the name they are called by in a module; one that is not there is left out.
LOSS_FUNCTIONS = (
    ("matching", "match"), ("class", "ohem_conf_loss"), ("boxes", "box_loss"), ("masks, assembled", "assemble_masks"),
    ("masks, loss", "mask_loss"), ("ground-truth masks, resized", "downsample_masks"), ("mask IoU", "mask_iou_loss"),
    ("semantic segmentation", "semantic_segmentation_loss"), ("coefficient diversity", "coeff_diversity_loss"),
    ("direct masks", "direct_mask_loss"), ("class existence", "class_existence_loss"))
DATA_FUNCTIONS = (
    ("read and decode the picture", data.coco, "read_image"), ("polygons to RLE", data.coco, "to_rle"),
    ("masks from RLE", data.coco, "decode_rle"), ("masks from RLE", data.images, "decode_rle"),
    ("colour", utils.augmentations, "distort"), ("geometry", utils.augmentations, "place_planes"),
    ("geometry", utils.augmentations, "place_boxes"), ("evaluation resize", utils.augmentations, "base_transform"),
    ("masks stacked", utils.augmentations, "stack_masks"))
MADE_UP_PICTURES, MADE_UP_OBJECTS, MADE_UP_CORNERS = 16, 7, 24  # COCO: 7.3 objects a picture
COMMON_SIZE = 550  # pixels, of the network's input for pictures of COCO's size; others get them as much larger
MADE_UP_SIZES = ((480, 640), (640, 480), (427, 640), (500, 375))  # height, width in pixels


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line as a namespace; exits with a message on a wrong one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--train", action="store_true", help="measure training iterations")
    add("--data", action="store_true", help="measure the making of samples")
    add("--config", default="yolact_base_config", help="a config of data/config.py (default: %(default)s)")
    add("--dataset", help="a data set of data/config.py that replaces the config's")
    add("-o", "--override", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="change config keys, as train.py takes them")
    add("--made_up", action="store_true", help="made-up pictures, even if the config's are there")
    add("--batch_size", type=int, default=8, help="images an iteration (default: %(default)s)")
    add("--iterations", type=int, default=10, help=f"counted, {WARM_UP} more go before (default: %(default)s)")
    add("--num_workers", type=int, default=1, help="processes that load data for --train (default: %(default)s)")
    add("--samples", type=int, default=100, help=f"of each of {DATA_PASSES} passes of --data (default: %(default)s)")
    add("--cuda", type=str2bool, default=True, help="use a GPU if there is one (default: %(default)s)")
    add("--json", metavar="FILE", help="write the figures to this file, too")
    args = parser.parse_args(argv)
    if not (args.train or args.data):
        parser.error("nothing to measure; give --train, --data or both")
    for option in ("batch_size", "iterations", "samples"):
        if getattr(args, option) < 1:
            parser.error(f"--{option} {getattr(args, option)} is too small; use 1 or more")
    return args


# ------------------------------------------------------------------------------------------------ Clocks


class Stopwatch:
    """Seconds by name, each without those of the parts measured inside it.

    Attributes:
        seconds: {name: seconds since the last `take`}.
    """

    def __init__(self, synchronize: Callable[[], None] = lambda: None):
        self.seconds: dict[str, float] = {}
        self._synchronize = synchronize
        self._inside: list[float] = []  # for every open part, the seconds of the parts inside it

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what runs inside as `name`."""
        self._synchronize()
        start = time.perf_counter()
        self._inside.append(0.0)
        try:
            yield
        finally:
            self._synchronize()
            passed = time.perf_counter() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + passed - self._inside.pop()
            if self._inside:
                self._inside[-1] += passed

    def take(self) -> dict[str, float]:
        """The seconds since the last call."""
        taken, self.seconds = self.seconds, {}
        return taken

    @contextlib.contextmanager
    def watching(self, functions: Sequence[tuple[str, Any, str]]) -> Iterator[None]:
        """Count calls of (name, module, function name) that go through the module's names, until the end."""
        def watched(name, function):
            def call(*args, **kwargs):
                with self.part(name):
                    return function(*args, **kwargs)
            return call

        replaced = []
        try:
            for name, module, attribute in functions:
                if hasattr(module, attribute):
                    replaced.append((module, attribute, getattr(module, attribute)))
                    setattr(module, attribute, watched(name, replaced[-1][2]))
            yield
        finally:
            for module, attribute, function in replaced:
                setattr(module, attribute, function)


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Median and 95th percentile of durations in seconds, as milliseconds."""
    milliseconds = np.asarray(seconds) * 1e3
    return {"median_ms": float(np.median(milliseconds)), "p95_ms": float(np.percentile(milliseconds, 95))}


def summaries(records: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    """`summary` of every name in a list of {name: seconds}; a name that a record lacks took 0 there."""
    names = list(dict.fromkeys(name for record in records for name in record))
    return {name: summary([record.get(name, 0.0) for record in records]) for name in names}


def resident_mib(peak: bool = False) -> float:
    """Resident memory of this process in MiB: its peak or, on Linux, what it is now."""
    if not peak and os.path.exists("/proc/self/statm"):
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize() / MIB
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kib / MIB if sys.platform == "darwin" else kib / 1024  # macOS counts bytes, Linux KiB


# ------------------------------------------------------------------------------------------------- Data


def made_up_picture(rng: np.random.RandomState, height: int, width: int) -> np.ndarray:
    """Blurred noise and fine noise, uint8 [H, W, 3]: a JPEG of it is about as large as one of COCO."""
    coarse = cv2.resize(rng.randint(0, 256, (12, 16, 3)).astype(np.uint8), (width, height))
    return np.clip(coarse + rng.normal(0, 12, (height, width, 1)), 0, 255).astype(np.uint8)


def made_up_polygon(rng: np.random.RandomState, height: int, width: int) -> np.ndarray:
    """A star-shaped polygon inside the picture, float [corners, 2] of x, y in pixels; small ones are more frequent."""
    radius = min(height, width) / 2 * rng.uniform(0.15, 0.95) ** 2
    center = rng.uniform(radius, (width - radius, height - radius))
    angles = np.linspace(0, 2 * np.pi, MADE_UP_CORNERS, endpoint=False)
    lengths = radius * rng.uniform(0.7, 1, MADE_UP_CORNERS)
    return center + lengths[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def make_up_data(folder: str, class_names: Sequence[str], scale: float = 1.0) -> str:
    """Write JPEGs of COCO's size times `scale` and number of objects, and annotations; returns the annotation file."""
    rng = np.random.RandomState(0)
    images, annotations = [], []
    for image_id in range(1, MADE_UP_PICTURES + 1):
        height, width = (round(side * scale) for side in MADE_UP_SIZES[image_id % len(MADE_UP_SIZES)])
        name = f"{image_id}.jpg"
        cv2.imwrite(os.path.join(folder, name), made_up_picture(rng, height, width))
        images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        for _ in range(MADE_UP_OBJECTS):
            points = made_up_polygon(rng, height, width)
            low, size = points.min(axis=0), np.ptp(points, axis=0)
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, "iscrowd": 0,
                                "category_id": int(rng.randint(len(class_names))) + 1, "area": float(np.prod(size)),
                                "bbox": [*low.tolist(), *size.tolist()], "segmentation": [points.ravel().tolist()]})
    categories = [{"id": number, "name": name} for number, name in enumerate(class_names, 1)]
    path = os.path.join(folder, "annotations.json")
    with open(path, "w") as file:
        json.dump({"images": images, "annotations": annotations, "categories": categories}, file)
    return path


def wants_made_up(args: argparse.Namespace) -> bool:
    """Whether pictures are made up: asked for, or the config's are not there and nobody named them."""
    named = args.dataset or any(item.startswith("dataset.") for item in args.override)
    there = os.path.isdir(cfg.dataset.train_images) and os.path.isfile(cfg.dataset.train_info)
    return args.made_up or not (named or there)


def open_datasets(args: argparse.Namespace, folder: str) -> tuple[COCODetection, COCODetection | None]:
    """(training set, evaluation set or None without files for one); `folder` takes made-up pictures."""
    dataset = cfg.dataset
    if wants_made_up(args):
        info = make_up_data(folder, dataset.class_names, cfg.max_size / COMMON_SIZE)
        files = {True: (folder, info), False: (folder, info)}
        name, label_map = f"{MADE_UP_PICTURES} made-up pictures", None
    else:
        files = {True: (dataset.train_images, dataset.train_info), False: (dataset.valid_images, dataset.valid_info)}
        name, label_map = dataset.name, dataset.label_map

    def load(is_training):
        transform = build_augmentation(cfg, MEANS, STD, training=is_training)
        return COCODetection(*files[is_training], transform, dataset.class_names, label_map, name=name,
                             training=is_training)

    has_valid = os.path.isdir(files[False][0]) and os.path.isfile(files[False][1])
    return load(True), load(False) if has_valid else None


def time_samples(dataset: COCODetection, count: int, epoch: int, stopwatch: Stopwatch | None = None) -> list:
    """Make `count` samples; seconds of each or, with a stopwatch, its {part: seconds}."""
    records = []
    for number in range(count):
        index = number % len(dataset)
        start = time.perf_counter()
        if stopwatch is None:
            dataset.sample(index, sample_random_state(0, epoch, index))
            records.append(time.perf_counter() - start)
        else:
            with stopwatch.part("the rest"):
                dataset.sample(index, sample_random_state(0, epoch, index))
            records.append(stopwatch.take())
    return records


def measure_samples(dataset: COCODetection, count: int) -> dict[str, Any]:
    """Samples per second (the median of some passes), milliseconds a sample, and by part."""
    time_samples(dataset, min(count, 8), 0)
    passes = [time_samples(dataset, count, epoch) for epoch in range(DATA_PASSES)]
    stopwatch = Stopwatch()
    with stopwatch.watching(DATA_FUNCTIONS):
        parts = time_samples(dataset, count, 0, stopwatch)
    mean = {name: sum(record.get(name, 0.0) for record in parts) * 1e3 / count
            for name in dict.fromkeys(name for record in parts for name in record)}
    return {"samples_per_second": float(np.median([count / sum(seconds) for seconds in passes])),
            **summary(sum(passes, [])), "mean_ms_of_parts": dict(sorted(mean.items(), key=lambda item: -item[1]))}


def measure_data(datasets: Sequence[COCODetection | None], count: int) -> dict[str, Any]:
    """Everything about --data, in the process that this is called in."""
    cv2.setNumThreads(0)
    before = resident_mib()
    figures = {name: measure_samples(dataset, count)
               for name, dataset in zip(("training", "evaluation"), datasets) if dataset is not None}
    return {**figures, "memory": {"at_start_mib": before, "peak_mib": resident_mib(peak=True)}}


def _send_data_figures(connection, *arguments):
    """Body of the worker process of --data: the figures, or a text that says what was wrong."""
    try:
        connection.send((measure_data(*arguments), None))
    except USER_ERRORS as error:
        connection.send((None, str(error)))


def measure_data_in_worker(datasets: Sequence[COCODetection | None], count: int) -> dict[str, Any]:
    """`measure_data` in a process of its own, made as the loader makes its workers."""
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("fork" if "fork" in methods else "spawn")
    ours, theirs = context.Pipe(duplex=False)
    worker = context.Process(target=_send_data_figures, args=(theirs, datasets, count))
    worker.start()
    theirs.close()
    try:
        figures, problem = ours.recv()
    except EOFError:
        raise UserError("the worker process ended before its time, most likely killed for lack of memory") from None
    finally:
        worker.join()
    if problem is not None:
        raise UserError(problem)
    return figures


# --------------------------------------------------------------------------------------------- Training


def synchronizer() -> Callable[[], None]:
    """A function that waits for the device; on the CPU there is nothing to wait for."""
    return paddle.device.synchronize if paddle.device.get_device().startswith("gpu") else lambda: None


class Iterations:
    """The network with its loss and the original's optimizer, and the two kinds of iteration.

    Args:
        batch_size: pictures an iteration; with few batch norm is frozen, as train.py does.
    """

    def __init__(self, batch_size: int):
        self.net = Yolact(cfg)
        if cfg.freeze_bn or batch_size < SMALLEST_BN_BATCH:
            self.net.freeze_bn()
        self.net.train()
        learnt = [parameter for parameter in self.net.parameters() if not parameter.stop_gradient]
        self.optimizer = paddle.optimizer.Momentum(cfg.lr, cfg.momentum, learnt, weight_decay=cfg.decay)
        self.criterion = layers.multibox_loss.criteria(cfg, self.net.maskiou_net)[0][1]
        self.synchronize = synchronizer()
        self.stopwatch = Stopwatch(self.synchronize)
        functions = [(name, layers.multibox_loss, function) for name, function in LOSS_FUNCTIONS]
        self.watching = lambda: self.stopwatch.watching(functions)
        with self.watching():  # what a criterion binds when it is made is watched as well
            self.watched_criterion = layers.multibox_loss.criteria(cfg, self.net.maskiou_net)[0][1]

    def bare(self, batch) -> dict[str, float]:
        """Forward and backward of the network alone, from pictures on the device to gradients; seconds."""
        images = paddle.to_tensor(batch.images)
        with self.stopwatch.part("forward"):
            out = self.net(images)
        with self.stopwatch.part("backward"):
            sum(value.sum() for value in out.values() if not value.stop_gradient).backward()
        self.optimizer.clear_grad()
        seconds = self.stopwatch.take()
        return {"bare network": sum(seconds.values()), **seconds}

    def whole(self, stream: Iterator) -> tuple[Any, dict, dict[str, float]]:
        """One iteration as train.py makes it; returns the batch, the network's outputs and seconds."""
        part = self.stopwatch.part
        start = time.perf_counter()
        with part("waiting for data"):
            batch = next(stream)[2]
        with part("forward"):
            out = self.net(paddle.to_tensor(batch.images))
        with part("loss"):
            losses = self.criterion(out, batch.samples)
            values = {name: loss.item() for name, loss in losses.items()}
            total = sum(losses.values())
        if not np.isfinite(list(values.values())).all():
            raise UserError(f"the loss is not finite: {values}; correct the config")
        with part("backward"):
            total.backward()
        with part("update"):
            self.optimizer.set_lr(cfg.lr_warmup_init)
            self.optimizer.step()
            self.optimizer.clear_grad()
        seconds = time.perf_counter() - start
        return batch, out, {"whole iteration": seconds, **self.stopwatch.take()}

    def loss_alone(self, batch, out: dict) -> dict[str, float]:
        """The loss on outputs that are there already, and its way back to them; seconds by function."""
        copies = {name: value.detach() for name, value in out.items()}
        for name, value in out.items():
            copies[name].stop_gradient = value.stop_gradient
        with self.watching():
            with self.stopwatch.part("the rest, forward"):
                losses = self.watched_criterion(copies, batch.samples)
                total = sum(losses.values())
            with self.stopwatch.part(LOSS_BACKWARD):
                total.backward()
        self.optimizer.clear_grad()
        return self.stopwatch.take()


def measure_training(iterations: Iterations, stream: Iterator, count: int) -> dict[str, Any]:
    """Bare and whole iterations in turn, each of them first every other time; the first few do not count."""
    bare, whole, alone = [], [], []
    batch = next(stream)[2]
    for number in range(WARM_UP + count):
        if number % 2:
            bare.append(iterations.bare(batch))
        batch, out, seconds = iterations.whole(stream)
        whole.append(seconds)
        alone.append(iterations.loss_alone(batch, out))
        del out  # else two networks' activations would be held at once
        if not number % 2:
            bare.append(iterations.bare(batch))
    bare, whole, alone = bare[WARM_UP:], whole[WARM_UP:], alone[WARM_UP:]
    figures = {"bare": summaries(bare), "whole": summaries(whole), "loss_alone": summaries(alone), "goal": GOAL,
               "peak_memory_gib": peak_memory_gib()}
    unit = figures["bare"]["bare network"]["median_ms"]
    around = [figures["whole"][name]["median_ms"] for name in ("waiting for data", "loss", "update")]
    around.append(figures["loss_alone"][LOSS_BACKWARD]["median_ms"])
    return {**figures, "whole_by_bare": figures["whole"]["whole iteration"]["median_ms"] / unit,
            "whole_by_bare_of_parts": 1 + sum(around) / unit}


# ----------------------------------------------------------------------------------------------- Tables


def table(title: str, rows: dict[str, dict[str, float]], unit_ms: float) -> str:
    """Lines of name, median, 95th percentile and the median's share of `unit_ms`."""
    lines = [f"{title:42}{'median ms':>11}{'p95 ms':>11}{'of bare':>9}"]
    lines += [f"  {name:40}{row['median_ms']:11.1f}{row['p95_ms']:11.1f}{row['median_ms'] / unit_ms:9.1%}"
              for name, row in rows.items()]
    return "\n".join(lines)


def training_report(figures: dict[str, Any]) -> str:
    """The figures of `measure_training` as text."""
    unit = figures["bare"]["bare network"]["median_ms"]
    parts = [table("network alone", figures["bare"], unit), table("training", figures["whole"], unit),
             table("the loss alone", figures["loss_alone"], unit),
             f"whole / bare: {figures['whole_by_bare']:.3f} (goal: at most {GOAL:.2f}); from what is around the "
             f"network, which varies less: {figures['whole_by_bare_of_parts']:.3f}",
             f"peak memory: {figures['peak_memory_gib']:.2f} GiB"]
    return "\n".join(parts)


def data_report(figures: dict[str, Any]) -> str:
    """The figures of `measure_data` as text."""
    lines = []
    for name in ("training", "evaluation"):
        if name in figures:
            row = figures[name]
            lines.append(f"{name}: {row['samples_per_second']:.1f} samples per second and core; a sample takes "
                         f"{row['median_ms']:.2f} ms, p95 {row['p95_ms']:.2f} ms; on average:")
            lines += [f"  {part:40}{ms:8.2f} ms" for part, ms in row["mean_ms_of_parts"].items()]
    memory = figures["memory"]
    lines.append(f"worker: peak {memory['peak_mib']:.0f} MiB, {memory['at_start_mib']:.0f} MiB of them when it started")
    return "\n".join(lines)


def configure(args: argparse.Namespace) -> None:
    """Fill the global cfg: --config, then --dataset, then -o."""
    set_cfg(args.config)
    if args.dataset is not None:
        set_dataset(args.dataset)
    apply_overrides(args.override)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure what was asked for, print it; returns the figures."""
    configure(args)
    device = select_device(args.cuda)
    threads = set_threads()
    seed_everything(0)
    with tempfile.TemporaryDirectory() as folder:
        datasets = open_datasets(args, folder)
        figures = {"config": cfg.name, "max_size": cfg.max_size, "batch_size": args.batch_size, "device": device,
                   "cpus": available_cpus(), "threads": threads, "paddle": paddle.__version__,
                   "opencv": cv2.__version__, "data": datasets[0].name, "pictures": len(datasets[0])}
        print(f"{cfg.name}, {cfg.max_size} px, {device} with {threads} CPU threads, paddle {paddle.__version__}, "
              f"OpenCV {cv2.__version__}; data: {datasets[0].name}", flush=True)
        if args.data:
            figures["data_figures"] = measure_data_in_worker(datasets, args.samples)
            print(data_report(figures["data_figures"]), flush=True)
        if args.train:
            print(f"training with batches of {args.batch_size}, {args.iterations} iterations")
            with BatchLoader(datasets[0], collate, args.batch_size, 0, args.num_workers,
                             expected=(DatasetError,)) as loader:
                stream = loader.stream()
                next(stream)  # the workers start before the network fills the memory
                figures["train_figures"] = measure_training(Iterations(args.batch_size), stream, args.iterations)
            print(training_report(figures["train_figures"]), flush=True)
    return figures


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; a user's mistake ends in one line and exit code 1."""
    set_up_messages()
    args = parse_args(argv)
    try:
        figures = run(args)
        if args.json:
            write_json(args.json, figures, indent=2)
    except USER_ERRORS as error:
        sys.exit(f"benchmark.py: error: {error}")
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
