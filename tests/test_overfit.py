"""tools/overfit.py: which pictures it takes, what the bound measures, and the whole way on demo pictures."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as mask_utils

from data.coco import COCODetection
from tools import overfit
from utils.runtime import UserError

CLASS_NAMES = ("circle", "square")
# A network that learns four pictures by heart in seconds.
SMALL = ("lr=2e-3", "backbone.args=[[1,1,1],None,1,16]", "fpn.num_features=32",
         "extra_head_net=[(32,3,{'padding':1})]",
         "mask_proto_net=[(32,3,{'padding':1}),(None,-2,{}),(16,1,{})]")


def rectangle_mask(height, width, top, left, bottom, right):
    mask = np.zeros((height, width), np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def annotation_of(mask, number, image_id, category_id=1, iscrowd=0):
    rle = mask_utils.encode(np.asfortranarray(mask))
    return {"id": number, "image_id": image_id, "category_id": category_id, "iscrowd": iscrowd,
            "bbox": mask_utils.toBbox(rle).tolist(), "area": float(mask_utils.area(rle)),
            "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")}}


def write_dataset(folder, sizes, annotations):
    """Grey pictures {id: (height, width)} with annotations, as a COCO file; returns (pictures, json)."""
    pictures, info = folder / "pictures", folder / "info.json"
    pictures.mkdir()
    for image_id, (height, width) in sizes.items():
        cv2.imwrite(str(pictures / f"{image_id}.png"), np.full((height, width, 3), 128, np.uint8))
    info.write_text(json.dumps({
        "images": [{"id": image_id, "file_name": f"{image_id}.png", "height": height, "width": width}
                   for image_id, (height, width) in sizes.items()],
        "annotations": annotations,
        "categories": [{"id": k, "name": name} for k, name in enumerate(CLASS_NAMES, 1)]}))
    return str(pictures), str(info)


def load(pictures, info, training):
    return COCODetection(pictures, info, None, CLASS_NAMES, training=training)


def test_large_is_a_share_of_the_whole_picture_and_of_usable_objects():
    image = {"id": 1, "height": 20, "width": 200}
    half, tenth = (annotation_of(rectangle_mask(20, 200, 0, 0, 20, width), width, 1) for width in (100, 20))
    faulty = {**half, "segmentation": []}
    assert overfit.large_objects([half, tenth, faulty], image, 0.1) == [half]
    assert overfit.large_objects([half, tenth, faulty], image, 0.09) == [half, tenth]


def test_a_training_that_fails_ends_the_command_with_its_exit_code(monkeypatch, tmp_path):
    monkeypatch.setattr(overfit.subprocess, "run", lambda command, check: subprocess.CompletedProcess(command, 3))
    with pytest.raises(SystemExit) as stop:
        overfit.train(overfit.parse_args([f"--out={tmp_path}"]), [])
    assert stop.value.code == 3


def test_a_bound_of_zero_has_no_ratio(monkeypatch, tmp_path, capsys):
    nothing = {"AP": 0.0}
    for name, value in {"prepare": ({"images": [{"id": 7}], "annotations": []}, []), "prototype_size": (4, 4),
                        "bound_of": nothing, "train": "x.pdparams",
                        "evaluate": {"bbox": nothing, "segm": nothing}}.items():
        monkeypatch.setattr(overfit, name, lambda *arguments, value=value: value)
    monkeypatch.setattr(overfit.evaluation, "load_validation_set", lambda: None)
    overfit.run(overfit.parse_args([f"--out={tmp_path}"]))
    assert json.loads((tmp_path / "overfit.json").read_text())["ratio"] is None
    assert "- of the bound is reached" in capsys.readouterr().out


@pytest.fixture
def mixed(tmp_path):
    """Pictures 100 x 100, ids not in order: which of them count as large at 0.1 is told by their objects."""
    corner = {"exactly a tenth": (25, 55), "large": (35, 55), "small": (15, 15)}

    def of(kind, number, image_id, **more):
        return annotation_of(rectangle_mask(100, 100, 5, 5, *corner[kind]), number, image_id, **more)

    annotations = [of("large", 1, 9), of("small", 2, 9), of("large", 3, 2), of("large", 4, 2, category_id=2),
                   of("large", 5, 3, iscrowd=1), of("exactly a tenth", 6, 4), of("small", 7, 5),
                   of("large", 8, 7), of("large", 9, 8, iscrowd=1), of("large", 10, 8)]
    return write_dataset(tmp_path, dict.fromkeys((9, 2, 8, 3, 4, 5, 6, 7), (100, 100)), annotations)


def test_takes_the_first_pictures_by_id_with_a_large_object_and_only_those_objects(mixed):
    dataset = load(*mixed, training=True)
    chosen = overfit.choose(dataset, 3, 0.1)
    assert [image["id"] for image in chosen["images"]] == [2, 7, 8]
    assert [annotation["id"] for annotation in chosen["annotations"]] == [3, 4, 8, 10]
    assert [category["name"] for category in chosen["categories"]] == list(CLASS_NAMES)
    # The area is that of the mask: a file's own "area" may be missing or of the box.
    for annotation in dataset.coco.dataset["annotations"]:
        annotation.pop("area")
    assert overfit.choose(dataset, 3, 0.1) == chosen
    lower = overfit.choose(dataset, 3, 0.09)
    assert [image["id"] for image in lower["images"]] == [2, 4, 7]


def test_a_broken_picture_is_not_chosen(mixed, caplog):
    pictures, info = mixed
    path = Path(pictures, "7.png")
    path.write_bytes(path.read_bytes()[:40])
    chosen = overfit.choose(load(pictures, info, training=True), 3, 0.1)
    assert [image["id"] for image in chosen["images"]] == [2, 8, 9]
    assert "image 7 is not chosen" in caplog.text


def test_too_few_pictures_are_told_with_the_fix(mixed):
    with pytest.raises(UserError, match=r"only 4 of the 7 .* --count is 5; lower --min_area"):
        overfit.choose(load(*mixed, training=True), 5, 0.1)


def test_class_names_that_the_config_does_not_give_are_those_of_the_file(mixed, tmp_path):
    pictures, info = mixed
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "metrics.json").write_text("{}")  # of an earlier run
    subset, overrides = overfit.prepare(overfit.parse_args([
        "--config=yolact_demo", f"--images={pictures}", f"--info={info}", "--count=2", f"--out={tmp_path / 'out'}",
        "-o", "dataset.class_names=None", "dataset.train_info=another.json"]))
    assert overfit.cfg.dataset.class_names == list(CLASS_NAMES)
    assert [category["name"] for category in subset["categories"]] == list(CLASS_NAMES)  # train.py reads them there
    assert overrides[-1] == "dataset.has_gt=True" and "dataset.class_names=None" in overrides
    assert os.listdir(tmp_path / "out") == ["subset.json"]


def iou(one, other):
    return (one & other).sum() / (one | other).sum()


def test_thin_masks_are_lost_and_large_ones_kept():
    thin = rectangle_mask(120, 160, 40, 20, 41, 140)
    large = rectangle_mask(120, 160, 32, 48, 88, 112)  # 14 x 12 prototype pixels, of 4 x 5.33 pixels each
    restored = overfit.reduce_and_restore(np.stack([thin, large]), 120, (30, 30))
    assert restored.shape == (2, 120, 160) and restored.dtype == bool
    assert not restored[0].any()
    assert iou(restored[1], large.astype(bool)) > 0.95


def test_prototypes_of_the_picture_s_size_lose_nothing():
    masks = np.random.RandomState(0).rand(3, 32, 32) > 0.5
    assert np.array_equal(overfit.reduce_and_restore(masks, 32, (32, 32)), masks)
    assert overfit.reduce_and_restore(masks[:0], 32, (8, 8)).shape == (0, 32, 32)


def test_the_way_leads_over_max_size():
    # Lines of one pixel, two apart, are grey at half the size: which of them stay is decided there.
    stripes = np.zeros((1, 64, 64), np.uint8)
    stripes[:, ::3] = 1
    direct = overfit.reduce_and_restore(stripes, 64, (16, 16))
    halved = overfit.reduce_and_restore(stripes, 32, (16, 16))
    assert not np.array_equal(direct, halved)


def test_the_bound_is_coco_s_figure_of_what_is_left(tmp_path):
    large = [rectangle_mask(96, 96, 16, 16, 80, 80), rectangle_mask(96, 96, 8, 8, 88, 72)]
    thin = rectangle_mask(96, 96, 90, 0, 91, 96)
    annotations = [annotation_of(thin, 1, 1), annotation_of(large[0], 2, 1), annotation_of(large[1], 3, 2)]
    data = write_dataset(tmp_path, {1: (96, 96), 2: (96, 96)}, annotations)
    dataset = load(*data, training=False)
    whole = overfit.bound_of(dataset, 96, (96, 96))
    assert whole["AP"] == pytest.approx(1.0) and whole["AR100"] == pytest.approx(1.0)
    reduced = overfit.bound_of(dataset, 96, (24, 24))
    # Two of three objects are found at IoU .50, the thin one costs its recall but is no false detection.
    assert reduced["AP50"] == pytest.approx(67 / 101) and reduced["AR100"] < 0.67
    assert 0.6 < reduced["AP"] <= reduced["AP50"]


def test_the_prototypes_size_is_the_network_s():
    overfit.set_cfg("yolact_demo_config")
    overfit.apply_overrides([*SMALL, "max_size=80"])
    assert overfit.prototype_size(overfit.cfg) == (20, 20)  # stride 8, doubled once
    overfit.apply_overrides(["eval_mask_branch=False"])
    with pytest.raises(UserError, match="eval_mask_branch"):
        overfit.prototype_size(overfit.cfg)


def test_learns_demo_pictures_by_heart(demo_data, tmp_path, capfd, caplog):
    info, out = demo_data / "annotations" / "instances_train.json", tmp_path / "out"
    overfit.main([
        "--config=yolact_demo_config", f"--images={demo_data / 'train'}", f"--info={info}", "--count=4",
        "--min_area=0.05", "--max_size=64", "--iterations=80", "--num_workers=0", f"--out={out}",
        "-o", *SMALL])
    printed = capfd.readouterr().out
    assert "below 6 train.py freezes batch norm" in caplog.text

    report, metrics, subset = (json.loads((out / f"{name}.json").read_text())
                               for name in ("overfit", "metrics", "subset"))
    # The pictures and objects of the rule, counted in the file by hand.
    large = [annotation for annotation in json.loads(info.read_text())["annotations"]
             if not annotation["iscrowd"] and annotation["area"] > 0.05 * 96 * 96]
    image_ids = sorted({annotation["image_id"] for annotation in large})[:4]
    assert report["image_ids"] == [image["id"] for image in subset["images"]] == image_ids
    assert report["objects"] == sum(annotation["image_id"] in image_ids for annotation in large)

    assert report["mask_AP"] == metrics["segm"]["AP"] and report["prototypes"] == [16, 16]
    assert report["ratio"] == pytest.approx(report["mask_AP"] / report["bound"])
    assert 0.6 < report["bound"] < 1 and report["ratio"] > 0.5
    assert f"{report['mask_AP']:.3f} mask AP of the network" in printed
    assert f"{report['bound']:.3f} mask AP of their ground truth" in printed
    assert cv2.imread(str(out / "predictions.png")) is not None

    records = [json.loads(line) for line in (out / "logs" / "yolact_demo.log").read_text().splitlines()]
    assert [record["type"] for record in records] == ["session"] + 80 * ["train"]
    config = json.loads(Path(report["weights"]).with_suffix(".json").read_text())["config"]
    assert (config["optimizer"], config["lr"], config["lr_schedule"]) == ("adamw", 2e-3, "cosine")
    assert not any(value for key, value in config.items() if key.startswith("augment_"))
    assert config["dataset"]["train_info"] == config["dataset"]["valid_info"] == str(out / "subset.json")


@pytest.mark.parametrize("options, message", [
    (["--config=yolact_demo", "--images=nowhere"], "nowhere does not exist"),
    (["--config=yolact_dmo"], "did you mean 'yolact_demo_config'"),
    (["--config=yolact_demo", "-o", "lrr=1"], "unknown config key 'lrr'"),
])
def test_mistakes_cost_one_line(tmp_path, options, message):
    with pytest.raises(SystemExit) as stop:
        overfit.main([*options, f"--out={tmp_path / 'out'}"])
    text = str(stop.value)
    assert text.startswith("overfit.py: error: ") and message in text and "\n" not in text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["--count=0", "--iterations=0", "--min_area=1.5"])
def test_options_out_of_range_are_refused(option, capsys):
    with pytest.raises(SystemExit) as stop:
        overfit.parse_args([option])
    assert stop.value.code == 2 and option.partition("=")[0] in capsys.readouterr().err


def test_runs_as_a_script_from_another_folder(tmp_path):
    done = subprocess.run([sys.executable, str(Path(overfit.__file__)), "--help"], cwd=tmp_path, text=True,
                          capture_output=True, timeout=120, env=dict(os.environ, PYTHONPATH=""))
    assert done.returncode == 0 and "--min_area" in done.stdout
