"""Checkpoints: names, exact resuming, atomic writing, clean-up."""
import errno
import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from utils import checkpoint, checkpoint_files
from utils.checkpoint_files import Name, parse_name
from utils.config_differences import config_differences
from utils.runtime import seed_everything
from utils.weights import WeightsError, saved_config

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
STATE = {"config": {"name": "net", "lr": 0.1}, "epoch": 1, "iteration": 3, "seed": 0, "position": 2,
         "metrics": {"AP": np.float32(0.5)}}


def _net():
    return paddle.nn.Sequential(paddle.nn.Conv2D(3, 4, 3), paddle.nn.BatchNorm2D(4),
                                paddle.nn.Conv2D(4, 2, 1))


def _optimizer(net, kind="sgd"):
    if kind == "sgd":
        return paddle.optimizer.Momentum(0.1, 0.9, parameters=net.parameters(), weight_decay=5e-4)
    return paddle.optimizer.AdamW(0.01, parameters=net.parameters(), weight_decay=0.05,
                                  grad_clip=paddle.nn.ClipGradByGlobalNorm(1.0))


def _update(net, optimizer):
    """What a checkpoint needs of utils.update.Update."""
    return SimpleNamespace(net=net, optimizer=optimizer, average=None, scaler=None)


def _train(net, optimizer, first, last):
    """Steps first..last-1 on inputs that depend on the step only; returns the losses."""
    losses = []
    net.train()
    for iteration in range(first, last):
        seed_everything(1, iteration)
        optimizer.set_lr(0.01 * (iteration + 1))
        loss = (net(paddle.randn([2, 3, 8, 8])) ** 2).mean()
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        losses.append(loss.item())
    return losses


def _state(net):
    return {name: tensor.numpy() for name, tensor in net.state_dict().items()}


def _same(first, second):
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def test_names():
    name = Name("yolact_base", 54, 800000)
    assert str(name) == "yolact_base_54_800000"
    assert parse_name("weights/yolact_base_54_800000.pdparams") == name
    assert parse_name(str(name._replace(interrupt=True)) + ".pdparams") == ("yolact_base", 54, 800000, True)
    assert parse_name("yolact_im700_1_2.npz").config == "yolact_im700"
    assert parse_name("resnet101_reducedfc.pth") is None


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_resumed_training_equals_the_uninterrupted_one(tmp_path, kind):
    net = _net()
    optimizer = _optimizer(net, kind)
    _train(net, optimizer, 0, 3)
    path = checkpoint.save(str(tmp_path), Name("net", 1, 3), _update(net, optimizer), STATE)
    losses, final = _train(net, optimizer, 3, 6), _state(net)

    net = _net()  # a second network in the process: Paddle's global names differ
    optimizer = _optimizer(net, kind)
    state = checkpoint.load_training_state(path, _update(net, optimizer))
    assert {key: state[key] for key in STATE} == {**STATE, "metrics": {"AP": 0.5}}
    assert _train(net, optimizer, state["iteration"], 6) == losses
    assert _same(_state(net), final)


def test_second_optimizer_of_one_network_resumes_too(tmp_path):
    net = _net()
    optimizer = _optimizer(net)
    _train(net, optimizer, 0, 3)
    path = checkpoint.save(str(tmp_path), Name("net", 1, 3), _update(net, optimizer), STATE)
    losses = _train(net, optimizer, 3, 5)
    optimizer = _optimizer(net)
    checkpoint.load_training_state(path, _update(net, optimizer))
    assert _train(net, optimizer, 3, 5) == losses


def test_optimizer_state_matters(tmp_path):
    """Without the .pdopt content the continued training differs: the equality above is no accident."""
    net = _net()
    optimizer = _optimizer(net)
    _train(net, optimizer, 0, 3)
    before = _state(net)
    losses = _train(net, optimizer, 3, 6)
    net.set_state_dict({name: paddle.to_tensor(array) for name, array in before.items()})
    assert _train(net, _optimizer(net), 3, 6) != losses


def test_frozen_batch_norm_and_the_rate_survive_loading(tmp_path):
    net = _net()
    optimizer = _optimizer(net)
    _train(net, optimizer, 0, 2)
    path = checkpoint.save(str(tmp_path), "net_0_2", _update(net, optimizer), STATE)
    net = _net()
    for parameter in net[1].parameters():
        parameter.stop_gradient = True
    optimizer = _optimizer(net)
    checkpoint.load_training_state(path, _update(net, optimizer))
    assert optimizer.get_lr() == 0.1
    slots = checkpoint.optimizer_state(net, optimizer)
    assert "0.weight:velocity" in slots and "1.weight:velocity" not in slots
    assert all(parameter.grad is None for parameter in net.parameters())


def test_checkpoint_before_the_first_step(tmp_path):
    net = _net()
    path = checkpoint.save(str(tmp_path), "net_0_0", _update(net, _optimizer(net)), STATE)
    other = _net()
    checkpoint.load_training_state(path, _update(other, _optimizer(other)))
    assert _same(_state(net), _state(other))


def test_files_of_a_checkpoint(tmp_path):
    net = _net()
    path = checkpoint.save(str(tmp_path / "new"), Name("net", 1, 3), _update(net, _optimizer(net)), STATE)
    assert path == str(tmp_path / "new" / "net_1_3.pdparams")
    assert sorted(os.listdir(tmp_path / "new")) == ["net_1_3.json", "net_1_3.pdopt", "net_1_3.pdparams"]
    assert saved_config(path) == STATE["config"]
    assert set(paddle.load(path)) >= set(net.state_dict())


def test_failed_save_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    net = _net()
    optimizer = _optimizer(net)
    path = checkpoint.save(str(tmp_path), "net_1_3", _update(net, optimizer), STATE)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    _train(net, optimizer, 0, 1)

    def full_disk(state, target, *arguments):
        with open(target, "wb") as file:
            file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(paddle, "save", full_disk)
    with pytest.raises(checkpoint_files.CheckpointError, match="No space left.*--save_folder"):
        checkpoint.save(str(tmp_path), "net_1_3", _update(net, optimizer), STATE)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    monkeypatch.undo()
    checkpoint.load_training_state(path, _update(_net(), _optimizer(_net())))


def test_a_kill_never_leaves_weights_beside_files_of_others(tmp_path, monkeypatch):
    """At no moment is there a .pdparams when another of the three files is missing or of another save."""
    net, seen = _net(), []
    update = _update(net, _optimizer(net))
    path = checkpoint.save(str(tmp_path), "net_1_3", update, STATE)

    def watched(function):
        def call(*paths):
            function(*paths)
            seen.append(sorted(os.path.splitext(file)[1] for file in os.listdir(tmp_path) if file[-4:] != ".tmp"))
        return call

    monkeypatch.setattr(os, "replace", watched(os.replace))
    monkeypatch.setattr(os, "remove", watched(os.remove))
    checkpoint.save(str(tmp_path), "net_1_3", update, STATE)
    assert seen[:4] == [[".json", ".pdopt"]] * 3 + [[".json", ".pdopt", ".pdparams"]]
    seen.clear()
    checkpoint_files.remove(path)
    assert seen == [[".json", ".pdopt"], [".json"], []]


def test_state_that_cannot_be_json_is_an_error_and_leaves_nothing(tmp_path):
    net = _net()
    with pytest.raises(TypeError, match="object"):
        checkpoint.save(str(tmp_path), "net_1_3", _update(net, _optimizer(net)), {**STATE, "extra": object()})
    assert os.listdir(tmp_path) == []


KILLED = """
import os, signal, sys, types
import paddle
from utils import checkpoint
net = paddle.nn.Conv2D(3, 4, 3)
optimizer = paddle.optimizer.Momentum(0.1, parameters=net.parameters())
state = {"config": {}, "epoch": 0, "iteration": 1}
update = types.SimpleNamespace(net=net, optimizer=optimizer, average=None, scaler=None)
checkpoint.save(sys.argv[1], "net_0_1", update, state)
replace = os.replace
def die(source, target):
    if source.endswith(sys.argv[2] + ".tmp"):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
os.replace = die
checkpoint.save(sys.argv[1], "net_0_2", update, {**state, "iteration": 2})
"""


@pytest.mark.parametrize("suffix", checkpoint_files.SUFFIXES)
def test_kill_while_saving_leaves_the_last_whole_checkpoint(tmp_path, suffix):
    result = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), suffix], cwd=ROOT, timeout=60,
                            capture_output=True)
    assert result.returncode == -9, result.stderr
    path = checkpoint_files.find(str(tmp_path), "latest", "net")
    assert os.path.basename(path) == "net_0_1.pdparams"
    net = paddle.nn.Conv2D(3, 4, 3)
    assert checkpoint.load_training_state(path, _update(net, _optimizer(net)))["iteration"] == 1
    assert any(file.endswith(".tmp") for file in os.listdir(tmp_path))
    (tmp_path / "other_0_1.pdopt.tmp").write_bytes(b"")
    checkpoint_files.remove_leftovers(str(tmp_path), "net")
    assert {file for file in os.listdir(tmp_path) if not file.endswith(".json")} == {
        "net_0_1.pdopt", "net_0_1.pdparams", "other_0_1.pdopt.tmp"}


def _touch(folder, *names):
    for name in names:
        for suffix in checkpoint_files.SUFFIXES:
            (folder / (name + suffix)).write_bytes(b"")


def _stems(folder):
    return sorted({os.path.splitext(file)[0] for file in os.listdir(folder)})


def test_find(tmp_path):
    _touch(tmp_path, "net_0_900", "net_1_1000", "net_1_1010_interrupt", "net_2_2_interrupt", "net_big_9_9999")
    (tmp_path / "net_9_99999.pdopt").write_bytes(b"")  # half a checkpoint is none
    (tmp_path / "net_8_88888.pdparams").write_bytes(b"")  # nor are weights without optimizer state
    assert checkpoint_files.find(str(tmp_path), "latest", "net").endswith("net_1_1010_interrupt.pdparams")
    assert checkpoint_files.find(str(tmp_path), "interrupt", "net").endswith("net_1_1010_interrupt.pdparams")
    assert checkpoint_files.find(str(tmp_path), "latest", "net_big").endswith("net_big_9_9999.pdparams")
    with pytest.raises(checkpoint_files.CheckpointError, match="no interrupted checkpoint of net_big.*--save_folder"):
        checkpoint_files.find(str(tmp_path), "interrupt", "net_big")
    with pytest.raises(checkpoint_files.CheckpointError, match="no checkpoint of other"):
        checkpoint_files.find(str(tmp_path / "missing"), "latest", "other")


@pytest.mark.parametrize("backwards", [False, True])
def test_the_interrupt_of_one_iteration_is_the_newer_one(tmp_path, monkeypatch, backwards):
    _touch(tmp_path, "net_1_5", "net_1_5_interrupt", "net_0_4")
    names = sorted(os.listdir(tmp_path), reverse=backwards)
    monkeypatch.setattr(os, "listdir", lambda folder: names)
    assert checkpoint_files.find(str(tmp_path), "latest", "net").endswith("net_1_5_interrupt.pdparams")


def test_prune_keeps_no_checkpoint_of_iteration_0(tmp_path):
    _touch(tmp_path, "net_0_0")
    checkpoint_files.prune(str(tmp_path / "net_0_0.pdparams"), str(tmp_path / "net_0_20.pdparams"), 20)
    assert os.listdir(tmp_path) == []


def test_prune(tmp_path):
    _touch(tmp_path, "net_0_10", "net_0_20", "net_0_30", "net_0_40")
    paths = {n: str(tmp_path / f"net_0_{n}.pdparams") for n in (10, 20, 30, 40)}
    checkpoint_files.prune(None, paths[10], 20)
    checkpoint_files.prune(paths[10], paths[20], 20)
    checkpoint_files.prune(paths[20], paths[30], 20)
    checkpoint_files.prune(paths[40], paths[40], 0)
    assert _stems(tmp_path) == ["net_0_20", "net_0_30", "net_0_40"]
    for folder in ("net_0_20.pdparams.engine", "net_0_20.pdparams.boxes.engine", "net_0_30.pdparams.engine"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "network.onnx").write_bytes(b"")
    checkpoint_files.prune(paths[20], paths[30], 0)
    assert sorted(path.name for path in tmp_path.glob("*.engine")) == ["net_0_30.pdparams.engine"]
    shutil.rmtree(str(tmp_path / "net_0_30.pdparams.engine"))
    assert _stems(tmp_path) == ["net_0_30", "net_0_40"]


def test_only_the_newest_interrupt_stays(tmp_path):
    _touch(tmp_path, "net_0_10_interrupt", "net_0_20", "net_0_30_interrupt", "other_0_5_interrupt")
    checkpoint_files.remove_interrupts(str(tmp_path), "net", keep=str(tmp_path / "net_0_30_interrupt.pdparams"))
    assert _stems(tmp_path) == ["net_0_20", "net_0_30_interrupt", "other_0_5_interrupt"]


@pytest.mark.parametrize("suffix", [".json", ".pdopt"])
def test_weights_alone_cannot_be_resumed(tmp_path, suffix):
    net = _net()
    path = checkpoint.save(str(tmp_path), "net_1_3", _update(net, _optimizer(net)), STATE)
    os.remove(path.replace(".pdparams", suffix))
    with pytest.raises(checkpoint_files.CheckpointError, match=f"net_1_3{suffix} is not beside it.*--trained_model"):
        checkpoint.load_training_state(path, _update(net, _optimizer(net)))


@pytest.mark.parametrize("suffix", checkpoint_files.SUFFIXES)
def test_damaged_files_are_told_and_change_nothing(tmp_path, suffix):
    net = _net()
    optimizer = _optimizer(net)
    _train(net, optimizer, 0, 2)
    path = checkpoint.save(str(tmp_path), "net_1_3", _update(net, optimizer), STATE)
    target = path.replace(".pdparams", suffix)
    with open(target, "rb") as file:
        content = file.read()
    with open(target, "wb") as file:
        file.write(content[:len(content) // 2])
    other = _net()
    before = _state(other)
    with pytest.raises((checkpoint_files.CheckpointError, WeightsError), match=f"net_1_3{suffix} is damaged"):
        checkpoint.load_training_state(path, _update(other, _optimizer(other)))
    assert _same(_state(other), before)


def test_the_newest_that_can_be_read_is_resumed_and_the_first_damage_told(tmp_path, caplog):
    net = _net()
    update = _update(net, _optimizer(net))
    for iteration in (1, 2, 3):
        checkpoint.save(str(tmp_path), Name("net", 0, iteration), update, {**STATE, "iteration": iteration})
    for iteration in (2, 3):
        (tmp_path / f"net_0_{iteration}.json").write_text("{")
    path, state = checkpoint.resume(str(tmp_path), "latest", "net", update)
    assert path == str(tmp_path / "net_0_1.pdparams") and state["iteration"] == 1
    assert len(caplog.records) == 1 and "net_0_3.json is damaged" in caplog.text and path in caplog.text
    (tmp_path / "net_0_1.json").write_text("{")
    with pytest.raises(checkpoint_files.CheckpointError, match="net_0_3.json is damaged"):
        checkpoint.resume(str(tmp_path), "latest", "net", update)


def test_json_that_is_no_state(tmp_path):
    net = _net()
    path = checkpoint.save(str(tmp_path), "net_1_3", _update(net, _optimizer(net)), STATE)
    (tmp_path / "net_1_3.json").write_text(json.dumps({"bbox": {}}))
    with pytest.raises(checkpoint_files.CheckpointError, match="not the state of a training"):
        checkpoint.read_state(path)


def test_other_optimizer_and_other_network(tmp_path):
    net = _net()
    optimizer = _optimizer(net)
    _train(net, optimizer, 0, 1)
    path = checkpoint.save(str(tmp_path), "net_0_1", _update(net, optimizer), STATE)
    with pytest.raises(checkpoint_files.CheckpointError, match="slots velocity.*AdamW.*config key optimizer"):
        checkpoint.load_training_state(path, _update(net, _optimizer(net, "adamw")))
    small = paddle.nn.Sequential(paddle.nn.Conv2D(3, 4, 3))
    with pytest.raises(WeightsError, match="another network.*--config"):
        checkpoint.load_training_state(path, _update(small, _optimizer(small)))


def test_config_differences_name_the_dotted_keys():
    saved = json.loads(json.dumps({"lr": 0.1, "old": 1, "dataset": {"label_map": {1: 1}, "name": "a"}}))
    current = {"lr": 0.2, "dataset": {"label_map": {1: 1}, "name": "b"}}
    assert config_differences(saved, current) == [
        ("dataset.name", "a", "b"), ("lr", 0.1, 0.2), ("old", 1, None)]
    assert config_differences(saved, saved) == []
    other = {**current, "dataset": {"label_map": {1: 2, 7: 1}, "name": "b"}}
    assert config_differences(current, other) == [("dataset.label_map", {"1": 1}, {"1": 2, "7": 1})]  # whole


@pytest.mark.parametrize("text", ["[" * 100_000, '{"config": [], "epoch": 1, "iteration": 3}',
                                  '{"config": {}, "epoch": "1", "iteration": 3}'])
def test_a_state_of_other_types_or_without_end_is_refused(tmp_path, text):
    (tmp_path / "net_1_3.json").write_text(text)
    with pytest.raises(checkpoint.CheckpointError, match="resume from"):
        checkpoint.read_state(str(tmp_path / "net_1_3.pdparams"))


def test_slots_of_another_precision_are_converted_and_an_average_of_another_network_refused():
    net = _net()
    optimizer = _optimizer(net)
    _train(net, optimizer, 0, 1)
    slots = {key: array.astype(np.float64) for key, array in checkpoint.optimizer_state(net, optimizer).items()}
    checkpoint.load_optimizer_state(net, optimizer, slots)
    update = _update(net, optimizer)
    update.average = SimpleNamespace(tensors=dict(net.state_dict()))
    with pytest.raises(checkpoint.CheckpointError, match="moving average .* another network"):
        checkpoint.load_update_state(update, {"average:0.weight": np.zeros(3, np.float32)})
