"""Options of eval.py that choose how and what: each has its effect, or is told that it has none."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from cli_runs import (
    PLUS,
    REPO,
    assert_refused,
    detections,
    eval_arguments,
    evaluate,
    files_below,
    load,
    places,
    stop_at_picture,
    weights_of,
)

import eval as eval_script
from tools import export

SHIPPED = REPO / "weights" / "yolact_demo.safetensors"


@pytest.fixture
def picture(demo_data):
    return sorted((demo_data / "val").iterdir())[0]


# Modes


@pytest.mark.parametrize("options, mode", [
    ([], "dataset"), (["--benchmark"], "benchmark"), (["--display", "--benchmark"], "display"),
    (["--image=x.jpg", "--display"], "image"), (["--images=", "--benchmark"], "images"), (["--video=0"], "video")])
def test_the_mode_is_what_is_to_be_looked_at(options, mode):
    assert eval_script.mode_of(eval_script.parse_args(options)) == mode


def test_a_benchmark_takes_twenty_images_unless_told_and_warms_up_once(trained, tmp_path, monkeypatch):
    dataset = SimpleNamespace(ids=list(range(50)))
    for options, count in (([], 20), (["--max_images=30"], 30)):
        args = eval_script.parse_args(options)
        assert len(eval_script.chosen_images(dataset, args, eval_script.BENCHMARK_IMAGES)) == count
    assert len(eval_script.chosen_images(dataset, eval_script.parse_args([]))) == 50
    timed = []
    real = eval_script.time_picture
    monkeypatch.setattr(eval_script, "time_picture", lambda *arguments: timed.append(arguments[2]) or real(*arguments))
    evaluate(trained, tmp_path, "--benchmark", "--max_images=2")
    assert len(timed) == 3 and timed[0] == timed[1] != timed[2]


def test_options_that_nobody_gave_are_not_said_to_be_without_effect(trained, tmp_path, picture, caplog):
    evaluate(trained, tmp_path, f"--image={picture}:{tmp_path / 'out.png'}")
    evaluate(trained, tmp_path, "--max_images=1")
    assert "has no effect" not in caplog.text


# What is detected and drawn


def test_pictures_show_what_is_likely_and_everything_on_request(trained, tmp_path, picture):
    def found(name, *options):
        evaluate(trained, tmp_path / name, f"--image={picture}", "--output_coco_json", *options)
        return [entry["score"] for entry in load(tmp_path / name, "bbox_detections.json")]

    assert all(score > 0.15 for score in found("shown", "--top_k=200"))
    everything = found("all", "--top_k=200", "--score_threshold=0")
    assert min(everything) <= 0.15 and len(everything) > 15
    assert found("few", "--score_threshold=0") == sorted(everything, reverse=True)[:15]


def test_pictures_show_one_score_an_object_where_masks_are_rescored(demo_data, tmp_path, picture):
    weights, _ = weights_of(tmp_path, *PLUS, *places(demo_data), "nms_conf_thresh=0.0")
    for name, option in (("picture", f"--image={picture}"), ("set", "--max_images=1")):
        boxes = detections(weights, tmp_path / name, option, "--score_threshold=0")
        masks = load(tmp_path / name, "mask_detections.json")
        scores = [[entry["score"] for entry in entries] for entries in (boxes, masks)]
        assert boxes and (scores[0] == scores[1]) == (name == "picture")


def test_category_ids_of_result_files_are_those_of_the_label_map(tmp_path, picture):
    arguments = [f"--image={picture}", "--score_threshold=0.01"]
    plain = detections(SHIPPED, tmp_path / "plain", *arguments)
    mapped = detections(SHIPPED, tmp_path / "mapped", *arguments, overrides=["dataset.label_map={70: 1, 80: 2, 90: 3}"])
    assert [entry["category_id"] for entry in mapped] == [60 + 10 * entry["category_id"] for entry in plain] != []
    assert {entry["id"] for entry in load(tmp_path / "mapped", "images.json")["categories"]} == {70, 80, 90}


def test_the_figure_of_prototypes_is_cut_as_the_mask_is(tmp_path, picture):
    figures = {}
    for name, options, overrides in (("cut", [], []), ("option", ["--no_crop"], []),
                                     ("config", [], ["mask_proto_crop=False"])):
        evaluate(SHIPPED, tmp_path, f"--image={picture}:{tmp_path / name}.png", "--display_lincomb=True", *options,
                 overrides=overrides)
        figures[name] = cv2.imread(str(tmp_path / f"{name}_lincomb.png"))
    assert np.array_equal(figures["option"], figures["config"])
    assert not np.array_equal(figures["option"], figures["cut"])


def test_prototypes_of_a_network_without_masks_are_refused(tmp_path, picture):
    given = eval_arguments(SHIPPED, tmp_path, f"--image={picture}", "--display_lincomb=True",
                           overrides=["eval_mask_branch=False"])
    assert_refused("eval", given, "no prototypes")


# Going on with other options


@pytest.mark.parametrize("option, words", [
    ("--fast_nms=False", "--fast_nms=True .now False"), ("--cross_class_nms=True", "--cross_class_nms=False .now True"),
    ("--no_crop", "--crop=True .now False"), ("--score_threshold=0.5", "--score_threshold=None .now 0.5"),
    ("--top_k=3", "--top_k=None .now 3"), ("-o=nms_thresh=0.3", "config|network")])
def test_a_run_does_not_go_on_with_options_that_change_what_is_found(trained, tmp_path, monkeypatch, option, words):
    stop_at_picture(2, monkeypatch)
    with pytest.raises(SystemExit):
        evaluate(trained, tmp_path)
    assert_refused("eval", [*eval_arguments(trained, tmp_path, "--resume"), option], words)
    assert files_below(tmp_path) == ["detections.partial.0"]


# Exported networks


def test_an_exported_network_takes_the_place_of_the_weights(trained, demo_data, tmp_path):
    folder = tmp_path / "exported"
    export.main([f"--trained_model={trained}", f"--out={folder}", "--no_bar"])
    exported = ["--max_images=3", f"--exported_model={folder}", "-o", *places(demo_data)]  # it names no files
    expected = detections(trained, tmp_path / "weights", "--max_images=3")
    found = detections("nowhere.pdparams", tmp_path / "out", *exported)
    assert [entry["image_id"] for entry in found] == [entry["image_id"] for entry in expected]
    np.testing.assert_allclose([entry["score"] for entry in found], [entry["score"] for entry in expected], atol=1e-4)
    for option, words in (("--config=yolact_demo", "has its own config"),
                          ("-o=max_size=64", "for 48 pixels .* not for 64"),
                          ("--dataset=pascal_sbd", "and 3 classes, not for 48 and 20")):
        assert_refused("eval", [*eval_arguments(trained, tmp_path / "none", *exported), option], words)
    assert files_below(tmp_path / "none") == []
