"""Settings of the loss that change during a training."""

import numpy as np
import pytest
from ablations import tiny
from cli_runs import assert_refused, quietly, records, stem_of, train_arguments

from data.config import get_config
from data.config_checks import DELAYED_KEYS, ConfigError
from layers.multibox_loss import criteria


def settings_of(criterion):
    """The criterion's attributes, the arguments of its class loss among them."""
    attributes = dict(vars(criterion))
    conf_loss = attributes.pop("conf_loss")
    return {**attributes, "conf_loss": (conf_loss.func, conf_loss.keywords)}


def test_delayed_settings_are_cumulative_and_in_order_of_their_iteration():
    config = tiny(delayed_settings=[[20, {"mask_alpha": 3.0}], [10, {"bbox_alpha": 2.0, "mask_alpha": 1.0}],
                                    [20, {"conf_alpha": 7.0}]], bbox_alpha=0.5, mask_alpha=0.25, conf_alpha=1.0)
    found = criteria(config)
    assert [first for first, _ in found] == [0, 10, 20, 20]
    assert [[criterion.weights[letter] for letter in "BMC"] for _, criterion in found] == [
        [0.5, 0.25, 1], [2, 1, 1], [2, 3, 1], [2, 3, 7]]
    assert config.mask_alpha == 0.25


@pytest.mark.parametrize("key", DELAYED_KEYS)
def test_every_key_that_may_be_delayed_changes_the_criterion(key):
    options = {"mask_scoring_alpha": {"use_mask_scoring": True}}.get(
        key, {"use_focal_loss": True} if key.startswith("focal") else {})
    config = tiny(**options)
    value = config[key] + 1 if isinstance(config[key], int) else config[key] * 1.25
    net = object()
    [(_, before), (first, after)] = criteria(config.copy({"delayed_settings": [[5, {key: value}]]}), net)
    assert first == 5 and settings_of(before) != settings_of(after) and after.maskiou_net is net


@pytest.mark.parametrize("wrong", [[[3, {"max_size": 400}]], [[3, {"mask_alpha": 1.0, "lr": 1e-4}]], [3, {"lr": 1}],
                                   [[3]], [["3", {}]], [[3, "mask_alpha"]], [[2.5, {}]]])
def test_delayed_settings_of_another_form_are_refused(wrong):
    with pytest.raises(ConfigError, match="delayed_settings.*iteration.*mask_alpha.*ohem_negpos_ratio"):
        tiny(delayed_settings=wrong)


def test_a_delayed_value_of_the_wrong_type_names_its_key():
    with pytest.raises(ConfigError, match="mask_alpha"):
        criteria(tiny(delayed_settings=[[3, {"mask_alpha": "much"}]]))


def test_train_refuses_delayed_settings_that_are_no_weights(demo_data, tmp_path):
    assert_refused("train", train_arguments(demo_data, tmp_path, overrides=["delayed_settings=[[3, {'lr': 1}]]"]),
                   "delayed_settings", "mask_alpha")
    wrong = "delayed_settings=[[3, {'mask_alpha': 'much'}]]"
    assert_refused("train", train_arguments(demo_data, tmp_path, overrides=[wrong]), "mask_alpha")


def losses_of(folder):
    return {record["data"]["iter"]: record["data"]["loss"] for record in records(folder, "train")}


def test_a_training_changes_its_weights_at_the_iteration_told(demo_data, tmp_path):
    """And a resumed one, whether it starts before or behind it."""
    mask_alpha = get_config("yolact_demo").mask_alpha
    delayed = ["max_iter=5", f"delayed_settings=[[2, {{'mask_alpha': {2 * mask_alpha}}}], [4, {{'conf_alpha': 0.}}]]"]
    plain, straight = tmp_path / "plain", tmp_path / "straight"
    quietly("train", train_arguments(demo_data, plain, overrides=["max_iter=5"]))
    quietly("train", train_arguments(demo_data, straight, "--save_interval=1", overrides=delayed))
    before, after = losses_of(plain), losses_of(straight)
    assert before[0] == after[0] and before[1] == after[1]  # the same seed
    for letter, value in before[2].items():  # of the same weights, as only the update to come differs
        if letter != "T":
            np.testing.assert_allclose(after[2][letter], value * (2 if letter == "M" else 1), rtol=1e-6)
    assert [after[i]["C"] > 0 for i in range(5)] == [True, True, True, True, False]
    for start in (1, 3):
        resumed = tmp_path / f"from {start}"
        path = straight / "weights" / f"{stem_of(demo_data, start)}.pdparams"
        quietly("train", train_arguments(demo_data, resumed, f"--resume={path}", overrides=delayed))
        assert losses_of(resumed) == {i: value for i, value in after.items() if i >= start}
