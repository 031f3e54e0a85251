"""COCO data sets: samples, masks, label maps, and everything that can be wrong with files a user brings."""

import copy
import io
import json
import logging
import pickle
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_utils

from data.coco import COCODetection, DatasetError, collate
from data.config import COCO_CLASSES, COCO_LABEL_MAP, MEANS, STD
from data.images import decode_rle, is_complete, read_image, to_rle
from utils.augmentations import BaseTransform, SSDAugmentation

REPO = Path(__file__).resolve().parent.parent
RESNET = {"channel_order": "RGB", "normalize": True, "subtract_means": False, "to_float": False}
# pycocotools 2.0 compiled against numpy 1 says this under numpy 2 whenever it decodes a mask.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
NAMES = ["circle", "square"]
HEIGHT, WIDTH = 60, 80


def box_annotation(number, image_id, category_id, x, y, w, h, **more):
    """An annotation whose polygon is its box."""
    polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
    return {"id": number, "image_id": image_id, "category_id": category_id, "bbox": [x, y, w, h],
            "area": w * h, "iscrowd": 0, "segmentation": [polygon], **more}


@pytest.fixture
def content():
    """Three pictures: two objects and a crowd; one object; none. Category ids are not dense."""
    crowd = np.zeros((HEIGHT, WIDTH), np.uint8)
    crowd[40:50, 10:60] = 1
    runs = [0] if crowd.T.flat[0] else []
    changes = np.flatnonzero(np.diff(crowd.T.ravel())) + 1
    runs += np.diff([0, *changes, HEIGHT * WIDTH]).tolist()
    annotations = [
        box_annotation(1, 10, 7, 10, 40, 50, 10, iscrowd=1,
                       segmentation={"counts": runs, "size": [HEIGHT, WIDTH]}),
        box_annotation(2, 10, 3, 5, 6, 20, 30),
        box_annotation(3, 10, 7, 40.5, 10, 20, 20.25),
        box_annotation(4, 11, 3, 0, 0, 80, 60),
    ]
    images = [{"id": i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT} for i in (10, 11, 12)]
    return {"images": images, "annotations": annotations,
            "categories": [{"id": 7, "name": "square"}, {"id": 3, "name": "circle"}]}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for image_id in (10, 11, 12):
        pixels = np.random.RandomState(image_id).randint(0, 256, (HEIGHT, WIDTH, 3))
        cv2.imwrite(str(tmp_path / "images" / f"{image_id}.png"), pixels.astype(np.uint8))
    return tmp_path


def make(folder, content, training=False, transform=None, text=None, **more):
    info = folder / "info.json"
    info.write_text(json.dumps(content) if text is None else text)
    default = (SSDAugmentation if training else BaseTransform)(32, RESNET, MEANS, STD)
    arguments = {"class_names": NAMES, "training": training, **more}
    return COCODetection(str(folder / "images"), str(info), transform or default, **arguments)


# Samples


def test_evaluation_sample(folder, content):
    dataset = make(folder, content)
    assert dataset.ids == [10, 11, 12] and len(dataset) == 3 and dataset.has_gt
    assert dataset.label_map == {3: 1, 7: 2}
    sample = dataset.sample(0)
    assert sample.image.shape == (3, 32, 32) and sample.image.dtype == np.float32
    assert sample.labels.tolist() == [0, 1, -1] and sample.labels.dtype == np.int64 and sample.num_crowds == 1
    expected = np.array([[5, 6, 25, 36], [40.5, 10, 60.5, 30.25], [10, 40, 60, 50]]) / [80, 60, 80, 60]
    np.testing.assert_allclose(sample.boxes, expected, rtol=1e-6)
    assert sample.boxes.dtype == np.float32
    assert sample.masks.shape == (3, HEIGHT, WIDTH) and sample.masks.dtype == np.uint8
    assert sample.masks[0].sum() == 600 and sample.masks[0, 6:36, 5:25].all()
    assert sample.masks[2].sum() == 500 and sample.masks[2, 40:50, 10:60].all()
    assert (sample.image_id, sample.height, sample.width, sample.file_name) == (10, HEIGHT, WIDTH, "10.png")
    empty = dataset.sample(2)
    assert empty.boxes.shape == (0, 4) and empty.labels.shape == (0,)
    assert empty.masks.shape == (0, HEIGHT, WIDTH)


def test_training_takes_annotated_pictures_only_and_repeats_with_the_seed(folder, content):
    dataset = make(folder, content, training=True)
    assert dataset.ids == [10, 11]
    first, again = (dataset.sample(0, np.random.RandomState(5)) for _ in range(2))
    assert np.array_equal(first.image, again.image) and np.array_equal(first.masks, again.masks)
    assert first.masks.shape[1:] == (32, 32) and first.num_crowds == int((first.labels < 0).sum())


def test_loaded_annotations_are_never_changed(folder, content):
    before = copy.deepcopy(content)
    dataset = make(folder, content, training=True)
    for seed in range(5):
        dataset.sample(seed % 2, np.random.RandomState(seed))
    assert dataset.coco.dataset == before
    assert dataset.coco.anns[1]["category_id"] == 7  # the original wrote -1 there for crowds


def test_collate_stacks_pictures_and_keeps_samples(folder, content):
    dataset = make(folder, content)
    batch = collate([dataset.sample(i) for i in range(3)])
    assert batch.images.shape == (3, 3, 32, 32) and batch.images.dtype == np.float32
    assert [len(sample.labels) for sample in batch.samples] == [3, 1, 0]
    assert all(sample.image is None for sample in batch.samples)  # else workers send every picture twice


def test_ground_truth_for_drawing(folder, content):
    dataset = make(folder, content)
    classes, masks, boxes = dataset.ground_truth(0)
    assert classes.tolist() == [0, 1, -1] and boxes[0].tolist() == [5, 6, 25, 36]
    assert masks.dtype == bool and masks.sum(axis=(1, 2)).tolist()[::2] == [600, 500]
    classes, masks, boxes = dataset.ground_truth(2)
    assert (classes.shape, masks.shape, boxes.shape) == ((0,), (0, HEIGHT, WIDTH), (0, 4))


def test_reading_is_silent_and_the_data_set_can_be_sent_to_workers(folder, content, capsys):
    dataset = pickle.loads(pickle.dumps(make(folder, content)))
    assert dataset.sample(1).labels.tolist() == [0]
    assert capsys.readouterr() == ("", "")


def test_import_needs_no_framework():
    code = "import sys, data.coco, utils.augmentations; assert not {'paddle', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=REPO, check=True)


# Masks


def test_masks_equal_pycocotools(folder, content):
    rng = np.random.RandomState(0)
    rles = []
    for _ in range(200):
        height, width = rng.randint(1, 60, 2)
        noise = (rng.rand(height, width) < rng.rand()).astype(np.uint8)
        rles.append(mask_utils.encode(np.asfortranarray(noise)))
        reach = min(70, 9 * max(height, width))  # further away to_rle refuses them
        polygon = (rng.rand(2 * rng.randint(3, 9)) * reach - 5).tolist()
        rles.append(to_rle([polygon], height, width))
    rles += [mask_utils.encode(np.full((40, 30), value, np.uint8, order="F")) for value in (0, 1)]
    for rle in rles:
        mask = decode_rle(rle)
        np.testing.assert_array_equal(mask, mask_utils.decode(rle))
        assert mask.flags.c_contiguous and mask.dtype == np.uint8
    as_text = {**rles[0], "counts": rles[0]["counts"].decode()}
    np.testing.assert_array_equal(decode_rle(as_text), decode_rle(rles[0]))


def test_masks_equal_pycocotools_on_coco(coco_tiny):
    dataset = COCODetection(str(coco_tiny / "val2017"), str(coco_tiny / "annotations/instances_val2017.json"),
                            BaseTransform(64, RESNET, MEANS, STD), COCO_CLASSES, COCO_LABEL_MAP)
    for index in range(0, len(dataset), 4):
        sample = dataset.sample(index)
        annotations = dataset.coco.loadAnns(dataset.coco.getAnnIds(sample.image_id))
        annotations.sort(key=lambda annotation: annotation["iscrowd"])
        assert len(annotations) == len(sample.masks)
        for annotation, mask in zip(annotations, sample.masks):
            np.testing.assert_array_equal(mask, dataset.coco.annToMask(annotation))


@pytest.mark.parametrize(
    "runs", [[12], [0, 12], [3, 2, 7], [0, 1, 11], [11, 1], [2, 0, 10], [4, 4, 0, 0, 4], [0, 0, 12]])
def test_run_lengths_of_every_shape_decode(runs):
    """Objects at the borders of columns and of the picture, and runs of length 0, in 4 rows and 3 columns."""
    rle = mask_utils.frPyObjects({"size": [4, 3], "counts": runs}, 4, 3)
    expected = np.repeat(np.arange(len(runs)) % 2, runs).reshape(3, 4).T
    np.testing.assert_array_equal(decode_rle(rle), expected)


def test_training_decodes_masks_of_the_objects_it_keeps_only(folder, content, monkeypatch):
    decoded = []
    monkeypatch.setattr("data.images.decode_rle", lambda rle: decoded.append(rle) or decode_rle(rle))
    dataset = make(folder, content, training=True)
    kept = []
    for seed in range(20):
        kept.append(dataset.sample(0, np.random.RandomState(seed)).labels)
    number = sum(map(len, kept))
    assert len(decoded) == number < 3 * len(kept)
    make(folder, content).sample(0)
    assert len(decoded) == number + 3


@pytest.mark.parametrize("counts", [b"", b"P", b"06", b"0"])
def test_damaged_rle_costs_its_annotation(folder, content, counts, caplog):
    with pytest.raises(ValueError):
        decode_rle({"size": [HEIGHT, WIDTH], "counts": counts})
    content["annotations"][1]["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": counts.decode()}
    assert make(folder, content).sample(0).labels.tolist() == [1, -1]
    assert "annotation" in caplog.text and "left out" in caplog.text


# Categories


def test_given_label_map_wins_and_may_have_come_through_json(folder, content):
    assert make(folder, content, label_map={"7": 1, "3": 2}).sample(0).labels.tolist() == [1, 0, -1]


def test_without_categories_ids_are_labels(folder, content):
    del content["categories"]
    for annotation in content["annotations"]:
        annotation["category_id"] = 1 if annotation["category_id"] == 3 else 2
    assert make(folder, content).label_map == {1: 1, 2: 2}


def test_category_that_no_annotation_uses_is_no_fault(folder, content):
    content["categories"].append({"id": 0, "name": "shapes"})
    assert make(folder, content).label_map == {3: 1, 7: 2}


@pytest.mark.parametrize("more, words", [
    ({"label_map": {3: 1}}, ("category_id 7", "'square'", "info.json", "dataset.label_map")),
    ({"class_names": ["circle"]}, ("category_id 7", "dataset.class_names", "circle")),
    ({"class_names": ["cat", "dog"]}, ("category_id 3", "dataset.class_names", "cat, dog")),
    ({"label_map": {3: 1, 7: 3}}, ("label 3", "1 to 2", "dataset.class_names")),
])
def test_category_errors_name_the_key(folder, content, more, words):
    with pytest.raises(DatasetError) as error:
        make(folder, content, **more)
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)


def test_category_id_that_the_file_does_not_list(folder, content):
    content["annotations"][0]["category_id"] = 91
    with pytest.raises(DatasetError, match=r"category_id 91 \(not among its categories\).*the ids 7, 3"):
        make(folder, content)


# Folder and annotation file


def test_missing_folder_and_file(folder, content):
    make(folder, content)
    arguments = (BaseTransform(32, RESNET, MEANS, STD), NAMES)
    with pytest.raises(DatasetError, match="folder .*nowhere does not exist; correct dataset.train_images"):
        COCODetection(str(folder / "nowhere"), str(folder / "info.json"), *arguments, training=True)
    with pytest.raises(DatasetError, match="nothing.json: .* cannot be read .*correct dataset.valid_info"):
        COCODetection(str(folder / "images"), str(folder / "nothing.json"), *arguments)


@pytest.mark.parametrize("text, words", [
    (None, "cut off or no JSON"),
    ("", "cut off or no JSON"),
    ("[]", "no 'images'"),
    ('{"images": []}', "no 'images'"),
    ('{"images": [{"id": 1}]}', "1 of 1 entries of 'images' have no 'file_name' .entry 0.; add it"),
    ('{"images": [1]}', "1 of 1 entries of 'images' are no objects"),
    ('{"images": [{"id": 1, "file_name": "10.png"}], "annotations": []}', "1 of 1 images have no positive whole"),
    ('{"images": [{"id": 1, "file_name": "10.png", "width": 9, "height": 9}], "annotations": [{"id": 1}]}',
     "entries of 'annotations' have no 'image_id' .entry 0."),
])
def test_damaged_annotation_file(folder, content, text, words):
    whole = json.dumps(content)
    with pytest.raises(DatasetError, match=words) as error:
        make(folder, content, text=whole[:len(whole) // 2] if text is None else text)
    assert "info.json" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("part, position, key, value, words", [
    ("images", 1, "id", "11", "1 of 3 entries of 'images' have a wrong id .entry 1: '11'.; write an integer"),
    ("images", 0, "id", [1], r"'images' have a wrong id .entry 0: \[1\].; write"),
    ("images", 2, "id", 1.5, "'images' have a wrong id .entry 2: 1.5."),
    ("images", 0, "file_name", 5, "'images' have a wrong file_name .entry 0: 5.; write the picture's name as a string"),
    ("images", 1, "file_name", ["x" * 99], "'images' have a wrong file_name .entry 1: .*x ....; write"),
    ("categories", 1, "id", {}, "'categories' have a wrong id .entry 1: {}.; write a number"),
    ("categories", 1, "id", "3", "'categories' have a wrong id .entry 1: '3'.; write a number everywhere"),
    ("annotations", 2, "id", [3], r"'annotations' have a wrong id .entry 2: \[3\].; write a number or string"),
    ("annotations", 2, "image_id", [10], r"'annotations' have a wrong image_id .entry 2: \[10\].; write the id"),
    ("annotations", 3, "category_id", [3], r"'annotations' have a wrong category_id .entry 3: \[3\].; write a number"),
    ("annotations", 3, "category_id", "3", "'annotations' have a wrong category_id .entry 3: '3'.; write a number"),
])
def test_ids_and_names_of_the_wrong_kind(folder, content, part, position, key, value, words):
    content[part][position][key] = value
    with pytest.raises(DatasetError, match=words) as error:
        make(folder, content)
    assert "info.json" in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 250


def test_ids_that_are_strings(folder, content):
    for image in content["images"]:
        image["id"] = f"picture {image['id']}"
    for annotation in content["annotations"]:
        annotation["image_id"] = f"picture {annotation['image_id']}"
    assert make(folder, content).sample(0).image_id == "picture 10"


def test_no_picture_on_disk_is_an_error_and_one_missing_a_warning(folder, content, caplog):
    (folder / "images" / "11.png").unlink()
    assert make(folder, content, training=True).ids == [10]
    assert all(words in caplog.text for words in ("1 of 3 pictures", "left out", "dataset.train_images"))
    caplog.clear()
    dataset = make(folder, content)
    assert dataset.ids == [10, 11, 12]  # its objects count as missed
    assert all(words in caplog.text for words in ("1 of 3 pictures", "11.png", "dataset.valid_images"))
    with pytest.raises(DatasetError, match="11.png cannot be read"):
        dataset.load_image(1)
    assert dataset.sample(1) is None
    for name in ("10.png", "12.png"):
        (folder / "images" / name).unlink()
    with pytest.raises(DatasetError, match="none of the 3 pictures .*10.png.*dataset.valid_images"):
        make(folder, content)


def test_coco_2014_prefix_is_dropped_only_if_needed(folder, content):
    (folder / "images" / "COCO_val2014_10.png").write_bytes((folder / "images" / "11.png").read_bytes())
    content["images"][0]["file_name"] = "COCO_val2014_10.png"
    content["images"][2]["file_name"] = "COCO_val2014_12.png"
    dataset = make(folder, content)
    np.testing.assert_array_equal(dataset.load_image(0), read_image(str(folder / "images" / "11.png")))
    np.testing.assert_array_equal(dataset.load_image(2), read_image(str(folder / "images" / "12.png")))


def test_pictures_in_subfolders(folder, content):
    (folder / "images" / "sub").mkdir()
    (folder / "images" / "10.png").rename(folder / "images" / "sub" / "10.png")
    content["images"][0]["file_name"] = "sub/10.png"
    assert make(folder, content).sample(0) is not None


def test_without_annotations_is_ordinary_in_evaluation_and_an_error_in_training(folder, content):
    del content["annotations"]
    for image in content["images"]:
        del image["width"]
    for has_gt in (True, False):
        dataset = make(folder, content, has_gt=has_gt)
        assert not dataset.has_gt and dataset.ids == [10, 11, 12] and dataset.label_map == {3: 1, 7: 2}
        assert dataset.sample(1).boxes.shape == (0, 4)
    with pytest.raises(DatasetError, match="no picture with usable annotations; correct dataset.train_info"):
        make(folder, content, training=True)


def test_has_gt_false_does_not_look_at_annotations(folder, content):
    content["annotations"] = [{"nonsense": True}]
    assert len(make(folder, content, has_gt=False).sample(0).labels) == 0


# Annotations


@pytest.mark.parametrize("change, reason", [
    ({"image_id": 99}, "an image_id that is not among the images"),
    ({"bbox": [5, 6, 0, 30]}, "an empty bbox"),
    ({"bbox": [5, 6, 20, -3]}, "an empty bbox"),
    ({"bbox": [5, 6, float("nan"), 30]}, "no usable bbox"),
    ({"bbox": []}, "no usable bbox"),
    ({"bbox": None}, "no usable bbox"),
    ({"bbox": [200, 6, 20, 30]}, "a bbox outside the image"),
    ({"bbox": [-50, 6, 20, 30]}, "a bbox outside the image"),
    ({"segmentation": []}, "an empty or degenerate segmentation"),
    ({"segmentation": None}, "an empty or degenerate segmentation"),
    ({"segmentation": [[]]}, "an empty or degenerate segmentation"),
    ({"segmentation": [[5, 6, 20, 30]]}, "an empty or degenerate segmentation"),
    ({"segmentation": [[5, 6, 5, 20, 5, 30]]}, "an empty or degenerate segmentation"),
    ({"segmentation": {"size": [9, 9], "counts": [81]}}, "an empty or degenerate segmentation"),
    ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": [5, 5]}}, "an empty or degenerate segmentation"),
])
def test_unusable_annotation_is_left_out_and_counted(folder, content, change, reason, caplog):
    content["annotations"][1].update(change)
    dataset = make(folder, content)
    assert dataset.sample(0).labels.tolist() == [1, -1]
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1 and "1 of 4 annotations" in warnings[0]
    assert f"1 with {reason} (first: id 2)" in warnings[0]


@pytest.mark.parametrize("segmentation", [
    [[5, 6, 15, 16, 25, 26]],  # three points on a line
    {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]},
    [[200, 6, 220, 6, 220, 30]],  # the bbox says otherwise
])
def test_mask_without_a_pixel_is_left_out(folder, content, segmentation, caplog):
    content["annotations"][1]["segmentation"] = segmentation
    dataset = make(folder, content)
    for _ in range(2):
        assert dataset.sample(0).labels.tolist() == [1, -1]
    assert caplog.text.count("annotation 2 is left out: its mask has no pixel") == 1


def test_box_across_the_border_is_clipped(folder, content):
    content["annotations"][1]["bbox"] = [-10, 40, 30, 100]
    np.testing.assert_allclose(make(folder, content).sample(0).boxes[0], [0, 40 / 60, 0.25, 1], rtol=1e-6)


def test_part_of_a_polygon_that_is_degenerate_is_ignored(folder, content):
    content["annotations"][1]["segmentation"].insert(0, [1, 1, 2, 2])
    assert make(folder, content).sample(0).masks[0].sum() == 600


def test_missing_iscrowd_means_an_object(folder, content):
    del content["annotations"][1]["iscrowd"]
    assert make(folder, content).sample(0).num_crowds == 1


# Pictures


def jpeg(pixels, mode="RGB", **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


@pytest.fixture
def pixels():
    noise = np.random.RandomState(1).randint(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 3)


def test_kinds_of_pictures_read_as_three_channels(tmp_path, pixels):
    written = {"grey.png": pixels[:, :, 0], "colour16.png": pixels.astype(np.uint16) * 257,
               "grey16.png": pixels[:, :, 0].astype(np.uint16) * 257,
               "alpha.png": np.dstack([pixels, np.full((HEIGHT, WIDTH), 9, np.uint8)]),
               "one.png": pixels[:1, :1], "wide.png": np.zeros((2, 10000, 3), np.uint8)}
    for name, array in written.items():
        assert cv2.imwrite(str(tmp_path / name), array)
        image = read_image(str(tmp_path / name))
        assert image.dtype == np.uint8 and image.shape == (*array.shape[:2], 3)
        if "alpha" in name or "colour16" in name:
            np.testing.assert_array_equal(image, pixels)
    for mode in ("L", "CMYK"):
        (tmp_path / "a.jpg").write_bytes(jpeg(pixels, mode))
        image = read_image(str(tmp_path / "a.jpg"))
        assert image.shape == (HEIGHT, WIDTH, 3) and image.dtype == np.uint8
    assert np.abs(image.astype(int) - pixels[:, :, ::-1]).mean() < 6  # CMYK keeps its colours


def test_orientation_tag_is_ignored_for_data_and_can_be_applied(tmp_path, pixels):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "turned.jpg").write_bytes(jpeg(pixels, exif=exif))
    assert read_image(str(tmp_path / "turned.jpg")).shape == (HEIGHT, WIDTH, 3)
    assert read_image(str(tmp_path / "turned.jpg"), apply_orientation=True).shape == (WIDTH, HEIGHT, 3)


def test_completeness_of_picture_files(pixels):
    whole = jpeg(pixels)
    thumbnail = b"\xff\xe1" + (2 + len(whole)).to_bytes(2, "big") + whole
    with_thumbnail = whole[:2] + thumbnail + whole[2:]
    png = cv2.imencode(".png", pixels)[1].tobytes()
    progressive = jpeg(pixels, progressive=True)
    for data in (whole, with_thumbnail, png, progressive, whole + b"trailing", b"BM something"):
        assert is_complete(data)
    for data in (whole[:-2], whole[:len(whole) // 2], whole[:20], with_thumbnail[:-9], png[:-20],
                 progressive[:-9], b"\xff\xd8", b"\xff\xd8\xff"):
        assert not is_complete(data)


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "folder", "size"])
def test_unreadable_picture_costs_itself_and_one_warning(folder, content, pixels, damage, caplog):
    path = folder / "images" / "10.png"
    path.unlink()
    if damage == "folder":
        path.mkdir()
    else:
        path.write_bytes({"cut": jpeg(pixels)[:-200], "empty": b"", "text": b"<html>not found</html>",
                          "size": jpeg(pixels[:40])}[damage])
    evaluation = make(folder, content)
    assert evaluation.sample(0) is None and evaluation.sample(0) is None and evaluation.sample(1) is not None
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 1 and "picture 10 is skipped" in warnings[0] and "10.png" in warnings[0]
    training = make(folder, content, training=True)
    for seed in range(4):
        assert training.sample(0, np.random.RandomState(seed)).image_id == 11


def test_size_of_the_picture_does_not_matter_without_annotations(folder, content, pixels):
    (folder / "images" / "10.png").write_bytes(jpeg(pixels[:40]))
    sample = make(folder, content, has_gt=False).sample(0)
    assert (sample.height, sample.width) == (40, WIDTH)


def test_training_without_any_usable_picture_stops(folder, content):
    dataset = make(folder, content, training=True)
    for name in ("10.png", "11.png"):
        (folder / "images" / name).write_bytes(b"")
    with pytest.raises(DatasetError, match="dataset.train_images"):
        dataset.sample(0, np.random.RandomState(0))


def test_picture_whose_objects_are_all_discarded_is_replaced(folder, content, caplog):
    content["annotations"][:3] = [box_annotation(1, 10, 3, 5, 6, 0.5, 0.5)]
    transform = SSDAugmentation(32, RESNET, MEANS, STD, False, False, False, False)
    content["annotations"][0]["segmentation"] = [[5, 6, 8, 6, 8, 9]]
    dataset = make(folder, content, training=True, transform=transform)
    samples = [dataset.sample(0, np.random.RandomState(seed)) for seed in range(6)]
    assert {sample.image_id for sample in samples} == {11}
    assert caplog.text.count("picture 10 kept no object") == 1


@pytest.mark.parametrize("height, width", [(1, 1), (2, 10000), (10000, 1)])
def test_extreme_sizes_train_and_evaluate(folder, content, height, width):
    cv2.imwrite(str(folder / "images" / "10.png"), np.full((height, width, 3), 80, np.uint8))
    content["images"][0].update(width=width, height=height)
    content["annotations"] = [box_annotation(1, 10, 3, 0, 0, width, height)]
    sample = make(folder, content).sample(0)
    assert sample.masks.shape == (1, height, width) and sample.masks.all()
    transform = SSDAugmentation(32, RESNET, MEANS, STD, expand=False)
    trained = make(folder, content, training=True, transform=transform).sample(0, np.random.RandomState(1))
    assert trained.masks.shape == (1, 32, 32)


def test_runs_whose_sum_overflows_to_the_right_one_are_damaged():
    counts = b"PPPPPPPPPPPP4" * 3 + b"0"  # four of 2**62, which add up to 0 in 64 bits
    with pytest.raises(ValueError, match="do not add up"):
        decode_rle({"size": [0, 9], "counts": counts})


def test_a_polygon_that_reaches_far_away_is_left_out(folder, content, caplog):
    content["annotations"][1]["segmentation"] = [[0, 0, 4e8, 0, 4e8, 4e8]]  # its edge would fill gigabytes
    data = make(folder, content)
    assert len(data.ground_truth(0)[0]) == 2 and "reaches further than 10 picture sizes" in caplog.text
