"""One step of training: in parts, over processes, clipped, averaged; the same step however the batch is divided."""
import contextlib
import logging
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from cli_runs import (
    REPO,
    batches_per_epoch,
    checkpoint_state,
    places,
    records,
    run,
    stem_of,
    train_arguments,
)

from data.coco import Batch
from data.config import get_config
from layers.multibox_loss import MultiBoxLoss
from utils import checkpoint
from utils.update import Average, Update, amp_type
from utils.weights import read_weights
from yolact import Yolact

SIZE, OBJECTS = 48, (3, 0, 1, 2)  # objects of each picture; one has none


def made_up_sample(index):
    random = np.random.RandomState(index)
    count = OBJECTS[index]
    boxes = np.sort(random.uniform(0.1, 0.9, [count, 2, 2]), axis=1).reshape(-1, 4).astype("float32")
    masks = np.zeros([count, SIZE, SIZE], "uint8")
    for mask, (x1, y1, x2, y2) in zip(masks, (boxes * SIZE).astype(int)):
        mask[y1:y2 + 1, x1:x2 + 1] = 1
    return SimpleNamespace(boxes=boxes, labels=random.randint(0, 3, count), masks=masks, num_crowds=0, image_id=index)


def made_up_batch(chosen):
    images = np.stack([np.random.RandomState(50 + i).standard_normal([3, SIZE, SIZE]) for i in chosen])
    return Batch(images.astype("float32"), [made_up_sample(i) for i in chosen])


def tiny_update(parts=1, rate=None, **options):
    """(config, Update) of a small network, the same every time, batch norm frozen."""
    config = get_config("yolact_demo").copy({
        "max_size": SIZE, "fpn": {"num_features": 16}, "backbone": {"args": ([1, 1, 1], None, 1, 8)},
        "extra_head_net": [(16, 3, {"padding": 1})], "masks_to_train": 2,
        "mask_proto_net": [(16, 3, {"padding": 1}), (None, -2, {}), (8, 1, {})]})
    paddle.seed(3)
    net = Yolact(config)
    net.freeze_bn()
    net.train()
    optimizer = paddle.optimizer.Momentum(0.1, 0.9, [p for p in net.parameters() if not p.stop_gradient], **options)
    return config, Update(net, optimizer, parts)


def weights_of(net):
    return {name: tensor.numpy().copy() for name, tensor in net.state_dict().items()}


def one_step(chosen=range(4), parts=1, **options):
    """(loss terms, weights before, weights after) of a step."""
    config, update = tiny_update(parts, **options)
    before = weights_of(update.net)
    losses = update(MultiBoxLoss(config), made_up_batch(chosen), 0.1, (5, 6))
    return losses, before, weights_of(update.net)


def assert_same_step(one, other):
    """Losses, and changes of the weights, to rounding."""
    assert list(one[0]) == list(other[0])
    np.testing.assert_allclose(list(one[0].values()), list(other[0].values()), rtol=1e-5)
    moved = 0
    for name, before in one[1].items():
        change = one[2][name] - before
        moved += change.any()
        np.testing.assert_allclose(other[2][name] - before, change, rtol=0, atol=2e-5 * np.abs(change).max() + 2e-7,
                                   err_msg=name)
    assert moved > 20


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_a_batch_in_parts_makes_the_same_step(parts):
    assert_same_step(one_step(), one_step(parts=parts))


def test_the_order_of_pictures_does_not_matter():
    assert_same_step(one_step(), one_step(chosen=(2, 0, 3, 1), parts=2))


def test_clipping_bounds_the_gradient():
    _, before, free = one_step()
    _, _, clipped = one_step(grad_clip=paddle.nn.ClipGradByGlobalNorm(0.01))

    def step(after):
        return np.sqrt(sum(((after[name] - before[name]).astype("float64") ** 2).sum() for name in before))

    assert step(free) > 0.01 and step(clipped) == pytest.approx(0.1 * 0.01, rel=1e-3)


def test_an_average_follows_the_weights_and_changes_places_with_them():
    config, update = tiny_update()
    start = weights_of(update.net)
    update.average = Average(update.net, 0.75)
    update(MultiBoxLoss(config), made_up_batch(range(4)), 0.1)
    after = weights_of(update.net)
    expected = {name: 0.75 * start[name] + 0.25 * after[name] for name in start}
    update.average.swap(update.net)
    for name, value in weights_of(update.net).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-7)
    update.average.swap(update.net)
    assert all((value == after[name]).all() for name, value in weights_of(update.net).items())


def test_a_step_without_a_finite_loss_leaves_batch_norm_alone():
    """Its forward pass has let the bad batch into the statistics of norms that are not frozen."""
    config, frozen = tiny_update()
    net = Yolact(config)
    net.train()
    update = Update(net, frozen.optimizer)
    before = weights_of(net)

    class NotFinite(MultiBoxLoss):
        def terms(self, *arguments):
            return {name: term * float("nan") for name, term in super().terms(*arguments).items()}

    assert np.isnan(list(update(NotFinite(config), made_up_batch(range(4)), 0.1).values())).all()
    assert all(np.array_equal(value, before[name]) for name, value in weights_of(net).items())


def test_of_frozen_norms_no_statistics_are_kept():
    config, frozen = tiny_update()
    norms = [name for name in frozen.net.state_dict() if name.endswith("_mean")]
    assert frozen.statistics == [] and norms
    net = Yolact(config)
    net.train()
    assert len(Update(net, frozen.optimizer).statistics) == 2 * len(norms)


def test_half_precision_on_a_cpu_is_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        assert amp_type(True, "cpu") is None and "--amp has no effect" in caplog.text
        assert amp_type(False, "gpu") is None


class RecordingScaler:
    """What paddle.amp.GradScaler does on a GPU; on a CPU it is switched off."""

    def __init__(self, scale=8.0):
        self.factor, self.steps = scale, 0

    def scale(self, loss):
        return loss * self.factor

    def step(self, optimizer):
        for parameter in optimizer._parameter_list:
            if parameter.grad is not None:
                parameter.grad = parameter.grad / self.factor
        optimizer.step()
        self.steps += 1

    def update(self):
        self.factor *= 2

    def state_dict(self):
        return {"scale": np.float32([self.factor]), "incr_count": self.steps}

    def load_state_dict(self, state):
        self.factor, self.steps = state["scale"][0], state["incr_count"]


def test_half_precision_is_for_the_network_and_not_for_the_loss(monkeypatch):
    """The network runs inside auto_cast, with the type asked for; the loss gets float32 and runs outside."""
    config, update = tiny_update()
    update.amp, inside, seen = "bfloat16", [], {}

    @contextlib.contextmanager
    def auto_cast(**options):
        inside.append(options)
        yield
        inside.append("out")

    class Criterion(MultiBoxLoss):
        def terms(self, out, *arguments):
            assert inside[-1] == "out"
            seen.update({name: value.dtype for name, value in out.items()})
            return super().terms(out, *arguments)

    monkeypatch.setattr(paddle.amp, "auto_cast", auto_cast)
    update.net.register_forward_post_hook(
        lambda layer, inputs, out: {name: value.astype("float64") for name, value in out.items()})
    losses = update(Criterion(config), made_up_batch(range(4)), 0.1, (5, 6))
    assert inside[0] == {"enable": True, "dtype": "bfloat16", "level": "O1"}
    assert set(seen.values()) == {paddle.float32}
    np.testing.assert_allclose(list(losses.values()), list(one_step()[0].values()), rtol=1e-5)


def test_a_scaled_loss_makes_the_same_step_and_the_scale_is_in_the_checkpoint(tmp_path):
    config, update = tiny_update(parts=2)
    update.scaler = RecordingScaler()
    before = weights_of(update.net)
    losses = update(MultiBoxLoss(config), made_up_batch(range(4)), 0.1, (5, 6))
    assert_same_step(one_step(), (losses, before, weights_of(update.net)))
    path = checkpoint.save(str(tmp_path), "tiny_0_1", update, {"config": {}, "epoch": 0, "iteration": 1})
    _, other = tiny_update()
    other.scaler = RecordingScaler()
    checkpoint.load_training_state(path, other)
    assert (other.scaler.factor, other.scaler.steps) == (16.0, 1)


def test_only_float16_needs_a_scaler():
    _, update = tiny_update()
    assert [Update(update.net, update.optimizer, amp=amp).scaler is not None
            for amp in (None, "bfloat16", "float16")] == [False, False, True]


# ----------------------------------------------------------------------------------------- processes

STEP = """
import sys
sys.path[:0] = [{repo!r}, {tests!r}]
import utils.runtime
import numpy as np, paddle
from utils import ranks
import test_update as t
paddle.set_device("cpu")
ranks.join()
chosen = [[0, 2, 3], [1]][ranks.rank()]  # the second process has a picture without an object
losses, before, after = t.one_step(chosen)
if ranks.rank() == {writer}:
    np.savez({out!r}, losses=list(losses.values()), **after)
"""


def launch(arguments, folder, processes=2, check=True):
    """Paddle's launcher; returns the CompletedProcess. Workers' output is below `folder`."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-m", "paddle.distributed.launch", f"--nproc_per_node={processes}",
         f"--log_dir={folder / 'workers'}", *map(str, arguments)],
        cwd=str(folder), env=environment, capture_output=True, text=True, timeout=240)
    logs = "".join(path.read_text() for path in sorted((folder / "workers").glob("workerlog.*")))
    assert not check or done.returncode == 0, done.stderr[-2000:] + logs[-4000:]
    done.workers = logs
    return done


@pytest.mark.parametrize("writer", [0, 1])
def test_two_processes_make_the_step_of_one(tmp_path, writer):
    script, out = tmp_path / "step.py", tmp_path / "out.npz"
    script.write_text(STEP.format(repo=str(REPO), tests=str(REPO / "tests"), out=str(out), writer=writer))
    launch([script], tmp_path)
    losses, before, after = one_step()
    with np.load(out) as file:
        theirs = {name: file[name] for name in file.files}
    other = dict(zip(losses, theirs.pop("losses").tolist()))
    assert_same_step((losses, before, after), (other, before, theirs))


FROZEN = ["freeze_bn=True", "lr_warmup_until=0", "lr=0.001"]


def losses_of(folder):
    return [list(record["data"]["loss"].values()) for record in records(folder, "train")]


def test_training_and_resuming_with_another_number_of_processes(demo_data, tmp_path):
    """Six steps by one process; and by two, killed after three, with augmentation and over an epoch's end."""
    options = ["--num_workers=1", "--save_interval=3", "--validation_epoch=2"]
    run("train", train_arguments(demo_data, tmp_path / "one", *options, overrides=FROZEN))
    arguments = train_arguments(demo_data, tmp_path / "two", *options, overrides=FROZEN)
    launch([REPO / "train.py", *arguments], tmp_path)
    one, two = losses_of(tmp_path / "one"), losses_of(tmp_path / "two")
    assert len(one) == len(two) == 6
    np.testing.assert_allclose(two, one, rtol=2e-4)
    figures = [[record["data"]["box"] for record in records(tmp_path / name, "val")] for name in ("one", "two")]
    assert figures[0] and [list(f) for f in figures[0]] == [list(f) for f in figures[1]]

    resumed = train_arguments(demo_data, tmp_path / "two", *options, overrides=FROZEN)
    run("train", [f"--resume={tmp_path / 'two' / 'weights' / stem_of(demo_data, 3)}.pdparams", *resumed])
    again = losses_of(tmp_path / "two")[6:]
    np.testing.assert_allclose(again, one[3:], rtol=2e-4)


def test_evaluation_by_several_processes_writes_the_same_files(demo_data, tmp_path):
    arguments = ["--trained_model=" + str(REPO / "weights" / "yolact_demo.safetensors"), "--cuda=False", "--no_bar",
                 "--output_coco_json", "-o", *places(demo_data)]
    for name, processes in (("one", 1), ("three", 3)):  # both by the launcher: the threads decide how sums are rounded
        launch([REPO / "eval.py", f"--output_folder={tmp_path / name}", *arguments], tmp_path, processes)
    for name in ("bbox_detections.json", "mask_detections.json", "metrics.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "three" / name).read_bytes(), name


def test_a_process_that_dies_ends_the_job_with_its_reason(demo_data, tmp_path):
    script = tmp_path / "dies.py"
    script.write_text(f"""
import os, sys
sys.path[:0] = [{str(REPO)!r}]
import train
from utils import ranks
class Dying(train.Update):
    def __call__(self, *arguments):
        if ranks.rank() == 1:
            raise train.UserError("the reason")
        return super().__call__(*arguments)
train.Update = Dying
train.main(sys.argv[1:])
""")
    done = launch([script, *train_arguments(demo_data, tmp_path)], tmp_path, check=False)
    assert done.returncode != 0 and "train.py: error: the reason" in done.workers


def test_a_batch_smaller_than_the_processes_is_refused(demo_data, tmp_path):
    done = launch([REPO / "train.py", *train_arguments(demo_data, tmp_path, "--batch_size=1")], tmp_path, check=False)
    assert done.returncode != 0 and "--batch_size is 1, for all of the 2 processes" in done.workers


# ------------------------------------------------------------------------------ through the command


def test_training_in_parts_logs_the_same_losses(demo_data, tmp_path):
    for name, options in (("whole", []), ("parts", ["--accumulate=3"])):
        run("train", train_arguments(demo_data, tmp_path / name, *options, overrides=FROZEN))
    np.testing.assert_allclose(losses_of(tmp_path / "parts"), losses_of(tmp_path / "whole"), rtol=2e-4)


def test_the_average_is_saved_resumed_and_validated(demo_data, tmp_path, capsys):
    options = ["--ema=0.5", "--save_interval=3", "--validation_epoch=1", "--keep_best"]
    straight, stopped = (tmp_path / name for name in ("straight", "stopped"))
    run("train", train_arguments(demo_data, straight, *options))
    run("train", train_arguments(demo_data, stopped, *options, overrides=["max_iter=3"]))
    resumed = stopped / "weights" / f"{stem_of(demo_data, 3)}.pdparams"
    run("train", [f"--resume={resumed}", *train_arguments(demo_data, stopped, *options)])
    last = stem_of(demo_data, 6)
    one, two = (checkpoint_state(folder, last) for folder in (straight, stopped))
    assert any(name.startswith("average:") for name in one)
    assert one.keys() == two.keys() and all((one[name] == two[name]).all() for name in one)
    best = read_weights(str(straight / "weights" / "yolact_demo_best.safetensors"))
    assert best.keys() == read_weights(str(straight / "weights" / f"{last}.pdparams")).keys()
    assert "the highest so far" in capsys.readouterr().out
    assert batches_per_epoch(demo_data) < 6  # validations there were
