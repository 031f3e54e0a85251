"""Losses that the published networks leave off: each equals its formula in numpy."""

import numpy as np
import paddle
import pytest
from ablations import (
    CLASSES,
    FOCAL,
    MASK_IOU,
    SIDE,
    inside_box,
    made_up_outputs,
    made_up_target,
    plain_diversity,
    positives_of,
    sigmoid,
    smooth_l1,
    softmax,
    tensors,
    tiny,
)
from paddle import nn

from layers import ablation_losses, losses
from layers.heads import initial_conf_bias
from layers.mask_iou_net import FastMaskIoUNet
from layers.multibox_loss import FOCAL_LOSSES, MultiBoxLoss
from yolact import Yolact

# --- focal losses -------------------------------------------------------------------------------------------

ALPHA, GAMMA = 0.3, 1.7


def focal(p, alpha):
    """-alpha (1 - p)^gamma log p, Lin et al. 2017, eq. 5."""
    return -alpha * (1 - p) ** GAMMA * np.log(p)


def plain_softmax_focal(logits, label):
    return focal(softmax(logits)[label], ALPHA if label > 0 else 1 - ALPHA)


def plain_sigmoid_focal(logits, label):
    """Each class is a question of its own; the first logit answers none."""
    p = sigmoid(logits)
    return sum(focal(p[c], ALPHA) if c == label else focal(1 - p[c], 1 - ALPHA) for c in range(1, len(logits)))


def plain_objectness_focal(logits, label):
    p = sigmoid(logits[0])
    if label == 0:
        return focal(1 - p, 1 - ALPHA)
    return focal(p, ALPHA) - np.log(softmax(logits[1:])[label - 1])


PLAIN_FOCAL = {"focal": plain_softmax_focal, "sigmoid": plain_sigmoid_focal, "objectness": plain_objectness_focal}


@pytest.mark.parametrize("has_positives", [True, False])
@pytest.mark.parametrize("mode", FOCAL_LOSSES)
def test_focal_losses_are_their_formulas(mode, has_positives):
    random = np.random.RandomState(0)
    conf, target = 3 * random.standard_normal([2, 40, 5]), random.randint(-1, 5, [2, 40])
    if not has_positives:
        target = target.clip(max=0)
    expected = sum(PLAIN_FOCAL[mode](logits, label) for logits, label in zip(conf.reshape(-1, 5), target.ravel())
                   if label >= 0)
    ours = FOCAL_LOSSES[mode](*tensors(conf, target), alpha=ALPHA, gamma=GAMMA).item()
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


@pytest.mark.parametrize("mode", FOCAL_LOSSES)
def test_neutral_priors_and_unused_logits_do_not_count(mode):
    random = np.random.RandomState(1)
    conf, target = random.standard_normal([1, 12, 4]), np.arange(12).reshape(1, 12) % 5 - 1
    [conf, target] = tensors(conf, target)
    conf.stop_gradient = False
    FOCAL_LOSSES[mode](conf, target, alpha=ALPHA, gamma=GAMMA).backward()
    gradient = conf.grad.numpy()[0]
    neutral = target.numpy()[0] < 0
    assert neutral.any() and not gradient[neutral].any() and gradient[~neutral].any(axis=1).all()
    assert gradient[:, 0].any() == (mode != "sigmoid")


@pytest.mark.parametrize("mode", FOCAL_LOSSES)
def test_focal_losses_of_extreme_logits(mode):
    """Finite and not cut off: a confident mistake costs as much as it is wrong by, and being right nothing."""
    conf = np.array([[[60, -60, -60], [-60, 60, -60], [60, -60, -60], [-60, 60, -60], [0, 0, 0]]], "float64")
    target = np.array([[1, 0, 0, 1, -1]])
    [conf, target] = tensors(conf, target)
    conf.stop_gradient = False
    loss = FOCAL_LOSSES[mode](conf, target, alpha=ALPHA, gamma=GAMMA)
    loss.backward()
    assert np.isfinite(conf.grad.numpy()).all()
    expected = {"focal": 120,  # the first two priors, an object and background, which share alpha as 1
                "sigmoid": 60,  # the same ones, of which one class each is wrong
                "objectness": 60 + np.log(2)}[mode]  # the next two; the first object's classes are equally likely
    np.testing.assert_allclose(loss.item(), expected, rtol=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("mode", FOCAL_LOSSES)
def test_gradients_of_focal_losses_are_finite_where_the_network_is_certain(mode, gamma):
    """With a probability of 1 in single precision, and with every gamma of the paper's tables."""
    [conf, target] = tensors(np.array([[[30.0, -30, -30], [-30, 30, -30]]]), np.array([[0, 1]]))
    conf.stop_gradient = False
    FOCAL_LOSSES[mode](conf, target, alpha=ALPHA, gamma=gamma).backward()
    other = -conf.detach()  # for the objectness an object is where the first logit is high
    other.stop_gradient = False
    FOCAL_LOSSES[mode](other, target, alpha=ALPHA, gamma=gamma).backward()
    assert np.isfinite(conf.grad.numpy()).all() and np.isfinite(other.grad.numpy()).all()


@pytest.mark.parametrize("num_classes", [2, 4, 81])
@pytest.mark.parametrize("mode", FOCAL_LOSSES)
def test_a_new_network_s_share_of_foreground(mode, num_classes):
    """For every prior of a cell, not the first alone."""
    bias = initial_conf_bias(3 * num_classes, num_classes, mode, 0.01)
    assert bias.dtype == "float32"
    logits = bias.reshape(3, num_classes).astype("float64")
    if mode == "focal":
        np.testing.assert_allclose(1 - softmax(logits)[:, 0], 0.01, rtol=1e-5)
    else:
        asked = logits[:, 1:] if mode == "sigmoid" else logits[:, :1]
        np.testing.assert_allclose(sigmoid(asked), 0.01, rtol=1e-5)


@pytest.mark.parametrize("mode", FOCAL_LOSSES)
def test_the_network_starts_with_that_share(mode):
    config = tiny(focal_loss_init_pi=0.2, **FOCAL[mode])
    assert config.conf_mode == mode
    bias = Yolact(config).prediction_layers[0].conf_layer.bias.numpy()
    np.testing.assert_array_equal(bias, initial_conf_bias(len(bias), 4, mode, 0.2))
    assert bias.any() and not Yolact(tiny()).prediction_layers[0].conf_layer.bias.numpy().any()


# --- class existence, diversity -----------------------------------------------------------------------------

def test_class_existence_is_cross_entropy_of_the_classes_in_the_picture():
    """Also of a class that is there twice, and of a picture without objects."""
    logits = np.random.RandomState(0).standard_normal([3, 4])
    labels = [np.array([2, 0, 2]), np.zeros(0, "int64"), np.array([3])]
    expected = 0.0
    for picture, present in zip(sigmoid(logits), labels):
        for c, p in enumerate(picture):
            expected -= np.log(p if c in present else 1 - p)
    ours = ablation_losses.class_existence_loss(*tensors(logits), tensors(*labels)).item()
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_diversity_compares_all_pairs_of_coefficients():
    coeffs, index = np.random.RandomState(0).standard_normal([7, 4]), np.array([0, 1, 0, 2, 2, 2, 0])
    ours = ablation_losses.coeff_diversity_loss(*tensors(coeffs, index)).item()
    np.testing.assert_allclose(ours, plain_diversity(coeffs, index), rtol=1e-5)


def test_diversity_is_least_where_objects_point_in_opposite_directions():
    coeffs, index = np.array([[1.0, 2], [3, 6], [-1, -2]]), np.array([0, 0, 1])
    assert abs(ablation_losses.coeff_diversity_loss(*tensors(coeffs, index)).item()) < 1e-6
    assert abs(ablation_losses.coeff_diversity_loss(*tensors(coeffs, 1 - index)).item()) < 1e-6
    worst = ablation_losses.coeff_diversity_loss(*tensors(coeffs, np.array([0, 1, 0]))).item()
    np.testing.assert_allclose(worst, 4 / 3, rtol=1e-6)  # the first prior's pairs with both others cost 1


# --- direct masks -------------------------------------------------------------------------------------------

def plain_pooled_crop(mask, box, side):
    """PyTorch's adaptive average pooling of the box: cell i covers floor(i L / S) to ceil((i + 1) L / S)."""
    height, width = mask.shape
    x1, x2 = int(min(box[0], box[2]) * width), int(max(box[0], box[2]) * width)
    y1, y2 = int(min(box[1], box[3]) * height), int(max(box[1], box[3]) * height)
    pooled = np.zeros([side, side])
    for i in range(side):
        top, bottom = y1 + i * (y2 - y1) // side, y1 + int(np.ceil((i + 1) * (y2 - y1) / side))
        for j in range(side):
            left, right = x1 + j * (x2 - x1) // side, x1 + int(np.ceil((j + 1) * (x2 - x1) / side))
            if bottom > top and right > left:
                pooled[i, j] = mask[top:bottom, left:right].mean()
    return pooled


def masks_and_boxes():
    """(masks uint8 [3, 32, 64], boxes [n, 4], index [n]); the sides are powers of two, so that products are exact."""
    random = np.random.RandomState(0)
    masks = (random.rand(3, 32, 64) < 0.6).astype("uint8")
    boxes = np.sort(random.randint(0, 65, [12, 2, 2]) / 64, axis=1).reshape(-1, 4)
    special = np.array([[0, 0, 1, 1], [5 / 64, 0.25, 6 / 64, 0.75], [0.25, 4 / 32, 0.75, 5 / 32],  # a pixel wide, high
                        [3 / 64, 3 / 32, 4 / 64, 4 / 32],  # one pixel
                        [0.3, 0.2, 0.3, 0.9], [0.5, 0.5, 0.5, 0.5],  # empty
                        [0.101, 0.203, 0.777, 0.888], [0.75, 0.5, 0.25, 0.125]])  # fractions; corners swapped
    boxes = np.concatenate([boxes, special])
    return masks, boxes, random.randint(0, 3, len(boxes))


@pytest.mark.parametrize("side", [1, 4, 7])
def test_pooled_crops_are_adaptive_average_pooling(side):
    masks, boxes, index = masks_and_boxes()
    ours = ablation_losses.pooled_crops(*tensors(masks, index, boxes), side).numpy()
    expected = [plain_pooled_crop(masks[i], box, side) for i, box in zip(index, boxes)]
    assert ours.dtype == "float32"
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6)


def test_direct_mask_loss_is_cross_entropy_with_the_pooled_object():
    masks, boxes, index = masks_and_boxes()
    boxes[:2] += [[-0.5, 0, 0, 0], [0, 0, 0.75, 0.5]]  # predicted boxes may reach out of the picture
    predicted = np.random.RandomState(1).uniform(0.01, 0.99, [len(boxes), 16])
    expected = 0.0
    for probability, box, i in zip(predicted, boxes, index):
        target = plain_pooled_crop(masks[i], box.clip(0, 1), 4).ravel() > 0.5
        expected -= np.log(np.where(target, probability, 1 - probability)).sum()
    ours = ablation_losses.direct_mask_loss(*tensors(predicted, boxes, masks, index)).item()
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


# --- the IoU of masks ---------------------------------------------------------------------------------------

def plain_iou(mask, gt_mask):
    """Of a mask that is binarised at 0.5."""
    union = ((mask > 0.5) | (gt_mask > 0)).sum()
    return ((mask > 0.5) & (gt_mask > 0)).sum() / union if union else 0.0


def test_mask_iou_loss_is_smooth_l1_of_the_iou():
    """With estimates on both sides of the kink, which is 1 away from the IoU."""
    random = np.random.RandomState(0)
    masks, gt_masks = random.rand(6, 7, 8), (random.rand(6, 7, 8) < 0.5).astype("float64")
    masks[:, :, 5], gt_masks[:, :, 5] = 0.5, 0  # exactly a half is background: both empty
    masks[:, :, 6] = gt_masks[:, :, 6]
    estimate = np.array([0.2, 0.9, 1.7, 3.0, -0.4, 0.3, 0.9, 2.5])
    ious = [plain_iou(masks[..., i], gt_masks[..., i]) for i in range(8)]
    assert ious[5] == 0 and ious[6] == 1
    assert {abs(value - iou) > 1 for value, iou in zip(estimate, ious)} == {True, False}
    expected = sum(smooth_l1(value - iou) for value, iou in zip(estimate, ious))
    ours = losses.mask_iou_loss(*tensors(estimate, masks, gt_masks)).item()
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


def plain_mask_iou(config, out, targets, estimate):
    """I: of the objects with more cells than discard_mask_area, divided by all positives."""
    total, count = 0.0, 0
    for i, prior, instance in positives_of(config, out, targets):
        count += 1
        small = losses.downsample_masks(paddle.to_tensor(targets[i].masks), SIDE, SIDE).numpy()[instance]
        if small.sum() > config.discard_mask_area:
            proto, coeffs = out["proto"][i].numpy().astype("float64"), out["mask"][i, prior].numpy()
            mask = sigmoid(proto @ coeffs) * inside_box(targets[i].boxes[instance])
            value = estimate(i, prior, mask, targets[i].labels[instance])
            total += smooth_l1(value - plain_iou(mask, small))
    return total / count


def area_between(targets):
    """A number of cells that some objects exceed, one has exactly, and some have not."""
    small = [losses.downsample_masks(paddle.to_tensor(target.masks), SIDE, SIDE).numpy() for target in targets]
    areas = np.sort(np.concatenate(small).sum(axis=(1, 2)))
    middle = len(areas) // 2
    assert areas[0] < areas[middle] < areas[-1]
    return int(areas[middle])


@pytest.mark.parametrize("kind", ["network", "branch"])
def test_i_is_the_loss_of_large_enough_objects_over_all_positives(kind):
    paddle.seed(2)
    targets = [made_up_target([1, 0.3, 0.5], 1), made_up_target([0.2, 0.9], 2)]
    area = area_between(targets)
    options = {"use_mask_scoring": True, "mask_scoring_alpha": 3.0} if kind == "branch" else {
        **MASK_IOU, "maskiou_alpha": 3.0}
    config = tiny(discard_mask_area=area, **options)
    net = FastMaskIoUNet([(4, 3, {"stride": 2})], CLASSES - 1) if kind == "network" else None
    out = made_up_outputs(**({"score": 1} if kind == "branch" else {}))

    def estimate(i, prior, mask, label):
        if net is None:
            return sigmoid(out["score"][i, prior, 0].item())
        return net(*tensors(mask[None, None])).numpy()[0, label]

    ours = MultiBoxLoss(config, net)(out, targets)["I"]
    np.testing.assert_allclose(ours.item(), 3 * plain_mask_iou(config, out, targets, estimate), rtol=1e-4)
    for other in (area - 1, area + 1):  # "exactly so large" decides
        moved = MultiBoxLoss(config.copy({"discard_mask_area": other}), net)(out, targets)["I"].item()
        assert (abs(moved - ours.item()) > 1e-6) == (other < area)


def test_without_a_large_object_i_is_zero():
    targets, net = [made_up_target([1, 0.3], 1)], FastMaskIoUNet([], CLASSES - 1)
    out = made_up_outputs(1)
    terms = MultiBoxLoss(tiny(discard_mask_area=SIDE ** 2, **MASK_IOU), net)(out, targets)
    assert terms["I"].item() == 0 and terms["M"].item() > 0
    sum(terms.values()).backward()
    assert all(np.isfinite(out[name].grad.numpy()).all() for name in ("proto", "mask"))
    empty = MultiBoxLoss(tiny(**MASK_IOU), net)(made_up_outputs(1), [made_up_target([])])
    assert empty["I"].item() == empty["M"].item() == 0


def test_i_teaches_the_prototypes_and_coefficients_too():
    """The estimator's input is not cut off from what made it, as in the original."""
    paddle.seed(2)
    net, out = FastMaskIoUNet([(4, 3, {"stride": 2})], CLASSES - 1), made_up_outputs()
    targets = [made_up_target([1, 0.3, 0.5], 1), made_up_target([0.2, 0.9], 2)]
    MultiBoxLoss(tiny(**MASK_IOU), net)(out, targets)["I"].backward()
    for name in ("proto", "mask"):
        assert out[name].grad.numpy().any(), name
    assert out["conf"].grad is None and all(parameter.grad.numpy().any() for parameter in net.parameters())


def test_the_mask_iou_net_is_convolutions_then_relu_then_the_largest_value():
    net = FastMaskIoUNet([(2, 1, {})], 3)
    assert [type(layer).__name__ for layer in net.maskiou_net] == ["Conv2D", "ReLU", "Conv2D", "ReLU"]
    random = np.random.RandomState(0)
    numbers = {name: random.standard_normal(value.shape) for name, value in net.state_dict().items()}
    numbers["maskiou_net.2.bias"][1] = -2.5  # some estimates of this class are below 0 before the ReLU
    net.set_state_dict({name: value.astype("float32") for name, value in numbers.items()})
    masks = random.rand(5, 1, 6, 7)
    first, second = (numbers[f"maskiou_net.{i}.weight"][..., 0, 0] for i in (0, 2))
    first_bias, second_bias = (numbers[f"maskiou_net.{i}.bias"] for i in (0, 2))
    hidden = np.maximum(first[:, 0] * masks[:, 0, ..., None] + first_bias, 0)
    expected = np.maximum(hidden @ second.T + second_bias, 0).max(axis=(1, 2))
    ours = net(*tensors(masks)).numpy()
    assert ours.shape == (5, 3) and (expected == 0).any() and (expected > 0).any()
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)


def test_the_estimate_of_an_empty_mask_follows_from_the_biases():
    paddle.seed(0)
    net = FastMaskIoUNet([(4, 3, {"stride": 2}), (5, 3, {"stride": 2})], 6)
    value = np.zeros(1)
    for layer in net.maskiou_net:
        if isinstance(layer, nn.Conv2D):
            layer.bias.set_value(np.random.RandomState(3).standard_normal(layer.bias.shape).astype("float32"))
            value = np.maximum(layer.weight.numpy().astype("float64").sum(axis=(2, 3)) @ value + layer.bias.numpy(), 0)
    assert value.any()
    np.testing.assert_allclose(net(paddle.zeros([2, 1, 23, 17])).numpy(), [value, value], rtol=1e-5)


def test_of_class_picks_the_object_s_class():
    paddle.seed(0)
    net, masks = FastMaskIoUNet([(4, 3, {})], 6), np.random.RandomState(0).rand(9, 8, 5)
    for parameter in net.maskiou_net[-2].parameters():
        parameter.set_value(parameter.abs() + paddle.arange(6.).reshape([-1] + [1] * (parameter.ndim - 1)))
    every = net(*tensors(masks.transpose(2, 0, 1)[:, None])).numpy()
    classes = np.array([5, 0, 3, 3, 1])
    assert (np.diff(np.sort(every, axis=1), axis=1) > 0).all()
    np.testing.assert_allclose(net.of_class(*tensors(masks, classes)).numpy(), every[np.arange(5), classes], rtol=1e-6)
