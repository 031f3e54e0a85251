"""A window for pictures and videos: OpenCV's where this OpenCV has windows, else matplotlib's."""
from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
import time
from typing import Any

import cv2
import numpy as np

from utils.runtime import UserError

_LARGEST = (1280, 720)  # pixels of a window when it opens
_STOP_KEYS = (27, ord("q"), ord("Q"))  # 27 is Esc
_INSTEAD = "write IN:OUT to get a file instead"
_BACKENDS = ("TkAgg", "QtAgg", "GTK3Agg")


def open_window(title: str) -> OpenCVWindow | MatplotlibWindow:
    """Open a window; nothing appears before the first picture. Use it from the main thread only.

    Args:
        title: of the window.

    Returns:
        A window with ``show(image_bgr, seconds)``, ``wait(seconds)`` and ``close()``; see ``OpenCVWindow``.

    Raises:
        UserError: there is no screen, or nothing that could open a window on it.
    """
    if not _has_screen():
        display = os.environ.get("DISPLAY")
        reason = f"DISPLAY={display} does not answer" if display else "there is no screen (DISPLAY is not set)"
        raise UserError(f"no window can be opened: {reason}; {_INSTEAD}")
    if _opencv_has_windows():
        return OpenCVWindow(title)
    pyplot = _interactive_pyplot()
    if pyplot is not None:
        return MatplotlibWindow(title, pyplot)
    raise UserError("no window can be opened: opencv-python-headless has none (pip uninstall opencv-python-headless, "
                    f"then pip install opencv-python), and matplotlib has neither tkinter nor Qt nor GTK; {_INSTEAD}")


class OpenCVWindow:
    """A window of OpenCV. A picture larger than the window is shown smaller."""

    def __init__(self, title: str):
        self._title = title
        self._open = False
        self._seen = False

    def show(self, image_bgr: np.ndarray, seconds: float | None = None) -> bool:
        """Show a picture, then wait.

        Args:
            image_bgr: uint8 [H, W, 3]. seconds: see ``wait``.

        Returns:
            As ``wait``.
        """
        if not self._open:
            cv2.namedWindow(self._title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
            cv2.resizeWindow(self._title, *_fitting(image_bgr.shape[1::-1]))
            self._open = True
        cv2.imshow(self._title, image_bgr)
        return self.wait(seconds)

    def wait(self, seconds: float | None = None) -> bool:
        """Let the window live for a time.

        Args:
            seconds: how long, 0 for just a moment; None until a key is pressed or the window is closed.

        Returns:
            False if the user wants to end it all: by Esc, by q, or by closing the window; else True.
        """
        end = None if seconds is None else time.monotonic() + seconds
        while self._open:
            left = 0.05 if end is None else end - time.monotonic()
            key = cv2.waitKey(max(1, int(1000 * min(left, 0.05))))  # in short turns, as closing does not end a waitKey
            if key != -1 and key & 0xFF in _STOP_KEYS:
                return False
            if self._is_closed():
                return False
            if (end is None and key != -1) or (end is not None and time.monotonic() >= end):
                return True
        return True

    def _is_closed(self):
        try:
            visible = cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) >= 1
        except cv2.error:  # Qt has no windows any more
            return True
        closed = self._seen and not visible  # one that has just been opened takes a moment to be seen
        self._seen = visible
        return closed

    def close(self) -> None:
        """Close the window; a second call does nothing."""
        if self._open:
            self._open = self._seen = False
            with contextlib.suppress(cv2.error):  # the user has closed it
                cv2.destroyWindow(self._title)
            cv2.waitKey(1)


class MatplotlibWindow:
    """The same, of matplotlib: slower, but it needs no other OpenCV."""

    def __init__(self, title: str, pyplot: Any):
        self._title = title
        self._pyplot = pyplot
        self._figure: Any = None

    def show(self, image_bgr: np.ndarray, seconds: float | None = None) -> bool:
        """As ``OpenCVWindow.show``."""
        if self._figure is None:
            self._start(image_bgr.shape[1::-1])
        self._axes.clear()
        self._axes.set_axis_off()
        self._axes.imshow(cv2.cvtColor(image_bgr, cv2.COLOR_BGR2RGB))
        self._figure.canvas.draw()
        return self.wait(seconds)

    def wait(self, seconds: float | None = None) -> bool:
        """As ``OpenCVWindow.wait``."""
        if self._figure is None:
            return True
        canvas = self._figure.canvas
        end = None if seconds is None else time.monotonic() + seconds
        self._key = None
        canvas.flush_events()
        while not self._closed and self._key not in ("escape", "q", "Q"):
            left = 0 if end is None else end - time.monotonic()
            if left <= 0 and (end is not None or self._key is not None):
                return True
            canvas.start_event_loop(left)  # until something happens; 0 is without an end
        return False

    def close(self) -> None:
        """Close the window; a second call does nothing."""
        if self._figure is not None:
            self._pyplot.close(self._figure)
            self._figure = None

    def _start(self, size):
        with self._pyplot.rc_context({"toolbar": "None"}):
            width, height = _fitting(size)
            self._figure = self._pyplot.figure(self._title, figsize=(width / 100, height / 100), dpi=100)
        self._axes = self._figure.add_axes((0, 0, 1, 1))
        self._key, self._closed = None, False
        canvas = self._figure.canvas
        canvas.mpl_disconnect(canvas.manager.key_press_handler_id)  # matplotlib's own keys: q closes, s saves
        canvas.mpl_connect("key_press_event", self._on_key)
        canvas.mpl_connect("close_event", self._on_close)
        self._figure.show()

    def _on_key(self, event):
        self._key = event.key
        self._figure.canvas.stop_event_loop()

    def _on_close(self, event):
        self._closed = True
        event.canvas.stop_event_loop()


def _fitting(size):
    """(width, height) of a window for a picture: its own, smaller if that is too large, and larger if it is tiny."""
    scale = min(1, _LARGEST[0] / size[0], _LARGEST[1] / size[1])
    return tuple(max(round(scale * length), 64) for length in size)


def _opencv_has_windows():
    found = re.search(r"^\s*GUI:\s*(\S+)", cv2.getBuildInformation(), re.MULTILINE)
    return found is not None and found[1] != "NONE"


def _interactive_pyplot():
    """matplotlib.pyplot with a backend that opens windows; None if there is none."""
    import matplotlib.pyplot as pyplot  # not before it is needed: it is slow

    for backend in _BACKENDS if sys.platform != "darwin" else ("MacOSX", *_BACKENDS):
        with contextlib.suppress(ImportError):
            pyplot.switch_backend(backend)
            return pyplot
    return None


def _has_screen():
    """Whether a window can be seen: always on macOS, elsewhere if the X or Wayland screen answers.

    Asked here because Qt, in OpenCV, ends the whole process when it does not.
    """
    if sys.platform == "darwin":
        return True
    return any(_answers(address) for address in _screen_addresses())


def _screen_addresses():
    """Where the screens that the environment names listen: a path of a socket, or (host, port)."""
    display = re.fullmatch(r"(.*):(\d+)(\.\d+)?", os.environ.get("DISPLAY", ""))
    if display and display[1] in ("", "unix"):
        path = os.path.join("/tmp", ".X11-unix", f"X{display[2]}")
        yield from ("\0" + path, path)  # Linux gives it an abstract name as well
    elif display:
        yield display[1], 6000 + int(display[2])
    if os.environ.get("WAYLAND_DISPLAY"):
        yield os.path.join(os.environ.get("XDG_RUNTIME_DIR", ""), os.environ["WAYLAND_DISPLAY"])


def _answers(address):
    try:
        if isinstance(address, tuple):
            socket.create_connection(address, timeout=3).close()
        else:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(address)
    except OSError:
        return False
    return True
