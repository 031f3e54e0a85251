"""Checkpoints of train.py: their content, resuming, fine-tuning, Ctrl-C and other signals."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from cli_runs import (
    AUGMENTED,
    REPO,
    SAMPLED,
    assert_refused,
    batches_per_epoch,
    checkpoint_of,
    copy_data,
    edit_info,
    files_below,
    records,
    stem_of,
    stems,
    train,
    train_arguments,
)

import train as train_script
from utils.checkpoint import read_state
from utils.weights import read_weights, unpickle_arrays


def everything(path):
    """Weights and optimizer slots of a checkpoint."""
    return {**read_weights(path), **unpickle_arrays(path.replace(".pdparams", ".pdopt"))}


def assert_same(first, second):
    assert first.keys() == second.keys()
    different = [name for name in first if not np.array_equal(first[name], second[name])]
    assert not different, different


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
    train(demo_data, tmp_path / "first", f"--resume={path}", "--start_iter=0", overrides=["max_iter=1"])
    assert [record["data"]["iter"] for record in records(tmp_path / "first", "train")] == [0]


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


def test_the_average_of_a_training_that_is_over_is_written_again(demo_data, tmp_path):
    """It comes after the checkpoint, so a process that was killed may have left it out."""
    averaged = tmp_path / "weights" / f"{stem_of(demo_data, 2)}_ema.safetensors"
    options = ["--ema=0.5", "--resume=latest"]
    train(demo_data, tmp_path, *options, overrides=["max_iter=2"])
    before = read_weights(str(averaged))
    averaged.unlink()
    train(demo_data, tmp_path, *options, overrides=["max_iter=2"])
    assert_same(read_weights(str(averaged)), before)


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


# Being told to stop


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
