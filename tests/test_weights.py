"""Weights into a network: names of every origin, what fits and what does not."""
import json
import os
import pickle
from pathlib import Path

import numpy as np
import paddle
import pytest
from safetensors.numpy import save_file

from backbone import DarkNetBackbone, ResNetBackbone, build_backbone
from data.config import Config
from utils import weight_names
from utils import weights as W
from utils.weight_files import write_pth

GOLDENS = Path(__file__).parent / "goldens"


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


def test_the_config_inside_comes_before_one_beside(tmp_path):
    """The other may be of a training of the same name."""
    path = str(tmp_path / "net_54_800000.safetensors")
    W.save_safetensors(path, {"a": np.ones(2, np.float32)}, {"name": "inside"})
    (tmp_path / "net_54_800000.json").write_text(json.dumps({"config": {"name": "beside"}}))
    assert W.saved_config(path) == {"name": "inside"}


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


def test_pth_with_the_original_names_loads_completely(tmp_path):
    net, path = Net(), str(tmp_path / "net.pth")
    arrays = _arrays(net)
    write_pth(path, _original_names(arrays))
    read = W.read_weights(path)
    assert _equal(read, arrays)
    assert not W.load_weights(net, read).missing and _equal(_state(net), arrays)


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
    assert "skipped semantic_seg_conv.bias: [5] in the file, [2] in the network" in report.table()


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
    assert not report.unused and report.dropped == list(extra) and _equal(_state(net), arrays)


def test_a_counter_that_is_there_is_kept_and_one_that_is_not_is_made():
    named = weight_names.originals({"bn1.num_batches_tracked": np.array(7), "bn1._variance": np.ones(2, np.float32),
                                    "bn2._variance": np.ones(2, np.float32)})
    assert list(named) == ["bn1.num_batches_tracked", "bn1.running_var", "bn2.running_var", "bn2.num_batches_tracked"]
    assert named["bn1.num_batches_tracked"] == 7 and named["bn2.num_batches_tracked"] == 0


def test_layers_that_the_network_has_are_no_leftovers():
    """Its own P6 and P7 are called as the surplus ones are."""
    shapes = {"fpn.downsample_layers.0.bias": np.zeros(4, np.float32)}
    report = W.compare(shapes, {**shapes, "fpn.downsample_layers.1.bias": np.zeros(4, np.float32)})
    assert report.loaded == list(shapes) and report.dropped == ["fpn.downsample_layers.1.bias"]


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


def test_a_backbone_of_another_depth_is_refused_and_nothing_is_set(tmp_path):
    small, deep = ResNetBackbone([1, 1], width=8), ResNetBackbone([1, 2], width=8)
    path = str(tmp_path / "resnet.pth")
    W.save_pth(path, weight_names.original_backbones(_arrays(deep)))
    before = _state(small)
    with pytest.raises(W.WeightsError, match=r"15 of the file are of layers that it lacks \(e.g. layers.1.1.conv1"):
        W.load_backbone(small, path)
    W.save_pth(path, weight_names.original_backbones(_arrays(small)))
    with pytest.raises(W.WeightsError, match=r"15 of 60 tensors are missing.*layers.1.1.*backbone.args"):
        W.load_backbone(deep, path)
    wide = ResNetBackbone([1, 1], width=16)
    with pytest.raises(W.WeightsError, match=r"conv1.weight: \[8, 3, 7, 7\] in the file, \[16, 3, 7, 7\] in"):
        W.load_backbone(wide, path)
    assert _equal(_state(small), before)


def test_new_tensors_of_a_backbone_keep_their_values_and_are_listed(tmp_path):
    net = ResNetBackbone([1, 1], width=8)
    net.offset = paddle.nn.Linear(2, 2)
    net.is_new = lambda name: name.startswith("offset.")
    arrays, path = _arrays(ResNetBackbone([1, 1], width=8)), str(tmp_path / "resnet.pth")
    W.save_pth(path, weight_names.original_backbones(arrays))
    before = _state(net.offset)
    report = W.load_backbone(net, path)
    assert report.new == ["offset.weight", "offset.bias"] and not report.missing
    assert _equal(_state(net.offset), before) and _equal(_state(net), {**arrays, **{
        f"offset.{name}": array for name, array in before.items()}})
    assert "new     offset.bias" in report.table()
    # a file that has them, as one of a whole network does, fills them
    W.save_pth(path, {f"backbone.{name}": array for name, array in _arrays(net).items()})
    assert not W.load_backbone(net, path).new and _equal(_state(net), _arrays(net))


def test_darknet_backbone_with_the_original_names(tmp_path):
    net, path = DarkNetBackbone([1, 1]), str(tmp_path / "darknet.pth")
    arrays = _arrays(net)
    W.save_pth(path, weight_names.original_backbones(arrays))
    W.load_backbone(net, path)
    assert _equal(_state(net), arrays)


@pytest.mark.parametrize("prefix", ["", "features."])
def test_vgg_backbone_counts_the_modules_of_all_stages(tmp_path, prefix):
    stages = [[4, 4], ["M", 6], ["M", 8, 8]]
    net = build_backbone(Config({"type": "VGGBackbone", "args": [stages, [[2, 2]], [1]]}))
    convolutions = {0: (4, 3), 2: (4, 4), 5: (6, 4), 8: (8, 6), 10: (8, 8)}
    file = {}
    for number, (outputs, inputs) in convolutions.items():
        file[f"{prefix}{number}.weight"] = np.full((outputs, inputs, 3, 3), number, np.float32)
        file[f"{prefix}{number}.bias"] = np.full(outputs, number, np.float32)
    path = str(tmp_path / "vgg16_reducedfc.pth")
    write_pth(path, {**file, "classifier.0.weight": np.zeros((2, 8), np.float32)})
    report = W.load_backbone(net, path)
    assert report.unused == ["classifier.0.weight"] and len(report.loaded) == 10
    assert {name.split(".")[0] for name in report.new} == {"layers", "norms"}
    state = _state(net)
    places = {"layers.0.0": 0, "layers.0.2": 2, "layers.1.1": 5, "layers.2.1": 8, "layers.2.3": 10}
    assert {name: state[f"{name}.weight"].flat[0] for name in places} == places
    named = weight_names.original_backbones({name: state[name] for name in report.loaded},
                                            [len(stage) for stage in net.layers])
    assert sorted(named) == sorted(name[len(prefix):] for name in file)


def test_detectron_backbone_with_group_norm(tmp_path):
    net = ResNetBackbone([2, 1], width=4, norm=lambda channels: paddle.nn.GroupNorm(2, channels))
    ours, blobs = _arrays(net), {}
    blocks = {f"layers.{stage}.{block}": f"res{stage + 2}_{block}" for stage, block in ((0, 0), (0, 1), (1, 0))}
    for name, array in ours.items():
        block, _, rest = name.rpartition(".")[0].rpartition(".")
        leaf = name.rpartition(".")[2]
        if name.startswith(("conv1.", "bn1.")):
            blob = "conv1_w" if rest == "conv1" else f"conv1_gn_{'s' if leaf == 'weight' else 'b'}"
        else:
            down = block.endswith("downsample")
            branch = "branch1" if down else f"branch2{'abc'[int(rest[-1]) - 1]}"
            convolution = rest == "0" if down else rest.startswith("conv")
            kind = "w" if convolution else f"gn_{'s' if leaf == 'weight' else 'b'}"
            blob = f"{blocks[block.replace('.downsample', '')]}_{branch}_{kind}"
        blobs[blob] = array
    assert {"conv1_gn_s", "res2_0_branch1_w", "res2_1_branch2c_gn_s", "res3_0_branch1_gn_b"} <= set(blobs)
    assert len(blobs) == len(ours)
    path = tmp_path / "R-101-GN.pkl"
    path.write_bytes(pickle.dumps({"blobs": {**blobs, "fc1000_b": np.zeros(9, np.float32)}}, protocol=2))
    assert W.load_backbone(net, str(path)).unused == ["fc1000_b"]
    assert _equal(_state(net), ours)


def _entries(config):
    """name -> shape of a network of the original, under our names and without counters."""
    entries = {name: np.broadcast_to(np.float32(0), shape) for name, shape in
               json.loads((GOLDENS / "state_dicts.json").read_text())[config]}
    return {name: array.shape for name, array in weight_names.ours(entries, "pdparams").items()
            if not weight_names.is_counter(name)}


def test_names_of_the_earlier_port_map_one_to_one_onto_ours_with_the_same_shapes():
    theirs = dict(json.loads((GOLDENS / "state_dict_earlier_port_resnet50.json").read_text())["entries"])
    ours = {name: shape for name, shape in _entries("yolact_resnet50").items() if name.startswith("backbone.")}
    arrays = {name: np.broadcast_to(np.float32(number), shape) for number, (name, shape) in enumerate(theirs.items())}
    mapped = weight_names.ours(arrays, "pdparams")
    assert len(theirs) == 265 and {name: array.shape for name, array in mapped.items()} == ours
    assert {int(array.flat[0]) for array in mapped.values()} == set(range(len(theirs)))
    # what shapes cannot tell apart: blocks of a stage, weight and bias, first and second norm, mean and variance
    for name, array in mapped.items():
        source = list(theirs)[int(array.flat[0])]
        assert source.rpartition(".")[2] == name.rpartition(".")[2]
        if "res" in source:
            stage, block, branch, kind = source.split(".")[1:5]
            words = name.split(".")
            assert (int(words[2]), int(words[3])) == (int(stage[3]) - 2, "abcdef".index(block[-1]))
            layer = {"short": "downsample.", "branch2a": "1", "branch2b": "2", "branch2c": "3"}[branch]
            assert (layer if layer[-1] == "." else {"conv": "conv", "norm": "bn"}[kind] + layer) in name


def test_deep_stages_of_the_earlier_port_number_their_blocks():
    array = np.zeros(1, np.float32)
    names = {"backbone.res4.res4a.branch2a.conv.weight": "backbone.layers.2.0.conv1.weight",
             "backbone.res4.res4b1.branch2b.norm._mean": "backbone.layers.2.1.bn2._mean",
             "backbone.res4.res4b22.branch2c.norm.bias": "backbone.layers.2.22.bn3.bias",
             "backbone.res4.res4w.branch2c.norm.bias": "backbone.layers.2.22.bn3.bias",
             "res5.res5a.short.norm.running_var": "layers.3.0.downsample.1._variance"}
    for theirs, ours in names.items():
        assert list(weight_names.ours({theirs: array}, "pdparams")) == [ours]


@pytest.mark.parametrize("config", ["yolact_base", "yolact_darknet53", "yolact_plus_resnet50"])
def test_names_go_to_the_original_and_back(config):
    original = {name: np.broadcast_to(np.float32(0), shape) for name, shape in
                json.loads((GOLDENS / "state_dicts.json").read_text())[config]}
    without = {name: array for name, array in original.items() if not weight_names.is_counter(name)}
    for start in (original, without):  # counters are kept, or made at the places PyTorch has them
        ours = weight_names.ours(start, "pth")
        assert not any("running_" in name for name in ours) and len(ours) == len(start)
        assert list(weight_names.originals(ours)) == list(original)
    made = weight_names.originals(weight_names.ours(without, "pth"))["backbone.layers.0.0.%s" % (
        "1.num_batches_tracked" if "darknet" in config else "bn1.num_batches_tracked")]
    assert made.dtype == np.int64 and made.shape == () and made == 0


def test_linear_layers_are_transposed_in_the_originals_formats_only(tmp_path):
    net = paddle.nn.Layer()
    net.class_existence_fc = paddle.nn.Linear(2, 3)
    arrays = _arrays(net)
    for save, turned in ((W.save_pth, True), (W.save_npz, True), (W.save_pdparams, False)):
        path = str(tmp_path / "net")
        save(path, arrays)
        stored = W.read_file(path).tensors["class_existence_fc.weight"]
        assert stored.shape == ((3, 2) if turned else (2, 3))
        W.load_weights(net, W.read_weights(path))
        assert _equal(_state(net), arrays)


def test_first_release_with_the_old_names_alone(tmp_path):
    net, path = Net(), str(tmp_path / "net.pth")
    arrays = _arrays(net)
    old = {name.replace("backbone.layers.0.", "backbone.layer1."): array for name, array in arrays.items()}
    assert old.keys() != arrays.keys()
    write_pth(path, _original_names(old))
    W.load_weights(net, W.read_weights(path))
    assert _equal(_state(net), arrays)
    W.load_backbone(net.backbone, path)


def test_table_counts_every_part_and_lists_what_was_not_used():
    net = Net(classes=2)
    arrays = _arrays(Net(classes=5))
    del arrays["backbone.layers.0.0.bn1.bias"]
    arrays["other.weight"] = np.zeros(1, np.float32)
    lines = W.load_weights(net, arrays, strict=False).table().splitlines()
    assert lines[0] == "6 tensors loaded, 4 of another shape skipped, 1 missing in the file, 1 in the file unused"
    assert [line.split() for line in lines[1:5]] == [
        ["part", "used", "of"], ["backbone.layers.0", "4", "5"], ["prediction_layers", "2", "4"],
        ["semantic_seg_conv", "0", "2"]]
    assert len({len(line) for line in lines[1:5]}) == 1
    assert "  skipped semantic_seg_conv.bias: [5] in the file, [2] in the network" in lines
    assert lines[-2:] == ["  missing backbone.layers.0.0.bn1.bias", "  unused  other.weight"]
