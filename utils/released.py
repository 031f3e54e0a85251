"""The weights that were published: YOLACT's and YOLACT++'s networks, and backbones trained on ImageNet.

They are downloaded when they are asked for by name, and kept.
"""
from __future__ import annotations

import logging
import os
import re
from typing import Any, Callable

from utils.download import DownloadError, download
from utils.weights import WeightsError, read_weights, save_safetensors

_HUB = "https://huggingface.co/dbolya/"
_INITIAL = _HUB + "yolact-initial-weights/resolve/main/"
_TORCHVISION = "https://download.pytorch.org/models/"

# The author's trained networks: name -> address.
RELEASED = {name: f"{_HUB}{name.replace('_', '-')}/resolve/main/{name}_54_800000.pth"
            for name in ("yolact_base", "yolact_im700", "yolact_resnet50", "yolact_darknet53",
                         "yolact_plus_base", "yolact_plus_resnet50")}
# Published too, but without an address that could be downloaded from.
PASCAL, _PASCAL_FILE = "yolact_resnet50_pascal", "yolact_resnet50_pascal_54_120000.pth"
# ImageNet weights: source -> backbone -> address. Paddle has its own table, see `imagenet_weights`.
BACKBONES = {
    "original": {"resnet50": _INITIAL + "resnet50-19c8e357.pth",
                 "resnet101": _INITIAL + "resnet101_reducedfc.pth",
                 "darknet53": _INITIAL + "darknet53.pth"},
    "torchvision": {"resnet50": _TORCHVISION + "resnet50-0676ba61.pth",
                    "resnet101": _TORCHVISION + "resnet101-63fe2227.pth"},
}

BACKBONE_SOURCES = (*BACKBONES, "paddle")

# How a config's backbone is called there: (type, blocks of each stage) -> name.
_NAMES = {("ResNetBackbone", "[3, 4, 6, 3]"): "resnet50", ("ResNetBackbone", "[3, 4, 23, 3]"): "resnet101",
          ("DarkNetBackbone", "[1, 2, 8, 8, 4]"): "darknet53"}


def released_weights(name: str, folder: str, bar: bool = True) -> str:
    """Path of one of the author's trained networks, which is downloaded unless it is there.

    Args:
        name: a key of `RELEASED`, for example 'yolact_base'.
        folder: where the file is or goes.
        bar: as for `download`.
    Returns:
        ``<folder>/<name>_54_800000.pth``.
    Raises:
        DownloadError: for an unknown name, and as `download`.
    """
    if name == PASCAL:
        path = os.path.join(folder, _PASCAL_FILE)
        if os.path.exists(path):
            return path
        raise DownloadError(f"the Pascal network {name} has no address to download from: get it by hand from the "
                            f"README of https://github.com/dbolya/yolact and put it at {path}, or pass its path")
    if name not in RELEASED:
        raise DownloadError(f"there is no released network {name!r}; there are {', '.join(RELEASED)}")
    return download(RELEASED[name], os.path.join(folder, _file_name(RELEASED[name])), bar=bar)


def imagenet_weights(source: str, backbone: Any, folder: str, bar: bool = True) -> str:
    """Path of a backbone's ImageNet weights, which are downloaded unless they are there.

    Args:
        source: 'original' (what the released networks were trained from), 'torchvision' or 'paddle'.
        backbone: its config (`type`, `args`, `name`).
        folder: where the file is or goes.
        bar: as for `download`.
    Returns:
        ``<folder>/<file name at the source>``.
    Raises:
        DownloadError: for a combination that does not exist, and as `download`.
    """
    name = _NAMES.get((backbone.type, str(backbone.args[0])), backbone.name)
    url, md5 = BACKBONES.get(source, {}).get(name), None
    if source == "paddle" and name in ("resnet50", "resnet101"):
        from paddle.vision.models.resnet import model_urls  # here, so that other downloads need no Paddle

        url, md5 = model_urls[name]
    if url is None:
        raise DownloadError(f"there are no weights of {name} from {source!r}; there are resnet50 and resnet101 from "
                            "original, torchvision and paddle, and darknet53 from original")
    file = _file_name(url)
    # torchvision's rule: resnet50-19c8e357.pth is the file whose sha256 starts with 19c8e357
    sha256 = re.search(r"-([0-9a-f]{8,})\.pth$", file)
    return download(url, os.path.join(folder, file), sha256=sha256 and sha256[1], md5=md5, bar=bar)


def _file_name(url):
    return url.rpartition("/")[2]


def backbone_file(wanted: str | None, backbone: Any, folder: str) -> str | None:
    """The file of a backbone's ImageNet weights; None, after a warning, where there is none.

    Args:
        wanted: a file, or one of `BACKBONE_SOURCES` to download it from there; None: the config's `backbone.path` in
            the folder, if it is there. backbone: its config. folder: where downloads are or go.
    Raises:
        DownloadError: there is no such file, and as `imagenet_weights`.
    """
    if wanted in BACKBONE_SOURCES:
        return imagenet_weights(wanted, backbone, folder)
    if wanted is not None:
        if not os.path.isfile(wanted):
            raise DownloadError(f"there is no file {wanted}; correct --backbone_weights (a file, or one of "
                                f"{', '.join(BACKBONE_SOURCES)}, which downloads it)")
        return wanted
    path = backbone.path and os.path.join(folder, backbone.path)
    if path is None or os.path.exists(path):
        return path
    downloads = any(url.endswith(f"/{backbone.path}") for url in BACKBONES["original"].values())
    logging.warning("the backbone starts from random weights, because there is no %s; training needs far longer, and "
                    "larger batches for batch norm. %s", path,
                    "--backbone_weights=original downloads it" if downloads else "Put the ImageNet weights there")
    return None


def weights_file(name: str, folder: str, get_config: Callable[[str], Any], bar: bool = True) -> str:
    """The file that a weights argument stands for; a released network is downloaded, and converted once.

    Args:
        name: a file's path, or the name of a released network.
        folder: where the download and its conversion, which carries the config, are or go.
        get_config: gives the config (a Config) of a released network's name.
        bar: as for `download`.
    Returns:
        ``name``, or the conversion: ``<folder>/<name>_54_800000.safetensors``.
    Raises:
        WeightsError: there is no such file, and no released network of that name.
        DownloadError: as `download`.
    """
    if os.path.isfile(name):
        return name
    if name not in RELEASED and name != PASCAL:
        known = re.sub(r"(_54_800000)?\.\w+$", "", os.path.basename(name))
        hint = f"{known} alone downloads it" if known in RELEASED else f"a file, or one of {', '.join(RELEASED)}"
        raise WeightsError(f"there is no file {name}; correct --trained_model ({hint})")
    published = _PASCAL_FILE if name == PASCAL else _file_name(RELEASED[name])
    converted = os.path.join(folder, published.replace(".pth", ".safetensors"))
    if not os.path.exists(converted):
        save_safetensors(converted, read_weights(released_weights(name, folder, bar)), get_config(name).to_dict())
    return converted
