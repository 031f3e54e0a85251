"""eval.py as a user runs it: where the config comes from, metrics, result files, going on, and bad input."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import cv2
import numpy as np
import pytest
from cli_runs import (
    REPO,
    assert_refused,
    command,
    copy_data,
    detections,
    edit_info,
    eval_arguments,
    evaluate,
    files_below,
    load,
    places,
    run,
    stop_at_picture,
)
from pycocotools.coco import COCO

import eval as eval_script
from data.coco import image_order
from data.config import cfg, set_cfg
from utils.coco_results import METRIC_NAMES
from utils.instances import Instances
from utils.weights import read_weights, save_safetensors

ARCHIVE = "detections_test-dev2017_yolact-demo_results.zip"
TABLE_LINE = re.compile(r"^ Average (Precision|Recall) .* = -?\d\.\d{3}$", re.MULTILINE)
COMPACT_LINE = re.compile(r"^ +(box|mask) \|([ \d.]{7}\|){11}$", re.MULTILINE)


# Options


def test_options_of_the_original_have_its_defaults():
    original = json.loads((REPO / "tests" / "goldens" / "cli.json").read_text())["eval.py"]
    ours = vars(eval_script.parse_args([]))
    different = {
        "trained_model",  # the original's is a left-over of another project
        "top_k", "score_threshold",  # 5 and 0 there; here they follow the task: all and 0 for metrics
        "bbox_det_file", "mask_det_file",  # the same files, below --output_folder
    }
    different |= {"ap_data_file"}  # has no effect
    for option in original:
        if option["dest"] not in different:
            assert ours[option["dest"]] == option["default"], option["flags"]
        assert option["dest"] in ours
    parsed = vars(eval_script.parse_args(["--no_crop", "--fast_nms=n", "--cross_class_nms=Y", "--top_k=7", "--seed=3"]))
    assert (parsed["crop"], parsed["fast_nms"], parsed["cross_class_nms"]) == (False, False, True)
    assert (parsed["top_k"], parsed["seed"]) == (7, 3)


def test_options_that_have_no_effect_any_more_name_what_has(trained, tmp_path, caplog):
    evaluate(trained, tmp_path, "--max_images=1", "--ap_data_file=x.pkl", "--mask_proto_debug")
    lines = [record.getMessage() for record in caplog.records]
    assert [line for line in lines if line.startswith("--ap_data_file has no effect") and "--resume" in line]
    assert [line for line in lines if line.startswith("--mask_proto_debug") and "--display_lincomb" in line]


# Metrics and result files


def test_metrics_tables_and_files(trained, tmp_path):
    console = evaluate(trained, tmp_path)
    assert len(TABLE_LINE.findall(console)) == 24 and len(COMPACT_LINE.findall(console)) == 2
    assert "12 images" in console
    metrics = load(tmp_path, "metrics.json")
    assert list(metrics) == ["bbox", "segm"]
    assert all(tuple(values) == METRIC_NAMES for values in metrics.values())
    assert all(-1 <= value <= 1 for values in metrics.values() for value in values.values())
    assert files_below(tmp_path) == ["metrics.json"]


def test_result_files_are_cocos(trained, demo_data, tmp_path):
    console = evaluate(trained, tmp_path, "--output_coco_json", "--comparison")
    assert files_below(tmp_path) == [
        "bbox_detections.json", ARCHIVE, "mask_detections.json", "metrics.json", "predictions.png"]
    assert all(name in console for name in files_below(tmp_path))
    truth = COCO(str(demo_data / "annotations" / "instances_val.json"))
    for name in ("bbox_detections.json", "mask_detections.json"):
        assert len(truth.loadRes(str(tmp_path / name)).anns) == len(load(tmp_path, name)) > 0
    found = load(tmp_path, "bbox_detections.json")
    assert {entry["category_id"] for entry in found} <= {1, 2, 3}
    page = cv2.imread(str(tmp_path / "predictions.png"))
    assert page.shape == (1754, 1240, 3) and page.std() > 10


def test_other_names_of_the_result_files(trained, tmp_path):
    evaluate(trained, tmp_path / "out", "--output_coco_json", "--max_images=1",
             f"--bbox_det_file={tmp_path / 'b.json'}", f"--mask_det_file={tmp_path / 'new' / 'm.json'}")
    assert files_below(tmp_path) == ["b.json", "new/m.json", f"out/{ARCHIVE}", "out/metrics.json"]


@pytest.mark.parametrize("has_key", [True, False])
def test_pictures_without_annotations_as_test_dev(trained, demo_data, tmp_path, has_key):
    """Without the key 'annotations', or with has_gt=False and the key there."""
    data = copy_data(demo_data, tmp_path / "data")
    edit_info(data, "val", lambda content: content.pop("annotations"))
    if has_key:
        edit_info(data, "val", lambda content: content.update(annotations=[]))
    overrides = [*places(data), f"dataset.has_gt={not has_key}"]
    console = evaluate(trained, tmp_path / "out", "--output_coco_json", overrides=overrides)
    assert files_below(tmp_path / "out") == ["bbox_detections.json", ARCHIVE, "mask_detections.json"]
    assert "Average Precision" not in console
    COCO(str(demo_data / "annotations" / "instances_val.json")).loadRes(str(tmp_path / "out" / "mask_detections.json"))
    console = evaluate(trained, tmp_path / "none", overrides=overrides)
    assert "nothing to measure; --output_coco_json" in console and files_below(tmp_path / "none") == []


def test_ground_truth_as_predictions_scores_one(demo_data, trained, tmp_path, monkeypatch):
    """The whole way from a picture to metrics.json, with a predictor that knows the answer."""
    class Oracle(eval_script.Predictor):
        def detect_many(self, pictures):
            for key, image in pictures:
                position = next(i for i in self.left if np.array_equal(dataset.load_image(i), image))
                self.left.remove(position)
                classes, masks, boxes = dataset.ground_truth(position)
                real = classes >= 0
                yield key, image, Instances(classes[real], np.ones(real.sum()), np.round(boxes[real]).astype(int),
                                            masks[real], self.class_names, *image.shape[:2])

    evaluate(trained, tmp_path / "before")
    run_before = cfg.copy()
    set_cfg(json.loads((trained.with_suffix(".json")).read_text())["config"])
    dataset = eval_script.load_validation_set()
    cfg.update_in_place(run_before)
    Oracle.left = list(range(len(dataset)))
    monkeypatch.setattr(eval_script, "Predictor", Oracle)
    evaluate(trained, tmp_path)
    metrics = load(tmp_path, "metrics.json")
    assert metrics["segm"]["AP"] == pytest.approx(1) and metrics["bbox"]["AP"] > 0.97
    assert load(tmp_path / "before", "metrics.json")["segm"]["AP"] < 0.5


def test_classes_one_by_one(trained, tmp_path):
    console = evaluate(trained, tmp_path, "--classwise")
    assert len(re.findall(r"^(circle|square|triangle) +\|( *(\d+\.\d\d|-) *\|){2}$", console, re.M)) == 3
    assert "circle" not in evaluate(trained, tmp_path)


def test_the_report_is_written_unless_it_is_not_wanted(trained, demo_data, tmp_path):
    given = eval_arguments(trained, tmp_path / "out", "--max_images=3")
    given.remove("--no_report")
    run("eval", given)
    page = (tmp_path / "out" / "report" / "index.html").read_text()
    assert "yolact_demo" in page and "circle" in page
    data = copy_data(demo_data, tmp_path / "data")
    edit_info(data, "val", lambda content: content.pop("annotations"))
    run("eval", [*given, "-o", *places(data), f"--output_folder={tmp_path / 'none'}"])
    assert files_below(tmp_path / "none") == []
    run("eval", [*given, "-o", *places(data), f"--output_folder={tmp_path / 'web'}", "--output_web_json",
                 f"--web_det_path={tmp_path / 'dets'}"])
    assert "report/index.html" in files_below(tmp_path / "web")
    viewer = load(tmp_path / "dets", "yolact_demo.json")
    found = load(tmp_path / "web", "bbox_detections.json")  # as in the original, it comes along
    assert sum(len(image["dets"]) for image in viewer["images"]) == len(found) > 0


# Going on after an interruption


@pytest.mark.parametrize("options", [["--output_coco_json", "--comparison"], ["--output_coco_json", "--detect"]])
def test_an_interrupted_run_goes_on_and_writes_the_same_files(trained, tmp_path, monkeypatch, caplog, options):
    evaluate(trained, tmp_path / "whole", *options)
    seen = stop_at_picture(6, monkeypatch)
    folder = tmp_path / "stopped"
    with pytest.raises(SystemExit) as stop:
        evaluate(trained, folder, *options)
    assert stop.value.code == 130 and "--resume goes on" in caplog.text
    assert files_below(folder) == ["detections.partial.0"]
    again = eval_arguments(trained, folder, *options, "--resume")
    assert_refused("eval", [*again, "--top_k=3"], r"--top_k=None \(now 3\)")
    assert_refused("eval", [*again, "--max_images=3"], "other images")
    evaluate(trained, folder, *options, "--resume")
    assert len(seen) == 6 + 12 - 5
    assert files_below(folder) == files_below(tmp_path / "whole")
    for name in files_below(folder):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_a_killed_process_loses_nothing(trained, tmp_path):
    """SIGKILL while it evaluates; the next process goes on."""
    evaluate(trained, tmp_path / "whole", "--output_coco_json")
    arguments = eval_arguments(trained, tmp_path / "out", "--output_coco_json")
    slow = ("import sys, time; sys.path.insert(0, sys.argv.pop(1))\n"
            "import eval; detect = eval.Predictor.instances\n"
            "def wait(*args):\n    time.sleep(0.2)\n    return detect(*args)\n"
            "eval.Predictor.instances = wait; eval.main(sys.argv[1:])")
    process = subprocess.Popen([sys.executable, "-c", slow, str(REPO), *map(str, arguments)])
    journal = tmp_path / "out" / "detections.partial.0"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (journal.exists() and journal.read_bytes().count(b"\n") > 3):
        time.sleep(0.05)
    process.kill()
    process.wait()
    done = journal.read_bytes().count(b"\n") - 1
    assert 3 <= done < 12
    evaluate(trained, tmp_path / "out", "--output_coco_json", "--resume")
    for name in ("bbox_detections.json", "mask_detections.json", "metrics.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("options, words", [
    (["--bbox_det_file=SAME.json", "--mask_det_file=SAME.json"], "SAME.json is to hold two kinds"),
    (["--mask_det_file=FOLDER"], "FOLDER is a folder"), (["--web_det_path=FILE", "--output_web_json"], "FILE")])
def test_outputs_that_cannot_be_are_told_before_the_evaluation(trained, tmp_path, monkeypatch, options, words):
    monkeypatch.setattr(eval_script, "evaluate", None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FOLDER").mkdir()
    (tmp_path / "FILE").write_text("")
    assert_refused("eval", eval_arguments(trained, tmp_path / "out", "--output_coco_json", *options), words)
    assert files_below(tmp_path) == ["FILE"]


@pytest.mark.parametrize("option", ["--top_k=0", "--top_k=-1", "--top_k=x", "--score_threshold=nan", "--seed=-1",
                                    "--video_multiframe=0"])
def test_numbers_that_mean_nothing_are_refused(option, capsys):
    with pytest.raises(SystemExit) as stop:
        eval_script.parse_args([option])
    assert stop.value.code == 2 and option.partition("=")[0] in capsys.readouterr().err.splitlines()[-1]


def test_the_archive_holds_the_masks(trained, tmp_path):
    evaluate(trained, tmp_path, "--output_coco_json", "--max_images=2")
    with zipfile.ZipFile(str(tmp_path / ARCHIVE)) as archive:
        assert archive.read(ARCHIVE.replace(".zip", ".json")) == (tmp_path / "mask_detections.json").read_bytes()


def test_sigterm_keeps_what_was_done_as_ctrl_c_does(trained, tmp_path, monkeypatch, caplog):
    def terminate(self, *detection_and_size, instances=eval_script.Predictor.instances):
        if (tmp_path / "detections.partial.0").read_bytes().count(b"\n") > 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return instances(self, *detection_and_size)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(eval_script.Predictor, "instances", terminate)
    with pytest.raises(SystemExit) as stop:
        evaluate(trained, tmp_path)
    assert stop.value.code == 130 and "the same command with --resume goes on" in caplog.text
    assert signal.getsignal(signal.SIGTERM) is before and files_below(tmp_path) == ["detections.partial.0"]


def test_resume_without_anything_to_resume_begins(trained, tmp_path, caplog):
    evaluate(trained, tmp_path, "--resume", "--max_images=1")
    assert "no interrupted run" in caplog.text and files_below(tmp_path) == ["metrics.json"]


# Which images


def test_max_images_shuffle_and_order(trained, demo_data, tmp_path):
    everything = json.loads((demo_data / "annotations" / "instances_val.json").read_text())
    ids = [image["id"] for image in everything["images"]]

    def images(name, *options):
        found = detections(trained, tmp_path / name, "--max_images=3", *options)
        return list(dict.fromkeys(entry["image_id"] for entry in found))

    assert images("file", "--no_sort") == ids[:3]
    assert images("hash") == [ids[i] for i in image_order(ids)[:3]] != ids[:3]
    one, again, other = (images(f"seed{i}", "--shuffle", f"--seed={seed}") for i, seed in enumerate((1, 1, 2)))
    assert one == again != other
    assert "3 images" in evaluate(trained, tmp_path / "count", "--max_images=3")
    assert len(image_order(list(range(1000)))) == 1000 and image_order([1, 2, 3]) == image_order([1, 2, 3])


def test_missing_and_damaged_pictures_count_as_missed(trained, demo_data, tmp_path, caplog):
    data = copy_data(demo_data, tmp_path / "data")
    content = json.loads((data / "annotations" / "instances_val.json").read_text())
    with_objects = sorted({a["image_id"] for a in content["annotations"] if not a["iscrowd"]})
    names = {image["id"]: image["file_name"] for image in content["images"]}
    gone, cut = (data / "val" / names[image_id] for image_id in with_objects[:2])
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:400])
    console = evaluate(trained, tmp_path / "out", "--output_coco_json", "--comparison", overrides=places(data))
    assert "12 images" in console
    for words in ("1 of 12 pictures are not in", "dataset.valid_images", f"{gone} cannot be read", f"{cut} is cut off"):
        assert words in caplog.text
    found = {entry["image_id"] for entry in load(tmp_path / "out", "bbox_detections.json")}
    assert found.isdisjoint(with_objects[:2]) and found
    for path in (data / "val").iterdir():
        path.unlink()
    assert_refused("eval", eval_arguments(trained, tmp_path / "none", overrides=places(data)),
                   "none of the 12 pictures", "dataset.valid_images")
    assert files_below(tmp_path / "none") == []


# Detection options


def test_score_threshold_and_top_k(trained, tmp_path):
    everything = detections(trained, tmp_path / "all", "--max_images=2")
    scores = sorted((entry["score"] for entry in everything), reverse=True)
    middle = scores[len(scores) // 2]
    above = detections(trained, tmp_path / "above", "--max_images=2", f"--score_threshold={middle}")
    assert 0 < len(above) < len(everything) and all(entry["score"] > middle for entry in above)
    few = detections(trained, tmp_path / "few", "--max_images=2", "--top_k=4")
    per_image = [entry["image_id"] for entry in few]
    assert 0 < max(per_image.count(image_id) for image_id in set(per_image)) <= 4
    best = {image_id: max(e["score"] for e in everything if e["image_id"] == image_id) for image_id in set(per_image)}
    assert all(max(e["score"] for e in few if e["image_id"] == i) == score for i, score in best.items())


def test_three_nms_modes_differ(trained, tmp_path, caplog):
    counts = {}
    for name, options in {"fast": [], "cross": ["--cross_class_nms=True"], "trad": ["--fast_nms=False"]}.items():
        found = detections(trained, tmp_path / name, "--max_images=4", *options, overrides=["nms_conf_thresh=0.01"])
        counts[name] = {(e["image_id"], e["category_id"], *e["bbox"], e["score"]) for e in found}
    assert counts["fast"] and counts["cross"] and counts["trad"]
    assert counts["fast"] != counts["cross"] and counts["fast"] != counts["trad"] != counts["cross"]
    assert "no effect" not in caplog.text
    evaluate(trained, tmp_path / "both", "--max_images=1", "--fast_nms=False", "--cross_class_nms=True")
    assert "--cross_class_nms has no effect on traditional NMS" in caplog.text


def test_boxes_only(trained, tmp_path):
    console = evaluate(trained, tmp_path, "--detect", "--output_coco_json", "--comparison", "--max_images=2")
    assert files_below(tmp_path) == ["bbox_detections.json", ARCHIVE, "metrics.json", "predictions.png"]
    assert list(load(tmp_path, "metrics.json")) == ["bbox"] and len(TABLE_LINE.findall(console)) == 12
    with_masks = detections(trained, tmp_path / "masks", "--max_images=2")
    assert load(tmp_path, "bbox_detections.json") == with_masks


def test_masks_without_crop_are_larger(trained, tmp_path):
    from pycocotools import mask

    areas = [sum(mask.area([entry["segmentation"] for entry in detections(
        trained, tmp_path / str(len(options)), "--max_images=2", *options, kind="mask")]).tolist())
        for options in ([], ["--no_crop"])]
    assert areas[0] < areas[1]


def test_benchmark_writes_nothing(trained, demo_data, tmp_path, caplog):
    console = evaluate(trained, tmp_path / "out", "--benchmark", "--max_images=2")
    assert "2 images, batch 1" in console and re.search(r"^total +\d+\.\d +\d+\.\d +\d+\.\d +100.0%$", console, re.M)
    stages = ("load", "transform", "network", "detection", "masks", "encode")
    assert all(re.search(rf"^{stage} +\d+\.\d +\d+\.\d +\d+\.\d +\d+\.\d%$", console, re.M) for stage in stages)
    assert "Not included" in console
    assert not (tmp_path / "out").exists()
    data = copy_data(demo_data, tmp_path / "data")
    for path in (data / "val").iterdir():
        path.write_bytes(b"")
    assert_refused("eval", eval_arguments(trained, tmp_path, "--benchmark", overrides=places(data)),
                   "no image could be read", "dataset.valid_images")


def test_progress_bar_can_be_hidden(trained, tmp_path, capfd):
    evaluate(trained, tmp_path, "--max_images=2")
    assert "Evaluating" not in capfd.readouterr().err
    shown = [option for option in eval_arguments(trained, tmp_path, "--max_images=2") if option != "--no_bar"]
    run("eval", shown)
    assert "Evaluating" in capfd.readouterr().err


# Where the weights and the config come from


@pytest.fixture(scope="module")
def reference(trained, tmp_path_factory):
    return detections(trained, tmp_path_factory.mktemp("reference"), "--max_images=2")


def original_names(path):
    """A network's tensors as the original's state dict has them."""
    arrays = {}
    for name, array in read_weights(str(path)).items():
        name = name.replace("._mean", ".running_mean").replace("._variance", ".running_var")
        arrays[name] = array
        if name.endswith("running_var"):
            arrays[name.replace("running_var", "num_batches_tracked")] = np.array(7)
    return arrays


def test_npz_of_the_originals_names(trained, demo_data, tmp_path, reference):
    path = tmp_path / "yolact_demo_3_20.npz"
    np.savez(path, **original_names(trained))
    tiny = json.loads(trained.with_suffix(".json").read_text())["config"]
    keys = ("max_size", "fpn.num_features", "backbone.args", "extra_head_net", "mask_proto_net")

    def value(key):
        group = tiny
        for part in key.split("."):
            group = group[part]
        return group

    overrides = [f"{key}={value(key)}" for key in keys] + places(demo_data)
    assert detections(path, tmp_path / "out", "--max_images=2", overrides=overrides) == reference
    # Without the overrides the config that the file is named after does not fit.
    assert_refused("eval", eval_arguments(path, tmp_path), "another network|another shape", "--config")


def test_safetensors_with_its_config(trained, tmp_path, reference):
    from utils.networks import load_network
    from yolact import Yolact

    config = json.loads(trained.with_suffix(".json").read_text())["config"]
    run_before = cfg.copy()
    set_cfg(config)
    net = load_network(str(trained), cfg)
    assert isinstance(net, Yolact)
    cfg.update_in_place(run_before)
    weights = {name: tensor.numpy() for name, tensor in net.state_dict().items()}
    save_safetensors(str(tmp_path / "whole.safetensors"), weights, config)
    save_safetensors(str(tmp_path / "half.safetensors"), weights, config, half=True)
    assert detections(tmp_path / "whole.safetensors", tmp_path / "whole", "--max_images=2") == reference
    half = detections(tmp_path / "half.safetensors", tmp_path / "half", "--max_images=2")
    assert half[0]["score"] == pytest.approx(reference[0]["score"], abs=0.01)


def test_latest_needs_the_config_and_finds_the_checkpoint(trained, tmp_path, reference):
    folder = [f"--save_folder={trained.parent}"]
    config = json.loads(trained.with_suffix(".json").read_text())["config"]
    assert_refused("eval", eval_arguments("latest", tmp_path, *folder), "--trained_model=latest needs --config")
    overrides = [f"{key}={config[key]}" for key in ("max_size", "extra_head_net", "mask_proto_net")]
    overrides += [f"fpn.num_features={config['fpn']['num_features']}", f"backbone.args={config['backbone']['args']}"]
    overrides += [f"dataset.{key}={config['dataset'][key]}" for key in ("valid_images", "valid_info")]
    found = detections("latest", tmp_path, "--config=yolact_demo", "--max_images=2", *folder, overrides=overrides)
    assert found == reference
    assert_refused("eval", eval_arguments("interrupt", tmp_path, "--config=yolact_demo", *folder),
                   "no interrupted checkpoint of yolact_demo", "--save_folder")


def test_overrides_come_last_and_several_follow_one_o(trained, demo_data, tmp_path):
    shutil.copyfile(str(demo_data / "annotations" / "instances_val.json"), str(tmp_path / "F.json"))
    edit = json.loads((tmp_path / "F.json").read_text())
    edit["images"] = edit["images"][:2]
    (tmp_path / "F.json").write_text(json.dumps(edit))
    console = evaluate(trained, tmp_path / "out", "--dataset=demo_dataset", overrides=[
        f"dataset.valid_info={tmp_path / 'F.json'}", f"dataset.valid_images={demo_data / 'val'}", "nms_top_k=5"])
    assert "2 images" in console


def test_config_of_the_command_line_wins_and_differences_are_told(trained, demo_data, tmp_path, caplog):
    config = json.loads(trained.with_suffix(".json").read_text())["config"]
    overrides = [f"max_size={config['max_size']}", f"backbone.args={config['backbone']['args']}",
                 *(f"{key}={config[key]}" for key in ("extra_head_net", "mask_proto_net")),
                 f"fpn.num_features={config['fpn']['num_features']}", *places(demo_data)]
    evaluate(trained, tmp_path, "--config=yolact_demo_config", "--max_images=1", overrides=overrides)
    assert "was trained with" not in caplog.text  # max_iter differs, but not what the weights find
    evaluate(trained, tmp_path, "--config=yolact_demo_config", "--max_images=1",
             overrides=[*overrides, "nms_thresh=0.3", "lr=0.5"])
    assert "was trained with nms_thresh=0.5, and now it is 0.3" in caplog.text and "lr=" not in caplog.text


# Bad input


@pytest.mark.parametrize("options, overrides, words", [
    (["--config=yolact_dmo"], [], ["unknown config 'yolact_dmo'", "'yolact_demo_config'"]),
    (["--dataset=demo_datset"], [], ["unknown dataset 'demo_datset'", "'demo_dataset'"]),
    ([], ["nms_thrsh=0.1"], ["nms_thrsh", "'nms_thresh'"]),
    ([], ["nms_thresh='a'"], ["nms_thresh='a'", "float"]),
    ([], ["dataset.valid_info=nowhere.json"], ["nowhere.json", "dataset.valid_info"]),
    ([], ["dataset.valid_images=nowhere"], ["nowhere", "dataset.valid_images"]),
    ([], ["dataset.class_names=('circle', 'square')"], ["for 3 classes but the config has 2", "dataset.class_names"]),
    (["--dataset=pascal_sbd_dataset"], [], ["for 3 classes but the config has 20", "--dataset"]),
    (["--config=yolact_resnet50_pascal_config"], ["max_size=48"], ["3 classes but the config has 20"]),
    (["--max_images=0"], [], ["--max_images=0"]),
    (["--image=nowhere.jpg:out.png"], [], ["no file nowhere.jpg", "--image"]),
    (["--images=nowhere:out"], [], ["--images=nowhere:out", "IN:OUT"]),
    (["--images=."], [], ["--images=.", "IN:OUT"]),
])
def test_wrong_settings_are_refused(trained, tmp_path, monkeypatch, options, overrides, words):
    monkeypatch.chdir(tmp_path)
    assert_refused("eval", eval_arguments(trained, tmp_path / "out", *options, overrides=overrides), *words)
    assert files_below(tmp_path) == []


def test_weights_that_cannot_be_used_are_refused(trained, tmp_path):
    (tmp_path / "cut.pdparams").write_bytes(trained.read_bytes()[:2000])
    shutil.copyfile(str(trained), str(tmp_path / "mine.pdparams"))
    shutil.copyfile(str(trained), str(tmp_path / "yolact_base_1_2.pdparams"))
    shutil.copyfile(str(trained), str(tmp_path / "bad.pdparams"))
    (tmp_path / "bad.json").write_text('{"config": {"no_such_key": 1}}')
    shutil.copyfile(str(trained), str(tmp_path / "torn.pdparams"))
    (tmp_path / "torn.json").write_text("{")
    for name, words in {
            "nowhere.pdparams": ["no file .*nowhere.pdparams", "--trained_model"],
            "cut.pdparams": ["in the name of .*cut.pdparams", "--config"],
            "mine.pdparams": ["in the name of .*mine.pdparams", "unknown config 'mine'", "--config"],
            "bad.pdparams": ["saved with .*bad.pdparams", "no_such_key", "--config"],
            "torn.pdparams": ["torn.json is damaged", "--config"]}.items():
        assert_refused("eval", eval_arguments(tmp_path / name, tmp_path / "out"), *words)
    shutil.copyfile(str(trained.with_suffix(".json")), str(tmp_path / "cut.json"))
    assert_refused("eval", eval_arguments(tmp_path / "cut.pdparams", tmp_path / "out"), "cut.pdparams is damaged")
    assert not (tmp_path / "out").exists()


def test_folder_that_cannot_be_written_is_told_before_the_evaluation(trained, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    assert_refused("eval", eval_arguments(trained, tmp_path / "file"), "file", "--output_folder")


def test_damaged_pictures_alone_are_an_error(trained, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "in" / name).write_bytes(b"\xff\xd8 cut")
    out = tmp_path / "out"
    assert_refused("eval", eval_arguments(trained, out, f"--image={tmp_path / 'in' / 'a.jpg'}"), "a.jpg is cut off")
    assert_refused("eval", eval_arguments(trained, out, f"--images={tmp_path / 'in'}:{out}"), "none of the pictures")
    (tmp_path / "empty").mkdir()
    empty = f"--images={tmp_path / 'empty'}:{out}"
    assert_refused("eval", eval_arguments(trained, out, empty), "no picture", "--images")
    assert files_below(out) == []


@pytest.mark.parametrize("change, words", [
    (lambda content: content["annotations"][0].update(category_id=77), ["category_id 77", "dataset"]),
    (lambda content: content.pop("images"), ["no 'images'", "dataset.valid_info"]),
    (lambda content: content.pop("categories") and content["annotations"][0].update(category_id=9), ["category_id 9"]),
])
def test_annotation_files_that_cannot_be_used_are_refused(trained, demo_data, tmp_path, change, words):
    data = copy_data(demo_data, tmp_path / "data")
    edit_info(data, "val", change)
    assert_refused("eval", eval_arguments(trained, tmp_path / "out", overrides=places(data)),
                   "instances_val.json", *words)
    assert files_below(tmp_path / "out") == []


def test_faulty_annotations_still_count_as_ground_truth(trained, demo_data, tmp_path):
    data = copy_data(demo_data, tmp_path / "data")
    changes = [{"segmentation": []}, {"segmentation": [[1, 2, 3, 4]]}, {"bbox": [500, 500, 9, 9]}, {"bbox": []},
               {"image_id": 999999}, {"segmentation": [[5, 5, 5, 5, 5, 5]]}, {"segmentation": None}, {"bbox": None},
               {"segmentation": {"size": [9, 9], "counts": [81]}}, {"iscrowd": 0, "area": 0}]

    def damage(content):
        for annotation, change in zip(content["annotations"], changes):
            annotation.update(change)

    edit_info(data, "val", damage)
    console = evaluate(trained, tmp_path / "out", "--comparison", overrides=places(data))
    assert len(TABLE_LINE.findall(console)) == 24


def test_as_a_command(trained, demo_data, tmp_path):
    source = sorted((demo_data / "val").iterdir())[0]
    done = command("eval", [f"--trained_model={trained}", f"--image={source}:out.png"], tmp_path)
    assert done.returncode == 0 and files_below(tmp_path) == ["out.png"], done.stderr
    assert done.stdout.splitlines()[-1] == "written: out.png" and done.stderr.count("--cuda=True, but") <= 1
    assert "Traceback" not in done.stderr


def test_as_a_command_a_mistake_is_one_line_and_exit_code_1(tmp_path):
    done = command("eval", ["--trained_model=nowhere_1_2.pdparams", "--cuda=False"], tmp_path)
    assert done.returncode == 1 and done.stdout == ""
    assert re.fullmatch(r"eval.py: error: there is no file nowhere_1_2.pdparams; correct --trained_model \(.*\)\n",
                        done.stderr)
