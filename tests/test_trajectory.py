"""Twelve SGD steps by train.py's own parts follow the original: losses of every step, weights at the end."""
from types import SimpleNamespace

import numpy as np
import paddle
import parity
import pytest

import train
from data.config import cfg

LOSS_TOLERANCE = 1e-3  # relative, at every step; the original's own noise grows to 7e-5
# Of the largest change in a sample of a tensor; gradients are only good to 1.5e-2 (noise at ReLU's kinks).
WEIGHT_TOLERANCE = 5e-2


def stored_weights(golden):
    """name -> (index into the flattened tensor, value after the last step)."""
    names = {key.split("/")[1] for key in golden if key.startswith("final/")}
    return {name: (golden[f"final/{name}/idx"], golden[f"final/{name}/val"]) for name in names}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What training from the recipe's weights gave: losses, rate of each step, weights before and after."""
    return parity.trajectory(tmp_path_factory.mktemp("weights"))


def test_learning_rates_equal_the_original(trained):
    np.testing.assert_allclose(trained.rates, trained.golden["lr"], rtol=1e-12)


def test_losses_equal_the_original_at_every_step(trained):
    names = [str(name) for name in trained.golden["loss_names"]]
    assert names == ["B", "M", "C", "S", "T"]
    losses = np.array([[*step.values(), sum(step.values())] for step in trained.losses])
    assert all(list(step) == names[:4] for step in trained.losses)
    np.testing.assert_allclose(losses, trained.golden["losses"], rtol=LOSS_TOLERANCE)
    assert losses[-1, -1] < 0.9 * losses[0, -1]  # it did learn


def test_final_weights_equal_the_original(trained):
    stored = stored_weights(trained.golden)
    assert len(stored) == 12
    for name, (index, expected) in stored.items():
        start = trained.before[parity.paddle_name(name)].ravel()[index]
        ours = trained.after[parity.paddle_name(name)].ravel()[index]
        change = np.abs(expected - start).max()
        assert np.abs(ours - expected).max() <= WEIGHT_TOLERANCE * change, name


def test_frozen_batch_norm_did_not_move_and_all_else_did(trained):
    """Neither gradient nor weight decay nor statistics touch it."""
    moved = {name for name, value in trained.after.items() if (value != trained.before[name]).any()}
    norms = {name.rsplit(".", 1)[0] for name in trained.after if name.endswith("._mean")}
    frozen = {name for name in trained.after if name.rsplit(".", 1)[0] in norms}
    assert len(frozen) == 4 * len(norms) and moved == set(trained.after) - frozen


@pytest.mark.parametrize("decay, momentum", [(None, None), (0.1, 0.5)])
def test_the_optimizer_is_torch_s_sgd(decay, momentum):
    """Decay joins the gradient, the rate stays outside the velocity; arguments replace the config's figures.

    Twelve steps are too few for the losses above to tell whether weights decay.
    """
    layer = paddle.nn.Linear(3, 2)
    layer.bias.stop_gradient = True
    weight = layer.weight.numpy().astype("float64")
    bias, velocity = layer.bias.numpy(), 0.0
    optimizer = train.build_optimizer(layer, SimpleNamespace(decay=decay, momentum=momentum, clip_norm=0))
    assert (cfg.momentum, cfg.decay, cfg.optimizer) == (0.9, 5e-4, "sgd")
    random = np.random.RandomState(0)
    for rate in (0.5, 0.1, 2.0, 0.3):
        inputs = random.standard_normal([1, 3]).astype("float32")
        layer(paddle.to_tensor(inputs)).sum().backward()
        optimizer.set_lr(rate)
        optimizer.step()
        optimizer.clear_grad()
        gradient = np.repeat(inputs.T, 2, axis=1) + (cfg.decay if decay is None else decay) * weight
        velocity = (cfg.momentum if momentum is None else momentum) * velocity + gradient
        weight -= rate * velocity
    np.testing.assert_allclose(layer.weight.numpy(), weight, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(layer.bias.numpy(), bias)
