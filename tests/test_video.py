"""Videos from file to file with real encoded clips: what is named, what is read, written, paced, and how it ends."""

import logging
import os
import re
import resource
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from utils import video
from utils.in_out import split_in_out
from utils.runtime import UserError
from utils.video import VideoSource, run_video, video_in_out
from utils.video_file import CODECS, VideoFile

REPO = Path(__file__).resolve().parent.parent
MOST = 27  # frames that can be told apart


class Broken(Exception):
    pass


def plain(number, size=(64, 48)):
    """Frame of a clip: a grey that tells its number."""
    return np.full((size[1], size[0], 3), 30 + 8 * number, np.uint8)


def number_of(frame):
    return round((float(frame.mean()) - 27) / 8)  # MPEG-4 darkens a grey by up to 3, each time that it is coded


def make_clip(path, count=10, size=(64, 48), fps=25):
    """A clip written by OpenCV alone, of an even size."""
    codec = "VP80" if path.suffix == ".webm" else "mp4v"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), fps, size)
    assert writer.isOpened()
    for number in range(count):
        writer.write(plain(number, size))
    writer.release()
    return str(path)


def read_clip(path):
    """(frames, frames a second) as OpenCV reads them."""
    capture = cv2.VideoCapture(str(path))
    assert capture.isOpened(), f"{path} cannot be played"
    frames = []
    while True:
        there, frame = capture.read()
        if not there:
            return frames, capture.get(cv2.CAP_PROP_FPS)
        frames.append(frame)


def numbers_in(path):
    return [number_of(frame) for frame in read_clip(path)[0]]


def names_in(folder):
    return sorted(os.listdir(folder))


def levels(frames):
    return [frame.mean() for frame in frames]


def keep(frame, result):
    return frame


def run_file(source, target, predict=levels, draw=keep, **options):
    """run_video from file to file without a bar."""
    source = VideoSource(str(source))
    return run_video(source, predict, draw, VideoFile(str(target), source.fps, source.size), bar=False, **options)


class FakeSource:
    """Frames from memory."""

    def __init__(self, count, make=plain, fps=1000.0, live=False):
        self.name, self.fps, self.announced, self.live = "fake", fps, None, live
        self.count, self.ended, self.closed = 0, False, False
        self._total, self._make = count, make

    def frames(self):
        for number in range(self._total):
            self.count += 1
            yield self._make(number)
        self.ended = True

    def close(self):
        self.closed = True


class FakeFile:
    """Keeps the numbers of its frames, and when each came."""

    def __init__(self, pause=0.0):
        self.numbers, self.times, self.closed, self.pause = [], [], False, pause

    @property
    def frames(self):
        return len(self.numbers)

    def write(self, image):
        time.sleep(self.pause)
        self.numbers.append(number_of(image))
        self.times.append(time.perf_counter())

    def close(self):
        self.closed = True


class FakeWindow(FakeFile):
    """Ends after so many frames; waits for real."""

    def __init__(self, most=None):
        super().__init__()
        self.most, self.threads = most, set()

    def show(self, image, seconds):
        assert seconds == 0
        self.threads.add(threading.get_ident())
        self.write(image)
        return self.frames != self.most

    def wait(self, seconds):
        time.sleep(seconds)
        return True


# Names


@pytest.mark.parametrize("text, there, expected", [
    ("in.mp4:out.mp4", ["in.mp4"], ("in.mp4", "out.mp4")),
    ("in.mp4", ["in.mp4"], ("in.mp4", None)),
    ("in.mp4:", ["in.mp4"], ("in.mp4", None)),
    ("a:b.mp4", ["a:b.mp4"], ("a:b.mp4", None)),
    ("a:b.mp4:c:d.mp4", ["a:b.mp4"], ("a:b.mp4", "c:d.mp4")),
    ("a:b:c", ["a", "a:b"], ("a:b", "c")),
    ("C:\\in.mp4:D:\\out.mp4", ["C:\\in.mp4"], ("C:\\in.mp4", "D:\\out.mp4")),
    ("none.mp4:out.mp4", [], ("none.mp4", "out.mp4")),
    ("none.mp4", [], ("none.mp4", None)),
    ("C:\\none.mp4:out.mp4", [], ("C:\\none.mp4", "out.mp4")),
    (":out.mp4", [], ("", "out.mp4")),
    ("", [], ("", None)),
])
def test_in_and_out_are_told_apart_by_what_exists(text, there, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in there:
        Path(name).touch()
    assert split_in_out(text) == expected


def test_in_may_be_a_folder(tmp_path):
    (tmp_path / "a:b").mkdir()
    assert split_in_out(f"{tmp_path}/a:b:out") == (f"{tmp_path}/a:b", "out")


@pytest.mark.parametrize("text, expected", [
    ("0", (0, None)),
    ("12:out.mp4", (12, "out.mp4")),
    ("0:", (0, None)),
    ("rtsp://host/live", ("rtsp://host/live", None)),
    ("rtsp://host:554/live", ("rtsp://host:554/live", None)),
    ("rtsp://host:554/live:out.mp4", ("rtsp://host:554/live", "out.mp4")),
    ("rtsp://host:554:out.mp4", ("rtsp://host:554", "out.mp4")),
    ("udp://@:1234:/out/a.mkv", ("udp://@:1234", "/out/a.mkv")),
    ("http://host:8080/clip.mp4", ("http://host:8080/clip.mp4", None)),
    ("http://host/clip.mp4:/out/a.avi", ("http://host/clip.mp4", "/out/a.avi")),
    ("http://host/clip.mp4", ("http://host/clip.mp4", None)),
    ("http://host/live?from=10:30", ("http://host/live?from=10:30", None)),
    ("rtsp://name:pass@host/clip.mp4", ("rtsp://name:pass@host/clip.mp4", None)),
    ("rtsp://name:pass@host:554/clip.mp4:out.mp4", ("rtsp://name:pass@host:554/clip.mp4", "out.mp4")),
    ("missing.mp4:out.mp4", ("missing.mp4", "out.mp4")),
])
def test_webcams_addresses_and_files(text, expected):
    assert video_in_out(text) == expected


def test_a_target_that_cannot_be_is_refused_before_anything_is_read(tmp_path):
    clip = make_clip(tmp_path / "in.mp4", 2)
    (tmp_path / "folder.mp4").mkdir()
    for target, words in [("out.gif", "does not end in .mp4"), ("out", "does not end in .mp4"),
                          (tmp_path / "folder.mp4", "is a folder"), (clip, "would overwrite"),
                          (tmp_path / "." / "in.mp4", "would overwrite")]:
        with pytest.raises(UserError, match=words):
            video_in_out(f"{clip}:{target}")


# Sources


def test_a_source_tells_what_it_is(tmp_path):
    with VideoSource(make_clip(tmp_path / "in.mp4", 7, (64, 48), 12.5)) as source:
        assert (source.fps, source.announced, source.size, source.live) == (12.5, 7, (64, 48), False)
        assert [number_of(frame) for frame in source.frames()] == list(range(7))
        assert source.ended and source.count == 7


def cut(path, share):
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[:int(len(content) * share)])
    return path


def bad_file(kind, folder):
    path = folder / "bad.mp4"
    if kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("no video\n" * 500)
    elif kind == "cut":
        cut(make_clip(path, 20), 0.6)
    return str(path)


@pytest.mark.parametrize("kind, words", [
    ("missing", "there is no file .*correct --video"), ("folder", "is a folder; give --video a file"),
    ("empty", "is an empty file"), ("text", "no frame can be read from .*it is no video"),
    ("cut", "no frame can be read from .*cut off"),
])
def test_what_is_no_video_costs_one_sentence(kind, words, tmp_path):
    with pytest.raises(UserError, match=words) as error:
        VideoSource(bad_file(kind, tmp_path))
    assert "\n" not in str(error.value)


def test_webcams_and_addresses_that_do_not_answer():
    with pytest.raises(UserError, match="webcam 99; see that it is plugged in"):
        VideoSource(99)
    with pytest.raises(UserError, match="http://127.0.0.1:9/x.mp4; check the address"):
        VideoSource("http://127.0.0.1:9/x.mp4")


class FakeCapture:
    """A capture of three frames whose container tells nonsense."""

    def __init__(self, fps, announced):
        self._tells, self._left = {cv2.CAP_PROP_FPS: fps, cv2.CAP_PROP_FRAME_COUNT: announced}, 3

    def read(self):
        self._left -= 1
        return (True, plain(0)) if self._left >= 0 else (False, None)

    def get(self, what):
        return self._tells[what]

    def release(self):
        pass


@pytest.mark.parametrize("told, fps", [
    (0.0, 30), (-1.0, 30), (float("nan"), 30), (float("inf"), 30), (1000.0, 30), (90000.0, 30), (0.5, 0.5),
    (29.97, 29.97), (240.0, 240.0)])
def test_frame_rates_that_cannot_be_true(told, fps, monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", lambda source: FakeCapture(told, 3))
    assert VideoSource(0).fps == fps


@pytest.mark.parametrize("told, announced", [
    (3.0, 3), (0.0, None), (-1.0, None), (-2.0 ** 63, None), (float("nan"), None), (2.0 ** 62, None)])
def test_frame_counts_that_cannot_be_true(told, announced, monkeypatch, tmp_path):
    monkeypatch.setattr(cv2, "VideoCapture", lambda source: FakeCapture(25.0, told))
    source = VideoSource(make_file(tmp_path))
    assert source.announced == announced
    assert run_video(source, levels, keep, FakeFile()).frames == 3


def make_file(folder):
    (folder / "some.mp4").write_bytes(b"x")
    return str(folder / "some.mp4")


# Files


@pytest.mark.parametrize("suffix", sorted({*CODECS, ".MP4"} - {".webm"}))
@pytest.mark.parametrize("size", [(64, 48), (321, 241), (320, 15), (17, 32), (3, 5), (1, 1)])
def test_files_keep_size_content_and_rate(suffix, size, tmp_path):
    path = tmp_path / "new" / f"out{suffix}"
    rng = np.random.default_rng(0)
    cells = (2, 2) if max(size) > 16 else (1, 1)  # tiny frames are given too few bits for more
    greys = [cv2.resize(rng.integers(60, 200, cells, np.uint8), size) for _ in range(20)]
    images = [cv2.merge([grey] * 3).reshape(*size[::-1], 3) for grey in greys]
    with VideoFile(str(path), 12.5, size) as file:
        for image in images:
            file.write(image)
    frames, fps = read_clip(path)
    assert fps == 12.5 and len(frames) == 20
    for image, frame in zip(images, frames):
        assert frame.shape == image.shape
        assert np.abs(frame.astype(int) - image).mean() < 5
    assert names_in(path.parent) == [path.name]


def test_webm_has_even_sizes_only(tmp_path):
    path = str(tmp_path / "out.webm")
    with VideoFile(path, 25, (64, 48)) as file:
        file.write(plain(3))
    assert numbers_in(path) == [3]
    for size in [(65, 48), (64, 47), (2, 2)]:
        with pytest.raises(UserError, match="write an .mp4 instead"):
            VideoFile(path, 25, size)


@pytest.mark.parametrize("fps", [0.5, 12.345, 23.976023976, 27.8361, 29.97002997, 59.94005994, 123.4567, 240])
def test_frame_rates(fps, tmp_path):
    with VideoFile(str(tmp_path / "out.mp4"), fps, (64, 48)) as file:
        file.write(plain(0))
        file.write(plain(1))
    assert read_clip(tmp_path / "out.mp4")[1] == pytest.approx(fps, rel=1e-4)


def test_a_file_appears_when_it_is_closed(tmp_path):
    target = tmp_path / "out.mp4"
    target.write_text("older")
    file = VideoFile(str(target), 25, (64, 48))
    file.close()
    assert target.read_text() == "older" and names_in(tmp_path) == ["out.mp4"]
    file = VideoFile(str(target), 25, (64, 48))
    file.write(plain(4))
    assert target.read_text() == "older"
    file.close()
    file.close()
    assert numbers_in(target) == [4] and names_in(tmp_path) == ["out.mp4"]
    with pytest.raises(ValueError, match="is closed"):
        file.write(plain(5))


@pytest.mark.parametrize("image", [plain(0, (65, 48)), plain(0)[:, :, 0], plain(0).astype(np.float32)])
def test_frames_that_opencv_would_leave_out_are_errors(image, tmp_path):
    with VideoFile(str(tmp_path / "out.mp4"), 25, (64, 48)) as file:
        with pytest.raises(ValueError, match="the first one was"):
            file.write(image)
        file.write(plain(0))
    assert numbers_in(tmp_path / "out.mp4") == [0]


def test_places_and_sizes_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    for path, width, words in [("out.gif", 64, "does not end in"), ("file/out.mp4", 64, "name another place"),
                               ("out.mp4", 9000, "a smaller video")]:
        with pytest.raises(UserError, match=words):
            VideoFile(str(tmp_path / path), 25, (width, 48))
    assert names_in(tmp_path) == ["file"]


def test_opencv_and_ffmpeg_add_nothing_to_the_sentence(tmp_path):
    """In a process of its own: FFmpeg asks once, at its first file, what it may say."""
    code = f"""
from utils.video import VideoSource
from utils.video_file import VideoFile
for call in (lambda: VideoSource({bad_file("cut", tmp_path)!r}), lambda: VideoSource(99),
             lambda: VideoFile({str(tmp_path / "out.mp4")!r}, 25, (9000, 48))):
    try:
        call()
    except ValueError as error:
        print(type(error).__name__)
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OPENCV_", "OMP_"))}
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, env=environment, capture_output=True, text=True)
    assert (done.stdout.split(), done.stderr) == (["UserError"] * 3, "")


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_a_full_disk_is_told(suffix, tmp_path):
    rng = np.random.default_rng(0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    file = VideoFile(str(tmp_path / f"out{suffix}"), 25, (320, 241))
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        for _ in range(20):
            file.write(rng.integers(0, 256, (241, 320, 3), np.uint8))
        with pytest.raises(UserError, match="is there space left"):
            file.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names_in(tmp_path) == []


# The whole way


@pytest.mark.parametrize("suffix", sorted(CODECS))
@pytest.mark.parametrize("count, multiframe", [(1, 1), (1, 4), (10, 1), (10, 4), (8, 4), (3, 8)])
def test_every_frame_comes_out_once_and_in_order(suffix, count, multiframe, tmp_path):
    clip = make_clip(tmp_path / f"in{suffix}", count, fps=12.5)
    batches = []

    def predict(frames):
        batches.append(len(frames))
        return [number_of(frame) for frame in frames]

    def draw(frame, result):
        assert number_of(frame) == result
        return plain(MOST - 1 - result)

    summary = run_file(clip, tmp_path / "out.mp4", predict, draw, multiframe=multiframe)
    frames, fps = read_clip(tmp_path / "out.mp4")
    assert [number_of(frame) for frame in frames] == [MOST - 1 - number for number in range(count)]
    assert fps == 12.5 and frames[0].shape == (48, 64, 3)
    rest = [count % multiframe] if count % multiframe else []
    assert batches == [multiframe] * (count // multiframe) + rest
    assert summary.frames == count and summary.fps == pytest.approx(count / summary.seconds)


def test_odd_sizes_go_through(tmp_path):
    for size in [(321, 241), (3, 5)]:
        with VideoFile(str(tmp_path / "in.mp4"), 25, size) as file:
            for number in range(5):
                file.write(plain(number, size))
        run_file(tmp_path / "in.mp4", tmp_path / "out.avi")
        assert numbers_in(tmp_path / "out.avi") == list(range(5))
        assert read_clip(tmp_path / "out.avi")[0][0].shape == (size[1], size[0], 3)


def make_uneven_clip(path, count):
    """A clip whose frames last 40 and 160 ms in turn: the times in the blocks of a Matroska file, rewritten."""
    content = bytearray(Path(make_clip(path, count, fps=25)).read_bytes())
    at = 0
    for number in range(count):
        block = re.compile(rb"\xa3[\x40-\xff]{1,2}.??\x81" + re.escape((40 * number).to_bytes(2, "big")), re.DOTALL)
        found = block.search(content, at)
        at = found.end()
        content[at - 2:at] = (100 * number + 60 * (number % 2)).to_bytes(2, "big")
    path.write_bytes(content)
    return str(path)


def test_a_variable_frame_rate_loses_and_doubles_nothing(tmp_path):
    clip = make_uneven_clip(tmp_path / "in.mkv", 12)
    capture = cv2.VideoCapture(clip)
    times = []
    while capture.read()[0]:
        times.append(capture.get(cv2.CAP_PROP_POS_MSEC))
    assert len({round(step) for step in np.diff(times)}) == 2, "the clip's own frames must be uneven"
    summary = run_file(clip, tmp_path / "out.mp4", multiframe=5)
    assert numbers_in(tmp_path / "out.mp4") == list(range(12)) and summary.frames == 12


def test_a_clip_that_is_cut_off_gives_what_it_has_and_a_warning(tmp_path, caplog):
    clip = cut(make_clip(tmp_path / "in.avi", 20, (320, 240)), 0.7)
    expected = len(read_clip(clip)[0])
    assert 0 < expected < 18
    with caplog.at_level(logging.WARNING):
        summary = run_file(clip, tmp_path / "out.mp4")
    assert summary.frames == len(numbers_in(tmp_path / "out.mp4")) == expected
    assert f"announces 20 frames, but only {expected} could be read" in caplog.text


@pytest.mark.parametrize("announced, warns", [(None, False), (3, False), (7, False), (8, True), (500, True)])
def test_a_wrong_announcement_changes_nothing(announced, warns, caplog):
    source, file = FakeSource(5), FakeFile()
    source.announced = announced
    assert run_video(source, levels, keep, file).frames == 5
    assert file.numbers == [0, 1, 2, 3, 4] and ("announces" in caplog.text) == warns


@pytest.mark.parametrize("multiframe", [1, 4])
@pytest.mark.parametrize("error", [Broken, KeyboardInterrupt])
@pytest.mark.parametrize("stage", ["read", "predict", "draw", "write"])
def test_an_error_in_any_stage_leaves_a_playable_file(stage, error, multiframe, tmp_path, monkeypatch):
    """With every frame before the error, or before its batch; Ctrl-C comes to predict, as to all of the main thread."""
    def at_frame(number):
        if number == 9:
            raise error

    def predict(frames):
        if stage == "predict":
            for frame in frames:
                at_frame(number_of(frame))
        return levels(frames)

    def draw(frame, result):
        if stage == "draw":
            at_frame(number_of(frame))
        return frame

    def make(number):
        if stage == "read":
            at_frame(number)
        return plain(number)

    threads = threading.active_count()
    source = FakeSource(20, make)
    file = VideoFile(str(tmp_path / "out.mp4"), 25, (64, 48))
    if stage == "write":
        write = file.write
        monkeypatch.setattr(file, "write", lambda image: (at_frame(number_of(image)), write(image)))
    with pytest.raises(error):
        run_video(source, predict, draw, file, multiframe, bar=False)
    expected = 9 if stage in ("draw", "write") else 9 - 9 % multiframe
    assert numbers_in(tmp_path / "out.mp4") == list(range(expected))
    assert names_in(tmp_path) == ["out.mp4"] and source.closed and threading.active_count() == threads


def test_an_error_at_the_first_frame_leaves_nothing(tmp_path):
    with pytest.raises(Broken):
        run_file(make_clip(tmp_path / "in.mp4"), tmp_path / "out.mp4", predict=fail)
    assert names_in(tmp_path) == ["in.mp4"]


def fail(frames):
    raise Broken


def test_a_wrong_number_of_results_is_an_error():
    with pytest.raises(ValueError, match="1 results for 2 frames"):
        run_video(FakeSource(4), lambda frames: [0], keep, FakeFile(), multiframe=2, bar=False)


@pytest.mark.parametrize("multiframe", [1, 3])
@pytest.mark.parametrize("slow", ["predict", "draw", "write"])
def test_frames_do_not_pile_up_before_a_slow_stage(slow, multiframe):
    alive, most = [0], [0]

    def make(number):
        frame = plain(number % MOST)
        alive[0] += 1
        most[0] = max(most[0], alive[0])
        weakref.finalize(frame, lambda: alive.__setitem__(0, alive[0] - 1))
        return frame

    def pause(stage):
        time.sleep(0.004 if stage == slow else 0)

    def predict(frames):
        pause("predict")
        return levels(frames)

    def draw(frame, result):
        pause("draw")
        return frame

    summary = run_video(FakeSource(80, make), predict, draw, FakeFile(0.004 if slow == "write" else 0), multiframe,
                        bar=False)
    assert summary.frames == 80
    assert 0 < most[0] <= 5 * multiframe + 5


def test_the_network_runs_in_the_callers_thread_and_the_rest_beside_it():
    threads = {"read": set(), "predict": set(), "draw": set(), "write": set()}

    def note(stage, value):
        threads[stage].add(threading.get_ident())
        return value

    file = FakeFile()
    write = file.write
    file.write = lambda image: note("write", write(image))
    source = FakeSource(10, lambda number: note("read", plain(number)))
    run_video(source, lambda frames: note("predict", levels(frames)), lambda frame, result: note("draw", frame), file,
              bar=False)
    assert threads["predict"] == {threading.get_ident()}
    assert len(set.union(*threads.values())) == 4 and all(len(found) == 1 for found in threads.values())


@pytest.mark.parametrize("multiframe", [1, 5])
def test_the_stages_overlap(multiframe):
    def make(number):
        time.sleep(0.02)
        return plain(number)

    def predict(frames):
        time.sleep(0.02 * len(frames))
        return levels(frames)

    def draw(frame, result):
        time.sleep(0.02)
        return frame

    summary = run_video(FakeSource(25, make), predict, draw, FakeFile(0.02), multiframe, bar=False)
    assert summary.seconds < 25 * 4 * 0.02 / 2  # each stage alone takes a quarter of their sum


# Time


def test_playback_is_emulated_only_when_asked(tmp_path):
    for options, earliest in [({}, 0), ({"emulate_playback": True}, 9 / 25)]:
        file = FakeFile()
        summary = run_video(FakeSource(10, fps=25), levels, keep, file, bar=False, **options)
        spent = file.times[-1] - file.times[0]
        assert earliest - 0.02 <= spent < earliest + 0.25 and summary.frames == 10
    assert all(np.array(file.times) - file.times[0] >= np.arange(10) / 25 - 0.02)


def test_a_late_frame_is_made_up_for():
    def predict(frames):
        time.sleep(0.3 if number_of(frames[0]) == 2 else 0)
        return levels(frames)

    file = FakeFile()
    run_video(FakeSource(16, fps=25), predict, keep, file, emulate_playback=True, bar=False)
    assert file.times[-1] - file.times[0] == pytest.approx(15 / 25, abs=0.15)


def test_a_live_source_keeps_its_own_time():
    file = FakeFile()
    run_video(FakeSource(6, fps=2, live=True), levels, keep, file, emulate_playback=True, bar=False)
    assert file.times[-1] - file.times[0] < 0.5


def test_the_rate_is_written_on_the_picture(tmp_path, monkeypatch):
    rates = []
    monkeypatch.setattr("utils.video.draw_corner_text", lambda picture, text: rates.append(float(text.split()[0])))

    def predict(frames):
        time.sleep(0.05 if len(rates) < 40 else 0.02)
        return levels(frames)

    run_video(FakeSource(20, fps=25), predict, keep, FakeFile(), bar=False)
    assert rates == []
    run_video(FakeSource(20, fps=25), predict, keep, FakeFile(), multiframe=2, display_fps=True, bar=False)
    assert len(rates) == 20 and 20 < rates[-1] <= 41  # 2 frames in 0.05 s


@pytest.mark.parametrize("batch", [1, 4, 50])
def test_the_rate_forgets_what_is_long_ago(batch, monkeypatch):
    from utils.video import _Rate

    now = [0.0]
    monkeypatch.setattr("utils.video.time.perf_counter", lambda: now[0])
    rate = _Rate(30)

    def rates(seconds_a_frame):
        for _ in range(0, 100, batch):
            now[0] += seconds_a_frame * batch
            yield rate.add(batch)

    assert list(rates(0.5)) == pytest.approx([2] * -(-100 // batch))
    faster = list(rates(0.1))
    assert faster == sorted(faster) and faster[-1] == pytest.approx(10)
    settled = -(-30 // batch)  # batches that hold the last 30 frames
    assert all(value < 9.9 for value in faster[:settled - 1]) and faster[settled - 1] == pytest.approx(10)


# Windows


@pytest.mark.parametrize("multiframe", [1, 3])
def test_a_window_shows_every_frame_at_its_time(multiframe):
    window, source = FakeWindow(), FakeSource(10, fps=25)
    summary = run_video(source, levels, keep, window, multiframe, bar=False)
    assert window.numbers == list(range(10)) and summary.frames == 10 and window.closed and source.closed
    assert window.threads == {threading.get_ident()}
    assert all(np.array(window.times) - window.times[0] >= np.arange(10) / 25 - 0.02)
    assert 10 / 25 <= summary.seconds < 0.8  # the last frame has its time too


def test_a_window_that_is_closed_ends_the_run(caplog):
    window, source = FakeWindow(most=4), FakeSource(1000, fps=200)
    source.announced = 1000
    assert run_video(source, levels, keep, window, bar=False).frames == 4
    assert window.closed and source.closed and source.count < 20 and caplog.text == ""


def test_a_window_closed_while_it_waits_ends_the_run():
    window = FakeWindow()
    window.wait = lambda seconds: window.frames < 3
    assert run_video(FakeSource(20, fps=5), levels, keep, window, bar=False).frames == 3


def test_an_error_closes_the_window():
    window = FakeWindow()
    with pytest.raises(Broken):
        run_video(FakeSource(5), fail, keep, window, bar=False)
    assert window.closed


def test_the_bar_counts_the_frames(capsys):
    source = FakeSource(7)
    source.announced = 7
    run_video(source, levels, keep, FakeFile())
    assert "7/7" in capsys.readouterr().err
    run_video(FakeSource(7), levels, keep, FakeFile(), bar=False)
    assert capsys.readouterr().err == ""


def test_frames_are_due_from_the_first_one_on(monkeypatch):
    clock = [5.0]
    monkeypatch.setattr(video, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    pace = video._Pace(10)
    assert [pace.next_in() for _ in range(3)] == pytest.approx([0, 0.1, 0.2])
    clock[0] += 9
    assert pace.next_in() == 0 and video._Pace(None).next_in() == 0
