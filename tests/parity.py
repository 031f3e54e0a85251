"""Shared by the tests that compare the network with the original: nets with recipe weights, inputs, figures.

The figures in tests/goldens were measured with the original in PyTorch, from the weights of weights_recipe.py
(seed 1) and the pictures beside them. A tensor of few elements is stored whole under its key. Of a larger one
there are `key/shape`, `key/stats` (mean, standard deviation, abs-max of all of it), and samples: `key/val` of
the flattened tensor at `key/idx`.
"""
from __future__ import annotations

import copy
import functools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import utils.runtime  # noqa: F401  before paddle: it chooses how fast matrices are multiplied

# isort: split
import cv2
import numpy as np
import paddle
from paddle import nn
from pycocotools import mask as rle
from weights_recipe import make_tensor

import train
from data.coco import Sample, collate
from data.config import MEANS, STD, cfg, get_config
from layers.matching import match
from layers.multibox_loss import MultiBoxLoss
from utils.augmentations import base_transform
from utils.schedule import build_schedule, learning_rate
from yolact import Yolact, build_detect

GOLDENS = Path(__file__).parent / "goldens"
CONFIGS = ("yolact_base", "yolact_im400", "yolact_darknet53", "yolact_resnet50", "yolact_resnet50_pascal",
           "yolact_plus_base", "yolact_plus_resnet50")
LOSS_CONFIGS = ("yolact_base", "yolact_darknet53", "yolact_resnet50_pascal", "yolact_plus_resnet50")
MODES = {"fast": {}, "cross": {"cross_class_nms": True}, "trad": {"use_fast_nms": False}}
KEYS = ("box", "class", "score", "mask")
PICTURE_SIZE = (640, 480)  # width and height that the figures of postprocess pretend
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


def pair(ours, theirs):
    """For each of their detections the row of ours with its class and the nearest box; a one-to-one mapping.

    Rows are not compared in order: neighbours whose scores differ by one part in a million may swap.
    """
    assert len(ours["score"]) == len(theirs["score"])
    distance = np.abs(ours["box"][None] - theirs["box"][:, None]).max(axis=-1)
    distance[ours["class"][None] != theirs["class"][:, None]] = np.inf
    rows = distance.argmin(axis=1)
    assert sorted(rows) == list(range(len(rows))), "two stored detections have one counterpart"
    return rows


def numpy_of(detection):
    return {key: value.numpy() for key, value in detection.items()}


@functools.lru_cache(maxsize=3)
def detections(config_name, mode):
    """Our detections of a network's picture, as tensors."""
    config, outputs, *_ = forward(config_name)
    out = {name: paddle.to_tensor(value) for name, value in outputs.items()}
    [detection] = build_detect(config, **MODES[mode])(out)
    return detection


def in_golden_order(config_name, mode, golden):
    detection = detections(config_name, mode)
    rows = pair(numpy_of(detection), {key: golden[f"det_{mode}/{key}"] for key in KEYS})
    return {key: value.index_select(paddle.to_tensor(rows)) if key in KEYS else value
            for key, value in detection.items()}


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


def samples_of(golden, prefix):
    """name -> (idx, val) of the sampled tensors under a prefix; of small ones (every index, the whole)."""
    samples = {}
    for key, value in golden.items():
        if key.startswith(prefix):
            name, _, part = key[len(prefix):].partition("/")
            if part == "val":
                samples[name] = golden[f"{prefix}{name}/idx"], value
            elif not part:
                samples[name] = np.arange(value.size), value.ravel()
    return samples


def gradient_figures(net, samples):
    """(norms, samples, names without gradient). Norms are summed in float64: float32 is off by 4e-3 here."""
    norms, sampled, without = {}, {}, set()
    norm_layers = {name for name, layer in net.named_sublayers() if isinstance(layer, nn.BatchNorm2D)}
    for name, parameter in net.named_parameters():
        layer, _, leaf = name.rpartition(".")
        if layer in norm_layers and leaf in ("_mean", "_variance"):
            continue
        if parameter.grad is None:
            without.add(name)
            continue
        gradient = parameter.grad.numpy().astype("float64").ravel()
        norms[name] = np.linalg.norm(gradient)
        if name in samples:
            sampled[name] = gradient[samples[name][0]]
    return norms, sampled, without


@functools.lru_cache(maxsize=1)
def loss(config_name):
    """Loss and gradients of one network on two pictures, and the figures of the original."""
    golden = goldens(f"loss_{config_name}.npz")
    config, net = network(config_name)
    targets = [loss_sample(i, config) for i in (0, 1)]
    before = copy.deepcopy(targets)
    out = net(paddle.to_tensor(np.stack([target.image for target in targets])))
    terms = MultiBoxLoss(config, net.maskiou_net)(out, targets)
    sum(terms.values()).backward()
    norms, sampled, without = gradient_figures(net, samples_of(golden, "grad/"))
    return SimpleNamespace(golden=golden, config=config, targets=targets, before=before, norms=norms,
                           priors=out["priors"].numpy(), sampled=sampled, without=without,
                           losses={name: value.item() for name, value in terms.items()})


def wrong_matches(measured, i):
    """How many priors of picture i of a `loss` are matched otherwise than by the original."""
    config, golden, target = measured.config, measured.golden, measured.targets[i]
    objects = len(target.labels) - target.num_crowds
    arrays = (target.boxes[:objects], target.labels[:objects], target.boxes[objects:], measured.priors)
    _, conf, index = (x.numpy() for x in match(*map(paddle.to_tensor, arrays), config.positive_iou_threshold,
                                               config.negative_iou_threshold, config.crowd_iou_threshold))
    expected, expected_index = np.zeros_like(conf), np.array(index)
    expected[golden[f"match/{i}/pos"]] = golden[f"match/{i}/conf_t"]
    expected[golden[f"match/{i}/neutral"]] = -1
    expected_index[golden[f"match/{i}/pos"]] = golden[f"match/{i}/idx_t"]
    return int(((conf != expected) | (index != expected_index)).sum())


def trajectory(folder):
    """Twelve steps of yolact_resnet50 by train.py's own parts, from the recipe's weights.

    Args:
        folder: a path for the weights' file.

    Returns: the original's figures, losses and rate of each step, the network's weights before and after.
    """
    golden = goldens("trajectory_resnet50.npz")
    weights_file = Path(folder) / "recipe.npz"
    np.savez(weights_file, **{name: make_tensor(name, shape, SEED) for name, shape in entries("yolact_resnet50")})
    args = train.parse_args(["--config=yolact_resnet50_config", "--batch_size=2", "--no_autoscale",
                             f"--trained_model={weights_file}"])
    config_before = cfg.copy()
    try:
        train.fill_cfg(args)
        net = train.build_network(args)
        update = train.build_update(net, args, "cpu")
        schedule = build_schedule(cfg, args.batch_size, args.autoscale, args.lr, args.gamma)
        batches = [collate([loss_sample(i, cfg) for i in pair]) for pair in ((0, 1), (2, 3))]
        before = {name: value.numpy() for name, value in net.state_dict().items()}
        criterion, losses, rates = MultiBoxLoss(cfg), [], []
        for iteration in range(len(golden["losses"])):
            rates.append(learning_rate(schedule, iteration))
            losses.append(update(criterion, batches[iteration % 2], rates[-1]))
        after = {name: value.numpy() for name, value in net.state_dict().items()}
    finally:
        cfg.update_in_place(config_before)
    return SimpleNamespace(golden=golden, losses=losses, rates=rates, before=before, after=after)
