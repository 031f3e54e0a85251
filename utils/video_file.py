"""Video files written frame by frame: always playable, and of exactly the size of the frames."""
from __future__ import annotations

import contextlib
import mmap
import os
import threading
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np

from utils.runtime import UserError

# The codecs that the FFmpeg of OpenCV's own wheels can encode; it has no H.264.
CODECS = {".mp4": "mp4v", ".mov": "mp4v", ".mkv": "mp4v", ".avi": "mp4v", ".webm": "VP80"}


@contextlib.contextmanager
def quiet_opencv() -> Iterator[None]:
    """Keep OpenCV's own messages about files that it cannot open off the screen; the caller says it in a sentence.

    FFmpeg's stay off as well, for the whole process, unless OPENCV_FFMPEG_LOGLEVEL is set.
    """
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    log = cv2.utils.logging if hasattr(cv2.utils, "logging") else cv2  # OpenCV 4.8 has the two functions in cv2
    level = log.getLogLevel()
    log.setLogLevel(0)
    try:
        yield
    finally:
        log.setLogLevel(level)


def check_target(path: str) -> None:
    """See that a video can be written to a path, as far as its name tells.

    Raises:
        UserError: its suffix is none of CODECS, or it is a folder.
    """
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in CODECS:
        raise UserError(f"{path} does not end in {', '.join(CODECS)}; give the video one of these names")
    if os.path.isdir(path):
        raise UserError(f"{path} is a folder; give the video another name")


class VideoFile:
    """A video file that appears, whole, when it is closed; until then the frames are in a file beside it.

    ``close`` must be called, also when the run has failed: the frames so far then are the video. Without any frame
    no file appears, and one of that name stays as it was. Threads may call ``write`` and ``close``.

    Args:
        path: file to write, replaced if it is there; its folder is made. The suffix chooses the codec, see CODECS.
        fps: frames a second, kept to 1/1000 (above 65 to 1/100).
        size: (width, height) of every frame in pixels.

    Raises:
        UserError: the suffix is unknown, the file cannot be written, or its codec has no such size.
    """

    def __init__(self, path: str, fps: float, size: tuple[int, int]):
        check_target(path)
        self.path = path
        self.size = width, height = tuple(size)
        self.frames = 0
        stem, suffix = os.path.splitext(path)
        codec = CODECS[suffix.lower()]
        if codec == "VP80" and (width % 2 or height % 2 or min(size) < 16):
            raise UserError(f"{path}: a {suffix} of {width}x{height} pixels cannot be written, only even sizes from "
                            "16 on; write an .mp4 instead")
        self._temporary = f"{stem}.{os.getpid()}.tmp{suffix}"
        self._lock = threading.Lock()
        self._make_folder()
        # OpenCV cuts odd sizes down to even ones; so give it even ones, and correct the file at the end.
        self._even_size = width + width % 2, height + height % 2
        with quiet_opencv():
            # MPEG-4 counts time in fractions of at most 1/65535 second, and OpenCV in decimal ones.
            self._writer: cv2.VideoWriter | None = cv2.VideoWriter(self._temporary, cv2.VideoWriter.fourcc(*codec),
                                           round(fps, 3 if fps < 65 else 2), self._even_size)
        if not self._writer.isOpened():
            self._remove()
            raise UserError(f"OpenCV cannot write {path} with {width}x{height} pixels at {fps:g} frames a second; "
                            "write another format (.mp4, .avi), or a smaller video (at most 8190 pixels a side)")

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def write(self, image_bgr: np.ndarray) -> None:
        """Append a frame, uint8 [height, width, 3].

        Raises:
            ValueError: it has another shape or type, which OpenCV would leave out silently; or the file is closed.
        """
        width, height = self.size
        if image_bgr.shape != (height, width, 3) or image_bgr.dtype != "uint8":
            raise ValueError(f"a frame for {self.path} is {image_bgr.dtype} {list(image_bgr.shape)}; the first one was "
                             f"uint8 {[height, width, 3]}")
        if self.size != self._even_size:
            image_bgr = cv2.copyMakeBorder(image_bgr, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        with self._lock:
            if self._writer is None:
                raise ValueError(f"{self.path} is closed")
            self._writer.write(image_bgr)
            self.frames += 1

    def close(self) -> None:
        """Finish the file and put it in its place; a second call does nothing.

        Raises:
            UserError: what was written cannot be read back.
        """
        with self._lock:
            if self._writer is None:
                return
            self._writer.release()
            self._writer = None
        try:
            if self.frames:
                if self.size != self._even_size:
                    _correct_size(self._temporary, self._even_size, self.size)
                self._check()
                os.replace(self._temporary, self.path)
        finally:
            self._remove()

    def _make_folder(self):
        """Make the folder and see that a file can be made in it; OpenCV does not say why it cannot."""
        try:
            os.makedirs(os.path.dirname(os.path.abspath(self.path)), exist_ok=True)
            open(self._temporary, "wb").close()
        except OSError as error:
            raise UserError(f"{self.path} cannot be written ({error.strerror}); name another place") from error

    def _check(self):
        """OpenCV does not tell when it could not write, for want of space for example."""
        with quiet_opencv():
            capture = cv2.VideoCapture(self._temporary)
            there, image = capture.read()
            capture.release()
        if not there or image.shape[1::-1] != self.size:
            raise UserError(f"{self.path} could not be written; is there space left on the disk?")

    def _remove(self):
        if os.path.exists(self._temporary):
            os.remove(self._temporary)


def _correct_size(path, stored, wanted):
    """Change the size in a file of MPEG-4 Part 2 video, in whichever container, from even numbers to odd ones.

    The picture is coded in squares of 16x16 pixels, the last of which are filled up. So a picture with one row or
    column less has the same code, and only its header (the video object layer) differs. Some containers hold the
    header once, some before every key frame.
    """
    if not os.path.getsize(path):
        return
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as content:
        at = content.find(b"\0\0\1\x20")
        header, changed = _headers(content[at:at + 24], stored, wanted) if at >= 0 else (b"", b"")
        while header and at >= 0:
            content[at:at + len(header)] = changed
            at = content.find(header, at + 1)


def _headers(header, stored, wanted):
    """The header up to its size, and the same with another size; two empty ones if the size is not in it.

    The size stands anywhere in the bits: a 1, 13 bits of the width, a 1, 13 bits of the height, and a 1.
    """
    def bits(width, height):
        return 1 << 28 | width << 15 | 1 << 14 | height << 1 | 1

    for end in range(29, 8 * len(header) + 1):
        whole = (end + 7) // 8
        number, shift = int.from_bytes(header[:whole], "big"), 8 * whole - end
        if number >> shift & (1 << 29) - 1 == bits(*stored):
            number ^= (bits(*stored) ^ bits(*wanted)) << shift
            return header[:whole], number.to_bytes(whole, "big")
    return b"", b""
