"""Pictures that keep their aspect ratio: sizes, augmentation, batches, and a training with them."""

import json

import cv2
import numpy as np
import pytest
from cli_runs import copy_data, edit_info, places, quietly, records, stem_of, train_arguments
from pycocotools import mask as rle

from data.coco import Sample, collate, fitted
from data.config import MEANS, STD, get_config
from utils.augmentations import SSDAugmentation, base_transform, input_size

TRANSFORM = get_config("yolact_demo").backbone.transform


@pytest.mark.parametrize("height, width", [(40, 60), (60, 40), (50, 50), (13, 97), (480, 640)])
def test_the_size_keeps_aspect_ratio_and_area(height, width):
    size = input_size(height, width, 96, True)
    assert size == (int(96 * np.sqrt(height / width)), int(96 * np.sqrt(width / height)))
    assert input_size(height, width, 96, False) == (96, 96)
    picture = np.random.RandomState(0).randint(0, 256, [height, width, 3]).astype("uint8")
    image = base_transform(picture, 96, TRANSFORM, MEANS, STD, True)
    assert image.shape == (3, *size)
    rgb = cv2.resize(picture[..., ::-1].astype("float32"), size[::-1])
    np.testing.assert_allclose(image.transpose(1, 2, 0), (rgb - MEANS[::-1]) / STD[::-1], rtol=0, atol=1e-4)


def picture_with_rectangles(height, width):
    """(picture, masks, boxes in pixels, labels) of two rectangles, each bright in its own colour."""
    boxes = np.array([[width // 8, height // 4, width // 2, height // 2],
                      [width // 2, height // 3, width - width // 8, height - 1]], "float64")
    picture, masks = np.zeros([height, width, 3], "uint8"), []
    for i, (x1, y1, x2, y2) in enumerate(boxes.astype(int)):
        masks.append(np.zeros([height, width], "uint8"))
        masks[-1][y1:y2, x1:x2] = 1
        picture[y1:y2, x1:x2, i] = 255
    return picture, masks, boxes, np.array([0, 2])


def assert_masks_fill_their_boxes(masks, boxes):
    """Extents of the masks equal the relative boxes, within a pixel on each side."""
    height, width = masks.shape[1:]
    for mask, box in zip(masks, boxes):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        extent = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        assert np.abs(extent - box * ([width, height] * 2)).max() <= 1 + 1e-4


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("height, width", [(60, 90), (120, 50)])
def test_augmented_pictures_keep_their_aspect_ratio(height, width, seed):
    """The canvas's own, which expanding keeps and turns may swap; boxes and masks stay with the picture."""
    expands, turns = seed % 2 == 1, seed >= 3
    augment = SSDAugmentation(72, TRANSFORM, MEANS, STD, photometric_distort=False, expand=expands, random_flip=True,
                              random_sample_crop=False, random_rot90=turns, preserve_aspect_ratio=True)
    image, masks, boxes, labels = augment(np.random.RandomState(seed), *picture_with_rectangles(height, width))
    expected = int(72 * np.sqrt(height / width)), int(72 * np.sqrt(width / height))
    sizes = [expected, expected[::-1]] if turns else [expected]
    # The sides of an expanded canvas are whole pixels, and so are those of the result.
    assert any(np.abs(np.subtract(image.shape[1:], size)).max() <= (1 if expands else 0) for size in sizes)
    assert masks.shape == (2, *image.shape[1:]) and labels.tolist() == [0, 2]
    assert_masks_fill_their_boxes(masks, boxes)


def made_sample(height, width):
    picture, masks, boxes, labels = picture_with_rectangles(height, width)
    image = base_transform(picture, height, {**TRANSFORM, "normalize": False, "to_float": True}, MEANS, STD)
    image = np.stack([cv2.resize(plane, (width, height)) for plane in image]) + 0.5  # nowhere 0
    return Sample(image, (boxes / [width, height, width, height]).astype("float32"), labels, np.stack(masks), 0, 7,
                  height, width, "x.jpg")


@pytest.mark.parametrize("height, width, inside", [(48, 48, (24, 48)), (60, 48, (24, 48)), (20, 60, (20, 40)),
                                                   (90, 180, (90, 180)), (33, 47, (24, 47))])
def test_a_sample_fits_another_size_with_zeros_to_the_right_or_below(height, width, inside):
    sample = made_sample(30, 60)
    found = fitted(sample, height, width)
    assert found.image.shape == (3, height, width) and found.masks.shape == (2, height, width)
    assert found.image.dtype == "float32" and found.masks.dtype == "uint8" and found.boxes.dtype == "float32"
    assert (found.image[:, :inside[0], :inside[1]] > 0.4).all()
    assert not found.image[:, inside[0]:].any() and not found.image[:, :, inside[1]:].any()
    assert (found.height, found.width, found.labels.tolist()) == (30, 60, [0, 2])
    assert_masks_fill_their_boxes(found.masks, found.boxes)
    assert set(np.unique(found.masks)) == {0, 1} and sample.image.shape == (3, 30, 60)


def test_the_first_picture_sets_the_size_of_a_batch():
    samples = [made_sample(30, 60), made_sample(60, 30), made_sample(30, 60)]
    batch = collate(samples)
    assert batch.images.shape == (3, 3, 30, 60) and [len(sample.boxes) for sample in batch.samples] == [2, 2, 2]
    np.testing.assert_array_equal(batch.images[[0, 2]], [samples[0].image, samples[2].image])
    assert not batch.images[1, :, :, 15:].any() and batch.images[1, :, :, :15].all()
    np.testing.assert_array_equal(batch.samples[1].masks, fitted(samples[1], 30, 60).masks)
    assert samples[1].image.shape == (3, 60, 30)


@pytest.mark.parametrize("shapes", [[(8, 1000), (1000, 8)], [(1, 3000), (50, 50)]])
def test_extreme_shapes_keep_a_pixel_at_least(shapes):
    samples = []
    for height, width in shapes:
        image = base_transform(np.zeros([height, width, 3], "uint8"), 48, TRANSFORM, MEANS, STD, True)
        masks, boxes = np.ones([1, *image.shape[1:]], "uint8"), np.array([[0, 0, 1, 1]], "float32")
        samples.append(Sample(image, boxes, np.array([0]), masks, 0, 1, height, width, "x.jpg"))
    batch = collate(samples)
    assert batch.images.shape[2:] == samples[0].image.shape[1:] and all(sample.masks.any() for sample in batch.samples)


def cut_pictures(data, split):
    """Cut the pictures of a split to a half, alternately the left and the upper one, and their objects with them."""
    def change(content):
        sizes = {}
        for number, image in enumerate(content["images"]):
            path = str(data / split / image["file_name"])
            pixels = cv2.imread(path)
            side = len(pixels)
            height, width = sizes[image["id"]] = (side, side // 2) if number % 2 else (side // 2, side)
            assert cv2.imwrite(path, pixels[:height, :width])
            image.update(height=height, width=width)
        kept = []
        for annotation in content["annotations"]:
            height, width = sizes[annotation["image_id"]]
            encoded = rle.encode(np.asfortranarray(rle.decode(annotation["segmentation"])[:height, :width]))
            if rle.area(encoded) > 0:
                annotation.update(bbox=rle.toBbox(encoded).tolist(), area=float(rle.area(encoded)),
                                  segmentation={"size": [height, width], "counts": encoded["counts"].decode()})
                kept.append(annotation)
        content["annotations"] = kept
    edit_info(data, split, change)


def test_pictures_of_several_shapes_train_and_evaluate(demo_data, tmp_path):
    data = copy_data(demo_data, tmp_path / "data")
    for split in ("train", "val"):
        cut_pictures(data, split)
    options = ["preserve_aspect_ratio=True", "augment_expand=True", "augment_random_sample_crop=True", "max_iter=4"]
    quietly("train", train_arguments(data, tmp_path, "--validation_epoch=1", "--validation_size=4", overrides=options))
    found = records(tmp_path, "train")
    assert len(found) == 4 and all(np.isfinite(list(record["data"]["loss"].values())).all() for record in found)
    assert records(tmp_path, "val")
    weights = tmp_path / "weights" / f"{stem_of(data, 4)}.pdparams"
    quietly("eval", [f"--trained_model={weights}", "--cuda=False", "--no_bar", f"--output_folder={tmp_path / 'out'}",
                     "--output_coco_json", "-o", "nms_conf_thresh=0.", *places(data)])
    content = json.loads((data / "annotations" / "instances_val.json").read_text())
    sizes = {image["id"]: [image["height"], image["width"]] for image in content["images"]}
    masks = json.loads((tmp_path / "out" / "mask_detections.json").read_text())
    assert {mask["image_id"] for mask in masks} == set(sizes) and len(set(map(tuple, sizes.values()))) == 2
    assert all(mask["segmentation"]["size"] == sizes[mask["image_id"]] for mask in masks)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert set(metrics) == {"bbox", "segm"}
