"""Videos: what ``--video`` names, the frames of a source, and their way through the network to a file or a window.

Reading, the network, drawing and writing run at the same time, each in a thread of its own; the network's is the main
one.
"""
from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import math
import os
import re
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, Callable, NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from utils.in_out import check_another, split_in_out
from utils.labels import draw_corner_text
from utils.overlap import Behind, ahead
from utils.runtime import UserError
from utils.video_file import CODECS, check_target, quiet_opencv

_ADDRESS = re.compile(r"[A-Za-z][\w+.-]+://")
_DEFAULT_FPS, _HIGHEST_FPS = 30.0, 500.0  # some containers give their clock, 1000 or 90000 a second, as frame rate
_RATE_FRAMES = 30
_MISSING_FRAMES = 2  # a container may announce so many more than it holds


class VideoSummary(NamedTuple):
    """What `run_video` did: frames written or shown, seconds from the start to the closed file, frames a second."""

    frames: int
    seconds: float
    fps: float


def video_in_out(text: str) -> tuple[int | str, str | None]:
    """``--video=IN[:OUT]`` as (IN, OUT): IN the number of a webcam, an address (rtsp://, http://), or a file.

    Args:
        text: as the user wrote it. Files whose names hold colons are found by looking which exist. Of an address, what
            follows a colon is OUT if it has the suffix of a video that can be written and is no port or password.

    Returns:
        (IN, OUT): IN an int (webcam) or str; OUT a path or None.

    Raises:
        UserError: OUT cannot be a video by its name, or is IN itself.
    """
    source: int | str
    webcam = re.fullmatch(r"(\d+)(?::(.*))?", text, re.DOTALL)
    if webcam:
        source, target = int(webcam[1]), webcam[2] or None
    elif _ADDRESS.match(text):
        source, target = _split_address(text)
    else:
        source, target = split_in_out(text)
    if target is not None:
        check_target(target)
        if isinstance(source, str):
            check_another(source, target)
    return source, target


def _split_address(text):
    scheme = _ADDRESS.match(text)[0]
    for colon in reversed([match.start() for match in re.finditer(":", text)]):
        source, target = text[:colon], text[colon + 1:]
        bare_host = "/" not in source[len(scheme):] and len(source) > len(scheme)
        if not source.startswith(scheme) or os.path.splitext(target)[1].lower() not in CODECS:
            continue
        # Not rtsp://host:554/x.mp4, and not rtsp://name:password@host/x.mp4.
        if not (bare_host and re.match(r"\d+/|[^/]*@", target)):
            return source, target
    return text, None


class VideoSource:
    """The frames of a video file, a webcam, or an address.

    Args:
        source: a path, an address with "://", or the number of a webcam.

    Attributes:
        fps: frames a second; 30 where the source tells none that can be true.
        announced: how many frames the container says there are, which may be wrong; None if it says nothing.
        size: (width, height) of the first frame, in pixels.
        live: whether it is a webcam or an address, which keep their own time.
        count: how many frames were taken so far. ended: whether there are no more.

    Raises:
        UserError: there is no such file, or no frame can be read from the source.
    """

    def __init__(self, source: int | str):
        self.name = f"webcam {source}" if isinstance(source, int) else source
        self.live = isinstance(source, int) or bool(_ADDRESS.match(source))
        if not self.live:
            _check_file(source)
        with quiet_opencv():
            self._capture = cv2.VideoCapture(source)
            there, self._first = self._capture.read()
        if not there:
            self._capture.release()
            raise UserError(f"no frame can be read from {self.name}; " + self._advice(source))
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        announced = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.fps = fps if math.isfinite(fps) and 0 < fps <= _HIGHEST_FPS else _DEFAULT_FPS
        self.announced = int(announced) if math.isfinite(announced) and 0 < announced < 1e9 and not self.live else None
        self.size = self._first.shape[1::-1]
        self.count = 0
        self.ended = False

    def __enter__(self) -> VideoSource:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def frames(self) -> Iterator[np.ndarray]:
        """Yield every frame once, in order, uint8 [H, W, 3] BGR; turned upright where the container says how."""
        there, image = True, self._first
        self._first = None
        while there:
            self.count += 1
            yield image
            there, image = self._capture.read()
        self.ended = True

    def close(self) -> None:
        """Let go of the file or the webcam; a second call does nothing."""
        self._capture.release()

    def _advice(self, source):
        if isinstance(source, int):
            return "see that it is plugged in and that no other program uses it"
        if self.live:
            return "check the address and the network"
        return "it is no video, has a codec that this OpenCV does not know, or is cut off (convert it with ffmpeg)"


def _check_file(path):
    if not os.path.exists(path):
        raise UserError(f"there is no file {path}; correct --video")
    if os.path.isdir(path):
        raise UserError(f"{path} is a folder; give --video a file, or the folder's pictures to --images")
    if os.path.isfile(path) and not os.path.getsize(path):
        raise UserError(f"{path} is an empty file; correct --video")


def run_video(source: VideoSource, predict: Callable[[list[np.ndarray]], list],
              draw: Callable[[np.ndarray, Any], np.ndarray], sink: Any, multiframe: int = 1, display_fps: bool = False,
              emulate_playback: bool = False, bar: bool = True) -> VideoSummary:
    """Take every frame of a source through the network and write it to a file or show it in a window.

    Source and sink are closed at the end, also when something fails or Ctrl-C is pressed; every frame that the network
    was done with is in the file then. At most about 5 * multiframe + 5 frames are in memory.

    Args:
        source: VideoSource.
        predict: list of 1 to ``multiframe`` frames (uint8 [H, W, 3] BGR) -> list of as many results; called here, in
            the caller's thread.
        draw: (frame, result) -> picture of the frame's size that may be written on; called in another thread.
        sink: VideoFile; or a window of ``utils.screen.open_window``, in which Esc, q or closing it end the run, and in
            which the frames of a file are shown at their time.
        multiframe: how many frames the network gets at once.
        display_fps: write the rate, averaged over the last 30 frames, on the picture.
        emulate_playback: write no frame before its time, as if it were shown (a live source keeps its own time).
        bar: show a progress bar.

    Returns:
        VideoSummary.

    Raises:
        What reading, predict, draw or writing raised. ValueError: predict gave another number of results.
    """
    into_window = hasattr(sink, "show")
    pace = _Pace(source.fps if (into_window or emulate_playback) and not source.live else None)
    started = time.perf_counter()
    progress = tqdm(total=source.announced, desc="Detecting", unit="frame", disable=not bar, dynamic_ncols=True)
    with contextlib.closing(source), contextlib.closing(sink), progress, \
            contextlib.closing(_drawn(source, predict, draw, multiframe, display_fps)) as pictures:
        if into_window:
            frames = _show_all(pictures, sink, pace, progress)
        else:
            frames = _write_all(pictures, sink, pace, progress, multiframe + 1)
    seconds = time.perf_counter() - started
    if source.ended and source.announced and source.count < source.announced - _MISSING_FRAMES:
        logging.warning("%s announces %d frames, but only %d could be read; it may be cut off or damaged", source.name,
                        source.announced, source.count)
    return VideoSummary(frames, seconds, frames / seconds)


def _drawn(source, predict, draw, multiframe, display_fps):
    """Yield a Future of every picture, in order; reading runs ahead of the network and drawing behind it."""
    rate = _Rate(_RATE_FRAMES)
    with Behind(functools.partial(_draw_with_rate, draw), multiframe + 1) as draw_behind, \
            contextlib.closing(ahead(source.frames(), multiframe)) as frames:
        while batch := list(itertools.islice(frames, multiframe)):
            results = predict(batch)
            if len(results) != len(batch):
                raise ValueError(f"predict gave {len(results)} results for {len(batch)} frames")
            fps = rate.add(len(batch))
            for frame, result in zip(batch, results):
                yield draw_behind(frame, result, fps if display_fps else None)


def _draw_with_rate(draw, frame, result, fps):
    picture = draw(frame, result)
    if fps is not None:
        draw_corner_text(picture, f"{fps:.1f} FPS")
    return picture


def _write_all(pictures, file, pace, progress, depth):
    """Write every picture behind the network and the drawing of the next ones; returns how many."""
    def write(picture):
        image = picture.result()
        time.sleep(pace.next_in())
        file.write(image)
        progress.update()

    with Behind(write, depth) as write_behind:
        for picture in pictures:
            write_behind(picture)
    return file.frames


def _show_all(pictures, window, pace, progress):
    """Show every picture once it is drawn and due; returns how many. Windows belong to the main thread."""
    shown = 0
    drawn = deque()

    def show(image):
        nonlocal shown
        early = pace.next_in()
        if early and not window.wait(early):
            return False
        shown += 1
        progress.update()
        return window.show(image, 0)

    for picture in pictures:
        drawn.append(picture)
        while drawn and drawn[0].done():
            if not show(drawn.popleft().result()):
                return shown
    if all(show(picture.result()) for picture in drawn):
        window.wait(pace.next_in())  # the last one has its time too
    return shown


class _Pace:
    """When frames are due at a frame rate, counted from the first; with None they are due at once."""

    def __init__(self, fps: float | None):
        self._fps = fps
        self._start: float | None = None
        self._count = 0

    def next_in(self) -> float:
        """Seconds until the next frame is due, 0 if it is late; every call counts as a frame."""
        if self._fps is None:
            return 0
        now = time.perf_counter()
        if self._start is None:
            self._start = now
        due = self._start + self._count / self._fps
        self._count += 1
        return max(0, due - now)


class _Rate:
    """Frames a second over the last so many frames (and the rest of their batch)."""

    def __init__(self, frames):
        self._frames = frames
        self._stamps = deque([(time.perf_counter(), 0)])

    def add(self, count: int) -> float:
        """So many frames more are done; returns the rate."""
        now, total = time.perf_counter(), self._stamps[-1][1] + count
        self._stamps.append((now, total))
        while total - self._stamps[1][1] >= self._frames:
            self._stamps.popleft()
        since, before = self._stamps[0]
        return (total - before) / max(now - since, 1e-9)
