"""Reading and writing network weights: ``.pdparams``, ``.npz`` and ``.safetensors``.

Names are those of the original's state dict, except that Paddle calls the statistics of a batch norm
``_mean`` and ``_variance``. Reading accepts either form, recognises a format by its content and executes
nothing that a file contains (a ``.pdparams`` is a pickle, which ``paddle.load`` would run).
"""
from __future__ import annotations

import dataclasses
import json
import os
import pickle
import re
import zipfile

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from utils.files import atomic_path
from utils.runtime import UserError

STATISTICS = {"running_mean": "_mean", "running_var": "_variance"}
PADDLE_NAME_TABLE = "StructuredToParameterName@@"


class WeightsError(UserError):
    """A weights file that cannot be read, or that does not fit the network."""


@dataclasses.dataclass
class Report:
    """What loading did.

    Attributes:
        loaded: names that were set.
        skipped: (name, shape in the file, shape in the network) of tensors of another shape.
        missing: names of the network that the file lacks.
        unused: names of the file that the network lacks.
    """

    loaded: list
    skipped: list
    missing: list
    unused: list

    def summary(self):
        """One readable paragraph; every skipped tensor is listed."""
        lines = [f"{len(self.loaded)} tensors loaded, {len(self.skipped)} of another shape skipped, "
                 f"{len(self.missing)} missing in the file, {len(self.unused)} in the file unused"]
        lines += [f"  skipped {name}: {list(theirs)} in the file, {list(ours)} in the network"
                  for name, theirs, ours in self.skipped]
        lines += [f"  missing {name}" for name in self.missing[:10]]
        return "\n".join(lines)


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles dicts, lists and numpy arrays, and nothing that could run code."""

    ALLOWED = {("collections", "OrderedDict"), ("builtins", "tuple"), ("_codecs", "encode"),
               ("numpy", "ndarray"), ("numpy", "dtype")}
    NUMPY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric",
                     "numpy._core.numeric")

    def find_class(self, module, name):
        if (module, name) in self.ALLOWED:
            return super().find_class(module, name)
        if module in self.NUMPY_MODULES and name in ("_reconstruct", "scalar", "_frombuffer"):
            # numpy 2 renamed its core; take the function from wherever the installed numpy keeps it
            core = np._core if int(np.__version__.split(".")[0]) >= 2 else np.core
            return getattr(core.numeric if name == "_frombuffer" else core.multiarray, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which weights do not need")


def unpickle_arrays(path):
    """Content of a ``.pdparams`` or ``.pdopt`` file as dict name -> ndarray, executing nothing.

    Raises:
        WeightsError: when the file is damaged or holds anything else.
    """
    try:
        with open(path, "rb") as file:
            content = _ArrayUnpickler(file).load()
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror}") from error
    except Exception as error:  # a damaged pickle raises almost anything
        raise WeightsError(f"{path} is damaged or no Paddle weights file ({error}); copy it again") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} does not hold a dictionary of tensors; it is no weights file")
    arrays = {}
    for name, value in content.items():
        if isinstance(value, tuple) and len(value) == 2:
            value = value[1]  # a tensor saved outside a state dict is (Paddle's internal name, array)
        if isinstance(value, np.ndarray):
            arrays[str(name)] = value
    return arrays


def _read_npz(path):
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise WeightsError(f"{path} is damaged or holds Python objects ({error}); "
                           "save plain arrays with numpy.savez") from error


def _read_safetensors(path):
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError, TypeError, ValueError) as error:
        raise WeightsError(f"{path} is no readable safetensors file ({error}); copy it again, with tensors "
                           "in float32 or float16") from error


def _format(path):
    """'pickle', 'npz', 'safetensors' or 'torch', from the first bytes."""
    try:
        with open(path, "rb") as file:
            head = file.read(9)
    except OSError as error:
        raise WeightsError(f"cannot open the weights {path} ({error.strerror}); check the path") from error
    if head[:2] == b"PK":
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except zipfile.BadZipFile as error:
            raise WeightsError(f"{path} is truncated; copy it again") from error
        return "npz" if all(name.endswith(".npy") for name in names) else "torch"
    if head[8:9] == b"{":
        return "safetensors"
    if head[:1] == b"\x80":
        return "pickle"
    raise WeightsError(f"{path} is neither .pdparams, .npz nor .safetensors; if it is a download, it may be "
                       "a web page or a git-lfs pointer")


def _paddle_name(name):
    stem, _, leaf = name.rpartition(".")
    return f"{stem}.{STATISTICS[leaf]}" if leaf in STATISTICS and stem else name


def read_weights(path):
    """Tensors of a weights file under the network's names.

    Args:
        path: ``.pdparams``, ``.npz`` or ``.safetensors`` (told from the content). Batch-norm statistics may
            have the original's or Paddle's names; ``num_batches_tracked`` is ignored.
    Returns:
        dict name -> ndarray; float16 and float64 come as float32.
    Raises:
        WeightsError: when the file is missing, damaged or of another kind.
    """
    kind = _format(path)
    if kind == "torch":
        raise WeightsError(f"{path} is a PyTorch file; convert it to .npz with the original's names first")
    reader = {"pickle": unpickle_arrays, "npz": _read_npz, "safetensors": _read_safetensors}[kind]
    weights = {}
    for name, array in reader(path).items():
        if name == PADDLE_NAME_TABLE or name.endswith("num_batches_tracked"):
            continue
        floating = array.dtype in (np.float16, np.float64)
        weights[_paddle_name(name)] = array.astype(np.float32) if floating else array
    if not weights:
        raise WeightsError(f"{path} holds no tensors")
    return weights


def saved_config(path):
    """Config dict saved with the weights (the ``.json`` beside them, or safetensors metadata), or None."""
    beside = os.path.splitext(path)[0] + ".json"
    if os.path.exists(beside):
        try:
            with open(beside, encoding="utf-8") as file:
                content = json.load(file)
        except (OSError, ValueError) as error:
            raise WeightsError(f"{beside} is damaged ({error}); remove it and pass --config") from error
        return content.get("config") if isinstance(content, dict) else None
    if os.path.exists(path) and _format(path) == "safetensors":
        try:
            with safe_open(path, framework="numpy") as file:
                text = (file.metadata() or {}).get("config")
            return json.loads(text) if text else None
        except (SafetensorError, ValueError) as error:
            raise WeightsError(f"the metadata of {path} is damaged ({error}); pass --config") from error
    return None


def count_classes(shapes):
    """Number of classes without background that a network's tensors were made for, or None.

    Args:
        shapes: dict name -> shape.
    """
    for name, shape in shapes.items():
        if name.endswith("conf_layer.bias"):
            boxes = shapes.get(name.replace("conf_layer", "bbox_layer"))
            if boxes and boxes[0] >= 4:
                return int(shape[0]) // (int(boxes[0]) // 4) - 1
    segmentation = shapes.get("semantic_seg_conv.weight")
    return int(segmentation[0]) if segmentation else None


def _drop_legacy(weights, ours):
    """Leave out what the original's loader drops: old backbone aliases, surplus P6/P7 layers (v1.0)."""
    has_current = any(name.startswith("backbone.layers.") for name in weights)

    def legacy(name):
        alias = has_current and re.match(r"backbone\.layer\d", name)
        return name not in ours and (alias or name.startswith("fpn.downsample_layers."))

    return {name: array for name, array in weights.items() if not legacy(name)}


def _misfit(report, theirs, ours):
    """The sentence for weights that do not fit."""
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


def load_weights(net, weights, strict=True):
    """Set a network's parameters and statistics.

    Args:
        net: paddle.nn.Layer.
        weights: dict name -> ndarray as ``read_weights`` gives.
        strict: True raises unless names and shapes agree exactly; the network is then left unchanged.
            False sets what fits.
    Returns:
        Report.
    Raises:
        WeightsError: with both class counts when those differ; without ``strict`` only if nothing fits.
    """
    state = net.state_dict()
    weights = _drop_legacy(weights, state)
    ours = {name: tuple(tensor.shape) for name, tensor in state.items()}
    theirs = {name: tuple(array.shape) for name, array in weights.items()}
    report = Report(
        loaded=[name for name in ours if theirs.get(name) == ours[name]],
        skipped=[(name, theirs[name], ours[name]) for name in ours
                 if name in theirs and theirs[name] != ours[name]],
        missing=[name for name in ours if name not in theirs],
        unused=[name for name in theirs if name not in ours])
    if not report.loaded or (strict and (report.skipped or report.missing or report.unused)):
        raise WeightsError(_misfit(report, theirs, ours))
    for name in report.loaded:
        state[name].set_value(weights[name].astype(str(state[name].numpy().dtype), copy=False))
    return report


def load_backbone(backbone, path):
    """Fill a backbone from a file of a whole network or of a classification network.

    Names may start with ``backbone.``, or be torchvision's (``layer1.0...`` is ``layers.0.0...``, as the
    original maps them); a classifier (``fc``) is not used.

    Returns:
        Report.
    Raises:
        WeightsError: when the file does not fill every tensor of the backbone.
    """
    weights = read_weights(path)
    prefix = "backbone."
    if any(name.startswith(prefix) for name in weights):
        weights = {name[len(prefix):]: array for name, array in weights.items() if name.startswith(prefix)}
    renamed = {}
    for name, array in weights.items():
        stage = re.match(r"layer(\d)\.", name)
        renamed[f"layers.{int(stage.group(1)) - 1}.{name[stage.end():]}" if stage else name] = array
    ours = backbone.state_dict()
    misfits = [name for name, tensor in ours.items()
               if name not in renamed or tuple(renamed[name].shape) != tuple(tensor.shape)]
    if misfits:
        raise WeightsError(f"{path} does not fit the backbone: {len(misfits)} of {len(ours)} tensors are "
                           f"missing or of another shape (e.g. {misfits[0]}); check backbone.path and "
                           "backbone.args")
    return load_weights(backbone, renamed, strict=False)


def save_safetensors(path, weights, config, half=False):
    """Write weights and config as one ``.safetensors`` file, atomically.

    Args:
        weights: dict name -> ndarray.
        config: plain dict, kept as JSON in the metadata key 'config'.
        half: True stores tensors of two and more dimensions as float16; biases and batch norms, small and
            with variances that float16 cannot hold, stay float32.
    """
    arrays = {name: np.ascontiguousarray(array, np.float16 if half and array.ndim > 1 else None)
              for name, array in weights.items()}
    with atomic_path(path) as temporary:
        save_file(arrays, temporary, metadata={"config": json.dumps(config)})


def save_npz(path, weights):
    """Write weights as ``.npz`` under the original's names (``running_mean``, ``running_var``), atomically."""
    theirs = {ours: name for name, ours in STATISTICS.items()}
    renamed = {}
    for name, array in weights.items():
        stem, dot, leaf = name.rpartition(".")
        renamed[stem + dot + theirs.get(leaf, leaf)] = array
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **renamed)
