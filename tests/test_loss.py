"""The loss: terms, matches and gradients equal the original's; each term equals a plain version in numpy."""
import copy
from types import SimpleNamespace

import numpy as np
import paddle
import parity
import pytest

from data.config import get_config
from layers import losses
from layers.matching import match
from layers.multibox_loss import MultiBoxLoss
from layers.output_utils import assemble_masks

# --- whole networks -----------------------------------------------------------------------------------------

LOSS_TOLERANCE = 1e-4  # relative; the original in float32 is within 2e-7 of itself in float64
NORM_TOLERANCE = 2e-3  # relative; the original's own noise reaches 9e-4
SAMPLE_TOLERANCE = 3e-2  # of a sample's abs-max; the original's own noise reaches 1.5e-2


@pytest.fixture(scope="module", params=parity.LOSS_CONFIGS)
def measured(request):
    """Loss and gradients of one network on two pictures, and the figures of the original."""
    return parity.loss(request.param)


def test_losses_equal_the_original(measured):
    names, values = [str(name) for name in measured.golden["loss_names"]], measured.golden["losses"]
    assert list(measured.losses) == names == list("BMCIS" if measured.config.use_maskiou else "BMCS")
    np.testing.assert_allclose([measured.losses[name] for name in names], values, rtol=LOSS_TOLERANCE)
    np.testing.assert_allclose(sum(measured.losses.values()), measured.golden["total"], rtol=LOSS_TOLERANCE)


def test_matches_equal_the_original(measured):
    config, golden = measured.config, measured.golden
    thresholds = (config.positive_iou_threshold, config.negative_iou_threshold, config.crowd_iou_threshold)
    crowded = 0
    for i, target in enumerate(measured.targets):
        objects = len(target.labels) - target.num_crowds
        crowded += target.num_crowds
        arrays = (target.boxes[:objects], target.labels[:objects], target.boxes[objects:], measured.priors)
        loc, conf, index = (x.numpy() for x in match(*map(paddle.to_tensor, arrays), *thresholds))
        positive = np.flatnonzero(conf > 0)
        np.testing.assert_array_equal(positive, golden[f"match/{i}/pos"])
        np.testing.assert_array_equal(conf[positive], golden[f"match/{i}/conf_t"])
        np.testing.assert_array_equal(index[positive], golden[f"match/{i}/idx_t"])
        np.testing.assert_allclose(loc[positive], golden[f"match/{i}/loc_t"], rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(np.flatnonzero(conf < 0), golden[f"match/{i}/neutral"])
    assert crowded == 1


def test_gradient_norms_equal_the_original(measured):
    golden = measured.golden
    expected = dict(zip(map(str, golden["grad_names"]), golden["grad_norms"].astype("float64")))
    assert set(measured.norms) == set(expected)
    wrong = {name: (measured.norms[name], norm) for name, norm in expected.items()
             if not abs(measured.norms[name] - norm) <= NORM_TOLERANCE * norm}
    assert not wrong


def test_sampled_gradients_equal_the_original(measured):
    samples = parity.samples_of(measured.golden, "grad/")
    assert len(samples) == 30
    for name, (_, expected) in samples.items():
        error = np.abs(measured.sampled[name] - expected).max() / np.abs(expected).max()
        assert error <= SAMPLE_TOLERANCE, name


def test_frozen_batch_norm_alone_has_no_gradient(measured):
    assert measured.without == set(map(str, measured.golden["nograd_names"]))


def test_targets_are_not_modified(measured):
    assert_unchanged(measured.targets, measured.before)


def assert_unchanged(targets, before):
    for target, old in zip(targets, before):
        for name, value in vars(old).items():
            np.testing.assert_array_equal(getattr(target, name), value, err_msg=name)


# --- the terms in plain numpy -------------------------------------------------------------------------------

def plain_box_loss(loc, target):
    distance = np.abs(loc - target)
    return np.where(distance < 1, distance ** 2 / 2, distance - 0.5).sum()


def log_softmax(logits):
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def plain_conf_loss(conf, target, ratio):
    total = 0.0
    for logits, labels in zip(log_softmax(conf), target):
        positive = np.flatnonzero(labels > 0)
        background = np.flatnonzero(labels == 0)
        hardest = background[np.argsort(logits[background, 0])]
        chosen = hardest[:min(ratio * len(positive), len(labels) - 1)]
        total -= logits[positive, labels[positive]].sum() + logits[chosen, 0].sum()
    return total


def plain_crop(height, width, box):
    """1 inside the box widened by a pixel, 0 outside."""
    x, y = np.arange(width), np.arange(height)[:, None]
    low_x, high_x = max(box[0] * width - 1, 0), min(box[2] * width + 1, width)
    low_y, high_y = max(box[1] * height - 1, 0), min(box[3] * height + 1, height)
    return ((x >= low_x) & (x < high_x) & (y >= low_y) & (y < high_y)).astype("float64")


def plain_mask_loss(proto, coeffs, gt_boxes, gt_masks, gt_index, crop=True):
    """For each positive, h * w (uncropped: once) times the sum over pixels divided by the box's pixels."""
    height, width = proto.shape[:2]
    each = []
    for coeff, box, index in zip(coeffs, gt_boxes, gt_index):
        predicted = 1 / (1 + np.exp(-proto @ coeff))
        if crop:
            predicted = predicted * plain_crop(height, width, box)
        target = gt_masks[index]
        with np.errstate(divide="ignore"):  # logarithms end at -100, as in both frameworks
            present, absent = np.log(predicted).clip(-100), np.log(1 - predicted).clip(-100)
        pixels = -(target * present + (1 - target) * absent)
        area = (box[2] - box[0]) * width * (box[3] - box[1]) * height
        each.append(pixels.sum() / area * (height * width if crop else 1))
    return np.array(each)


def plain_segmentation_loss(segm, gt_masks, labels):
    target = np.zeros_like(segm)
    for mask, label in zip(gt_masks, labels):
        target[label] = np.maximum(target[label], mask)
    probability = 1 / (1 + np.exp(-segm))
    return -(target * np.log(probability) + (1 - target) * np.log(1 - probability)).sum()


def tensors(*arrays):
    """As the losses take them: float64 becomes float32, integers int64."""
    types = {"f": "float32", "i": "int64"}
    return [paddle.to_tensor(array.astype(types[array.dtype.kind])) for array in arrays]


def test_box_loss_is_smooth_l1():
    random = np.random.RandomState(0)
    loc, target = 2 * random.standard_normal([2, 30, 4])
    assert (np.abs(loc - target) < 1).any() and (np.abs(loc - target) > 1).any()
    ours = losses.box_loss(*tensors(loc, target)).item()
    np.testing.assert_allclose(ours, plain_box_loss(loc, target), rtol=1e-5)


@pytest.mark.parametrize("case", ["usual", "few backgrounds", "nearly all positive", "none in one picture"])
def test_conf_loss_mines_hard_negatives_in_each_picture(case):
    random = np.random.RandomState(1)
    conf = 3 * random.standard_normal([2, 40, 5])
    target = np.zeros([2, 40], "int64")
    target[0, :4], target[1, :7] = random.randint(1, 5, 4), random.randint(1, 5, 7)
    target[:, 7:12] = -1
    if case == "few backgrounds":
        target[1, 10:] = -1  # fewer than three times the positives
    elif case == "nearly all positive":
        target[0] = 1
        target[1, 1:] = 2
    elif case == "none in one picture":
        target[1] = target[1].clip(max=0)
    target = target[:, random.permutation(40)]
    ours = losses.ohem_conf_loss(*tensors(conf, target), 3).item()
    np.testing.assert_allclose(ours, plain_conf_loss(conf, target, 3), rtol=1e-5)


def test_conf_loss_of_large_logits():
    """And not cut off: a confident mistake costs as much as it is wrong by."""
    conf = np.zeros([1, 6, 3])
    conf[0, 0] = 0, 80, 0
    conf[0, 1] = -80, 0, -80
    target = np.array([[2, 0, 0, 0, 0, 0]])
    ours = losses.ohem_conf_loss(*tensors(conf, target), 3).item()
    np.testing.assert_allclose(ours, 80 + 80 + 2 * np.log(3), rtol=1e-5)


def made_up_masks(seed=0, positives=5, objects=3, height=12, width=16, coeffs=4):
    """Arguments of the mask loss of one picture; boxes are the masks' extents."""
    random = np.random.RandomState(seed)
    masks, boxes = np.zeros([objects, height, width]), np.zeros([objects, 4])
    for mask, box in zip(masks, boxes):
        x, y = random.randint(0, width - 6), random.randint(0, height - 5)
        w, h = random.randint(3, 7), random.randint(2, 6)
        mask[y:y + h, x:x + w] = random.rand(h, w) < 0.8
        box[:] = x / width, y / height, (x + w) / width, (y + h) / height
    index = random.randint(0, objects, positives)
    proto = random.standard_normal([height, width, coeffs])
    return proto, random.standard_normal([positives, coeffs]), boxes[index], masks, index


def our_mask_loss(proto, coeffs, boxes, masks, index, crop=True):
    proto, coeffs, boxes, masks = tensors(proto, coeffs, boxes, masks[index].transpose(1, 2, 0))
    return losses.mask_loss(assemble_masks(proto, coeffs, boxes, crop), masks, boxes, crop).item()


@pytest.mark.parametrize("crop", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_mask_loss_equals_the_plain_one(seed, crop):
    arguments = made_up_masks(seed)
    np.testing.assert_allclose(our_mask_loss(*arguments, crop), plain_mask_loss(*arguments, crop=crop).sum(), rtol=1e-5)


def test_mask_loss_counts_what_the_crop_removed():
    """The ground truth is not cropped: a pixel of it outside the box costs the largest logarithm, 100."""
    proto, coeffs, boxes, masks, index = made_up_masks()
    before = our_mask_loss(proto, coeffs, boxes, masks, index)
    masks[:, 0, 0] = 1  # no box reaches the corner
    after = our_mask_loss(proto, coeffs, boxes, masks, index)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    np.testing.assert_allclose(after - before, (100 / areas).sum(), rtol=1e-4)


def picture_with(positives, seed=0):
    return SimpleNamespace(positives=paddle.arange(10, 10 + positives), gt_index=paddle.arange(positives),
                           seed=(seed,))


def test_more_positives_than_masks_to_train_are_sampled_and_scaled_up():
    """A random choice without repetition; another draw gives another, and the loss is scaled to all."""
    seen = set()
    for seed in range(8):
        chosen, objects, scale = criterion(masks_to_train=3)._sample(picture_with(5, seed))
        assert scale == 5 / 3 and len(set(chosen.tolist())) == 3
        assert (chosen - 10).tolist() == objects.tolist()
        seen.add(tuple(sorted(chosen.tolist())))
    assert len(seen) > 1
    for enough in (5, 6):
        chosen, objects, scale = criterion(masks_to_train=enough)._sample(picture_with(5))
        assert chosen.tolist() == list(range(10, 15)) and objects.tolist() == list(range(5)) and scale == 1


def test_the_mask_loss_of_a_sample_estimates_that_of_all():
    """Of one positive at a time, scaled up: the mean over all positives is the loss without sampling."""
    out, target = made_up_outputs(batch=1), made_up_target(3, 0, seed=1)
    every = values(criterion()(out, [target]))["M"]
    one = criterion(masks_to_train=1)
    single = {values(one(out, [target], key=(seed,)))["M"] for seed in range(60)}
    assert len(single) > 3
    np.testing.assert_allclose(np.mean(list(single)), every, rtol=1e-5)


def test_the_choice_of_masks_depends_on_the_picture_and_not_on_its_batch():
    """So that a batch may be spread over parts and processes: their terms add up to those of the whole."""
    out, targets = made_up_outputs(batch=3), [made_up_target(3, 0, seed=seed) for seed in (1, 2, 3)]
    for number, target in enumerate(targets):
        target.image_id = number
    loss = criterion(masks_to_train=1)
    whole = values(loss(out, targets, key=(7, 8)))
    assert whole != values(loss(out, targets, key=(7, 9)))
    parts = [loss.match(some, out["priors"], (7, 8)) for some in (targets[:1], targets[1:])]
    positives = sum(len(picture.positives) for part in parts for picture in part)
    outputs = [{name: value if name == "priors" else value[rows] for name, value in out.items()}
               for rows in (slice(0, 1), slice(1, 3))]
    terms = [values(loss.terms(some, part, positives, 3)) for some, part in zip(outputs, parts)]
    for name, value in whole.items():
        np.testing.assert_allclose(sum(term[name] for term in terms), value, rtol=1e-5)


def test_segmentation_loss_is_against_the_union_of_each_class():
    random = np.random.RandomState(0)
    segm = random.standard_normal([4, 7, 9])
    masks = (random.rand(3, 7, 9) < 0.5).astype("float64")
    labels = np.array([2, 0, 2])
    assert (masks[0] * masks[2]).any()
    ours = losses.semantic_segmentation_loss(*tensors(segm, masks, labels)).item()
    np.testing.assert_allclose(ours, plain_segmentation_loss(segm, masks, labels), rtol=1e-5)


def test_masks_are_binary_after_bilinear_downsampling():
    """4 x 8 to 2 x 4 averages cells of 2 x 2 pixels; only more than a half is foreground."""
    masks = np.zeros([2, 4, 8], "uint8")
    masks[0, :2, 0] = 1  # half of a cell
    masks[0, :2, 2:4] = [[1, 1], [1, 0]]  # three quarters
    masks[1, 2:, 6:] = 1
    small = losses.downsample_masks(paddle.to_tensor(masks), 2, 4).numpy()
    assert small.dtype == "float32"
    expected = np.zeros([2, 2, 4])
    expected[0, 0, 1] = expected[1, 1, 3] = 1
    np.testing.assert_array_equal(small, expected)


def test_downsampling_by_four_looks_at_the_centre_of_a_cell():
    """Bilinear without antialiasing, as the original: of a 4 x 4 cell only the inner 2 x 2 pixels count."""
    masks = np.zeros([1, 8, 8], "uint8")
    masks[0, 1:3, 1:3] = 1
    masks[0, 4:, 4:] = 1
    masks[0, 5:7, 5:7] = 0
    np.testing.assert_array_equal(losses.downsample_masks(paddle.to_tensor(masks), 2, 2).numpy(),
                                  [[[1, 0], [0, 0]]])


# --- the criterion ------------------------------------------------------------------------------------------

PRIORS, CLASSES, COEFFS, SIZE = 120, 6, 4, 16


def made_up_outputs(batch=2, seed=0):
    """What a small network would return in training, with gradients to be had."""
    random = np.random.RandomState(seed)
    arrays = {"loc": random.standard_normal([batch, PRIORS, 4]),
              "conf": random.standard_normal([batch, PRIORS, CLASSES]),
              "mask": np.tanh(random.standard_normal([batch, PRIORS, COEFFS])),
              "proto": random.standard_normal([batch, SIZE, SIZE, COEFFS]).clip(0),
              "segm": random.standard_normal([batch, CLASSES - 1, SIZE, SIZE])}
    out = {name: paddle.to_tensor(array.astype("float32")) for name, array in arrays.items()}
    for value in out.values():
        value.stop_gradient = False
    centre, size = random.uniform(0.1, 0.9, [PRIORS, 2]), random.uniform(0.15, 0.5, [PRIORS, 2])
    out["priors"] = paddle.to_tensor(np.concatenate([centre, size], axis=1).astype("float32"))
    return out


def made_up_target(objects=3, crowds=0, seed=0, size=64):
    random = np.random.RandomState(seed)
    count = objects + crowds
    masks, boxes = np.zeros([count, size, size], "uint8"), np.zeros([count, 4], "float32")
    for mask, box in zip(masks, boxes):
        x, y = random.randint(0, size - 32, 2)
        w, h = random.randint(16, 33, 2)
        mask[y:y + h, x:x + w] = 1
        box[:] = x / size, y / size, (x + w) / size, (y + h) / size
    labels = np.concatenate([random.randint(0, CLASSES - 1, objects), np.full(crowds, -1)]).astype("int64")
    return SimpleNamespace(boxes=boxes, labels=labels, masks=masks, num_crowds=crowds, image_id=seed)


def criterion(**overrides):
    return MultiBoxLoss(get_config("yolact_base").copy(overrides))


def values(terms):
    return {name: term.item() for name, term in terms.items()}


def test_the_criterion_weighs_and_normalises_the_terms():
    config = get_config("yolact_base")
    out, targets = made_up_outputs(), [made_up_target(3, 1, seed=1), made_up_target(2, 0, seed=2)]
    ours = values(MultiBoxLoss(config)(out, targets))
    arrays = {name: value.numpy().astype("float64") for name, value in out.items()}
    box = mask = segm = 0.0
    conf_targets, positives = [], 0
    for i, target in enumerate(targets):
        count = len(target.labels) - target.num_crowds
        split = (target.boxes[:count], target.labels[:count], target.boxes[count:], out["priors"].numpy())
        loc, conf, index = (x.numpy() for x in match(*map(paddle.to_tensor, split), 0.5, 0.4, 0.7))
        chosen = np.flatnonzero(conf > 0)
        positives += len(chosen)
        conf_targets.append(conf)
        small = losses.downsample_masks(paddle.to_tensor(target.masks[:count]), SIZE, SIZE).numpy()
        index = index[chosen]
        box += plain_box_loss(arrays["loc"][i, chosen], loc[chosen])
        coeffs = arrays["mask"][i, chosen]
        mask += plain_mask_loss(arrays["proto"][i], coeffs, target.boxes[index], small, index).sum()
        segm += plain_segmentation_loss(arrays["segm"][i], small, target.labels[:count])
    conf = plain_conf_loss(arrays["conf"], conf_targets, 3)
    assert positives > 5
    expected = {"B": box * config.bbox_alpha / positives, "C": conf * config.conf_alpha / positives,
                "M": mask * config.mask_alpha / positives / SIZE ** 2,
                "S": segm * config.semantic_segmentation_alpha / 2 / SIZE ** 2}
    assert list(ours) == ["B", "M", "C", "S"]
    for name, value in expected.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("key, name", [("bbox_alpha", "B"), ("mask_alpha", "M"), ("conf_alpha", "C"),
                                       ("semantic_segmentation_alpha", "S")])
def test_each_weight_scales_its_own_term(key, name):
    out, targets = made_up_outputs(1), [made_up_target()]
    before = values(criterion()(out, targets))
    after = values(criterion(**{key: 2 * getattr(get_config("yolact_base"), key)})(out, targets))
    for term, value in before.items():
        np.testing.assert_allclose(after[term], 2 * value if term == name else value, rtol=1e-6)


def test_fewer_negatives_cost_less():
    """ohem_negpos_ratio comes from the config; without negatives C is that of the positives alone."""
    out, targets = made_up_outputs(1), [made_up_target()]
    costs = [values(criterion(ohem_negpos_ratio=ratio)(out, targets)) for ratio in (1, 2, 3)]
    assert costs[0]["C"] < costs[1]["C"] < costs[2]["C"]
    assert {name: costs[0][name] for name in "BMS"} == {name: costs[2][name] for name in "BMS"}


def test_terms_follow_the_branches_of_the_network():
    out, targets = made_up_outputs(1), [made_up_target()]
    complete = values(criterion()(out, targets))
    del out["segm"]
    assert values(criterion()(out, targets)) == {name: complete[name] for name in "BMC"}
    del out["proto"]
    assert values(criterion()(out, targets)) == {name: complete[name] for name in "BC"}


NO_OBJECTS = {"empty": [(0, 0)], "only a crowd": [(0, 2)], "two empty": [(0, 0), (0, 1)]}


@pytest.mark.parametrize("case", NO_OBJECTS)
def test_without_objects_the_loss_is_finite_and_only_segmentation_counts(case):
    out = made_up_outputs(len(NO_OBJECTS[case]))
    targets = [made_up_target(*counts) for counts in NO_OBJECTS[case]]
    before = copy.deepcopy(targets)
    terms = criterion()(out, targets)
    assert list(terms) == ["B", "M", "C", "S"]
    assert [terms[name].item() for name in "BMC"] == [0, 0, 0]
    assert np.isfinite(terms["S"].item()) and terms["S"].item() > 0
    sum(terms.values()).backward()
    for name in ("loc", "conf", "mask", "proto"):
        assert out[name].grad is None or not out[name].grad.numpy().any()
    assert np.isfinite(out["segm"].grad.numpy()).all()
    assert_unchanged(targets, before)


@pytest.mark.parametrize("other", [(0, 0), (0, 2)])
def test_a_picture_without_objects_beside_one_with(other):
    """It adds nothing to B, M and C but its share of S; gradients are finite and stay in the other's rows."""
    out, target = made_up_outputs(2), made_up_target(3)
    terms = criterion()(out, [made_up_target(*other), target])
    second = {name: value if name == "priors" else value[1:] for name, value in out.items()}
    alone = criterion()(second, [target])
    for name in "BMC":
        np.testing.assert_allclose(terms[name].item(), alone[name].item(), rtol=1e-5)
    sum(terms.values()).backward()
    for name in ("loc", "conf", "mask", "proto", "segm"):
        gradient = out[name].grad.numpy()
        assert np.isfinite(gradient).all() and gradient[1].any()
        assert gradient[0].any() == (name == "segm")


def test_crowds_change_nothing_but_the_neutral_priors():
    """A crowd over the whole picture: no negative is left, and its mask is in neither M nor S."""
    out, target = made_up_outputs(1), made_up_target(3, 1)
    target.boxes[3] = 0, 0, 1, 1
    target.masks[3] = 1
    plain = SimpleNamespace(boxes=target.boxes[:3], labels=target.labels[:3], masks=target.masks[:3],
                            num_crowds=0, image_id=target.image_id)
    crowded, without = values(criterion()(out, [target])), values(criterion()(out, [plain]))
    assert {name: crowded[name] for name in "BMS"} == {name: without[name] for name in "BMS"}
    assert crowded["C"] < without["C"]


def test_masks_to_train_comes_from_the_config():
    """With equal coefficients all positives of an object cost the same: a sample scales up to the whole."""
    target = made_up_target(1)
    target.boxes[0] = 0.25, 0.25, 0.75, 0.75

    def mask_loss(equal_coeffs, key=0, **overrides):
        out = made_up_outputs(1)
        out["priors"][:6] = paddle.to_tensor([0.5, 0.5, 0.45, 0.5])  # six positives at least
        if equal_coeffs:
            out["mask"] = paddle.full_like(out["mask"], 0.3)
        return criterion(**overrides)(out, [target], key=(key,))["M"].item()

    np.testing.assert_allclose(mask_loss(True, masks_to_train=2), mask_loss(True), rtol=1e-5)
    assert len({mask_loss(False, key, masks_to_train=2) for key in range(6)}) > 1
    assert len({mask_loss(False, key) for key in range(3)}) == 1


def test_gradients_equal_finite_differences():
    """Along a random direction of every output, away from the kinks."""
    targets = [made_up_target(3, 1, seed=1), made_up_target(2, seed=2)]
    random = np.random.RandomState(3)
    for name in ("loc", "conf", "mask", "proto", "segm"):
        out = made_up_outputs()
        sum(criterion()(out, targets).values()).backward()
        direction = random.standard_normal(out[name].shape).astype("float32")
        step = 0.1 / np.sqrt(direction.size)
        both = []
        for sign in (1, -1):
            moved = made_up_outputs()
            moved[name] = moved[name] + sign * step * paddle.to_tensor(direction)
            both.append(sum(values(criterion()(moved, targets)).values()))
        expected = (out[name].grad.numpy().astype("float64") * direction).sum()
        difference = (both[0] - both[1]) / (2 * step)
        np.testing.assert_allclose(difference, expected, rtol=2e-2, atol=2e-3, err_msg=name)
