"""tools/coco_eval.py: the figures of result files, equal to those that eval.py printed, and files that do not fit."""

import json

import numpy as np
import pytest
from cli_runs import evaluate

from data.images import decode_rle
from tools.coco_eval import main


@pytest.fixture(scope="module")
def results(trained, tmp_path_factory):
    """(folder with result files, what eval.py printed)."""
    folder = tmp_path_factory.mktemp("results")
    return folder, evaluate(trained, folder, "--output_coco_json", "--classwise")


def arguments(folder, data, *options):
    return [f"--{kind}_det_file={folder / f'{kind}_detections.json'}" for kind in ("bbox", "mask")] + [
        f"--gt_ann_file={data / 'annotations' / 'instances_val.json'}", *options]


def test_figures_are_those_of_eval(results, demo_data, capsys):
    folder, printed = results
    main(arguments(folder, demo_data, "--classwise"))
    table = capsys.readouterr().out
    assert table.strip() in printed and table.count("Average Precision") == 12 and "circle" in table
    main(arguments(folder, demo_data, "--eval_type=mask"))
    masks = capsys.readouterr().out
    assert masks.count("Average Precision") == 6 and "COCO box" not in masks and "circle" not in masks
    main(arguments(folder, demo_data, "--eval_type=bbox", "--mask_det_file=nowhere"))
    assert "COCO mask" not in capsys.readouterr().out


@pytest.mark.parametrize("content, words", [
    (None, "cannot be read"), ("[{", "cannot be read"), ("{}", "no list of COCO results"),
    ('[{"image_id": 1}]', "no list of COCO results"),
    ([{"image_id": 7, "category_id": 1, "score": 1, "bbox": [0, 0, 1, 1]}], "1 images that are not in"),
    ([{"image_id": 7, "category_id": 1, "score": "a", "bbox": [0, 0, 1, 1]}], "no list of COCO results"),
    ([{"image_id": 7, "category_id": 1, "score": 1, "bbox": [0, 0, 1]}], "x, y, width, height")])
def test_files_that_do_not_fit_are_told_in_one_line(demo_data, tmp_path, content, words):
    check_message(demo_data, tmp_path, "bbox", content, words)


def check_message(demo_data, tmp_path, kind, content, words):
    """A results file with this content (None: there is none) ends in one line with these words."""
    if content is not None:
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / f"{kind}_detections.json").write_text(text)
    with pytest.raises(SystemExit) as stop:
        main(arguments(tmp_path, demo_data, f"--eval_type={'bbox' if kind == 'bbox' else 'mask'}"))
    assert stop.value.code.startswith("coco_eval.py: error: ") and words in stop.value.code
    assert f"{kind}_detections.json" in stop.value.code
    assert "\n" not in stop.value.code


@pytest.fixture
def entries(results):
    """{kind: the entries of the result file}, to be damaged."""
    return {kind: json.loads((results[0] / f"{kind}_detections.json").read_text()) for kind in ("bbox", "mask")}


@pytest.mark.parametrize("kind, key, value, words", [
    ("bbox", "image_id", [1], "no list of COCO results, each with image_id"),
    ("bbox", "image_id", [1], "(see entry 2); write it as eval.py"),
    ("bbox", "category_id", {}, "(see entry 2); write it as eval.py"),
    ("bbox", "category_id", 99, "has the category_id 99, which the ground truth does not have; write the ids"),
    ("bbox", "score", float("nan"), "has the score nan; write finite numbers"),
    ("mask", "score", float("inf"), "has the score inf; write finite numbers"),
    ("bbox", "bbox", [0, 0, float("nan"), 1], "has the bbox [0, 0, nan, 1]; write x, y, width and height"),
    ("bbox", "bbox", [0, 0, 5, -1], "has the bbox [0, 0, 5, -1]; write x, y, width and height"),
    ("bbox", "bbox", [0, 0, -5, 1], "has the bbox [0, 0, -5, 1]; write x, y, width and height"),
    ("mask", "segmentation", {"size": "x", "counts": "04"}, "has a mask of size 'x', but image"),
    ("mask", "segmentation", {"size": [2, 2], "counts": "04"}, "of the ground truth has ["),
    ("mask", "segmentation", {"size": [2, 2], "counts": 4}, "(see entry 2)"),
    ("mask", "counts", "P", "has a damaged mask: the run-length counts are cut off; write the file again"),
    ("mask", "counts", "04", "do not add up to its size"),  # COCOeval would run for ever
    ("mask", "counts", [5, 5], "add up to its size"), ("mask", "counts", ["5"], "add up to its size"),
    ("mask", "counts", [[5]], "add up to its size"),
    ("mask", "counts", [-1, 96 * 96 + 1], "no whole numbers that add up to its size")])
def test_an_entry_that_is_wrong_is_named(demo_data, tmp_path, entries, kind, key, value, words):
    entry = entries[kind][2]
    (entry["segmentation"] if key == "counts" else entry)[key] = value
    check_message(demo_data, tmp_path, kind, entries[kind], words)
    check_message(demo_data, tmp_path, kind, entries[kind], "entry 2")


def test_masks_of_other_programs(results, demo_data, tmp_path, entries, capsys):
    """Run lengths as a list, and boxes beside some of the masks: equal figures."""
    main(arguments(results[0], demo_data, "--eval_type=mask"))
    expected = capsys.readouterr().out
    for entry in entries["mask"]:
        pixels = decode_rle(entry["segmentation"]).T.ravel()
        edges = np.flatnonzero(np.diff(pixels)) + 1
        runs = np.diff([0, *edges, pixels.size]).tolist()
        entry["segmentation"]["counts"] = [0, *runs] if pixels[0] else runs
    entries["mask"][0]["bbox"] = [0, 0, 500, 500]
    (tmp_path / "mask_detections.json").write_text(json.dumps(entries["mask"]))
    main(arguments(tmp_path, demo_data, "--eval_type=mask"))
    assert capsys.readouterr().out == expected


def test_images_without_detections_count(demo_data, tmp_path, entries, capsys):
    first = entries["bbox"][0]["image_id"]
    of_one = [entry for entry in entries["bbox"] if entry["image_id"] == first]
    (tmp_path / "bbox_detections.json").write_text(json.dumps(of_one))
    main(arguments(tmp_path, demo_data, "--eval_type=bbox"))
    assert len(of_one) < len(entries["bbox"]) and "12 images" in capsys.readouterr().out


def test_ground_truth_need_not_list_its_categories(results, demo_data, tmp_path, capsys):
    main(arguments(results[0], demo_data))
    expected = capsys.readouterr().out
    content = json.loads((demo_data / "annotations" / "instances_val.json").read_text())
    del content["categories"]
    (tmp_path / "info.json").write_text(json.dumps(content))
    main([*arguments(results[0], demo_data), f"--gt_ann_file={tmp_path / 'info.json'}"])
    assert capsys.readouterr().out == expected


def test_ground_truth_that_does_not_fit(results, demo_data, tmp_path):
    content = json.loads((demo_data / "annotations" / "instances_val.json").read_text())
    del content["annotations"]
    (tmp_path / "info.json").write_text(json.dumps(content))
    for path, words in [("nowhere.json", "--gt_ann_file"), (tmp_path / "info.json", "no annotations")]:
        with pytest.raises(SystemExit, match=words):
            main([*arguments(results[0], demo_data), f"--gt_ann_file={path}"])
