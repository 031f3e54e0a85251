"""From a model for Paddle Inference to an ONNX file, by paddle2onnx."""
from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import paddle

from utils.engines import PADDLE_2, is_installed, telling_line
from utils.runtime import UserError

OPSET, DEFORMABLE_OPSET = 16, 19  # the first with deformable convolution
DEFORMABLE_ONNXRUNTIME = (1, 25)  # the first that has it on the CPU
ENGINES = ("onnxruntime", "openvino")
PADDLE2ONNX = "paddle2onnx==1.3.1" if PADDLE_2 else "paddle2onnx>=2.1.0"  # that reads this Paddle's models
# In a process of its own, as paddle2onnx aborts on what it cannot convert; it also installs packages unless it is told
# to optimise nothing.
CONVERT = """
import inspect, sys
import paddle2onnx
options = {"optimize_tool": "None"} if "optimize_tool" in inspect.signature(paddle2onnx.export).parameters else {}
paddle2onnx.export(*sys.argv[1:4], opset_version=int(sys.argv[4]), **options)
"""


def check_packages() -> None:
    """Refuse ONNX without its packages, or with a paddle2onnx that cannot read this Paddle's models.

    Raises:
        UserError: names the versions that fit.
    """
    wrong = [f"{package} is not installed" for package in ("paddle2onnx", "onnx")
             if importlib.util.find_spec(package) is None]
    if not wrong:
        version = importlib.metadata.version("paddle2onnx")
        major_minor = tuple(map(int, version.split(".")[:2]))
        if not (major_minor < (2, 0) if PADDLE_2 else major_minor >= (2, 1)):
            wrong = [f"paddle2onnx is {version}"]
    if not any(map(is_installed, ENGINES)):
        wrong.append("neither openvino nor onnxruntime is installed")
    if wrong:
        raise UserError(f"ONNX needs {PADDLE2ONNX} (with PaddlePaddle {paddle.__version__}), onnx, and openvino or "
                        f"onnxruntime, but {', '.join(wrong)}; pip install '{PADDLE2ONNX}' onnx openvino onnxruntime, "
                        "or use Paddle (--format=paddle, --backend=paddle)")


def check_deformable() -> None:
    """Refuse deformable convolutions where they cannot be converted, or not be run for the comparison.

    Raises:
        UserError: names the versions that can.
    """
    if PADDLE_2:
        raise UserError(f"deformable convolution needs opset {DEFORMABLE_OPSET} of ONNX, which {PADDLE2ONNX} does "
                        "not have; use PaddlePaddle 3.0 or newer, or Paddle itself (--format=paddle, "
                        "--backend=paddle)")
    if not engines_for(deformable=True):
        raise UserError("deformable convolution needs openvino, or onnxruntime 1.25 or newer (on Python 3.11 or "
                        "newer), and neither is installed; pip install openvino, or use Paddle (--format=paddle, "
                        "--backend=paddle)")


def engines_for(deformable: bool) -> list[str]:
    """The installed engines that run ONNX files. deformable: with deformable convolutions in them."""
    there = [engine for engine in ENGINES if is_installed(engine)]
    if deformable and "onnxruntime" in there:
        version = importlib.metadata.version("onnxruntime")
        if tuple(map(int, version.split(".")[:2])) < DEFORMABLE_ONNXRUNTIME:
            there.remove("onnxruntime")
    return there


def write_onnx(folder: str, files: Mapping[str, str], model: Mapping[str, Any], opset: int) -> dict[str, str]:
    """Convert a model that `write_paddle` wrote.

    Args:
        folder: where its files lie, and where this goes. files: what it returned.
        model: the description, for names and shapes. opset: version of ONNX's operators.

    Returns: {"model"}, the file's name.
    Raises:
        UserError: paddle2onnx cannot convert it.
    """
    name = os.path.splitext(files["model"])[0] + ".onnx"
    paths = [os.path.join(folder, part) for part in (files["model"], files["params"], name)]
    done = subprocess.run([sys.executable, "-c", CONVERT, *paths, str(opset)], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace", check=False)
    if done.returncode != 0:
        words = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
        raise UserError(f"paddle2onnx {importlib.metadata.version('paddle2onnx')} cannot convert the {name[:-5]} "
                        f"({telling_line(words)}); --format=paddle does without")
    tidy_onnx(paths[-1], model)
    return {"model": name}


def tidy_onnx(path: str, model: Mapping[str, Any]) -> None:
    """Give the outputs of an ONNX file their names, and inputs and outputs the sizes that are known."""
    import onnx

    content = onnx.load(path)
    graph = content.graph
    names = {output.name: described["name"] for output, described in zip(graph.output, model["outputs"])}
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    del graph.value_info[:]
    for values, described in ((graph.input, [model["input"]]), (graph.output, model["outputs"])):
        del values[:]
        values.extend(onnx.helper.make_tensor_value_info(part["name"], onnx.TensorProto.FLOAT, part["shape"])
                      for part in described)
    onnx.checker.check_model(content)
    onnx.save(content, path)
