"""PyTorch's files of tensors, read and written without PyTorch.

Since version 1.6 they are a zip file: ``data.pkl`` describes the tensors, ``data/<key>`` holds the numbers of each
storage. Before, they were pickles in a row (a magic number, a version, the system, the description, the keys of the
storages), then each storage. A tensor is a view of a storage: offset, shape, strides.
"""
from __future__ import annotations

import math
import struct
import zipfile
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from utils import safe_pickle
from utils.safe_pickle import DamagedFile, checked_shape, native

MAGIC = 0x1950A86A20F9469CFC6C  # the first object of a file from before 1.6
DTYPES = {"Float": "<f4", "Double": "<f8", "Half": "<f2", "BFloat16": "bfloat16", "Long": "<i8", "Int": "<i4",
          "Short": "<i2", "Char": "|i1", "Byte": "|u1", "Bool": "|b1"}
ALIGNMENT = 64  # of a storage in the zip file: PyTorch can then map it into memory


class _Storage(NamedTuple):
    """The numbers of some tensors: dtype, key, how many there are, and at which of them a view of them starts."""

    dtype: str
    key: str
    size: int
    start: int = 0


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuild_tensor(storage, offset, shape, strides, *_autograd):
    if not isinstance(storage, _Storage) or type(offset) is not int or offset < 0:
        raise DamagedFile("a tensor in it has no storage")
    return _Tensor(storage, offset, checked_shape(shape), checked_shape(strides))


class _Parameter:
    """Stand-in for torch.nn.Parameter, of which the files of 2017 are made: its tensor."""

    def __new__(cls, tensor=None, *_autograd):
        self = super().__new__(cls)
        self.tensor = tensor
        return self

    def __setstate__(self, state):
        """Whether it needs a gradient is of no interest here."""


_TABLE = {
    "torch.Size": tuple,
    "torch._utils._rebuild_parameter": _Parameter, "torch.nn.parameter.Parameter": _Parameter,
    "torch._utils._rebuild_tensor": _rebuild_tensor, "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    **{f"torch.{name}Storage": dtype for name, dtype in DTYPES.items()}}  # only named, and no function


class _Storages:
    """What the persistent ids of a description name; `found` is dict key -> _Storage."""

    def __init__(self) -> None:
        self.found: dict[str, _Storage] = {}

    def __call__(self, identity: Any) -> _Storage:
        """('storage', type, key, location, size[, view]) -> _Storage; a view is None or (key, offset, size)."""
        kind, dtype, key, _location, size, *view = identity
        dtype = getattr(dtype, "stand_in", "")
        if (kind != "storage" or dtype not in DTYPES.values() or type(key) not in (str, int) or type(size) is not int
                or size < 0):
            raise DamagedFile("it refers to something that is no storage of numbers")
        key, start = str(key), 0
        if self.found.setdefault(key, _Storage(dtype, key, size)) != (dtype, key, size, 0):
            raise DamagedFile(f"the storage {key} is described twice")
        if view and view[0] is not None:
            _, start, length = view[0]
            if not 0 <= start <= start + length <= size:
                raise DamagedFile("a view lies outside of its storage")
        return _Storage(dtype, key, size, start)


def _state_dict(content):
    """name -> _Tensor of what torch.save was given: a state dict, or a dictionary with one inside."""
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise DamagedFile("it is no dictionary of tensors")
    tensors = {str(name): getattr(value, "tensor", value) for name, value in content.items()}
    return {name: tensor for name, tensor in tensors.items() if isinstance(tensor, _Tensor)}


def _numbers(data, storage, big_endian):
    """1-D ndarray of the bytes of a storage; bfloat16, which numpy has not, is the upper half of a float32."""
    dtype = np.dtype("<u2" if storage.dtype == "bfloat16" else storage.dtype)
    flat = native(np.frombuffer(data, dtype.newbyteorder(">") if big_endian else dtype))
    if flat.size != storage.size:
        raise DamagedFile(f"the storage {storage.key} is of another size")
    return (flat.astype(np.uint32) << 16).view(np.float32) if storage.dtype == "bfloat16" else flat


def _view(flat, tensor):
    """ndarray of a tensor in the 1-D numbers of its storage; contiguous, and copied only if it was not."""
    offset, shape, strides = tensor.storage.start + tensor.offset, tensor.shape, tensor.strides
    if len(shape) != len(strides):
        raise DamagedFile("a tensor in it has more sizes than strides")
    count = math.prod(shape)
    if not count:
        return np.zeros(shape, flat.dtype)
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides))
    if last >= flat.size or count > flat.size:  # the second: strides of 0 would claim any amount of memory
        raise DamagedFile("a tensor in it lies outside of its storage")
    strided = np.lib.stride_tricks.as_strided(flat[offset:], shape, [stride * flat.itemsize for stride in strides])
    return strided if strided.flags.c_contiguous else strided.copy()


def read_zip(path: str) -> dict[str, np.ndarray]:
    """Tensors of a file since PyTorch 1.6: dict name -> ndarray. Any Exception if it is damaged."""
    with zipfile.ZipFile(path) as archive:
        entries = set(archive.namelist())
        described = next(name for name in entries if name.endswith("data.pkl"))
        folder = described[:-len("data.pkl")]
        with archive.open(described) as description:
            wanted = _state_dict(safe_pickle.load(description, _TABLE, _Storages()))
        big_endian = f"{folder}byteorder" in entries and archive.read(f"{folder}byteorder") == b"big"
        storages = {}
        for tensor in wanted.values():
            key = tensor.storage.key
            if key not in storages:
                storages[key] = _numbers(archive.read(f"{folder}data/{key}"), tensor.storage, big_endian)
    return {name: _view(storages[tensor.storage.key], tensor) for name, tensor in wanted.items()}


def read_legacy(file: BinaryIO) -> dict[str, np.ndarray]:
    """Tensors of a file from before PyTorch 1.6, open behind its magic number: dict name -> ndarray."""
    described = _Storages()
    safe_pickle.load(file)  # the version of the protocol, 1001
    system = safe_pickle.load(file)
    big_endian = isinstance(system, dict) and system.get("little_endian") is False
    wanted = _state_dict(safe_pickle.load(file, _TABLE, described))
    storages = {}
    for key in safe_pickle.load(file):
        key = str(key) if type(key) is int else key
        storage = described.found[key]
        size = struct.unpack("<q", file.read(8))[0]
        if size != storage.size:
            raise DamagedFile(f"the storage {key} is of another size")
        itemsize = 2 if storage.dtype == "bfloat16" else np.dtype(storage.dtype).itemsize
        storages[key] = _numbers(file.read(size * itemsize), storage, big_endian)
    return {name: _view(storages[tensor.storage.key], tensor) for name, tensor in wanted.items()}


# Writing. The description is a pickle of protocol 2, put together from the few instructions it needs.

def _text(text):
    data = text.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def _integer(number):
    data = number.to_bytes(9, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def _integers(numbers):
    return b"(" + b"".join(map(_integer, numbers)) + b"t"


_EMPTY_ORDERED_DICT = b"ccollections\nOrderedDict\n)R"


def _describe(tensors):
    """The bytes of ``data.pkl`` for dict name -> contiguous ndarray: an OrderedDict of tensors, one storage each."""
    kinds = {np.dtype(code): name for name, code in DTYPES.items() if code != "bfloat16"}
    parts = [b"\x80\x02", _EMPTY_ORDERED_DICT, b"("]
    for key, (name, array) in enumerate(tensors.items()):
        if array.dtype not in kinds:
            raise ValueError(f"{name} is of type {array.dtype}, which PyTorch does not have")
        storage = (b"(" + _text("storage") + f"ctorch\n{kinds[array.dtype]}Storage\n".encode() + _text(str(key))
                   + _text("cpu") + _integer(array.size) + b"tQ")
        parts += [_text(name), b"ctorch._utils\n_rebuild_tensor_v2\n", b"(", storage, _integer(0),
                  _integers(array.shape), _integers(_strides(array.shape)), b"\x89", _EMPTY_ORDERED_DICT, b"tR"]
    return b"".join([*parts, b"u."])


def _strides(shape):
    """Strides of a contiguous tensor in elements, as PyTorch counts them."""
    return [math.prod(max(size, 1) for size in shape[axis + 1:]) for axis in range(len(shape))]


def write_zip(file: BinaryIO, tensors: dict[str, np.ndarray]) -> None:
    """Write what ``torch.save`` would for an OrderedDict of tensors.

    Args:
        file: open for writing, and seekable.
        tensors: dict name -> contiguous ndarray of a type that PyTorch has.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        def add(name, data):
            info = zipfile.ZipInfo(f"archive/{name}")
            start = file.tell() + zipfile.sizeFileHeader + len(info.filename) + 4
            padding = -start % ALIGNMENT
            info.extra = b"FB" + struct.pack("<H", padding) + bytes(padding)
            with archive.open(info, "w") as entry:
                entry.write(data)

        add("data.pkl", _describe(tensors))
        add("byteorder", b"little")
        for key, array in enumerate(tensors.values()):
            add(f"data/{key}", array.astype(array.dtype.newbyteorder("<"), copy=False).reshape(-1).view(np.uint8))
        add("version", b"3\n")
