"""Convert weights of YOLACT between all formats: PyTorch's .pth, Paddle's .pdparams, .safetensors and .npz.

    # the original's weights, for this code; the config is told from the name
    python tools/convert_weights.py yolact_base_54_800000.pth weights/yolact_base_54_800000.pdparams

    # and back, for the original's code
    python tools/convert_weights.py weights/yolact_base_54_800000.pdparams yolact_base_54_800000.pth

    # half the size, the config inside
    python tools/convert_weights.py weights/yolact_base_54_800000.pdparams yolact_base.safetensors --half

    # ImageNet weights of a backbone (torchvision's, the original's, Detectron's), for backbone.path
    python tools/convert_weights.py resnet101_reducedfc.pth weights/resnet101.pdparams --config=yolact_base --backbone

SRC may be of any of the formats, and with the names of the original, of this code, or of the earlier Paddle port; DST
is written as its suffix says. The network of the config is built to compare names and shapes: a file that does not
fit is not converted. The config is --config, else what was saved with SRC, else the one SRC is named after. It is put
into a .safetensors file, and beside a .pdparams as .json. Nothing that SRC contains is executed.
"""
from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

if __package__ in (None, ""):  # run as a script: python tools/convert_weights.py
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from utils.runtime import UserError  # noqa: E402

# isort: split
# What follows imports paddle, for which utils.runtime has to have set the scene.
import numpy as np  # noqa: E402
import paddle  # noqa: E402

from backbone import build_backbone  # noqa: E402
from data.config import ConfigError, cfg, set_cfg  # noqa: E402
from utils import weight_names  # noqa: E402
from utils.checkpoint_files import name_of_config  # noqa: E402
from utils.files import atomic_path  # noqa: E402
from utils.weight_files import read_file  # noqa: E402
from utils.weights import (  # noqa: E402
    LoadReport,
    as_float32,
    backbone_fits,
    backbone_misfit,
    backbone_weights,
    compare,
    compare_backbone,
    misfit,
    save_npz,
    save_pdparams,
    save_pth,
    save_safetensors,
    saved_config,
)
from yolact import Yolact  # noqa: E402

SUFFIXES = (".pdparams", ".safetensors", ".npz", ".pth")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line as a namespace; exits with a message on a wrong one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="SRC", help="weights to read; the format is told from the content")
    parser.add_argument("target", metavar="DST", help="file to write: .pdparams, .safetensors, .npz or .pth")
    parser.add_argument("--config", help="config of the network (default: saved with SRC, or the name of SRC)")
    parser.add_argument("--half", action="store_true",
                        help="store convolution weights as float16, half the size (.safetensors only)")
    parser.add_argument("--backbone", action="store_true",
                        help="convert the backbone alone, out of a whole network or a classification network")
    parser.add_argument("--allow_mismatch", action="store_true",
                        help="write what there is, even if it does not fit the network")
    return parser.parse_args(argv)


def check_paths(source: str, target: str, half: bool) -> None:
    """Refuse what cannot be written, before anything is read.

    Raises:
        UserError: the target's suffix is unknown or does not go with --half, it is the source, or the .json that
            belongs beside it is of something else (a training, which could no longer be resumed).
    """
    stem, suffix = os.path.splitext(target)
    if suffix not in SUFFIXES:
        raise UserError(f"cannot write {target}: name it {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    if half and suffix != ".safetensors":
        raise UserError("--half is for .safetensors only; leave it out")
    if os.path.realpath(source) == os.path.realpath(target):
        raise UserError(f"{target} is the file to read; give another one to write")
    if os.path.isdir(target):
        raise UserError(f"cannot write {target}: it is a folder; name a file in it")
    if suffix == ".pdparams" and os.path.exists(stem + ".json"):
        try:
            with open(stem + ".json", encoding="utf-8") as file:
                content = json.load(file)
        except (OSError, ValueError):
            content = None
        if not isinstance(content, dict) or set(content) != {"config"}:
            raise UserError(f"{stem}.json belongs to a training checkpoint or something else; give the file to write "
                            "another name")


def configure(source: str, config: str | None) -> None:
    """Fill the global cfg with the config of the weights: named, saved with them, or in their name.

    Raises:
        UserError: when none of these is a config.
    """
    saved = None if config else saved_config(source)
    try:
        set_cfg(config or saved or name_of_config(source))
    except ConfigError as error:
        if config:
            raise UserError(f"--config={config}: {error}") from error
        where = "saved with" if saved else "in the name of"
        raise UserError(f"the config {where} {source} cannot be used ({error}); pass --config") from error


def match(net: paddle.nn.Layer, tensors: Mapping[str, np.ndarray],
          backbone: bool) -> tuple[dict[str, np.ndarray], LoadReport, str | None]:
    """Compare tensors with the network they should be of.

    Args:
        net: Yolact, or its backbone if that is all that is converted (`backbone`).
        tensors: {name: array}, as `weight_names.ours` gives.
    Returns:
        (tensors to write, LoadReport, None or the sentence about what does not fit). Counters of batch norms are
        carried along and not compared.
    """
    if backbone:
        tensors = backbone_weights(net, tensors)
    network = net.state_dict()
    compared = {name: array for name, array in tensors.items() if not weight_names.is_counter(name)}
    tensors = weight_names.without_leftovers(tensors, network)
    if backbone:
        report = compare_backbone(net, compared)
        wrong = None if backbone_fits(report) else f"it {backbone_misfit(report)}; pass the --config of its network"
        unused = set(report.unused)  # a classifier
        tensors = {name: array for name, array in tensors.items() if name not in unused}
    else:
        report = compare(network, compared)
        fits = report.loaded and not (report.skipped or report.missing or report.unused)
        wrong = None if fits else misfit(report, network, compared)
    return tensors, report, wrong


def write(target: str, tensors: Mapping[str, np.ndarray], config: dict[str, Any] | None, half: bool) -> None:
    """Write tensors as the suffix of the target says.

    Args:
        config: as plain values, or None for a backbone. half: convolution weights as float16, in .safetensors.
    """
    suffix = os.path.splitext(target)[1]
    if suffix == ".safetensors":
        save_safetensors(target, tensors, config, half)
    else:
        {".pdparams": save_pdparams, ".npz": save_npz, ".pth": save_pth}[suffix](target, tensors)
    if suffix == ".pdparams" and config is not None:
        with atomic_path(os.path.splitext(target)[0] + ".json") as path, open(path, "w", encoding="utf-8") as file:
            json.dump({"config": config}, file)


def convert(source: str, target: str, config: str | None = None, half: bool = False, backbone: bool = False,
            allow_mismatch: bool = False) -> int:
    """Read `source`, compare it with the network, print what was found, and write `target`.

    Returns: number of tensors written.
    Raises:
        UserError: see `check_paths`, `configure` and utils.weight_files.read_file; or the weights do not fit the
            network and `allow_mismatch` is off.
    """
    check_paths(source, target, half)
    file = read_file(source)
    configure(source, config)
    net = build_backbone(cfg.backbone) if backbone else Yolact(cfg)
    tensors = {name: as_float32(array) for name, array in weight_names.ours(file.tensors, file.format).items()}
    tensors, report, wrong = match(net, tensors, backbone)
    print(f"{source} ({file.format}) and the {'backbone of ' if backbone else ''}config {cfg.name}: {report.table()}")
    counters = sum(map(weight_names.is_counter, tensors))
    if counters:
        print(f"  carried along: {counters} counters of batch norms")
    if not tensors or (wrong and not allow_mismatch):
        raise UserError(f"{source} was not converted: {wrong}, or --allow_mismatch to write what there is")
    if backbone and os.path.splitext(target)[1] in (".npz", ".pth"):
        tensors = weight_names.original_backbones(tensors, [len(stage) for stage in net.layers])
    write(target, tensors, None if backbone else cfg.to_dict(), half)
    return len(tensors)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; a user's mistake ends in one line and exit code 1."""
    args = parse_args(argv)
    try:
        count = convert(**vars(args))
    except (UserError, OSError) as error:
        sys.exit(f"convert_weights.py: error: {error}")
    print(f"{count} tensors written to {args.target}, {os.path.getsize(args.target) / 2 ** 20:.1f} MiB")


if __name__ == "__main__":
    main()
