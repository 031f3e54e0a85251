"""The plot of training logs: sessions are joined, what cannot be read is passed over, pictures are written."""

import json

import cv2
import numpy as np
import pytest

from tools import plot_log


def write_log(path, sessions, val_every=0, torn=False):
    """Log of sessions given as (first, last) iteration; the box loss is the session's number plus 1."""
    lines = []
    for session, (first, last) in enumerate(sessions):
        lines.append({"type": "session", "session": session, "data": {}, "time": 0})
        for iteration in range(first, last + 1):
            loss = {"B": session + 1.0, "C": 2.0, "M": 3.0, "S": 0.5, "T": session + 6.5}
            lines.append({"type": "train", "session": session, "time": 0, "data": {
                "loss": loss, "epoch": 0, "iter": iteration, "lr": 1e-3, "elapsed": 0.1}})
            if val_every and iteration % val_every == 0:
                lines.append({"type": "val", "session": session, "time": 0, "data": {
                    "elapsed": 1, "epoch": 0, "iter": iteration, "box": {"all": 20.0 + session, "50": 30.0},
                    "mask": {"all": 10.0, "50": None}}})
    text = "\n".join(json.dumps(line) for line in lines) + "\n"
    path.write_text(text[:-20] if torn else text)
    return str(path)


def test_resumed_sessions_are_joined_and_the_later_one_counts(tmp_path):
    log = plot_log.read_log(write_log(tmp_path / "a.log", [(0, 9), (6, 12)], val_every=4))
    assert log["iter"].tolist() == list(range(13))
    assert log["loss"]["B"].tolist() == [1.0] * 6 + [2.0] * 7
    assert list(log["loss"]) == ["T", "B", "C", "M", "S"]
    assert log["val"] == [(0, {"box": 20.0, "mask": 10.0}), (4, {"box": 20.0, "mask": 10.0}),
                          (8, {"box": 21.0, "mask": 10.0}), (12, {"box": 21.0, "mask": 10.0})]


def test_the_last_session_can_be_read_alone(tmp_path):
    path = write_log(tmp_path / "a.log", [(0, 9), (6, 12)])
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps({"type": "session", "session": 2, "data": {}, "time": 0}) + "\n")
    log = plot_log.read_log(path, last_session=True)
    assert log["iter"].tolist() == list(range(6, 13)) and log["val"] == []


def test_a_line_cut_off_by_a_killed_run_is_skipped(tmp_path):
    log = plot_log.read_log(write_log(tmp_path / "a.log", [(0, 9)], torn=True))
    assert log["iter"].tolist() == list(range(9))


def test_running_mean_is_centred_and_skips_what_is_not_finite():
    values = np.array([1.0, 2.0, 3.0, np.nan, 5.0, np.inf])
    assert plot_log.smoothed(values, 3) == pytest.approx([1.5, 2.0, 2.5, 4.0, 5.0, 5.0])
    assert plot_log.smoothed(values[:3], 1) == pytest.approx([1.0, 2.0, 3.0])
    assert np.isnan(plot_log.smoothed(np.array([np.nan]), 1)).all()


def test_a_validation_after_the_point_of_resuming_is_void_one_at_it_stays(tmp_path):
    records = [("train", 0, 19), ("val", 0, 20), ("train", 0, 29), ("val", 0, 30), ("train", 1, 20)]
    lines = [{"type": kind, "session": session, "data": {"iter": iteration, "loss": {}, "mask": {"all": 1.0}}}
             for kind, session, iteration in records]
    (tmp_path / "a.log").write_text("\n".join(map(json.dumps, lines)))
    log = plot_log.read_log(str(tmp_path / "a.log"))
    assert log["iter"].tolist() == [19, 20] and log["val"] == [(20, {"mask": 1.0})]


def test_sessions_begin_where_they_still_count(tmp_path):
    log = plot_log.read_log(write_log(tmp_path / "a.log", [(0, 9), (6, 12), (4, 20)]))
    assert log["starts"] == [0, 4]
    assert np.isnan(plot_log._usual_seconds(log)).nonzero()[0].tolist() == [0, 4]


def test_records_of_another_kind_or_shape_are_passed_over(tmp_path):
    path = write_log(tmp_path / "a.log", [(0, 4)])
    odd = [{"type": "note", "session": 0, "data": {"iter": 1}}, {"type": "train", "session": 0, "data": None},
           {"type": "train", "session": 0, "data": {"iter": 9}}, {"type": "val", "session": 0, "data": {"box": 1}},
           {"type": "val", "session": 0, "data": {"iter": 5, "box": None, "mask": 3}},
           {"type": "train", "session": 0, "data": {"iter": 5, "loss": {"B": None, "Z": 1.0}}}]
    with open(path, "a", encoding="utf-8") as file:
        file.write("\n".join(map(json.dumps, odd)))
    log = plot_log.read_log(path)
    assert log["iter"].tolist() == [0, 1, 2, 3, 4, 5] and log["val"] == [(5, {})]
    assert np.isnan([log["loss"]["B"][5], log["lr"][5], log["seconds"][5], log["loss"]["Z"][0]]).all()


def test_only_what_a_log_holds_has_a_panel(tmp_path):
    plain = plot_log.read_log(write_log(tmp_path / "a.log", [(0, 4)]))
    validated = plot_log.read_log(write_log(tmp_path / "b.log", [(0, 4)], val_every=2))
    titles = [panel[0] for panel in plot_log._panels([plain])]
    assert titles == ["total loss", "box (B)", "class (C)", "mask (M)", "semantic segmentation (S)", "learning rate",
                      "time per iteration (s)"]
    assert [panel[0] for panel in plot_log._panels([plain, validated])] == [*titles, "validation AP (%)"]


@pytest.mark.parametrize("rates, scale", [
    ([1e-3] * 50 + [1e-4] * 50, "linear"), ([1e-3] * 50 + [1e-4] * 20 + [1e-5] * 30, "log"), ([0.0] * 5, "linear"),
    ((1e-3 * (1 + np.cos(np.linspace(0, np.pi, 100)))).tolist(), "linear")])
def test_the_rate_is_logarithmic_where_steps_would_vanish(rates, scale):
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    plot_log._limit_rate(axes, [np.array(rates)])
    assert axes.get_yscale() == scale


@pytest.mark.parametrize("paths, names", [
    (["logs/a.log"], ["a"]), (["logs/a.log", "other/b.log"], ["a", "b"]),
    (["x/one/logs/base.log", "x/two/logs/base.log"], ["one", "two"]),
    (["x/base.log", "x/one/base.log"], ["x", "x/one"]),
    (["x/a.log", "x/a.log"], ["a", "a"]),
    (["x/a.log", "y/a.log", "y/b.log"], ["x/a", "y/a", "y/b"])])
def test_runs_are_named_after_what_differs(paths, names):
    assert plot_log.run_names(paths) == names


def test_a_picture_that_cannot_be_written_is_one_line(tmp_path, capsys):
    path = write_log(tmp_path / "a.log", [(0, 4)])
    with pytest.raises(SystemExit) as stopped:
        plot_log.main([path, "--out", str(tmp_path / "a.log" / "losses.png")])
    message = capsys.readouterr().err
    assert stopped.value.code == 2 and message.count("\n") == 1 and "--out" in message


@pytest.mark.parametrize("names, options", [(["a.log"], []), (["a.log", "b.log"], ["--last_session"])])
def test_command_writes_a_picture(tmp_path, names, options, capsys):
    paths = [write_log(tmp_path / name, [(0, 30), (20, 40)], val_every=10) for name in names]
    assert plot_log.main([*paths, "--out", str(tmp_path / "new" / "losses.png"), *options]) == 0
    plot = cv2.imread(str(tmp_path / "new" / "losses.png"))
    assert plot.shape[0] > 1000 and plot.shape[1] > 1000 and (plot < 200).any()
    assert "losses.png" in capsys.readouterr().out


def test_one_iteration_and_losses_that_are_not_finite_are_drawn(tmp_path):
    path = tmp_path / "a.log"
    loss = {"B": float("nan"), "T": float("inf"), "Q": 1.0}
    data = {"loss": loss, "epoch": 0, "iter": 0, "lr": 0.0, "elapsed": 1}
    path.write_text(json.dumps({"type": "train", "session": 0, "data": data, "time": 0}))
    plot_log.plot_logs([str(path)], str(tmp_path / "losses.png"))
    assert (tmp_path / "losses.png").stat().st_size > 1000


@pytest.mark.parametrize(
    "content", [None, "", '{"type": "session", "session": 0, "data": {}}\nnot json\n[1]\n'])
def test_a_log_with_nothing_to_draw_is_named(tmp_path, content, capsys):
    path = tmp_path / "x.log"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SystemExit) as stopped:
        plot_log.main([str(path), "--out", str(tmp_path / "losses.png")])
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert "x.log" in message and message.count("\n") == 1 and not (tmp_path / "losses.png").exists()
