"""Shared by the tests that compare the network with the original: nets with recipe weights, inputs, figures.

The figures in tests/goldens were measured with the original in PyTorch, from the weights of weights_recipe.py
(seed 1) and the pictures beside them. A tensor of few elements is stored whole under its key. Of a larger one
there are `key/shape`, `key/stats` (mean, standard deviation, abs-max of all of it), and samples: `key/val` of
the flattened tensor at `key/idx`.
"""
from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import NamedTuple

import utils.runtime  # noqa: F401  before paddle: it chooses how fast matrices are multiplied

# isort: split
import cv2
import numpy as np
import paddle
from pycocotools import mask as rle
from weights_recipe import make_tensor

from data.coco import Sample
from data.config import MEANS, STD, get_config
from utils.augmentations import base_transform
from yolact import Yolact

GOLDENS = Path(__file__).parent / "goldens"
CONFIGS = ("yolact_base", "yolact_im400", "yolact_darknet53", "yolact_resnet50", "yolact_resnet50_pascal",
           "yolact_plus_base", "yolact_plus_resnet50")
STATISTICS = {"running_mean": "_mean", "running_var": "_variance"}
SEED = 1


def entries(config_name):
    """[(name, shape)] of the original's state dict. im400 and im700 have those of yolact_base."""
    stored = json.loads((GOLDENS / "state_dicts.json").read_text())
    same = {"yolact_im400": "yolact_base", "yolact_im700": "yolact_base"}
    return stored[same.get(config_name, config_name)]


def paddle_name(name):
    """Name in Paddle of a tensor of the original; None for batch norm's counters, which Paddle has not."""
    stem, _, leaf = name.rpartition(".")
    if leaf == "num_batches_tracked":
        return None
    return f"{stem}.{STATISTICS.get(leaf, leaf)}"


def recipe_weights(config_name):
    """Name in Paddle -> float32 ndarray, for every tensor of the network."""
    return {paddle_name(name): make_tensor(name, shape, SEED)
            for name, shape in entries(config_name) if paddle_name(name)}


def network(config_name):
    """(config, network with recipe weights), training with frozen batch norm, as the figures were made."""
    config = get_config(config_name)
    net = Yolact(config)
    net.set_state_dict(recipe_weights(config_name))
    net.freeze_bn()
    net.train()
    return config, net


def picture(file_name, config, folder=GOLDENS):
    """A stored picture as the network's input: float32 [3, H, W]."""
    image = cv2.imread(str(folder / file_name))
    assert image is not None, f"{folder / file_name} cannot be read"
    return base_transform(image, config.max_size, config.backbone.transform, MEANS, STD)


def goldens(file_name, folder=GOLDENS):
    """The figures of one file: key -> ndarray."""
    with np.load(folder / file_name) as stored:
        return {key: stored[key] for key in stored.files}


def relative_error(golden, key, array):
    """Largest difference between an array and the figures under `key`, relative to their abs-max.

    Where only samples are stored, mean, standard deviation and abs-max of the whole count as well.
    """
    array = np.asarray(array)
    if key in golden:
        expected = golden[key]
        assert array.shape == expected.shape, f"{key}: {array.shape} instead of {expected.shape}"
        return float(np.abs(array - expected).max() / np.abs(expected).max())
    shape = tuple(golden[f"{key}/shape"])
    assert array.shape == shape, f"{key}: {array.shape} instead of {shape}"
    stats = golden[f"{key}/stats"]
    ours = np.array([array.mean(dtype="float64"), array.std(dtype="float64"), np.abs(array).max()])
    samples = array.ravel()[golden[f"{key}/idx"]] - golden[f"{key}/val"]
    return float(max(np.abs(samples).max(), np.abs(ours - stats).max()) / stats[2])


class Forward(NamedTuple):
    """One pass of one network: config, outputs (name -> ndarray), errors (golden key -> relative error), and the
    network's maskiou_net."""

    config: object
    outputs: dict
    errors: dict
    maskiou_net: object


@functools.cache
def forward(config_name, folder=GOLDENS):
    """Run a network on its picture, once for all tests. Its maps are compared at once, to save memory."""
    config, net = network(config_name)
    golden = goldens(f"forward_{config_name}.npz", folder)
    maps = {}
    for part in ("backbone", "fpn"):
        def keep(layer, inputs, levels, part=part):
            maps.update({f"{part}/{i}": level for i, level in enumerate(levels)})
        getattr(net, part).register_forward_post_hook(keep)
    images = picture(f"input_{config.max_size}.png", config, folder)[np.newaxis]
    with paddle.no_grad():
        outputs = {name: value.numpy() for name, value in net(paddle.to_tensor(images)).items()}
    stored = {"/".join(key.split("/")[:2]) for key in golden if key.startswith(("backbone/", "fpn/"))}
    assert set(maps) == stored, f"{config_name} has the maps {sorted(maps)} instead of {sorted(stored)}"
    errors = {key: relative_error(golden, key, level.numpy()) for key, level in maps.items()}
    errors.update({f"train/{name}": relative_error(golden, f"train/{name}", value)
                   for name, value in outputs.items()})
    return Forward(config, outputs, errors, net.maskiou_net)


def decode_masks(counts, height, width):
    """Compressed run lengths -> uint8 [N, height, width]."""
    if not counts:
        return np.zeros([0, height, width], "uint8")
    masks = rle.decode([{"size": [height, width], "counts": count} for count in counts])
    return np.ascontiguousarray(masks.transpose(2, 0, 1))


def loss_sample(index, config):
    """Picture and objects number `index` (0 to 3) of the loss figures."""
    stored = json.loads((GOLDENS / "loss_targets.json").read_text())[index]
    height, width = stored["size"]
    labels = np.array(stored["labels"], "int64")
    objects = labels >= 0
    labels[objects] %= config.num_classes - 1  # Pascal has fewer classes
    return Sample(image=picture(stored["image"], config), boxes=np.array(stored["boxes"], "float32"),
                  labels=labels, masks=decode_masks(stored["mask_rle"], height, width),
                  num_crowds=stored["num_crowd"], image_id=index, height=height, width=width,
                  file_name=stored["image"])
