"""Learning-rate schedule against the original's train.py."""
import types

import pytest

from utils.schedule import Schedule, build_schedule, learning_rate, rescale_steps


def _config(**changes):
    values = {"lr": 1e-3, "max_iter": 800000, "lr_steps": [280000, 600000, 700000, 750000], "gamma": 0.1,
              "lr_warmup_init": 1e-4, "lr_warmup_until": 500, "lr_schedule": "step", "batch_size_base": 8}
    return types.SimpleNamespace(**{**values, **changes})


def test_batch_of_the_paper_keeps_the_config():
    schedule = build_schedule(_config(), 8)
    assert schedule == Schedule(1e-3, 800000, (280000, 600000, 700000, 750000), 0.1, 1e-4, 500, "step")


@pytest.mark.parametrize("batch, lr, max_iter, first_step", [
    (2, 2.5e-4, 3200000, 1120000), (16, 2e-3, 400000, 140000), (5, 6.25e-4, 1280000, 448000),
    (6, 7.5e-4, 1066666, 373333), (1, 1.25e-4, 6400000, 2240000)])
def test_autoscale(batch, lr, max_iter, first_step):
    schedule = build_schedule(_config(), batch)
    assert schedule.lr == pytest.approx(lr, rel=1e-12)
    assert (schedule.max_iter, schedule.lr_steps[0]) == (max_iter, first_step)
    assert max_iter == int(800000 // (batch / 8)) and first_step == int(280000 // (batch / 8))
    assert all(type(step) is int for step in (schedule.max_iter, *schedule.lr_steps))


def test_scaling_is_relative_to_the_batch_the_config_is_for():
    schedule = build_schedule(_config(batch_size_base=16, max_iter=1000, lr_steps=[500]), 16)
    assert (schedule.lr, schedule.max_iter, schedule.lr_steps) == (1e-3, 1000, (500,))


def test_a_training_has_an_iteration_however_large_the_batch_is():
    assert build_schedule(_config(max_iter=3, lr_steps=[]), 64).max_iter == 1


def test_no_autoscale_and_command_line_values():
    schedule = build_schedule(_config(), 2, autoscale=False)
    assert (schedule.lr, schedule.max_iter) == (1e-3, 800000)
    schedule = build_schedule(_config(), 2, lr=0.02, gamma=0.5)
    assert (schedule.lr, schedule.gamma, schedule.max_iter) == (0.02, 0.5, 3200000)


def test_config_is_not_changed():
    config = _config()
    build_schedule(config, 2)
    assert vars(config) == vars(_config())


def _original_rates(schedule, iterations):
    """The original's loop: it sets the rate while it goes along."""
    rates, rate, step_index = [], schedule.lr, 0
    for iteration in iterations:
        if schedule.warmup_until > 0 and iteration <= schedule.warmup_until:
            rate = ((schedule.lr - schedule.warmup_init) * (iteration / schedule.warmup_until)
                    + schedule.warmup_init)
        while step_index < len(schedule.lr_steps) and iteration >= schedule.lr_steps[step_index]:
            step_index += 1
            rate = schedule.lr * schedule.gamma ** step_index
        rates.append(rate)
    return rates


@pytest.mark.parametrize("batch", [2, 8, 12])
def test_rates_equal_the_original_loop(batch):
    schedule = build_schedule(_config(max_iter=4000, lr_steps=[1600, 2400, 3600]), batch)
    iterations = range(schedule.max_iter)
    assert [learning_rate(schedule, i) for i in iterations] == _original_rates(schedule, iterations)


def test_figures_of_the_paper_schedule():
    schedule = build_schedule(_config(), 8)
    expected = {0: 1e-4, 250: 5.5e-4, 500: 1e-3, 501: 1e-3, 279999: 1e-3, 280000: 1e-4, 600000: 1e-5,
                700000: 1e-6, 750000: 1e-7, 799999: 1e-7}
    for iteration, rate in expected.items():
        assert learning_rate(schedule, iteration) == pytest.approx(rate, rel=1e-9)


def test_no_warm_up():
    schedule = Schedule(0.1, 100, (50,), 0.1, 1e-4, 0)
    assert learning_rate(schedule, 0) == 0.1
    assert learning_rate(schedule, 50) == pytest.approx(0.01)


def test_cosine():
    schedule = Schedule(0.1, 1100, (), 0.1, 0.0, 100, "cosine")
    assert learning_rate(schedule, 50) == pytest.approx(0.05)
    assert learning_rate(schedule, 100) == pytest.approx(0.1)
    assert learning_rate(schedule, 600) == pytest.approx(0.05)
    assert learning_rate(schedule, 1100) == pytest.approx(0.0, abs=1e-12)
    assert learning_rate(schedule, 2000) == pytest.approx(0.0, abs=1e-12)
    rates = [learning_rate(schedule, i) for i in range(100, 1100)]
    assert rates == sorted(rates, reverse=True)


def test_max_iter_below_the_steps_and_the_warm_up():
    schedule = build_schedule(_config(max_iter=300), 8)
    assert learning_rate(schedule, 299) < schedule.lr
    schedule = build_schedule(_config(max_iter=300, lr_schedule="cosine"), 8)
    assert learning_rate(schedule, 299) > 0


def test_rescaled_steps():
    assert rescale_steps(800000, 8000, [280000, 600000, 700000, 750000]) == [2800, 6000, 7000, 7500]
    assert rescale_steps(800000, 1000, [280001]) == [350]


@pytest.mark.parametrize("changes, word", [
    ({"lr_schedule": "linear"}, "lr_schedule"), ({"max_iter": 0}, "max_iter"), ({"lr": 0.0}, "lr is"),
    ({"lr": float("nan")}, "lr is")])
def test_settings_that_cannot_work(changes, word):
    with pytest.raises(ValueError, match=word):
        build_schedule(_config(**changes), 8)


def test_batch_below_one():
    with pytest.raises(ValueError, match="--batch_size"):
        build_schedule(_config(), 0)
