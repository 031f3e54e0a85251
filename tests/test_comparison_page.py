"""The page that shows predictions beside the ground truth."""

import subprocess
import sys
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.config import COLORS
from utils import comparison_page as page_module
from utils.comparison_page import comparison_page
from utils.instances import Instances

REPO = Path(__file__).resolve().parent.parent
NAMES = ["circle", "square", "triangle"]


def found_in(height, width, count, seed=1, scores=True):
    """Random discs."""
    rng = np.random.RandomState(seed)
    masks = np.zeros((count, height, width), np.uint8)
    centers = [(rng.randint(width), rng.randint(height)) for _ in range(count)]
    radius = min(height, width) // 4
    for mask, center in zip(masks, centers):
        cv2.circle(mask, center, radius, 1, -1)
    boxes = [[x - radius, y - radius, x + radius, y + radius] for x, y in centers]
    return Instances(rng.randint(0, 3, count), 0.9 - 0.1 * np.arange(count) if scores else None, boxes,
                     masks.astype(bool), NAMES, height, width)


def item(height=60, width=80, count=3, seed=1):
    image = np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)
    return {"image": image, "gt": found_in(height, width, count, seed, scores=False),
            "pred": found_in(height, width, count, seed)}


@pytest.mark.parametrize("count", [1, 2, 12, 15])
def test_page_is_a4_and_holds_pictures(tmp_path, count):
    path = tmp_path / "new" / "page.png"
    comparison_page([item(seed=seed) for seed in range(count)], path, "demo: mask AP 0.41", COLORS)
    page = cv2.imread(str(path))
    assert page.shape == (1754, 1240, 3)
    assert (page[130:600] < 250).any(axis=2).mean() > 0.3  # pictures
    assert (page[40:90] < 100).any()  # title
    assert (page[:, :20] == 255).all() and (page[:, -20:] == 255).all()  # margin


def test_page_takes_pictures_of_any_shape_and_none_of_the_objects(tmp_path):
    items = [item(96, 96), item(40, 1200), item(400, 40), item(1, 1, count=0), item(700, 500, count=0)]
    items[0]["gt"] = items[0]["gt"][[]]
    items[1]["pred"] = items[1]["pred"][[]]
    items[2]["gt"] = Instances([-1], None, [[0, 0, 30, 30]], None, NAMES, 400, 40)  # a crowd, and no masks
    items[2]["pred"] = Instances([0], [0.9], [[-5, 0, 90, 30]], np.zeros((1, 400, 40), bool), NAMES, 400, 40)
    comparison_page(items, tmp_path / "page.png", r"a title $\x$ " * 30, COLORS)
    page = cv2.imread(str(tmp_path / "page.png"))
    assert page.shape == (1754, 1240, 3) and (page[:, -20:] == 255).all()  # the long title is made to fit


def test_page_without_pictures_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="at least one image"):
        comparison_page([], tmp_path / "page.png", "empty", COLORS)


def test_page_leaves_out_weak_predictions():
    weak = item(96, 96, count=1)
    weak["gt"], weak["pred"].scores = weak["gt"][[]], np.array([0.2])
    ground_truth, hidden = page_module._pair(weak, (200, 200), COLORS, 0.3)
    assert np.array_equal(ground_truth, hidden) and hidden.shape == (200, 200, 3)
    assert not np.array_equal(page_module._pair(weak, (200, 200), COLORS, 0.2)[1], hidden)


@pytest.mark.parametrize("factor", [0.5, 1, 2.5])
def test_objects_lie_on_the_resized_picture_where_they_were(factor):
    image = np.zeros((120, 160, 3), np.uint8)
    masks = np.zeros((1, 120, 160), bool)
    masks[0, 40:100, 60:140] = True
    gt = Instances([0], None, [[60, 40, 140, 100]], masks, NAMES, 120, 160)
    pred = Instances([0], [0.9], [[60, 40, 140, 100]], masks, NAMES, 120, 160)
    cell = round(160 * factor), round(120 * factor)
    pictures = page_module._pair({"image": image, "gt": gt, "pred": pred}, cell, [(200, 200, 200)], 0.3)
    for drawn in pictures:
        assert drawn.shape[:2] == cell[::-1]
        inside = drawn[round(60 * factor):round(96 * factor), round(64 * factor):round(136 * factor)]
        assert (inside == 90).all()  # 0.45 of the colour
        assert not drawn[round(103 * factor):].any()
        assert not drawn[round(40 * factor):, round(143 * factor):].any()  # the label above may be wider
    # The ground truth has no number.
    assert (pictures[0] > 0).any(axis=2).sum() < (pictures[1] > 0).any(axis=2).sum()


def test_predictions_take_the_colour_of_the_object_they_fit():
    gt_boxes = [[0, 0, 10, 10], [50, 50, 70, 70]]
    boxes = [[51, 50, 70, 70], [0, 0, 10, 11], [1, 0, 10, 10], [80, 0, 90, 10]]
    assert page_module._matching_ranks(gt_boxes, boxes) == [1, 0, 2, 3]


def test_pictures_show_the_colour_of_the_object():
    boxes = [[10, 60, 40, 90], [60, 60, 90, 90]]
    gt = Instances([0, 1], None, boxes, None, NAMES, 100, 100)
    pred = Instances([1, 0], [0.9, 0.8], boxes[::-1], None, NAMES, 100, 100)
    image = np.zeros((100, 100, 3), np.uint8)
    for drawn in page_module._pair({"image": image, "gt": gt, "pred": pred}, (100, 100), COLORS, 0.3):
        assert tuple(drawn[90, 25])[::-1] == COLORS[0] and tuple(drawn[90, 75])[::-1] == COLORS[5]


def test_boxes_are_resized_as_the_picture_is():
    found = Instances([0], None, [[100, 0, 200, 2]], None, NAMES, 2, 300)
    np.testing.assert_allclose(page_module._Resized(found, (2, 300), (1, 30)).boxes, [[10, 0, 20, 1]])


def test_large_pictures_cost_little_memory():
    large = item(1500, 2000, count=10)
    tracemalloc.start()
    page_module._pair(large, (570, 400), COLORS, 0.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < large["image"].nbytes


def test_page_needs_no_display(tmp_path):
    code = ("import sys, numpy as np, utils.comparison_page as c, utils.instances as i;"
            "none = i.Instances([], [], [], None, None, 9, 9);"
            "c.comparison_page([{'image': np.zeros((9, 9, 3), np.uint8), 'gt': none, 'pred': none}], sys.argv[1], 'x',"
            "[(1, 2, 3)]); assert 'matplotlib.pyplot' not in sys.modules")
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "MPLBACKEND": "TkAgg"}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "page.png")], cwd=REPO, env=environment,
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "page.png").stat().st_size > 1000
