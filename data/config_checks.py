"""What the values of a config have to be like, beyond their types.

Imports the standard library only.
"""
from __future__ import annotations

from typing import Any

_ACTIVATIONS = ("relu", "sigmoid", "tanh", "softmax", "none")
_CHOICES = {
    "optimizer": ("sgd", "adamw"),
    "lr_schedule": ("step", "cosine"),
    "mask_type": ("lincomb", "direct"),
    "type": ("ResNetBackbone", "ResNetBackboneGN", "DarkNetBackbone", "VGGBackbone"),  # backbone.BACKBONES
    "mask_proto_prototype_activation": _ACTIVATIONS,
    "mask_proto_coeff_activation": _ACTIVATIONS,
}
_AT_LEAST_ONE = ("max_size", "nms_top_k", "max_num_detections")
# What delayed_settings may change during a training: numbers that only the loss reads.
DELAYED_KEYS = (
    "bbox_alpha", "conf_alpha", "mask_alpha", "semantic_segmentation_alpha", "maskiou_alpha", "mask_scoring_alpha",
    "class_existence_alpha", "mask_proto_coeff_diversity_alpha", "masks_to_train", "discard_mask_area",
    "positive_iou_threshold", "negative_iou_threshold", "crowd_iou_threshold", "ohem_negpos_ratio",
    "focal_loss_alpha", "focal_loss_gamma")


class ConfigError(ValueError):
    """A config, data set, key or value that does not fit; the message names it and the fix, in one line."""

    def __str__(self) -> str:
        return " ".join(super().__str__().splitlines())


def check_value(path: str, value: Any) -> None:
    """Refuse the mistakes in a value that its type does not show.

    Args:
        path: dotted key. value: plain data.
    Raises:
        ConfigError: names the key and the fix.
    """
    key = path.rpartition(".")[2]
    if key in _CHOICES and value not in _CHOICES[key]:
        raise ConfigError(f"{path}={value!r} is not known; write one of {', '.join(_CHOICES[key])}")
    if key in _AT_LEAST_ONE and type(value) in (int, float) and value < 1:
        raise ConfigError(f"{path}={value!r} has to be at least 1")
    if key == "class_names" and value is not None:
        if isinstance(value, str):
            raise ConfigError(f"{path}: ({value!r}) is a string; write ({value!r},), with a comma")
        if not isinstance(value, list) or not value or not all(isinstance(name, str) for name in value):
            raise ConfigError(f"{path}={value!r} has to be a list of names, such as ('fish', 'crab')")
        twice = [name for name in value if value.count(name) > 1]
        if twice:
            raise ConfigError(f"{path} has {twice[0]!r} twice; write each class once")
    if key == "args" and not (isinstance(value, list) and value and isinstance(value[0], list)):
        raise ConfigError(f"{path}={short(value)} has to be a list of arguments, the first one a list itself, such as "
                          "([3, 4, 6, 3],)")
    if key == "delayed_settings":
        for change in value if isinstance(value, list) else [None]:
            if not (isinstance(change, list) and len(change) == 2 and type(change[0]) is int
                    and isinstance(change[1], dict) and set(change[1]) <= set(DELAYED_KEYS)):
                raise ConfigError(f"{path}: {short(change)} has to be [iteration, {{key: value}}] with keys among "
                                  f"{', '.join(DELAYED_KEYS)}")
    if key in ("name", "path") and not isinstance(value, (str, type(None))):
        raise ConfigError(f"{path}={short(value)} has to be a text; one that looks like a number needs quotes, '2017'")
    if key == "label_map" and value is not None:
        numbers = [n for pair in value.items() for n in pair] if isinstance(value, dict) else [None]
        if not all(type(number) is int for number in numbers):
            raise ConfigError(f"{path}={short(value)} has to be {{category_id: label from 1}}, such as "
                              "{1: 1, 7: 2}, or None to find the categories by their names")


def short(value: Any) -> str:
    """A value for a message, at most 70 characters of it."""
    return f"{value!r}" if len(f"{value!r}") <= 70 else f"{f'{value!r}':.66} ..."
