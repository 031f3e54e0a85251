"""Deformable convolution (DCNv2): equals the paper's formula, learns, and stands where the configs put it."""
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from cli_runs import REPO

from backbone import DeformableConv2D, ResNetBackbone
from data.config import get_config
from layers.multibox_loss import MultiBoxLoss
from yolact import Yolact

POINTS = 9  # of a 3 x 3 kernel
BATCH, CHANNELS, OUTPUTS, HEIGHT, WIDTH = 2, 3, 4, 5, 7


# --- the formula in numpy -----------------------------------------------------------------------------------

def plain_convolution(x, weight, bias, stride, padding):
    """Cross-correlation with zeros around the picture, float64."""
    x = np.pad(x, [(0, 0), (0, 0), (padding, padding), (padding, padding)])
    windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], axis=(2, 3))[:, :, ::stride, ::stride]
    return np.einsum("bcyxij,ocij->boyx", windows, weight) + bias[:, None, None]


def bilinear_kernel(positions, size):
    """max(0, 1 - |q - p|) of every position p and every integer q in the picture. [...] -> [..., size]."""
    return np.maximum(0, 1 - np.abs(np.arange(size) - positions[..., None]))


def sampling(x, offset_weight, offset_bias, stride, padding):
    """Where every point of every output cell samples, and how much it counts. Each float64 [B, 9, H', W']."""
    moved = plain_convolution(x, offset_weight, offset_bias, stride, padding)
    height, width = moved.shape[2:]
    rows = np.arange(height)[:, None] * stride - padding
    columns = np.arange(width) * stride - padding
    point = np.arange(POINTS)[:, None, None]
    y = rows + point // 3 + moved[:, 0:18:2]
    x = columns + point % 3 + moved[:, 1:18:2]
    return y, x, 1 / (1 + np.exp(-moved[:, 18:]))


def plain_deformable(values, stride, padding):
    """Eq. 1 of DCNv2: y(p) = sum over k of w_k x(p + p_k + dp_k) dm_k, x sampled bilinearly, 0 outside."""
    x, weight, bias = values["x"], values["weight"], values["bias"]
    rows, columns, mask = sampling(x, values["offset_weight"], values["offset_bias"], stride, padding)
    by_row = np.einsum("bkyxh,bchw->bckyxw", bilinear_kernel(rows, x.shape[2]), x)
    sampled = np.einsum("bckyxw,bkyxw->bckyx", by_row, bilinear_kernel(columns, x.shape[3]))
    return np.einsum("bckyx,bkyx,ock->boyx", sampled, mask, weight.reshape(*weight.shape[:2], -1)) \
        + bias[:, None, None]


def made_up_values(offsets, seed=0):
    """Input and parameters of one layer, float32 numbers as float64, whose offsets are of the kind asked for.

    small: up to about a pixel, different in every cell. integer: whole pixels, the same everywhere. far: as small, but
    every other point is tens of pixels outside the picture; all far: every point is.
    """
    random = np.random.RandomState(seed)
    values = {"x": random.standard_normal([BATCH, CHANNELS, HEIGHT, WIDTH]),
              "weight": random.standard_normal([OUTPUTS, CHANNELS, 3, 3]),
              "bias": random.standard_normal(OUTPUTS),
              "offset_weight": 0.1 * random.standard_normal([3 * POINTS, CHANNELS, 3, 3]),
              "offset_bias": 0.3 * random.standard_normal(3 * POINTS)}
    if offsets == "integer":
        values["offset_weight"][:18] = 0
        values["offset_bias"][:18] = random.randint(-3, 4, 18)
    elif offsets != "small":
        far = np.tile([-40.3, 30.6], POINTS) if offsets == "all far" else np.tile([0, 0, -40.3, 0, 0, 30.6], 3)
        values["offset_bias"][:18] += far
    return {name: value.astype("float32").astype("float64") for name, value in values.items()}


def made_layer(values, stride, padding):
    layer = DeformableConv2D(CHANNELS, OUTPUTS, 3, stride, padding)
    parameters = {"weight": layer.weight, "bias": layer.bias, "offset_weight": layer.conv_offset_mask.weight,
                  "offset_bias": layer.conv_offset_mask.bias}
    for name, parameter in parameters.items():
        parameter.set_value(values[name].astype("float32"))
    return layer, parameters


@pytest.mark.parametrize("offsets", ["small", "integer", "far", "all far"])
@pytest.mark.parametrize("stride, padding", [(1, 1), (1, 0), (2, 1), (2, 0)])
def test_forward_is_the_paper_s_formula(offsets, stride, padding):
    values = made_up_values(offsets)
    layer, _ = made_layer(values, stride, padding)
    ours = layer(paddle.to_tensor(values["x"].astype("float32"))).numpy()
    expected = plain_deformable(values, stride, padding)
    # Single precision: about 1e-7 of each of 27 terms, and of positions of up to 40 pixels.
    np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-5 * np.abs(expected).max())
    bias = np.broadcast_to(values["bias"][:, None, None], ours.shape)
    assert (np.abs(ours - bias).max() == 0) == (offsets == "all far")


def test_positions_at_the_border():
    """Between -1 and 0 a sample fades out, at -1 it is gone; the same behind the last row and column."""
    values = made_up_values("integer")
    values["x"] = np.ones_like(values["x"])
    values["weight"][:, :, 1, 1], values["bias"][:] = 1, 0
    values["weight"][:, :, [0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 2, 0, 2, 0, 1, 2]] = 0
    values["offset_weight"][:], values["offset_bias"][18:] = 0, 0
    for dy, first_row in [(-0.25, 0.75), (-0.999, 0.001), (-1, 0), (-1.5, 0)]:
        for sign, row in [(1, 0), (-1, HEIGHT - 1)]:
            values["offset_bias"][:18] = np.tile([sign * dy, 0], POINTS)
            layer, _ = made_layer(values, 1, 1)
            ours = layer(paddle.to_tensor(values["x"].astype("float32"))).numpy()
            np.testing.assert_allclose(ours[:, :, row], CHANNELS * first_row / 2, rtol=0, atol=1e-6)
            values["offset_bias"][:18] = np.tile([0, sign * dy], POINTS)
            layer, _ = made_layer(values, 1, 1)
            ours = layer(paddle.to_tensor(values["x"].astype("float32"))).numpy()
            np.testing.assert_allclose(ours[..., row and WIDTH - 1], CHANNELS * first_row / 2, rtol=0, atol=1e-6)


def numeric_gradients(values, weighting, stride, padding, step=1e-5):
    """Central differences of sum(y * weighting), by every single number of input and parameters."""
    gradients = {}
    for name, array in values.items():
        gradients[name] = np.zeros_like(array)
        for index in np.ndindex(array.shape):
            both = []
            for sign in (1, -1):
                moved = {**values, name: array.copy()}
                moved[name][index] += sign * step
                both.append((plain_deformable(moved, stride, padding) * weighting).sum())
            gradients[name][index] = (both[0] - both[1]) / (2 * step)
    return gradients


def our_gradients(values, weighting, stride, padding):
    layer, parameters = made_layer(values, stride, padding)
    x = paddle.to_tensor(values["x"].astype("float32"), stop_gradient=False)
    (layer(x) * paddle.to_tensor(weighting.astype("float32"))).sum().backward()
    return {"x": x.grad.numpy(), **{name: parameter.grad.numpy() for name, parameter in parameters.items()}}


def assert_no_kinks_are_near(values, stride, padding, distance=1e-4):
    """Bilinear interpolation has a kink at every integer: there gradients are a matter of taste."""
    for positions in sampling(values["x"], values["offset_weight"], values["offset_bias"], stride, padding)[:2]:
        assert np.abs(positions - positions.round()).min() > distance


@pytest.mark.parametrize("offsets, stride, padding, seed", [("small", 1, 1, 1), ("far", 2, 0, 0), ("far", 2, 1, 1)])
def test_gradients_equal_finite_differences(offsets, stride, padding, seed):
    values = made_up_values(offsets, seed)
    assert_no_kinks_are_near(values, stride, padding)
    shape = plain_deformable(values, stride, padding).shape
    weighting = np.random.RandomState(5).standard_normal(shape).astype("float32").astype("float64")
    expected, ours = (gradients(values, weighting, stride, padding) for gradients in (numeric_gradients, our_gradients))
    for name, gradient in expected.items():
        # The differences are exact to 1e-9; in single precision, sums of some hundred terms are not.
        np.testing.assert_allclose(ours[name], gradient, rtol=0, atol=1e-4 * np.abs(gradient).max(), err_msg=name)
    far = values["offset_bias"][:18:2] < -20
    assert far.any() == (offsets == "far") and not ours["weight"].reshape(OUTPUTS, CHANNELS, -1)[:, :, far].any()


def test_points_outside_the_picture_have_no_gradient():
    values = made_up_values("all far")
    ours = our_gradients(values, np.ones_like(plain_deformable(values, 1, 1)), 1, 1)
    assert {name for name, gradient in ours.items() if gradient.any()} == {"bias"}


def test_a_new_layer_is_half_a_plain_convolution():
    """No offset, and a sigmoid of 0 for every point."""
    paddle.seed(0)
    layer = DeformableConv2D(CHANNELS, OUTPUTS, 3, stride=2, padding=1)
    layer.bias.set_value(np.arange(OUTPUTS, dtype="float32"))
    x = np.random.RandomState(0).standard_normal([BATCH, CHANNELS, HEIGHT, WIDTH]).astype("float32")
    weight = layer.weight.numpy().astype("float64")
    assert 0.5 < np.abs(weight).max() * np.sqrt(CHANNELS * POINTS) <= 1 + 1e-6
    expected = plain_convolution(x.astype("float64"), weight / 2, np.arange(OUTPUTS), stride=2, padding=1)
    np.testing.assert_allclose(layer(paddle.to_tensor(x)).numpy(), expected, rtol=0, atol=1e-5)


# --- frozen layers ------------------------------------------------------------------------------------------

FROZEN = """
    import itertools
    import numpy as np
    import paddle
    from backbone import DeformableConv2D

    for x_frozen, offsets_frozen, weight_frozen in itertools.product((False, True), repeat=3):
        print(f"{x_frozen=} {offsets_frozen=} {weight_frozen=}", flush=True)
        layer = DeformableConv2D(2, 3, 3, padding=1)
        x = paddle.ones([1, 2, 4, 4])
        x.stop_gradient = x_frozen
        for parameter in layer.conv_offset_mask.parameters():
            parameter.stop_gradient = offsets_frozen
        layer.weight.stop_gradient = weight_frozen
        layer(x).sum().backward()
        found = [x.grad, layer.conv_offset_mask.bias.grad, layer.weight.grad]
        assert [gradient is None for gradient in found] == [x_frozen, offsets_frozen, weight_frozen]
        assert layer.bias.grad.numpy().tolist() == [16, 16, 16]
    print("through")
"""


def test_backward_survives_frozen_layers():
    """In a process of its own: where the mask needs no gradient, Paddle's backward ends the process."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(FROZEN)], cwd=str(REPO), capture_output=True,
                          text=True, timeout=100)
    assert done.stdout.endswith("through\n") and done.returncode == 0, done.stdout + done.stderr


# --- in a ResNet --------------------------------------------------------------------------------------------

def deformable_blocks(config_name):
    """{stage: [blocks with a deformable convolution]} of a config's ResNet, made narrow."""
    backbone = ResNetBackbone(*get_config(config_name).backbone.args, width=2)
    found = {stage: [i for i, block in enumerate(blocks) if isinstance(block.conv2, DeformableConv2D)]
             for stage, blocks in enumerate(backbone.layers)}
    assert sum(map(len, found.values())) == sum(isinstance(layer, DeformableConv2D) for layer in backbone.sublayers())
    return found


@pytest.mark.parametrize("config_name, args, blocks", [
    ("yolact_base", ([3, 4, 23, 3],), {0: [], 1: [], 2: [], 3: []}),
    ("yolact_plus_base", ([3, 4, 23, 3], [0, 4, 23, 3], 3),
     {0: [], 1: [0, 3], 2: [0, 3, 6, 9, 12, 15, 18, 21], 3: [0]}),
    ("yolact_plus_resnet50", ([3, 4, 6, 3], [0, 4, 6, 3]),
     {0: [], 1: [0, 1, 2, 3], 2: [0, 1, 2, 3, 4, 5], 3: [0, 1, 2]}),
    ("yolact_base_dcn_last10", ([3, 4, 23, 3], [0, 0, 7, 3]),
     {0: [], 1: [], 2: [16, 17, 18, 19, 20, 21, 22], 3: [0, 1, 2]})])
def test_which_blocks_are_deformable(config_name, args, blocks):
    assert get_config(config_name).backbone.args == list(args)
    assert deformable_blocks(config_name) == blocks


def test_the_interval_counts_from_the_first_block_also_when_only_the_last_may_be_deformable():
    backbone = ResNetBackbone([1, 5], [0, 4], 3, width=2)
    assert [isinstance(block.conv2, DeformableConv2D) for block in backbone.layers[1]] == [False] * 3 + [True, False]


def test_a_deformable_convolution_keeps_the_block_s_stride():
    x = paddle.ones([1, 3, 64, 64])
    plain, deformable = ResNetBackbone([1, 2, 2], width=4), ResNetBackbone([1, 2, 2], [0, 2, 2], width=4)
    assert [level.shape for level in plain(x)] == [level.shape for level in deformable(x)] == [
        [1, 16, 16, 16], [1, 32, 8, 8], [1, 64, 4, 4]]


def test_is_new_names_what_a_plain_resnet_has_not():
    plain, deformable = (set(ResNetBackbone([1, 2, 2], dcn, width=4).state_dict()) for dcn in (None, [0, 1, 2]))
    assert len(deformable - plain) == 3 * 3  # three layers: offsets' weight and bias, own bias
    assert plain < deformable and {name for name in deformable if ResNetBackbone.is_new(name)} == deformable - plain


def deformable_config(**overrides):
    """The demo network with deformable convolutions and mask re-scoring."""
    return get_config("yolact_demo").copy({
        "backbone": {"args": ([1, 2, 2], [0, 2, 2], 1, 32)}, "use_maskiou": True, "rescore_mask": True,
        "maskiou_net": [(8, 3, {"stride": 2}), (16, 3, {"stride": 2})], "discard_mask_area": 1, **overrides})


def test_a_new_network_s_offsets_are_zero():
    """The initialisation of all convolutions leaves them out, and the kernels keep PyTorch's default."""
    paddle.seed(3)
    layers = [layer for layer in Yolact(deformable_config()).sublayers() if isinstance(layer, DeformableConv2D)]
    assert len(layers) == 4
    for layer in layers:
        assert not layer.conv_offset_mask.weight.numpy().any() and not layer.conv_offset_mask.bias.numpy().any()
        assert not layer.bias.numpy().any()
        weight = layer.weight.numpy()
        bound = 1 / np.sqrt(np.prod(weight.shape[1:]))
        assert 0.99 * bound < np.abs(weight).max() <= bound * (1 + 1e-6)


def rectangles(config, seed=0):
    """Two pictures of two rectangles each, bright on dark, one class to a colour: (images, targets)."""
    random, size = np.random.RandomState(seed), config.max_size
    images, targets = np.zeros([2, 3, size, size], "float32"), []
    for image in images:
        masks, boxes = np.zeros([2, size, size], "uint8"), np.zeros([2, 4], "float32")
        for i in range(2):
            w, h = random.randint(size // 4, size // 2, 2)
            x, y = random.randint(0, size // 2 - w + 1) + i * size // 2, random.randint(0, size - h)
            masks[i, y:y + h, x:x + w] = 1
            image[i, y:y + h, x:x + w] = 2
            boxes[i] = x / size, y / size, (x + w) / size, (y + h) / size
        targets.append(SimpleNamespace(boxes=boxes, labels=np.arange(2), masks=masks, num_crowds=0,
                                       image_id=0))
    return paddle.to_tensor(images), targets


def test_a_deformable_network_learns_and_every_parameter_takes_part():
    paddle.seed(0)
    config = deformable_config(max_size=64)
    net = Yolact(config)
    net.train()
    images, targets = rectangles(config)
    criterion = MultiBoxLoss(config, net.maskiou_net)
    optimizer = paddle.optimizer.AdamW(3e-3, parameters=net.parameters())
    history, moved = [], set()
    for _ in range(15):
        terms = criterion(net(images), targets)
        sum(terms.values()).backward()
        moved |= {name for name, value in net.named_parameters() if value.grad is not None and value.grad.numpy().any()}
        optimizer.step()
        optimizer.clear_grad()
        history.append({name: term.item() for name, term in terms.items()})
    assert list(history[0]) == list("BMCIS") and history[0]["I"] > 0
    totals = [sum(values.values()) for values in history]
    assert np.isfinite(totals).all() and max(totals[-3:]) < 0.5 * totals[0]
    learnt = {name for name, _ in net.named_parameters() if not name.endswith(("._mean", "._variance"))}
    assert moved == learnt and any("conv_offset_mask" in name for name in moved)
    assert {f"maskiou_net.maskiou_net.{i}.weight" for i in (0, 2, 4)} <= moved
    offsets = [value for name, value in net.state_dict().items() if name.endswith("conv_offset_mask.weight")]
    assert len(offsets) == 4 and all(offset.numpy().any() for offset in offsets)
