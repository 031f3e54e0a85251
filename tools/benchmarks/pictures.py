"""What tools/benchmark.py --inference detects in and with, when nobody names it: pictures and weights."""
from __future__ import annotations

import argparse
import contextlib
import os

# Before paddle: this sets what paddle reads at its import.
from utils.runtime import UserError, seed_everything

# isort: split
import cv2
import numpy as np
import paddle

from data.config import MEANS, STD, cfg
from data.images import DatasetError
from tools.benchmarks.data import made_up_picture, names_data
from utils.augmentations import base_transform
from utils.in_out import PICTURE_SUFFIXES
from utils.predictor import as_image
from utils.weights import save_safetensors
from yolact import Yolact

HEIGHT, WIDTH = 480, 640  # of made-up pictures
LOGITS = 3.0  # standard deviation of a trained network's class logits, about
NEAR_PRIORS = 300  # that see an object, of those of a picture


def choose_pictures(args: argparse.Namespace, temporary: str) -> tuple[list[str], str]:
    """(paths of pictures, what they are): the first --count by name that can be read.

    Args:
        args: of the command line. temporary: folder that is made for made-up pictures, which take the place of a
            validation set that is not there and that nobody named.

    Raises:
        UserError: the folder that was named is missing or holds no picture.
    """
    folder, count = args.pictures, args.count
    if folder is None:
        folder = cfg.dataset.valid_images
        if args.made_up or not (names_data(args) or os.path.isdir(folder)):
            return make_up_pictures(temporary, count), f"{count} made-up pictures of {WIDTH} x {HEIGHT}"
    if not os.path.isdir(folder):
        raise UserError(f"there is no folder {folder}; correct --pictures, or dataset.valid_images")
    paths: list[str] = []
    for name in sorted(os.listdir(folder)):
        if len(paths) < count and name.lower().endswith(PICTURE_SUFFIXES):
            with contextlib.suppress(DatasetError):
                as_image(os.path.join(folder, name))
                paths.append(os.path.join(folder, name))
    if not paths:
        raise UserError(f"there is no picture ({', '.join(PICTURE_SUFFIXES)}) in {folder} that can be read; name "
                        "another folder with --pictures")
    return paths, f"{len(paths)} of {folder}"


def make_up_pictures(folder: str, count: int) -> list[str]:
    """Write JPEGs into a new folder; returns their paths."""
    os.makedirs(folder)
    paths = [os.path.join(folder, f"{number:06d}.jpg") for number in range(count)]
    for number, path in enumerate(paths):
        cv2.imwrite(path, made_up_picture(np.random.RandomState(number), HEIGHT, WIDTH))
    return paths


@paddle.no_grad()
def make_up_weights(path: str, picture: str) -> str:
    """Write random weights of the global config's network, with which it finds as much as a trained one; returns path.

    Where no class stands out of the background, as with weights that are just random, there is nothing to be done
    after the network: the class logits are spread and moved until NEAR_PRIORS of a picture stand out.

    Args:
        path: of a .safetensors file. picture: path of one.
    """
    seed_everything(0)
    net = Yolact(cfg)
    net.eval()
    image = base_transform(as_image(picture), cfg.max_size, cfg.backbone.transform, MEANS, STD,
                           preserve_aspect_ratio=cfg.preserve_aspect_ratio)
    images = paddle.to_tensor(image[np.newaxis])
    layers = [head.conf_layer for head in net.prediction_layers]
    spread = LOGITS / max(net(images)["conf"].numpy().std(), 1e-6)
    for layer in layers:
        layer.weight.set_value(layer.weight * spread)
    logits = net(images)["conf"][0].numpy()
    stand_out = np.sort(logits[:, 1:].max(axis=1) - logits[:, 0])[::-1]
    for layer in layers:
        bias = layer.bias.numpy().reshape([-1, cfg.num_classes])
        bias[:, 1:] -= stand_out[min(NEAR_PRIORS, len(stand_out) - 1)]
        layer.bias.set_value(bias.ravel())
    save_safetensors(path, {name: tensor.numpy() for name, tensor in net.state_dict().items()}, cfg.to_dict())
    return path
