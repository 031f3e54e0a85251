"""The drawn pond of the README's worked example: annotated as labelme does, the same each time, whole or not at all."""

import json

import cv2
import numpy as np
import pytest

from tools import make_example_data as example


@pytest.fixture(scope="module")
def pond(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pond") / "photos"
    objects = example.make_example_data(str(folder), count=40, seed=3)
    return folder, objects


def annotations(folder):
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("pond_*.json"))]


def test_every_picture_has_its_labelme_file(pond):
    folder, _ = pond
    contents = annotations(folder)
    assert len(contents) == 40
    for content in contents:
        size = (content["imageHeight"], content["imageWidth"])
        assert cv2.imread(str(folder / content["imagePath"])).shape[:2] == size
        for shape in content["shapes"]:
            points = np.array(shape["points"])
            assert shape["label"] in example.CLASS_NAMES and shape["shape_type"] == "polygon" and len(points) >= 3
            assert (points >= 0).all() and (points <= [example.WIDTH, example.HEIGHT]).all()


def test_the_cases_that_the_example_is_for_are_there(pond):
    folder, objects = pond
    groups = [[shape["group_id"] for shape in content["shapes"]] for content in annotations(folder)]
    assert sum(len({*group} - {None}) + group.count(None) for group in groups) == objects
    assert any(None in group for group in groups), "an object that is one polygon"
    shapes = [shape for content in annotations(folder) for shape in content["shapes"]]
    labels = {(shape["label"], shape["group_id"] is None) for shape in shapes}
    assert {("fish", True), ("fish", False), ("buoy", False)} <= labels, "fish cut in two, buoys with a hole"


def test_the_outlines_are_those_of_what_is_seen():
    rng = np.random.RandomState(5)
    seen = 0
    for _ in range(10):
        _, masks = example.draw(example.make_pond(rng))
        for name, mask in masks:
            polygons = [np.array(shape["points"]) for shape in example.shapes_of([(name, mask)])]
            drawn = np.zeros_like(mask)
            # Together, as a polygon inside another one is a hole.
            cv2.fillPoly(drawn, [np.int32(polygon * example.SUPERSAMPLE - 0.5) for polygon in polygons], 255)
            union, both = ((drawn | mask) > 0).sum(), ((drawn & mask) > 0).sum()
            assert both / union > 0.9
            seen += 1
    assert seen > 15


def test_the_same_seed_draws_the_same_pond_and_a_larger_one_begins_with_it(tmp_path):
    for name, count, seed in (("a", 3, 7), ("b", 5, 7), ("c", 3, 8)):
        example.make_example_data(str(tmp_path / name), count=count, seed=seed)

    def content(folder, number):
        return [(tmp_path / folder / f"pond_{number:04d}.{suffix}").read_bytes() for suffix in ("jpg", "json")]

    for number in range(3):
        assert content("a", number) == content("b", number)
        assert content("a", number) != content("c", number)


def test_the_video_moves(pond):
    folder, _ = pond
    video = cv2.VideoCapture(str(folder / example.VIDEO))
    frames = []
    while True:
        there, frame = video.read()
        if not there:
            break
        frames.append(frame)
    assert len(frames) == example.FPS * example.SECONDS and frames[0].shape == (example.HEIGHT, example.WIDTH, 3)
    assert np.abs(frames[0].astype(int) - frames[-1]).max() > 50


def test_a_folder_of_others_is_left_alone(tmp_path, capsys):
    assert example.main(["--out", str(tmp_path / "photos"), "--count=1"]) == 0
    assert example.main(["--out", str(tmp_path / "photos"), "--count=2"]) == 0, "its own is replaced"
    assert len(list((tmp_path / "photos").glob("*.jpg"))) == 2
    (tmp_path / "photos" / "mine.txt").write_text("precious")
    assert example.main(["--out", str(tmp_path / "photos"), "--count=3"]) == 1
    assert "choose another --out" in capsys.readouterr().err
    assert len(list((tmp_path / "photos").glob("*.jpg"))) == 2 and (tmp_path / "photos" / "mine.txt").exists()


@pytest.mark.parametrize("option", ["--count=0", "--seed=-1", "--seed=5000000000"])
def test_options_out_of_range_are_refused(option, capsys):
    with pytest.raises(SystemExit) as stop:
        example.main([option])
    assert stop.value.code == 2 and "; use " in capsys.readouterr().err


def test_an_empty_name_of_the_folder_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").write_text("keep")
    assert example.main(["--out=", "--count=1"]) == 1
    assert "the folder to write has an empty name" in capsys.readouterr().err
    assert (tmp_path / "mine").read_text() == "keep"
