"""VisualDL's records: what is written can be read back, and a resumed training goes on with its curves."""
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from utils.runtime import UserError
from utils.visualdl_log import VisualDLLog

REPO = Path(__file__).resolve().parent.parent
METRICS = {"bbox": {"AP": 0.25, "AP50": 0.5, "AP75": 0.2, "APs": -1.0, "AR100": 0.4, "per_class": {}},
           "segm": {"AP": 0.125, "AP50": 0.0}}


@pytest.fixture
def visualdl():
    return pytest.importorskip("visualdl")


def train(log, first, last, box=1.0):
    for iteration in range(first, last):
        log.train(iteration, {"B": box, "C": float(iteration)}, 1e-3, 0.5, 0.1, images=8)


def scalars(visualdl, path, tag):
    """[(step, value)] of a curve, in the order they were written."""
    reader = visualdl.LogReader(file_path=str(path))
    return [(item.id, pytest.approx(item.value, rel=1e-6)) for item in reader.get_data("scalar", tag)]


def record_file(folder, session=0):
    return folder / f"session_{session}" / "vdlrecords.log"


def test_points_are_means_of_ten_iterations(tmp_path, visualdl, capfd):
    with VisualDLLog(str(tmp_path)) as log:
        train(log, 0, 24)
    path = record_file(tmp_path)
    assert scalars(visualdl, path, "loss/C") == [(0, 0.0), (10, 5.5), (20, 15.5), (23, 22.0)]
    assert scalars(visualdl, path, "loss/T") == [(0, 1.0), (10, 6.5), (20, 16.5), (23, 23.0)]
    for tag, value in (("learning_rate", 1e-3), ("time/batch_cost", 0.5), ("time/reader_cost", 0.1),
                       ("throughput/images_per_second", 16.0)):
        assert scalars(visualdl, path, tag)[1] == (10, value)
    assert capfd.readouterr() == ("", "")


def test_average_precision_in_per_cent_without_what_was_not_measured(tmp_path, visualdl):
    with VisualDLLog(str(tmp_path)) as log:
        log.val(100, METRICS)
    reader = visualdl.LogReader(file_path=str(record_file(tmp_path)))
    written = {tag.replace("%", "/"): reader.get_data("scalar", tag)[0] for tag in reader.get_tags()["scalar"]}
    assert {tag: (item.id, round(item.value, 4)) for tag, item in written.items()} == {
        "validation/box_AP": (100, 25.0), "validation/box_AP50": (100, 50.0), "validation/box_AP75": (100, 20.0),
        "validation/mask_AP": (100, 12.5), "validation/mask_AP50": (100, 0.0)}


def test_pictures_keep_their_colours(tmp_path, visualdl):
    blue = np.zeros((6, 8, 3), np.uint8)
    blue[..., 0], blue[0, 0] = 200, (1, 2, 3)
    with VisualDLLog(str(tmp_path)) as log:
        log.image(50, "first", blue)
    item, = visualdl.LogReader(file_path=str(record_file(tmp_path))).get_data("image", "pictures/first")
    decoded = cv2.imdecode(np.frombuffer(item.image.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
    assert item.id == 50 and np.array_equal(decoded, blue)


def test_a_resumed_training_goes_on_in_its_file_and_replaces_what_it_repeats(tmp_path, visualdl, capfd):
    with VisualDLLog(str(tmp_path)) as log:
        train(log, 0, 41, box=1.0)
        log.val(20, METRICS)
        log.val(40, METRICS)
    with open(record_file(tmp_path), "ab") as file:
        file.write(b"\x40\0\0\0\0\0\0\0torn by a kill")
    with VisualDLLog(str(tmp_path), session=1) as log:
        train(log, 20, 31, box=2.0)
    path = record_file(tmp_path)
    assert scalars(visualdl, path, "loss/B") == [(0, 1.0), (10, 1.0), (20, 2.0), (30, 2.0)]
    assert scalars(visualdl, path, "validation/box_AP") == [(20, 25.0)]
    assert [folder.name for folder in tmp_path.iterdir()] == ["session_0"]
    assert os.listdir(path.parent) == ["vdlrecords.log"]
    assert capfd.readouterr() == ("", "")


def test_a_new_training_keeps_the_old_one_and_is_the_one_to_resume(tmp_path, visualdl):
    for session, (first, last) in enumerate([(0, 11), (0, 11), (11, 21)]):
        with VisualDLLog(str(tmp_path), session) as log:
            train(log, first, last, box=session)
    assert scalars(visualdl, record_file(tmp_path, 0), "loss/B") == [(0, 0.0), (10, 0.0)]
    assert scalars(visualdl, record_file(tmp_path, 1), "loss/B") == [(0, 1.0), (10, 1.0), (20, 2.0)]
    with VisualDLLog(str(tmp_path)) as log:  # without a JSON log the session is always 0
        train(log, 0, 1)
    assert record_file(tmp_path, 2).exists()


def test_resuming_without_earlier_records_starts_a_file(tmp_path, visualdl):
    with VisualDLLog(str(tmp_path), session=3) as log:
        train(log, 25, 31)
    assert scalars(visualdl, record_file(tmp_path, 3), "loss/C") == [(30, 27.5)]


def test_visualdl_shows_one_run_a_training(tmp_path, visualdl):
    for first, last in ((0, 21), (15, 41)):
        with VisualDLLog(str(tmp_path / "yolact_base")) as log:
            train(log, first, last)
    reader = visualdl.LogReader(logdir=str(tmp_path))
    run, = reader.runs()
    assert os.path.relpath(run, tmp_path) == os.path.join("yolact_base", "session_0")
    points = reader.data_manager.get_reservoir("scalar").get_items(run, "loss%B")
    assert [item.id for item in points] == [0, 10, 20, 30, 40]


def test_losses_that_are_not_finite_are_passed_over(tmp_path, visualdl):
    with VisualDLLog(str(tmp_path)) as log:
        for iteration in range(11):
            log.train(iteration, {"B": float("nan") if iteration in (0, 5) else 2.0}, 1e-3, 0.0, 0.0, images=8)
    path = record_file(tmp_path)
    assert scalars(visualdl, path, "loss/B") == [(10, 2.0)] == scalars(visualdl, path, "loss/T")
    assert "throughput%images_per_second" not in visualdl.LogReader(file_path=str(path)).get_tags()["scalar"]


def test_a_killed_run_has_written_its_points(tmp_path, visualdl):
    code = ("import os, sys, time; from utils.visualdl_log import VisualDLLog; log = VisualDLLog(sys.argv[1])\n"
            "for i in range(15): log.train(i, {'B': 1.0}, 1e-3, 1.0, 0.0, 8)\n"
            "time.sleep(0.5); os._exit(9)")
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=REPO, capture_output=True, timeout=120)
    assert done.returncode == 9
    assert scalars(visualdl, record_file(tmp_path), "loss/B") == [(0, 1.0), (10, 1.0)]


def test_without_visualdl_one_sentence_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "visualdl", None)
    with pytest.raises(UserError, match="pip install visualdl") as caught:
        VisualDLLog(str(tmp_path / "logs"))
    assert "\n" not in str(caught.value) and not (tmp_path / "logs").exists()


def test_a_folder_that_cannot_be_written_names_the_option(tmp_path, visualdl):
    (tmp_path / "file").write_text("")
    with pytest.raises((UserError, OSError), match="--log_folder"):
        VisualDLLog(str(tmp_path / "file" / "vdl"))


def test_importing_does_not_import_visualdl_and_closing_twice_is_harmless(tmp_path, visualdl):
    code = "import sys, utils.visualdl_log; assert 'visualdl' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=REPO, check=True, timeout=120)
    log = VisualDLLog(str(tmp_path))
    log.close()
    train(log, 0, 1)
    log.close()
    log.close()
