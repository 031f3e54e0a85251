"""tools/benchmark.py --inference: how the cost of every stage but the network grows with objects and with pixels.

Shapes: P priors, C classes with background, K prototypes, N objects, S the network's input size.
"""
from __future__ import annotations

import os
import tracemalloc
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import paddle
from tqdm import tqdm

from layers.box_utils import encode, jaccard, point_form
from tools.benchmarks.clock import settle, summary, synchronizer
from tools.benchmarks.data import made_up_picture
from utils.predictor import Predictor, as_image
from utils.stopwatch import Stopwatch, time_picture
from yolact import build_detect

COUNTS = (10, 30, 100, 200)  # objects in a picture
MEGAPIXELS = (0.3, 1, 3, 12)
COUNT, MEGAPIXEL = 100, 0.3  # of the pictures along the other axis
ROUNDS, TURN = 4, 3  # so many turns of each point, the first one to warm up; pictures in each
NEAR_PRIORS = 3  # that see each object
BACKGROUND, OBJECT = 9.0, 10.0  # logits of a trained network, those of all other classes being about 0
MIB = 2.0 ** 20


# ------------------------------------------------------------------------------- Made-up network outputs


def made_up_boxes(rng: np.random.RandomState, count: int) -> np.ndarray:
    """Boxes of COCO's sizes, relative corner form float32 [N, 4]: half of them smaller than a tenth of the picture."""
    size = np.exp(rng.normal(np.log(0.12), 0.9, (count, 2))).clip(0.02, 0.95)
    low = rng.uniform(0, 1 - size)
    return np.concatenate([low, low + size], axis=1).astype(np.float32)


def made_up_outputs(example: dict[str, paddle.Tensor], count: int) -> dict[str, paddle.Tensor]:
    """Outputs of a network that sees `count` objects: some priors at each have its class, all others the background.

    Args:
        example: outputs of the network for one picture, for their shapes and priors.

    Returns: such a dict, `loc`, `conf` and `mask` being made up, and `proto` where the example has it.
    """
    rng = np.random.RandomState(0)
    example = {name: paddle.to_tensor(np.asarray(output)) for name, output in example.items()}
    classes = example["conf"].shape[2]
    boxes = paddle.to_tensor(made_up_boxes(rng, count))
    near = jaccard(boxes, point_form(example["priors"])).topk(NEAR_PRIORS, axis=1)[1].numpy()

    conf = rng.normal(0, 1, example["conf"].shape).astype(np.float32)
    conf[0, :, 0] += BACKGROUND
    loc = rng.normal(0, 1, example["loc"].shape).astype(np.float32)
    labels = rng.randint(1, classes, count)
    for rank in range(NEAR_PRIORS):
        conf[0, near[:, rank], labels] = OBJECT + rng.uniform(-1, 1, count)
        priors = example["priors"].index_select(paddle.to_tensor(near[:, rank]))
        loc[0, near[:, rank]] = encode(boxes, priors).numpy() + rng.normal(0, 0.1, (count, 4))
    made_up = {"loc": loc, "conf": conf,
               "mask": np.tanh(rng.normal(0, 0.3, example["mask"].shape)).astype(np.float32)}
    if "proto" in example:
        made_up["mask"][..., 0] = 1  # of the prototype that says object: masks that fill most of their boxes
        made_up["proto"] = made_up_prototypes(rng, example["proto"].shape)
    return {**example, **{name: paddle.to_tensor(array) for name, array in made_up.items()}}


def made_up_prototypes(rng: np.random.RandomState, shape: Sequence[int]) -> np.ndarray:
    """Smooth prototypes after their ReLU, float32 [1, h, w, K]; the first one is positive nearly everywhere."""
    _, height, width, count = shape
    coarse = rng.normal(0, 1, (count, 9, 9)).astype(np.float32)
    coarse[0] += 1
    smooth = [cv2.resize(part, (width, height), interpolation=cv2.INTER_CUBIC) for part in coarse]
    return np.maximum(np.stack(smooth, axis=2), 0)[np.newaxis]


class StandIn:
    """A Predictor whose network gives the same outputs for every picture, at once.

    Args:
        predictor: does everything else. outputs: of the network. config: of the network.
        count: detections to keep of a picture.
    """

    def __init__(self, predictor: Predictor, outputs: dict[str, Any], config: Any, count: int):
        self.transform = predictor.transform
        self.network = lambda images: outputs
        self.detections_of = build_detect(config.copy({"max_num_detections": count}))
        self.instances = predictor.instances


# ------------------------------------------------------------------------------------------- Measuring


class MemoryWatch:
    """Takes the place of utils.stopwatch.Stopwatch: the highest memory that each stage adds, in MiB.

    It sees what Python and numpy allocate, which the pictures that OpenCV returns belong to; not Paddle's tensors.

    Attributes:
        peaks: {stage: MiB}.
    """

    def __init__(self) -> None:
        self.peaks: dict[str, float] = {}
        self._before = 0

    def start(self) -> None:
        """Begin a picture."""
        tracemalloc.reset_peak()
        self._before = tracemalloc.get_traced_memory()[0]

    def lap(self, stage: str) -> None:
        """The stage that has just ended began at the lap before, or at `start`."""
        now, peak = tracemalloc.get_traced_memory()
        self.peaks[stage] = max(self.peaks.get(stage, 0.0), (peak - self._before) / MIB)
        tracemalloc.reset_peak()
        self._before = now


def peak_memory(stand_in: StandIn, path: str) -> dict[str, float]:
    """{stage: MiB} of one picture, see `MemoryWatch`."""
    memory = MemoryWatch()
    tracemalloc.start()
    try:
        time_picture(stand_in, as_image, path, memory)
    finally:
        tracemalloc.stop()
    return memory.peaks


def write_picture(folder: str, megapixels: float) -> str:
    """A made-up JPEG of 4 : 3 in the folder; returns its path."""
    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    path = os.path.join(folder, f"{megapixels}.jpg")
    cv2.imwrite(path, made_up_picture(np.random.RandomState(0), height, round(height * 4 / 3)))
    return path


def measure_scaling(predictor: Predictor, config: Any, folder: str) -> dict[str, dict[str, Any]]:
    """The stages along both axes.

    Args:
        predictor: of any engine, for everything but the network's outputs, which are made up. config: its Config.
        folder: takes made-up pictures.

    Returns: {"objects": {number: {stage: {"median_ms", "p95_ms", "peak_mib"}}}, "megapixels": {number: the same}},
        numbers as text, stages without the network.
    """
    with paddle.no_grad():
        example = predictor.network(np.zeros((1, 3, config.max_size, config.max_size), np.float32))
    points: list[tuple[str, float, int, float]] = [("objects", value, value, MEGAPIXEL) for value in COUNTS]
    points += [("megapixels", value, COUNT, value) for value in MEGAPIXELS]
    work = [(axis, str(value), StandIn(predictor, made_up_outputs(example, count), config, count),
             write_picture(folder, size), Stopwatch(synchronizer())) for axis, value, count, size in points]
    for number in tqdm(range(ROUNDS), desc="Scaling", unit="round", disable=None):
        for _, _, stand_in, path, watch in work:  # in turn, so that other programs slow all of an axis alike
            settle()
            for _ in range(TURN):
                time_picture(stand_in, as_image, path, watch if number else Stopwatch())
    figures: dict[str, dict[str, Any]] = {"objects": {}, "megapixels": {}}
    for axis, value, stand_in, path, watch in work:
        peaks = peak_memory(stand_in, path)  # apart from the timing, as looking at memory slows everything
        figures[axis][value] = {stage: {**summary(seconds), "peak_mib": peaks[stage]}
                                for stage, seconds in watch.seconds.items() if stage != "network"}
    return figures
