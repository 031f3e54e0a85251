"""The engines that run an exported network: Paddle Inference, onnxruntime and OpenVINO.

A model takes a float32 ndarray and gives a list of paddle.Tensor, from any thread. Only Paddle is always there; the
other engines are imported when one of their models is made.
"""
from __future__ import annotations

import functools
import importlib
import logging
import platform
import queue
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import paddle
from paddle import inference

from utils.runtime import UserError

BACKENDS = ("paddle", "onnxruntime", "openvino")
FASTEST_FIRST = ("openvino", "onnxruntime", "paddle")  # on a CPU, as tools/benchmark.py measured
OPENVINO_PRECISIONS = {"fp32": "f32", "bf16": "bf16"}  # ours, and what OpenVINO calls them
PRECISIONS = tuple(OPENVINO_PRECISIONS)
PADDLE_2 = paddle.__version__[:2] == "2."
GPU_MEMORY_MIB = 500  # that Paddle Inference takes at the start; it takes more when it needs it
INSTALL = "pip install -r requirements-fast.txt"


class Settings(NamedTuple):
    """How a model runs.

    use_gpu: on the GPU that is Paddle's current device. threads: of the CPU. precision: of PRECISIONS.
    streams: pictures that an engine works on at once: 1 for the least time of each, None for the most in a second.
    """

    use_gpu: bool = False
    threads: int = 1
    precision: str = "fp32"
    streams: int | None = 1


def telling_line(error: object) -> str:
    """The line of a library's error, or of its output, that says most: the first that speaks of an error, or the first.

    Paddle's messages end in it, or begin with it; OpenVINO's begin with the places in its sources.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("Exception from")] or lines
    told = [line for line in lines if "error" in line.lower()] or lines or [type(error).__name__]
    return told[0]


def is_installed(backend: str) -> bool:
    """Whether a backend of BACKENDS can be imported."""
    try:
        importlib.import_module(backend)
    except ImportError:
        return False
    return True


def check_installed(backend: str) -> None:
    """Refuse a backend that is not there.

    Raises:
        UserError: names what to install.
    """
    if not is_installed(backend):
        raise UserError(f"{backend} is not installed; {INSTALL}")


def has_bf16() -> bool:
    """Whether this processor computes in bfloat16, by OpenVINO's account."""
    return "BF16" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@functools.cache
def openvino_core() -> Any:
    """OpenVINO's one core of this process, which knows deformable convolution.

    One, which stays: each sets the stack that signals are handled on, and when of two the first goes first, Ctrl-C
    crashes the process.
    """
    import openvino
    from openvino.frontend.onnx import ConversionExtension

    # Its binding sets numpy up at the first array, and hangs for good if two threads are the first.
    openvino.Tensor(np.zeros(1, np.float32)).data.copy()
    core = openvino.Core()
    core.add_extension(ConversionExtension("DeformConv", convert_deformable))
    return core


def usable_precision(backend: str, precision: str) -> tuple[str, str]:
    """The backend of a CPU that computes in a precision, and the precision.

    Args:
        backend: of BACKENDS, or "auto".

    Returns: (backend, precision): OpenVINO for bf16; fp32, with a warning, on a processor without bf16 units.

    Raises:
        UserError: the backend has no bf16, or OpenVINO is not installed.
    """
    if precision == "fp32":
        return backend, precision
    if backend not in ("auto", "openvino"):
        raise UserError(f"{backend} has no --precision={precision} on a CPU; use --backend=openvino, or leave it out")
    check_installed("openvino")
    if not has_bf16():
        logging.warning("this processor (%s) has no bf16 units, so the network runs in fp32", processor())
        return "openvino", "fp32"
    return "openvino", precision


def processor() -> str:
    """The processor's name."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def version_of(backend: str) -> str:
    """A backend's name and version, for people."""
    names = {"paddle": "Paddle", "onnxruntime": "onnxruntime", "openvino": "OpenVINO"}
    module = paddle if backend == "paddle" else importlib.import_module(backend)
    return f"{names[backend]} {module.__version__.partition('-')[0]}"


class PaddleModel:
    """One model in Paddle Inference.

    Args:
        files: {"model", "params"}, paths. settings: Settings; there is but one precision and one stream.

    Attributes:
        streams: pictures that it works on at once.

    Raises:
        UserError: this Paddle cannot read it.
    """

    streams = 1

    def __init__(self, files: Mapping[str, str], settings: Settings) -> None:
        path = files["model"]
        if path.endswith(".json") and PADDLE_2:
            raise UserError(f"{path} was written by PaddlePaddle 3, which {paddle.__version__} cannot read; use 3.0 or "
                            "newer, or export again with this version")
        config = inference.Config(path, files["params"])
        config.disable_glog_info()
        if settings.use_gpu:
            device = paddle.device.get_device().partition(":")[2]
            config.enable_use_gpu(GPU_MEMORY_MIB, int(device or 0))
        else:
            config.disable_gpu()
            # On in Paddle 3, where it fails on bilinear interpolation, and on some products is silently wrong.
            config.disable_mkldnn()
            config.set_cpu_math_library_num_threads(settings.threads)
        try:
            self.predictor = inference.create_predictor(config)
        except Exception as error:  # Paddle's errors have no class in common
            raise UserError(f"PaddlePaddle {paddle.__version__} cannot read {path} ({telling_line(error)}); use the "
                            "version that yolact.json names, or export again") from error

    def __call__(self, array: np.ndarray) -> list[paddle.Tensor]:
        """float32 ndarray -> list of tensors, in the order of the description."""
        handle = self.predictor.get_input_handle(self.predictor.get_input_names()[0])
        handle.reshape(array.shape)
        handle.copy_from_cpu(array)
        self.predictor.run()
        return [paddle.to_tensor(self.predictor.get_output_handle(name).copy_to_cpu())
                for name in self.predictor.get_output_names()]


class OnnxRuntimeModel:
    """One model in onnxruntime. Arguments, attributes and errors as `PaddleModel`; files: {"model"}."""

    streams = 1

    def __init__(self, files: Mapping[str, str], settings: Settings) -> None:
        import onnxruntime

        path = files["model"]
        providers = ["CPUExecutionProvider"]
        if settings.use_gpu and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            providers.insert(0, "CUDAExecutionProvider")
        elif settings.use_gpu:
            logging.warning("this onnxruntime cannot use a GPU (onnxruntime-gpu can); it runs on the CPU")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = settings.threads
        options.log_severity_level = 3  # errors
        # Its threads sleep between pictures, when others have work to do.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self.session = onnxruntime.InferenceSession(path, options, providers=providers)
        except Exception as error:  # onnxruntime's errors have no class in common
            raise UserError(f"onnxruntime {onnxruntime.__version__} cannot read {path} ({telling_line(error)}); "
                            "use a newer one, or export again") from error

    def __call__(self, array: np.ndarray) -> list[paddle.Tensor]:
        """float32 ndarray -> list of tensors, in the order of the description."""
        outputs = self.session.run(None, {self.session.get_inputs()[0].name: array})
        return [paddle.to_tensor(output) for output in outputs]


class OpenVinoModel:
    """One model in OpenVINO, on the CPU. Arguments, attributes and errors as `OnnxRuntimeModel`."""

    def __init__(self, files: Mapping[str, str], settings: Settings) -> None:
        path, core = files["model"], openvino_core()
        options = {"INFERENCE_NUM_THREADS": settings.threads,
                   "INFERENCE_PRECISION_HINT": OPENVINO_PRECISIONS[settings.precision],
                   "PERFORMANCE_HINT": "LATENCY" if settings.streams == 1 else "THROUGHPUT"}
        try:
            compiled = core.compile_model(core.read_model(path), "CPU", options)
        except Exception as error:  # OpenVINO's errors have no class in common
            raise UserError(f"{version_of('openvino')} cannot read {path} ({telling_line(error)}); use another "
                            "--backend") from error
        self.streams = 1 if settings.streams == 1 else compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        self.free: queue.SimpleQueue[Any] = queue.SimpleQueue()  # infer requests that nobody uses
        for _ in range(self.streams):
            self.free.put(compiled.create_infer_request())

    def __call__(self, array: np.ndarray) -> list[paddle.Tensor]:
        """float32 ndarray -> list of tensors, in the order of the description."""
        request = self.free.get()
        try:
            outputs = request.infer([array], share_inputs=True, share_outputs=True)
            return [paddle.to_tensor(output) for output in outputs.values()]  # a copy: the next call overwrites them
        finally:
            self.free.put(request)


def convert_deformable(node: Any) -> Any:
    """ONNX's DeformConv in OpenVINO's operators, as its reader of ONNX has no rule for it.

    Args:
        node: openvino.frontend.NodeContext; inputs x, weight, offset, and where there are any bias and mask.

    Returns: its outputs.
    """
    from openvino import opset8

    inputs = [node.get_input(number) for number in range(node.get_input_size())]
    pads = node.get_attribute("pads", [0, 0, 0, 0])
    x, weight, offset = inputs[:3]
    found = opset8.deformable_convolution(
        x, offset, weight, node.get_attribute("strides", [1, 1]), pads[:2], pads[2:],
        node.get_attribute("dilations", [1, 1]), inputs[4] if len(inputs) > 4 else None, "EXPLICIT",
        node.get_attribute("group", 1), node.get_attribute("offset_group", 1), bilinear_interpolation_pad=True)
    if len(inputs) > 3:
        found = opset8.add(found, opset8.reshape(inputs[3], opset8.constant(np.array([1, -1, 1, 1])), False))
    return found.outputs()


MODELS = {"paddle": PaddleModel, "onnxruntime": OnnxRuntimeModel, "openvino": OpenVinoModel}
