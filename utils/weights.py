"""Network weights: from a file into a network, what fitted and what did not, and back into a file.

The containers are utils/weight_files.py, the names utils/weight_names.py. Names here are ours: those of the original's
state dict, except that Paddle calls the statistics of a batch norm ``_mean`` and ``_variance``.
"""
from __future__ import annotations

import collections
import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, Callable

import numpy as np

from utils import weight_names
from utils.weight_files import (
    WeightsError,
    read_file,
    safetensors_config,
    tell_container,
    unpickle_arrays,
    write_npz,
    write_pdparams,
    write_pth,
    write_safetensors,
)

__all__ = [
    "LoadReport", "WeightsError", "as_float32", "backbone_fits", "backbone_misfit", "backbone_weights", "compare",
    "compare_backbone", "count_classes", "load_backbone", "load_weights", "misfit", "read_weights", "save_npz",
    "save_pdparams", "save_pth", "save_safetensors", "saved_config", "unpickle_arrays"]


@dataclasses.dataclass
class LoadReport:
    """What loading did.

    Attributes:
        loaded: names that were set.
        skipped: (name, shape in the file, shape in the network) of tensors of another shape.
        missing: names of the network that the file lacks.
        unused: names of the file that the network lacks.
        new: names of the network that such files do not have, and that keep their initial values.
        dropped: names of the file that stand for tensors it also has under current names, or that nothing uses.
    """

    loaded: list[str]
    skipped: list[tuple[str, tuple, tuple]]
    missing: list[str]
    unused: list[str]
    new: list[str] = dataclasses.field(default_factory=list)
    dropped: list[str] = dataclasses.field(default_factory=list)

    def table(self) -> str:
        """How many tensors of each part of the network were set, then every tensor that was not, aligned."""
        skipped = [name for name, _, _ in self.skipped]
        total = collections.Counter(map(_part, [*self.loaded, *skipped, *self.missing, *self.new]))
        used = collections.Counter(map(_part, self.loaded))
        width = max(map(len, [*total, "part"]))
        lines = [self._counts(), f"  {'part':{width}}  used    of"]
        lines += [f"  {part:{width}}  {used[part]:4d}  {count:4d}" for part, count in sorted(total.items())]
        lines += [f"  skipped {name}: {list(theirs)} in the file, {list(ours)} in the network"
                  for name, theirs, ours in self.skipped]
        lines += _listed("missing", self.missing) + _listed("new    ", self.new) + _listed("unused ", self.unused)
        if self.dropped:
            lines.append(f"  dropped {len(self.dropped)} leftovers of version 1.0, such as {self.dropped[0]}")
        return "\n".join(lines)

    def _counts(self):
        new = f", {len(self.new)} new" if self.new else ""
        return (f"{len(self.loaded)} tensors loaded, {len(self.skipped)} of another shape skipped, "
                f"{len(self.missing)} missing in the file{new}, {len(self.unused)} in the file unused")


def _listed(word, names, most=10):
    """One line a name; of a whole network's worth of them only the first."""
    more = [f"  {word} ... and {len(names) - most} more"] if len(names) > most else []
    return [f"  {word} {name}" for name in names[:most]] + more


def _part(name):
    """The part of a network that a tensor belongs to: a stage of the backbone, or what the name begins with."""
    words = name.split(".")
    length = 1 + (words[0] == "backbone")
    return ".".join(words[:length + (words[length - 1] == "layers")])


def read_weights(path: str) -> dict[str, np.ndarray]:
    """Tensors of a weights file under the network's names.

    Args:
        path: ``.pdparams``, ``.pth``, ``.npz``, ``.safetensors`` or Detectron's ``.pkl`` (told from the content).
            Names may be the original's, ours, or the earlier Paddle port's; ``num_batches_tracked`` is ignored.
    Returns:
        dict name -> ndarray; float16, bfloat16 and float64 come as float32.
    Raises:
        WeightsError: when the file is missing, damaged or of another kind.
    """
    file = read_file(path)
    weights = {name: as_float32(array) for name, array in weight_names.ours(file.tensors, file.format).items()
               if not weight_names.is_counter(name)}
    if not weights:
        raise WeightsError(f"{path} holds no tensors of a network; check the path")
    return weights


def as_float32(array: np.ndarray) -> np.ndarray:
    """The array, as float32 if it holds numbers of another precision."""
    return array.astype(np.float32, copy=False) if array.dtype.kind == "f" else array


def saved_config(path: str) -> dict[str, Any] | None:
    """Config dict saved with the weights (safetensors metadata, or the ``.json`` beside them), or None.

    Raises:
        WeightsError: the file, its metadata or the ``.json`` is damaged.
    """
    if os.path.exists(path) and tell_container(path) == "safetensors":
        config = safetensors_config(path)
        if config is not None:  # before a .json, which may be of a training's checkpoint of the same name
            return config
    beside = os.path.splitext(path)[0] + ".json"
    if os.path.exists(beside):
        try:
            with open(beside, encoding="utf-8") as file:
                content = json.load(file)
        except (OSError, ValueError, RecursionError) as error:
            raise WeightsError(f"{beside} is damaged ({error}); remove it and pass --config") from error
        config = content.get("config") if isinstance(content, dict) else None
        return config if isinstance(config, dict) else None
    return None


def count_classes(shapes: Mapping[str, Sequence[int]]) -> int | None:
    """Number of classes without background that a network's tensors were made for, or None.

    Args:
        shapes: dict name -> shape.
    """
    for name, shape in shapes.items():
        if name.endswith("conf_layer.bias"):
            boxes = shapes.get(name.replace("conf_layer", "bbox_layer"))
            if shape and boxes and boxes[0] >= 4:
                return int(shape[0]) // (int(boxes[0]) // 4) - 1
    segmentation = shapes.get("semantic_seg_conv.weight")
    return int(segmentation[0]) if segmentation else None


def compare(network: Mapping[str, Any], weights: Mapping[str, np.ndarray],
            is_new: Callable[[str], bool] = lambda name: False) -> LoadReport:
    """What of the weights fits a network: a LoadReport of what loading them would do, leftovers of v1.0 left out.

    Args:
        network: dict name -> anything with a shape. weights: dict name -> ndarray.
        is_new: tells from its name whether such files lack a tensor that the network has.
    """
    kept = weight_names.without_leftovers(weights, network)
    dropped = [name for name in weights if name not in kept]
    weights = kept
    ours = {name: tuple(tensor.shape) for name, tensor in network.items()}
    theirs = {name: tuple(array.shape) for name, array in weights.items()}
    lacking = [name for name in ours if name not in theirs]
    return LoadReport(
        loaded=[name for name in ours if theirs.get(name) == ours[name]],
        skipped=[(name, theirs[name], ours[name]) for name in ours
                 if name in theirs and theirs[name] != ours[name]],
        missing=[name for name in lacking if not is_new(name)],
        unused=[name for name in theirs if name not in ours],
        new=[name for name in lacking if is_new(name)],
        dropped=dropped)


def misfit(report: LoadReport, network: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> str:
    """The sentence for weights that do not fit a network, both as `compare` takes them."""
    theirs, ours = ({name: tuple(tensor.shape) for name, tensor in tensors.items()} for tensors in (weights, network))
    counts = count_classes(theirs), count_classes(ours)
    if report.skipped and None not in counts and counts[0] != counts[1]:
        return (f"the weights are for {counts[0]} classes but the config has {counts[1]} (background not "
                "counted); set dataset.class_names (--dataset or --config) to the classes of the weights, or "
                "train for other classes from them with train.py --trained_model, which keeps what fits")
    parts = []
    if report.skipped:
        name, shape, wanted = report.skipped[0]
        parts.append(f"{len(report.skipped)} of another shape (e.g. {name}: {list(shape)} in the file, "
                     f"{list(wanted)} in the network)")
    if report.missing:
        parts.append(f"{len(report.missing)} missing (e.g. {report.missing[0]})")
    if report.unused:
        parts.append(f"{len(report.unused)} unknown to the network (e.g. {report.unused[0]})")
    return f"the weights are of another network: {', '.join(parts)}; pass the --config they were made with"


def _fill(state, weights, names):
    for name in names:
        array = np.ascontiguousarray(weights[name]).reshape(weights[name].shape)
        state[name].set_value(array.astype(str(state[name].numpy().dtype), copy=False))


def load_weights(net: Any, weights: Mapping[str, np.ndarray], strict: bool = True) -> LoadReport:
    """Set a network's parameters and statistics.

    Args:
        net: paddle.nn.Layer.
        weights: dict name -> ndarray as ``read_weights`` gives.
        strict: True raises unless names and shapes agree exactly; the network is then left unchanged.
            False sets what fits.
    Returns:
        LoadReport.
    Raises:
        WeightsError: with both class counts when those differ; without ``strict`` only if nothing fits.
    """
    state = net.state_dict()
    report = compare(state, weights)
    if not report.loaded or (strict and (report.skipped or report.missing or report.unused)):
        raise WeightsError(misfit(report, state, weights))
    _fill(state, weights, report.loaded)
    return report


def backbone_weights(backbone: Any, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weights under our names -> those of a backbone alone, without ``backbone.`` (weight_names.backbones)."""
    return weight_names.backbones(weights, [len(stage) for stage in getattr(backbone, "layers", ())])


def compare_backbone(backbone: Any, weights: Mapping[str, np.ndarray]) -> LoadReport:
    """`compare` for a backbone; what its ``is_new`` names, ImageNet weights do not have."""
    return compare(backbone.state_dict(), weights, getattr(backbone, "is_new", lambda name: False))


def load_backbone(backbone: Any, path: str) -> LoadReport:
    """Fill a backbone from a file of a whole network or of a classification network.

    Names may be any that ``weight_names.backbones`` knows; a classifier is not used. What the file's kind of network
    does not have (``backbone.is_new(name)``: deformable convolutions' offsets, extra stages of VGG) keeps its initial
    values; of everything else all is set or nothing.

    Returns:
        LoadReport.
    Raises:
        WeightsError: when the file does not fill every other tensor of the backbone.
    """
    weights = backbone_weights(backbone, read_weights(path))
    report = compare_backbone(backbone, weights)
    if not backbone_fits(report):
        raise WeightsError(f"{path} {backbone_misfit(report)}; check backbone.path and backbone.args")
    _fill(backbone.state_dict(), weights, report.loaded)
    return report


def _surplus(report):
    """What the file's backbone has in its stages and the network's lacks: it is deeper, or of another kind."""
    return [name for name in report.unused if name.startswith("layers.")]


def backbone_fits(report: LoadReport) -> bool:
    """Whether a report of `compare_backbone` is of the same backbone; a classifier in the file does not matter."""
    return not (report.missing or report.skipped or _surplus(report))


def backbone_misfit(report: LoadReport) -> str:
    """What a sentence says about a file of which `backbone_fits` is not true."""
    misfits = [name for name, _, _ in report.skipped] + report.missing
    total = len(report.loaded) + len(misfits) + len(report.new)
    parts = []
    if misfits:
        shapes = [f": {list(theirs)} in the file, {list(ours)} in the network"
                  for name, theirs, ours in report.skipped if name == misfits[0]]
        parts.append(f"{len(misfits)} of {total} tensors are missing or of another shape (e.g. "
                     f"{misfits[0]}{''.join(shapes)})")
    if _surplus(report):
        parts.append(f"{len(_surplus(report))} of the file are of layers that it lacks (e.g. {_surplus(report)[0]})")
    return f"does not fit the backbone: {' and '.join(parts)}"


def save_pdparams(path: str, weights: Mapping[str, np.ndarray]) -> None:
    """Write weights as ``.pdparams`` under our names, atomically; ``paddle.load`` reads it."""
    write_pdparams(path, weights)


def save_safetensors(path: str, weights: Mapping[str, np.ndarray], config: dict[str, Any] | None,
                     half: bool = False) -> None:
    """Write weights and config as one ``.safetensors`` file, atomically.

    Args:
        weights: dict name -> ndarray.
        config: plain dict, kept as JSON in the metadata key 'config'; None for weights of no whole network.
        half: True stores tensors of two and more dimensions as float16; biases and batch norms, small and
            with variances that float16 cannot hold, stay float32.
    """
    write_safetensors(path, {name: array.astype(np.float16) if half and array.ndim > 1 else array
                             for name, array in weights.items()}, config)


def save_npz(path: str, weights: Mapping[str, np.ndarray]) -> None:
    """Write weights as ``.npz`` under the original's names and in its layout, atomically."""
    write_npz(path, weight_names.originals(weights))


def save_pth(path: str, weights: Mapping[str, np.ndarray]) -> None:
    """Write weights as PyTorch's ``.pth`` under the original's names and in its layout, atomically."""
    write_pth(path, weight_names.originals(weights))
