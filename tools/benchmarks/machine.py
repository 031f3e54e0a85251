"""How fast the machine that tools/benchmark.py measures on multiplies matrices at best."""
from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Callable

import numpy as np
import paddle

from tools.benchmarks.clock import settle, synchronizer
from utils.engines import OPENVINO_PRECISIONS, is_installed, openvino_core

SIDE, GPU_SIDE = 2048, 8192  # of the matrices: large enough for every library's best
ROUNDS, PRODUCTS = 5, 3  # so many turns of each library, and products in each; the best one counts


def _openvino_product(left: np.ndarray, right: np.ndarray, precision: str, threads: int) -> Callable[[], Any]:
    """A function that runs an OpenVINO model of one MatMul; `right` is its weight, as in a network."""
    import openvino
    from openvino import opset13 as operators

    # Computed from a parameter, so that the product cannot be folded into a constant.
    parameter = operators.parameter(list(left.shape), np.float32)
    product = operators.matmul(parameter, operators.constant(right), False, False)
    compiled = openvino_core().compile_model(openvino.Model([product], [parameter]), "CPU", {
        "INFERENCE_PRECISION_HINT": OPENVINO_PRECISIONS[precision], "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads})
    request = compiled.create_infer_request()
    request.set_input_tensor(openvino.Tensor(left))
    return request.infer


def products(on_gpu: bool, precisions: Sequence[str], threads: int,
             side: int) -> dict[tuple[str, str], Callable[[], Any]]:
    """{(precision, library): a function that multiplies two float32 matrices [side, side] once}, of this machine."""
    rng = np.random.RandomState(0)
    left, right = (rng.standard_normal((side, side)).astype(np.float32) for _ in range(2))
    tensors = paddle.to_tensor(left), paddle.to_tensor(right)
    found: dict[tuple[str, str], Callable[[], Any]] = {("fp32", "Paddle"): lambda: paddle.matmul(*tensors)}
    if on_gpu:
        halves = [tensor.astype("bfloat16") for tensor in tensors]
        found["bf16", "Paddle"] = lambda: paddle.matmul(*halves)
    else:
        found["fp32", "numpy"] = lambda: left @ right
        if is_installed("openvino"):
            found.update({(precision, "OpenVINO"): _openvino_product(left, right, precision, threads)
                          for precision in precisions})
    return {key: product for key, product in found.items() if key[0] in precisions}


def measure_ceilings(on_gpu: bool, precisions: Sequence[str], threads: int) -> dict[str, Any]:
    """The most arithmetic a second that a library's matrix product reaches.

    Args:
        on_gpu: whether Paddle computes on a GPU; numpy and OpenVINO do not. threads: of the CPU.
        precisions: "fp32", "bf16"; one that no library here has is left out.

    Returns: {precision: {"gflops": 1e9 multiplications and additions a second, "library": the fastest one,
        "of_libraries": {library: gflops}}}.
    """
    synchronize, side = synchronizer(), GPU_SIDE if on_gpu else SIDE
    best: dict[tuple[str, str], float] = {}
    contenders = products(on_gpu, precisions, threads, side)
    for key, product in [*contenders.items()] * ROUNDS:  # in turn, so that other programs slow them alike
        settle()
        for _ in range(PRODUCTS):
            synchronize()
            start = time.perf_counter()
            product()
            synchronize()
            best[key] = min(best.get(key, np.inf), time.perf_counter() - start)
    ceilings: dict[str, Any] = {}
    for (precision, library), seconds in best.items():
        speeds = ceilings.setdefault(precision, {"of_libraries": {}})["of_libraries"]
        speeds[library] = 2 * side ** 3 / seconds / 1e9
    for found in ceilings.values():
        found["library"] = max(found["of_libraries"], key=found["of_libraries"].get)
        found["gflops"] = found["of_libraries"][found["library"]]
    return ceilings
