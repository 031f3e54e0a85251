"""Weights of every format with anything wrong in them: refused in one line, and nothing run, written or filled."""

import functools
import io
import json
import pickle
import pickletools
import struct
import zipfile
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from fuzz import DEEP_JSON, cases, guarded, refusal, spoilt, spoilt_bytes
from hypothesis import given
from hypothesis import strategies as st

from utils import checkpoint, torch_files, weight_files
from utils.checkpoint_files import CheckpointError
from utils.weights import WeightsError, compare, load_weights, misfit, read_weights, saved_config

ARRAYS = {
    "backbone.layers.0.0.conv1.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    "fc.weight": np.float32([[1, 2, 3], [4, 5, 6]]).T,
    "half": np.float16([1, 2]),
    "empty": np.zeros((0, 3)),
    "bn.running_var": np.float64([1, 2]),
    "bn.num_batches_tracked": np.array(7),
    "flag": np.array([True, False]),
    "prediction_layers.0.bbox_layer.bias": np.zeros(4, np.float32),
    "prediction_layers.0.conf_layer.bias": np.zeros(3, np.float32),
}
WRITERS = {
    "pdparams": weight_files.write_pdparams,
    "npz": weight_files.write_npz,
    "pth": weight_files.write_pth,
    "safetensors": functools.partial(weight_files.write_safetensors, config={"name": "net", "max_size": 96}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One folder for all cases of a test: a file is written over and over."""
    return tmp_path_factory.mktemp("fuzz")


def legacy_file(pickled: bytes, sizes=(("0", 24, 4),)) -> bytes:
    """What PyTorch wrote before 1.6: a pickle that describes tensors, and storages (key, numbers, bytes of each)."""
    parts = [pickle.dumps(part, 2) for part in (torch_files.MAGIC, 1001, {"little_endian": True})]
    parts += [pickled, pickle.dumps([key for key, _, _ in sizes], 2)]
    return b"".join([*parts, *(struct.pack("<q", size) + bytes(size * width) for _, size, width in sizes)])


@functools.cache
def described() -> bytes:
    """The pickle inside a .pth file of ARRAYS."""
    return torch_files._describe({name: np.ascontiguousarray(array) for name, array in ARRAYS.items()})


def storages() -> list:
    return [(str(key), array.size, array.itemsize) for key, array in enumerate(ARRAYS.values())]


@functools.cache
def whole_files(folder) -> dict:
    """{format: bytes of a sound file of ARRAYS}."""
    files = {}
    for kind, write in WRITERS.items():
        write(str(folder / kind), ARRAYS)
        files[kind] = (folder / kind).read_bytes()
    files["old pickle"] = pickle.dumps(ARRAYS, 2)
    files["new pickle"] = pickle.dumps({name: np.asfortranarray(array) for name, array in ARRAYS.items()}, 5)
    files["detectron"] = pickle.dumps({"blobs": ARRAYS, "cfg": "yaml"}, 2)
    files["legacy"] = legacy_file(described(), storages())
    return files


def check(path):
    """Reads a file as eval.py and train.py would; what is accepted is arrays of numbers that a network can compare."""
    with guarded(), refusal(WeightsError):
        weights = read_weights(str(path))
        saved = saved_config(str(path))
        assert saved is None or isinstance(saved, dict)
        for name, array in weights.items():
            assert type(name) is str and isinstance(array, np.ndarray) and array.dtype.kind in "biuf", name
            assert array.dtype.isnative and array.dtype != np.float64
            assert array.nbytes <= 2**30
        network = {**weights, "prediction_layers.0.conf_layer.bias": np.zeros(9)}
        misfit(compare(network, weights), network, weights)
        return weights
    return None


def test_the_sound_files_are_read(folder):
    assert len(whole_files(folder)) == 8
    for kind, data in whole_files(folder).items():
        (folder / "x").write_bytes(data)
        found = check(folder / "x")
        assert len(found) == len(ARRAYS) - 1 and found["half"].dtype == np.float32, kind


@cases(200)
@given(data=st.data())
def test_spoilt_files(folder, data):
    kind = data.draw(st.sampled_from(sorted(whole_files(folder))))
    (folder / "x").write_bytes(data.draw(spoilt_bytes(whole_files(folder)[kind])))
    check(folder / "x")


@cases(60)
@given(
    content=st.sampled_from(
        (b"", b"\x80\x02", b"\x80\x04", b"PK\x03\x04", b"12345678{", b"\x40\0\0\0\0\0\0\0{")
    ).flatmap(lambda start: st.binary(max_size=80).map(lambda rest: start + rest))
)
def test_any_bytes(folder, content):
    (folder / "x").write_bytes(content)
    check(folder / "x")


# --- pickles that are pickles ---

DANGEROUS = (
    "os system",
    "posix system",
    "builtins eval",
    "builtins exec",
    "builtins getattr",
    "builtins open",
    "builtins __import__",
    "subprocess Popen",
    "shutil rmtree",
    "functools partial",
    "operator methodcaller",
    "numpy load",
    "numpy.testing._private.utils runstring",
    "torch load",
    "pickle loads",
    "importlib import_module",
    "utils.safe_pickle _Array",
    "numpy ndarray.tofile",
    "collections OrderedDict.__init__",
)
HARMLESS = (
    "collections OrderedDict",
    "_codecs encode",
    "numpy ndarray",
    "numpy dtype",
    "builtins tuple",
    "builtins bytes",
    "numpy.core.multiarray _reconstruct",
    "numpy._core.multiarray scalar",
    "numpy._core.numeric _frombuffer",
    "torch Size",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "torch.nn.parameter Parameter",
    "torch FloatStorage",
)
CANARY = "touch {}"


def text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def name_of(dotted: str) -> bytes:
    """The instruction that looks up "module name"."""
    return b"c" + dotted.replace(" ", "\n").encode() + b"\n"


def plain(value) -> bytes:
    """The instructions of a value that pickle itself writes."""
    return pickle.dumps(value, 2)[2:-1]


ATOMS = st.one_of(
    st.sampled_from(
        [
            None,
            True,
            0,
            1,
            -1,
            3,
            2**31,
            2**63,
            -(2**70),
            1.5,
            "",
            "a",
            "fc.weight",
            "<",
            "f4",
            "O8",
            "state_dict",
            "blobs",
            "latin1",
            "storage",
            "cpu",
            (),
            (2, 3),
            [],
            {},
            (1, "<", None, None, None, -1, -1, 0),
        ]
    ).map(plain),
    st.binary(max_size=24).map(lambda data: b"C" + bytes([len(data)]) + data),
    st.sampled_from([name_of(dotted) for dotted in HARMLESS + DANGEROUS]),
    st.sampled_from(
        [  # what no writer would write: marks, memo places, sizes announced, protocols, extensions
            b"0",
            b"2",
            b"(",
            b"1",
            b"l",
            b"t",
            b"d",
            b"e",
            b"s",
            b"u",
            b"R",
            b"b",
            b"\x81",
            b"\x92",
            b"o",
            b"Q",
            b"}",
            b"]",
            b"\x8f",
            b"\x90",
            b"\x91(",
            b"\x94",
            b"\x93",
            b"\x97",
            b"\x98",
            b"h\0",
            b"q\0",
            b"r\xff\xff\xff\x0f",
            b"r\xff\xff\xff\x7f",
            b"j\xff\xff\xff\xff",
            b"\x82\1",
            b"\x83\1\0",
            b"\x84\1\0\0\0",
            b"P0\n",
            b"ios\nsystem\n",
            b"L1L\n",
            b"I01\n",
            b"F1e999\n",
            b"S'a'\n",
            b"L" + b"9" * 5000 + b"L\n",
            b"\x8b\xff\xff\xff\x7f",
            b"B\xff\xff\xff\x7f",
            b"\x8e" + struct.pack("<Q", 2**32),
            b"\x8e" + struct.pack("<Q", 2**62),
            b"\x96" + struct.pack("<Q", 2**31),
            b"\x96" + struct.pack("<Q", 2**62),
            b"\x95" + struct.pack("<Q", 2**31),
            b"\x8d" + struct.pack("<Q", 2**60),
            b"\x80\x05",
            b"\x80\x06",
        ]
    ),
)


def containers(inner):
    """Instructions that leave one object, made of others."""
    several = st.lists(inner, max_size=4).map(b"".join)
    pairs = st.lists(st.tuples(inner, inner).map(b"".join), max_size=3).map(b"".join)
    function = st.sampled_from([name_of(dotted) for dotted in HARMLESS + DANGEROUS]) | inner
    return st.one_of(
        several.map(lambda items: b"(" + items + b"t"),
        several.map(lambda items: b"](" + items + b"e"),
        pairs.map(lambda items: b"}(" + items + b"u"),
        pairs.map(lambda items: b"(" + items + b"d"),
        st.tuples(inner, inner).map(lambda pair: b"}" + b"".join(pair) + b"s"),
        several.map(lambda items: b"\x8f(" + items + b"\x90"),
        several.map(lambda items: b"(" + items + b"\x91"),
        st.tuples(function, several).map(lambda call: call[0] + b"(" + call[1] + b"tR"),
        st.tuples(function, several).map(lambda call: call[0] + b"(" + call[1] + b"t\x81"),
        st.tuples(function, several).map(lambda call: b"(" + call[0] + call[1] + b"o"),
        st.tuples(inner, inner).map(lambda pair: b"".join(pair) + b"b"),
        st.tuples(inner, st.sampled_from([b"q\0", b"q\1", b"2\x86", b"2\x86" * 80, b"\x85" * 3000])).map(b"".join),
        inner.map(lambda identity: identity + b"Q"),
        several.map(lambda items: b"(" + items + b"tQ"),
    )


PROGRAMS = st.recursive(ATOMS, containers, max_leaves=14)


@cases(120)
@given(program=PROGRAMS, protocol=st.sampled_from((2, 4, 5)), kind=st.sampled_from(("pickle", "pth", "legacy")))
def test_pickles_put_together(folder, program, protocol, kind):
    """Dictionaries of whatever instructions make, named as tensors: most of them are read to their end."""
    pickled = b"\x80" + bytes([protocol]) + b"}(" + text("fc.weight") + program + text("x") + plain(1) + b"u."
    write_pickle(folder / "x", pickled, kind)
    check(folder / "x")


def write_pickle(path, pickled, kind, numbers=bytes(96)):
    """A file whose pickle this is, beside the storage "0" of 24 numbers."""
    if kind == "pth":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("net/data.pkl", pickled)
            archive.writestr("net/data/0", numbers)
    else:
        path.write_bytes(legacy_file(pickled)[:-96] + numbers if kind == "legacy" else pickled)


@cases(200)
@given(data=st.data(), kind=st.sampled_from(("pickle", "old pickle", "pth", "legacy")))
def test_spoilt_instructions(folder, data, kind):
    """Sound pickles, in files that are whole, with instructions left out, doubled, exchanged or replaced."""
    sound = (
        whole_files(folder)["old pickle" if kind == "old pickle" else "pdparams"] if "pickle" in kind else described()
    )
    parts = instructions(sound)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(1, len(parts) - 2))
        other = data.draw(st.sampled_from(parts[1:-1]) | ATOMS)
        change = data.draw(st.sampled_from(("out", "double", "replace", "before")))
        parts[at : at + 1] = {"out": [], "double": [parts[at]] * 2, "replace": [other], "before": [other, parts[at]]}[
            change
        ]
    write_pickle(folder / "x", b"".join(parts), kind)
    check(folder / "x")


NESTED = (b")" + b"\x85" * 100_000, b")" + b"2\x86" * 31, b"]" + b"2\x86" * 31)
PLACES = (  # where an object may be hashed, written out or counted: as a key, an element, a shape, a storage's name
    b"}%bK\1s",
    b"}(K\1K\1%bK\1u",
    b"(%bK\1d",
    b"\x8f(%b\x90",
    b"(%b\x91",
    b"ccollections\nOrderedDict\n(](%bK\1\x86etR",
    b"(" + plain("storage") + b"ctorch\nFloatStorage\n%b" + plain("cpu") + plain(24) + b"tQ",
    b"cnumpy._core.numeric\n_frombuffer\n(C\0cnumpy\ndtype\n" + plain(("f4",)) + b"R%b" + plain("C") + b"tR",
)


@pytest.mark.parametrize("kind", ["pickle", "pth", "legacy"])
@pytest.mark.parametrize("place", PLACES, ids=range(len(PLACES)))
@pytest.mark.parametrize("inner", NESTED, ids=["deep", "shared", "list"])
def test_deep_and_shared_objects(folder, inner, place, kind):
    """To hash or write them would take the stack, or for ever."""
    write_pickle(folder / "x", b"\x80\4}(" + text("fc.weight") + place.replace(b"%b", inner) + b"u.", kind)
    check(folder / "x")


@pytest.mark.parametrize("number", [2**20, 2**26, 2**27, 2**31 - 1, 2**32 - 1])
def test_a_late_place_in_the_memo_takes_no_memory(folder, number):
    (folder / "x").write_bytes(b"\x80\2}r" + struct.pack("<I", number) + b".")
    check(folder / "x")


SMALL = st.integers(0, 4) | st.sampled_from((-1, 23, 24, 25, 2**31, 2**62, 2**63, 2**70))


@cases(250)
@given(
    offset=SMALL,
    axes=st.lists(st.tuples(SMALL, SMALL), max_size=3),
    surplus=st.none() | SMALL,
    view=st.none() | st.tuples(SMALL, SMALL),
    kind=st.sampled_from(("pth", "legacy")),
)
def test_views_of_a_storage(folder, offset, axes, surplus, view, kind):
    """A tensor holds what its offset, shape and strides say, or it lies outside of its storage and is refused."""
    shape, strides = tuple(size for size, _ in axes), tuple(stride for _, stride in axes)
    shape += () if surplus is None else (surplus,)
    view_of = None if view is None else ("view", *view)
    storage = (
        b"("
        + plain("storage")
        + b"ctorch\nFloatStorage\n"
        + plain("0")
        + plain("cpu")
        + plain(24)
        + (plain(view_of) if view_of else b"")
        + b"tQ"
    )
    tensor = (
        name_of("torch._utils _rebuild_tensor")
        + b"("
        + storage
        + b"".join(map(plain, (offset, shape, strides)))
        + b"tR"
    )
    write_pickle(folder / "x", b"\x80\2}" + text("a") + tensor + b"s.", kind, np.arange(24, dtype=np.float32).tobytes())
    found = check(folder / "x")
    if found is not None and 0 in shape:
        assert found["a"].shape == shape
    elif found is not None:
        first = offset + (view[0] if view else 0)
        places = first + sum(
            (
                np.arange(size).reshape([-1] + [1] * (len(axes) - 1 - axis)) * stride
                for axis, (size, stride) in enumerate(axes)
            ),
            np.zeros(shape, int),
        )
        np.testing.assert_array_equal(found["a"], places)


@functools.lru_cache(maxsize=8)
def _instructions(pickled):
    starts = [position for _, _, position in pickletools.genops(pickled)]
    return tuple(
        pickled[start:end]
        for start, end in zip(starts, [*starts[1:], len(pickled)])
        if pickled[start : start + 1] != b"\x95"
    )  # a frame would end elsewhere then


def instructions(pickled) -> list:
    return list(_instructions(pickled))


@pytest.mark.parametrize("kind", ["pickle", "pth", "legacy"])
@pytest.mark.parametrize("dotted", DANGEROUS)
def test_what_a_pickle_wants_called_is_not(folder, kind, dotted):
    """Whatever way it is asked for: a call, a new object, an instance, or the look-up of protocol 4."""
    canary = folder / "canary"
    arguments = plain((CANARY.format(canary), "w"))
    module, name = dotted.split(" ")
    lookups = (name_of(dotted), text(module) + text(name) + b"\x93")
    programs = [lookup + arguments + call for lookup in lookups for call in (b"R", b"\x81")]
    programs += [
        b"(" + lookups[0] + text(CANARY.format(canary)) + b"o",
        b"(" + text(CANARY.format(canary)) + f"i{module}\n{name}\n".encode(),
    ]
    for program in programs:
        pickled = b"\x80\x04}" + text("fc.weight") + program + b"s."
        write_pickle(folder / "x", pickled, kind)
        with guarded(), pytest.raises(WeightsError, match="it asks for|garbled"):
            read_weights(str(folder / "x"))
    assert not canary.exists()


# --- archives and headers that are whole ---


@cases(70)
@given(data=st.data())
def test_npz_of_spoilt_members(folder, data):
    """Checksums fit, so that numpy reads what is in there."""
    sound = io.BytesIO()
    np.save(sound, np.arange(6, dtype=np.float32).reshape(2, 3))
    member = data.draw(spoilt_bytes(sound.getvalue(), 2) | headers())
    name = data.draw(st.sampled_from(("a.npy", "fc.weight.npy", ".npy", "é.npy", "../a.npy")))
    with zipfile.ZipFile(
        folder / "x", "w", data.draw(st.sampled_from((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))
    ) as archive:
        archive.writestr(name, member)
        archive.writestr("b.npy", sound.getvalue())
    check(folder / "x")


@st.composite
def headers(draw):
    """A .npy file that says of itself what it likes."""
    dtype = draw(
        st.sampled_from(
            ("<f4", ">f8", "|b1", "|O", "<U5", "<M8[s]", "|V8", "<c8", "<f16", [["a", "<f4"]], "x", 3, None)
        )
    )
    shape = draw(
        st.sampled_from(((2,), (), (2**62,), (2**33,), (0, 2**62), (-1,), (2**31, 2**31), (1,) * 70, "a", (1.5,)))
    )
    order = draw(st.sampled_from((True, False, 3)))
    text = repr({"descr": dtype, "fortran_order": order, "shape": shape}).replace("]]", ")]").replace("[[", "[(")
    text = draw(st.sampled_from((text, "(" * 500, "{" * 50 + "}", text * 40, "__import__('os').system('true')"))) + "\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text.encode() + draw(st.binary(max_size=16))


@cases(120)
@given(data=st.data())
def test_safetensors_of_spoilt_headers(folder, data):
    """The length of the header fits, so that what is in it is read."""
    sound = whole_files(folder)["safetensors"]
    size = int.from_bytes(sound[:8], "little")
    header = json.loads(sound[8 : 8 + size])
    inside = {key: json.loads(header["__metadata__"][key]) for key in ("order", "config")}
    key = data.draw(st.sampled_from(("order", "config", "header")))
    if key == "header":
        header = data.draw(spoilt(header))
    else:
        new = data.draw(spoilt(inside[key]).map(json.dumps) | st.sampled_from((*DEEP_JSON, "", "{", "NaN")))
        header["__metadata__"][key] = new
    written = json.dumps(header).encode()
    (folder / "x").write_bytes(len(written).to_bytes(8, "little") + written + sound[8 + size :])
    check(folder / "x")


@cases(100)
@given(data=st.data())
def test_configs_beside_weights(folder, data):
    sound = json.dumps({"format": 1, "config": {"name": "net"}, "epoch": 1, "iteration": 3})
    content = data.draw(
        spoilt(json.loads(sound)).map(json.dumps)
        | st.sampled_from(DEEP_JSON)
        | spoilt_bytes(sound.encode()).map(lambda raw: raw.decode("latin1"))
    )
    (folder / "y.pdparams").write_bytes(whole_files(folder)["pdparams"])
    (folder / "y.json").write_bytes(content.encode("latin1", "replace"))
    check(folder / "y.pdparams")


NAMES = st.one_of(
    st.sampled_from(
        (
            "res4.res4b" + "1" * 5000 + ".short.conv.weight",
            "res4.res4b²3.short.conv.weight",
            "9" * 5000 + ".weight",
            "layer9.",
            "layers.1.x",
            "conf_layer.bias",
            "prediction_layers.0.conf_layer.bias",
            "semantic_seg_conv.weight",
            "",
            ".",
            "weight",
        )
    ),
    st.from_regex(
        r"(backbone\.)?(layer|layers\.|res|conv|bn|fpn\.)[0-9a-z._]{0,12}(weight|bias|running_mean)?", fullmatch=True
    ),
    st.text(max_size=12),
)


@cases(70)
@given(
    tensors=st.dictionaries(
        NAMES,
        st.lists(st.integers(0, 5), max_size=5).map(lambda shape: np.zeros(shape, np.float32)),
        min_size=1,
        max_size=6,
    ),
    classes=st.lists(st.integers(0, 9), max_size=2).map(lambda shape: np.zeros(shape, np.float32)),
    kind=st.sampled_from(("pdparams", "safetensors")),
)
def test_any_names_and_shapes(folder, tensors, classes, kind):
    """What is read under its own names goes into a network or is refused, as training and evaluation do."""
    tensors = {name.encode("utf-8", "replace").decode(): array for name, array in tensors.items()}
    head = "prediction_layers.0.{}_layer.bias"  # from these two, messages tell the number of classes
    tensors.update({head.format("conf"): classes, head.format("bbox"): np.zeros(8, np.float32)})
    WRITERS[kind](str(folder / "x"), tensors)
    weights = check(folder / "x")
    assert weights is None or len(weights) <= len(tensors)
    with guarded(), refusal(WeightsError):
        load_weights(network(), weights or {}, strict=False)


@functools.cache
def network():
    return paddle.nn.Sequential(paddle.nn.Conv2D(2, 3, 1), paddle.nn.BatchNorm2D(3))


# --- checkpoints ---


@functools.cache
def sound_checkpoint(folder):
    """(path of the .pdparams, {suffix: bytes}) of a training of `network`."""
    update = new_update()
    network()(paddle.ones([1, 2, 2, 2])).sum().backward()
    update.optimizer.step()
    path = checkpoint.save(str(folder), "net_1_3", update, {"config": {"name": "net"}, "epoch": 1, "iteration": 3})
    return path, {suffix: (folder / f"net_1_3{suffix}").read_bytes() for suffix in checkpoint.SUFFIXES}


def new_update():
    net = network()
    optimizer = paddle.optimizer.Momentum(0.1, 0.9, parameters=net.parameters())
    average = SimpleNamespace(tensors={name: tensor.clone() for name, tensor in net.state_dict().items()})
    return SimpleNamespace(net=net, optimizer=optimizer, average=average, scaler=paddle.amp.GradScaler())


def write_checkpoint(folder, **changed):
    path, files = sound_checkpoint(folder)
    for suffix, content in files.items():
        (folder / f"net_1_3{suffix}").write_bytes(changed.get(suffix[1:], content))
    return path


def check_resume(folder, path):
    before = {name: tensor.numpy() for name, tensor in network().state_dict().items()}
    with guarded(), refusal(CheckpointError, WeightsError):
        state = checkpoint.load_training_state(path, new_update())
        assert {"config", "epoch", "iteration"} <= set(state)
        assert isinstance(state["config"], dict) and type(state["epoch"]) is int and type(state["iteration"]) is int
        return True
    for name, tensor in network().state_dict().items():
        tensor.set_value(before[name])
    return False


def test_a_sound_checkpoint_is_resumed(folder):
    assert check_resume(folder, write_checkpoint(folder))


@cases(70)
@given(data=st.data())
def test_states_of_checkpoints(folder, data):
    state = json.loads(sound_checkpoint(folder)[1][".json"])
    content = data.draw(
        spoilt(state).map(lambda new: json.dumps(new).encode())
        | spoilt_bytes(sound_checkpoint(folder)[1][".json"])
        | st.sampled_from([deep.encode() for deep in DEEP_JSON])
    )
    check_resume(folder, write_checkpoint(folder, json=content))


@cases(120)
@given(data=st.data())
def test_optimizers_of_checkpoints(folder, data):
    slots = pickle.loads(sound_checkpoint(folder)[1][".pdopt"])
    assert len(slots) > 4
    array = st.sampled_from(
        (
            np.zeros(3, np.float32),
            np.zeros(3),
            np.zeros(3, bool),
            np.zeros((3, 2, 1, 1), np.int64),
            np.float32(np.nan),
            np.zeros((0,)),
            "text",
            None,
            3,
        )
    )
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(
            st.sampled_from(sorted(slots)) | st.sampled_from(("0.weight:x", "x:velocity", "average:x", "x", ":"))
        )
        slots[name] = data.draw(array)
    content = data.draw(st.just(pickle.dumps(slots)) | spoilt_bytes(sound_checkpoint(folder)[1][".pdopt"]))
    check_resume(folder, write_checkpoint(folder, pdopt=content))
