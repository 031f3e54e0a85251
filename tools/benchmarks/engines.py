"""What tools/benchmark.py --inference measures of engines: the bare network, a picture's stages, many pictures."""
from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

# Before paddle: this sets what paddle reads at its import.
from utils.runtime import UserError, set_threads

# isort: split
import numpy as np
import paddle
from tqdm import tqdm

from tools.benchmarks.agreement import Found, found_of
from tools.benchmarks.clock import settle, synchronizer
from utils.engines import BACKENDS, check_installed, has_bf16, is_installed, processor
from utils.overlap import Behind
from utils.predictor import Predictor, as_image, load_predictor
from utils.stopwatch import Stopwatch, time_picture

# All that COCO's metrics count.
AS_EVALUATED: Any = {"score_threshold": 0.0, "top_k": None, "one_score": False}
PASSES = 2  # over all pictures, for the overlapped figures


class Engine(NamedTuple):
    """What computes the network: a backend of `load_predictor`, and its precision."""

    backend: str
    precision: str

    def __str__(self) -> str:
        return " ".join(self)


EAGER = Engine("paddle", "fp32")  # what all others are compared with


def lacks(engine: Engine, on_gpu: bool) -> str | None:
    """Why there is no such engine here, or None if there is."""
    if engine.precision == "fp32" or (on_gpu and engine.backend == "paddle"):
        return None
    if engine.backend != "openvino":
        return "bf16 is computed by openvino, and by paddle on a GPU"
    return None if has_bf16() else f"{processor()} has no units for bf16"


def choose_engines(backends: Sequence[str] | None, precisions: Sequence[str],
                   on_gpu: bool) -> tuple[list[Engine], list[str]]:
    """The engines to measure, and why others of those asked for are left out.

    Args:
        backends: None: those that are installed. on_gpu: whether Paddle computes on a GPU.

    Raises:
        UserError: a backend that was asked for is not installed, or nothing is left to measure.
    """
    for backend in backends or ():
        check_installed(backend)
    chosen = backends or [backend for backend in BACKENDS if is_installed(backend)]
    engines: list[Engine] = []
    without: dict[str, list[str]] = {}
    for engine in [Engine(backend, precision) for precision in precisions for backend in chosen]:
        reason = lacks(engine, on_gpu)
        if reason is None:
            engines.append(engine)
        else:
            without.setdefault(reason, []).append(str(engine))
    left_out = [f"{', '.join(names)}: {reason}" for reason, names in without.items()]
    if not engines:
        raise UserError(f"nothing is left to measure ({'; '.join(left_out)}); choose other --backends or --precisions")
    return engines, left_out


def load_engines(engines: Sequence[Engine], weights: str, config: dict[str, Any], cuda: bool,
                 must: bool) -> tuple[dict[Engine, tuple[Predictor, Predictor]], list[str]]:
    """Load the network into every engine, and into EAGER, which goes first.

    Args:
        config: of the network, plain values. must: an engine that cannot be loaded is an error, and not left out.

    Returns: ({engine: (predictor for least time a picture, predictor for most pictures a second)}, reasons why others
        are left out).

    Raises:
        UserError: an engine cannot be loaded.
    """
    load = functools.partial(load_predictor, weights, config, cuda=cuda, **AS_EVALUATED)
    loaded: dict[Engine, tuple[Predictor, Predictor]] = {}
    left_out = []
    for engine in tqdm(list(dict.fromkeys([EAGER, *engines])), desc="Loading", unit="engine", disable=None):
        try:
            many = load(backend=engine.backend, precision=engine.precision, streams=None)
            single = many if many.streams <= 1 else load(backend=engine.backend, precision=engine.precision, streams=1)
            loaded[engine] = single, many
        except UserError as error:
            if must or engine == EAGER:
                raise
            left_out.append(f"{engine}: {error}")
    return loaded, left_out


# --------------------------------------------------------------------------------- One picture at a time


def measure_rounds(predictors: dict[Engine, Predictor], paths: Sequence[str]) -> dict[Engine, dict[str, Any]]:
    """The network alone, then a whole picture: every picture by every engine in turn, each time another one first.

    Returns: {engine: {"network": seconds of each picture, "stages": {stage: seconds of each picture}}}.
    """
    synchronize, engines = synchronizer(), list(predictors)
    watches = {engine: Stopwatch(synchronize) for engine in engines}
    alone: dict[Engine, list[float]] = {engine: [] for engine in engines}
    with tqdm(total=len(engines) * len(paths), desc="One picture at a time", disable=None) as progress:
        for number, path in enumerate(paths):
            first = number % len(engines)
            for engine in engines[first:] + engines[:first]:
                predictor = predictors[engine]
                give_threads(predictor)
                prepared = predictor.transform(as_image(path))[np.newaxis]
                if number == 0:
                    time_picture(predictor, as_image, path, Stopwatch(synchronize))  # warm-up
                settle()
                alone[engine].append(seconds_of(lambda run=predictor.network, images=prepared: run(images)))
                time_picture(predictor, as_image, path, watches[engine])
                progress.update()
    return {engine: {"network": alone[engine], "stages": watches[engine].seconds} for engine in engines}


def give_threads(predictor: Predictor) -> None:
    """All threads to Paddle if it computes the network, else one, as when that predictor is the only one."""
    set_threads(None if predictor.streams == 0 else 1)


@paddle.no_grad()
def seconds_of(function: Callable[[], Any]) -> float:
    """How long a call takes until the device has done its work."""
    synchronize = synchronizer()
    synchronize()
    start = time.perf_counter()
    function()
    synchronize()
    return time.perf_counter() - start


# ------------------------------------------------------------------------------ Many pictures, overlapped


def detect_all(predictor: Predictor, paths: Iterable[str]) -> list[Found]:
    """Detect in all pictures and encode their masks, each stage beside the others, as eval.py does."""
    found: list[Found] = []
    with Behind(lambda instances: found.append(found_of(instances))) as encode:
        for _, _, instances in predictor.detect_many((path, as_image(path)) for path in paths):
            encode(instances)
    return found


def run_bare(predictor: Predictor, inputs: Sequence[np.ndarray]) -> None:
    """Nothing but the network, on as many inputs float32 [1, 3, S, S] at once as it takes."""
    if predictor.streams == 0:
        for images in inputs:
            predictor.network(images)
        return
    with ThreadPoolExecutor(predictor.streams) as threads:
        for _ in threads.map(predictor.network, inputs):
            pass


def time_pass(predictor: Predictor, paths: Sequence[str]) -> tuple[float, float, list[Found]]:
    """One pass over all pictures: seconds of the bare network for them, seconds of everything, what was found."""
    found: list[list[Found]] = []
    inputs = [predictor.transform(as_image(path))[np.newaxis] for path in paths]
    give_threads(predictor)
    settle()
    network_seconds = seconds_of(lambda: run_bare(predictor, inputs))
    settle()
    seconds = seconds_of(lambda: found.append(detect_all(predictor, paths)))
    return network_seconds, seconds, found[0]


def measure_overlapped(predictors: dict[Engine, Predictor], paths: Sequence[str]) -> dict[Engine, dict[str, Any]]:
    """All pictures by every engine as eval.py detects in them, and the bare network on them, in turn.

    Returns: {engine: {"network_seconds", "seconds": of each pass, "found": list of Found}}.
    """
    results: dict[Engine, dict[str, Any]] = {engine: {"network_seconds": [], "seconds": []} for engine in predictors}
    with tqdm(total=PASSES * len(predictors), desc="Many pictures", unit="pass", disable=None) as progress:
        for _ in range(PASSES):
            for engine, predictor in predictors.items():
                network_seconds, seconds, results[engine]["found"] = time_pass(predictor, paths)
                results[engine]["network_seconds"].append(network_seconds)
                results[engine]["seconds"].append(seconds)
                progress.update()
    return results
