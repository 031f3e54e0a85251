"""tools/convert_weights.py: every format into every other, and what it refuses."""
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest

from data.config import get_config
from tools import convert_weights
from utils import weight_files, weight_names
from utils import weights as W
from utils.checkpoint import CheckpointError, read_state
from yolact import Yolact

REPO = Path(__file__).resolve().parent.parent
KINDS = ("pdparams", "safetensors", "npz", "pth")


@pytest.fixture(scope="module")
def net():
    return Yolact(get_config("yolact_demo"))


@pytest.fixture(scope="module")
def published(net):
    """What the original would have published for the demo network: its names and order, counters that counted."""
    rng = np.random.RandomState(0)
    ours = {name: rng.uniform(0.5, 1.5, tensor.shape).astype(np.float32) for name, tensor in net.state_dict().items()}
    ours = dict(sorted(ours.items(), key=lambda item: item[0].startswith("backbone.conv1")))  # as there, the stem last
    tensors = weight_names.originals(ours)
    return {name: np.array(rng.randint(1, 10 ** 6), np.int64) if weight_names.is_counter(name) else array
            for name, array in tensors.items()}


@pytest.fixture
def source(tmp_path, published):
    path = str(tmp_path / "in" / "yolact_demo_5_100.pth")
    weight_files.write_pth(path, published)
    return path


def _same(first, second):
    assert list(first) == list(second)
    for name in first:
        assert first[name].dtype == second[name].dtype and first[name].shape == second[name].shape, name
        assert np.array_equal(first[name], second[name]), name


def _fails(words, *arguments):
    with pytest.raises(SystemExit) as caught:
        convert_weights.main([str(argument) for argument in arguments])
    message = str(caught.value)
    assert message.startswith("convert_weights.py: error: ") and "\n" not in message
    for word in words.split("|"):
        assert word in message, message


@pytest.mark.parametrize("first, second", list(itertools.product(KINDS, KINDS)))
def test_a_published_file_comes_back_bit_equal_over_any_two_formats(tmp_path, published, source, first, second):
    paths = [source] + [str(tmp_path / f"yolact_demo_5_{number}.{kind}")
                        for number, kind in enumerate((first, second, "pth"))]
    for step in zip(paths, paths[1:]):
        convert_weights.convert(*step)
    _same(weight_files.read_file(paths[-1]).tensors, published)
    read = [W.read_weights(path) for path in paths]
    for weights in read[1:]:
        _same(weights, read[0])


def test_files_without_counters_get_those_that_pytorch_asks_for(tmp_path, net, published):
    path, target = str(tmp_path / "yolact_demo.pdparams"), str(tmp_path / "out.pth")
    paddle.save(net.state_dict(), path)
    assert convert_weights.convert(path, target) == len(net.state_dict())
    written = weight_files.read_file(target).tensors
    assert set(written) == set(published)
    assert {name: array.dtype for name, array in written.items()} == {
        name: array.dtype for name, array in published.items()}
    assert all(not array for name, array in written.items() if weight_names.is_counter(name))


def test_half_size_with_the_config_inside(tmp_path, source):
    full, half, back = (str(tmp_path / name) for name in ("a.safetensors", "b.safetensors", "c.pth"))
    convert_weights.convert(source, full)
    convert_weights.main([source, half, "--half"])
    assert os.path.getsize(half) < 0.6 * os.path.getsize(full)
    assert W.saved_config(half) == json.loads(json.dumps(get_config("yolact_demo").to_dict()))
    convert_weights.convert(half, back)  # its name says no config; the metadata do
    tensors = weight_files.read_file(back).tensors
    assert {str(array.dtype) for array in tensors.values()} == {"float32", "int64"}


def test_pdparams_has_its_config_beside_and_cannot_be_resumed(tmp_path, source, net):
    target = str(tmp_path / "renamed.pdparams")
    convert_weights.convert(source, target)
    assert sorted(os.listdir(tmp_path)) == ["in", "renamed.json", "renamed.pdparams"]
    assert W.saved_config(target)["name"] == "yolact_demo"
    with pytest.raises(CheckpointError, match="not the state of a training"):
        read_state(target)
    net.set_state_dict(paddle.load(target))
    name = "backbone.layers.0.0.bn1._variance"
    assert np.array_equal(net.state_dict()[name].numpy(), W.read_weights(source)[name])
    convert_weights.convert(source, target)  # again: its own .json may be replaced


@pytest.mark.parametrize("content", ['{"config": {}, "epoch": 3, "iteration": 5}', "[]", "{"])
def test_the_json_of_a_training_is_not_overwritten(tmp_path, source, content):
    beside = tmp_path / "yolact_demo_5_100.json"
    beside.write_text(content)
    _fails("belongs to a training checkpoint|another name", source, tmp_path / "yolact_demo_5_100.pdparams")
    assert beside.read_text() == content and sorted(os.listdir(tmp_path)) == ["in", "yolact_demo_5_100.json"]


def test_the_config_is_the_named_the_saved_or_the_one_in_the_name(tmp_path, source):
    nameless = str(tmp_path / "model_final.pth")
    os.rename(source, nameless)
    _fails("in the name of|--config", nameless, tmp_path / "a.npz")
    _fails("--config=yolact_dmo|yolact_demo_config", nameless, tmp_path / "a.npz", "--config=yolact_dmo")
    convert_weights.convert(nameless, str(tmp_path / "a.safetensors"), config="yolact_demo")
    convert_weights.convert(str(tmp_path / "a.safetensors"), str(tmp_path / "b.npz"))
    (tmp_path / "model_final.json").write_text(json.dumps({"config": {"name": "x", "no_such_key": 1}}))
    _fails("saved with|no_such_key|pass --config", nameless, tmp_path / "c.npz")
    assert sorted(os.listdir(tmp_path)) == ["a.safetensors", "b.npz", "in", "model_final.json", "model_final.pth"]


def test_what_does_not_fit_is_shown_and_not_written(tmp_path, source, published, capsys):
    broken = str(tmp_path / "yolact_demo.npz")
    tensors = dict(published)
    del tensors["proto_net.0.bias"]
    tensors["fpn.lat_layers.0.bias"] = np.zeros(3, np.float32)
    tensors["extra.weight"] = np.zeros((2, 3), np.float32)
    weight_files.write_npz(broken, tensors)
    target = tmp_path / "out.pth"
    _fails("was not converted|1 of another shape|1 missing|1 unknown|--allow_mismatch", broken, target)
    shown = capsys.readouterr().out
    for line in ("skipped fpn.lat_layers.0.bias: [3] in the file", "missing proto_net.0.bias", "unused  extra.weight"):
        assert line in shown
    assert not target.exists()
    convert_weights.main([broken, str(target), "--allow_mismatch"])
    _same(weight_files.read_file(str(target)).tensors, tensors)


def test_leftovers_of_the_first_release_are_left_behind(tmp_path, published):
    path, target = str(tmp_path / "yolact_demo.pth"), str(tmp_path / "out.pth")
    aliases = {name.replace("backbone.layers.0.", "backbone.layer1."): array for name, array in published.items()}
    weight_files.write_pth(path, {**aliases, **published, "fpn.downsample_layers.7.bias": np.zeros(3, np.float32)})
    convert_weights.convert(path, target)
    assert set(weight_files.read_file(target).tensors) == set(published)


@pytest.mark.parametrize("kind", KINDS)
def test_backbone_out_of_a_network_and_out_of_a_classifier(tmp_path, source, published, kind, net):
    middle, back = str(tmp_path / f"resnet.{kind}"), str(tmp_path / "resnet_again.pth")
    convert_weights.convert(source, middle, backbone=True)
    assert not (tmp_path / "resnet.json").exists() and W.saved_config(middle) is None
    report = W.load_backbone(net.backbone, middle)
    assert not report.missing + report.unused
    convert_weights.convert(middle, back, config="yolact_demo", backbone=True)
    torchvision = {name[len("backbone."):]: array for name, array in published.items() if name.startswith("backbone.")}
    for stage in range(9):
        torchvision = {name.replace(f"layers.{stage}.", f"layer{stage + 1}."): array
                       for name, array in torchvision.items()}
    _same(weight_files.read_file(back).tensors, torchvision)
    classifier = str(tmp_path / "classifier.pth")
    weight_files.write_pth(classifier, {**torchvision, "fc.weight": np.zeros((5, 2), np.float32)})
    convert_weights.convert(classifier, back, config="yolact_demo", backbone=True)
    _same(weight_files.read_file(back).tensors, torchvision)


def test_backbone_that_does_not_fit_is_one_line(tmp_path):
    path = str(tmp_path / "resnet.pth")
    weight_files.write_pth(path, {"conv1.weight": np.zeros((1, 3, 7, 7), np.float32)})
    _fails("was not converted|does not fit the backbone|conv1.weight", path, tmp_path / "out.pdparams", "--backbone",
           "--config=yolact_demo")
    assert os.listdir(tmp_path) == ["resnet.pth"]


def test_paths_and_options_that_cannot_be(tmp_path, source):
    os.symlink(source, tmp_path / "link.pth")
    before = Path(source).read_bytes()
    _fails("is the file to read", source, source)
    _fails("is the file to read", source, tmp_path / "link.pth")
    _fails("name it .pdparams, .safetensors, .npz or .pth", source, tmp_path / "out.onnx")
    _fails("--half", source, tmp_path / "out.npz", "--half")
    _fails("cannot open|check the path", tmp_path / "gone.pth", tmp_path / "out.npz")
    (tmp_path / "folder.npz").mkdir()
    _fails("it is a folder", source, tmp_path / "folder.npz")
    assert Path(source).read_bytes() == before and sorted(os.listdir(tmp_path)) == ["folder.npz", "in", "link.pth"]


def test_as_a_command_from_another_folder(tmp_path, source):
    def run(*arguments):
        # Not the tests' number of threads, about which Paddle prints a warning.
        environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        return subprocess.run([sys.executable, str(REPO / "tools" / "convert_weights.py"), *arguments], cwd=tmp_path,
                              env=environment, capture_output=True, text=True, timeout=120)

    done = run(source, "out.pdparams")
    assert done.returncode == 0 and "tensors written to out.pdparams" in done.stdout, done.stderr
    assert (tmp_path / "out.pdparams").exists()
    done = run(source, "out.txt")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


def test_help_has_an_example_of_every_use(capsys):
    with pytest.raises(SystemExit) as caught:
        convert_weights.main(["--help"])
    text = capsys.readouterr().out
    assert caught.value.code == 0
    for words in (".pth weights/", ".pdparams yolact_base_54_800000.pth", "--half", "--backbone", "--allow_mismatch"):
        assert words in text
