"""Write a network for other engines: as static graphs of Paddle, as ONNX, described in a JSON file and verified.

tools/export.py is the command; utils/networks.py keeps what the faster engines run beside the weights.
Shapes: B pictures, S the input size in pixels, N masks, h w of a mask.
"""
from __future__ import annotations

import importlib.metadata
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Callable

import numpy as np
import paddle
from paddle import nn

from backbone import DeformableConv2D
from data.config import MEANS, STD, Config
from layers.box_utils import VARIANCES
from utils.augmentations import Normalize
from utils.config_differences import NETWORK_KEYS, flat_config
from utils.engines import PADDLE_2, processor, telling_line, version_of
from utils.exported import (
    DESCRIPTION,
    FORMAT,
    FORMAT_VERSION,
    MASKIOU_NET,
    NETWORK,
    hash_of,
    inference_config,
    read_description,
)
from utils.files import atomic_folder, atomic_path
from utils.onnx_files import DEFORMABLE_OPSET, OPSET, check_deformable, write_onnx
from utils.runtime import UserError
from utils.verification import TOLERANCES, Cases, reference_cases, verify

MODEL_FILES = {DESCRIPTION, *(model + suffix for model in (NETWORK, MASKIOU_NET) for suffix in (
    ".onnx", ".json", ".pdmodel", ".pdiparams", ".pdiparams.info"))}
# Of the keys that matter to weights, those that the graph depends on; the others are of the detection.
GRAPH_KEYS = ("eval_mask_branch", *(key for key in NETWORK_KEYS if not key.startswith(
    ("nms_", "max_num_detections", "rescore_"))))
CLASS_SCORES = {
    "ohem": "softmax over the classes",
    "focal": "softmax over the classes",
    "sigmoid": "sigmoid of each class",
    "objectness": "sigmoid of the first, times the softmax over the others",
}
MEANINGS = {
    "loc": "box offsets against the priors: centre = prior centre + offset * variance 0 * prior size, "
           "size = prior size * exp(offset * variance 1)",
    "conf": "class logits, background first",
    "mask": "mask coefficients",
    "priors": "centre x, centre y, width and height, relative 0..1",
    "proto": "prototypes: a mask is sigmoid(prototypes . coefficients), cropped to its box if mask_proto_crop",
    "score": "logits of the mask's IoU: their sigmoid multiplies the class scores",
    "iou": "estimated IoU of each mask with an object of each class, without background; it multiplies the score",
}


def check_replaceable(folder: str, remedy: str) -> None:
    """Refuse a folder that holds what no export wrote, as an export replaces it.

    Args:
        remedy: what to do about it, for the message.

    Raises:
        UserError: names what is in the way.
    """
    if os.path.isdir(folder):
        try:
            known = {DESCRIPTION, *read_description(folder)["files"]}
        except UserError:
            known = MODEL_FILES if os.path.isfile(os.path.join(folder, DESCRIPTION)) else set()
        strange = sorted(set(os.listdir(folder)) - known)
        if strange:
            raise UserError(f"{folder} holds {strange[0]}, which is of no export; {remedy}")
    elif os.path.lexists(folder):
        raise UserError(f"{folder} is a file; {remedy}")


def check_fixed_shape(config: Config, remedy: str) -> None:
    """Refuse networks whose input has no fixed shape.

    Args:
        remedy: what to do about it, for the message.

    Raises:
        UserError: names the reason.
    """
    if config.preserve_aspect_ratio:
        raise UserError("with preserve_aspect_ratio the input has no fixed shape and the priors depend on it, which a "
                        f"fixed graph cannot follow; {remedy}")


def is_deformable(net: nn.Layer) -> bool:
    """Whether a network has deformable convolutions."""
    return any(isinstance(layer, DeformableConv2D) for layer in net.sublayers())


class NetworkOutputs(nn.Layer):
    """The network with its outputs as a tuple in a fixed order, as static graphs want it.

    Args:
        net: Yolact that has run once, so that it keeps the priors. out: its outputs then, for names and priors.
    """

    def __init__(self, net: nn.Layer, out: Mapping[str, paddle.Tensor]) -> None:
        super().__init__()
        self.net = net
        self.names = list(out)
        self.register_buffer("priors", out["priors"])  # the very tensor that the network keeps, to be saved as it is

    def forward(self, images: paddle.Tensor) -> tuple[paddle.Tensor, ...]:
        """The outputs of `Yolact.forward` for float32 [B, 3, S, S], in the order of `names`."""
        out = self.net(images)
        return tuple(out[name] for name in self.names)


def write_paddle(layer: nn.Layer, folder: str, name: str, input_name: str, shape: Sequence[int]) -> dict[str, str]:
    """Write a layer for Paddle Inference. shape: of the input, its first size is left open.

    Returns: {"model", "params"}, the files' names.
    Raises:
        UserError: Paddle cannot make a static graph of it.
    """
    spec = paddle.static.InputSpec([None, *shape[1:]], "float32", input_name)
    try:
        paddle.jit.save(layer, os.path.join(folder, name), input_spec=[spec])
    except OSError:
        raise
    except Exception as error:  # Paddle's errors have no class in common
        raise UserError(f"PaddlePaddle {paddle.__version__} cannot make a static graph of the {name} "
                        f"({telling_line(error)})") from error
    suffix = ".pdmodel" if PADDLE_2 else ".json"
    if PADDLE_2:
        remove_sources(os.path.join(folder, name + suffix))
    return {"model": name + suffix, "params": name + ".pdiparams"}


def remove_sources(path: str) -> None:
    """Remove from a .pdmodel where in which source file each operator was made: names of folders of this machine."""
    with open(path, "rb") as file:
        program = paddle.base.core.ProgramDesc(file.read())
    for block in map(program.block, range(program.num_blocks())):
        for operator in map(block.op, range(block.op_size())):
            if operator.has_attr("op_callstack"):
                operator.remove_attr("op_callstack")
    with open(path, "wb") as file:
        file.write(program.serialize_to_string())


# --- the description --------------------------------------------------------------------------------------------


def network_config(config: Config) -> dict[str, Any]:
    """What of a config shapes the network: dict of dotted key -> value."""
    return {key: value for key, value in flat_config(config.to_dict()).items() if key.startswith(GRAPH_KEYS)}


def describe_model(input_name: str, input_shape: Sequence[int], out: Mapping[str, Any], free: str) -> dict[str, Any]:
    """Input and outputs of a model, without its files.

    Args:
        out: its outputs, dict of arrays. free: what the first size stands for, "batch" or "masks".
    """
    def part(name: str, shape: Sequence[int]) -> dict[str, Any]:
        return {"name": name, "shape": list(shape) if name == "priors" else [free, *shape[1:]]}

    meanings = dict(MEANINGS)
    if "mask" in out and "proto" not in out:
        meanings["mask"] = "with mask_type 'direct' masks of mask_size x mask_size, which fill their boxes; else unused"
    return {"input": part(input_name, input_shape),
            "outputs": [{**part(name, array.shape), "meaning": meanings[name]} for name, array in out.items()]}


def describe(config: Config, weights: str, models: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """Everything that yolact.json holds, but for how the models were verified.

    Args:
        config: Config. weights: path. models: dict name -> description with files. folder: where the files lie.
    """
    normalize = Normalize(config.backbone.transform, MEANS, STD)
    part = inference_config(config)
    detection = {key: part[key] for key in ("nms_top_k", "nms_conf_thresh", "nms_thresh", "max_num_detections",
                                            "mask_type", "mask_proto_crop", "rescore_mask", "rescore_bbox")}
    versions = {"paddle": paddle.__version__}
    if any("onnx" in model for model in models.values()):
        versions["paddle2onnx"] = importlib.metadata.version("paddle2onnx")
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "name": config.name,
        "class_names": part["dataset"]["class_names"],
        "label_map": part["dataset"]["label_map"],
        "picture": {
            "size": [config.max_size, config.max_size],
            "resize": "to that height and width whatever the aspect ratio, bilinear, without anti-aliasing, in float32",
            "channel_order": config.backbone.transform.channel_order,
            "means": [round(float(normalize.means[channel]), 4) for channel in normalize.source],
            "std": [round(float(normalize.divisors[channel]), 4) for channel in normalize.source],
            "values": "(0..255 - means) / std, in the channel order",
        },
        "models": models,
        "detection": {"class_scores": CLASS_SCORES[config.conf_mode], "variances": list(VARIANCES), **detection,
                      "mask_threshold": 0.5},
        "config": part,
        "weights": {"file": os.path.basename(weights), "sha256": hash_of(weights)},
        "network": network_config(config),
        "files": {name: {"bytes": os.path.getsize(os.path.join(folder, name)),
                         "sha256": hash_of(os.path.join(folder, name))} for name in sorted(os.listdir(folder))
                  if name != DESCRIPTION},
        "versions": versions,
    }


def write_description(folder: str, description: Mapping[str, Any]) -> None:
    """Write yolact.json, to be read by people too: a list of numbers or names is one line."""
    text = json.dumps(description, indent=1, ensure_ascii=False)
    text = re.sub(r"\[[^\[\]{}]*\]", lambda found: re.sub(r"\n *", "", found[0].replace(",\n", ", \n")), text)
    with atomic_path(os.path.join(folder, DESCRIPTION)) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(text + "\n")


# --- all of it --------------------------------------------------------------------------------------------------


def write_models(net: nn.Layer, cases: Cases, folder: str, formats: Sequence[str], tell: Callable[[str], Any]
                 ) -> dict[str, dict[str, Any]]:
    """Write the models of a network.

    Args:
        net: Yolact. cases: of `reference_cases`. folder: to write into. formats: kinds of files, "paddle" and "onnx".
        tell: gets lines of text.

    Returns:
        dict model -> description, with the files of each format.
    """
    opset = DEFORMABLE_OPSET if is_deformable(net) else OPSET
    layers = {NETWORK: (NetworkOutputs(net, cases[NETWORK][1]), "images", "batch"),
              MASKIOU_NET: (net.maskiou_net, "masks", "masks")}
    models = {}
    for name, (array, out) in cases.items():
        layer, input_name, free = layers[name]
        layer.eval()
        model = models[name] = describe_model(input_name, array.shape, out, free)
        tell(f"making a static graph of the {name} ...")
        model["paddle"] = write_paddle(layer, folder, name, input_name, array.shape)
        if "onnx" in formats:
            tell(f"converting the {name} to ONNX, opset {opset} ...")
            model["onnx"] = write_onnx(folder, model["paddle"], model, opset)
            model["onnx_opset"] = opset
        if "paddle" not in formats:
            for file in os.listdir(folder):
                if not file.endswith(".onnx"):
                    os.remove(os.path.join(folder, file))
            del model["paddle"]
    return models


def export(net: nn.Layer, config: Config, weights: str, folder: str, formats: Sequence[str],
           engines: Sequence[tuple[str, str]], picture: tuple[str, np.ndarray], tell: Callable[[str], Any] = print
           ) -> None:
    """Write a network into a folder, whole or not at all, and tell how far the models are from it.

    Args:
        net: Yolact in evaluation mode.
        config: its Config. weights: path of its weights. folder: to write.
        formats: kinds of files to write, "paddle" and "onnx".
        engines: what to verify, list of (backend, precision).
        picture: (name, uint8 [H, W, 3] BGR) to verify on.
        tell: gets lines of text.

    Raises:
        UserError: the network cannot be exported, or a model is too far from it.
    """
    check_fixed_shape(config, "-o preserve_aspect_ratio=False exports the network for squares")
    if "onnx" in formats and is_deformable(net):
        check_deformable()
    tell(f"running {config.name} on {picture[0]} ...")
    cases = reference_cases(net, config, picture[1])
    with atomic_folder(folder) as temporary:
        description = describe(config, weights, write_models(net, cases, temporary, formats, tell), temporary)
        write_description(temporary, description)
        tell("differences from the network itself, root mean square as a share of that of the output:")
        description["compared"] = [verification_record(temporary, *engine, cases, picture[0], tell)
                                   for engine in engines]
        write_description(temporary, description)


def verification_record(folder: str, backend: str, precision: str, cases: Cases, picture: str,
                        tell: Callable[[str], Any]) -> dict[str, Any]:
    """What yolact.json tells of `verify`. picture: its name; else as `verify`."""
    return {**engine_of(backend, precision), "picture": picture, "tolerance": TOLERANCES[precision],
            "difference": verify(folder, backend, cases, precision, tell)}


def engine_of(backend: str, precision: str) -> dict[str, str]:
    """What tells one engine from another: dict of its version, precision and processor."""
    return {"engine": version_of(backend), "precision": precision, "processor": processor()}
