"""Box geometry, mask cropping and the matching of priors: equal to the original's on stored inputs."""
import numpy as np
import paddle
import parity
import pytest

from layers import box_utils
from layers.matching import best_prior_each, match

THRESHOLDS = (0.5, 0.4, 0.7)  # positive, negative, crowd


@pytest.fixture(scope="module")
def golden():
    return parity.goldens("boxutils.npz")


def tensors(golden, *keys):
    return [paddle.to_tensor(golden[key]) for key in keys]


def assert_close(ours, theirs, atol=1e-6, rtol=1e-5):
    ours = ours.numpy()
    assert ours.dtype == theirs.dtype
    np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=atol)


# --- forms and overlaps -------------------------------------------------------------------------------------

def test_intersect(golden):
    assert_close(box_utils.intersect(*tensors(golden, "a", "b")), golden["intersect"][0])


def test_jaccard(golden):
    assert (golden["jaccard"] > 0.1).any() and (golden["jaccard"] == 0).any()
    assert_close(box_utils.jaccard(*tensors(golden, "a", "b")), golden["jaccard"])


def test_jaccard_of_a_crowd_divides_by_the_first_area(golden):
    assert_close(box_utils.jaccard(*tensors(golden, "a", "b"), iscrowd=True), golden["jaccard_crowd"])


def test_jaccard_of_a_batch(golden):
    assert_close(box_utils.jaccard(*tensors(golden, "a3", "b3")), golden["jaccard_batch"])


def test_box_area():
    boxes = paddle.to_tensor([[[0.1, 0.2, 0.4, 0.8], [0.5, 0.5, 0.5, 0.9]]])
    np.testing.assert_allclose(box_utils.box_area(boxes).numpy(), [[0.18, 0]], atol=1e-7)


def test_centre_and_corner_forms(golden):
    [boxes] = tensors(golden, "a")
    centred = box_utils.center_size(boxes)
    assert_close(centred, golden["center_size"])
    assert_close(box_utils.point_form(centred), golden["point_form"])
    np.testing.assert_allclose(golden["point_form"], golden["a"], atol=1e-6)


# --- offsets ------------------------------------------------------------------------------------------------

def test_encode(golden):
    assert_close(box_utils.encode(*tensors(golden, "matched", "priors")), golden["encode"], atol=1e-5)


def test_decode(golden):
    assert_close(box_utils.decode(*tensors(golden, "loc", "priors")), golden["decode"])


def test_decode_takes_a_batch(golden):
    loc, priors = tensors(golden, "loc", "priors")
    batch = box_utils.decode(paddle.stack([loc * 0, loc]), priors)
    assert_close(batch[1], golden["decode"])
    assert_close(batch[0], box_utils.point_form(priors).numpy())


def test_decode_undoes_encode(golden):
    matched, priors = tensors(golden, "matched", "priors")
    assert_close(box_utils.decode(box_utils.encode(matched, priors), priors), golden["matched"])


# --- pixels and cropping ------------------------------------------------------------------------------------

@pytest.mark.parametrize("padding", [0, 1])
def test_sanitize_coordinates(golden, padding):
    expected = golden[f"sanitize/cast0_pad{padding}"]
    low, high = box_utils.sanitize_coordinates(*tensors(golden, "s1", "s2"), 137, padding)
    assert_close(low, expected[0], atol=1e-4)
    assert_close(high, expected[1], atol=1e-4)


def test_sanitize_orders_clamps_and_leaves_what_is_outside_outside():
    x1 = paddle.to_tensor([0.5, -0.1, 0.9, 1.2, -0.5])
    x2 = paddle.to_tensor([0.2, 0.3, 1.3, 1.4, -0.2])
    low, high = box_utils.sanitize_coordinates(x1, x2, 10)
    np.testing.assert_allclose(low.numpy(), [2, 0, 9, 12, 0], rtol=1e-6)
    np.testing.assert_allclose(high.numpy(), [5, 3, 10, 10, -2], rtol=1e-6)


@pytest.mark.parametrize("padding, key", [(1, "crop"), (0, "crop_pad0")])
def test_crop(golden, padding, key):
    masks, boxes = tensors(golden, "crop_masks", "crop_boxes")
    assert_close(box_utils.crop(masks, boxes, padding), golden[key], atol=0, rtol=0)
    assert (golden[key] == 0).any() and (golden["crop"] != golden["crop_pad0"]).any()


def test_crop_pads_by_one_pixel_unless_told(golden):
    masks, boxes = tensors(golden, "crop_masks", "crop_boxes")
    assert_close(box_utils.crop(masks, boxes), golden["crop"], atol=0, rtol=0)


def test_crop_keeps_the_low_edge_and_leaves_the_high_edge_out():
    """Of a 4 x 8 mask, the box from (2, 1) to (5, 3) pixels; rows and columns are not mixed up."""
    boxes = paddle.to_tensor([[2 / 8, 1 / 4, 5 / 8, 3 / 4]])
    inside = box_utils.crop(paddle.ones([4, 8, 1]), boxes, padding=0).numpy()[..., 0]
    expected = np.zeros([4, 8])
    expected[1:3, 2:5] = 1
    np.testing.assert_array_equal(inside, expected)


def test_crop_lets_gradients_through_inside_only():
    masks = paddle.ones([4, 8, 1])
    masks.stop_gradient = False
    cropped = box_utils.crop(masks, paddle.to_tensor([[0.25, 0.25, 0.625, 0.75]]), padding=0)
    cropped.sum().backward()
    np.testing.assert_array_equal(masks.grad.numpy(), cropped.numpy())


# --- matching -----------------------------------------------------------------------------------------------

def run_match(boxes, labels, priors, crowd_boxes=None, thresholds=THRESHOLDS):
    crowd_boxes = np.zeros([0, 4], "float32") if crowd_boxes is None else crowd_boxes
    arrays = [np.asarray(boxes, "float32").reshape(-1, 4), np.asarray(labels, "int64"),
              np.asarray(crowd_boxes, "float32"), np.asarray(priors, "float32")]
    loc, conf, index = match(*[paddle.to_tensor(array) for array in arrays], *thresholds)
    assert str(conf.dtype).endswith("int64") and str(index.dtype).endswith("int64")
    return loc.numpy(), conf.numpy(), index.numpy()


@pytest.mark.parametrize("case, truths, labels, crowd", [
    ("match", "truths", None, None),
    ("match_crowd", "truths", None, "crowd_boxes"),
    ("match_tie", "truths_tie", [3, 4, 5], None),
])
def test_match(golden, case, truths, labels, crowd):
    labels = golden["labels"] if labels is None else labels
    loc, conf, index = run_match(golden[truths], labels, golden["priors"], crowd and golden[crowd])
    np.testing.assert_array_equal(conf, golden[f"{case}/conf_t"])
    np.testing.assert_array_equal(index, golden[f"{case}/idx_t"])
    np.testing.assert_allclose(loc, golden[f"{case}/loc_t"], rtol=1e-5, atol=1e-5)
    assert (conf > 0).any() and (conf == 0).any() and ((conf == -1).any() or case == "match_tie")


def test_the_crowd_of_the_stored_case_matters(golden):
    changed = golden["match/conf_t"] != golden["match_crowd/conf_t"]
    assert changed.any() and (golden["match_crowd/conf_t"][changed] == -1).all()


def test_thresholds_belong_to_the_class_above_them():
    """IoU 1, exactly 0.5, 0.375, exactly 0.25 and 0.125 with the one object, thresholds 0.5 and 0.25."""
    widths = np.array([1, 0.5, 0.375, 0.25, 0.125])
    priors = np.stack([widths / 2, np.full(5, 0.5), widths, np.ones(5)], axis=1)
    _, conf, _ = run_match([[0, 0, 1, 1]], [7], priors, thresholds=(0.5, 0.25, 0.7))
    np.testing.assert_array_equal(conf, [8, 8, -1, -1, 0])


def test_crowds_take_what_is_over_the_threshold_of_the_prior_s_own_area():
    """Exactly 0.75 of the prior in the crowd stays background, 0.875 is neutral; a positive stays one."""
    centres = np.array([0.375, 0.3125, 0.9])
    priors = np.stack([centres, np.full(3, 0.5), [0.5, 0.5, 0.2], np.ones(3)], axis=1)
    crowd = [[0, 0, 0.5, 1]]
    _, conf, _ = run_match([[0.8, 0, 1, 1]], [1], priors, crowd, (0.5, 0.4, 0.75))
    np.testing.assert_array_equal(conf, [0, -1, 2])
    _, conf, _ = run_match([[0, 0, 0.5, 1]], [1], priors, [[0, 0, 1, 1]], (0.5, 0.4, 0.75))
    np.testing.assert_array_equal(conf, [2, 2, -1])


def test_one_of_several_crowds_is_enough():
    priors = [[0.25, 0.5, 0.4, 0.4], [0.75, 0.5, 0.4, 0.4], [0.5, 0.5, 0.2, 0.2]]
    _, conf, _ = run_match([[0.4, 0.4, 0.6, 0.6]], [1], priors, [[0, 0, 0.5, 1], [0.9, 0, 1, 0.1]])
    np.testing.assert_array_equal(conf, [-1, 0, 2])


def test_every_object_gets_a_prior_however_little_they_overlap():
    priors = [[0.5, 0.5, 0.9, 0.9], [0.5, 0.5, 0.8, 0.8]]
    tiny = [[0.5, 0.5, 0.51, 0.51]]
    _, conf, _ = run_match(tiny, [3], priors)
    np.testing.assert_array_equal(conf, [0, 4])


def test_no_objects_leave_everything_background_but_the_crowd():
    priors = [[0.25, 0.5, 0.4, 0.4], [0.75, 0.5, 0.4, 0.4]]
    loc, conf, index = run_match([], [], priors)
    np.testing.assert_array_equal(conf, [0, 0])
    assert loc.shape == (2, 4) and np.isfinite(loc).all() and index.shape == (2,)
    _, conf, _ = run_match([], [], priors, [[0, 0, 0.5, 1]])
    np.testing.assert_array_equal(conf, [-1, 0])


def test_more_objects_than_priors():
    """Both priors are taken by the objects that fit best; nothing fails."""
    priors = [[0.25, 0.5, 0.5, 1], [0.75, 0.5, 0.5, 1]]
    boxes = [[0, 0, 0.4, 1], [0, 0, 0.5, 1], [0.5, 0, 1, 1]]
    _, conf, index = run_match(boxes, [0, 1, 2], priors)
    np.testing.assert_array_equal(index, [1, 2])
    np.testing.assert_array_equal(conf, [2, 3])


def greedy_reference(overlaps):
    """The original's loop in plain form: the highest overlap left, then its row and column are gone."""
    overlaps = overlaps.copy()
    pairs = []
    for _ in range(len(overlaps)):
        row, column = np.unravel_index(overlaps.argmax(), overlaps.shape)
        pairs.append((int(row), int(column)))
        overlaps[row], overlaps[:, column] = -1, -1
    return pairs


@pytest.mark.parametrize("seed", range(20))
def test_best_prior_each_is_the_plain_greedy_choice(seed):
    random = np.random.RandomState(seed)
    overlaps = random.rand(random.randint(1, 12), random.randint(12, 30)).astype("float32")
    if seed % 2:  # few columns are wanted by many rows, and many overlaps are 0
        overlaps *= (random.rand(overlaps.shape[1]) < 0.2) + 0.01 * (random.rand(*overlaps.shape) < 0.5)
    expected = greedy_reference(overlaps)
    chosen = [(int(row), int(column)) for row, column in best_prior_each(overlaps.copy())]
    if seed % 2:  # zeros tie: which row comes first then has no meaning
        assert [pair for pair in chosen if overlaps[pair]] == [pair for pair in expected if overlaps[pair]]
        assert len({column for _, column in chosen}) == len({row for row, _ in chosen}) == len(overlaps)
    else:
        assert chosen == expected
