"""Reading, checking and writing weights."""
import json
import os
import pickle
import zipfile

import numpy as np
import paddle
import pytest
from safetensors.numpy import save_file

from tools import convert_weights
from utils import weights as W


class Stage(paddle.nn.Layer):
    """A convolution with batch norm under the backbone's names."""

    def __init__(self):
        super().__init__()
        self.conv1 = paddle.nn.Conv2D(3, 4, 3, bias_attr=False)
        self.bn1 = paddle.nn.BatchNorm2D(4)


class Net(paddle.nn.Layer):
    """The names of the original's network that matter here, at toy size; 3 boxes per cell."""

    def __init__(self, classes=2):
        super().__init__()
        self.backbone = paddle.nn.Layer()
        self.backbone.layers = paddle.nn.LayerList([paddle.nn.Sequential(Stage())])
        head = paddle.nn.Layer()
        head.bbox_layer = paddle.nn.Conv2D(4, 12, 3)
        head.conf_layer = paddle.nn.Conv2D(4, 3 * (classes + 1), 3)
        self.prediction_layers = paddle.nn.LayerList([head])
        self.semantic_seg_conv = paddle.nn.Conv2D(4, classes, 1)


def _arrays(net, seed=0):
    rng = np.random.RandomState(seed)
    return {name: rng.uniform(0.5, 1.5, tensor.shape).astype(np.float32)
            for name, tensor in net.state_dict().items()}


def _original_names(arrays):
    names = {"_mean": "running_mean", "_variance": "running_var"}
    renamed = {}
    for name, array in arrays.items():
        stem, _, leaf = name.rpartition(".")
        renamed[f"{stem}.{names.get(leaf, leaf)}"] = array
        if leaf == "_mean":
            renamed[f"{stem}.num_batches_tracked"] = np.zeros((), np.int64)
    return renamed


def _equal(first, second):
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def _state(net):
    return {name: tensor.numpy() for name, tensor in net.state_dict().items()}


def test_pdparams_written_by_paddle(tmp_path):
    net = Net()
    path = str(tmp_path / "net.pdparams")
    paddle.save(net.state_dict(), path)
    assert _equal(W.read_weights(path), _state(net))


def test_npz_with_the_original_names_loads_completely(tmp_path):
    net = Net()
    arrays = _arrays(net)
    path = str(tmp_path / "net.npz")
    np.savez(path, **_original_names(arrays))
    read = W.read_weights(path)
    assert _equal(read, arrays) and "backbone.layers.0.0.bn1._variance" in read
    report = W.load_weights(net, read, strict=True)
    assert set(report.loaded) == set(arrays) and not report.skipped + report.missing + report.unused
    assert _equal(_state(net), arrays)


def test_half_and_double_precision_become_float32(tmp_path):
    path = str(tmp_path / "net.safetensors")
    save_file({"a.weight": np.full((2, 2), 0.5, np.float16), "a.bias": np.ones(2, np.float64)}, path)
    read = W.read_weights(path)
    assert {array.dtype for array in read.values()} == {np.dtype(np.float32)}
    assert read["a.weight"][0, 0] == 0.5


def test_format_is_told_from_the_content(tmp_path):
    arrays = _arrays(Net())
    path = str(tmp_path / "net.pdparams")
    with open(path, "wb") as file:
        np.savez(file, **arrays)
    assert _equal(W.read_weights(path), arrays)


def test_safetensors_round_trip_with_config(tmp_path):
    net, path = Net(), str(tmp_path / "new" / "net.safetensors")
    config = {"name": "demo", "lr_steps": [1, 2], "dataset": {"class_names": ["é"]}}
    W.save_safetensors(path, _state(net), config)
    assert _equal(W.read_weights(path), _state(net))
    assert W.saved_config(path) == config
    assert os.listdir(tmp_path / "new") == ["net.safetensors"]


def test_half_keeps_statistics_that_float16_cannot_hold(tmp_path):
    net = Net()
    arrays = _arrays(net)
    arrays["backbone.layers.0.0.bn1._variance"][:] = [1e-9, 1e6, 1.0, 2.0]
    W.load_weights(net, arrays)
    paths = [str(tmp_path / name) for name in ("full.safetensors", "half.safetensors")]
    for path, half in zip(paths, (False, True)):
        W.save_safetensors(path, _state(net), {}, half=half)
    read = W.read_weights(paths[1])
    assert np.array_equal(read["backbone.layers.0.0.bn1._variance"], np.float32([1e-9, 1e6, 1.0, 2.0]))
    assert all(np.allclose(read[name], arrays[name], rtol=1e-3) for name in arrays)
    assert os.path.getsize(paths[1]) < 0.75 * os.path.getsize(paths[0])


def test_saved_config_beside_the_weights(tmp_path):
    path = tmp_path / "net_1_2.pdparams"
    assert W.saved_config(str(path)) is None
    (tmp_path / "net_1_2.json").write_text(json.dumps({"config": {"name": "net"}, "epoch": 1}))
    assert W.saved_config(str(path)) == {"name": "net"}
    (tmp_path / "net_1_2.json").write_text("{")
    with pytest.raises(W.WeightsError, match="--config"):
        W.saved_config(str(path))


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_pickle_cannot_run_code(tmp_path):
    path, made = str(tmp_path / "net.pdparams"), tmp_path / "made"
    with open(path, "wb") as file:
        pickle.dump({"a": Malicious(str(made))}, file)
    with pytest.raises(W.WeightsError, match="mkdir"):
        W.read_weights(path)
    assert not made.exists()


def test_pickled_arrays_of_either_numpy(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    blob = pickle.dumps({"a.weight": array}, protocol=2)
    for module in (b"numpy.core.multiarray", b"numpy._core.multiarray"):
        text = blob.replace(b"numpy._core.multiarray", module).replace(b"numpy.core.multiarray", module)
        path = tmp_path / "a.pdparams"
        path.write_bytes(text)
        assert np.array_equal(W.read_weights(str(path))["a.weight"], array)


@pytest.mark.parametrize("name, content, words", [
    ("gone.pdparams", None, "cannot open"), ("page.pdparams", b"<!DOCTYPE html>", "web page"),
    ("empty.npz", b"", "neither"), ("list.pdparams", pickle.dumps([1, 2]), "dictionary"),
    ("none.pdparams", pickle.dumps({"epoch": 3}), "no tensors"), ("zip.npz", b"PK\x03\x04zzzz", "truncated"),
    ("bad.safetensors", b"\x08\0\0\0\0\0\0\0{\"a\": 1", "safetensors")])
def test_files_that_are_no_weights(tmp_path, name, content, words):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(W.WeightsError, match=words) as caught:
        W.read_weights(str(path))
    assert name in str(caught.value)


@pytest.mark.parametrize("kind", ["pdparams", "npz", "safetensors"])
def test_truncated_files(tmp_path, kind):
    net, path = Net(), tmp_path / f"net.{kind}"
    if kind == "pdparams":
        paddle.save(net.state_dict(), str(path))
    elif kind == "npz":
        np.savez(str(path), **_arrays(net))
    else:
        W.save_safetensors(str(path), _state(net), {})
    whole = path.read_bytes()
    for size in (len(whole) // 3, len(whole) - 40):
        path.write_bytes(whole[:size])
        with pytest.raises(W.WeightsError, match="net"):
            W.read_weights(str(path))


def test_objects_in_npz_are_refused(tmp_path):
    path = str(tmp_path / "net.npz")
    np.savez(path, a=np.array([{"x": 1}], dtype=object))
    with pytest.raises(W.WeightsError, match="Python objects"):
        W.read_weights(path)


def test_torch_file_is_named(tmp_path):
    path = str(tmp_path / "net.pth")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    with pytest.raises(W.WeightsError, match="PyTorch"):
        W.read_weights(path)


def test_other_class_count_is_explained_and_changes_nothing():
    net, other = Net(classes=2), Net(classes=80)
    before = _state(net)
    with pytest.raises(W.WeightsError, match="80 classes but the config has 2.*dataset.class_names"):
        W.load_weights(net, _arrays(other), strict=True)
    assert _equal(_state(net), before)


def test_fine_tuning_keeps_what_fits():
    net, other = Net(classes=2), Net(classes=5)
    arrays = _arrays(other)
    report = W.load_weights(net, arrays, strict=False)
    assert {name for name, _, _ in report.skipped} == {
        "prediction_layers.0.conf_layer.weight", "prediction_layers.0.conf_layer.bias",
        "semantic_seg_conv.weight", "semantic_seg_conv.bias"}
    assert ("prediction_layers.0.conf_layer.bias", (18,), (9,)) in report.skipped
    assert len(report.loaded) + 4 == len(arrays)
    name = "backbone.layers.0.0.conv1.weight"
    assert np.array_equal(_state(net)[name], arrays[name])
    assert "skipped semantic_seg_conv.bias: [5] in the file, [2] in the network" in report.summary()


def test_another_network_is_named():
    net = Net()
    arrays = _arrays(net)
    arrays["backbone.layers.1.0.conv1.weight"] = arrays.pop("backbone.layers.0.0.conv1.weight")
    with pytest.raises(W.WeightsError, match="1 missing.*1 unknown.*--config"):
        W.load_weights(net, arrays, strict=True)
    report = W.load_weights(net, arrays, strict=False)
    assert report.missing == ["backbone.layers.0.0.conv1.weight"]
    assert report.unused == ["backbone.layers.1.0.conv1.weight"]
    with pytest.raises(W.WeightsError, match="another network"):
        W.load_weights(net, {"fc.weight": np.zeros((2, 2), np.float32)}, strict=False)


def test_leftovers_of_the_first_release_are_dropped():
    net = Net()
    arrays = _arrays(net)
    extra = {"backbone.layer1.0.conv1.weight": np.zeros(3, np.float32),
             "fpn.downsample_layers.2.weight": np.zeros(3, np.float32)}
    report = W.load_weights(net, {**arrays, **extra}, strict=True)
    assert not report.unused and _equal(_state(net), arrays)


def test_class_count_without_segmentation_or_heads():
    assert W.count_classes({"p.0.bbox_layer.bias": (12,), "p.0.conf_layer.bias": (243,)}) == 80
    assert W.count_classes({"semantic_seg_conv.weight": (20, 256, 1, 1)}) == 20
    assert W.count_classes({"backbone.conv1.weight": (64, 3, 7, 7)}) is None


def test_backbone_from_a_whole_network(tmp_path):
    net = Net()
    arrays, path = _arrays(net), str(tmp_path / "net.npz")
    np.savez(path, **_original_names(arrays))
    report = W.load_backbone(net.backbone, path)
    assert len(report.loaded) == 5 and not report.unused
    name = "backbone.layers.0.0.bn1._mean"
    assert np.array_equal(_state(net)[name], arrays[name])


def test_backbone_from_a_classification_network(tmp_path):
    net = Net()
    arrays = {name[len("backbone.layers.0."):]: array for name, array in _arrays(net).items()
              if name.startswith("backbone.")}
    torchvision = {f"layer1.{name}": array for name, array in _original_names(arrays).items()}
    path = str(tmp_path / "resnet.npz")
    np.savez(path, **torchvision, **{"fc.weight": np.zeros((10, 4), np.float32)})
    report = W.load_backbone(net.backbone, path)
    assert len(report.loaded) == 5 and report.unused == ["fc.weight"]
    assert np.array_equal(_state(net)["backbone.layers.0.0.conv1.weight"], arrays["0.conv1.weight"])


def test_backbone_file_that_does_not_fit(tmp_path):
    path = str(tmp_path / "resnet.npz")
    np.savez(path, **{"layer1.0.conv1.weight": np.zeros((4, 3, 3, 3), np.float32)})
    with pytest.raises(W.WeightsError, match="4 of 5 tensors.*backbone.path"):
        W.load_backbone(Net().backbone, path)


def test_conversion_there_and_back_is_bit_equal(tmp_path):
    net = Net()
    source, half, npz = (str(tmp_path / name) for name in ("net_1_2.pdparams", "half.safetensors", "net.npz"))
    paddle.save(net.state_dict(), source)
    (tmp_path / "net_1_2.json").write_text(json.dumps({"config": {"name": "net"}}))
    assert convert_weights.convert(source, npz) == len(net.state_dict())
    assert any(name.endswith("running_mean") for name in np.load(npz).files)
    assert _equal(W.read_weights(npz), _state(net))
    convert_weights.convert(source, half, half=True)
    assert W.saved_config(half) == {"name": "net"}
    convert_weights.main([half, npz])
    assert _equal(W.read_weights(npz), W.read_weights(half))


@pytest.mark.parametrize("target, options", [("net.pth", []), ("net.npz", ["--half"]), ("net.safetensors", [])])
def test_conversion_that_cannot_be_done_is_one_line(tmp_path, target, options):
    source = str(tmp_path / "net.pdparams")  # without a .json beside it
    paddle.save(Net().state_dict(), source)
    with pytest.raises(SystemExit, match="convert_weights.py: error: .*(net|--half)"):
        convert_weights.main([source, str(tmp_path / target), *options])
    assert os.listdir(tmp_path) == ["net.pdparams"]
