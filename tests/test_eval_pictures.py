"""eval.py on pictures, folders and videos as a user runs it, and the same from Python."""

import os
import shutil

import cv2
import numpy as np
import pytest
from cli_runs import (
    REPO,
    assert_refused,
    detections,
    eval_arguments,
    evaluate,
    files_below,
    load,
    odd_pictures,
    stop_at_picture,
)
from pycocotools import mask as mask_utils

import eval as eval_script
from utils.instances import Instances
from utils.predictor import load_predictor
from utils.runtime import UserError

SHIPPED = REPO / "weights" / "yolact_demo.safetensors"


def first_picture(data):
    return sorted((data / "val").iterdir())[0]


# Pictures


def test_one_picture(trained, demo_data, tmp_path):
    source = sorted((demo_data / "val").iterdir())[0]
    target = tmp_path / "new" / "out.jpg"
    console = evaluate(trained, tmp_path / "results", f"--image={source}:{target}", "--score_threshold=0.01")
    assert f"written: {target}" in console and not (tmp_path / "results").exists()
    picture, drawn = cv2.imread(str(source)), cv2.imread(str(target))
    assert drawn.shape == picture.shape and np.abs(drawn.astype(int) - picture).mean() > 2
    evaluate(trained, tmp_path / "results", f"--image={source}")
    assert files_below(tmp_path / "results") == [source.stem + ".png"]


def test_what_is_drawn_can_be_chosen(demo_data, tmp_path):
    source, weights = sorted((demo_data / "val").iterdir())[0], REPO / "weights" / "yolact_demo.safetensors"
    hide = [f"--display_{part}=False" for part in ("masks", "bboxes", "text")]
    pictures = {}
    for name, options in {"all": [], "none": hide, "masks": hide[1:], "scores": ["--display_scores=no"]}.items():
        evaluate(weights, tmp_path, f"--image={source}:{tmp_path / name}.png", *options)
        pictures[name] = cv2.imread(str(tmp_path / f"{name}.png"))
    assert np.array_equal(pictures["none"], cv2.imread(str(source)))
    assert len({picture.tobytes() for picture in pictures.values()}) == 4


def test_folder_of_odd_pictures(trained, tmp_path, caplog):
    shapes = odd_pictures(tmp_path / "in")
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    console = evaluate(trained, tmp_path, f"--images={tmp_path / 'in'}:{tmp_path / 'out'}", "--score_threshold=0.0")
    expected = {"grey.jpg": "grey.jpg.png", "grey.png": "grey.png.png", "sixteen.png": "sixteen.png",
                "alpha.png": "alpha.png", "one.png": "one.png", "wide.jpg": "wide.png", "cmyk.jpg": "cmyk.png"}
    assert files_below(tmp_path / "out") == sorted(expected.values())
    for source, target in expected.items():
        assert cv2.imread(str(tmp_path / "out" / target)).shape[:2] == shapes[source]
    assert "cut.jpg is cut off" in caplog.text and "cut" not in console
    assert "1 files in" in caplog.text and "notes.txt" in caplog.text



def test_folders_in_folders_keep_their_names(trained, demo_data, tmp_path, caplog):
    source = tmp_path / "in"
    for name in ("a/x.jpg", "b/x.jpg", "b/x.png", ".hidden/y.jpg", "out/old.jpg"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(source / name), cv2.imread(str(first_picture(demo_data))))
    console = evaluate(trained, tmp_path, f"--images={source}:{source / 'out'}")
    assert files_below(source / "out") == ["a/x.png", "b/x.jpg.png", "b/x.png.png", "old.jpg"]
    assert console.count("written:") == 3


def test_many_pictures_are_told_in_one_line(demo_data, trained, tmp_path):
    shutil.copytree(str(demo_data / "train"), str(tmp_path / "in"))
    console = evaluate(trained, tmp_path, f"--images={tmp_path / 'in'}:{tmp_path / 'out'}")
    assert f"written: 24 pictures in {tmp_path / 'out'}" in console and console.count("written:") == 1


def test_no_result_overwrites_a_picture_or_another_result(trained, demo_data, tmp_path):
    source = tmp_path / "results" / "x.png"
    source.parent.mkdir()
    cv2.imwrite(str(source), cv2.imread(str(first_picture(demo_data))))
    before = source.read_bytes()
    for option in (f"--image={source}:{source}", f"--image={source}", f"--images={source.parent}:{source.parent}"):
        assert_refused("eval", eval_arguments(trained, source.parent, option), "would overwrite")
    assert source.read_bytes() == before
    for name in ("a.jpg", "a.png", "a.jpg.png", "B.jpg", "b.png"):
        cv2.imwrite(str(tmp_path / name), cv2.imread(str(source)))
    evaluate(trained, tmp_path, f"--images={tmp_path}:{tmp_path / 'out'}")
    assert len(files_below(tmp_path / "out")) == 6


def test_a_picture_that_cannot_be_read_costs_only_itself(trained, demo_data, tmp_path, caplog, monkeypatch):
    """In the result files as well, and when an interrupted run goes on with nothing else left."""
    for source in sorted((demo_data / "val").iterdir())[:3]:
        shutil.copy(str(source), str(tmp_path))
    given = [f"--images={tmp_path}:{tmp_path / 'out'}", "--output_coco_json", "--score_threshold=0.01"]
    evaluate(trained, tmp_path / "whole", *given)
    (tmp_path / "zzz.png").write_text("x")

    def write(self, *files):
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr("utils.result_journal.ResultJournal.write", write)
        with pytest.raises(SystemExit):
            evaluate(trained, tmp_path / "results", *given)
    assert "zzz.png is cut off or no picture" in caplog.text
    evaluate(trained, tmp_path / "results", *given, "--resume")
    for name in ("bbox_detections.json", "mask_detections.json"):
        found = load(tmp_path / "results", name)
        assert len(found) == len(load(tmp_path / "whole", name)) > 0


def test_only_what_is_left_is_detected_again(trained, demo_data, tmp_path, monkeypatch):
    shutil.copytree(str(demo_data / "val"), str(tmp_path / "in"))
    given = [f"--images={tmp_path / 'in'}:{tmp_path / 'out'}", "--output_coco_json", "--display_lincomb=True",
             "--max_images=-1"]
    seen = stop_at_picture(6, monkeypatch)
    with pytest.raises(SystemExit):
        evaluate(SHIPPED, tmp_path / "results", *given)
    evaluate(SHIPPED, tmp_path / "results", *given, "--resume")
    assert len(seen) == 6 + 12 - 5
    names = files_below(tmp_path / "out")
    assert sum(name.endswith("_lincomb.png") for name in names) >= 10
    assert sum(not name.endswith("_lincomb.png") for name in names) == 12


def test_pictures_of_one_number_get_ids_of_their_own():
    from utils.pictures import picture_ids

    assert picture_ids(["a/0012.jpg", "b/7.png"]) == [12, 7]
    assert picture_ids(["a/1.jpg", "b/01.png"]) == picture_ids(["a/1.jpg", "b/x.png"]) == [1, 2]


def test_options_without_effect_are_told(trained, demo_data, tmp_path, caplog):
    target = tmp_path / "out.png"
    evaluate(trained, tmp_path, f"--image={first_picture(demo_data)}:{target}", "--max_images=3", "--classwise")
    assert "--max_images has no effect with --image" in caplog.text and "--classwise has no effect" in caplog.text
    assert_refused("eval", eval_arguments(trained, tmp_path, "--image="), "--image")


def test_result_files_of_pictures_without_annotations(trained, demo_data, tmp_path):
    """The same detections as of a data set; image ids from the names if those are numbers."""
    shutil.copytree(str(demo_data / "val"), str(tmp_path / "in"))
    limits = ["--score_threshold=0.01", "--top_k=20"]
    console = evaluate(trained, tmp_path / "out", f"--images={tmp_path / 'in'}:{tmp_path / 'drawn'}",
                       "--output_coco_json", *limits)
    found = load(tmp_path / "out", "mask_detections.json")
    assert all(name in console for name in ("bbox_detections.json", "mask_detections.json", "images.json"))
    assert files_below(tmp_path / "out") == ["bbox_detections.json", "images.json", "mask_detections.json"]
    of_set = detections(trained, tmp_path / "set", *limits, kind="mask")
    key = lambda entry: (entry["image_id"], -entry["score"])  # noqa: E731
    assert sorted(found, key=key) == sorted(of_set, key=key) and len(found) > 12
    images = load(tmp_path / "out", "images.json")
    assert {image["id"] for image in images["images"]} >= {entry["image_id"] for entry in found}
    assert all(os.path.isfile(image["file_name"]) for image in images["images"])
    assert {entry["name"] for entry in images["categories"]} == {"circle", "square", "triangle"}
    (tmp_path / "named").mkdir()
    shutil.copy(str(first_picture(demo_data)), str(tmp_path / "named" / "fish.jpg"))
    evaluate(trained, tmp_path / "one", f"--image={tmp_path / 'named' / 'fish.jpg'}", "--output_coco_json", *limits)
    assert {entry["image_id"] for entry in load(tmp_path / "one", "bbox_detections.json")} == {1}


def test_orientation_is_respected(trained, demo_data, tmp_path):
    from PIL import Image

    picture = Image.open(first_picture(demo_data)).crop((0, 0, 96, 60))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    picture.save(tmp_path / "turned.jpg", exif=exif)
    evaluate(trained, tmp_path, f"--image={tmp_path / 'turned.jpg'}:{tmp_path / 'out.png'}")
    assert cv2.imread(str(tmp_path / "out.png")).shape[:2] == (picture.width, picture.height)


def test_how_a_mask_is_made_of_prototypes(demo_data, tmp_path):
    source = first_picture(demo_data)
    console = evaluate(SHIPPED, tmp_path, f"--image={source}:{tmp_path / 'out.png'}", "--display_lincomb=True")
    assert f"written: {tmp_path / 'out_lincomb.png'}" in console
    figure = cv2.imread(str(tmp_path / "out_lincomb.png"))
    assert min(figure.shape[:2]) > 400 and figure.std() > 20
    assert_refused("eval", eval_arguments(SHIPPED, tmp_path, f"--image={source}", "--display_lincomb=True", "--detect"),
                   "no prototypes")
    again = f"--image={tmp_path / 'out_lincomb.png'}:{tmp_path / 'out.png'}"
    assert_refused("eval", eval_arguments(SHIPPED, tmp_path, again, "--display_lincomb=True"), "would overwrite")


def test_a_picture_in_which_nothing_is_found(demo_data, tmp_path, caplog):
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((50, 70, 3), 128, np.uint8))
    evaluate(SHIPPED, tmp_path, f"--image={tmp_path / 'grey.png'}:{tmp_path / 'out.png'}", "--score_threshold=0.99",
             "--display_lincomb=True", "--output_coco_json")
    assert (cv2.imread(str(tmp_path / "out.png")) == 128).all()
    assert "nothing was found" in caplog.text and load(tmp_path, "mask_detections.json") == []


def test_display_without_a_screen(trained, demo_data, tmp_path, monkeypatch, caplog):
    """Where there is a file to write, one warning; where there is not, one error."""
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    console = evaluate(trained, tmp_path, f"--image={first_picture(demo_data)}:{tmp_path / 'out.png'}", "--display")
    assert "out.png" in console and caplog.text.count("no window can be opened") == 1
    assert_refused("eval", eval_arguments(trained, tmp_path, "--display"), "no window can be opened")


class Window:
    """Stands for a window: keeps what it is shown; the user stops after `most` pictures."""

    def __init__(self, most):
        self.shown, self.most, self.closed = [], most, False

    def show(self, image, seconds=None):
        self.shown.append(image)
        return len(self.shown) < self.most

    def wait(self, seconds=None):
        return len(self.shown) < self.most

    def close(self):
        self.closed = True


def test_display_shows_what_is_written_until_the_user_stops(trained, demo_data, tmp_path, monkeypatch):
    window = Window(2)
    monkeypatch.setattr("utils.eval_pictures.open_window", lambda title: window)
    shutil.copytree(str(demo_data / "val"), str(tmp_path / "in"))
    evaluate(trained, tmp_path, f"--images={tmp_path / 'in'}:{tmp_path / 'out'}", "--display")
    written = [cv2.imread(str(tmp_path / "out" / name)) for name in files_below(tmp_path / "out")]
    assert len(window.shown) == 2 <= len(written) < 12 and window.closed
    for shown, picture in zip(window.shown, written):
        np.testing.assert_array_equal(shown, picture)
    window = Window(3)
    monkeypatch.setattr(eval_script, "open_window", lambda title: window)
    evaluate(trained, tmp_path / "set", "--display")
    assert len(window.shown) == 3 and files_below(tmp_path / "set") == []


def test_folders_that_cannot_be_written(trained, demo_data, tmp_path):
    (tmp_path / "file").write_text("in the way")
    for option in (f"--image={first_picture(demo_data)}:{tmp_path / 'file' / 'out.png'}",
                   f"--images={demo_data / 'val'}:{tmp_path / 'file' / 'out'}"):
        assert_refused("eval", eval_arguments(trained, tmp_path, option), "file")
    (tmp_path / "folder").mkdir()
    folder = f"--image={first_picture(demo_data)}:{tmp_path / 'folder'}"
    assert_refused("eval", eval_arguments(trained, tmp_path, folder), "folder is a folder")
    unknown = f"--image={first_picture(demo_data)}:{tmp_path / 'x.xyz'}"
    assert_refused("eval", eval_arguments(trained, tmp_path, unknown), "xyz")
    assert files_below(tmp_path) == ["file"]


# Video


@pytest.fixture
def clip(demo_data, tmp_path):
    """Ten frames, each another demo picture."""
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 12, (160, 120))
    for source in sorted((demo_data / "val").iterdir())[:10]:
        writer.write(cv2.resize(cv2.imread(str(source)), (160, 120)))
    writer.release()
    return path


def frames_of(path):
    video = cv2.VideoCapture(str(path))
    frames = []
    while True:
        there, frame = video.read()
        if not there:
            return frames, round(video.get(cv2.CAP_PROP_FPS), 3)
        frames.append(frame)


@pytest.mark.parametrize("options", [[], ["--video_multiframe=4"], ["--display_fps"], ["--emulate_playback"]])
def test_video_to_video(trained, clip, tmp_path, options):
    console = evaluate(trained, tmp_path, f"--video={clip}:{tmp_path / 'new' / 'out.mp4'}", *options)
    assert "10 frames in" in console and f"written: {tmp_path / 'new' / 'out.mp4'}" in console
    frames, fps = frames_of(tmp_path / "new" / "out.mp4")
    assert len(frames) == 10 and fps == 12 and {frame.shape for frame in frames} == {(120, 160, 3)}


def test_frames_are_those_of_the_pictures(clip, tmp_path):
    """What is drawn on a frame is what is drawn on the same frame as a picture, as far as the codec lets it."""
    evaluate(SHIPPED, tmp_path, f"--video={clip}:{tmp_path / 'out.avi'}", "--video_multiframe=3")
    predictor = load_predictor(str(SHIPPED), cuda=False)
    frames = frames_of(clip)[0]
    expected = np.array([predictor.draw(frame, predictor.detect(frame)) for frame in frames], int)
    for number, drawn in enumerate(frames_of(tmp_path / "out.avi")[0]):
        differences = np.abs(expected - drawn).mean(axis=(1, 2, 3))
        assert differences.argmin() == number and differences[number] < np.abs(frames[number] - expected[number]).mean()


def test_video_without_a_screen_goes_to_the_output_folder(trained, clip, tmp_path, monkeypatch, caplog):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    evaluate(trained, tmp_path / "results", f"--video={clip}")
    assert files_below(tmp_path / "results") == ["clip.mp4"] and "no window can be opened" in caplog.text
    window = Window(4)
    monkeypatch.setattr("utils.eval_pictures.open_window", lambda title: window)
    console = evaluate(trained, tmp_path / "shown", f"--video={clip}")
    assert "frames in" in console and "written" not in console and 1 <= len(window.shown) <= 4 and window.closed


@pytest.mark.parametrize("error, code", [(UserError("out of luck"), "eval.py: error: out of luck"),
                                         (KeyboardInterrupt(), 130)])
def test_an_error_ends_a_video_with_its_reason_and_a_playable_file(trained, clip, tmp_path, monkeypatch, error, code):
    def fail_at_the_fifth(self, inputs, sizes, detect=eval_script.Predictor.detect_prepared):
        nonlocal count
        count += 1
        if count == 5:
            raise error
        return detect(self, inputs, sizes)

    monkeypatch.setattr(eval_script.Predictor, "detect_prepared", fail_at_the_fifth)
    count, target = 0, tmp_path / "out.mp4"
    with pytest.raises(SystemExit) as stop:
        evaluate(trained, tmp_path, f"--video={clip}:{target}")
    assert stop.value.code == code and 1 <= len(frames_of(target)[0]) <= 4


def test_videos_that_cannot_be(trained, clip, tmp_path, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert_refused("eval", eval_arguments(trained, tmp_path, "--video=nowhere.mp4:out.mp4"), "nowhere.mp4")
    assert_refused("eval", eval_arguments(trained, tmp_path, "--video="), "--video|no file")
    there = tmp_path / "clip.mp4"
    shutil.copy(str(clip), str(there))
    before = there.read_bytes()
    for video in (f"{there}:{there}", there):
        assert_refused("eval", eval_arguments(trained, tmp_path, f"--video={video}"), "would overwrite")
    assert there.read_bytes() == before


# From Python


def test_three_lines_of_python(demo_data, tmp_path):
    predictor = load_predictor(str(SHIPPED), cuda=False)
    found = predictor.detect(str(first_picture(demo_data)))
    drawn = predictor.draw(str(first_picture(demo_data)), found)

    image = cv2.imread(str(first_picture(demo_data)))
    assert isinstance(found, Instances) and len(found) >= 1
    assert set(found.names) <= {"circle", "square", "triangle"} and (np.diff(found.scores) <= 0).all()
    assert (found.scores > 0.15).all() and len(found) <= 15
    assert found.masks.shape == (len(found), *image.shape[:2]) and found.masks.dtype == bool
    assert [mask_utils.area(rle) for rle in found.rle()] == found.masks.sum(axis=(1, 2)).tolist()
    assert len(found.polygons()) == len(found)
    evaluate(SHIPPED, tmp_path, f"--image={first_picture(demo_data)}:{tmp_path / 'out.png'}")
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "out.png")), drawn)
    again = predictor.detect(image)
    np.testing.assert_array_equal(again.masks, found.masks)


def test_python_options_and_errors(demo_data, trained):
    many = load_predictor(str(SHIPPED), cuda=False, score_threshold=0.0, top_k=None)
    assert many.detect(str(first_picture(demo_data))).scores[-1] < 0.15
    with pytest.raises(ValueError, match="uint8 \\[H, W, 3\\]"):
        many.detect(np.zeros((5, 5), np.uint8))
    with pytest.raises(ValueError, match="nowhere.jpg"):
        many.detect("nowhere.jpg")
    with pytest.raises(UserError, match="nowhere.pdparams"):
        load_predictor("nowhere.pdparams", cuda=False)
    with pytest.raises(ValueError, match="top_k is 0"):
        load_predictor(str(trained), cuda=False, top_k=0)
    with pytest.raises(ValueError, match="yolact_bas"):
        load_predictor(str(trained), config="yolact_bas", cuda=False)
