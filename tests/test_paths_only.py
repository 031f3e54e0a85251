"""A data set of which only the paths are given: train.py takes its classes from the JSON, eval.py from the network."""

import shutil

import pytest
from cli_runs import (
    assert_refused,
    checkpoint_of,
    copy_data,
    edit_info,
    eval_arguments,
    evaluate,
    load,
    places,
    quietly,
    run,
    train_arguments,
)

from data import config as config_module
from data.config import dataset_base
from utils.weights import saved_config

NO_NAMES = "dataset.class_names=None"


def renumber(content):
    """Other ids, in another order, one of them a class more."""
    names = {1: ("round", 70), 2: ("edged", 20), 3: ("pointed", 50)}
    content["categories"] = [{"id": number, "name": name} for name, number in names.values()]
    content["categories"].append({"id": 90, "name": "never seen"})
    for annotation in content["annotations"]:
        annotation["category_id"] = names[annotation["category_id"]][1]


@pytest.fixture(scope="module")
def data(demo_data, tmp_path_factory):
    folder = copy_data(demo_data, tmp_path_factory.mktemp("paths_only") / "data")
    for split in ("train", "val"):
        edit_info(folder, split, renumber)
    return folder


@pytest.fixture(scope="module")
def network(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("paths_only_trained")
    printed = quietly("train", train_arguments(data, folder, overrides=[NO_NAMES]))
    assert "4 classes" in printed
    return checkpoint_of(folder, data, 6)


def test_the_checkpoint_carries_the_names_by_category_id(network):
    saved = saved_config(network)["dataset"]
    assert saved["class_names"] == ["edged", "pointed", "round", "never seen"] and saved["label_map"] is None


def test_evaluation_takes_the_networks_names_and_the_files_ids(network, data, tmp_path):
    evaluate(network, tmp_path, "--output_coco_json", overrides=places(data))
    ids = {found["category_id"] for found in load(tmp_path, "bbox_detections.json")}
    assert ids <= {20, 50, 70, 90} and len(ids) >= 2


def test_the_names_are_the_networks_where_config_or_data_set_give_none(network, data, tmp_path, monkeypatch):
    """Though a validation set that lacks a class would number the others differently."""
    fewer = copy_data(data, tmp_path / "fewer")
    edit_info(fewer, "val", lambda content: content["categories"].pop())
    edit_info(fewer, "train", lambda content: content["categories"].pop())
    (fewer / "annotations" / "instances_train.json").unlink()
    dataset = dataset_base.copy(
        {"name": "fewer", "train_info": "gone.json", "valid_images": str(fewer / "val"),
         "valid_info": str(fewer / "annotations" / "instances_val.json")})
    monkeypatch.setattr(config_module, "fewer_dataset", dataset, raising=False)
    saved = config_module.make_config(saved_config(network))
    monkeypatch.setattr(config_module, "paths_config", saved.copy({"dataset": dataset}), raising=False)
    for name, options in (("a", ["--dataset=fewer_dataset"]), ("b", ["--config=paths_config"])):
        evaluate(network, tmp_path / name, "--output_coco_json", *options)
    evaluate(network, tmp_path / "c", "--output_coco_json", overrides=places(fewer))
    assert load(tmp_path / "a", "bbox_detections.json") == load(tmp_path / "c", "bbox_detections.json")
    assert load(tmp_path / "b", "bbox_detections.json") == load(tmp_path / "c", "bbox_detections.json")


def assert_all_told(arguments, *words):
    """train.py ends with a line for each mistake."""
    with pytest.raises(SystemExit) as stop:
        run("train", arguments)
    assert str(stop.value.code).startswith("train.py: error: ") and all(word in stop.value.code for word in words)


@pytest.mark.parametrize(("change", "words"), [
    (lambda content: content.pop("categories"), ("categories", "class_names")),
    (lambda content: content["categories"][0].pop("name"), ("no name", "class_names")),
    (lambda content: content["categories"][1].update(name="round"), ("round", "more than once")),
])
def test_a_json_without_usable_names_is_told(data, tmp_path, change, words):
    broken = copy_data(data, tmp_path / "data")
    edit_info(broken, "train", change)
    assert_all_told(train_arguments(broken, tmp_path / "out", overrides=[NO_NAMES]), *words)


def test_a_label_map_needs_names(data, tmp_path):
    assert_all_told(train_arguments(data, tmp_path, overrides=[NO_NAMES, "dataset.label_map={20: 1}"]),
                    "dataset.label_map is given without dataset.class_names", "belong to no class")


def test_weights_without_a_config_and_a_config_without_names_need_the_json(network, tmp_path, monkeypatch):
    bare = tmp_path / "bare.pdparams"
    shutil.copy(network, bare)
    nameless = config_module.get_config("yolact_demo").copy({"dataset": dataset_base.copy({"valid_info": "gone.json"})})
    monkeypatch.setattr(config_module, "nameless_config", nameless, raising=False)
    assert_refused("eval", eval_arguments(bare, tmp_path, "--config=nameless_config"), "cannot be read")
