"""utils/stopwatch.py: whose time is whose, and the table of it, with a clock that tests set."""
from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from utils import stopwatch
from utils.stopwatch import Stopwatch, time_picture

STAGES = ["load", "transform", "network", "detection", "masks", "encode"]


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still; `clock.wait(seconds)` sets it on."""
    clock = SimpleNamespace(now=100.0)
    clock.wait = lambda seconds: setattr(clock, "now", clock.now + seconds)
    monkeypatch.setattr(stopwatch, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def test_a_lap_begins_at_the_one_before(clock):
    watch = Stopwatch()
    for factor in (1, 10):
        clock.wait(1000)  # between pictures
        watch.start()
        clock.wait(2 * factor)
        watch.lap("first")
        clock.wait(3 * factor)
        watch.lap("second")
    assert watch.seconds == {"first": [2, 20], "second": [3, 30]}


def test_work_that_goes_on_belongs_to_the_stage_that_began_it(clock):
    """Also what was begun before the picture, which is none of its stages'."""
    pending = [1000.0]

    def synchronize():
        clock.wait(pending[0])
        pending[0] = 0

    watch = Stopwatch(synchronize)
    watch.start()
    pending[0] = 7
    watch.lap("network")
    clock.wait(2)
    watch.lap("masks")
    assert watch.seconds == {"network": [7], "masks": [2]}


def test_the_table():
    """The whole is that of each picture; the last one's first stage is slow, which the median does not show."""
    watch = Stopwatch()
    first = [number / 1000 for number in [*range(20), 230]]
    watch.seconds = {"load": first, "network": [(100 - number) / 1000 for number in range(21)]}
    assert [line.split() for line in watch.table().splitlines()] == [
        ["stage", "median", "ms", "p95", "ms", "FPS", "share"],
        ["load", "10.0", "19.0", "100.0", "18.2%"],
        ["network", "90.0", "99.0", "11.1", "81.8%"],
        ["total", "100.0", "100.0", "10.0", "100.0%"]]


def test_shares_of_one_fast_picture():
    watch = Stopwatch()
    watch.seconds = {"load": [0.001], "network": [0.003]}
    assert [line.split()[-1] for line in watch.table().splitlines()[1:]] == ["25.0%", "75.0%", "100.0%"]


def test_stages_that_take_no_time_have_a_line(clock):
    watch = Stopwatch()
    watch.start()
    watch.lap("load")
    assert [(line.split()[:2], line[-6:]) for line in watch.table().splitlines()[1:]] == [
        (["load", "0.0"], "  0.0%"), (["total", "0.0"], "  0.0%")]


class FakePredictor:
    """Checks what each stage is handed, and takes its time: 2, 4, 8, 16 seconds, and half a one for each mask."""

    def __init__(self, clock, image, num_masks):
        self.clock, self.image, self.num_masks = clock, image, num_masks

    def transform(self, image):
        assert image is self.image
        self.clock.wait(2)
        return np.full((3, 8, 8), 5, np.float32)

    def network(self, images):
        assert images.shape == (1, 3, 8, 8) and (images == 5).all() and not paddle.is_grad_enabled()
        self.clock.wait(4)
        return "out"

    def detections_of(self, out):
        assert out == "out"
        self.clock.wait(8)
        return ["detection"]

    def instances(self, detection, height, width):
        assert (detection, height, width) == ("detection", 20, 30)
        self.clock.wait(16)
        return self

    def __len__(self):
        return self.num_masks or 3

    @property
    def has_masks(self):
        return self.num_masks is not None

    def window(self, index):
        self.clock.wait(0.5)
        return index, 7, np.ones((2, 3), bool)


@pytest.mark.parametrize("num_masks, masks, encode", [(2, 17, 64), (None, 16, 0)])
def test_a_picture_has_six_stages(num_masks, masks, encode, clock, monkeypatch):
    encoded = []

    def encode_window(x, y, window, height, width):
        clock.wait(32)
        encoded.append((x, y, window.shape, height, width))

    def load(number):
        assert number == 4
        clock.wait(1)
        return image

    image, watch = np.zeros((20, 30, 3), np.uint8), Stopwatch()
    monkeypatch.setattr(stopwatch, "encode_window", encode_window)
    for _ in range(2):
        clock.wait(1000)
        assert time_picture(FakePredictor(clock, image, num_masks), load, 4, watch) is True
    assert list(watch.seconds) == STAGES
    assert list(watch.seconds.values()) == [[seconds] * 2 for seconds in (1, 2, 4, 8, masks, encode)]
    assert encoded == [(index, 7, (2, 3), 20, 30) for index in range(num_masks or 0)] * 2


def test_a_picture_that_cannot_be_read_has_no_laps(clock):
    """And leaves those of the others as they are."""
    image, watch = np.zeros((20, 30, 3), np.uint8), Stopwatch()
    pictures = [None, image, None]
    read = [time_picture(FakePredictor(clock, image, 0), pictures.__getitem__, number, watch) for number in range(3)]
    assert read == [False, True, False]
    assert {name: len(seconds) for name, seconds in watch.seconds.items()} == dict.fromkeys(STAGES, 1)
