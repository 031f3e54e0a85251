"""tools/benchmark.py --data: samples per second and core, and where their time goes. Made-up pictures, too."""
from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import sys
from collections import Counter
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

# Before paddle: this sets what paddle reads at its import.
from utils.runtime import UserError

# isort: split
import cv2
import numpy as np

import data.coco
import data.images
import utils.augmentations
from data.coco import COCODetection
from data.config import MEANS, STD, ConfigError, cfg
from data.images import DatasetError
from tools.benchmarks.clock import PartTimer, summary
from utils.augmentations import build_augmentation
from utils.loader import sample_random_state

USER_ERRORS = (UserError, ConfigError, DatasetError, OSError)
WARM_UP, DATA_PASSES = 8, 3  # samples that are not counted; passes over as many as --samples
MIB = 2.0 ** 20
# Functions whose time is told apart, by the name they are called by in a module; one that is not there is left out.
DATA_FUNCTIONS = (
    ("read and decode the picture", data.coco, "read_image"), ("polygons to RLE", data.images, "to_rle"),
    ("masks from RLE", data.images, "decode_rle"),
    ("colour", utils.augmentations, "distort"), ("geometry", utils.augmentations, "place_planes"),
    ("geometry", utils.augmentations, "place_boxes"), ("evaluation resize", utils.augmentations, "base_transform"),
    ("masks stacked", utils.augmentations, "stack_masks"))
MADE_UP_PICTURES, MADE_UP_OBJECTS, MADE_UP_CORNERS = 16, 7, 24  # COCO: 7.3 objects a picture
COMMON_SIZE = 550  # pixels, of the network's input for pictures of COCO's size; others get them as much larger
MADE_UP_SIZES = ((480, 640), (640, 480), (427, 640), (500, 375))  # height, width in pixels


def resident_mib(peak: bool = False) -> float:
    """Resident memory of this process in MiB: its peak or, on Linux, what it is now."""
    if not peak and os.path.exists("/proc/self/statm"):
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize() / MIB
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kib / MIB if sys.platform == "darwin" else kib / 1024  # macOS counts bytes, Linux KiB


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
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
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


def names_data(args: argparse.Namespace) -> bool:
    """Whether the command line names pictures, which then have to be there."""
    return args.dataset is not None or any(item.startswith("dataset.") for item in args.override)


def wants_made_up(args: argparse.Namespace) -> bool:
    """Whether pictures are made up: asked for, or the config's are not there and nobody named them."""
    there = os.path.isdir(cfg.dataset.train_images) and os.path.isfile(cfg.dataset.train_info)
    return args.made_up or not (names_data(args) or there)


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

    def load(is_training: bool) -> COCODetection:
        transform = build_augmentation(cfg, MEANS, STD, training=is_training)
        return COCODetection(*files[is_training], transform, dataset.class_names, label_map, name=name,
                             training=is_training)

    has_valid = os.path.isdir(files[False][0]) and os.path.isfile(files[False][1])
    return load(True), load(False) if has_valid else None


def time_samples(dataset: COCODetection, count: int, epoch: int, timer: PartTimer) -> list[dict[str, float]]:
    """Make `count` samples; {part: seconds} of each, of the parts that the timer watches and "the rest"."""
    records = []
    for number in range(count):
        index = number % len(dataset)
        with timer.part("the rest"):
            dataset.sample(index, sample_random_state(0, epoch, index))
        records.append(timer.take())
    return records


def measure_samples(dataset: COCODetection, count: int) -> dict[str, Any]:
    """Samples per second (the median of some passes), milliseconds a sample, and by part."""
    timer = PartTimer()
    time_samples(dataset, min(count, WARM_UP), 0, timer)
    # Without a look at the parts a sample's time is that of "the rest".
    passes = np.array([[record["the rest"] for record in time_samples(dataset, count, epoch, timer)]
                       for epoch in range(DATA_PASSES)])
    with timer.watching(DATA_FUNCTIONS):
        records = time_samples(dataset, count, 0, timer)
    mean_ms: Counter[str] = Counter()
    for record in records:
        mean_ms.update({part: seconds * 1e3 / count for part, seconds in record.items()})
    return {"samples_per_second": float(np.median(count / passes.sum(axis=1))), **summary(passes.ravel().tolist()),
            "mean_ms_of_parts": dict(mean_ms.most_common())}


def measure_data(datasets: Sequence[COCODetection | None], count: int) -> dict[str, Any]:
    """Everything about --data, in the process that this is called in."""
    cv2.setNumThreads(0)
    before = resident_mib()
    figures = {name: measure_samples(dataset, count)
               for name, dataset in zip(("training", "evaluation"), datasets) if dataset is not None}
    return {**figures, "memory": {"at_start_mib": before, "peak_mib": resident_mib(peak=True)}}


def _send_data_figures(connection: Connection, datasets: Sequence[COCODetection | None], count: int) -> None:
    """Body of the worker process of --data: the figures, or a text that says what was wrong."""
    try:
        connection.send((measure_data(datasets, count), None))
    except USER_ERRORS as error:
        connection.send((None, str(error)))


def measure_data_in_worker(datasets: Sequence[COCODetection | None], count: int) -> dict[str, Any]:
    """`measure_data` in a process of its own, made as the loader makes its workers."""
    methods = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("fork" if "fork" in methods else "spawn")
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
