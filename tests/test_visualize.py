"""Pictures of detections: blended masks equal the formula, edges are smooth, every switch does what it names."""

import subprocess
import sys
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest

from utils.instances import Instances
from utils.visualize import color_of, draw_detections, paint_mask, resize_window, write_image

REPO = Path(__file__).resolve().parent.parent
NAMES = ["circle", "square", "triangle"]
COLORS = ((200, 10, 20), (30, 210, 40), (50, 60, 220), (120, 130, 140), (9, 99, 199), (70, 7, 77))
ONLY_MASKS = {"show_boxes": False, "show_text": False}


def picture(height=60, width=80, seed=0):
    return np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)


def rectangles(boxes, height=60, width=80, scores=(0.9, 0.8, 0.7, 0.6, 0.5), classes=(0, 2, 1, 0, 1)):
    """Instances whose masks fill their boxes x1, y1, x2, y2, the ends not included."""
    masks = np.zeros((len(boxes), height, width), bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes):
        mask[y1:y2, x1:x2] = True
    scores = None if scores is None else scores[:len(boxes)]
    return Instances(classes[:len(boxes)], scores, boxes, masks, NAMES, height, width)


def boxes_only(boxes, scores, height=60, width=80):
    return Instances([0] * len(boxes), scores, boxes, None, NAMES, height, width)


def formula(image, masks, colors_bgr):
    """image * prod_j(1 - a m_j) + sum_j colour_j a m_j prod_{k<j}(1 - a m_k), a = 0.45, the first mask on top."""
    alphas = 0.45 * np.asarray(masks)[..., np.newaxis]
    through_earlier = np.cumprod(np.concatenate([np.ones_like(alphas[:1]), 1 - alphas[:-1]]), axis=0)
    painted = (np.array(colors_bgr, np.float64)[:, np.newaxis, np.newaxis] * alphas * through_earlier).sum(axis=0)
    return image * np.prod(1 - alphas, axis=0) + painted


# ---------------------------------------------------------------------------------------------------- masks

def test_masks_blend_as_the_formula_says_away_from_edges():
    image = picture()
    found = rectangles([(5, 5, 50, 40), (20, 10, 70, 55), (30, 0, 80, 60), (0, 30, 40, 60)],
                       scores=(0.3, 0.9, 0.5, 0.7))
    drawn = draw_detections(image, found, COLORS, **ONLY_MASKS)
    ranked = found.masks[[1, 3, 2, 0]]
    expected = formula(image, ranked, [COLORS[rank * 5 % len(COLORS)][::-1] for rank in range(4)])
    kernel = np.ones((3, 3), np.uint8)
    steady = np.ones((60, 80), bool)
    for mask in ranked.astype(np.uint8):  # beyond the picture a mask goes on as at its border
        steady &= cv2.erode(mask, kernel) == cv2.dilate(mask, kernel)
    depth = ranked.sum(axis=0)[steady]
    assert np.bincount(depth).min() > 50  # nothing, one mask and every overlap up to all four
    difference = np.abs(drawn - expected)[steady]
    assert difference[depth <= 1].max() <= 0.5001
    assert difference.max() < 1.1  # half a level for each mask, less what those above let through
    assert drawn.dtype == np.uint8


def test_edges_are_smooth_and_outlined_in_the_masks_colour():
    image = np.zeros((60, 80, 3), np.uint8)
    drawn = draw_detections(image, rectangles([(20, 10, 60, 50)]), [(200, 200, 200)], **ONLY_MASKS)
    across = drawn[30, 15:30, 0].astype(float) / 200
    assert (across[:4] == 0).all() and (across[6:] == 0.45).all()
    # The pixels to both sides of the edge have more colour than the inside, and not all of it.
    assert (across[4:6] > 0.7).all() and (across[4:6] < 1).all()
    assert (drawn[30, 15:65] == drawn[30, 15:65][::-1]).all() and (drawn[5:55, 30] == drawn[30, 15:65]).all()


def test_a_slanted_edge_has_steps_between():
    mask = np.tril(np.ones((40, 40), bool))
    image = np.zeros((40, 40, 3), np.uint8)
    paint_mask(image, (0, 0, mask), (255, 255, 255))
    assert len(np.unique(image[10:30, 10:30])) >= 4


def test_outlines_are_wider_in_large_pictures():
    def width_of_the_edge(side):
        found = rectangles([(side // 4, side // 4, side // 2, side // 2)], side, side)
        drawn = draw_detections(np.zeros((side, side, 3), np.uint8), found, [(200, 200, 200)], **ONLY_MASKS)
        line = drawn[3 * side // 8, :3 * side // 8, 0]
        return np.count_nonzero((line > 0) & (line != 90))

    assert width_of_the_edge(100) == 2
    assert 4 <= width_of_the_edge(1500) <= 8


@pytest.mark.parametrize("mask", ["pixel", "line"])
def test_what_is_thinner_than_an_outline_is_seen(mask):
    masks = np.zeros((1, 30, 30), bool)
    masks[0, 10:11 if mask == "pixel" else 25, 12] = True
    found = Instances([0], [0.9], [[12, 10, 12, 25]], masks, NAMES, 30, 30)
    drawn = draw_detections(np.zeros((30, 30, 3), np.uint8), found, [(200, 200, 200)], **ONLY_MASKS)
    assert drawn[10, 12, 0] > 180


def test_a_mask_goes_on_at_the_pictures_border():
    found = rectangles([(0, 0, 80, 60)])
    image = picture()
    drawn = draw_detections(image, found, COLORS, **ONLY_MASKS)
    assert np.abs(drawn - formula(image, found.masks, [COLORS[0][::-1]])).max() <= 0.5001


def test_a_window_with_empty_rows_is_the_same_as_a_tight_one():
    mask = np.zeros((60, 80), bool)
    mask[20:30, 25:60] = True
    tight, loose = picture(), picture()
    paint_mask(tight, (25, 20, mask[20:30, 25:60]), (1, 2, 250))
    paint_mask(loose, (0, 5, mask[5:50]), (1, 2, 250))
    assert np.array_equal(tight, loose)


def test_huge_pictures_need_the_memory_of_a_copy_and_a_window():
    found = rectangles([(100, 100, 900, 900)] * 5, 2000, 2500)
    image = np.zeros((2000, 2500, 3), np.uint8)
    draw_detections(image[:50, :50], rectangles([(1, 1, 9, 9)], 50, 50), COLORS)  # fonts are loaded
    tracemalloc.start()
    draw_detections(image, found, COLORS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < image.nbytes + 800 * 800 * 3 * 4 * 1.5


# ------------------------------------------------------------------------------------------------- switches

def test_the_image_handed_in_is_not_changed():
    image = picture()
    before = image.copy()
    drawn = draw_detections(image, rectangles([(5, 5, 50, 40), (20, 10, 70, 55)]), COLORS)
    assert np.array_equal(image, before) and not np.array_equal(drawn, before)


def test_a_view_of_another_array_can_be_drawn_on():
    image = picture()
    found = rectangles([(5, 5, 50, 40)])
    flipped = np.ascontiguousarray(image[:, ::-1])
    assert np.array_equal(draw_detections(flipped[:, ::-1], found, COLORS), draw_detections(image, found, COLORS))


@pytest.mark.parametrize("masks", [None, np.zeros((0, 60, 80), bool)])
def test_nothing_found_gives_a_copy(masks):
    image = picture()
    drawn = draw_detections(image, Instances([], [], [], masks, NAMES, 60, 80), COLORS)
    assert np.array_equal(drawn, image) and drawn is not image


def test_every_switch_removes_what_it_names():
    image, found = picture(200, 200), rectangles([(5, 40, 90, 190), (20, 80, 180, 180)], 200, 200)
    nothing = draw_detections(image, found, COLORS, show_masks=False, show_boxes=False, show_text=False)
    assert np.array_equal(nothing, image)
    everything = draw_detections(image, found, COLORS)
    for switch in ("show_masks", "show_boxes", "show_text", "show_scores"):
        without = draw_detections(image, found, COLORS, **{switch: False})
        assert not np.array_equal(without, everything), switch


def test_without_scores_the_text_is_the_name_alone(monkeypatch):
    written = []
    monkeypatch.setattr("utils.visualize.draw_labels", lambda image, labels, crowded: written.extend(labels))
    found = rectangles([(5, 5, 50, 40), (20, 10, 70, 55)], scores=(0.126, 0.5))
    draw_detections(picture(), found, COLORS)
    draw_detections(picture(), found, COLORS, show_scores=False)
    draw_detections(picture(), rectangles([(5, 5, 50, 40)], scores=None, classes=(-1,)), COLORS)
    assert [label[:2] for label in written] == [
        ("triangle", "0.50"), ("circle", "0.13"), ("triangle", ""), ("circle", ""), ("crowd", "")]


# --------------------------------------------------------------------------------------------------- colours

def test_the_highest_score_is_on_top_and_has_the_first_colour():
    image = np.zeros((60, 80, 3), np.uint8)
    found = boxes_only([[10, 10, 40, 40], [10, 10, 40, 40]], [0.2, 0.8])
    assert tuple(draw_detections(image, found, COLORS, show_text=False)[10, 25]) == COLORS[0][::-1]
    ground_truth = boxes_only([[10, 10, 40, 40], [20, 10, 50, 40]], None)
    drawn = draw_detections(image, ground_truth, COLORS, show_text=False)
    assert tuple(drawn[10, 25]) == COLORS[0][::-1] and tuple(drawn[10, 45]) == COLORS[5][::-1]


def test_colours_go_by_instance_or_by_class():
    image = np.zeros((60, 80, 3), np.uint8)
    found = rectangles([(0, 30, 20, 50), (60, 0, 80, 20), (30, 0, 50, 20), (0, 0, 20, 20)],
                       scores=(0.1, 0.2, 0.3, 0.4), classes=(0, 1, 2, 0))

    def colors(**options):
        drawn = draw_detections(image, found, COLORS, show_masks=False, show_text=False, **options)
        return [tuple(drawn[row, column])[::-1] for row, column in ((10, 0), (10, 30), (10, 60), (40, 0))]

    assert colors() == [COLORS[0], COLORS[5], COLORS[4], COLORS[3]]  # 0, 5, 10, 15 modulo 6
    assert colors(color_by="class") == [COLORS[0], COLORS[4], COLORS[5], COLORS[0]]
    with pytest.raises(ValueError, match="'instance' or 'class', not 'box'"):
        colors(color_by="box")


def test_a_crowd_has_a_colour_too():
    assert color_of(-1, COLORS) == COLORS[1][::-1]


# ------------------------------------------------------------------------------------------- ordinary oddities

def test_boxes_lie_on_their_pixels_and_are_cut_at_the_border():
    image = np.zeros((60, 80, 3), np.uint8)
    drawn = draw_detections(image, boxes_only([[-20, 5, 300, 30]], [0.5]), COLORS, show_text=False)
    assert drawn[5].any(axis=1).all() and drawn[30].any(axis=1).all()
    assert drawn[5:31, [0, -1]].any(axis=2).all()  # closed at the border
    assert not drawn[6:30, 1:-1].any() and not drawn[:5].any() and not drawn[31:].any()
    outside = draw_detections(image, boxes_only([[90, 70, 80, 60], [-9, -9, -3, -3]], [0.5, 0.4]), COLORS)
    assert not outside.any()


def test_an_empty_mask_draws_no_mask():
    image = picture()
    found = Instances([0], [0.9], [[0, 0, 9, 9]], np.zeros((1, 60, 80), bool), NAMES, 60, 80)
    assert np.array_equal(draw_detections(image, found, COLORS, **ONLY_MASKS), image)


@pytest.mark.parametrize("height, width", [(1, 1), (1, 200), (200, 1), (7, 5), (20, 600), (600, 20)])
def test_tiny_and_long_pictures_are_ordinary(height, width):
    image = picture(height, width)
    drawn = draw_detections(image, rectangles([(0, 0, width, height)], height, width), COLORS)
    assert drawn.shape == image.shape and not np.array_equal(drawn, image)


# --------------------------------------------------------------------------------------------------- resizing

@pytest.mark.parametrize("new_size", [(30, 40), (60, 80), (90, 120), (237, 316), (41, 95)])
def test_resized_windows_are_the_resized_mask(new_size):
    mask = cv2.circle(np.zeros((60, 80), np.uint8), (50, 30), 20, 1, -1).astype(bool)
    found = Instances([0], None, [[30, 10, 70, 50]], mask[np.newaxis], NAMES, 60, 80)
    x, y, window = resize_window(found.window(0), (60, 80), new_size)
    resized = np.zeros(new_size, bool)
    resized[y:y + window.shape[0], x:x + window.shape[1]] = window
    soft = cv2.resize(mask.astype(np.float32), new_size[::-1], interpolation=cv2.INTER_LINEAR)
    clear = np.abs(soft - 0.5) > 1e-3
    assert (resized == (soft > 0.5))[clear].all() and clear.mean() > 0.9
    assert window.size < resized.size


def test_resized_masks_reach_the_border_and_empty_ones_stay_empty():
    x, y, window = resize_window((0, 0, np.ones((6, 8), bool)), (6, 8), (20, 31))
    assert (x, y) == (0, 0) and window.shape == (20, 31) and window.all()
    assert resize_window((0, 0, np.zeros((0, 0), bool)), (6, 8), (20, 31))[2].size == 0


# ------------------------------------------------------------------------------------------------------ files

def test_pictures_are_written_whole_or_not_at_all(tmp_path):
    write_image(str(tmp_path / "new" / "a.png"), picture())
    assert np.array_equal(cv2.imread(str(tmp_path / "new" / "a.png")), picture())
    with pytest.raises(OSError, match=r"cannot write the format '\.abc'; take \.png or \.jpg"):
        write_image(str(tmp_path / "a.abc"), picture())


def test_importing_needs_no_matplotlib_and_drawing_no_pyplot():
    code = ("import sys, numpy as np, utils.visualize as v, utils.instances as i, utils.comparison_page, utils.lincomb;"
            "assert 'matplotlib' not in sys.modules;"
            "found = i.Instances([0], [0.5], [[20, 20, 80, 80]], None, ['a'], 100, 100);"
            "assert v.draw_detections(np.zeros((100, 100, 3), np.uint8), found, [(9, 9, 9)]).any();"
            "assert 'matplotlib.pyplot' not in sys.modules and 'matplotlib.font_manager' not in sys.modules")
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
