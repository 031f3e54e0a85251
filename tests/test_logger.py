"""JSON-lines log and console line."""
import json

import numpy as np
import pytest

from utils import logger
from utils.logger import Log, Meter, console_line

LOSSES = {"B": 1.25, "M": 2.5, "C": 3.123456789, "S": 0.5}


def _records(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_record_shapes(tmp_path):
    path = tmp_path / "logs" / "net.log"
    with Log(str(path), {"batch_size": 8, "lr": None}) as log:
        log.train(LOSSES, epoch=0, iteration=0, lr=1e-4, elapsed=0.25)
        log.log("val", {"box": {"all": np.float64(50)}, "iter": 1})
    session, train, val = _records(path)
    assert [r["type"] for r in (session, train, val)] == ["session", "train", "val"]
    for record in (session, train, val):
        assert set(record) == {"type", "session", "data", "time"} and record["session"] == 0
    assert session["data"] == {"batch_size": 8, "lr": None}
    assert list(train["data"]["loss"]) == ["B", "C", "M", "S", "T"]
    assert train["data"]["loss"]["C"] == 3.123456789  # unrounded
    assert train["data"]["loss"]["T"] == pytest.approx(7.373456789)
    assert {k: v for k, v in train["data"].items() if k != "loss"} == {
        "epoch": 0, "iter": 0, "lr": 1e-4, "elapsed": 0.25}
    assert val["data"] == {"box": {"all": 50.0}, "iter": 1}


def test_every_line_is_on_disk_at_once(tmp_path):
    path = tmp_path / "net.log"
    log = Log(str(path))
    log.train(LOSSES, 0, 0, 1e-4, 0.1)
    assert len(_records(path)) == 2
    log.close()


def test_append_counts_sessions(tmp_path):
    path = tmp_path / "net.log"
    for number in range(3):
        with Log(str(path)) as log:
            assert log.session == number
            log.train(LOSSES, 0, number, 1e-4, 0.1)
    assert [r["session"] for r in _records(path)] == [0, 0, 1, 1, 2, 2]


def test_torn_last_line_costs_only_itself(tmp_path):
    path = tmp_path / "net.log"
    with Log(str(path)) as log:
        log.train(LOSSES, 0, 0, 1e-4, 0.1)
    path.write_text(path.read_text() + '{"type": "train", "sess')
    with Log(str(path)) as log:
        assert log.session == 1
    lines = path.read_text().splitlines()
    assert json.loads(lines[-1])["type"] == "session" and lines[-2] == '{"type": "train", "sess'


def test_only_the_end_of_a_long_log_is_read(tmp_path, monkeypatch):
    path = tmp_path / "net.log"
    path.write_text('{"session": 9}\n' + '{"session": 3}\n' * 20)
    monkeypatch.setattr(logger, "TAIL_BYTES", 100)
    with Log(str(path)) as log:
        assert log.session == 4


def test_nan_is_valid_json(tmp_path):
    path = tmp_path / "net.log"
    with Log(str(path)) as log:
        log.train({"B": float("nan"), "C": 1.0}, 0, 0, 1e-4, 0.1)
    assert "NaN" not in path.read_text()
    assert _records(path)[1]["data"]["loss"] == {"B": None, "C": 1.0, "T": None}


def test_gpu_figures_are_added(tmp_path):
    path = tmp_path / "net.log"
    with Log(str(path), gpu_stats=lambda: [{"index": "0"}]):
        pass
    assert _records(path)[0]["gpu"] == [{"index": "0"}]


def test_unwritable_folder_names_the_options(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="--log_folder"):
        Log(str(tmp_path / "file" / "net.log"))


def test_console_line():
    meter = Meter()
    for seconds in (60.0, 0.3, 0.5):
        meter.update(LOSSES, seconds, 0.01, images=8)
    line = console_line(3, 1230, meter, iterations_left=9314)
    assert line == ("[  3]    1230 || B: 1.250 | C: 3.123 | M: 2.500 | S: 0.500 | T: 7.373 || ETA: 1:02:05"
                    " || timer: 0.500 || batch_cost: 0.4000 s, reader_cost: 0.0100 s, ips: 20.000 images/s")


def test_console_line_without_semantic_loss_and_with_others():
    meter = Meter()
    meter.update({"E": 2.0, "I": 1.0, "M": 1.0, "D": 3.0, "B": 1.0, "C": 1.0}, 1.0, 0.0, images=8)
    line = console_line(0, 0, meter, 0)
    assert "|| B: 1.000 | C: 1.000 | M: 1.000 | I: 1.000 | E: 2.000 | D: 3.000 | T: 9.000 ||" in line


def test_meter_averages_a_window():
    meter = Meter(window=2)
    for value, seconds in ((100.0, 9.0), (1.0, 1.0), (3.0, 3.0)):
        meter.update({"B": value, "C": 0.0}, seconds, seconds / 10, images=8)
    assert meter.losses == {"B": 2.0, "C": 0.0}
    assert meter.batch_cost == 2.0 and meter.timer == 3.0
    assert meter.reader_cost == pytest.approx(0.2)
    assert meter.ips == pytest.approx(4.0)
    assert meter.eta(10) == 20.0


def test_meter_leaves_out_the_slow_first_iteration():
    meter = Meter()
    meter.update(LOSSES, 60.0, 5.0, images=8)
    assert meter.batch_cost == 60.0
    meter.update(LOSSES, 1.0, 0.1, images=8)
    assert meter.batch_cost == 1.0 and meter.ips == 8.0


def test_meter_without_updates_and_with_nan():
    meter = Meter()
    assert (meter.losses, meter.ips, meter.eta(5)) == ({}, 0.0, 0.0)
    meter.update({"B": float("nan"), "C": 2.0}, 1.0, 0.0, images=1)
    assert meter.losses == {"C": 2.0}
    assert "C: 2.000 | T: 2.000" in console_line(0, 0, meter, iterations_left=10)
    assert "ETA: 0:00:10" in console_line(0, 0, meter, iterations_left=10)
