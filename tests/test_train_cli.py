"""train.py as a user runs it: options, log, console, scaling and validation."""

import json
import re

import numpy as np
import paddle
import pytest
from cli_runs import REPO, assert_refused, batches_per_epoch, checkpoint_of, records, stem_of, train, train_arguments

import train as train_script
from data.config import apply_overrides, cfg
from utils.released import backbone_file
from utils.weights import read_weights

NUMBER = r"-?\d+\.\d+"
LINE = re.compile(
    rf"\[ *(\d+)\] +(\d+) \|\| B: {NUMBER} \| C: {NUMBER} \| M: {NUMBER} \| S: {NUMBER} \| T: {NUMBER} "
    rf"\|\| ETA: (\d+ days?, )?\d+:\d\d:\d\d \|\| timer: {NUMBER} "
    rf"\|\| batch_cost: {NUMBER} s, reader_cost: {NUMBER} s, ips: {NUMBER} images/s")


# Options


def test_options_of_the_original_are_there_with_their_defaults():
    original = json.loads((REPO / "tests" / "goldens" / "cli.json").read_text())["train.py"]
    assert len(original) == 23
    defaults = vars(train_script.parse_args([]))
    # The original's None means its own first config, which is this one.
    ours = {**defaults, "config": None if defaults["config"] == "yolact_base_config" else defaults["config"]}
    for option in original:
        assert ours[option["dest"]] == option["default"], option["flags"]
        for flag in option["flags"]:
            if option["action"] == "store":
                text = {"int": "7", "float": "0.5", "str2bool": "no"}.get(option["type"], "word")
                value = {"int": 7, "float": 0.5, "str2bool": False}.get(option["type"], "word")
                assert vars(train_script.parse_args([f"{flag}={text}"]))[option["dest"]] == value
            else:
                expected = option["action"] == "store_true"
                assert vars(train_script.parse_args([flag]))[option["dest"]] is expected


@pytest.mark.parametrize("options", [["--cuda=maybe"], ["--seed=-1"], ["--seed=x"], ["--batch_size=two"],
                                     ["--resume=latest", "--trained_model=x"], ["--no_such_option"]])
def test_wrong_options_are_refused_with_the_usage(options, capsys):
    with pytest.raises(SystemExit) as stop:
        train_script.parse_args(options)
    assert stop.value.code == 2 and ": error: " in capsys.readouterr().err


def configured(*options):
    before = cfg.copy()
    try:
        train_script.fill_cfg(train_script.parse_args(options))
        return cfg.copy()
    finally:
        cfg.update_in_place(before)


def test_config_then_dataset_then_overrides():
    config = configured("-o", "dataset.valid_info=F", "lr=0.5", "--dataset=pascal_sbd_dataset",
                        "--config=yolact_resnet50_config", "-o", "max_size=300")
    assert (config.name, config.dataset.name, config.num_classes) == ("yolact_resnet50", "Pascal SBD 2012", 21)
    assert (config.dataset.valid_info, config.lr, config.max_size) == ("F", 0.5, 300)
    assert config.dataset.train_info == "./data/sbd/pascal_sbd_train.json"


def test_max_iter_moves_the_steps_along_unless_they_are_given():
    assert configured("-o", "max_iter=8000").lr_steps == [2800, 6000, 7000, 7500]
    assert configured("-o", "max_iter=8000", "lr_steps=[1, 2]").lr_steps == [1, 2]


@pytest.mark.parametrize("options, count", [([], 8), (["--batch_size=11", "--accumulate=2"], 6),
                                            (["--batch_size=2", "--accumulate=3"], 1)])
def test_parts_of_a_batch_are_as_large_as_the_largest(options, count):
    assert train_script.images_at_once(train_script.parse_args(options)) == count


def test_an_option_of_the_original_without_effect_is_told(caplog):
    train_script.check_options(train_script.parse_args(["--batch_alloc=4,4"]), "cpu")
    assert "--batch_alloc has no effect" in caplog.text


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_decay_and_clipping_reach_the_optimizer(optimizer):
    rate = 0.1
    apply_overrides([f"optimizer={optimizer}", f"lr={rate}", "decay=0.25"])

    def weight_after(gradients, *options):
        """Of one weight that begins at 2."""
        net = paddle.nn.Linear(1, 1, bias_attr=False)
        net.weight.set_value(paddle.full([1, 1], 2.0))
        made = train_script.build_optimizer(net, train_script.parse_args(options))
        for gradient in gradients:
            (net.weight.sum() * gradient).backward()
            made.step()
            made.clear_grad()
        return net.weight.item()

    assert weight_after([0.0]) == pytest.approx(2 * (1 - rate * 0.25))
    assert weight_after([0.0], "--decay=0.5") == pytest.approx(2 * (1 - rate * 0.5))
    clipped, plain = ["--decay=0", "--clip_norm=1"], ["--decay=0"]
    assert weight_after([1.0, 1000.0], *clipped) == pytest.approx(weight_after([1.0, 1.0], *plain))
    assert abs(weight_after([1.0, 1000.0], *plain) - weight_after([1.0, 1.0], *plain)) > 0.01


# Log and console


def test_log_records(straight, demo_data):
    folder, _ = straight
    log = records(folder)
    assert log[0]["type"] == "session" and log[0]["data"]["batch_size"] == 8
    assert all(set(record) == {"type", "session", "data", "time"} and record["session"] == 0 for record in log)
    train_records = [record["data"] for record in log if record["type"] == "train"]
    assert [data["iter"] for data in train_records] == list(range(12))
    per_epoch = batches_per_epoch(demo_data)
    assert [data["epoch"] for data in train_records] == [i // per_epoch for i in range(12)]
    for data in train_records:
        assert set(data) == {"loss", "epoch", "iter", "lr", "elapsed"} and list(data["loss"]) == list("BCMST")
        assert data["loss"]["T"] == pytest.approx(sum(data["loss"][letter] for letter in "BCMS"), rel=1e-12)
        assert data["elapsed"] > 0 and data["loss"]["T"] != round(data["loss"]["T"], 4)
    assert train_records[0]["lr"] == 1e-4 < train_records[1]["lr"]


def test_validation_records(straight, demo_data):
    folder, console = straight
    found = records(folder, "val")
    per_epoch = batches_per_epoch(demo_data)
    due = [iteration for iteration in range(1, 12) if iteration % (2 * per_epoch) == 0]
    assert due and [record["data"]["iter"] for record in found] == [*due, 12]  # the end once, not twice
    assert [record["data"]["epoch"] for record in found] == [
        *(iteration // per_epoch - 1 for iteration in due), 12 // per_epoch]
    for record in found:
        assert set(record["data"]) == {"epoch", "iter", "elapsed", "box", "mask"}
        assert list(record["data"]["mask"]) == ["all", *map(str, range(50, 100, 5))]
    assert len(re.findall(r"^  mask \|( +[\d.]+ \|){11}$", console, re.MULTILINE)) == len(found)


def test_console_lines(straight, demo_data):
    _, console = straight
    found = [LINE.fullmatch(line) for line in console.splitlines() if "ETA" in line]
    assert [match and match.groups()[:2] for match in found] == [
        ("0", "0"), (str(10 // batches_per_epoch(demo_data)), "10")]
    for words in ("yolact_demo on 1 x cpu", "changed from yolact_demo_config: ", "max_size=48",
                  "training images with objects, 12 validation images, 3 classes",
                  "batch 8 (1 x 1 x 8), adamw, learning rate ", "12 iterations = ", "batch norm: trained",
                  "finished; peak memory", stem_of(demo_data, 12) + ".pdparams"):
        assert words in console


def test_losses_are_from_before_the_update(demo_data, tmp_path):
    losses = []
    for rate in ("1e-6", "1e-2"):
        train(demo_data, tmp_path / rate, f"--lr={rate}", overrides=["max_iter=2", "lr_warmup_until=0"])
        losses.append([record["data"]["loss"] for record in records(tmp_path / rate, "train")])
    assert losses[0][0] == losses[1][0] and losses[0][1] != losses[1][1]


# Scaling, batch norm, validation


def test_batch_size_scales_rate_and_iterations(demo_data, tmp_path, capsys):
    overrides = ["max_iter=2", "lr_warmup_until=0", "lr=0.001", "lr_schedule='step'", "lr_steps=[1]"]
    train(demo_data, tmp_path, "--batch_size=4", overrides=overrides)
    assert [record["data"]["lr"] for record in records(tmp_path, "train")] == pytest.approx(
        [5e-4, 5e-4, 5e-5, 5e-5])
    console = capsys.readouterr().out
    assert "steps [2]), 4 iterations" in console and "(scaled to the batch size)" in console
    train(demo_data, tmp_path / "as_is", "--batch_size=4", "--no_autoscale", "--gamma=0.5", overrides=overrides)
    assert [record["data"]["lr"] for record in records(tmp_path / "as_is", "train")] == pytest.approx([1e-3, 5e-4])
    assert "(scaled" not in capsys.readouterr().out


@pytest.mark.parametrize("batch_size, overrides, frozen", [
    (5, [], True), (6, [], False), (6, ["freeze_bn=True"], True)])
def test_batch_norm_is_frozen_below_six_images(demo_data, tmp_path, capsys, batch_size, overrides, frozen):
    options = [f"--batch_size={batch_size}", "--no_autoscale"]
    train(demo_data, tmp_path, *options, overrides=["max_iter=1", *overrides])
    assert ("batch norm: frozen" in capsys.readouterr().out) == frozen
    tensors = read_weights(checkpoint_of(tmp_path, demo_data, 1))
    statistics = [array for name, array in tensors.items() if name.endswith("._mean")]
    assert statistics and all((array == 0).all() == frozen for array in statistics)


def test_options_replace_the_configs_optimizer_settings(demo_data, tmp_path):
    sgd = ["max_iter=2", "optimizer='sgd'", "lr_warmup_until=0"]
    runs = {"plain": [], "momentum": ["--momentum=0"], "decay": ["--weight_decay=0.5"]}
    for name, options in runs.items():
        train(demo_data, tmp_path / name, *options, overrides=sgd)
    final = {name: read_weights(checkpoint_of(tmp_path / name, demo_data, 2)) for name in runs}
    for name in ("momentum", "decay"):
        assert any(not np.array_equal(final[name][key], final["plain"][key]) for key in final["plain"])


@pytest.mark.parametrize("many, is_told", [(1, True), (2, False)])
def test_a_schedule_far_beyond_the_data_is_told(demo_data, tmp_path, caplog, monkeypatch, many, is_told):
    monkeypatch.setattr(train_script, "MANY_EPOCHS", many)
    train(demo_data, tmp_path)
    assert ("max_iter is 2 epochs of your 24 pictures" in caplog.text) == is_told
    assert ("-o max_iter=300" in caplog.text) == is_told


def test_validation_takes_as_many_pictures_as_told_after_two_before_the_first_step(demo_data, tmp_path, monkeypatch):
    taken = []
    real = train_script.evaluate

    def watched(predictor, dataset, order, *more):
        taken.append(len(order))
        return real(predictor, dataset, order, *more)

    monkeypatch.setattr(train_script, "evaluate", watched)
    train(demo_data, tmp_path, "--validation_epoch=1", "--validation_size=5", overrides=["max_iter=1"])
    assert taken == [2, 5]


@pytest.mark.parametrize("name, words", [
    ("resnet101_reducedfc.pth", "--backbone_weights=original downloads it"),
    ("mine.pth", "Put the ImageNet weights there")])
def test_missing_weights_of_the_backbone_are_told_with_where_to_get_them(tmp_path, caplog, name, words):
    apply_overrides([f"backbone.path={name}"])
    assert backbone_file(None, cfg.backbone, str(tmp_path)) is None
    assert str(tmp_path / name) in caplog.text and caplog.text.strip().endswith(words)


def test_visualdl_gets_curves_and_pictures(demo_data, tmp_path):
    visualdl = pytest.importorskip("visualdl")
    train(demo_data, tmp_path, "--use_vdl", "--validation_epoch=1")
    [file] = (tmp_path / "logs" / "yolact_demo").rglob("vdlrecords*")
    tags = visualdl.LogReader(file_path=str(file)).get_tags()
    assert "loss/T" in tags["scalar"] and "validation/mask_AP" in tags["scalar"]
    assert len(tags["image"]) == 4


def test_without_validation_its_files_are_not_opened(demo_data, tmp_path):
    nowhere = ["dataset.valid_images=nowhere", "dataset.valid_info=nowhere.json"]
    train(demo_data, tmp_path, overrides=["max_iter=1", *nowhere])
    assert records(tmp_path, "val") == []
    assert_refused("train", train_arguments(demo_data, tmp_path, "--validation_epoch=1", overrides=nowhere),
                   "nowhere", "dataset.valid_info")


def test_gpu_that_is_not_there_costs_one_warning(demo_data, tmp_path, caplog):
    import paddle

    if paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count():
        pytest.skip("this machine has a GPU")
    train(demo_data, tmp_path, "--cuda=True", overrides=["max_iter=1"])
    ours = [record.getMessage() for record in caplog.records if "--cuda" in record.getMessage()]
    assert len(ours) == 1 and "CPU" in ours[0]
