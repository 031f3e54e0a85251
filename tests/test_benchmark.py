"""tools/benchmark.py: its clocks, its made-up data, and the command with --train and --data."""

import json
import types

import numpy as np
import pytest
from cli_runs import REPO, TINY, copy_data, edit_info, places

from data.config import COCO_CLASSES, DEMO_CLASSES
from tools import benchmark
from tools.benchmarks import clock as clocks
from tools.benchmarks import data as samples
from tools.benchmarks import training


@pytest.fixture
def clock(monkeypatch):
    """A clock for the tool that stands still but for what a test adds to `now`, in seconds."""
    clock = types.SimpleNamespace(now=100.0)
    monkeypatch.setattr(clocks.time, "perf_counter", lambda: clock.now)
    return clock


def run(*arguments):
    return benchmark.main(["--cuda=False", *map(str, arguments)])


# Clocks


def test_parts_do_not_count_what_is_measured_inside_them(clock):
    timer = clocks.PartTimer()
    with timer.part("outer"):
        clock.now += 1
        for _ in range(2):
            with timer.part("inner"):
                clock.now += 10
                with timer.part("innermost"):
                    clock.now += 100
        clock.now += 2
    assert timer.take() == {"outer": 3, "inner": 20, "innermost": 200}
    assert timer.take() == {}


def test_watched_functions_are_put_back_also_after_an_error(clock):
    def slow(seconds):
        clock.now += seconds
        if seconds > 5:
            raise ValueError("too slow")
        return -seconds

    module = types.SimpleNamespace(slow=slow)
    timer = clocks.PartTimer()
    functions = [("slow things", module, "slow"), ("gone", module, "not_there")]
    with pytest.raises(ValueError, match="too slow"), timer.watching(functions):
        assert module.slow(2) == -2
        module.slow(6)
    assert module.slow is slow and not hasattr(module, "not_there")
    assert timer.take() == {"slow things": 8}


def test_the_timer_waits_for_the_device_at_both_ends():
    waited = []
    with clocks.PartTimer(lambda: waited.append(1)).part("a"):
        assert len(waited) == 1
    assert len(waited) == 2


def test_summaries_are_milliseconds_and_absent_parts_are_zero():
    found = clocks.summaries([{"a": 1.0, "b": 0.5}, {"a": 3.0}, {"a": 2.0}])
    assert found["a"]["median_ms"] == 2000 and found["b"]["median_ms"] == 0
    assert found["a"]["p95_ms"] == pytest.approx(2900) and list(found) == ["a", "b"]


def test_every_watched_function_is_there():
    """A function that was renamed would silently count among the rest."""
    import layers.multibox_loss

    missing = [name for _, name in training.LOSS_FUNCTIONS if not hasattr(layers.multibox_loss, name)]
    missing += [name for _, module, name in samples.DATA_FUNCTIONS if not hasattr(module, name)]
    assert not missing, f"no longer there: {missing}; correct the lists in tools/benchmarks/"


# Made-up pictures


@pytest.mark.parametrize("names", [COCO_CLASSES, DEMO_CLASSES])
def test_made_up_pictures_make_a_data_set(tmp_path, names):
    info = samples.make_up_data(str(tmp_path), names)
    dataset = samples.COCODetection(str(tmp_path), info, samples.build_augmentation(
        samples.cfg, samples.MEANS, samples.STD, training=False), names)
    assert len(dataset) == samples.MADE_UP_PICTURES
    for index in range(0, len(dataset), 5):
        labels, masks, boxes = dataset.ground_truth(index)
        assert len(labels) == samples.MADE_UP_OBJECTS and labels.min() >= 0 and labels.max() < len(names)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes):
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            assert np.abs(np.subtract([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], [x1, y1, x2, y2])).max() < 3


def test_made_up_pictures_are_for_a_config_without_data_only(tmp_path, monkeypatch, demo_data):
    monkeypatch.chdir(tmp_path)  # no config has data here
    for arguments, expected in (([], True), (["-o", "dataset.train_info=mine.json"], False),
                                (["--dataset=coco2014_dataset"], False), (["--made_up", "-o", "dataset.name=x"], True),
                                (["-o", "max_size=64"], True)):
        args = benchmark.parse_args(["--data", "--config=yolact_demo_config", *arguments])
        benchmark.configure(args)
        assert samples.wants_made_up(args) is expected
    args = benchmark.parse_args(["--data", "--config=yolact_demo_config"])
    benchmark.configure(args)
    benchmark.apply_overrides(places(demo_data))
    assert not samples.wants_made_up(args)


@pytest.mark.parametrize("options, names", [
    (["--config=yolact_demo"], ["disc", "square", "triangle"]),
    ([f"--trained_model={REPO / 'weights' / 'yolact_demo.safetensors'}"], list(DEMO_CLASSES))])
def test_class_names_that_nobody_gives_are_those_of_the_file_or_the_weights(demo_data, tmp_path, options, names):
    data = copy_data(demo_data, tmp_path / "data")
    edit_info(data, "train", lambda content: content["categories"][0].update(name="disc"))
    benchmark.configure(benchmark.parse_args([*options, "-o", "dataset.class_names=None", *places(data)]))
    assert benchmark.cfg.dataset.class_names == names


# The command


def test_data_mode(tmp_path, capfd):
    file = tmp_path / "figures.json"
    assert run("--data", "--made_up", "--samples=6", f"--json={file}", "-o", "max_size=64") == 0
    content = json.loads(file.read_text())
    assert content["max_size"] == 64 and content["pictures"] == samples.MADE_UP_PICTURES
    figures = content["data_figures"]
    for name in ("training", "evaluation"):
        row = figures[name]
        assert row["samples_per_second"] > 0 and 0 < row["median_ms"] <= row["p95_ms"]
        assert {"read and decode the picture", "polygons to RLE", "masks from RLE"} <= set(row["mean_ms_of_parts"])
    assert {"colour", "geometry"} <= set(figures["training"]["mean_ms_of_parts"])
    assert 0 < figures["memory"]["at_start_mib"] <= figures["memory"]["peak_mib"]
    text = capfd.readouterr().out
    assert "samples per second and core" in text and "made-up pictures" in text


def test_train_mode(tmp_path, demo_data, capfd):
    file = tmp_path / "figures.json"
    arguments = ["--train", "--config=yolact_demo_config", "--batch_size=2", "--iterations=2", "--num_workers=0"]
    assert run(*arguments, f"--json={file}", "-o", *TINY, *places(demo_data)) == 0
    figures = json.loads(file.read_text())["train_figures"]
    assert figures["whole_by_bare"] > 0 and figures["whole_by_bare_of_parts"] > 1 and figures["peak_memory_gib"] > 0
    whole = {name: row["median_ms"] for name, row in figures["whole"].items()}
    assert set(whole) == {"whole iteration", "waiting for data", "forward", "loss", "backward", "update"}
    assert all(ms > 0 for ms in whole.values()) and figures["bare"]["bare network"]["median_ms"] > 0
    assert {"matching", "class", "boxes", "masks, loss", "semantic segmentation",
            "backward to the network's outputs"} <= set(figures["loss_alone"])
    text = capfd.readouterr().out
    assert "whole / bare:" in text and "Demo shapes" in text


@pytest.mark.parametrize("arguments, words", [
    (["--data", "-o", "dataset.train_images=nowhere"], "nowhere does not exist; correct dataset.train_images"),
    (["--data", "-o", "max_sise=4"], "max_size"),
    (["--train", "--config=yolact_bases"], "yolact_bas"),
])
def test_mistakes_are_one_line(arguments, words, capfd):
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)
    message = str(stopped.value)
    assert message.startswith("benchmark.py: error: ") and words in message and "\n" not in message


def test_an_error_in_the_worker_is_one_line(tmp_path):
    info = samples.make_up_data(str(tmp_path), COCO_CLASSES)
    for path in tmp_path.glob("*.jpg"):
        path.write_bytes(b"no picture")
    with pytest.raises(SystemExit, match="benchmark.py: error: .*check the pictures in dataset.train_images"):
        run("--data", "-o", f"dataset.train_images={tmp_path}", f"dataset.train_info={info}", "dataset.label_map=None")


@pytest.mark.parametrize("arguments", [
    ["--train", "--iterations=0"], ["--data", "--samples=-1"], ["--count=0"], ["--train", "--plots=plots"],
    ["--backends=tensorflow"]])
def test_wrong_options(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)
    assert stopped.value.code == 2 and "error" in capsys.readouterr().err
