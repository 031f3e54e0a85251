"""Files of weights: the containers, whatever the tensors in them are called (utils/weight_names.py says that).

    format        what it is                                                read   written
    pdparams      Paddle's pickle of a dictionary of arrays                 yes    yes
    safetensors   with the config in its metadata                           yes    yes
    npz           numpy's archive of arrays                                 yes    yes
    pth           PyTorch's zip file, and what it wrote before 1.6          yes    the zip file
    detectron     Detectron's pickle {"blobs": {name: array}}               yes    no

A format is told from the content. Nothing in a file is executed (utils/safe_pickle.py), and PyTorch is not needed.
Every file is written whole or not at all.
"""
from __future__ import annotations

import errno
import json
import pickle
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from utils import safe_pickle, torch_files
from utils.files import atomic_path
from utils.runtime import UserError
from utils.safe_pickle import DamagedFile

PADDLE_NAME_TABLE = "StructuredToParameterName@@"


class WeightsError(UserError):
    """A weights file that cannot be read or written, or that does not fit the network."""


class WeightFile(NamedTuple):
    """Content of a file.

    Attributes:
        format: 'pdparams', 'safetensors', 'npz', 'pth' or 'detectron'.
        tensors: dict name -> ndarray in the order of the file, names as they are in it; bfloat16 comes as float32.
        config: dict from the metadata of a .safetensors file, or None.
    """

    format: str
    tensors: dict[str, np.ndarray]
    config: dict[str, Any] | None = None


def tell_container(path: str) -> str:
    """'pickle', 'safetensors', 'npz' or 'pth' (the zip file), from the first bytes of a file.

    Raises:
        WeightsError: when it cannot be opened or is none of these.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(9)
    except OSError as error:
        raise WeightsError(f"cannot open the weights {path} ({error.strerror}); check the path") from error
    if head[:2] == b"PK":
        return _tell_zip(path)
    if head[8:9] == b"{":
        return "safetensors"
    if head[:1] == b"\x80":
        return "pickle"
    raise WeightsError(f"{path} is neither .pdparams, .pth, .npz nor .safetensors; if it is a download, it may be "
                       "a web page or a git-lfs pointer")


def _tell_zip(path):
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception as error:  # the damaged directory of a zip file raises almost anything
        raise WeightsError(f"{path} is truncated or damaged; copy it again") from error
    if any(name.endswith("data.pkl") for name in names):
        return "pth"
    if names and all(name.endswith(".npy") for name in names):
        return "npz"
    raise WeightsError(f"{path} is a zip file of something else than weights; unpack it and pass what is in it")


def read_file(path: str) -> WeightFile:
    """Read a file of weights of any of the formats above.

    Returns:
        WeightFile.
    Raises:
        WeightsError: when the file is missing, damaged, of another kind, or asks for code to be run.
    """
    reader, sentence = {
        "pickle": (_read_pickle, "is damaged or no weights file ({}); copy it again, or save the network's state "
                                 "dict alone"),
        "safetensors": (_read_safetensors, "is no readable safetensors file ({}); copy it again"),
        "npz": (_read_npz, "is damaged or holds Python objects ({}); save plain arrays with numpy.savez"),
        "pth": (lambda path: WeightFile("pth", torch_files.read_zip(path)),
                "is damaged or no file of PyTorch weights ({}); copy it again, or save the network's state dict "
                "alone")}[tell_container(path)]
    content = _guarded(reader, path, sentence)
    if not content.tensors:
        raise WeightsError(f"{path} holds no tensors; it is no weights file")
    return content


def unpickle_arrays(path: str) -> dict[str, np.ndarray]:
    """Content of a ``.pdparams`` or ``.pdopt`` file as dict name -> ndarray, executing nothing.

    Raises:
        WeightsError: when the file is damaged or holds anything else.
    """
    return _guarded(_read_pickle, path, "is damaged or no Paddle weights file ({}); copy it again").tensors


def _guarded(reader, path, sentence):
    """`reader(path)`, with whatever it raises as a WeightsError of the given sentence."""
    try:
        content = reader(path)
    except Exception as error:  # a damaged file raises almost anything
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # that is a seek to a garbled place
            raise WeightsError(f"cannot read {path} ({error.strerror or error}); check the path") from error
        reason = " ".join(str(error).split())[:200] if isinstance(error, DamagedFile) else "its content is garbled"
        raise WeightsError(f"{path} {sentence.format(reason)}") from error
    return content


def _read_pickle(path):
    """Paddle's and Detectron's pickles, and the file PyTorch wrote before 1.6, which begins with one."""
    with open(path, "rb") as file:
        content = safe_pickle.load(file)
        if type(content) is int and content == torch_files.MAGIC:
            return WeightFile("pth", torch_files.read_legacy(file))
    if not isinstance(content, dict):
        raise DamagedFile("it is no dictionary of tensors")
    if isinstance(content.get("blobs"), dict):
        return WeightFile("detectron", _arrays_of(content["blobs"]))
    return WeightFile("pdparams", _arrays_of(content))


def _arrays_of(content):
    """The arrays in an unpickled dictionary; other entries (Paddle's table of names, an epoch) are left out."""
    arrays = {}
    for name, value in content.items():
        if isinstance(value, tuple) and len(value) == 2:
            value = value[1]  # a tensor saved outside a state dict is (Paddle's internal name, array)
        value = safe_pickle.unwrap(value)
        if isinstance(value, np.ndarray):
            arrays[str(name)] = value
    return arrays


def _read_npz(path):
    with np.load(path, allow_pickle=False) as file:
        tensors = {name: file[name] for name in file.files}
    # What does not begin as an array numpy gives as bytes.
    if not all(isinstance(array, np.ndarray) and array.dtype.kind in "biuf" for array in tensors.values()):
        raise DamagedFile("it has something else than arrays of numbers")
    return WeightFile("npz", tensors)


def _read_safetensors(path):
    with safe_open(path, framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        metadata = file.metadata() or {}
    order = json.loads(metadata.get("order", "[]"))
    if sorted(order) == sorted(tensors):  # the library sorts the names; how they were is in the metadata
        tensors = {name: tensors[name] for name in order}
    return WeightFile("safetensors", tensors, _config_in(metadata))


def _config_in(metadata):
    """The config dict in the metadata of a .safetensors file, or None; any Exception if it is damaged."""
    config = json.loads(metadata["config"]) if metadata.get("config") else None
    if not isinstance(config, (dict, type(None))):
        raise DamagedFile("its config is no dictionary")
    return config


def safetensors_config(path: str) -> dict[str, Any] | None:
    """The config dict in the metadata of a .safetensors file, or None; the tensors are not read.

    Raises:
        WeightsError: when the header is damaged.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            return _config_in(file.metadata() or {})
    except Exception as error:  # garbled JSON raises almost anything
        raise WeightsError(f"the metadata of {path} is damaged ({error}); pass --config") from error


def _contiguous(tensors):
    # reshape: ascontiguousarray makes one dimension out of none
    return {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in tensors.items()}


def write_pdparams(path: str, tensors: Mapping[str, np.ndarray]) -> None:
    """Write tensors as ``paddle.save`` would a state dict; ``paddle.load`` gives Paddle's tensors."""
    tensors = _contiguous(tensors)
    table = {name: name for name in tensors}  # without it paddle.load would leave the arrays as they are
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        pickle.dump({**tensors, PADDLE_NAME_TABLE: table}, file, protocol=4)


def write_safetensors(path: str, tensors: Mapping[str, np.ndarray], config: dict[str, Any] | None = None) -> None:
    """Write tensors as ``.safetensors``, their order and the config (a plain dict) as JSON in the metadata."""
    metadata = {"order": json.dumps(list(tensors))}
    if config is not None:
        metadata["config"] = json.dumps(config)
    with atomic_path(path) as temporary:
        save_file(_contiguous(tensors), temporary, metadata=metadata)


def write_npz(path: str, tensors: Mapping[str, np.ndarray]) -> None:
    """Write tensors as numpy's ``.npz``, not compressed."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **_contiguous(tensors))


def write_pth(path: str, tensors: Mapping[str, np.ndarray]) -> None:
    """Write tensors as PyTorch's zip file; ``torch.load(path, weights_only=True)`` gives an OrderedDict."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        torch_files.write_zip(file, _contiguous(tensors))
