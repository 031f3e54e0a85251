"""Pictures: blended masks equal the formula, labels stay inside, pages are written."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from utils import visualize
from utils.visualize import PALETTE, comparison_page, draw_detections

REPO = Path(__file__).resolve().parent.parent
NAMES = ["circle", "square", "triangle"]
COLORS = ((200, 10, 20), (30, 210, 40), (50, 60, 220), (120, 130, 140), (9, 99, 199), (70, 7, 77))


def picture(height=60, width=80, seed=0):
    return np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)


def detections(count, height=60, width=80, seed=1):
    """Random classes, scores, boxes and masks with much overlap."""
    rng = np.random.RandomState(seed)
    masks = rng.rand(count, height, width) > 0.5
    corners = np.sort(rng.randint(0, min(height, width), (count, 2, 2)), axis=1)
    return rng.randint(0, 3, count), rng.permutation(count) / (count + 1), corners.reshape(count, 4), masks


def item(height=60, width=80, count=3, seed=1):
    classes, scores, boxes, masks = detections(count, height, width, seed)
    found = (classes, scores, masks, boxes)
    return {"image": picture(height, width), "gt": (classes, masks, boxes), "pred": found}


# --------------------------------------------------------------------------------------------- one picture

def test_masks_blend_as_the_formula_says():
    image = picture()
    classes, scores, boxes, masks = detections(4)
    drawn = draw_detections(image, classes, scores, boxes, masks, NAMES, show_boxes=False, show_text=False,
                            colors=COLORS)
    ranked = masks[np.argsort(-scores)]
    alphas = 0.45 * ranked[..., None]
    palette = np.array([COLORS[rank * 5 % len(COLORS)][::-1] for rank in range(4)], np.float64)
    through_earlier = np.cumprod(np.concatenate([np.ones_like(alphas[:1]), 1 - alphas[:-1]]), axis=0)
    painted = (palette[:, None, None] * alphas * through_earlier).sum(axis=0)
    expected = image * np.prod(1 - alphas, axis=0) + painted
    assert np.abs(drawn - expected).max() <= 0.51
    assert drawn.dtype == np.uint8


def test_the_image_handed_in_is_not_changed():
    image = picture()
    before = image.copy()
    drawn = draw_detections(image, *detections(3), NAMES)
    assert np.array_equal(image, before) and not np.array_equal(drawn, before)


def test_nothing_found_gives_a_copy():
    image = picture()
    drawn = draw_detections(image, [], [], np.zeros((0, 4)), np.zeros((0, 60, 80), bool), NAMES)
    assert np.array_equal(drawn, image) and drawn is not image


def test_every_switch_removes_what_it_names():
    image, found = picture(), detections(3)
    nothing = draw_detections(image, *found, NAMES, show_masks=False, show_boxes=False, show_text=False)
    assert np.array_equal(nothing, image)
    everything = draw_detections(image, *found, NAMES)
    for switch in ("show_masks", "show_boxes", "show_text", "show_scores"):
        without = draw_detections(image, *found, NAMES, **{switch: False})
        assert not np.array_equal(without, everything), switch


def test_the_highest_score_is_on_top():
    image = np.zeros((60, 80, 3), np.uint8)
    boxes = [[10, 10, 40, 40], [10, 10, 40, 40]]
    drawn = draw_detections(image, [0, 1], [0.2, 0.8], boxes, None, NAMES, show_text=False, colors=COLORS)
    assert tuple(drawn[10, 25]) == COLORS[0][::-1]  # the first colour goes to the better one


def test_boxes_lie_on_their_pixels_and_are_cut_at_the_border():
    image = np.zeros((60, 80, 3), np.uint8)
    drawn = draw_detections(image, [0], [0.5], [[-20, 5, 300, 30]], None, NAMES, show_text=False)
    assert drawn[5].any(axis=1).all() and drawn[30].any(axis=1).all()
    assert not drawn[6:30, 1:-1].any() and not drawn[:5].any() and not drawn[31:].any()
    outside = draw_detections(image, [0, 0], [0.5, 0.4], [[90, 70, 80, 60], [-9, -9, -3, -3]], None, NAMES)
    assert not outside.any()


@pytest.mark.parametrize(
    "box", [[0, 0, 3, 3], [76, 0, 80, 4], [76, 56, 80, 60], [0, 56, 4, 60], [0, 0, 80, 60]])
def test_labels_stay_inside_the_picture(box, monkeypatch):
    plates = []
    place = visualize._place_plate

    def record(*args):
        plate = place(*args)
        plates.append(plate[0])
        return plate

    monkeypatch.setattr(visualize, "_place_plate", record)
    image = np.zeros((60, 80, 3), np.uint8)
    drawn = draw_detections(image, [2], [0.97], [box], None, NAMES, show_boxes=False)
    x, y, width, height = plates[0]
    assert x >= 0 and y >= 0 and x + width <= 80 and y + height <= 60
    drawn_rows, drawn_columns = np.nonzero(drawn.any(axis=2))
    assert (drawn_columns.min(), drawn_columns.max()) == (x, x + width - 1)
    assert (drawn_rows.min(), drawn_rows.max()) == (y, y + height - 1)


def test_labels_of_neighbours_do_not_cover_each_other():
    shape, size, taken = (200, 200, 3), (60, 12), []
    for _ in range(5):
        plate, cover = visualize._place_plate((60, 80, 140, 150), size, shape, taken)
        assert cover == 0
        taken.append(plate)


def test_long_names_are_made_smaller():
    scale, (width, _) = visualize._fitting_text("a rather long class name 0.97", 1.0, (96, 200, 3))
    assert 0.2 <= scale < 1.0 and width <= 200


@pytest.mark.parametrize("height, width", [(1, 1), (1, 200), (200, 1), (7, 5)])
def test_tiny_pictures_are_ordinary(height, width):
    drawn = draw_detections(picture(height, width), [0], [0.9], [[0, 0, width, height]],
                            np.ones((1, height, width), bool), NAMES)
    assert drawn.shape == (height, width, 3)


def test_label_names_class_score_and_crowd():
    assert visualize._label_text(1, [0, 2], [0.5, 0.126], NAMES) == "triangle 0.13"
    assert visualize._label_text(1, [0, 2], None, NAMES) == "triangle"
    assert visualize._label_text(0, [-1], None, NAMES) == "crowd"
    assert visualize._label_text(0, [5], [0.5], None) == "5 0.50"


# ----------------------------------------------------------------------------------------------- the page

@pytest.mark.parametrize("count", [1, 2, 12, 15])
def test_page_is_a4_and_holds_pictures(tmp_path, count):
    path = tmp_path / "new" / "page.png"
    comparison_page([item(seed=seed) for seed in range(count)], path, "demo: mask AP 0.41", NAMES)
    page = cv2.imread(str(path))
    assert page.shape == (1754, 1240, 3)
    assert (page[130:600] < 250).any(axis=2).mean() > 0.3  # pictures
    assert (page[40:90] < 100).any()  # title
    assert (page[:, :20] == 255).all() and (page[:, -20:] == 255).all()  # margin


def test_page_takes_pictures_of_any_shape_and_none_of_the_objects(tmp_path):
    items = [item(96, 96), item(40, 400), item(400, 40), item(1, 1, count=0), item(700, 500, count=0)]
    items[0]["gt"] = ([], np.zeros((0, 96, 96), bool), np.zeros((0, 4)))
    items[1]["pred"] = ([], [], np.zeros((0, 40, 400), bool), np.zeros((0, 4)))
    items[2]["gt"] = ([-1], items[2]["gt"][1][:1], items[2]["gt"][2][:1])
    comparison_page(items, tmp_path / "page.png", "a title " * 40, NAMES, COLORS)
    page = cv2.imread(str(tmp_path / "page.png"))
    assert page.shape == (1754, 1240, 3) and (page[:, -20:] == 255).all()  # the long title is made to fit


def test_page_without_pictures_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="at least one image"):
        comparison_page([], tmp_path / "page.png", "empty")


def test_page_leaves_out_weak_predictions():
    weak = item(96, 96, count=1)
    weak["gt"] = ([], [], [])
    weak["pred"] = (*weak["pred"][:1], np.array([0.2]), *weak["pred"][2:])
    ground_truth, hidden = visualize._pair(weak, (200, 200), NAMES, PALETTE, 0.3)
    assert np.array_equal(ground_truth, hidden) and hidden.shape == (200, 200, 3)
    assert not np.array_equal(visualize._pair(weak, (200, 200), NAMES, PALETTE, 0.1)[1], hidden)


def test_predictions_take_the_colour_of_the_object_they_fit():
    gt_boxes = [[0, 0, 10, 10], [50, 50, 70, 70]]
    boxes = [[51, 50, 70, 70], [0, 0, 10, 11], [1, 0, 10, 10], [80, 0, 90, 10]]
    assert visualize._matching_ranks(gt_boxes, boxes) == [1, 0, 2, 3]


def test_import_and_page_need_no_display(tmp_path):
    code = ("import sys, numpy as np, utils.visualize as v; assert 'matplotlib' not in sys.modules;"
            "v.comparison_page([{'image': np.zeros((9, 9, 3), np.uint8), 'gt': ([], [], []), "
            "'pred': ([], [], [], [])}], sys.argv[1], 'x'); assert 'matplotlib.pyplot' not in sys.modules")
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "MPLBACKEND": "TkAgg"}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "page.png")], cwd=REPO, env=environment,
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "page.png").stat().st_size > 1000
