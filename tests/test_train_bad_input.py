"""Bad input of train.py: refused in one line, or it costs itself and a warning."""

import json
import os
import re
import shutil

import numpy as np
import pytest
from cli_runs import (
    AUGMENTED,
    assert_refused,
    checkpoint_of,
    command,
    copy_data,
    edit_info,
    files_below,
    odd_pictures,
    records,
    stem_of,
    stems,
    train,
    train_arguments,
)

import train as train_script
from utils.trainer import Trainer
from utils.weights import read_weights

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
    (truncated, ["instances_train.json: the file is cut off", "dataset.train_info"]),
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
    *((["--start_iter=" + first], [], ["--start_iter is for --resume"]) for first in "05"),
    ([], ["backbone.type=ResNet"], ["backbone.type='ResNet'", "ResNetBackbone"]),
    ([], ["backbone.args=[3, 4, 23, 3]"], ["backbone.args=", "a list itself"]),
    (["--max_bad_steps=0"], [], ["--max_bad_steps is 0"]),
    (["--ema=1"], [], ["--ema is 1.0"]),
    (["--ema=-0.1"], [], ["--ema is -0.1"]),
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
    assert len(re.findall(r"instances_train.json: \d of \d+ annotations are left out", caplog.text)) == 4
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
