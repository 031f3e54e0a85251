"""Reading pickles that strangers wrote: plain containers, numbers, text and numpy arrays, and nothing that runs.

A pickle can name any function of any module and have it called. Here every name is looked up in a table of stand-ins,
and none is imported. Arrays are put together here too, because numpy's own functions for it trust what they are given.
"""
from __future__ import annotations

import math
import pickle
import re
from collections.abc import Iterable
from typing import IO, Any, Callable, ClassVar

import numpy as np


class DamagedFile(ValueError):
    """Why a file cannot be read, as the end of a sentence about it."""


def checked_key(key: Any) -> Any:
    """The key of a dictionary, which may be no tuple: to hash one that is nested deeply enough takes for ever."""
    if isinstance(key, tuple):
        raise DamagedFile("it has a dictionary with tuples as keys")
    return key


class PlainDict(dict):
    """Stand-in for collections.OrderedDict; the attributes that PyTorch's state dicts have are dropped."""

    def __init__(self, pairs: Iterable[tuple[Any, Any]] = ()):
        super().__init__((checked_key(key), value) for key, value in pairs)

    def __setstate__(self, state: Any) -> None:
        pass


class _Dtype:
    """Stand-in for numpy.dtype: numbers and booleans."""

    def __init__(self, code, *_flags):
        if not isinstance(code, str) or not re.fullmatch(r"[<>=|]?([iu][1248]|f[248]|b1)", code):
            kind = "Python objects" if code in ("O", "O8", "|O") else "something else than numbers"
            raise DamagedFile(f"it has an array of {kind}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state):
        """state: (version, byte order, subarray, names, fields, ...)."""
        if state[2:5] != (None, None, None) or state[1] not in ("<", ">", "=", "|"):
            raise DamagedFile("it has an array of records")
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stand-in for an array; `value` is the ndarray once it is there."""

    value = None

    def __setstate__(self, state):
        """state: (version, shape, dtype, Fortran order, bytes)."""
        _version, shape, dtype, fortran, data = state
        self.value = _array(dtype, shape, data, "F" if fortran else "C")


def _array(dtype, shape, data, order):
    if isinstance(data, str):
        data = data.encode("latin1")  # Python 2's bytes
    if not isinstance(dtype, _Dtype) or not isinstance(data, (bytes, bytearray)):
        raise DamagedFile("it has an array of Python objects")
    if math.prod(checked_shape(shape)) * dtype.dtype.itemsize != len(data):
        raise DamagedFile("it has an array whose shape does not fit its content")
    return native(np.frombuffer(data, dtype.dtype).reshape(shape, order=order))


def checked_shape(shape: Any) -> tuple[int, ...]:
    """The shape (or strides) that a file gives, as a tuple of integers >= 0, as many and as large as numpy has them.

    Raises:
        DamagedFile: it is something else.
    """
    if not (isinstance(shape, (list, tuple)) and len(shape) <= 32
            and all(type(size) is int and 0 <= size < 2 ** 63 for size in shape)):
        raise DamagedFile("a tensor in it has no proper shape")
    return tuple(shape)


def native(array: np.ndarray) -> np.ndarray:
    """The array in this machine's byte order."""
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _reconstruct(_kind, _shape, _code):
    return _Array()


def _from_buffer(data, dtype, shape, order):
    result = _Array()
    result.value = _array(dtype, shape, data, "F" if order == "F" else "C")
    return result


def _scalar(dtype, data):
    return _array(dtype, (), data, "C").item()


def _encode(text, encoding):
    """Stand-in for _codecs.encode: how Python 3 writes bytes for protocol 2."""
    if encoding not in ("latin1", "latin-1"):
        raise DamagedFile("it asks for an encoding that arrays do not need")
    return text.encode("latin1")


def _no_bytes():
    """Stand-in for bytes, which protocol 2 needs to write none of them."""
    return b""


STAND_INS: dict[str, Callable] = {
    "collections.OrderedDict": PlainDict, "_codecs.encode": _encode, "numpy.ndarray": _Array, "numpy.dtype": _Dtype,
    "builtins.tuple": tuple, "__builtin__.tuple": tuple, "builtins.bytes": _no_bytes, "__builtin__.bytes": _no_bytes}
for _module in ("numpy.core", "numpy._core"):  # numpy 2 renamed its core
    STAND_INS.update({f"{_module}.multiarray._reconstruct": _reconstruct, f"{_module}.multiarray.scalar": _scalar,
                      f"{_module}.numeric._frombuffer": _from_buffer})


class Function:
    """What the name of a function becomes: its stand-in can be called, and nothing about it changed."""

    __slots__ = ("stand_in",)

    def __init__(self, stand_in: Callable):
        self.stand_in = stand_in

    def __call__(self, *arguments: Any) -> Any:
        return self.stand_in(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise DamagedFile("it changes something that is no array")


class _Unpickler(pickle._Unpickler):
    """Python's unpickler in Python: the one in C makes room for as many objects as a file of ten bytes announces."""

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)
    for _opcode in (pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET):  # they hash what they hold; see checked_key
        del dispatch[_opcode[0]]

    def load_setitem(self):
        checked_key(self.stack[-2])
        super().load_setitem()

    def load_setitems(self):
        for key in self.stack[::2]:  # keys and values since the mark
            checked_key(key)
        super().load_setitems()

    def load_dict(self):
        for key in self.stack[::2]:
            checked_key(key)
        super().load_dict()

    def load_bytearray8(self):
        """As in the base class, which first fills with zeros what a file announces."""
        self.append(bytearray(self.read(int.from_bytes(self.read(8), "little"))))

    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.DICT[0]] = load_dict
    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8

    def __init__(self, file, table, persistent):
        super().__init__(file, encoding="latin1")
        self.table, self.persistent = table, persistent

    def find_class(self, module, name):
        dotted = f"{module}.{name}"
        if dotted not in self.table:
            raise DamagedFile(f"it asks for {dotted}, which weights do not need")
        stand_in = self.table[dotted]
        return stand_in if isinstance(stand_in, type) else Function(stand_in)

    def persistent_load(self, identity):
        if self.persistent is None:
            raise DamagedFile("it refers to something outside of it")
        return self.persistent(identity)


def load(file: IO[bytes], table: dict[str, Any] | None = None, persistent: Callable[[Any], Any] | None = None) -> Any:
    """Read one pickle from an open binary file and leave the position behind it.

    Args:
        table: dict "module.name" -> stand-in: more of what the pickle may name, and call if it is a function.
        persistent: function from a persistent id to an object, if the pickle may have such.
    Returns:
        dict, list, tuple, text, bytes, number, None, or what the table makes; arrays are wrapped, see `unwrap`.
    Raises:
        DamagedFile: it wants more than the table has. A damaged one can raise any other Exception.
    """
    return _Unpickler(file, {**STAND_INS, **(table or {})}, persistent).load()


def unwrap(value: Any) -> Any:
    """The ndarray in an array's stand-in; anything else as it is."""
    return value.value if isinstance(value, _Array) else value
