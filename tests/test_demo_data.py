"""The demo data set: repeatable, fair (only shape tells the class), hard cases in it, valid COCO."""
import contextlib
import io
import json
import os

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tools import demo_shapes, make_demo_data
from tools.demo_shapes import draw_scene


@pytest.fixture(scope="module")
def scenes():
    return [draw_scene(3, "train", index) for index in range(600)]


@pytest.fixture(scope="module")
def demo_folder(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("demo") / "data" / "demo")
    make_demo_data.make_demo_data(folder, train=30, val=60)
    return folder


def read_json(folder, split):
    with open(os.path.join(folder, "annotations", f"instances_{split}.json"), encoding="utf-8") as file:
        return json.load(file)


def objects_of(scene):
    return [instance for instance in scene.instances if not instance.is_crowd]


def load_coco(folder, split):
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(os.path.join(folder, "annotations", f"instances_{split}.json"))


def test_a_picture_depends_on_its_arguments_alone():
    first = draw_scene(5, "train", 11)
    np.random.seed(99)
    draw_scene(5, "train", 10)
    again = draw_scene(5, "train", 11)
    assert np.array_equal(first.image, again.image)
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(first.instances, again.instances))
    for other in (draw_scene(6, "train", 11), draw_scene(5, "val", 11), draw_scene(5, "train", 12)):
        assert not np.array_equal(first.image, other.image)


@pytest.mark.parametrize("size", [32, 96, 200])
def test_every_size_draws_the_same_scene(size):
    for index in range(20):
        scene, usual = draw_scene(0, "train", index, size), draw_scene(0, "train", index)
        assert scene.image.shape == (size, size, 3) and scene.image.dtype == np.uint8
        assert all(instance.mask.shape == (size, size) for instance in scene.instances)
        assert abs(len(scene.instances) - len(usual.instances)) <= 1  # one may just pass the visibility limit


def test_a_larger_set_begins_with_the_smaller_one(demo_folder, tmp_path):
    small = str(tmp_path / "small")
    make_demo_data.make_demo_data(small, train=12, val=5)
    for split in ("train", "val"):
        few, many = read_json(small, split), read_json(demo_folder, split)
        assert few["annotations"] and few["categories"] == many["categories"]
        for key in ("images", "annotations"):
            assert few[key] == many[key][:len(few[key])]
        for image in few["images"]:
            contents = []
            for folder in (small, demo_folder):
                with open(os.path.join(folder, split, image["file_name"]), "rb") as file:
                    contents.append(file.read())
            assert contents[0] == contents[1]


def test_splits_share_neither_ids_nor_pictures(demo_folder):
    train, val = read_json(demo_folder, "train"), read_json(demo_folder, "val")
    assert not {i["id"] for i in train["images"]} & {i["id"] for i in val["images"]}
    hashes = []
    for split, content in (("train", train), ("val", val)):
        for image in content["images"]:
            hashes.append(cv2.imread(os.path.join(demo_folder, split, image["file_name"])).tobytes())
    assert len(set(hashes)) == len(hashes) == 90


def test_masks_are_visible_parts(scenes):
    """No pixel belongs to two instances, and what is annotated differs in colour from what surrounds it."""
    for scene in scenes:
        if scene.instances:
            assert np.sum([instance.mask for instance in scene.instances], axis=0).max() == 1
        for instance in scene.instances:
            assert instance.mask.sum() >= 40


def test_mask_follows_the_painted_edge(monkeypatch):
    """With flat colours each object's mask is where its colour is, up to the smoothed edge and the rim."""
    palette = iter(np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 2]] * 255)
    monkeypatch.setattr(demo_shapes, "_random_colour", lambda rng, taken: next(palette))
    monkeypatch.setattr(demo_shapes, "_pattern", lambda rng, shape, size: np.full(shape, 0.5, np.float32))
    shapes = [demo_shapes.Shape(0, 0.4, 0.5, 0.5, 0.0), demo_shapes.Shape(1, 0.65, 0.5, 0.45, 0.3)]
    monkeypatch.setattr(demo_shapes, "_place_shapes", lambda rng, most: shapes)
    monkeypatch.setattr(demo_shapes, "EMPTY_SHARE", 0.0)
    monkeypatch.setattr(demo_shapes, "CROWD_SHARE", 0.0)
    scene = draw_scene(0, "train", 0)
    painted = scene.image.argmax(axis=2)
    assert [instance.label for instance in scene.instances] == [0, 1]
    for channel, instance in enumerate(scene.instances, start=1):
        own = painted == channel
        iou = (own & instance.mask).sum() / (own | instance.mask).sum()
        assert iou > 0.97
    hidden = np.pi * (0.25 * 96) ** 2 - scene.instances[0].mask.sum()
    assert hidden > 200  # the square lies over the circle and takes that part of its mask


def test_a_hidden_object_is_left_out():
    shapes = [demo_shapes.Shape(0, 0.5, 0.5, 0.2, 0), demo_shapes.Shape(1, 0.5, 0.5, 0.55, 0)]
    kept, masks, occupied = demo_shapes._keep_visible(shapes, [demo_shapes._cover(s, 96) for s in shapes], 96)
    assert kept == [1] and np.array_equal(masks[0], occupied)
    shapes.reverse()
    kept, masks, _ = demo_shapes._keep_visible(shapes, [demo_shapes._cover(s, 96) for s in shapes], 96)
    assert kept == [0, 1] and not (masks[0] & masks[1]).any()


def test_classes_are_balanced_and_of_like_size(scenes):
    areas = [[o.mask.sum() for s in scenes for o in objects_of(s) if o.label == label] for label in range(3)]
    counts = np.array([len(a) for a in areas])
    assert counts.sum() > 1000 and counts.min() > 0.28 * counts.sum()
    means = [np.mean(a) for a in areas]
    assert max(means) < 1.3 * min(means)


def classify(features, labels):
    """Share of the second half that a quadratic least-squares fit to the first half names rightly."""
    features = (features - features.mean(0)) / features.std(0)
    columns = [np.ones(len(features)), *features.T]
    columns += [a * b for k, a in enumerate(features.T) for b in features.T[k:]]
    design, half = np.stack(columns, axis=1), len(labels) // 2
    weights = np.linalg.lstsq(design[:half], np.eye(3)[labels[:half]], rcond=None)[0]
    return np.mean((design[half:] @ weights).argmax(1) == labels[half:])


def test_colour_and_texture_do_not_give_the_class_away(scenes):
    appearance, outline, labels = [], [], []
    for scene in scenes:
        for instance in objects_of(scene):
            padded = np.pad(instance.mask.astype(np.uint8), 1)
            inner = cv2.erode(padded, np.ones((7, 7)), borderValue=0)[1:-1, 1:-1].astype(bool)
            if inner.sum() < 20:
                continue
            pixels = scene.image[inner].astype(np.float64)
            appearance.append([*pixels.mean(0), *pixels.std(0)])
            box = cv2.minAreaRect(np.argwhere(instance.mask).astype(np.float32))[1]
            outline.append([instance.mask.sum() / max(box[0] * box[1], 1)])
            labels.append(instance.label)
    labels = np.array(labels)
    assert len(labels) > 900
    assert classify(np.array(appearance), labels) < 0.42  # chance is 0.33 to 0.36
    assert classify(np.array(outline), labels) > 0.5  # the same classifier does see the outline


def test_touching_objects_of_one_class_are_common(scenes):
    kernel, touching, overlapping = np.ones((3, 3), np.uint8), 0, 0
    for scene in scenes:
        objects = objects_of(scene)
        grown = [cv2.dilate(o.mask.astype(np.uint8), kernel).astype(bool) for o in objects]
        pairs = [(a, b) for a in range(len(objects)) for b in range(a)
                 if (grown[a] & grown[b]).any()]
        overlapping += bool(pairs)
        touching += any(objects[a].label == objects[b].label for a, b in pairs)
    assert touching > 0.2 * len(scenes)
    assert overlapping > 0.35 * len(scenes)


def test_shares_of_crowds_empty_images_and_sizes(scenes):
    empty = np.mean([not scene.instances for scene in scenes])
    crowds = np.mean([any(i.is_crowd for i in scene.instances) for scene in scenes])
    assert 0.02 < empty < 0.07 and 0.03 < crowds < 0.09
    counts = [len(objects_of(scene)) for scene in scenes]
    assert max(counts) == 5 and np.mean([count >= 2 for count in counts]) > 0.5
    areas = np.array([o.mask.sum() for scene in scenes for o in objects_of(scene)])
    assert 0.35 < np.mean(areas < 32 ** 2) < 0.7
    assert areas.min() < 0.02 * 96 ** 2 and areas.max() > 0.25 * 96 ** 2


def test_crowds_come_last_and_only_beside_objects(scenes):
    for scene in scenes:
        flags = [instance.is_crowd for instance in scene.instances]
        assert flags == sorted(flags) and sum(flags) <= 1
        assert not flags or not all(flags)


def test_annotations_agree_with_their_masks(demo_folder):
    coco = load_coco(demo_folder, "val")
    assert len(coco.getImgIds()) == 60
    assert [coco.cats[k]["name"] for k in (1, 2, 3)] == list(demo_shapes.CLASS_NAMES)
    assert {ann["iscrowd"] for ann in coco.anns.values()} == {0, 1}
    for ann in coco.anns.values():
        mask = coco.annToMask(ann)
        rows, columns = np.nonzero(mask)
        x, y, width, height = ann["bbox"]
        assert ann["area"] == mask.sum()
        assert (x, y, x + width, y + height) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_ground_truth_as_predictions_scores_one(demo_folder, iou_type):
    coco = load_coco(demo_folder, "val")
    key = {"bbox": "bbox", "segm": "segmentation"}[iou_type]
    results = [{"image_id": ann["image_id"], "category_id": ann["category_id"], "score": 1.0, key: ann[key]}
               for ann in coco.anns.values() if not ann["iscrowd"]]
    with contextlib.redirect_stdout(io.StringIO()):
        scorer = COCOeval(coco, coco.loadRes(results), iou_type)
        scorer.evaluate()
        scorer.accumulate()
        scorer.summarize()
    assert scorer.stats[:3] == pytest.approx([1, 1, 1])
    assert scorer.stats[8] == pytest.approx(1)


def test_class_names_are_those_of_the_config():
    config = pytest.importorskip("data.config")
    assert list(config.DEMO_CLASSES) == list(demo_shapes.CLASS_NAMES)


def test_command_line_writes_replaces_and_tells(tmp_path, capsys):
    out = tmp_path / "set"
    arguments = ["--out", str(out), "--train", "8", "--val", "3", "--size", "64"]
    assert make_demo_data.main(arguments) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[1].split()[:2] == ["train", "8"] and table[2].split()[:2] == ["val", "3"]
    assert cv2.imread(str(out / "preview.png")).shape[1] == 6 * (2 * 64 + 6)
    assert make_demo_data.main([*arguments[:3], "4", *arguments[4:]]) == 0
    assert len(os.listdir(out / "train")) == 4
    assert os.listdir(tmp_path) == ["set"]


@pytest.mark.parametrize("entry", ["notes.txt", "demo_data.json/../thesis.doc"])
def test_a_folder_of_others_is_not_touched(tmp_path, capsys, entry):
    out = tmp_path / "set"
    out.mkdir()
    (out / os.path.basename(entry)).write_text("mine")
    if "demo_data" in entry:  # even if an earlier demo set lies beside it
        (out / "demo_data.json").write_text("{}")
    before = sorted(os.listdir(out))
    assert make_demo_data.main(["--out", str(out), "--train", "2", "--val", "1"]) == 1
    assert "did not make" in capsys.readouterr().err
    assert sorted(os.listdir(out)) == before and os.listdir(tmp_path) == ["set"]


@pytest.mark.parametrize("existing", [False, True])
def test_a_failure_leaves_everything_as_it_was(tmp_path, monkeypatch, existing):
    out = tmp_path / "set"
    if existing:
        make_demo_data.make_demo_data(str(out), train=3, val=1)
    write, calls = cv2.imwrite, []

    def full_disk(path, *rest):
        calls.append(path)
        return write(path, *rest) if len(calls) < 3 else False

    monkeypatch.setattr(cv2, "imwrite", full_disk)
    with pytest.raises(OSError, match="disk full"):
        make_demo_data.make_demo_data(str(out), train=6, val=1)
    assert os.listdir(tmp_path) == (["set"] if existing else [])
    assert not existing or len(os.listdir(out / "train")) == 3


@pytest.mark.parametrize("option", [["--size", "8"], ["--seed", "-1"], ["--train", "0", "--val", "0"]])
def test_impossible_options_are_refused(tmp_path, capsys, option):
    with pytest.raises(SystemExit):
        make_demo_data.main(["--out", str(tmp_path / "set"), *option])
    assert "use" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []
