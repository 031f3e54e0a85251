"""What was found in one picture: choosing, names, masks on demand, run lengths and polygons against pycocotools."""

import json
import tracemalloc

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from layers.output_utils import PictureMasks
from utils.instances import Instances, encode_window

HEIGHT, WIDTH = 40, 60


def blobs(count=4, seed=0):
    """Instances with dense masks: random rectangles, some in parts."""
    random = np.random.RandomState(seed)
    masks = np.zeros((count, HEIGHT, WIDTH), bool)
    for mask in masks:
        for _ in range(random.randint(1, 3)):
            y, x = random.randint(0, HEIGHT - 1), random.randint(0, WIDTH - 1)
            mask[y:y + random.randint(1, 20), x:x + random.randint(1, 30)] = True
    return make(masks)


def make(masks, **changes):
    count = len(masks)
    values = {"classes": np.arange(count) % 3, "scores": np.linspace(0.9, 0.1, count),
              "boxes": np.tile([1, 2, 30, 20], (count, 1)), "masks": masks, "class_names": ["circle", "square", "star"],
              "height": HEIGHT, "width": WIDTH, **changes}
    return Instances(**values)


def decode(rle):
    return mask_utils.decode(rle).astype(bool)


@pytest.mark.parametrize("chosen, rows", [
    (slice(1, 3), [1, 2]), ([2, 0], [2, 0]), (np.array([True, False, False, True]), [0, 3]), ([], []),
    (slice(0, 0), [])])
def test_some_of_them(chosen, rows):
    found = blobs()
    part = found[chosen]
    assert len(part) == len(rows) and part.names == [found.names[row] for row in rows]
    np.testing.assert_array_equal(part.scores, found.scores[rows])
    np.testing.assert_array_equal(part.mask_scores, found.mask_scores[rows])
    np.testing.assert_array_equal(part.boxes, found.boxes[rows])
    np.testing.assert_array_equal(part.masks, found.masks[rows])


def test_names_and_text():
    assert blobs().names == ["circle", "square", "star", "circle"]
    truth = make(np.zeros((2, HEIGHT, WIDTH), bool), classes=[1, -1], scores=None, class_names=None)
    assert truth.names == ["1", "-1"] and truth.mask_scores is None
    assert make(truth.masks, classes=[1, -1], scores=None).names == ["square", "crowd"]
    text = repr(blobs())
    assert text.startswith("4 objects in 60 x 40 pixels") and "  circle  0.900  box [1, 2, 30, 20]" in text
    assert repr(blobs()[:0]) == "0 objects in 60 x 40 pixels" and "square" in repr(truth[[0]]) or "1" in repr(truth)


def test_masks_of_both_kinds_are_the_same_alone_and_together():
    small = np.random.RandomState(0).rand(3, 6, 9).astype("float32")
    small[1] = 0
    lazy = make(PictureMasks(small, HEIGHT, WIDTH))
    dense = make(lazy.masks)
    assert lazy.has_masks and dense.has_masks and dense.masks.shape == (3, HEIGHT, WIDTH)
    assert lazy.rle() == dense.rle() and lazy.polygons() == dense.polygons()
    for index in range(3):
        np.testing.assert_array_equal(lazy.mask(index), lazy.masks[index])
        np.testing.assert_array_equal(dense.mask(index), lazy.masks[index])
    none = Instances([], [], [], None, None, HEIGHT, WIDTH)
    assert not none.has_masks and none.masks is None


def test_run_lengths_are_pycocotools_own():
    """Also of masks whose runs go on from one column to the next, and of the first and last pixel."""
    masks = list(blobs(30).masks)
    odd = np.zeros((6, HEIGHT, WIDTH), bool)
    odd[1] = odd[2, :, 10:20] = odd[3, 0, 0] = odd[4, -1, -1] = odd[5, 5:, 3] = odd[5, :7, 4] = True
    for mask, rle in zip([*masks, *odd], make(np.array([*masks, *odd])).rle()):
        theirs = mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert rle == {"size": [HEIGHT, WIDTH], "counts": theirs["counts"].decode()}
    json.dumps(rle)
    assert decode(encode_window(3, 4, np.ones((2, 5), bool), 10, 20))[4:6, 3:8].all()


def test_run_lengths_of_random_windows_are_pycocotools_own():
    random = np.random.RandomState(1)
    for _ in range(300):
        height, width = random.randint(1, 12, 2)
        rows, columns = random.randint(1, height + 1), random.randint(1, width + 1)
        y, x = random.randint(0, height - rows + 1), random.randint(0, width - columns + 1)
        window = random.rand(rows, columns) > random.rand()
        mask = np.zeros((height, width), np.uint8)
        mask[y:y + rows, x:x + columns] = window
        theirs = mask_utils.encode(np.asfortranarray(mask))["counts"].decode()
        assert encode_window(x, y, window, height, width)["counts"] == theirs


def test_polygons_enclose_the_same_pixels():
    for mask, polygons in zip(blobs(20).masks, blobs(20).polygons()):
        back = decode(mask_utils.merge(mask_utils.frPyObjects(polygons, HEIGHT, WIDTH)))
        np.testing.assert_array_equal(back, mask)  # rectangles: exactly
    yy, xx = np.mgrid[:HEIGHT, :WIDTH]
    disc = (yy - 20) ** 2 + (xx - 30) ** 2 < 15 ** 2
    [[polygon]] = make(disc[None]).polygons()
    back = decode(mask_utils.merge(mask_utils.frPyObjects([polygon], HEIGHT, WIDTH)))
    assert (back & disc).sum() / (back | disc).sum() > 0.95
    ring = disc & ((yy - 20) ** 2 + (xx - 30) ** 2 > 8 ** 2)
    assert make(ring[None]).polygons() == [[polygon]]  # holes are filled
    assert make(np.zeros((1, HEIGHT, WIDTH), bool)).polygons() == [[]]
    one = np.zeros((1, HEIGHT, WIDTH), bool)
    one[0, 7, 9] = True
    [[corners]] = make(one).polygons()
    assert sorted(zip(corners[::2], corners[1::2])) == [(9, 7), (9, 8), (10, 7), (10, 8)]


def test_a_hundred_masks_of_a_huge_picture_are_encoded_in_little_memory():
    small = np.zeros((100, 138, 138), "float32")
    for number, mask in enumerate(small):
        mask[number:number + 20, 10:40] = 1
    found = make(PictureMasks(small, 6000, 8000), height=6000, width=8000)
    tracemalloc.start()
    encoded = found.rle()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(encoded) == 100 and decode(encoded[0]).sum() == pytest.approx(20 * 30 * 6000 * 8000 / 138 ** 2, rel=0.02)
    assert peak < 200e6  # all of them would be 4.8e9
