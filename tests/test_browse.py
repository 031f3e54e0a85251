"""tools/browse.py: its sheet shows the loader's samples, their true colours and the loss's matching."""
import json
import re

import cv2
import numpy as np
import paddle
import pytest
from cli_runs import TINY, places

from data.coco import collate
from data.config import COLORS, MEANS, STD, apply_overrides, cfg, get_config, set_cfg
from layers.multibox_loss import MultiBoxLoss
from tools import browse
from utils.augmentations import base_transform
from utils.loader import BatchLoader
from utils.sample_sheet import GREY, PAPER, Objects, Tile, compose, draw_sample, restore_picture
from utils.visualize import color_of
from yolact import Yolact

NO_OBJECTS = Objects(np.zeros((0, 4)), np.zeros((0, 9, 9), np.uint8), [], np.zeros(0, bool), np.zeros((0, 4)),
                     np.zeros(0, np.int64))


def prepared(demo_data, *options, overrides=()):
    """(data set, parsed options) as `run` makes them."""
    args = browse.parse_args([*options])
    set_cfg("yolact_demo")
    apply_overrides([*places(demo_data), *overrides])
    return browse.chosen_dataset(args), args


def run(demo_data, capsys, *options, overrides=()):
    browse.main(["--config=yolact_demo", *map(str, options), "-o", *places(demo_data), *overrides])
    return capsys.readouterr().out


def object_of(index, *, masks=1, crowd=False, anchors=()):
    """Objects in a row of whole-box masks, for `draw_sample`."""
    boxes = np.array([[0.1 + 0.2 * i, 0.2, 0.25 + 0.2 * i, 0.6] for i in range(masks)])
    planes = np.zeros((masks, 100, 100), np.uint8)
    for plane, box in zip(planes, (boxes * 100).round().astype(int)):
        plane[box[1]:box[3], box[0]:box[2]] = 1
    return Objects(boxes, planes, [""] * masks, np.full(masks, crowd), np.reshape(anchors, (-1, 4)),
                   np.full(len(anchors), index))


# ------------------------------------------------------------------------------------ Samples and matching

@pytest.mark.parametrize("overrides", [
    ["augment_photometric_distort=True", "augment_random_sample_crop=True"],
    ["preserve_aspect_ratio=True", "augment_expand=True", "augment_random_sample_crop=True"]])
def test_the_samples_are_those_of_the_training(overrides, demo_data):
    dataset, args = prepared(demo_data, "--count=8", "--batch_size=4", "--seed=5", overrides=overrides)
    shown = list(browse.samples_of(dataset, args))
    stream = BatchLoader(dataset, collate, 4, seed=5).stream()
    batches = [next(stream)[2] for _ in range(2)]
    images = [image for batch in batches for image in batch.images]
    trained = [sample for batch in batches for sample in batch.samples]
    assert len(shown) == len(trained) == 8
    for (_, shown_image, sample), image, expected in zip(shown, images, trained):
        assert sample.image_id == expected.image_id
        for one, other in ((shown_image, image), (sample.boxes, expected.boxes), (sample.masks, expected.masks),
                           (sample.labels, expected.labels)):
            assert np.array_equal(one, other)


def test_repetitions_are_the_epochs_of_the_training(demo_data):
    dataset, args = prepared(demo_data, "--repeat=3", "--images=2,7", "--seed=1")
    found = list(browse.samples_of(dataset, args))
    assert [(epoch, sample.image_id) for epoch, _, sample in found] == [(e, i) for i in (2, 7) for e in range(3)]
    assert not np.array_equal(found[0][1], found[1][1])
    loader = BatchLoader(dataset, collate, len(dataset), seed=1)
    for epoch, batch in ((epoch, next(loader.stream(epoch))[2]) for epoch in range(3)):
        where = [sample.image_id for sample in batch.samples].index(7)
        assert np.array_equal(found[3 + epoch][1], batch.images[where])


def test_without_augmentation_the_picture_is_only_resized(demo_data):
    dataset, args = prepared(demo_data, "--no_augmentation", "--images=3")
    [(_, image, sample)] = browse.samples_of(dataset, args)
    stored = cv2.imread(str(demo_data / "train" / sample.file_name))
    assert np.array_equal(restore_picture(image, cfg.backbone.transform, MEANS, STD), stored)


def test_pictures_that_cannot_be_read_are_left_out_of_the_validation(demo_data, monkeypatch):
    dataset, args = prepared(demo_data, "--split=valid", "--count=3")
    unreadable = browse.chosen_indices(dataset, args)[1]
    sample_of = dataset.sample
    monkeypatch.setattr(dataset, "sample", lambda index, rng: None if index == unreadable else sample_of(index, rng))
    assert len(list(browse.samples_of(dataset, args))) == 2


@pytest.mark.parametrize("overrides", [
    [], ["backbone.type=DarkNetBackbone", "backbone.args=([1, 1, 1],)", "fpn.pad=False"],
    ["backbone.type=VGGBackbone", "backbone.args=([[8], ['M', 8], ['M', 8]], [[16, 2]], [])",
     "fpn.use_conv_downsample=False"]])
def test_the_anchors_are_those_of_the_network(overrides):
    config = get_config("yolact_demo")
    config = config.copy(config.parse_overrides([*TINY, *overrides]))
    net = Yolact(config)
    net.eval()
    for height, width in ((48, 48), (61, 85)):
        expected = net(paddle.zeros([1, 3, height, width]))["priors"].numpy()
        assert np.array_equal(browse.priors_of(config, height, width).numpy(), expected)


def test_the_matching_is_that_of_the_loss(demo_data):
    dataset, args = prepared(demo_data, "--count=6", "--seed=2")
    criterion = MultiBoxLoss(cfg)
    for _, _, sample in browse.samples_of(dataset, args):
        priors = browse.priors_of(cfg, 96, 96)
        found = browse.match_sample(criterion, sample, priors)
        conf = criterion.match([sample], priors)[0].conf.numpy()
        assert len(found.anchors) == len(found.owners) == found.counts.sum() == (conf > 0).sum()
        objects = len(sample.labels) - sample.num_crowds
        assert len(found.counts) == len(found.best_iou) == objects and found.counts.min() >= 1
        assert np.array_equal(conf[conf > 0], sample.labels[found.owners] + 1)
        for anchor, owner in zip(found.anchors, found.owners):  # each overlaps its object, but for forced ones
            assert (anchor[:2] < sample.boxes[owner, 2:]).all() and (anchor[2:] > sample.boxes[owner, :2]).all()


def sample_with(demo_data, boxes, labels):
    dataset, args = prepared(demo_data, "--count=1")
    [(_, _, sample)] = browse.samples_of(dataset, args)
    sample.boxes, sample.labels = np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int64)
    sample.masks, sample.num_crowds = np.ones((len(labels), 96, 96), np.uint8), int((sample.labels < 0).sum())
    return sample


def test_a_covered_and_a_forced_object(demo_data):
    sample = sample_with(demo_data, [[0, 0, 0.02, 0.02], [0.2, 0.2, 0.52, 0.55], [0.5, 0, 1, 1]], [0, 2, -1])
    priors = browse.priors_of(cfg, 96, 96)
    found = browse.match_sample(MultiBoxLoss(cfg), sample, priors)
    assert found.counts[0] == 1 and found.best_iou[0] < 0.1
    assert found.counts[1] > 1 and found.best_iou[1] > 0.5
    assert browse.caption(sample, found, 4, 2) == [
        f"image {sample.image_id}, epoch 4: 2 objects, 1 crowd, 2 left out",
        f"positive anchors per object: 1 to {found.counts[1]}, median {np.median(found.counts):g}; 1 by force (!)"]
    text = browse.summary([found, found], crowds=2, missing=1)
    assert re.search(r"IoU > 0.5 +50.0 %", text) and re.search(r"force only \(!\) +2, 50.0 %", text)
    assert re.search(rf"least 1, median {np.median(found.counts):g}, most {found.counts[1]}", text)


@pytest.mark.parametrize("boxes, labels", [([], []), ([[0.1, 0.1, 0.6, 0.6]], [-1])])
def test_a_picture_without_objects(boxes, labels, demo_data):
    sample = sample_with(demo_data, boxes, labels)
    found = browse.match_sample(MultiBoxLoss(cfg), sample, browse.priors_of(cfg, 96, 96))
    assert len(found.counts) == len(found.anchors) == 0
    assert browse.caption(sample, found, None, 0)[1] == "no object: every anchor is background"
    assert browse.draw_tile(np.zeros((3, 96, 96), np.float32), sample, found, True).shape == (480, 480, 3)
    assert "IoU" not in browse.summary([found], len(labels), 0)


# -------------------------------------------------------------------------------------------------- Drawing

@pytest.mark.parametrize("name", ["yolact_base", "yolact_darknet53", "yolact_vgg16", "bgr"])
def test_colours_come_back(name):
    transform = get_config("yolact_base" if name == "bgr" else name).backbone.transform
    if name == "bgr":
        transform = transform.copy({"channel_order": "BGR"})
    picture = np.random.RandomState(0).randint(256, size=(40, 40, 3)).astype(np.uint8)
    normalised = base_transform(picture, 40, transform, MEANS, STD)
    assert np.array_equal(restore_picture(normalised, transform, MEANS, STD), picture)


def test_colours_out_of_range_are_clipped():
    transform = get_config("yolact_darknet53").backbone.transform
    image = np.full((3, 2, 2), [[[-0.5]], [[0.5]], [[1.5]]], np.float32)
    assert restore_picture(image, transform, MEANS, STD)[0, 0].tolist() == [255, 128, 0]


def test_small_pictures_are_enlarged_pixel_by_pixel_and_large_ones_are_not():
    picture = np.random.RandomState(0).randint(256, size=(96, 150, 3)).astype(np.uint8)
    assert np.array_equal(draw_sample(picture, NO_OBJECTS, COLORS), picture.repeat(3, axis=0).repeat(3, axis=1))
    large = np.zeros((450, 700, 3), np.uint8)
    assert np.array_equal(draw_sample(large, NO_OBJECTS, COLORS), large)


def test_anchors_are_thin_lines_in_the_colour_of_their_object():
    black = np.zeros((500, 500, 3), np.uint8)
    anchor = [[0.6, 0.7, 0.9, 0.94]]
    without, drawn = (draw_sample(black, object_of(1, masks=2, anchors=anchors), COLORS) for anchors in ([], anchor))
    changed = (without != drawn).any(axis=2)
    assert (drawn[changed] == color_of(1, COLORS)).all()
    outline = np.zeros((500, 500), np.uint8)
    cv2.rectangle(outline, (300, 350), (450, 470), 1, 1)
    assert np.array_equal(changed, outline.astype(bool))


def test_anchors_far_outside_the_picture_are_cut_off():
    anchors = [[-3, -3, 4, 0.9], [1.2, 1.2, 1.5, 1.5]]
    drawn = draw_sample(np.zeros((500, 500, 3), np.uint8), object_of(0, anchors=anchors), COLORS)
    assert (drawn[450] == color_of(0, COLORS)).all()


def test_objects_are_filled_and_crowds_are_hatched_in_grey():
    black = np.zeros((500, 500, 3), np.uint8)
    inside = np.s_[110:290, 60:115]
    filled = draw_sample(black, object_of(0), COLORS)[inside]
    assert (filled > 0).any(axis=2).all()
    hatched = draw_sample(black, object_of(0, crowd=True), COLORS)[inside]
    assert 0.3 < (hatched > 0).any(axis=2).mean() < 0.8
    assert (np.ptp(hatched, axis=2) == 0).all() and hatched.max() <= max(GREY)


def test_hundreds_of_objects_are_drawn():
    rng = np.random.RandomState(0)
    low = rng.rand(300, 2) * 0.9
    masks = np.zeros((300, 48, 48), np.uint8)
    objects = Objects(np.hstack([low, low + 0.1]), masks, ["circle 1"] * 300, np.zeros(300, bool),
                      np.hstack([low, low + 0.1]), np.arange(300))
    drawn = draw_sample(np.zeros((480, 480, 3), np.uint8), objects, COLORS)
    assert (drawn > 0).any(axis=2).mean() > 0.5


def test_tiles_stand_in_rows_below_a_legend():
    tiles = [Tile(np.full((height, 500, 3), (200, 90, number), np.uint8), ["a line", "another"])
             for number, height in enumerate((500, 300, 400))]
    sheet = compose(tiles, 2, "a title", 0.5)
    assert sheet.shape[1] == 2 * 512 + 12
    places_of = [np.argwhere((sheet == (200, 90, number)).all(axis=2)) for number in range(3)]
    corners = [place.min(axis=0) for place in places_of]
    assert corners[0][0] == corners[1][0] < corners[2][0] and corners[0][1] == corners[2][1] < corners[1][1]
    for place, tile in zip(places_of, tiles):
        assert (place.max(axis=0) - place.min(axis=0) + 1).tolist() == list(tile.image.shape[:2])
    assert (sheet[:corners[0][0]] != PAPER).any() and (sheet[corners[2][0] + 400:] != PAPER).any()
    assert (compose(tiles[:1], 4, "a title", 0.5).shape[1]) == 512 + 12


# -------------------------------------------------------------------------------------------------- Command

def test_the_command_writes_a_sheet_and_tells_the_figures(demo_data, tmp_path, capsys):
    out = tmp_path / "new" / "sheet.png"
    text = run(demo_data, capsys, f"--out={out}", "--count=4", "--columns=2")
    assert cv2.imread(str(out)).shape[1] == 2 * 492 + 12
    assert re.search(r"^pictures +4$", text, re.M) and str(out) in text
    assert sorted(path.name for path in out.parent.iterdir()) == ["sheet.png"]
    first = out.read_bytes()
    run(demo_data, capsys, f"--out={out}", "--count=4", "--columns=2")
    assert out.read_bytes() == first
    run(demo_data, capsys, f"--out={out}", "--count=4", "--columns=2", "--anchors=False")
    assert out.read_bytes() != first


def test_many_pictures_go_into_several_files(demo_data, tmp_path, capsys):
    text = run(demo_data, capsys, f"--out={tmp_path}/sheet.jpg", "--count=20", "--columns=1")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sheet.jpg", "sheet_2.jpg", "sheet_3.jpg"]
    heights = [cv2.imread(str(tmp_path / name)).shape[0] for name in ("sheet.jpg", "sheet_2.jpg", "sheet_3.jpg")]
    assert heights[0] == heights[1] > heights[2] > heights[0] * 0.4
    assert "2 further files" in text and re.search(r"^pictures +20$", text, re.M)


def test_the_validation_is_shown_as_annotated(demo_data, tmp_path, capsys):
    text = run(demo_data, capsys, f"--out={tmp_path}/sheet.png", "--split=valid", "--count=100")
    content = json.loads((demo_data / "annotations" / "instances_val.json").read_text())
    objects = sum(not annotation["iscrowd"] for annotation in content["annotations"])
    crowds = len(content["annotations"]) - objects
    assert re.search(rf"^objects +{objects}, and {crowds} crowd", text, re.M)
    assert re.search(r"^pictures +12$", text, re.M) and re.search(r"too small +0$", text, re.M)


def test_what_the_crop_takes_is_counted(demo_data, tmp_path, capsys):
    text = run(demo_data, capsys, f"--out={tmp_path}/sheet.png", "--count=24",
               overrides=["augment_random_sample_crop=True"])
    objects, missing = (int(re.search(rf"{name} +(\d+)", text).group(1)) for name in ("\nobjects", "too small"))
    content = json.loads((demo_data / "annotations" / "instances_train.json").read_text())
    assert missing > 0
    assert objects + missing == sum(not annotation["iscrowd"] for annotation in content["annotations"])


@pytest.mark.parametrize("options, message", [
    (["--images=1,nothing"], "no picture with objects of the id 'nothing'"),
    (["--config=yolact_nothing"], "did you mean"),
    (["--out=sheet.nothing"], "take .png or .jpg"),
    (["--split=valid", "-o", "dataset.has_gt=False"], "no annotations to show"),
    (["-o", "dataset.train_info=nowhere.json"], "correct dataset.train_info"),
])
def test_a_mistake_is_one_line(options, message, demo_data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        browse.main(["--config=yolact_demo", "-o", *places(demo_data.resolve()), *options])
    assert message in str(stop.value) and "\n" not in str(stop.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [["--count=0"], ["--columns=0"], ["--repeat=2", "--no_augmentation"],
                                     ["--repeat=2", "--split=valid"], ["--split=test"], ["--seed=-1"]])
def test_impossible_options_are_refused(options, capsys):
    with pytest.raises(SystemExit) as stop:
        browse.parse_args(options)
    assert stop.value.code == 2
