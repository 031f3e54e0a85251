"""Files of weights: every format there and back, files that others wrote, and files that attack."""
import os
import pickle
import re
import struct
import tracemalloc
import zipfile

import numpy as np
import paddle
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from utils import weight_files as F
from utils.torch_files import MAGIC

WRITERS = {"pdparams": F.write_pdparams, "safetensors": F.write_safetensors, "npz": F.write_npz, "pth": F.write_pth}


def _tensors():
    """Of all types and odd shapes, in an order that no sorting gives."""
    rng = np.random.RandomState(0)
    return {"z.weight": rng.uniform(-1, 1, (4, 3, 2, 2)).astype(np.float32),
            "a.running_var": rng.uniform(0, 1, 4).astype(np.float32),
            "a.num_batches_tracked": np.array(800000, np.int64),
            "m.linear.weight": np.float32([[1, 2, 3], [4, 5, 6]]).T,
            "half": rng.uniform(-1, 1, (2, 3)).astype(np.float16), "double": rng.uniform(-1, 1, 3),
            "é.empty": np.zeros((0, 3), np.float32), "flag": np.array([True, False]),
            "ints": np.array([-2 ** 31, 7], np.int32), "bytes": np.arange(3, dtype=np.uint8)}


def _same(first, second):
    assert list(first) == list(second)
    for name in first:
        assert first[name].dtype == second[name].dtype and first[name].shape == second[name].shape, name
        assert np.array_equal(first[name], second[name]), name


def test_an_order_that_another_tool_left_behind_does_not_matter(tmp_path):
    """It took a tensor away and kept the metadata."""
    path = str(tmp_path / "changed.safetensors")
    save_file({"b": np.ones(2, np.float32), "a": np.zeros(1, np.float32)}, path, {"order": '["b", "gone", "a"]'})
    assert sorted(F.read_file(path).tensors) == ["a", "b"]


@pytest.mark.parametrize("kind", ["pth", "npz"])
def test_a_zip_file_that_points_before_its_beginning_is_damaged_and_not_unreadable(tmp_path, kind):
    """The seek there fails as if the disk did."""
    path = tmp_path / "net.x"
    WRITERS[kind](str(path), _tensors())
    data = bytearray(path.read_bytes())
    place = data.rfind(b"PK\5\6") + 16  # where the end of the archive says its directory begins
    struct.pack_into("<I", data, place, struct.unpack_from("<I", data, place)[0] + 5000000)
    path.write_bytes(data)
    with pytest.raises(F.WeightsError, match="damaged"):
        F.read_file(str(path))


# Hand-made pickles: the instructions of a value that pickle itself writes, without frame and end.

def _value(value):
    return pickle.dumps(value, 2)[2:-1]


def _dict(**items):
    """A pickled dict, its values given as instructions."""
    return b"}(" + b"".join(_value(name) + value for name, value in items.items()) + b"u"


def _call(function, *arguments):
    return b"c" + function.encode() + b"\n(" + b"".join(arguments) + b"tR"


def _storage(kind, key, size, *view):
    return (b"(" + _value("storage") + f"ctorch\n{kind}Storage\n".encode() + _value(key) + _value("cpu") + _value(size)
            + b"".join(map(_value, view)) + b"tQ")


def _tensor(storage, offset, shape, strides):
    return _call("torch._utils\n_rebuild_tensor_v2", storage, _value(offset), _value(shape), _value(strides), b"\x89",
                 b"ccollections\nOrderedDict\n)R")


def _zip_file(path, pickled, compression=zipfile.ZIP_STORED, **storages):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("net/data.pkl", b"\x80\x02" + pickled + b".")
        for key, data in storages.items():
            archive.writestr(f"net/data/{key.strip('_')}", data)


def _legacy_file(path, pickled, **storages):
    """As PyTorch wrote them before version 1.6; storages are (number of elements, bytes)."""
    parts = [pickle.dumps(part, 2) for part in (MAGIC, 1001, {"little_endian": True})]
    parts += [b"\x80\x02" + pickled + b".", pickle.dumps([key.strip("_") for key in storages], 2)]
    parts += [struct.pack("<q", size) + data for size, data in storages.values()]
    with open(path, "wb") as file:
        file.write(b"".join(parts))


@pytest.mark.parametrize("kind", WRITERS)
def test_what_is_written_is_read_with_order_types_and_bits(tmp_path, kind):
    path = str(tmp_path / "new" / "file.of_any_name")
    WRITERS[kind](path, _tensors())
    content = F.read_file(path)
    assert content.format == kind and content.config is None
    _same(content.tensors, _tensors())
    assert os.listdir(tmp_path / "new") == ["file.of_any_name"]


@pytest.mark.parametrize("kind", WRITERS)
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, kind, monkeypatch):
    path = tmp_path / "net.x"
    path.write_bytes(b"the old one")
    monkeypatch.setattr("utils.files.os.replace", lambda *paths: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        WRITERS[kind](str(path), _tensors())
    assert path.read_bytes() == b"the old one" and os.listdir(tmp_path) == ["net.x"]


def test_a_type_that_pytorch_lacks_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="a is of type uint32"):
        F.write_pth(str(tmp_path / "net.pth"), {"a": np.zeros(3, np.uint32)})
    assert not os.listdir(tmp_path)


def test_safetensors_carries_the_config_and_pleases_its_library(tmp_path):
    path, config = str(tmp_path / "net.safetensors"), {"name": "é", "lr_steps": [1, 2]}
    F.write_safetensors(path, _tensors(), config)
    assert F.read_file(path).config == F.safetensors_config(path) == config
    with safe_open(path, framework="numpy") as file:
        _same({name: file.get_tensor(name) for name in _tensors()}, _tensors())


def test_paddle_loads_what_is_written(tmp_path):
    net = paddle.nn.Sequential(paddle.nn.Conv2D(2, 3, 1), paddle.nn.BatchNorm2D(3), paddle.nn.Linear(3, 2))
    tensors = {name: np.float32(np.random.RandomState(0).uniform(0, 1, tensor.shape))
               for name, tensor in net.state_dict().items()}
    path = str(tmp_path / "net.pdparams")
    F.write_pdparams(path, tensors)
    loaded = paddle.load(path)
    assert list(loaded) == list(tensors) and all(isinstance(tensor, paddle.Tensor) for tensor in loaded.values())
    net.set_state_dict(loaded)
    _same({name: tensor.numpy() for name, tensor in net.state_dict().items()}, tensors)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_what_paddle_saves_is_read(tmp_path, protocol):
    net, path = paddle.nn.Linear(3, 2), str(tmp_path / "net.pdparams")
    paddle.save(net.state_dict(), path, protocol=protocol)
    content = F.read_file(path)
    assert content.format == "pdparams"
    _same(content.tensors, {name: tensor.numpy() for name, tensor in net.state_dict().items()})


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickled_array_is_read(tmp_path, protocol):
    fortran, big = np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.arange(3, dtype=">f4")
    tensors = {**_tensors(), "fortran": fortran, "big": big}
    path = tmp_path / "net.pdparams"
    path.write_bytes(pickle.dumps({**tensors, "epoch": np.float32(3), "names": ["a"]}, protocol))
    _same(F.read_file(str(path)).tensors, {**tensors, "big": np.float32([0, 1, 2])})


def test_detectron_pickle_of_python_2(tmp_path):
    data = struct.pack("<2f", 1.5, -2.0)  # \xc0: no valid text, in a string of Python 2
    array = (b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR(K\x01K\x02\x85"
             b"cnumpy\ndtype\n(U\x02f4K\x00K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
             b"U\x08" + data + b"tb")
    path = tmp_path / "R-101-GN.pkl"
    path.write_bytes(b"\x80\x02}(U\x05blobs}U\x08conv1_gn" + array + b"sU\x03cfgU\x04yamlu.")
    content = F.read_file(str(path))
    assert content.format == "detectron"
    _same(content.tensors, {"conv1_gn": np.float32([1.5, -2.0])})


def _odd_tensors():
    """(instructions, storages as bytes, what they mean): views, shared storages, parameters, an empty one."""
    numbers = np.arange(12, dtype=np.float32)
    halves = (np.float32([1.0, -2.5, 3e38]).view(np.uint32) >> 16).astype(np.uint16)
    both = _storage("Float", "0", 12)
    pickled = _dict(
        turned=_tensor(both, 0, (4, 3), (1, 4)), part=_tensor(both, 5, (2, 2), (4, 1)),
        empty=_tensor(both, 0, (0, 7), (7, 1)), bfloat=_tensor(_storage("BFloat16", "1", 3), 0, (3,), (1,)),
        count=_tensor(_storage("Long", "2", 1), 0, (), ()),
        old=_call("torch._utils\n_rebuild_tensor", both, _value(0), _value((12,)), _value((1,))),
        parameter=_call("torch._utils\n_rebuild_parameter", _tensor(both, 0, (2,), (1,)), b"\x88", b"N"),
        of_2017=b"ctorch.nn.parameter\nParameter\n" + _tensor(both, 1, (2,), (1,)) + b"\x85\x81"
                + _value((True, False, {})) + b"b",
        epoch=_value(3))
    means = {"turned": numbers.reshape(3, 4).T, "part": np.float32([[5, 6], [9, 10]]),
             "empty": np.zeros((0, 7), np.float32),
             "bfloat": (halves.astype(np.uint32) << 16).view(np.float32), "count": np.array(7, np.int64),
             "old": numbers, "parameter": numbers[:2], "of_2017": numbers[1:3]}
    return pickled, {"_0": numbers.tobytes(), "_1": halves.tobytes(), "_2": struct.pack("<q", 7)}, means


@pytest.mark.parametrize("key", [None, "state_dict", "model"])
@pytest.mark.parametrize("legacy", [False, True])
def test_pytorch_tensors_with_strides_offsets_and_shared_storages(tmp_path, legacy, key):
    pickled, storages, means = _odd_tensors()
    if key:
        pickled = _dict(epoch=_value(3), **{key: pickled})
    path = str(tmp_path / "net.pth")
    if legacy:
        sizes = {"_0": 12, "_1": 3, "_2": 1}
        _legacy_file(path, pickled, **{name: (sizes[name], data) for name, data in storages.items()})
    else:
        _zip_file(path, pickled, **storages)
    content = F.read_file(path)
    assert content.format == "pth"
    _same(content.tensors, means)
    assert all(array.flags.c_contiguous for array in content.tensors.values())


def test_legacy_views_of_a_storage(tmp_path):
    path = str(tmp_path / "net.pth")
    view = _tensor(_storage("Float", "0", 6, ("view", 2, 3)), 1, (2,), (1,))
    _legacy_file(path, _dict(a=view), _0=(6, np.arange(6, dtype=np.float32).tobytes()))
    _same(F.read_file(path).tensors, {"a": np.float32([3, 4])})


class _PlainTorch(pickle.Unpickler):
    """Reads what PyTorch would be asked for, as texts and tuples, without PyTorch and without our reader."""

    def find_class(self, module, name):
        if name == "OrderedDict":
            return dict
        return f"{module}.{name}" if name.endswith("Storage") else lambda *arguments: (f"{module}.{name}", *arguments)

    def persistent_load(self, identity):
        return identity


def test_written_pth_asks_pytorch_for_plain_tensors(tmp_path):
    path = str(tmp_path / "net.pth")
    F.write_pth(path, {"a": np.float32([[1, 2, 3]]), "n": np.array(5, np.int64)})
    with zipfile.ZipFile(path) as archive, open(path, "rb") as raw:
        rebuild = "torch._utils._rebuild_tensor_v2"
        assert _PlainTorch(archive.open("archive/data.pkl")).load() == {
            "a": (rebuild, ("storage", "torch.FloatStorage", "0", "cpu", 3), 0, (1, 3), (3, 1), False, {}),
            "n": (rebuild, ("storage", "torch.LongStorage", "1", "cpu", 1), 0, (), (), False, {})}
        assert archive.read("archive/data/0") == struct.pack("<3f", 1, 2, 3)
        assert archive.read("archive/version") == b"3\n" and archive.read("archive/byteorder") == b"little"
        for info in archive.infolist():  # so that PyTorch can map it into memory
            raw.seek(info.header_offset + 26)
            lengths = struct.unpack("<2H", raw.read(4))
            assert (info.header_offset + 30 + sum(lengths)) % 64 == 0 and info.compress_type == zipfile.ZIP_STORED


def test_pytorch_loads_what_is_written(tmp_path):
    torch = pytest.importorskip("torch")
    path, tensors = str(tmp_path / "net.pth"), _tensors()
    F.write_pth(path, tensors)
    for options in ({}, {"mmap": True}):
        loaded = torch.load(path, weights_only=True, **options)
        _same({name: tensor.numpy() for name, tensor in loaded.items()}, tensors)
        assert all(tensor.is_contiguous() for tensor in loaded.values())


@pytest.mark.parametrize("as_zip", [True, False])
def test_what_pytorch_saves_is_read(tmp_path, as_zip):
    torch = pytest.importorskip("torch")
    x, path = torch.arange(24.0).reshape(2, 3, 4), str(tmp_path / "net.pth")
    tensors = {"turned": x.permute(2, 0, 1), "part": x[:, 1:, ::2], "bfloat": x.to(torch.bfloat16),
               "n": torch.tensor(3)}
    torch.save(tensors, path, _use_new_zipfile_serialization=as_zip)
    _same(F.read_file(path).tensors, {name: (tensor.float() if name == "bfloat" else tensor).numpy()
                                      for name, tensor in tensors.items()})


# Files that attack. Python's own pickle shows that each does what it is meant to do.

ATTACKS = {
    "a function": lambda made: _call("os\nmkdir", _value(made)),
    "a function of another module": lambda made: _call("posix\nmkdir", _value(made)),
    "a name on the stack": lambda made: b"\x8c\x02os\x8c\x05mkdir\x93" + _value(made) + b"\x85R",
    "eval": lambda made: _call("builtins\neval", _value(f"__import__('os').mkdir({made!r})")),
    "in a list": lambda made: b"](" + _call("os\nmkdir", _value(made)) + b"e",
    "as an argument": lambda made: _call("builtins\ntuple", b"(" + _call("os\nmkdir", _value(made)) + b"t"),
    "an object": lambda made: b"(" + _value(made) + b"ios\nmkdir\n",
    "an object of a class": lambda made: b"(cos\nmkdir\n" + _value(made) + b"o",
    "through getattr": lambda made: _call("builtins\ngetattr", b"cos\npath\n", _value("os")) + b"0"
                                    + _call("os\nmkdir", _value(made)),
    "a state": lambda made: b"ccollections\nOrderedDict\n)R}(" + _value("x") + _call("os\nmkdir", _value(made)) + b"ub",
}


@pytest.mark.parametrize("container", ["pdparams", "zip", "legacy", "blobs"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_no_pickle_runs_code(tmp_path, attack, container):
    made, path = tmp_path / "made", str(tmp_path / "net.pth")
    pickled = ATTACKS[attack](str(made))
    pickle.loads(b"\x80\x02" + pickled + b".")
    assert made.is_dir(), "the attack itself is broken"
    made.rmdir()
    content = _dict(a=pickled)
    if container == "zip":
        _zip_file(path, content)
    elif container == "legacy":
        _legacy_file(path, content)
    else:
        with open(path, "wb") as file:
            file.write(b"\x80\x02" + (_dict(blobs=content) if container == "blobs" else content) + b".")
    with pytest.raises(F.WeightsError, match=r"net.pth .*(os|posix|builtins)\.(mkdir|eval|getattr|path)|instruction"):
        F.read_file(path)
    assert not made.exists()


@pytest.mark.parametrize("pickled", [
    b"c_codecs\nencode\n" + _value({"__defaults__": ("x",)}) + b"b",  # changes what stands for a function
    b"ccollections\nOrderedDict\n" + _value({"update": 1}) + b"b",
    b"ccollections\nOrderedDict\n(" + _value("a") + b"tR\x85R",  # calls a result
    b"cnumpy\nndarray\n" + _value(((2 ** 40,),)) + b"R", b"cnumpy.core.multiarray\n_frombuffer\n",
    _call("_codecs\nencode", _value("x"), _value("idna")), _call("numpy\ndtype", _value("O8")),
    _call("numpy\ndtype", _value("V4294967296")), b"\x8b\xff\xff\xff\x7f", b"Q", b"0R"],
    ids=str)
def test_pickles_that_want_more_than_arrays_are_refused(tmp_path, pickled):
    path = tmp_path / "net.pdparams"
    path.write_bytes(b"\x80\x02" + _dict(a=pickled) + b".")
    with pytest.raises(F.WeightsError, match="net.pdparams is damaged or no weights file"):
        F.read_file(str(path))
    good = _tensors()
    F.write_pdparams(str(path), good)
    _same(F.read_file(str(path)).tensors, good)


def _bombs():
    gigantic = (2 ** 14, 2 ** 14)  # 1 GiB: more would fail to be allocated, and nothing would be noticed
    array = (b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n" + _value((2 ** 40,)) + b"C\x01btR(K\x01"
             + _value(gigantic) + _call("numpy\ndtype", _value("f4")) + b"\x89C\x04\0\0\0\0tb")
    yield "array", lambda path: _raw(path, b"\x80\x02" + _dict(a=array) + b".")
    one = _storage("Float", "0", 1)
    yield "stride", lambda path: _zip_file(path, _dict(a=_tensor(one, 0, gigantic, (0, 0))), _0=bytes(4))
    yield "shape", lambda path: _zip_file(path, _dict(a=_tensor(one, 0, gigantic, (1, 1))), _0=bytes(4))
    yield "offset", lambda path: _zip_file(path, _dict(a=_tensor(one, 9, (1,), (1,))), _0=bytes(4))
    yield "negative", lambda path: _zip_file(path, _dict(a=_tensor(one, 0, (-1,), (1,))), _0=bytes(4))
    yield "storage", lambda path: _zip_file(
        path, _dict(a=_tensor(_storage("Float", "0", 2 ** 28), 0, (1,), (1,))), _0=bytes(4))
    yield "safetensors", lambda path: _raw(path, _bomb_header({"a": {"dtype": "F32", "shape": gigantic,
                                                                     "data_offsets": [0, 2 ** 30]}}))


def _raw(path, data):
    with open(path, "wb") as file:
        file.write(data)


def _bomb_header(header):
    text = re.sub(r"[()']", lambda found: {"(": "[", ")": "]", "'": '"'}[found[0]], str(header)).encode()
    return struct.pack("<Q", len(text)) + text + bytes(4)


BOMBS = dict(_bombs())


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_claim_that_the_file_does_not_keep_takes_no_memory(tmp_path, bomb):
    path = str(tmp_path / "net.x")
    BOMBS[bomb](path)
    tracemalloc.start()
    try:
        with pytest.raises(F.WeightsError, match="net.x"):
            F.read_file(path)
        assert tracemalloc.get_traced_memory()[1] < 2 ** 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["pdparams", "safetensors", "npz", "pth", "legacy"])
def test_a_file_that_is_cut_or_spoilt_is_refused(tmp_path, kind):
    path = tmp_path / "net.x"
    if kind == "legacy":
        _legacy_file(str(path), _dict(a=_tensor(_storage("Float", "0", 50), 0, (50,), (1,))), _0=(50, bytes(200)))
    else:
        WRITERS[kind](str(path), {"a": np.zeros(50, np.float32), "b": np.ones(3, np.float32)})
    whole = path.read_bytes()
    for size in (len(whole) - 1, len(whole) // 2, len(whole) // 3, 12, 3):
        path.write_bytes(whole[:size])
        with pytest.raises(F.WeightsError, match=r"net\.x.*copy it again|neither|savez"):
            F.read_file(str(path))
    if kind in ("npz", "pth"):  # a changed number is noticed where there is a checksum
        position = whole.index(struct.pack("<3f", 1, 1, 1))
        path.write_bytes(whole[:position] + b"\1" + whole[position + 1:])
        with pytest.raises(F.WeightsError, match="damaged"):
            F.read_file(str(path))


@pytest.mark.parametrize("content, words", [
    (b"", "neither"), (b"<!DOCTYPE html><html>", "web page"),
    (b"version https://git-lfs.github.com/spec/v1", "git-lfs"),
    (np.random.RandomState(1).bytes(4096), "neither"), (pickle.dumps([1, 2]), "no dictionary"),
    (pickle.dumps({"epoch": 3}), "no tensors"), (b"PK\x05\x06" + bytes(18), "something else"),
    (pickle.dumps({"a": np.array([{}], object)}), "Python objects"),
    (pickle.dumps({"a": np.zeros(2, [("x", "f4")])}), "numbers")], ids=range(9))
def test_what_is_no_weights_file_is_said_in_one_sentence(tmp_path, content, words):
    path = tmp_path / "net.x"
    path.write_bytes(content)
    with pytest.raises(F.WeightsError, match=words) as caught:
        F.read_file(str(path))
    assert "net.x" in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_and_a_missing_file_are_named(tmp_path):
    for path, words in ((tmp_path, "directory"), (tmp_path / "gone.pth", "No such file")):
        with pytest.raises(F.WeightsError, match=f"cannot open the weights .*{words}"):
            F.read_file(str(path))
    with pytest.raises(F.WeightsError, match="gone.*No such file"):
        F.unpickle_arrays(str(tmp_path / "gone.pdopt"))


DEEP_TUPLE, SHARED_TUPLES = b")" + b"\x85" * 300_000, b")" + b"2\x86" * 80


@pytest.mark.parametrize("pickled, words", {
    "a key that is nested deeper than the stack": (b"}" + DEEP_TUPLE + b"K\1s", "tuples as keys"),
    "a key that is hashed for ever": (b"}(" + SHARED_TUPLES + b"K\1u", "tuples as keys"),
    "such a key of a dictionary in one instruction": (b"(" + SHARED_TUPLES + b"K\1d", "tuples as keys"),
    "such a key of an ordered dictionary": (
        _call("collections\nOrderedDict", b"](" + SHARED_TUPLES + b"K\1\x86e"), "tuples as keys"),
    "such an element of a set": (b"\x8f(" + SHARED_TUPLES + b"\x90", "garbled"),
    "the thousand millionth object": (b"}r\xff\xff\xff\x3f", "no tensors")}.values())
def test_a_few_bytes_take_neither_all_memory_nor_for_ever(tmp_path, pickled, words):
    path = tmp_path / "net.x"
    path.write_bytes(b"\x80\x04" + pickled + b".")
    tracemalloc.start()
    try:
        with pytest.raises(F.WeightsError, match=words):
            F.read_file(str(path))
        assert tracemalloc.get_traced_memory()[1] < 2 ** 27
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("member", [b"no array", np.array(["text"]), np.zeros(2, "M8[s]"), np.zeros(2, complex)])
def test_an_npz_of_something_else_than_numbers_is_refused(tmp_path, member):
    with zipfile.ZipFile(tmp_path / "net.npz", "w") as archive, archive.open("a.npy", "w") as file:
        file.write(member) if isinstance(member, bytes) else np.save(file, member)
    with pytest.raises(F.WeightsError, match="something else than arrays of numbers"):
        F.read_file(str(tmp_path / "net.npz"))


def test_a_config_that_is_no_dictionary_is_damaged(tmp_path):
    path = str(tmp_path / "net.safetensors")
    F.write_safetensors(path, _tensors(), ["yolact_base"])
    for read in (F.read_file, F.safetensors_config):
        with pytest.raises(F.WeightsError, match="its config is no dictionary"):
            read(path)
