"""tools/coco_eval.py: the figures of result files, equal to those that eval.py printed, and files that do not fit."""

import json

import pytest
from cli_runs import evaluate

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
    if content is not None:
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / "bbox_detections.json").write_text(text)
    with pytest.raises(SystemExit) as stop:
        main(arguments(tmp_path, demo_data))
    assert stop.value.code.startswith("coco_eval.py: error: ") and words in stop.value.code
    assert "\n" not in stop.value.code


def test_ground_truth_that_does_not_fit(results, demo_data, tmp_path):
    content = json.loads((demo_data / "annotations" / "instances_val.json").read_text())
    del content["annotations"]
    (tmp_path / "info.json").write_text(json.dumps(content))
    for path, words in [("nowhere.json", "--gt_ann_file"), (tmp_path / "info.json", "no annotations")]:
        with pytest.raises(SystemExit, match=words):
            main([*arguments(results[0], demo_data), f"--gt_ann_file={path}"])
