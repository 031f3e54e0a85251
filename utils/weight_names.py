"""What tensors are called: the original's names and those of other files, and ours.

Ours are the names of the original's state dict, except that Paddle calls the statistics of a batch norm ``_mean`` and
``_variance``, and that a linear layer's weight is [in, out] as Paddle keeps it, where the original has [out, in].
All functions take a dict name -> ndarray and return a new one in the same order; arrays are never changed.
"""
from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

import numpy as np

STATISTICS = {"running_mean": "_mean", "running_var": "_variance"}
COUNTER = "num_batches_tracked"  # of batches seen by a batch norm: the original keeps it, nothing reads it
ORIGINAL_FORMATS = ("pth", "npz", "detectron")  # names and layout in these files are the original's


def is_counter(name: str) -> bool:
    """Whether a tensor is a batch norm's ``num_batches_tracked``."""
    return name.rpartition(".")[2] == COUNTER


def _rename_leaf(name, names):
    stem, dot, leaf = name.rpartition(".")
    return f"{stem}.{names[leaf]}" if dot and leaf in names else name


def _other_layout(name, array):
    """A linear layer's weight, the only one of two dimensions, is transposed; anything else stays."""
    return array.T if array.ndim == 2 and name.endswith("weight") else array


def ours(tensors: Mapping[str, np.ndarray], file_format: str) -> dict[str, np.ndarray]:
    """Tensors of a file of a whole network under our names.

    Args:
        file_format: as utils.weight_files.WeightFile has it; says in whose layout linear layers are.
    """
    layout = _other_layout if file_format in ORIGINAL_FORMATS else lambda name, array: array
    aliases = not any(name.startswith("backbone.layers.") for name in tensors)
    renamed = {}
    for name, array in tensors.items():
        name = _earlier_port_name(_rename_leaf(name, STATISTICS))
        if aliases:
            name = _alias_name(name, "backbone.")
        renamed[name] = layout(name, array)
    return renamed


def originals(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tensors under our names -> under the original's names and in its layout, as ``.pth`` and ``.npz`` have them.

    A batch norm without a counter gets one of 0 behind its variance, because PyTorch asks for it.
    """
    theirs = {ours_: name for name, ours_ in STATISTICS.items()}
    renamed = {}
    for name, array in tensors.items():
        renamed[_rename_leaf(name, theirs)] = _other_layout(name, array)
        counter = _rename_leaf(name, {"_variance": COUNTER})
        if counter != name and counter not in tensors:
            renamed[counter] = np.zeros((), np.int64)
    return renamed


def without_leftovers(tensors: Mapping[str, np.ndarray], network: Collection[str]) -> dict[str, np.ndarray]:
    """Leave out what the original's loader drops: the backbone's old aliases and surplus P6/P7 layers (v1.0).

    Args:
        network: names of the network.
    """
    has_current = any(name.startswith("backbone.layers.") for name in tensors)

    def leftover(name):
        alias = has_current and re.match(r"backbone\.layer\d", name)
        return name not in network and (alias or name.startswith("fpn.downsample_layers."))

    return {name: array for name, array in tensors.items() if not leftover(name)}


def _alias_name(name, prefix):
    """torchvision's, and version 1.0's, ``layer1`` is ``layers.0``."""
    stage = re.match(rf"{re.escape(prefix)}layer([1-9])\.", name)
    return f"{prefix}layers.{int(stage.group(1)) - 1}.{name[stage.end():]}" if stage else name


def _earlier_port_name(name):
    """Our name for one of the earlier Paddle port, whose later files have PaddleDetection's backbone.

    ``res4.res4c.branch2b`` is the second convolution, with its norm, of the third block of stage 4 (the original's
    ``layers.2``); in stages of many blocks they are called a, b1, b2, ... instead of a, b, c, ...
    """
    stem = re.fullmatch(r"(backbone\.)?conv1\.conv1\.(conv|norm)\.(\w+)", name)
    if stem:
        return f"{stem[1] or ''}{'conv1' if stem[2] == 'conv' else 'bn1'}.{stem[3]}"
    block = re.fullmatch(
        r"(backbone\.)?res([2-5])\.res\2([a-z]|b\d{1,3})\.(short|branch2[abc])\.(conv|norm)\.(\w+)", name)
    if not block:
        return name
    prefix, stage, label, branch, kind, leaf = block.groups()
    number = ord(label) - ord("a") if len(label) == 1 else int(label[1:])
    if branch == "short":
        layer = f"downsample.{0 if kind == 'conv' else 1}"
    else:
        layer = f"{'conv' if kind == 'conv' else 'bn'}{'abc'.index(branch[-1]) + 1}"
    return f"{prefix or ''}layers.{int(stage) - 2}.{number}.{layer}.{leaf}"


def _detectron_name(name):
    """Our name for one of Detectron's ResNets with group norm: ``res2_0_branch2a_gn_s`` is ``layers.0.0.bn1.weight``.

    The channels of ``conv1_w`` are BGR there; the original does not turn them round, so its network learnt with them.
    """
    kinds = {"w": ("conv", "weight"), "gn_s": ("bn", "weight"), "gn_b": ("bn", "bias")}
    stem = re.fullmatch(r"conv1_(w|gn_s|gn_b)", name)
    if stem:
        kind, leaf = kinds[stem[1]]
        return f"{kind}1.{leaf}"
    block = re.fullmatch(r"res([2-5])_(\d+)_branch(1|2[abc])_(w|gn_s|gn_b)", name)
    if not block:
        return name
    kind, leaf = kinds[block[4]]
    if block[3] == "1":
        layer = f"downsample.{0 if kind == 'conv' else 1}"
    else:
        layer = f"{kind}{'abc'.index(block[3][-1]) + 1}"
    return f"layers.{int(block[1]) - 2}.{block[2]}.{layer}.{leaf}"


def _vgg_name(name, stage_lengths):
    """Our name for one of VGG-16 (``features.`` may stand before it): its number counts the modules of all stages."""
    match = re.fullmatch(r"(?:features\.)?(\d{1,3})\.(weight|bias)", name)
    if not match:
        return name
    index = int(match[1])
    for stage, length in enumerate(stage_lengths):
        if index < length:
            return f"layers.{stage}.{index}.{match[2]}"
        index -= length
    return name


def backbones(tensors: Mapping[str, np.ndarray], stage_lengths: Sequence[int] = ()) -> dict[str, np.ndarray]:
    """Tensors of a backbone alone, under our names without ``backbone.``.

    Args:
        tensors: under the names that ``ours`` gives: of a whole network (the rest of it is left out), torchvision's
            and paddle.vision's, the original's ``darknet53.pth`` and ``vgg16_reducedfc.pth``, Detectron's with group
            norm, or PaddleDetection's.
        stage_lengths: number of modules in each of the backbone's stages, which VGG's names count.
    """
    prefix = "backbone."
    if any(name.startswith(prefix) for name in tensors):
        # the prefix tells aliases from current names; a whole network of version 1.0 may have both
        current = any(name.startswith(prefix + "layers.") for name in tensors)
        tensors = {name[len(prefix):]: array for name, array in tensors.items()
                   if name.startswith(prefix) and not (current and re.match(r"backbone\.layer\d", name))}
    return {_vgg_name(_detectron_name(_alias_name(name, "")), stage_lengths): array
            for name, array in tensors.items()}


def original_backbones(tensors: Mapping[str, np.ndarray], stage_lengths: Sequence[int] = ()) -> dict[str, np.ndarray]:
    """The inverse of ``backbones``: what the original loads as a backbone. torchvision's ``layer1`` for a ResNet, a
    count of modules for VGG-16, and DarkNet's as they are.

    Args:
        tensors: of a backbone alone, under our names.
    """
    def rename(name):
        block = re.match(r"layers\.(\d{1,3})\.", name)
        if block is None or "_preconv.0.weight" in tensors:
            return name
        stage, rest = int(block[1]), name[block.end():]
        if "conv1.weight" in tensors:
            return f"layer{stage + 1}.{rest}"
        index, leaf = rest.split(".")
        return f"{sum(stage_lengths[:stage]) + int(index)}.{leaf}"

    return {rename(name): array for name, array in tensors.items()}
