"""The plot of training logs: sessions are joined, what cannot be read is passed over, pictures are written."""

import json

import cv2
import numpy as np
import pytest

from tools import plot_log
from utils.training_log import read_log


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
    log = read_log(write_log(tmp_path / "a.log", [(0, 9), (6, 12)], val_every=4))
    assert log.iterations.tolist() == list(range(13))
    assert log.losses["B"].tolist() == [1.0] * 6 + [2.0] * 7
    assert list(log.losses) == ["T", "B", "C", "M", "S"]
    assert log.validated.tolist() == [0, 4, 8, 12]
    assert log.precisions["box"].tolist() == [20.0, 20.0, 21.0, 21.0]
    assert log.precisions["mask"].tolist() == [10.0] * 4


def test_the_last_session_can_be_read_alone(tmp_path):
    path = write_log(tmp_path / "a.log", [(0, 9), (6, 12)])
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps({"type": "session", "session": 2, "data": {}, "time": 0}) + "\n")
    log = read_log(path, last_session=True)
    assert log.iterations.tolist() == list(range(6, 13)) and log.validated.tolist() == []


def test_a_line_cut_off_by_a_killed_run_is_skipped(tmp_path):
    log = read_log(write_log(tmp_path / "a.log", [(0, 9)], torn=True))
    assert log.iterations.tolist() == list(range(9))


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
    log = read_log(str(tmp_path / "a.log"))
    assert log.iterations.tolist() == [19, 20] and log.validated.tolist() == [20]
    assert log.precisions["mask"].tolist() == [1.0] and np.isnan(log.precisions["box"]).all()


def test_of_two_validations_of_one_iteration_the_later_counts(tmp_path):
    records = [("train", 9, 0.0), ("val", 10, 1.0), ("val", 10, 2.0)]
    lines = [{"type": kind, "session": 0, "data": {"iter": iteration, "loss": {}, "box": {"all": precision}}}
             for kind, iteration, precision in records]
    (tmp_path / "a.log").write_text("\n".join(map(json.dumps, lines)))
    log = read_log(str(tmp_path / "a.log"))
    assert log.validated.tolist() == [10] and log.precisions["box"].tolist() == [2.0]


def test_sessions_begin_where_they_still_count(tmp_path):
    log = read_log(write_log(tmp_path / "a.log", [(0, 9), (6, 12), (4, 15), (4, 20)]))
    assert log.session_starts == [0, 4]
    [curve] = next(panel for panel in plot_log.panels_of([log]) if "time" in panel.title).curves_of(log)
    assert np.isnan(curve.values).nonzero()[0].tolist() == [0, 4]


def test_records_of_another_kind_or_shape_are_passed_over(tmp_path):
    path = write_log(tmp_path / "a.log", [(0, 4)])
    odd = [{"type": "note", "session": 0, "data": {"iter": 1}}, {"type": "train", "session": 0, "data": None},
           {"type": "train", "session": 0, "data": {"iter": 9}}, {"type": "val", "session": 0, "data": {"box": 1}},
           {"type": "val", "session": 0, "data": {"iter": 5, "box": None, "mask": 3}},
           {"type": "train", "session": 0, "data": {"iter": 5, "loss": {"B": None, "Z": 1.0}}}]
    with open(path, "a", encoding="utf-8") as file:
        file.write("\n".join(map(json.dumps, odd)))
    log = read_log(path)
    assert log.iterations.tolist() == [0, 1, 2, 3, 4, 5] and log.validated.tolist() == [5]
    assert np.isnan([*log.precisions["box"], *log.precisions["mask"]]).all()
    assert np.isnan([log.losses["B"][5], log.learning_rates[5], log.seconds[5], log.losses["Z"][0]]).all()


def test_only_what_a_log_holds_has_a_panel(tmp_path):
    plain = read_log(write_log(tmp_path / "a.log", [(0, 4)]))
    validated = read_log(write_log(tmp_path / "b.log", [(0, 4)], val_every=2))
    titles = [panel.title for panel in plot_log.panels_of([plain])]
    assert titles == ["total loss", "box (B)", "class (C)", "mask (M)", "semantic segmentation (S)", "learning rate",
                      "time per iteration (s)"]
    assert [panel.title for panel in plot_log.panels_of([plain, validated])] == [*titles, "validation AP (%)"]


@pytest.fixture
def figure_of(monkeypatch):
    """A function that draws logs and gives the figure instead of writing it."""
    figures = []
    monkeypatch.setattr(plot_log, "save_figure", lambda figure, path: figures.append(figure))

    def draw(*paths):
        plot_log.plot_logs(paths, "not written.png")
        return figures[-1]

    return draw


def axes_of(figure, title):
    [axes] = [axes for axes in figure.axes if axes.get_title(loc="left") == title]
    return axes


def test_dotted_lines_are_where_training_was_resumed(figure_of, tmp_path):
    resumed = write_log(tmp_path / "a.log", [(0, 9), (6, 12)])
    figure = figure_of(resumed, write_log(tmp_path / "b.log", [(0, 12)], val_every=4))
    for title, starts in (("box (B)", [6]), ("validation AP (%)", [])):  # which only the other run has
        lines = axes_of(figure, title).lines
        assert [line.get_xdata()[0] for line in lines if line.get_linestyle() == ":"] == starts


def test_the_first_losses_may_leave_the_top(figure_of, tmp_path):
    path = write_log(tmp_path / "a.log", [(0, 199)])
    content = (tmp_path / "a.log").read_text().replace('"B": 1.0', '"B": 50.0', 3)
    (tmp_path / "a.log").write_text(content)
    bottom, top = axes_of(figure_of(path), "box (B)").get_ylim()
    assert (bottom, top) == (0, pytest.approx(1.1))


def test_a_loss_of_nothing_but_zeros_has_axes(figure_of, tmp_path):
    path = write_log(tmp_path / "a.log", [(0, 4)])
    (tmp_path / "a.log").write_text((tmp_path / "a.log").read_text().replace('"C": 2.0', '"C": 0.0'))
    assert axes_of(figure_of(path), "class (C)").get_ylim() == (0, 1)


def test_a_long_log_is_thinned_to_what_can_be_seen(figure_of, monkeypatch, tmp_path):
    monkeypatch.setattr(plot_log, "MAX_POINTS", 100)
    axes = axes_of(figure_of(write_log(tmp_path / "a.log", [(0, 999)])), "mask (M)")
    assert [len(line.get_xdata()) for line in axes.lines] == [100, 100]
    assert all(line.get_xdata()[-1] == 990 and line.get_marker() == "None" for line in axes.lines)


def test_a_noisy_loss_has_its_running_mean_over_it(figure_of, tmp_path):
    path = write_log(tmp_path / "a.log", [(0, 199)])
    records = [json.loads(line) for line in (tmp_path / "a.log").read_text().splitlines()]
    for record in records[1:]:
        record["data"]["loss"]["B"] = float(record["data"]["iter"] % 2)
    (tmp_path / "a.log").write_text("\n".join(map(json.dumps, records)))
    raw, mean = (line.get_ydata() for line in axes_of(figure_of(path), "box (B)").lines)
    assert np.ptp(raw) == 1 and np.ptp(mean[5:-5]) < 0.3


def test_every_run_has_its_name_and_color_also_beyond_the_last_color(figure_of, tmp_path):
    names = [f"run{number}" for number in range(7)]
    paths = [write_log(tmp_path / f"{name}.log", [(0, 4)], val_every=2 if name == "run6" else 0) for name in names]
    figure = figure_of(*paths)
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == names and figure.get_suptitle() == ""
    colors = [line.get_color() for line in legend.get_lines()]
    assert colors == [*plot_log.LINE_COLORS, plot_log.LINE_COLORS[0]]
    assert {line.get_color() for line in axes_of(figure, "total loss").lines} == set(plot_log.LINE_COLORS)
    axes = axes_of(figure, "validation AP (%)")
    assert {line.get_color() for line in axes.lines} == {plot_log.LINE_COLORS[0]}
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["mask", "box"]
    assert axes.get_ylim() == (0, pytest.approx(1.08 * 20))


def test_a_single_run_is_the_headline_cut_if_it_is_long(figure_of, tmp_path):
    figure = figure_of(write_log(tmp_path / "yolact_base.log", [(0, 4)]))
    assert figure.get_suptitle() == "yolact_base" and not figure.legends
    long = figure_of(write_log(tmp_path / f"{'x' * 70}_end.log", [(0, 4)])).get_suptitle()
    assert len(long) == 60 and long.startswith("...x") and long.endswith("x_end")


@pytest.mark.parametrize("rates, scale", [
    ([1e-3] * 50 + [1e-4] * 50, "linear"), ([1e-3] * 50 + [1e-4] * 20 + [1e-5] * 30, "log"), ([0.0] * 5, "linear"),
    ((1e-3 * (1 + np.cos(np.linspace(0, np.pi, 100)))).tolist(), "linear")])
def test_the_rate_is_logarithmic_where_steps_would_vanish(rates, scale):
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    plot_log._limit_rate(axes, [plot_log.Curve(np.arange(len(rates)), np.array(rates))])
    assert axes.get_yscale() == scale


@pytest.mark.parametrize("paths, names", [
    (["logs/a.log"], ["a"]), (["logs/a.log", "other/b.log"], ["a", "b"]),
    (["x/one/logs/base.log", "x/two/logs/base.log"], ["one/logs/base", "two/logs/base"]),
    (["x/base.log", "x/one/base.log"], ["base", "one/base"]),
    (["x/a.log", "x/a.log"], ["a", "a"]),
    (["x/a.log", "y/a.log", "y/b.log"], ["x/a", "y/a", "y/b"])])
def test_runs_are_named_after_what_differs(paths, names):
    assert plot_log.run_names(paths) == names


def refusal_of(*arguments):
    """What the command says to a mistake: one line, with exit code 1."""
    with pytest.raises(SystemExit) as stop:
        plot_log.main([str(argument) for argument in arguments])
    message = stop.value.code  # sys.exit(text) prints the text to stderr and exits with 1
    assert message.startswith("plot_log.py: error: ") and "\n" not in message
    return message


def test_a_picture_that_cannot_be_written_is_one_line(tmp_path):
    path = write_log(tmp_path / "a.log", [(0, 4)])
    assert "correct --out" in refusal_of(path, "--out", tmp_path / "a.log" / "losses.png")


@pytest.mark.parametrize("names, options", [(["a.log"], []), (["a.log", "b.log"], ["--last_session"])])
def test_command_writes_a_picture(tmp_path, names, options, capsys):
    paths = [write_log(tmp_path / name, [(0, 30), (20, 40)], val_every=10) for name in names]
    plot_log.main([*paths, "--out", str(tmp_path / "new" / "losses.png"), *options])
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
def test_a_log_with_nothing_to_draw_is_named(tmp_path, content):
    path = tmp_path / "x.log"
    if content is not None:
        path.write_text(content)
    assert "x.log" in refusal_of(path, "--out", tmp_path / "losses.png")
    assert not (tmp_path / "losses.png").exists()


def test_numbers_that_no_training_has_are_gaps(tmp_path):
    lines = [{"type": "train", "session": 0, "data": {"iter": iteration, "lr": lr, "loss": {"B": 1}}}
             for iteration, lr in ((0, 10 ** 400), (1, 1e308), (2 ** 70, 1), (2, 0.5))]
    (tmp_path / "x.log").write_text("\n".join([*map(json.dumps, lines), "[" * 100_000]))
    log = read_log(str(tmp_path / "x.log"))
    assert log.iterations.tolist() == [0, 1, 2]
    assert np.isnan(log.learning_rates[:2]).all() and log.learning_rates[2] == 0.5


def test_learning_rates_below_zero_are_drawn(tmp_path):
    lines = [{"type": "train", "session": 0, "data": {"iter": iteration, "lr": -1, "loss": {}}} for iteration in (0, 1)]
    (tmp_path / "x.log").write_text("\n".join(map(json.dumps, lines)))
    plot_log.main([str(tmp_path / "x.log"), "--out", str(tmp_path / "x.png")])
    assert (tmp_path / "x.png").exists()
