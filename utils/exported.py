"""Networks that tools/export.py has written: read their description and run them, without the network's own code.

A folder of an export holds `yolact.json`, which describes it, and every model for Paddle Inference, as ONNX, or both.
Shapes: B pictures, S the input size in pixels, P priors, C classes with background, K prototypes, N masks, h w of a
mask.
"""
from __future__ import annotations

import hashlib
import json
import logging
import os
from typing import Any, NamedTuple

import numpy as np
import paddle
from paddle import inference

from utils.runtime import UserError, set_threads

DESCRIPTION = "yolact.json"
FORMAT, FORMAT_VERSION = "yolact-export", 1
ENGINES = ("paddle", "onnx")  # the first of them that a folder has is used
NETWORK, MASKIOU_NET = "network", "maskiou_net"  # the models, and how their files are called
PADDLE_2 = paddle.__version__[:2] == "2."
GPU_MEMORY_MIB = 500  # that Paddle Inference takes at the start; it takes more when it needs it

# What of a config matters once the network has run (and before it, for the picture), nested with dots.
CONFIG_KEYS = (
    "name", "max_size", "preserve_aspect_ratio", "backbone.transform",
    "dataset.name", "dataset.class_names", "dataset.label_map",
    "use_focal_loss", "use_sigmoid_focal_loss", "use_objectness_score", "use_mask_scoring",
    "nms_top_k", "nms_conf_thresh", "nms_thresh", "max_num_detections",
    "eval_mask_branch", "mask_type", "mask_size", "mask_proto_crop",
    "use_maskiou", "maskiou_net", "rescore_mask", "rescore_bbox",
)


def inference_config(config):
    """The part of a config that detecting with an exported network needs.

    Args:
        config: a Config of data/config.py.

    Returns:
        dict of plain values, nested as the config is; `data.config.make_config` makes a whole config of it, in which
        what belongs to the network itself or to training has no meaning.
    """
    everything, part = config.to_dict(), {}
    for path in CONFIG_KEYS:
        *groups, key = path.split(".")
        source, target = everything, part
        for group in groups:
            source, target = source[group], target.setdefault(group, {})
        target[key] = source[key]
    return part


def hash_of(path):
    """SHA-256 of a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def first_line(error):
    """The line of a library's error that says most: Paddle's messages end in it, or begin with it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if "error" in line.lower()] or lines or [type(error).__name__]
    return told[0]


class PaddleModel:
    """One model in Paddle Inference.

    Args:
        folder: of the export. files: {"model", "params"}, names in it.
        use_gpu: run on Paddle's current GPU. threads: of the CPU.
    Raises:
        UserError: this Paddle cannot read it.
    """

    def __init__(self, folder, files, use_gpu, threads):
        path = os.path.join(folder, files["model"])
        if path.endswith(".json") and PADDLE_2:
            raise UserError(f"{path} was written by PaddlePaddle 3, which {paddle.__version__} cannot read; use 3.0 or "
                            "newer, or export again with this version")
        config = inference.Config(path, os.path.join(folder, files["params"]))
        config.disable_glog_info()
        if use_gpu:
            device = paddle.device.get_device().partition(":")[2]
            config.enable_use_gpu(GPU_MEMORY_MIB, int(device or 0))
        else:
            config.disable_gpu()
            # On in Paddle 3, where it fails on bilinear interpolation, and on some products is silently wrong.
            config.disable_mkldnn()
            config.set_cpu_math_library_num_threads(threads)
        try:
            self.predictor = inference.create_predictor(config)
        except Exception as error:  # Paddle's errors have no class in common
            raise UserError(f"PaddlePaddle {paddle.__version__} cannot read {path} ({first_line(error)}); use the "
                            f"version that {DESCRIPTION} names, or export again") from error

    def __call__(self, array):
        """float32 ndarray -> list of ndarrays, in the order of the description."""
        handle = self.predictor.get_input_handle(self.predictor.get_input_names()[0])
        handle.reshape(array.shape)
        handle.copy_from_cpu(array)
        self.predictor.run()
        return [self.predictor.get_output_handle(name).copy_to_cpu() for name in self.predictor.get_output_names()]


class OnnxModel:
    """One model in onnxruntime. Arguments and errors as `PaddleModel`; files: {"model"}."""

    def __init__(self, folder, files, use_gpu, threads):
        path = os.path.join(folder, files["model"])
        try:
            import onnxruntime
        except ImportError as error:
            raise UserError(f"{path} needs onnxruntime, which cannot be imported ({error}); "
                            "pip install onnxruntime") from error
        providers = ["CPUExecutionProvider"]
        if use_gpu and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            providers.insert(0, "CUDAExecutionProvider")
        elif use_gpu:
            logging.warning("this onnxruntime cannot use a GPU (onnxruntime-gpu can); it runs on the CPU")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors
        try:
            self.session = onnxruntime.InferenceSession(path, options, providers=providers)
        except Exception as error:  # onnxruntime's errors have no class in common
            raise UserError(f"onnxruntime {onnxruntime.__version__} cannot read {path} ({first_line(error)}); "
                            "use a newer one, or export again") from error

    def __call__(self, array):
        """float32 ndarray -> list of ndarrays, in the order of the description."""
        return self.session.run(None, {self.session.get_inputs()[0].name: array})


class ExportedModel:
    """A model with named outputs.

    Args:
        run: PaddleModel or OnnxModel. description: of the model, in yolact.json.
    """

    def __init__(self, run, description):
        self.run = run
        self.input_shape = list(description["input"]["shape"])
        self.outputs = [output["name"] for output in description["outputs"]]

    def __call__(self, array):
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
        return {name: paddle.to_tensor(output) for name, output in zip(self.outputs, self.run(array))}


class ExportedMaskIoUNet(ExportedModel):
    """What layers.mask_iou_net.FastMaskIoUNet is to postprocess."""

    def of_class(self, masks, classes):
        """Estimated IoU of masks [h, w, N] that show objects of the classes int64 [N], 0-based -> [N]."""
        estimates = self(masks.transpose([2, 0, 1]).unsqueeze(1).numpy())[self.outputs[0]]
        return estimates.take_along_axis(classes.unsqueeze(1), axis=1).squeeze(1)


class Exported(NamedTuple):
    """An export that is ready to run.

    path: of its yolact.json, whose hashes tell one export from another. description: what it holds.
    network: float32 ndarray [B, 3, S, S] -> dict of tensors (`ExportedModel`).
    maskiou_net: None, or with `of_class` as layers.mask_iou_net.FastMaskIoUNet has.
    """

    path: str
    description: dict[str, Any]
    network: Any
    maskiou_net: Any


def read_description(folder):
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
    except (OSError, ValueError) as error:
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


def _choose_engine(folder, models):
    """The first engine that all models have files for."""
    missing = []
    for engine in ENGINES:
        if all(engine in model for model in models.values()):
            files = [os.path.join(folder, name) for model in models.values() for name in model[engine].values()]
            lacking = [path for path in files if not os.path.isfile(path)]
            if not lacking:
                return engine
            missing += lacking
    raise UserError(f"there is no {missing[0]}; copy the whole folder, or export again" if missing else
                    f"{os.path.join(folder, DESCRIPTION)} is damaged (it names no model); export again")


def _open(folder, description, engine, use_gpu, threads):
    """The models of an export, by name; their files are checked first, as engines crash on damaged ones."""
    models = description["models"]
    engine = engine or _choose_engine(folder, models)
    runner = {"paddle": PaddleModel, "onnx": OnnxModel}[engine]
    for name in [name for model in models.values() for name in model[engine].values()]:
        path = os.path.join(folder, name)
        if hash_of(path) != description["files"][name]["sha256"]:
            raise UserError(f"{path} is damaged or not of this export (its SHA-256 is not the one in {DESCRIPTION}); "
                            "copy it again, or export again")
    return {name: (ExportedMaskIoUNet if name == MASKIOU_NET else ExportedModel)(
        runner(folder, model[engine], use_gpu, threads), model) for name, model in models.items()}


def load_exported(folder, use_gpu=False, threads=None, engine=None):
    """Load what tools/export.py has written.

    Args:
        folder: of the export.
        use_gpu: run on the GPU that is Paddle's current device; False: on the CPU.
        threads: of the CPU; None: what `utils.runtime.set_threads` chooses.
        engine: "paddle" (Paddle Inference) or "onnx" (onnxruntime); None: the first of them that the folder has.

    Returns:
        Exported.

    Raises:
        UserError: the folder is not a whole export, or the engine is missing or cannot read it.
    """
    description = read_description(folder)
    try:
        models = _open(folder, description, engine, use_gpu, threads or set_threads())
        return Exported(os.path.join(folder, DESCRIPTION), description, models[NETWORK], models.get(MASKIOU_NET))
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{os.path.join(folder, DESCRIPTION)} is damaged ({type(error).__name__}: {error}); "
                        "export again") from error
