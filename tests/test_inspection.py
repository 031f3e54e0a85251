"""The inspection of data sets: every rule finds its mistake, and nothing in a sound data set."""

import copy
import json
import os
import shutil
import warnings
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from pycocotools import mask as mask_utils
from test_coco import HEIGHT, NAMES, WIDTH, box_annotation

from data.coco import COCODetection
from data.coco_checks import class_names_of
from data.config import COCO_CLASSES, COCO_LABEL_MAP, MEANS, STD, coco2017_dataset, dataset_base
from data.images import DatasetError
from data.inspection import class_rows, inspect_dataset, inspect_splits, inspect_training_data
from data.object_table import object_table, polygon_extents
from utils.augmentations import SMALLEST_SIDE, BaseTransform, SSDAugmentation

RESNET = {"channel_order": "RGB", "normalize": True, "subtract_means": False, "to_float": False}


def rle_of(mask):
    rle = mask_utils.encode(np.asfortranarray(mask))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


@pytest.fixture
def content():
    """Six pictures with four objects each, of two classes with ids that are not dense; nothing is wrong."""
    images = [{"id": number, "file_name": f"{number}.png", "width": WIDTH, "height": HEIGHT}
              for number in range(10, 16)]
    annotations = [box_annotation(4 * number + place + 1, 10 + number, (7, 3)[place % 2], 5 + 18 * place, 8, 12, 40)
                   for number in range(6) for place in range(4)]
    return {"images": images, "annotations": annotations,
            "categories": [{"id": 7, "name": "square"}, {"id": 3, "name": "circle"}]}


@pytest.fixture
def folder(tmp_path, content):
    (tmp_path / "images").mkdir()
    for image in content["images"]:
        cv2.imwrite(str(tmp_path / "images" / image["file_name"]), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    return tmp_path


def inspect(folder, content, text=None, **options):
    info = folder / "info.json"
    info.write_text(json.dumps(content) if text is None else text, encoding="utf-8")
    arguments = {"class_names": NAMES, "label_map": None, "max_size": 550, "info_key": "dataset.train_info",
                 "images_key": "dataset.train_images", "training": True, **options}
    return inspect_dataset(str(info), str(folder / "images"), **arguments)


def lines(inspection, level):
    return [finding.line() for finding in inspection.of_level(level)]


def only(inspection, level):
    """The one finding, of this level."""
    assert [finding.level for finding in inspection.findings] == [level], inspection.text()
    return inspection.findings[0]


# A sound data set


def test_nothing_is_wrong_with_a_sound_data_set(folder, content):
    inspection = inspect(folder, content)
    assert inspection.findings == [] and inspection.content == content
    assert inspection.text() == f"{folder / 'info.json'}: 6 images, 24 objects of 2 classes"
    assert [(row.name, row.objects, row.images) for row in class_rows(inspection, 550)] == [
        ("circle", 12, 6), ("square", 12, 6)]
    sides = np.sqrt((12 * 550 / WIDTH) * (40 * 550 / HEIGHT))
    assert class_rows(inspection, 550)[0].median_side == pytest.approx(sides)


def test_coco_itself_has_neither_errors_nor_warnings(coco_tiny):
    dataset = coco2017_dataset.copy({
        f"{part}_{kind}": str(coco_tiny / place) for part, split in (("train", "train2017"), ("valid", "val2017"))
        for kind, place in (("images", split), ("info", f"annotations/instances_{split}.json"))})
    inspections = inspect_training_data(dataset, 550, with_validation=True)
    assert [lines(inspection, level) for inspection in inspections for level in ("error", "warning")] == [[]] * 4
    assert inspections[0].class_names == list(COCO_CLASSES) and len(inspections[0].table.ids) > 500
    found = inspections[1].table
    truth = COCODetection(dataset.valid_images, dataset.valid_info, None, COCO_CLASSES, COCO_LABEL_MAP)
    crowds = [truth.coco.loadAnns(number)[0]["iscrowd"] for number in found.ids]
    assert (found.label < 0).tolist() == [bool(crowd) for crowd in crowds] and 0 < sum(crowds) < len(crowds)


# The file


@pytest.mark.parametrize("text, words", [
    ("", "cut off or no JSON"), ("[", "cut off or no JSON"), ("[]", "no 'images'"), ('{"images": []}', "no 'images'")])
def test_files_that_hold_nothing(folder, content, text, words):
    inspection = inspect(folder, content, text)
    assert words in only(inspection, "error").what and inspection.content is None
    assert "correct dataset.train_info" in inspection.findings[0].fix


def test_a_missing_file_and_a_missing_folder(tmp_path, folder, content):
    gone = inspect_dataset(str(tmp_path / "no.json"), str(tmp_path), NAMES, None, 550, "--info", "--images")
    assert only(gone, "error").line() == (
        "the annotation file cannot be read (No such file or directory); correct --info")
    (folder / "images").rename(folder / "moved")
    assert "does not exist; correct dataset.train_images" in only(inspect(folder, content), "error").line()


def test_every_unsound_entry_is_counted_and_the_others_are_inspected(folder, content):
    content["images"][1].pop("file_name")
    content["images"][2].update(width="wide")
    content["images"][3] = 5
    content["images"][4].update(height=0)
    content["annotations"][0].pop("category_id")
    content["annotations"][1]["id"] = [5]
    content["annotations"][21].pop("category_id")
    content["categories"][0]["id"] = "7"
    content["categories"].append({"id": 3, "name": "circle"})
    inspection = inspect(folder, content)
    assert [(error.count, error.examples) for error in inspection.of_level("error")[:6]] == [
        (1, ("entry 3",)), (1, ("entry 1",)), (1, ("entry 0: '7'",)),
        (1, ("entry 1: [5]",)), (2, ("entry 0", "entry 21")), (2, ("image 12", "image 14"))]
    assert inspection.table.ids == [3, 4, 21, 23, 24]  # of the images 10 and 15


def test_the_annotations_of_an_unsound_image_are_no_second_mistake(folder, content):
    content["images"][1].pop("file_name")
    assert len(inspect(folder, content).findings) == 1
    content["images"][1]["file_name"] = "11.png"
    content["annotations"][0]["image_id"] = 99
    assert "an image_id that is not among the images" in only(inspect(folder, content), "warning").what


def test_ids_and_file_names_that_stand_twice(folder, content):
    content["images"][1]["file_name"] = "10.png"
    content["annotations"][3]["id"] = content["annotations"][2]["id"]
    content["categories"].append({"id": 3, "name": "circle"})
    warnings = inspect(folder, content).of_level("warning")
    assert [(one.what.partition(" of ")[2], one.examples) for one in warnings] == [
        ("24 ids of 'annotations' stand more than once", ("3",)),
        ("3 ids of 'categories' stand more than once, of which only the last counts", ("3",)),
        ("6 file names stand more than once in 'images'", ("10.png",))]
    content["images"][1]["id"] = 10
    assert any("6 ids of 'images'" in line for line in lines(inspect(folder, content), "warning"))


# Pictures


def test_missing_pictures_and_where_they_are(folder, content):
    (folder / "images" / "11.png").unlink()
    (folder / "images" / "12.png").rename(folder / "images" / "12.PNG")
    inspection = inspect(folder, content)
    assert lines(inspection, "warning") == [
        f"2 of 6 pictures are not in {folder / 'images'} and are left out (11.png, 12.png); "
        f"correct dataset.train_images"]
    assert lines(inspection, "note") == [
        "1 of 2 missing pictures are there under another folder, ending or case (12.png: 12.PNG); "
        "correct the file_name in 'images'"]
    assert "count as missed" in lines(inspect(folder, content, training=False), "warning")[0]
    for image in content["images"]:
        image["file_name"] += "x"
    assert "none of the 6 pictures is in" in lines(inspect(folder, content), "error")[0]


def test_images_without_objects(folder, content):
    content["annotations"] = content["annotations"][:20]
    assert only(inspect(folder, content), "note").examples == ("15.png",)


def test_width_and_height_exchanged(folder, content):
    for image in content["images"][1:4]:
        image.update(width=HEIGHT, height=WIDTH)
    warnings = inspect(folder, content).of_level("warning")
    assert warnings[0].what == "3 of 6 images seem to have width and height exchanged"
    assert warnings[0].examples == ("image 11", "image 12", "image 13")


# Classes


def test_classes_and_categories_that_do_not_belong_together(folder, content):
    content["annotations"] = [one for one in content["annotations"] if one["category_id"] == 3]
    inspection = inspect(folder, content, class_names=["circle", "SQUARE "])
    assert lines(inspection, "warning") == [
        "1 of 2 classes are no category of the file (SQUARE: the file has 'square'); "
        "write the names as the file has them",
        "1 of 2 classes have no object (SQUARE); annotate some, or leave the class out"]
    assert lines(inspection, "note") == [
        "1 of 2 categories are no class, and no annotation has them (square); nothing has to be done"]


def test_annotations_of_unknown_categories(folder, content):
    error = inspect(folder, content, class_names=["circle", "triangle"]).of_level("error")[0]
    assert "category_id 7 ('square')" in error.what and "dataset.class_names" in error.fix
    assert "labels in dataset.label_map are not from 1 to 2" in lines(
        inspect(folder, content, label_map={3: 1, 7: 3}), "error")[0]


def test_a_label_map_that_exchanges_names(folder, content):
    assert inspect(folder, content, label_map={3: 1, 7: 2}).findings == []
    assert only(inspect(folder, content, label_map={3: 2, 7: 1}), "warning").count == 2


def test_two_categories_of_one_class(folder, content):
    content["categories"].append({"id": 0, "name": "square"})
    inspection = inspect(folder, content)
    assert "categories have the id 0" in only(inspection, "note").what  # no annotation has it
    content["annotations"][0]["category_id"] = 0
    assert lines(inspect(folder, content), "error") == [
        "1 of 2 classes have several category ids, so that detections could not be told apart (square: 7, 0); "
        "give the annotations of a class one category_id"]


def test_class_balance(folder, content):
    content["annotations"] += [box_annotation(100 + number, 10, 3, 5, 8, 12, 40) for number in range(1300)]
    note = only(inspect(folder, content), "note")
    assert "1/100 of the 1312 objects of 'circle'" in note.what and note.examples == ("square: 12",)
    content["annotations"] = [one for one in content["annotations"] if one["category_id"] == 3]
    assert "annotate some" in only(inspect(folder, content), "warning").fix
    assert "AP is not measured" in only(inspect(folder, content, training=False), "note").fix


def test_names_of_classes_from_the_file(folder, content):
    inspection = inspect(folder, content, class_names=None)
    assert inspection.class_names == ["circle", "square"] and inspection.findings == []
    assert [row.objects for row in class_rows(inspection, 550)] == [12, 12]
    error = only(inspect(folder, content, class_names=None, label_map={3: 1, 7: 2}), "error")
    assert "label_map is given without dataset.class_names" in error.what


# class_names_of


def definition(folder, **more):
    values = {"class_names": None, "label_map": None, "train_info": str(folder / "info.json"),
              "valid_info": str(folder / "valid.json"), **more}
    return SimpleNamespace(**values)


def test_class_names_of_a_definition(folder, content):
    inspect(folder, content)
    assert class_names_of(definition(folder, class_names=("a", "b"), train_info="nowhere")) == ["a", "b"]
    assert class_names_of(definition(folder)) == ["circle", "square"]  # by id
    content["categories"].reverse()
    content["categories"][0]["name"] = "zircle"
    (folder / "valid.json").write_text(json.dumps(content))
    assert class_names_of(definition(folder)) == ["circle", "square"]
    assert class_names_of(definition(folder, train_info="nowhere")) == ["zircle", "square"]  # by id
    with pytest.raises(DatasetError, match="nowhere: .* cannot be read .* correct dataset.train_info"):
        class_names_of(definition(folder, train_info="nowhere", valid_info="nowhere"))


@pytest.mark.parametrize("change, words", [
    (lambda content: content.pop("categories"), "there are no 'categories'.*give dataset.class_names"),
    (lambda content: content["categories"][0].pop("name"), r"have no name \(id 7\); write one"),
    (lambda content: content["categories"][0].update(name=" "), "have no name"),
    (lambda content: content["categories"][0].update(name="circle"), r"category names stand more than once \(circle\)"),
    (lambda content: content["categories"][0].update(id=3), r"category ids stand more than once \(3\)"),
])
def test_categories_that_cannot_name_classes(folder, content, change, words):
    change(content)
    inspection = inspect(folder, content, class_names=None)
    with pytest.raises(DatasetError, match=words) as error:
        class_names_of(definition(folder))
    assert "\n" not in str(error.value)
    assert str(error.value) in [f"{folder / 'info.json'}: {line}" for line in lines(inspection, "error")]
    with pytest.raises(DatasetError, match="dataset.label_map is given without dataset.class_names"):
        class_names_of(definition(folder, label_map={3: 1}))


# Annotations


@pytest.mark.parametrize("change, words", [
    ({"image_id": 99}, "an image_id that is not among the images"),
    ({"bbox": [5, 8, 0, 40]}, "an empty bbox"),
    ({"bbox": None}, "no usable bbox"),
    ({"bbox": [500, 8, 12, 40]}, "a bbox outside the image"),
    ({"segmentation": []}, "degenerate segmentation"),
    ({"segmentation": [[5, 8, 17, 8, "17", 48]]}, "degenerate segmentation"),
    ({"segmentation": [[5, 8, 17, 8, float("nan"), 48]]}, "degenerate segmentation"),
    ({"segmentation": {"size": [9, 9], "counts": [81]}}, "degenerate segmentation"),
    ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": [-5, 5, HEIGHT * WIDTH]}}, "degenerate segmentation"),
    ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": ["a"]}}, "degenerate segmentation"),
    ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": 7}}, "degenerate segmentation"),
    ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": "06"}}, "damaged"),
    ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}}, "no pixel"),
    ({"segmentation": [[5, 8, 10, 13, 17, 20]]}, "no pixel"),
    ({"segmentation": [[500, 8, 512, 8, 512, 48]]}, "no pixel"),
    ({"segmentation": [[-40, 8, -20, 8, -20, 48]]}, "no pixel"),
    ({"segmentation": [[5, 8, 1e9, 8, 1e9, 48, 5, 48]]}, "further than"),
])
def test_what_is_left_out_is_what_data_sets_leave_out(folder, content, change, words, caplog):
    content["annotations"][5].update(change)
    finding = only(inspect(folder, content), "warning")
    assert words in finding.what and finding.examples == ("id 6",)
    assert finding.what.startswith("1 of 24 annotations are left out")
    dataset = COCODetection(str(folder / "images"), str(folder / "info.json"), BaseTransform(32, RESNET, MEANS, STD),
                            NAMES)
    labels = [dataset.sample(index).labels.tolist() for index in range(6)]
    assert list(map(len, labels)) == [4, 3, 4, 4, 4, 4]
    assert "left out" in caplog.text


def test_nothing_to_train_on(folder, content):
    for annotation in content["annotations"]:
        annotation["bbox"] = [0, 0, 0, 0]
    assert "no picture with usable annotations" in lines(inspect(folder, content), "error")[0]
    assert "nothing can be measured" in " ".join(lines(inspect(folder, content, training=False), "warning"))
    del content["annotations"]
    assert "no picture with usable annotations" in only(inspect(folder, content), "error").what
    assert inspect(folder, content, training=False).findings == []


def test_no_picture_with_objects_is_there(folder, content):
    content["annotations"] = content["annotations"][:4]
    (folder / "images" / "10.png").unlink()
    assert "no picture with usable annotations" in lines(inspect(folder, content), "error")[0]


def test_without_ground_truth_annotations_are_not_looked_at(folder, content):
    content["annotations"] = [{"nonsense": True}]
    assert inspect(folder, content, training=False, has_gt=False).findings == []
    assert inspect(folder, content, training=False).of_level("error")


def test_boxes_as_corners(folder, content):
    for annotation in content["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["bbox"] = [x, y, x + w, y + h]
    assert only(inspect(folder, content), "warning").line() == (
        "24 of 24 boxes fit their masks if they are read as x1, y1, x2, y2 (id 1, id 2, id 3, id 4, id 5, ...); "
        "write x, y, width, height")


def test_boxes_beyond_the_border(folder, content):
    content["annotations"][3]["bbox"] = [59, 8, 22.5, 40]
    content["annotations"][7]["bbox"] = [59, 8, 22, 40]  # by one pixel
    for number in (3, 7):
        content["annotations"][number]["segmentation"] = [[59, 8, 80, 8, 80, 48, 59, 48]]
    assert only(inspect(folder, content), "warning").examples == ("id 4",)


@pytest.mark.parametrize("grown, is_told", [(1.9, False), (2.1, True)])
def test_boxes_that_are_not_those_of_their_masks(folder, content, grown, is_told):
    content["annotations"][0]["bbox"][2] += grown
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[8:48, 23:35] = 1
    content["annotations"][1].update(segmentation=rle_of(mask))
    content["annotations"][1]["bbox"][0] -= grown
    content["annotations"][1]["bbox"][2] += grown
    inspection = inspect(folder, content)
    assert [finding.examples for finding in inspection.of_level("warning")] == ([("id 1", "id 2")] if is_told else [])


def test_a_twentieth_of_a_large_box_is_tolerated(folder, content):
    content["annotations"][0]["bbox"][3] += 0.05 * 40 + 0.5
    assert "boxes are not those of their masks" in only(inspect(folder, content), "warning").what
    content["annotations"] = [box_annotation(1, 10, 3, 0, 0, 80, 60), box_annotation(2, 11, 7, 0, 0, 80, 60)]
    content["annotations"][0]["bbox"] = [3.9, 0, 76.1, 60]
    assert inspect(folder, content).of_level("warning") == []


def test_areas(folder, content):
    content["annotations"][0]["area"] = 0
    del content["annotations"][1]["area"]
    content["annotations"][2]["area"] = 12 * 40 * 2.1
    content["annotations"][3]["area"] = 12 * 40 * 1.9
    notes = inspect(folder, content).findings
    assert [(note.level, note.examples) for note in notes] == [("note", ("id 1", "id 2")), ("note", ("id 3",))]


def test_crowds_are_counted_but_are_no_objects(folder, content):
    content["annotations"][0]["iscrowd"] = 1
    inspection = inspect(folder, content)
    assert only(inspection, "note").examples == ("id 1",) and inspection.table.label[0] == -1
    assert "23 objects" in inspection.headline()


def test_small_objects(folder, content):
    content["annotations"] += [box_annotation(101, 10, 3, 5, 8, 0.5, 40), box_annotation(102, 10, 3, 5, 8, 3.5, 40)]
    content["annotations"][-2]["segmentation"] = [[5, 8, 6, 8, 6, 48, 5, 48]]  # half a pixel has no mask
    inspection = inspect(folder, content, max_size=80)
    assert [(one.level, one.count, one.examples) for one in inspection.findings] == [
        ("warning", 1, ("id 101",)), ("note", 1, ("id 102",))]
    assert "at most 1 wide or 1 high" in inspection.findings[0].what
    assert inspect(folder, content, max_size=80, training=False).of_level("warning") == []
    assert inspect(folder, content, max_size=800).findings == []
    assert inspect(folder, content, max_size=80, smallest_box=(3.5, 1.0)).findings[0].count == 2
    many = inspect(folder, content, max_size=20, training=False)
    assert many.findings[0].level == "warning" and many.findings[0].count == 26


def test_the_smallest_box_is_that_of_the_augmentation():
    assert SSDAugmentation(32, RESNET, MEANS, STD).smallest_box == (SMALLEST_SIDE, SMALLEST_SIDE)
    assert inspect_dataset.__defaults__[-1] == (SMALLEST_SIDE, SMALLEST_SIDE)


# Columns


def test_extents_and_areas_of_polygons_equal_those_of_pycocotools():
    rng = np.random.RandomState(0)
    outlines, expected = [], []
    for _ in range(60):
        outline = []
        for _ in range(rng.randint(1, 4)):
            angles = np.sort(rng.rand(rng.randint(3, 30))) * 2 * np.pi
            circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
            points = rng.uniform(300, 600, 2) + rng.uniform(80, 200) * circle
            outline.append(points.ravel().tolist())
        outlines.append(outline + [[1, 1, 2, 2]])
        points = np.concatenate(outline).reshape(-1, 2)
        rles = [mask_utils.frPyObjects([polygon], 900, 900)[0] for polygon in outline]
        expected.append((*points.min(axis=0), *points.max(axis=0), sum(map(mask_utils.area, rles))))
    extents, areas = polygon_extents(outlines)
    np.testing.assert_array_equal(extents, np.array(expected)[:, :4])
    np.testing.assert_allclose(areas, np.array(expected)[:, 4], rtol=0.02, atol=100)


def test_sides_in_the_networks_input(content):
    content["annotations"][3]["bbox"] = [59, 8, 100, 40]
    table = object_table(content["annotations"], content["images"], {7: 2, 3: 1})
    assert table.label.tolist() == [1, 0] * 12 and table.image.tolist() == np.repeat(np.arange(6), 4).tolist()
    np.testing.assert_allclose(table.input_sides(160)[[0, 3]], [[24, 40 * 160 / 60], [42, 40 * 160 / 60]])
    scale = 160 / np.sqrt(WIDTH * HEIGHT)
    np.testing.assert_allclose(table.input_sides(160, True)[0], [12 * scale, 40 * scale])


# Both sets, and train.py


def splits(folder, content, valid=None, **more):
    for part, values in (("train", content), ("valid", content if valid is None else valid)):
        (folder / f"{part}.json").write_text(json.dumps(values))
    return dataset_base.copy({"train_images": str(folder / "images"), "valid_images": str(folder / "images"),
                              "train_info": str(folder / "train.json"), "valid_info": str(folder / "valid.json"),
                              "class_names": NAMES, **more})


def half(content, chosen):
    images = content["images"][chosen]
    ids = {image["id"] for image in images}
    return {**content, "images": images,
            "annotations": [one for one in content["annotations"] if one["image_id"] in ids]}


def test_pictures_in_both_sets(folder, content):
    train, valid = half(content, slice(3)), half(content, slice(3, 6))
    dataset = splits(folder, train, valid)
    assert [inspection.findings for inspection in inspect_training_data(dataset, 550, True)] == [[], []]
    dataset = splits(folder, train, half(content, slice(1, 6)))
    assert only(inspect_training_data(dataset, 550, True)[1], "warning").examples == ("11.png", "12.png")
    assert len(inspect_training_data(dataset, 550, False)) == 1
    renumbered = copy.deepcopy(half(content, slice(2, 6)))
    for entry, key in [(one, "id") for one in renumbered["images"]] + [
            (one, "image_id") for one in renumbered["annotations"]]:
        entry[key] += 100
    by_file = inspect_training_data(splits(folder, train, renumbered), 550, True)[1]
    assert only(by_file, "warning").examples == ("12.png",)
    (folder / "images").rename(folder / "train_images")
    (folder / "images").symlink_to(folder / "train_images")
    linked = splits(folder, train, renumbered, train_images=str(folder / "train_images"))
    assert only(inspect_training_data(linked, 550, True)[1], "warning").examples == ("12.png",)


def test_copies_of_pictures_are_known_by_id_and_name(folder, content):
    shutil.copytree(folder / "images", folder / "copies")
    dataset = splits(folder, half(content, slice(3)), half(content, slice(2, 6)),
                     valid_images=str(folder / "copies"))
    assert only(inspect_training_data(dataset, 550, True)[1], "warning").examples == ("12.png",)


def test_errors_of_both_sets_are_told_at_once(folder, content):
    broken = copy.deepcopy(content)
    broken["images"][0].pop("id")
    dataset = splits(folder, broken, half(content, slice(3, 6)), valid_images=str(folder / "nowhere"),
                     class_names=["circle", "triangle"])
    with pytest.raises(DatasetError) as error:
        inspect_training_data(dataset, 550, True)
    heading, *told = str(error.value).split("\n  ")
    assert heading == "the data set has 4 mistakes:" and [line.split(": ")[0] for line in told] == (
        [str(folder / "train.json")] * 2 + [str(folder / "valid.json")] * 2)
    assert "have no 'id' (entry 0); add it" in told[0] and "nowhere does not exist" in told[2] + told[3]
    with pytest.raises(DatasetError) as error:
        inspect_training_data(dataset, 550, False)
    assert len(str(error.value).split("\n  ")) == 3


def test_names_of_the_training_file_count_for_both(folder, content):
    valid = half(copy.deepcopy(content), slice(3, 6))
    valid["categories"] = [{"id": 1, "name": "square"}, {"id": 2, "name": "circle"}]
    for annotation in valid["annotations"]:
        annotation["category_id"] = {7: 1, 3: 2}[annotation["category_id"]]
    dataset = splits(folder, half(content, slice(3)), valid, class_names=None)
    inspections = inspect_training_data(dataset, 550, True)
    assert [inspection.class_names for inspection in inspections] == [["circle", "square"]] * 2
    assert inspections[1].table.label.tolist() == [1, 0] * 6


def test_data_sets_take_what_has_been_read_and_told(folder, content, caplog):
    content["annotations"][0]["bbox"] = [0, 0, 0, 0]
    (folder / "images" / "11.png").unlink()
    inspection = inspect(folder, content)
    arguments = (str(folder / "images"), str(folder / "info.json"), BaseTransform(32, RESNET, MEANS, STD), NAMES)
    COCODetection(*arguments)
    assert "annotations are left out" in caplog.text and "are not in" in caplog.text
    caplog.clear()
    (folder / "info.json").unlink()
    before = copy.deepcopy(inspection.content)
    dataset = COCODetection(*arguments, content=inspection.content)
    assert len(dataset.sample(0).labels) == 3 and caplog.text == "" and inspection.content == before
    without = COCODetection(*arguments, has_gt=False, content=inspection.content)
    assert not without.has_gt and inspection.content == before
    content["images"][0].pop("id")
    with pytest.raises(DatasetError, match="have no 'id'"):
        COCODetection(*arguments, content=content)


# Odd files that users have


def test_objects_without_a_class_are_no_crowds(folder, content):
    content["annotations"][0]["category_id"] = 99
    content["annotations"][1]["iscrowd"] = 1
    inspection = inspect(folder, content)
    assert "23 objects" in inspection.headline() and inspection.table.label[:2].tolist() == [-2, -1]


def test_sizes_that_are_no_whole_numbers(folder, content):
    content["images"][0]["width"] = 40.5
    content["images"][1]["width"] = float(WIDTH)
    assert only(inspect(folder, content), "error").examples == ("image 10",)


def test_a_validation_file_without_annotations(folder, content):
    later = half(content, slice(3, 6))
    del later["annotations"]
    dataset = splits(folder, half(content, slice(3)), later)
    training, validation = inspect_splits(dataset, 550)
    assert not training.findings
    assert only(validation, "error").line() == ("there are no annotations to validate on; correct dataset.valid_info, "
                                                "or train with --validation_epoch=-1")
    assert not inspect_splits(dataset.copy({"has_gt": False}), 550)[1].findings


def test_a_validation_file_of_crowds_alone(folder, content):
    for annotation in content["annotations"]:
        annotation["iscrowd"] = 1
    assert "there is no usable annotation but of crowds, so nothing can be measured" in lines(
        inspect(folder, content, training=False), "warning")[0]


def test_a_folder_that_cannot_be_read(folder, content, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", path)
    monkeypatch.setattr(os, "listdir", refuse)
    found = lines(inspect(folder, content), "error")
    assert len(found) == 1
    assert "cannot be read (Permission denied); correct its permissions, or dataset.train_images" in found[0]


def test_corners_beyond_all_numbers_are_left_out_in_silence(folder, content):
    content["annotations"][0]["segmentation"] = [[1e308, 1, -1e308, 5, 3, 3]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "a polygon reaches further than 10" in lines(inspect(folder, content), "warning")[0]
