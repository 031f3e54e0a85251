"""Networks that tools/export.py has written: read their description and run them, without the network's own code.

A folder of an export holds `yolact.json`, which describes it, and every model for Paddle Inference, as ONNX, or both.
Shapes: B pictures, S the input size in pixels, P priors, C classes with background, K prototypes, N masks, h w of a
mask.
"""
from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import paddle

from utils.download import file_hash
from utils.engines import (
    FASTEST_FIRST,
    MODELS,
    Settings,
    check_installed,
    is_installed,
    usable_precision,
    version_of,
)
from utils.runtime import UserError, set_threads

DESCRIPTION = "yolact.json"
FORMAT, FORMAT_VERSION = "yolact-export", 1
NETWORK, MASKIOU_NET = "network", "maskiou_net"  # the models, and how their files are called
FILES_OF = {"paddle": "paddle", "onnxruntime": "onnx", "openvino": "onnx"}  # the kind of files that a backend reads

# What of a config matters once the network has run (and before it, for the picture), nested with dots.
CONFIG_KEYS = (
    "name", "max_size", "preserve_aspect_ratio", "backbone.transform",
    "dataset.name", "dataset.class_names", "dataset.label_map",
    "use_focal_loss", "use_sigmoid_focal_loss", "use_objectness_score", "use_mask_scoring",
    "nms_top_k", "nms_conf_thresh", "nms_thresh", "max_num_detections",
    "eval_mask_branch", "mask_type", "mask_size", "mask_proto_crop",
    "use_maskiou", "maskiou_net", "rescore_mask", "rescore_bbox",
)


def inference_config(config: Any) -> dict[str, Any]:
    """The part of a config that detecting with an exported network needs.

    Args:
        config: a Config of data/config.py.

    Returns:
        dict of plain values, nested as the config is; `data.config.make_config` makes a whole config of it, in which
        what belongs to the network itself or to training has no meaning.
    """
    everything = config.to_dict()
    part: dict[str, Any] = {}
    for path in CONFIG_KEYS:
        *groups, key = path.split(".")
        source, target = everything, part
        for group in groups:
            source, target = source[group], target.setdefault(group, {})
        target[key] = source[key]
    return part


def hash_of(path: str) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    return file_hash(path, "sha256", bar=False)


class ExportedModel:
    """A model with named outputs.

    Args:
        run: a model of utils.engines. description: of the model, in yolact.json.
    """

    def __init__(self, run: Any, description: Mapping[str, Any]) -> None:
        self.run = run
        self.streams = run.streams
        self.input_shape = list(description["input"]["shape"])
        self.outputs = [output["name"] for output in description["outputs"]]

    def __call__(self, array: np.ndarray) -> dict[str, paddle.Tensor]:
        """Run the model.

        Args:
            array: float32, of the input's shape in the description; the first size is free.

        Returns:
            dict of output name -> paddle.Tensor: for the network that of `Yolact.forward` in evaluation.

        Raises:
            ValueError: the array has another shape.
        """
        array = np.ascontiguousarray(array, np.float32)
        if list(array.shape[1:]) != self.input_shape[1:] or array.ndim != len(self.input_shape) or not len(array):
            raise ValueError(f"the exported model takes {self.input_shape}, not {list(array.shape)}")
        return dict(zip(self.outputs, self.run(array)))


class ExportedMaskIoUNet(ExportedModel):
    """What layers.mask_iou_net.FastMaskIoUNet is to postprocess."""

    def of_class(self, masks: paddle.Tensor, classes: paddle.Tensor) -> paddle.Tensor:
        """Estimated IoU of masks float32 [h, w, N] that show objects of the classes int64 [N], 0-based: float32 [N]."""
        estimates = self(masks.transpose([2, 0, 1]).unsqueeze(1).numpy())[self.outputs[0]]
        return estimates.take_along_axis(classes.unsqueeze(1), axis=1).squeeze(1)


class Exported(NamedTuple):
    """An export that is ready to run.

    path: of its yolact.json, whose hashes tell one export from another. description: what it holds.
    engine: name, version and precision of what runs it, for people.
    network: float32 ndarray [B, 3, S, S] -> dict of tensors (`ExportedModel`).
    maskiou_net: None, or with `of_class` as layers.mask_iou_net.FastMaskIoUNet has.
    """

    path: str
    description: dict[str, Any]
    engine: str
    network: Any
    maskiou_net: Any


def read_description(folder: str) -> dict[str, Any]:
    """What the yolact.json of an export holds.

    Raises:
        UserError: it is missing, damaged, or of a newer format.
    """
    path = os.path.join(folder, DESCRIPTION)
    if not os.path.isdir(folder):
        raise UserError(f"there is no folder {folder}; name one that tools/export.py wrote")
    try:
        with open(path, encoding="utf-8") as file:
            description = json.load(file)
    except FileNotFoundError:
        raise UserError(f"there is no {path}, so this is no folder of tools/export.py, or not all of it") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}); export again") from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise UserError(f"{path} does not describe an export of tools/export.py; export again")
    version = description.get("format_version")
    if type(version) is int and version > FORMAT_VERSION:
        raise UserError(f"{path} was written by a newer version of this code (format {version}, known is "
                        f"{FORMAT_VERSION}); update the code, or export again")
    lacking = [key for key in ("config", "models", "files") if not isinstance(description.get(key), dict)]
    if lacking:
        raise UserError(f"{path} is damaged (it has no {lacking[0]}); export again")
    return description


def _missing_files(folder: str, models: Mapping[str, Any], backend: str) -> list[str] | None:
    """Paths of the files that a backend would need of an export and that are not there; None if it has no such."""
    kind = FILES_OF[backend]
    if not all(kind in model for model in models.values()):
        return None
    paths = [os.path.join(folder, name) for model in models.values() for name in model[kind].values()]
    return [path for path in paths if not os.path.isfile(path)]


def _choose_backend(folder: str, models: Mapping[str, Any], use_gpu: bool) -> str:
    """The fastest of the backends that an export has files for; on a GPU, Paddle if possible."""
    order = FASTEST_FIRST[::-1] if use_gpu else FASTEST_FIRST
    missing = {backend: _missing_files(folder, models, backend) for backend in order}
    whole = [backend for backend in order if missing[backend] == []]
    there = [backend for backend in whole if is_installed(backend)]
    if whole:
        return there[0] if there else whole[-1]
    lacking = [path for paths in missing.values() for path in paths or []]
    if lacking:
        raise UserError(f"there is no {lacking[0]}; copy the whole folder, or export again")
    raise UserError(f"{os.path.join(folder, DESCRIPTION)} is damaged (it names no model); export again")


def _open(folder: str, description: Mapping[str, Any], backend: str, settings: Settings, check_files: bool
          ) -> dict[str, ExportedModel]:
    """The models of an export, by name; their files are checked first, as engines crash on damaged ones."""
    models, kind = description["models"], FILES_OF[backend]
    opened = {}
    for name, model in models.items():
        if kind not in model:
            raise UserError(f"{folder} has no files for {backend}; export it with --format=both, or leave out "
                            "--backend and --precision")
        files = {part: os.path.join(folder, file) for part, file in model[kind].items()}
        for part, path in files.items():
            if check_files and hash_of(path) != description["files"][model[kind][part]]["sha256"]:
                raise UserError(f"{path} is damaged or not of this export (its SHA-256 is not the one in "
                                f"{DESCRIPTION}); copy it again, or export again")
        model_class = ExportedMaskIoUNet if name == MASKIOU_NET else ExportedModel
        opened[name] = model_class(MODELS[backend](files, settings), model)
    return opened


def load_exported(folder: str, use_gpu: bool = False, backend: str = "auto", precision: str = "fp32",
                  streams: int | None = 1, check_files: bool = True) -> Exported:
    """Load what tools/export.py has written.

    Args:
        folder: of the export.
        use_gpu: run on the GPU that is Paddle's current device; False: on the CPU.
        backend: of utils.engines.BACKENDS; "auto": the fastest that is installed and that the folder has files for.
        precision, streams: as utils.engines.Settings.
        check_files: compare the files' hashes with the description's first; False where that has just been done.

    Returns:
        Exported.

    Raises:
        UserError: the folder is not a whole export, or the engine is missing or cannot read it.
    """
    description = read_description(folder)
    try:
        if use_gpu and precision != "fp32" and backend != "openvino":
            raise UserError(f"an export has no --precision={precision} on a GPU; take --trained_model, or "
                            "--cuda=False with OpenVINO")
        if not use_gpu:
            backend, precision = usable_precision(backend, precision)
        if backend == "auto":
            backend = _choose_backend(folder, description["models"], use_gpu)
        check_installed(backend)
        settings = Settings(use_gpu, set_threads(), precision, streams)
        models = _open(folder, description, backend, settings, check_files)
        engine = f"{version_of(backend)}, {precision}" + ", GPU" * (use_gpu and backend != "openvino")
        return Exported(os.path.join(folder, DESCRIPTION), description, engine, models[NETWORK],
                        models.get(MASKIOU_NET))
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{os.path.join(folder, DESCRIPTION)} is damaged ({type(error).__name__}: {error}); "
                        "export again") from error
