"""Annotations, masks and pictures with anything wrong in them: what cannot be used is told in one line or left out."""

import copy
import functools
import json
import struct
import warnings
import zlib

import cv2
import numpy as np
import pytest
from fuzz import DEEP_JSON, ODD_NUMBERS, cases, every_change, guarded, odd_values, refusal, spoilt, spoilt_bytes, told
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as mask_utils

from data.coco import COCODetection
from data.coco_checks import find_fault, read_info
from data.config import MEANS, STD, get_config
from data.images import DatasetError, decode_rle, is_complete, read_image, to_rle
from data.inspection import inspect_dataset
from data.label_map import make_label_map
from tools.coco_eval import read_results
from utils.augmentations import build_augmentation
from utils.coco_results import evaluate_results
from utils.predictor import as_image

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
NAMES = ["circle", "square"]
HEIGHT, WIDTH = 12, 16


def sound_content() -> dict:
    """Three pictures, a polygon, two run-length masks of which one is a crowd, all on the first two."""
    square = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    square[2:9, 3:12] = 1
    compressed = {"size": [HEIGHT, WIDTH], "counts": mask_utils.encode(square)["counts"].decode()}
    runs = {"size": [HEIGHT, WIDTH], "counts": [24, 100, 20, 48]}
    polygon = [[1, 1, 10.5, 1, 10, 8, 1, 8], [12, 2, 14, 2, 14, 4]]
    annotations = [
        {
            "id": 1,
            "image_id": 10,
            "category_id": 3,
            "bbox": [1, 1, 13, 7],
            "area": 60,
            "iscrowd": 0,
            "segmentation": polygon,
        },
        {
            "id": 2,
            "image_id": 10,
            "category_id": 7,
            "bbox": [3, 2, 9, 7],
            "area": 63,
            "iscrowd": 0,
            "segmentation": compressed,
        },
        {
            "id": 3,
            "image_id": 11,
            "category_id": 7,
            "bbox": [2, 0, 9, 12],
            "area": 100,
            "iscrowd": 1,
            "segmentation": runs,
        },
        {"id": 4, "image_id": 11, "category_id": 3, "bbox": [2, 0, 9, 12], "iscrowd": 0, "segmentation": polygon[:1]},
    ]
    images = [{"id": number, "file_name": f"{number}.png", "width": WIDTH, "height": HEIGHT} for number in (10, 11, 12)]
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 7, "name": "square"}, {"id": 3, "name": "circle"}],
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One folder for all cases of a test, with the pictures of `sound_content`."""
    path = tmp_path_factory.mktemp("fuzz")
    (path / "images" / "below").mkdir(parents=True)
    for number in (10, 11, 12):
        cv2.imwrite(str(path / "images" / f"{number}.png"), np.full((HEIGHT, WIDTH, 3), number * 9, np.uint8))
    return path


@functools.cache
def transforms():
    config = get_config("yolact_base").copy({"max_size": 32})
    return {training: build_augmentation(config, MEANS, STD, training=training) for training in (False, True)}


def write(path, content):
    path.write_text(
        content if isinstance(content, str) else json.dumps(content), encoding="utf-8", errors="surrogatepass"
    )
    return str(path)


def check_data_set(folder, info_file, training, has_gt=True, label_map=None):
    """Makes a data set and takes every sample; all of them are what the network needs."""
    with guarded(), refusal(DatasetError):
        data = COCODetection(
            str(folder / "images"), info_file, transforms()[training], NAMES, label_map, has_gt, training=training
        )
        assert len(data) and all(1 <= label <= 2 for label in data.label_map.values())
        for index in range(len(data)):
            sample = data.sample(index, np.random.RandomState(index))
            if sample is None:
                assert not training
                continue
            check_sample(sample)
            if not data.has_gt or data.try_load_image(index) is None:
                continue  # there is none, or training took another picture
            labels, masks, boxes = data.ground_truth(index)
            assert len(labels) == len(masks) == len(boxes) and masks.shape[1:] == (HEIGHT, WIDTH)
            assert np.isfinite(boxes).all() and (boxes[:, :2] < boxes[:, 2:]).all() and masks.any(axis=(1, 2)).all()
        return data
    return None


def check_sample(sample):
    assert sample.image.shape == (3, 32, 32) and np.isfinite(sample.image).all()
    assert sample.boxes.shape == (len(sample.labels), 4) and len(sample.masks) == len(sample.labels)
    assert np.isfinite(sample.boxes).all() and (sample.boxes >= 0).all() and (sample.boxes <= 1).all()
    assert set(np.unique(sample.labels)) <= {-1, 0, 1} and set(np.unique(sample.masks)) <= {0, 1}
    assert sample.num_crowds == (sample.labels == -1).sum()


def test_the_sound_file_is_used(folder):
    path = write(folder / "sound.json", sound_content())
    for training, images in ((True, 2), (False, 3)):
        data = check_data_set(folder, path, training)
        assert len(data) == images and sum(len(data.ground_truth(index)[0]) for index in range(images)) == 4


@pytest.mark.parametrize("training", [True, False])
def test_every_place_of_an_annotation_file(folder, training):
    for words, content in every_change(sound_content()):
        with told(words):
            check_inspection(folder, write(folder / "x.json", content), training)


@cases(120)
@given(
    content=spoilt(sound_content()),
    training=st.booleans(),
    has_gt=st.booleans(),
    label_map=st.sampled_from((None, {3: 1, 7: 2}, {"3": 1}, {3: 1, 7: 1})),
)
def test_spoilt_annotation_files(folder, content, training, has_gt, label_map):
    check_data_set(folder, write(folder / "x.json", content), training, has_gt, label_map)


@cases(70)
@given(data=st.data(), training=st.booleans())
def test_spoilt_annotations(folder, data, training):
    """The file's other parts are sound, so that its masks and boxes are read."""
    content = sound_content()
    for part in data.draw(st.sampled_from((["annotations"], ["annotations", "images"]))):
        content[part] = data.draw(spoilt(content[part], most=4).filter(lambda new: isinstance(new, list)))
    check_data_set(folder, write(folder / "x.json", content), training)


def check_inspection(folder, info_file, training):
    """Whatever is wrong is told in lines; a file without errors is one that a data set can be made of."""
    with guarded():
        inspection = inspect_dataset(
            info_file,
            str(folder / "images"),
            NAMES,
            None,
            32,
            "dataset.train_info",
            "dataset.train_images",
            training=training,
        )
        lines = [inspection.headline(), *(finding.line() for finding in inspection.findings)]
        assert all(line.strip() and len(line.splitlines()) == 1 for line in lines), lines
    data = check_data_set(folder, info_file, training)
    assert data is not None or inspection.of_level("error")


@cases(100)
@given(content=spoilt(sound_content()), training=st.booleans())
def test_spoilt_annotation_files_are_inspected(folder, content, training):
    check_inspection(folder, write(folder / "x.json", content), training)


@cases(40)
@given(
    raw=spoilt_bytes(json.dumps(sound_content()).encode())
    | st.sampled_from([deep.encode() for deep in DEEP_JSON])
    | st.binary(max_size=40)
    | st.sampled_from((b"\xff\xfe{\0}\0", b"\xef\xbb\xbf[]", b'{"images": 3}', b"null"))
)
def test_spoilt_text(folder, raw):
    (folder / "x.json").write_bytes(raw)
    check_data_set(folder, str(folder / "x.json"), False)


FILE_NAMES = (
    "10.png",
    "a\0b",
    "\ud800.png",
    "below",
    "below/",
    ".",
    "..",
    "/",
    "",
    "../images/10.png",
    "COCO_x_10.png",
    "COCO_",
    "x" * 5000,
    "nul\n.png",
    "10.png/x",
)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", FILE_NAMES)
def test_odd_file_names(folder, name, training):
    content = sound_content()
    content["images"][1]["file_name"] = name
    assert len(check_data_set(folder, write(folder / "x.json", content), training)) in (1, 2, 3)


NUMBERS = st.sampled_from(ODD_NUMBERS) | st.floats() | st.integers(-20, 20)
FAR = st.sampled_from((0, 1, 9.5, 15, 2e7, -2e7))
SEGMENTATIONS = st.one_of(
    st.lists(FAR, min_size=6, max_size=6).map(lambda polygon: [polygon]),
    st.lists(st.lists(NUMBERS | st.floats(-3, 18), max_size=10), max_size=3),
    odd_values,
    st.builds(
        lambda counts, size: {"counts": counts, "size": size},
        st.lists(NUMBERS, max_size=5)
        | st.text(st.characters(min_codepoint=32, max_codepoint=130), max_size=30)
        | odd_values,
        st.sampled_from(([HEIGHT, WIDTH], [12.0, 16.0], [WIDTH, HEIGHT], [], None, [2**40, 2**40])),
    ),
)


@cases(150)
@given(
    segmentation=SEGMENTATIONS,
    bbox=st.lists(NUMBERS, min_size=4, max_size=4) | st.just([1, 1, 9, 9]) | odd_values,
    size=st.sampled_from(((HEIGHT, WIDTH), (12.0, 16.0), (0, 0), (-3, 5), (1, 1))),
)
def test_what_has_no_fault_has_a_mask(segmentation, bbox, size):
    """What `find_fault` lets through is decoded or refused by a ValueError, and is a mask of that size."""
    image = {"height": size[0], "width": size[1]}
    with guarded():
        fault = find_fault({"bbox": bbox, "segmentation": segmentation}, image)
        assert fault is None or (isinstance(fault, str) and fault)
        if fault is not None:
            return
        with refusal(ValueError):
            mask = decode_rle(to_rle(segmentation, *map(int, size)))
            assert mask.dtype == np.uint8 and mask.shape == size and mask.max() <= 1


DIGITS = st.lists(st.integers(48, 111), max_size=30).map(bytes)


@cases(120)
@given(
    counts=DIGITS | st.binary(max_size=20) | DIGITS.map(lambda digits: digits + b"o" * 40 + b"0"),
    size=st.tuples(st.integers(0, 9), st.integers(0, 9)),
)
def test_any_run_lengths(counts, size):
    """A mask is made only of runs that add up, and is then the one that pycocotools makes."""
    rle = {"size": list(size), "counts": counts}
    with guarded(), refusal(ValueError):
        mask = decode_rle(rle)
        assert mask.shape == size and mask.max(initial=0) <= 1
        if mask.size:
            np.testing.assert_array_equal(mask, mask_utils.decode(rle))


def encoded(runs) -> bytes:
    """Runs in COCO's compressed form, of any size: written here, as pycocotools knows 32 bits only."""
    text = bytearray()
    for position, run in enumerate(runs):
        number = run - runs[position - 2] if position > 2 else run
        while True:
            digit, number = number & 0x1F, number >> 5
            more = number != (-1 if digit & 0x10 else 0)
            text.append(48 + (digit | 0x20 * more))
            if not more:
                break
    return bytes(text)


@cases(100)
@given(
    runs=st.lists(st.sampled_from((0, 1, 8, 35, 36, 2**31, 2**61, 2**62, 2**63 - 37)), max_size=4),
    rest=st.booleans(),
    side=st.sampled_from((0, 6)),
)
def test_run_lengths_that_overflow(runs, rest, side):
    """What adds up in 64 bits only, because it is too much for them, is damaged."""
    last = (side * side - sum(runs)) % 2**64
    runs = [*runs, last] if rest and last < 2**63 else [*runs, 0]
    with guarded(), refusal(ValueError):
        mask = decode_rle({"size": [side, side], "counts": encoded(runs)})
        assert sum(runs) == side * side
        np.testing.assert_array_equal(np.repeat(np.arange(len(runs)) % 2, runs), mask.T.ravel())


# --- results of another program ---


def sound_results(kind) -> list:
    value = [1, 1, 9, 7] if kind == "bbox" else sound_content()["annotations"][1]["segmentation"]
    return [
        {"image_id": 10, "category_id": 3, "score": 0.9, kind: value},
        {"image_id": 11, "category_id": 7, "score": 0.1, kind: copy.deepcopy(value)},
    ]


@functools.cache
def truth():
    from data.coco import index_of

    return index_of(sound_content())


@pytest.mark.parametrize("kind", ["bbox", "segmentation"])
def test_every_place_of_results(folder, kind):
    for words, content in every_change(sound_results(kind)):
        with told(words):
            check_results(write(folder / "results.json", content), kind)


@pytest.mark.parametrize("kind", ["bbox", "segmentation"])
@cases(200)
@given(data=st.data())
def test_spoilt_results(folder, kind, data):
    sound = sound_results(kind)
    content = data.draw(
        spoilt(sound)
        | st.sampled_from(DEEP_JSON)
        | spoilt_bytes(json.dumps(sound).encode()).map(lambda raw: raw.decode("latin1"))
    )
    check_results(write(folder / "results.json", content), kind)


def check_results(path, kind):
    """What is read is scored; masks are of their pictures' size."""
    with guarded(), refusal(DatasetError), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # numpy's, of boxes as large as numbers go
        results = read_results(path, kind, truth())
        assert all(set(entry) == {"image_id", "category_id", "score", kind} for entry in results)
        if kind == "segmentation":
            assert all(decode_rle(entry[kind]).shape == (HEIGHT, WIDTH) for entry in results)
        if results:
            metrics, _ = evaluate_results(truth(), {"bbox" if kind == "bbox" else "segm": results}, list(truth().imgs))
            assert all(-1 <= figure <= 1.0001 for values in metrics.values() for figure in values["per_iou"])


# --- pictures ---


@functools.cache
def pictures() -> dict:
    """{suffix: bytes of a picture}, of what OpenCV writes here."""
    image = cv2.resize(np.random.RandomState(0).randint(0, 256, (4, 6, 3), np.uint8), (30, 20))
    found = {}
    for suffix in (".jpg", ".png", ".bmp", ".webp", ".tiff", ".ppm", ".sr"):
        written, data = cv2.imencode(suffix, image)
        if written:
            found[suffix] = data.tobytes()
    assert {".jpg", ".png", ".bmp"} <= set(found)
    return found


def check_picture(folder, data):
    (folder / "x.png").write_bytes(data)
    with guarded(), refusal(DatasetError):
        for image in (read_image(str(folder / "x.png")), as_image(folder / "x.png")):
            assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size
        return image
    return None


@cases(120)
@given(data=st.data())
def test_spoilt_pictures(folder, data):
    kind = data.draw(st.sampled_from(sorted(pictures())))
    check_picture(folder, data.draw(spoilt_bytes(pictures()[kind])))


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_every_cut_is_seen(folder, suffix):
    """OpenCV itself would fill up what is missing with grey."""
    whole = pictures()[suffix]
    assert check_picture(folder, whole) is not None and is_complete(whole)
    for end in range(0, len(whole) - (8 if suffix == ".png" else 1)):
        assert not is_complete(whole[:end]) or end < 4
        if end % 16 == 0:
            assert check_picture(folder, whole[:end]) is None


SIZES = st.sampled_from((0, 1, 5, 2**15, 2**16 - 1, 2**20, 2**31 - 1, 2**31, 2**32 - 1)) | st.integers(0, 40)


@cases(80)
@given(
    width=SIZES,
    height=SIZES,
    depth=st.sampled_from((1, 2, 8, 16, 3)),
    color=st.integers(0, 7),
    rows=st.binary(max_size=200),
    end=st.booleans(),
)
def test_png_of_any_header(folder, width, height, depth, color, rows, end):
    """Checksums fit, so that the sizes are believed until the rows are not there."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    check_picture(
        folder,
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"") * end,
    )


@cases(80)
@given(
    width=SIZES,
    height=SIZES,
    flip=st.booleans(),
    bits=st.sampled_from((1, 4, 8, 16, 24, 32, 7)),
    compression=st.integers(0, 6),
    colors=SIZES,
    offset=SIZES,
    rows=st.binary(max_size=200),
)
def test_bmp_of_any_header(folder, width, height, flip, bits, compression, colors, offset, rows):
    height = (-height if flip else height) & 0xFFFFFFFF
    head = struct.pack("<IIIHHIIIIII", 40, width, height, 1, bits, compression, 0, 0, 0, colors, 0)
    check_picture(folder, b"BM" + struct.pack("<IHHI", 54 + len(rows), 0, 0, offset) + head + rows)


@cases(60)
@given(width=SIZES, height=SIZES, rest=st.binary(max_size=60))
def test_jpeg_of_any_size(folder, width, height, rest):
    whole = pictures()[".jpg"]
    if 2**24 < (height & 0xFFFF) * (width & 0xFFFF) <= 2**30:
        return  # OpenCV's own limit is 2 ** 30 pixels; below it makes what is announced, and fills it with grey
    at = whole.index(b"\xff\xc0") + 5
    check_picture(
        folder, whole[:at] + struct.pack(">HH", height & 0xFFFF, width & 0xFFFF) + whole[at + 4 :] + rest + b"\xff\xd9"
    )


@cases(100)
@given(
    value=odd_values
    | st.lists(st.integers(0, 3), max_size=4).flatmap(
        lambda shape: st.sampled_from((np.uint8, np.float32, bool, object)).map(lambda dtype: np.zeros(shape, dtype))
    )
)
def test_anything_for_a_picture(value):
    with guarded(), refusal(DatasetError, ValueError):
        image = as_image(value)
        assert image.dtype == np.uint8 and image.shape[2] == 3


@cases(100)
@given(
    content=spoilt(sound_content()),
    label_map=st.none() | st.dictionaries(st.integers(-1, 9), st.integers(-1, 4), max_size=4),
    names=st.lists(st.sampled_from(("circle", "square", "", "x")), unique=True, min_size=1),
)
def test_label_maps(folder, content, label_map, names):
    path = write(folder / "x.json", content)
    with guarded(), refusal(DatasetError):
        checked = read_info(path, "dataset.train_info", has_gt=True)
        labels = make_label_map(checked, label_map, names, path)
        assert labels and all(1 <= label <= len(names) for label in labels.values())
        assert {annotation["category_id"] for annotation in checked.get("annotations", [])} <= set(labels)
