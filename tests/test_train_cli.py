"""train.py as a user runs it: options, log, console, checkpoints, resuming, fine-tuning, and bad input."""

import contextlib
import errno
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from cli_runs import (
    REPO,
    assert_refused,
    batches_per_epoch,
    command,
    copy_data,
    edit_info,
    files_below,
    odd_pictures,
    records,
    run,
    stem_of,
    stems,
    train_arguments,
)

import train as train_script
from data.config import cfg
from utils.checkpoint import read_state
from utils.trainer import Trainer
from utils.weights import read_weights, unpickle_arrays

NUMBER = r"-?\d+\.\d+"
LINE = re.compile(
    rf"\[ *(\d+)\] +(\d+) \|\| B: {NUMBER} \| C: {NUMBER} \| M: {NUMBER} \| S: {NUMBER} \| T: {NUMBER} "
    rf"\|\| ETA: (\d+ days?, )?\d+:\d\d:\d\d \|\| timer: {NUMBER} "
    rf"\|\| batch_cost: {NUMBER} s, reader_cost: {NUMBER} s, ips: {NUMBER} images/s")
AUGMENTED = ["augment_photometric_distort=True", "augment_expand=True", "augment_random_sample_crop=True"]
SAMPLED = "masks_to_train=3"  # far fewer than there are: the mask loss draws which


def train(data, folder, *options, **more):
    run("train", train_arguments(data, folder, *options, **more))


def checkpoint_of(folder, data, iteration):
    return str(folder / "weights" / f"{stem_of(data, iteration)}.pdparams")


def everything(path):
    """Weights and optimizer slots of a checkpoint."""
    return {**read_weights(path), **unpickle_arrays(path.replace(".pdparams", ".pdopt"))}


def assert_same(first, second):
    assert first.keys() == second.keys()
    different = [name for name in first if not np.array_equal(first[name], second[name])]
    assert not different, different


@pytest.fixture(scope="module")
def straight(demo_data, tmp_path_factory):
    """Twelve iterations with augmentation, workers, validation and a checkpoint on the way, as (folder, console)."""
    folder = tmp_path_factory.mktemp("straight")
    arguments = train_arguments(demo_data, folder, "--num_workers=2", "--validation_epoch=2", "--save_interval=4",
                                "--validation_size=5", overrides=["max_iter=12", SAMPLED, *AUGMENTED])
    console = io.StringIO()
    with contextlib.redirect_stdout(console):
        run("train", arguments)
    return folder, console.getvalue()


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
        train_script.configure(train_script.parse_args(options))
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


# Checkpoints


def test_checkpoint_names_and_content(straight, demo_data):
    folder, _ = straight
    assert stems(folder) == sorted(stem_of(demo_data, iteration) for iteration in (4, 8, 12))
    state = read_state(checkpoint_of(folder, demo_data, 4))
    assert (state["epoch"], state["iteration"]) == (4 // batches_per_epoch(demo_data), 4)
    assert state["config"]["max_size"] == 48 and state["config"]["dataset"]["class_names"][0] == "circle"


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_continues_bit_by_bit(straight, demo_data, tmp_path, workers, caplog):
    whole, _ = straight
    for part in ("weights", "logs"):
        shutil.copytree(str(whole / part), str(tmp_path / part))
    for path in (tmp_path / "weights").glob(f"{stem_of(demo_data, 12)}*"):
        path.unlink()
    train(demo_data, tmp_path, "--resume=latest", f"--num_workers={workers}",
          overrides=["max_iter=12", SAMPLED, *AUGMENTED])
    assert_same(*(everything(checkpoint_of(folder, demo_data, 12)) for folder in (whole, tmp_path)))
    log = records(tmp_path)
    assert [record["session"] for record in log if record["type"] == "session"] == [0, 1]
    again = [record["data"] for record in log if record["session"] == 1 and record["type"] == "train"]
    before = [record["data"] for record in records(whole, "train")][8:]
    assert [(data["iter"], data["lr"], data["loss"]) for data in again] == [
        (data["iter"], data["lr"], data["loss"]) for data in before]
    assert "the checkpoint was trained with" not in caplog.text


def test_resume_from_a_file_tells_what_is_different_now(straight, demo_data, tmp_path, caplog):
    whole, _ = straight
    path = checkpoint_of(whole, demo_data, 8)
    train(demo_data, tmp_path, f"--resume={path}", "--seed=3", overrides=["max_iter=9", "nms_thresh=0.3"])
    for words in ("nms_thresh=0.5, and now it is 0.3", "--seed=0, and now it is 3", "max_iter=12, and now it is 9"):
        assert words in caplog.text
    assert stems(tmp_path) == [stem_of(demo_data, 9)]
    assert [record["data"]["iter"] for record in records(tmp_path, "train")] == [8]
    train(demo_data, tmp_path, f"--resume={path}", "--start_iter=5", "--no_log", overrides=["max_iter=6"])
    assert len(records(tmp_path)) == 2 and stem_of(demo_data, 6) in stems(tmp_path)


def test_keep_latest(demo_data, tmp_path):
    options = ["--save_interval=1", "--keep_latest", "--keep_latest_interval=2"]
    (tmp_path / "weights").mkdir()
    for suffix in (".json", ".pdopt", ".pdparams"):  # of a longer training before: not this one's to delete
        (tmp_path / "weights" / f"yolact_demo_9_99{suffix}").write_bytes(b"")
    train(demo_data, tmp_path, *options, overrides=["max_iter=5"])
    assert stems(tmp_path) == [*(stem_of(demo_data, iteration) for iteration in (2, 4, 5)), "yolact_demo_9_99"]


def test_trained_model_of_other_classes_keeps_what_fits(straight, demo_data, tmp_path, capsys):
    whole, _ = straight
    data = copy_data(demo_data, tmp_path / "data")
    for split in ("train", "val"):
        edit_info(data, split, lambda content: content["categories"].append({"id": 9, "name": "star"}))
    path = checkpoint_of(whole, demo_data, 12)
    train(data, tmp_path, f"--trained_model={path}", "--lr=1e-9",
          overrides=["max_iter=1", "lr_warmup_init=1e-9",
                     "dataset.class_names=('circle', 'square', 'triangle', 'star')"])
    console = capsys.readouterr().out
    assert "4 of another shape skipped, 0 missing" in console
    assert "skipped prediction_layers.0.conf_layer.weight: [12, 16, 3, 3] in the file, [15, 16, 3, 3]" in console
    assert "skipped semantic_seg_conv.weight: [3, 16, 1, 1] in the file, [4, 16, 1, 1] in the network" in console
    assert [record["data"]["iter"] for record in records(tmp_path, "train")] == [0]
    old, new = read_weights(path), read_weights(checkpoint_of(tmp_path, demo_data, 1))
    np.testing.assert_allclose(new["fpn.lat_layers.0.weight"], old["fpn.lat_layers.0.weight"], atol=1e-6)


def test_ctrl_c_saves_and_resume_interrupt_goes_on(demo_data, tmp_path):
    arguments = train_arguments(demo_data, tmp_path, "--num_workers=1", overrides=["max_iter=100000"])
    # A shell that starts pytest in the background ignores Ctrl-C, and the child would inherit that.
    process = subprocess.Popen(
        [sys.executable, str(REPO / "train.py"), *map(str, arguments)], cwd=str(tmp_path), stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    log, deadline = tmp_path / "logs" / "yolact_demo.log", time.time() + 90
    while process.poll() is None and time.time() < deadline and not (
            log.exists() and log.read_text().count('"train"') > 2):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    console = process.communicate(timeout=60)[0]
    assert process.returncode == 130 and "Traceback" not in console, console
    iterations = [record["data"]["iter"] for record in records(tmp_path, "train")]
    done = len(iterations)
    assert iterations == list(range(done)) and stems(tmp_path) == [stem_of(demo_data, done) + "_interrupt"]
    assert f"_{done}_interrupt.pdparams" in console

    train(demo_data, tmp_path, "--resume=interrupt", overrides=[f"max_iter={done + 2}"])
    iterations = [record["data"]["iter"] for record in records(tmp_path, "train")]
    assert iterations == list(range(done + 2))


def test_resume_latest_without_a_checkpoint_begins_like_any_training(demo_data, tmp_path, caplog):
    """With the backbone's ImageNet weights, that is, or the warning that they are not there."""
    overrides = ["max_iter=1", "backbone.path=imagenet.pdparams"]
    train(demo_data, tmp_path, "--resume=latest", overrides=overrides)
    assert "starts from random weights" in caplog.text
    caplog.clear()
    train(demo_data, tmp_path, "--resume=latest", overrides=["max_iter=2", *overrides[1:]])
    assert "random weights" not in caplog.text


def test_resume_latest_begins_continues_and_ends(demo_data, tmp_path, capsys):
    """One command for a first start, for going on, and for a training that is over."""
    for max_iter, words in ((3, "there is no checkpoint of yolact_demo"), (5, "at iteration 3"),
                            (5, "nothing is left to do")):
        train(demo_data, tmp_path, "--resume=latest", overrides=[f"max_iter={max_iter}", "lr_schedule='step'"])
        assert words in capsys.readouterr().out
    assert [record["data"]["iter"] for record in records(tmp_path, "train")] == list(range(5))


@pytest.mark.parametrize("suffix", [".pdparams", ".pdopt", ".json"])
def test_resume_latest_takes_the_one_before_a_damaged_checkpoint(demo_data, tmp_path, caplog, suffix):
    options = ["--save_interval=2"]
    train(demo_data, tmp_path, *options, overrides=["max_iter=4", "lr_schedule='step'"])
    newest = tmp_path / "weights" / (stem_of(demo_data, 4) + suffix)
    newest.write_bytes(newest.read_bytes()[:-40])
    train(demo_data, tmp_path, "--resume=latest", *options, overrides=["max_iter=4", "lr_schedule='step'"])
    assert newest.name in caplog.text and f"{stem_of(demo_data, 2)}.pdparams instead" in caplog.text
    found = [record["data"] for record in records(tmp_path, "train")]
    assert [data["iter"] for data in found] == [0, 1, 2, 3, 2, 3]
    assert [data["loss"] for data in found[2:4]] == [data["loss"] for data in found[4:]]


def test_weights_without_optimizer_are_no_checkpoint(demo_data, tmp_path, straight, capsys):
    """Such as converted ones, which have a checkpoint's name."""
    (tmp_path / "weights").mkdir()
    shutil.copy(checkpoint_of(straight[0], demo_data, 12), tmp_path / "weights" / "yolact_demo_54_800000.pdparams")
    train(demo_data, tmp_path, "--resume=latest", overrides=["max_iter=1"])
    assert "there is no checkpoint of yolact_demo" in capsys.readouterr().out


def test_keep_latest_leaves_the_folder_that_was_resumed_from(demo_data, tmp_path):
    schedule = ["lr_schedule='step'"]
    train(demo_data, tmp_path / "old", overrides=["max_iter=1", *schedule])
    path = checkpoint_of(tmp_path / "old", demo_data, 1)
    train(demo_data, tmp_path / "new", f"--resume={path}", "--keep_latest", overrides=["max_iter=2", *schedule])
    assert stems(tmp_path / "old") == [stem_of(demo_data, 1)] and stems(tmp_path / "new") == [stem_of(demo_data, 2)]


def test_a_disk_that_is_full_leaves_the_last_checkpoint(demo_data, tmp_path, monkeypatch):
    from utils import checkpoint

    real = checkpoint._write

    def full(path, suffix, update, state):
        if state["iteration"] > 2 and suffix == ".pdopt":
            with open(path, "wb") as file:
                file.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, suffix, update, state)

    monkeypatch.setattr(checkpoint, "_write", full)
    assert_refused("train", train_arguments(demo_data, tmp_path, "--save_interval=2"), "No space left", "--save_folder")
    assert stems(tmp_path) == [stem_of(demo_data, 2)]


def test_a_deleted_log_is_begun_anew(demo_data, tmp_path, monkeypatch, caplog):
    class Deleting(train_script.Update):
        def __call__(self, *arguments):
            if len(records(tmp_path, "train")) == 2 and not caplog.text:
                shutil.rmtree(tmp_path / "logs")
            return super().__call__(*arguments)

    monkeypatch.setattr(train_script, "Update", Deleting)
    train(demo_data, tmp_path)
    assert "was deleted" in caplog.text
    assert [record["data"]["iter"] for record in records(tmp_path, "train")] == [2, 3, 4, 5]


def test_a_schedule_far_beyond_the_data_is_told(demo_data, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(train_script, "MANY_EPOCHS", 1)
    train(demo_data, tmp_path)
    assert "max_iter is 2 epochs of your 24 pictures" in caplog.text and "-o max_iter=300" in caplog.text


def test_visualdl_gets_curves_and_pictures(demo_data, tmp_path):
    visualdl = pytest.importorskip("visualdl")
    train(demo_data, tmp_path, "--use_vdl", "--validation_epoch=1")
    [file] = (tmp_path / "logs" / "yolact_demo").rglob("vdlrecords*")
    tags = visualdl.LogReader(file_path=str(file)).get_tags()
    assert "loss/T" in tags["scalar"] and "validation/mask_AP" in tags["scalar"]
    assert len(tags["image"]) == 4


def stopping_update(number):
    """An Update during whose first step a signal arrives."""
    class Stopping(train_script.Update):
        def __call__(self, *arguments):
            os.kill(os.getpid(), number)
            time.sleep(0.01)
            return super().__call__(*arguments)

    return Stopping


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("options, saved", [([], ["yolact_demo_0_1_interrupt"]), (["--no_interrupt"], None)])
def test_being_told_to_stop_waits_for_the_step(demo_data, tmp_path, monkeypatch, options, saved, number):
    monkeypatch.setattr(train_script, "Update", stopping_update(number))
    before = signal.signal(number, signal.default_int_handler)
    try:
        with pytest.raises(SystemExit) as stop:
            train(demo_data, tmp_path, *options)
        assert signal.getsignal(number) is signal.default_int_handler, "the handler is not put back"
    finally:
        signal.signal(number, before)
    assert stop.value.code == 128 + number and len(records(tmp_path, "train")) == 1
    assert (stems(tmp_path) if saved else files_below(tmp_path / "weights")) == (saved or [])


def test_a_second_signal_stops_at_once(demo_data, tmp_path):
    script = f"""
import os, signal, sys
sys.path[:0] = [{str(REPO)!r}]
import train
class Stuck(train.Update):
    def __call__(self, *arguments):
        for number in (signal.SIGTERM, signal.SIGTERM):
            os.kill(os.getpid(), number)
        raise AssertionError("not reached")
train.Update = Stuck
train.main(sys.argv[1:])
"""
    done = subprocess.run([sys.executable, "-c", script, *map(str, train_arguments(demo_data, tmp_path))],
                          capture_output=True, text=True, timeout=100)
    assert done.returncode == -signal.SIGTERM, done.stderr
    assert files_below(tmp_path / "weights") == []


# Scaling, batch norm, validation


def test_batch_size_scales_rate_and_iterations(demo_data, tmp_path, capsys):
    overrides = ["max_iter=2", "lr_warmup_until=0", "lr=0.001", "lr_schedule='step'", "lr_steps=[1]"]
    train(demo_data, tmp_path, "--batch_size=4", overrides=overrides)
    assert [record["data"]["lr"] for record in records(tmp_path, "train")] == pytest.approx(
        [5e-4, 5e-4, 5e-5, 5e-5])
    assert "steps [2]), 4 iterations" in capsys.readouterr().out
    train(demo_data, tmp_path / "as_is", "--batch_size=4", "--no_autoscale", "--gamma=0.5", overrides=overrides)
    assert [record["data"]["lr"] for record in records(tmp_path / "as_is", "train")] == pytest.approx([1e-3, 5e-4])


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


def test_without_validation_its_files_are_not_opened(demo_data, tmp_path):
    nowhere = ["dataset.valid_images=nowhere", "dataset.valid_info=nowhere.json"]
    train(demo_data, tmp_path, overrides=["max_iter=1", *nowhere])
    assert records(tmp_path, "val") == []
    assert_refused("train", train_arguments(demo_data, tmp_path, "--validation_epoch=1", overrides=nowhere),
                   "nowhere", "dataset.valid_images")


def test_gpu_that_is_not_there_costs_one_warning(demo_data, tmp_path, caplog):
    import paddle

    if paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count():
        pytest.skip("this machine has a GPU")
    train(demo_data, tmp_path, "--cuda=True", overrides=["max_iter=1"])
    ours = [record.getMessage() for record in caplog.records if "--cuda" in record.getMessage()]
    assert len(ours) == 1 and "CPU" in ours[0]


# Bad input: refused in one line


def without_pictures(data):
    shutil.rmtree(str(data / "train"))


def truncated(data):
    path = data / "annotations" / "instances_train.json"
    path.write_text(path.read_text()[:500])


def unknown_category(data):
    edit_info(data, "train", lambda content: content["annotations"][0].update(category_id=77))


def no_file_matches(data):
    edit_info(data, "train", lambda content: [image.update(file_name="x" + image["file_name"])
                                              for image in content["images"]])


def nothing_annotated(data):
    edit_info(data, "train", lambda content: content.update(annotations=[]))


def test_info_only(demo_data, tmp_path):
    data = copy_data(demo_data, tmp_path / "data")
    edit_info(data, "val", lambda content: content.pop("annotations"))
    assert_refused("train", train_arguments(data, tmp_path, "--validation_epoch=1"), "no annotations",
                   "dataset.valid_info", "--validation_epoch=-1")


@pytest.mark.parametrize("damage, words", [
    (without_pictures, ["train does not exist", "dataset.train_images"]),
    (truncated, ["instances_train.json is cut off", "dataset.train_info"]),
    (unknown_category, ["category_id 77", "instances_train.json", "dataset.class_names|dataset.label_map"]),
    (no_file_matches, ["none of the 24 pictures", "dataset.train_images"]),
    (nothing_annotated, ["no picture with usable annotations", "dataset.train_info"]),
])
def test_data_that_cannot_be_used_is_refused(demo_data, tmp_path, damage, words):
    data = copy_data(demo_data, tmp_path / "data")
    damage(data)
    assert_refused("train", train_arguments(data, tmp_path / "run"), *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("options, overrides, words", [
    (["--config=yolact_bse_config"], [], ["unknown config 'yolact_bse_config'", "'yolact_base_config'"]),
    (["--dataset=demo_datset"], [], ["unknown dataset 'demo_datset'", "'demo_dataset'"]),
    ([], ["max_itr=3"], ["max_itr", "did you mean 'max_iter'"]),
    ([], ["dataset.trian_info=x"], ["dataset.trian_info", "'dataset.train_info'"]),
    ([], ["max_iter=many"], ["max_iter=many", "is not a Python literal"]),
    ([], ["max_iter=0.5"], ["max_iter=0.5", "int"]),
    ([], ["max_iter"], ["max_iter", "KEY=VALUE"]),
    ([], ["dataset.class_names=('circle')"], [r"write \('circle',\)"]),
    ([], ["dataset.train_info=nowhere.json"], ["nowhere.json", "dataset.train_info"]),
    (["--batch_size=25"], [], ["--batch_size is 25", r"has \d+ images", "lower --batch_size"]),
    (["--batch_size=0"], [], ["--batch_size is 0", "at least 1"]),
    (["--save_interval=0"], [], ["--save_interval is 0"]),
    ([], ["max_iter=0"], ["max_iter is 0"]),
    (["--lr=0"], [], ["lr is 0.0", "--lr"]),
    (["--trained_model=nowhere.pdparams"], [], ["no file nowhere.pdparams", "--trained_model"]),
    (["--backbone_weights=nowhere.pth"], [], ["no file nowhere.pth", "--backbone_weights", "original"]),
    (["--resume=nowhere.pdparams"], [], ["no file nowhere.pdparams", "--resume"]),
    (["--resume=interrupt"], [], ["no interrupted checkpoint of yolact_demo", "--save_folder"]),
    (["--accumulate=0"], [], ["--accumulate is 0"]),
    (["--validation_size=0"], [], ["--validation_size is 0"]),
    (["--start_iter=5"], [], ["--start_iter is for --resume"]),
    ([], ["backbone.type=ResNet"], ["backbone.type='ResNet'", "ResNetBackbone"]),
    ([], ["backbone.args=[3, 4, 23, 3]"], ["backbone.args=", "a list itself"]),
    (["--max_bad_steps=0"], [], ["--max_bad_steps is 0"]),
    (["--ema=1"], [], ["--ema is 1.0"]),
    (["--clip_norm=-1"], [], ["--clip_norm is -1.0"]),
    (["--sync_bn"], [], ["--sync_bn", "CPU"]),
    (["--resume=interrupt"], [], ["no interrupted checkpoint of yolact_demo"]),
])
def test_wrong_settings_are_refused(demo_data, tmp_path, options, overrides, words):
    assert_refused("train", train_arguments(demo_data, tmp_path, *options, overrides=overrides), *words)
    assert files_below(tmp_path) == []


def test_checkpoint_of_other_classes_or_another_config_is_not_resumed(straight, demo_data, tmp_path):
    path = checkpoint_of(straight[0], demo_data, 12)
    arguments = [f"--resume={path}"]
    classes = "dataset.class_names=('circle', 'square', 'triangle', 'star')"
    assert_refused("train", train_arguments(demo_data, tmp_path, *arguments, overrides=[classes]),
                   "3 classes but the config has 4", "dataset.class_names", "--trained_model")
    assert_refused("train", train_arguments(demo_data, tmp_path, *arguments, overrides=["fpn.num_features=24"]),
                   "another network", "--config")
    assert_refused("train", train_arguments(demo_data, tmp_path, *arguments, overrides=["optimizer='sgd'"]),
                   "Momentum", "config key optimizer")
    assert files_below(tmp_path) == []


def test_damaged_and_foreign_weights_are_refused(demo_data, tmp_path):
    (tmp_path / "a.pdparams").write_bytes(b"\x80\x04 half a pickle")
    (tmp_path / "b.pth").write_bytes(b"<html>")
    for name, words in (("a.pdparams", "damaged"), ("b.pth", "neither .pdparams")):
        assert_refused("train", train_arguments(demo_data, tmp_path / "run", f"--trained_model={tmp_path / name}"),
                       name, words)
    assert not (tmp_path / "run").exists()


def test_folders_that_cannot_be_written_are_told_before_training(demo_data, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "run").mkdir()
    for option, words in ((f"--save_folder={tmp_path / 'file'}", "--save_folder"),
                          (f"--log_folder={tmp_path / 'file'}", "--log_folder")):
        assert_refused("train", train_arguments(demo_data, tmp_path / "run", option), "file", words)
        assert files_below(tmp_path / "run") == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_permission(demo_data, tmp_path):
    (tmp_path / "weights").mkdir(mode=0o500)
    assert_refused("train", train_arguments(demo_data, tmp_path), "weights", "--save_folder")


def test_as_a_command_a_mistake_is_one_line_and_exit_code_1(tmp_path):
    done = command("train", ["--config=yolact_dmo", "--cuda=False"], tmp_path)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("train.py: error: unknown config 'yolact_dmo'") and done.stderr.count("\n") == 1
    assert files_below(tmp_path) == []


# Bad input: costs itself and a warning


def faulty_annotations(content):
    """Damage one annotation of every kind, each of another picture that keeps a good one."""
    by_image = {}
    for annotation in content["annotations"]:
        if not annotation["iscrowd"]:
            by_image.setdefault(annotation["image_id"], []).append(annotation)
    victims = [annotations[0] for annotations in by_image.values() if len(annotations) > 1]
    changes = [{"segmentation": []}, {"segmentation": [[1, 2, 3, 4]]}, {"bbox": [500, 500, 9, 9]},
               {"bbox": [3, 3, 0, 5]}, {"image_id": 999999}, {"segmentation": [[5, 5, 5, 5, 5, 5]]}]
    for annotation, change in zip(victims, changes):
        annotation.update(change)
    assert len(victims) >= len(changes)


def test_faulty_annotations_cost_themselves(demo_data, tmp_path, caplog):
    data = copy_data(demo_data, tmp_path / "data")
    edit_info(data, "train", faulty_annotations)
    edit_info(data, "val", faulty_annotations)
    train(data, tmp_path, "--validation_epoch=1", overrides=["max_iter=3", *AUGMENTED])
    assert stems(tmp_path) == [stem_of(data, 3)] and records(tmp_path, "val")
    assert "6 of " in caplog.text and "instances_train.json" in caplog.text
    for fault in ("an empty or degenerate segmentation", "a bbox outside the image", "an empty bbox",
                  "an image_id that is not among the images"):
        assert fault in caplog.text


@pytest.mark.parametrize("workers", [0, 1])
def test_pictures_missing_or_cut_cost_themselves(demo_data, tmp_path, caplog, workers):
    data = copy_data(demo_data, tmp_path / "data")
    pictures = sorted((data / "train").iterdir())
    pictures[0].unlink()
    for picture in pictures[1:4]:
        picture.write_bytes(picture.read_bytes()[:300])
    train(data, tmp_path, f"--num_workers={workers}", "--batch_size=16", "--no_autoscale", overrides=["max_iter=2"])
    assert len(records(tmp_path, "train")) == 2
    assert f"1 of 24 pictures are not in {data / 'train'} and are left out" in caplog.text
    if workers == 0:  # the log of other processes is not caught here
        assert "is skipped" in caplog.text and "is cut off or no picture" in caplog.text


def test_every_picture_cut_ends_in_one_line(demo_data, tmp_path):
    data = copy_data(demo_data, tmp_path / "data")
    for picture in (data / "train").iterdir():
        picture.write_bytes(b"")
    for workers in (0, 1):
        assert_refused("train", train_arguments(data, tmp_path, f"--num_workers={workers}"),
                       "pictures in a row were unreadable", "dataset.train_images")
    assert files_below(tmp_path / "weights") == []


def test_odd_pictures_train(demo_data, tmp_path, caplog):
    data = copy_data(demo_data, tmp_path / "data")
    shapes = odd_pictures(data / "odd")
    content = json.loads((data / "annotations" / "instances_train.json").read_text())
    content["images"], content["annotations"] = [], []
    for number, (name, (height, width)) in enumerate(shapes.items(), 1):
        content["images"].append({"id": number, "file_name": name, "height": height, "width": width})
        content["annotations"].append({
            "id": number, "image_id": number, "category_id": 1 + number % 3, "iscrowd": 0, "area": height * width,
            "bbox": [0, 0, width, height], "segmentation": [[0, 0, width, 0, width, height, 0, height]]})
    (data / "odd.json").write_text(json.dumps(content))
    train(data, tmp_path, "--validation_epoch=1", overrides=[
        "max_iter=3", *AUGMENTED, *(f"dataset.{part}_images={data / 'odd'}" for part in ("train", "valid")),
        *(f"dataset.{part}_info={data / 'odd.json'}" for part in ("train", "valid"))])
    losses = [record["data"]["loss"] for record in records(tmp_path, "train")]
    assert len(losses) == 3 and all(np.isfinite(list(loss.values())).all() for loss in losses)
    assert "cut.jpg is cut off" in caplog.text


class BadUpdate(train_script.Update):
    """Finds no finite loss from the third step on."""

    steps = 0

    def __call__(self, criterion, batch, *arguments):
        self.steps += 1
        if self.steps > 2:
            return {"B": 1.0, "C": float("nan"), "M": 0.0, "S": 0.0}
        return super().__call__(criterion, batch, *arguments)


def test_losses_that_are_not_finite_end_the_run_and_name_the_pictures(demo_data, tmp_path, monkeypatch, caplog):
    """A checkpoint from before them stays."""
    monkeypatch.setattr(train_script, "Update", BadUpdate)
    assert_refused("train", train_arguments(demo_data, tmp_path, "--max_bad_steps=4", overrides=["max_iter=50"]),
                   "4 iterations in a row", "--lr")
    assert caplog.text.count("is skipped: the loss is not finite: B 1.0, C nan") == 4 and "images [" in caplog.text
    assert stems(tmp_path) == [stem_of(demo_data, 2) + "_interrupt"]


def test_a_step_without_a_finite_loss_changes_nothing(demo_data, tmp_path, monkeypatch):
    from utils import update

    real = update.Update._accumulate
    monkeypatch.setattr(update.Update, "_accumulate", lambda self, *arguments: {
        name: float("inf") for name in real(self, *arguments)})
    before = []

    def watched(*arguments):
        before.append(state_of(arguments[2].net))
        return Trainer(*arguments)

    monkeypatch.setattr(train_script, "Trainer", watched)
    assert_refused("train", train_arguments(demo_data, tmp_path, "--max_bad_steps=2", "--batch_size=4"), "2 iterations")
    [checkpoint] = (tmp_path / "weights").glob("*.pdparams")
    saved = read_weights(str(checkpoint))
    assert all((saved[name] == value).all() for name, value in before[0].items())


def state_of(net):
    return {name: tensor.numpy().copy() for name, tensor in net.state_dict().items()}
