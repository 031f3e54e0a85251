"""Windows: which kind is opened, what is said when none can be, and how they end. Real ones where there is a screen."""

import os
import socket
import sys
import threading
import time
import types

import cv2
import numpy as np
import pytest
from matplotlib.backend_bases import KeyEvent

from utils import screen
from utils.runtime import UserError

PICTURE = np.full((48, 64, 3), (10, 100, 200), np.uint8)


@pytest.fixture
def no_screen(monkeypatch):
    """Linux without a screen, whatever the tests run on."""
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.fixture
def listener(tmp_path):
    """A function that lets something answer at an address."""
    opened = []

    def listen(family, address):
        server = socket.socket(family)
        server.bind(address)
        server.listen()
        opened.append(server)
        return server

    yield listen
    for server in opened:
        server.close()


def build(gui):
    return f"General configuration\n  Version control: 5.0.0\n\n  GUI:                   {gui}\n    VTK support: NO\n"


# Which window


def test_without_a_screen_there_is_no_window(no_screen):
    with pytest.raises(UserError, match=r"there is no screen \(DISPLAY is not set\); write IN:OUT") as error:
        screen.open_window("title")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("display", [":4711", "unix:4711", "localhost:4711.0", "nonsense"])
def test_a_screen_that_does_not_answer_is_none(display, no_screen):
    no_screen.setenv("DISPLAY", display)
    with pytest.raises(UserError, match=f"DISPLAY={display} does not answer; write IN:OUT"):
        screen.open_window("title")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="abstract sockets are Linux's")
def test_screens_that_answer(no_screen, listener, tmp_path):
    listener(socket.AF_UNIX, "\0" + os.path.join("/tmp", ".X11-unix", "X4712"))
    no_screen.setenv("DISPLAY", ":4712.0")
    assert screen._has_screen()
    no_screen.setenv("DISPLAY", "unix:4712")
    assert screen._has_screen()
    port = listener(socket.AF_INET, ("127.0.0.1", 0)).getsockname()[1]
    no_screen.setenv("DISPLAY", f"127.0.0.1:{port - 6000}.0")
    assert screen._has_screen()
    no_screen.setenv("DISPLAY", ":4711")
    assert not screen._has_screen()
    listener(socket.AF_UNIX, str(tmp_path / "wayland-7"))
    no_screen.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    no_screen.setenv("WAYLAND_DISPLAY", "wayland-7")
    assert screen._has_screen()
    no_screen.setenv("WAYLAND_DISPLAY", "wayland-8")
    assert not screen._has_screen()


def test_macos_always_has_a_screen(no_screen):
    no_screen.setattr(sys, "platform", "darwin")
    assert screen._has_screen()


@pytest.mark.parametrize("gui, backend_fails, kind", [
    ("QT5", True, screen.OpenCVWindow), ("GTK3", False, screen.OpenCVWindow), ("WIN32UI", False, screen.OpenCVWindow),
    ("NONE", False, screen.MatplotlibWindow), ("NONE", True, None)])
def test_the_kind_of_window(gui, backend_fails, kind, monkeypatch):
    import matplotlib.pyplot as pyplot

    def switch_backend(name):
        if backend_fails or name != "QtAgg":
            raise ImportError(name)

    monkeypatch.setattr(screen, "_has_screen", lambda: True)
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: build(gui))
    monkeypatch.setattr(pyplot, "switch_backend", switch_backend)
    if kind is not None:
        assert type(screen.open_window("title")) is kind
        return
    with pytest.raises(UserError, match="pip uninstall opencv-python-headless, then pip install opencv-py") as error:
        screen.open_window("title")
    assert "\n" not in str(error.value) and "write IN:OUT" in str(error.value)


# How OpenCV's behaves, with OpenCV's functions replaced


class FakeHighgui:
    """OpenCV's windows: `keys` are pressed in turn, -1 being none; it is visible so many times, then closed."""

    def __init__(self, monkeypatch, keys=(), visible=None, closed_raises=False):
        self.keys, self.visible, self.closed_raises = list(keys), visible, closed_raises
        self.shown, self.windows, self.size = [], [], None
        for name in ("namedWindow", "resizeWindow", "imshow", "waitKey", "getWindowProperty", "destroyWindow"):
            monkeypatch.setattr(cv2, name, getattr(self, name), raising=False)

    def namedWindow(self, title, flags):
        self.windows.append(title)

    def resizeWindow(self, title, width, height):
        self.size = width, height

    def imshow(self, title, image):
        assert title in self.windows
        self.shown.append(image)

    def waitKey(self, milliseconds):
        assert milliseconds >= 1, "0 would wait for ever"
        time.sleep(milliseconds / 1000)
        return self.keys.pop(0) if self.keys else -1

    def getWindowProperty(self, title, what):
        if self.visible is None:
            return 1.0
        self.visible -= 1
        if self.visible < 0 and self.closed_raises:
            raise cv2.error("no window")
        return float(self.visible >= 0)

    def destroyWindow(self, title):
        if title not in self.windows:
            raise cv2.error("no window")
        self.windows.remove(title)


def spent(function, *args):
    start = time.monotonic()
    return function(*args), time.monotonic() - start


def test_a_picture_waits_for_a_key(monkeypatch):
    highgui = FakeHighgui(monkeypatch, [-1, -1, ord("x")])
    window = screen.OpenCVWindow("title")
    assert highgui.windows == []
    assert window.show(PICTURE) is True and highgui.keys == []
    assert highgui.windows == ["title"] and len(highgui.shown) == 1
    window.close()
    window.close()
    assert highgui.windows == []


@pytest.mark.parametrize("key", [27, ord("q"), ord("Q"), ord("q") | 0x100000])
@pytest.mark.parametrize("seconds", [None, 0, 5])
def test_escape_and_q_end_it(key, seconds, monkeypatch):
    FakeHighgui(monkeypatch, [key])
    result, time_spent = spent(screen.OpenCVWindow("title").show, PICTURE, seconds)
    assert result is False and time_spent < 2


@pytest.mark.parametrize("closed_raises", [False, True])
@pytest.mark.parametrize("seconds", [None, 5])
def test_closing_the_window_ends_it(seconds, closed_raises, monkeypatch):
    highgui = FakeHighgui(monkeypatch, visible=2, closed_raises=closed_raises)
    window = screen.OpenCVWindow("title")
    result, time_spent = spent(window.show, PICTURE, seconds)
    assert result is False and time_spent < 2
    highgui.windows.clear()
    window.close()


def test_a_time_is_waited_whatever_is_typed(monkeypatch):
    FakeHighgui(monkeypatch, [ord("x"), ord("y")])
    window = screen.OpenCVWindow("title")
    result, time_spent = spent(window.show, PICTURE, 0.3)
    assert result is True and 0.29 <= time_spent < 1
    result, time_spent = spent(window.wait, 0)
    assert result is True and time_spent < 0.1


def test_a_window_that_is_not_there_yet_is_not_closed(monkeypatch):
    highgui = FakeHighgui(monkeypatch)
    seen = iter([0.0, 0.0] + [1.0] * 100)
    monkeypatch.setattr(cv2, "getWindowProperty", lambda title, what: next(seen))
    assert screen.OpenCVWindow("title").show(PICTURE, 0.3) is True and highgui.windows == ["title"]


@pytest.mark.parametrize("size, window", [((64, 48), (64, 64)), ((640, 480), (640, 480)), ((2560, 1440), (1280, 720)),
                                          ((1000, 3000), (240, 720)), ((5000, 100), (1280, 64))])
def test_windows_fit_on_the_screen(size, window, monkeypatch):
    highgui = FakeHighgui(monkeypatch)
    screen.OpenCVWindow("title").show(np.zeros((size[1], size[0], 3), np.uint8), 0)
    assert highgui.size == window


# How matplotlib's behaves, on a canvas that shows nothing


class FakeCanvasLoop:
    """Gives an Agg canvas the event loop that an interactive one has."""

    def __init__(self, canvas):
        self.canvas, self.stopped = canvas, threading.Event()
        canvas.start_event_loop, canvas.stop_event_loop = self.start, self.stopped.set

    def start(self, seconds):
        assert seconds >= 0
        self.stopped.clear()
        assert self.stopped.wait(seconds or 5) or seconds, "nothing ended a wait without end"


@pytest.fixture
def plot_window(monkeypatch):
    import matplotlib.pyplot as pyplot

    monkeypatch.setattr("matplotlib.figure.Figure.show", lambda figure: FakeCanvasLoop(figure.canvas))
    before = pyplot.get_fignums()
    window = screen.MatplotlibWindow("title", pyplot)
    yield window
    window.close()
    window.close()
    assert pyplot.get_fignums() == before


def later(function, *args):
    timer = threading.Timer(0.2, function, args)
    timer.start()
    return timer


def press(window, key):
    canvas = window._figure.canvas
    canvas.callbacks.process("key_press_event", KeyEvent("key_press_event", canvas, key))


def test_matplotlib_shows_the_picture_in_its_colours(plot_window):
    assert plot_window.show(PICTURE, 0) is True
    drawn = np.asarray(plot_window._figure.canvas.buffer_rgba())
    height, width = drawn.shape[:2]
    assert tuple(drawn[height // 2, width // 2, :3]) == (200, 100, 10)
    assert plot_window.show(255 - PICTURE, 0) is True
    drawn = np.asarray(plot_window._figure.canvas.buffer_rgba())
    assert tuple(drawn[height // 2, width // 2, :3]) == (55, 155, 245)


@pytest.mark.parametrize("key, seconds, result, shortest, longest", [
    ("x", None, True, 0.15, 2), ("escape", None, False, 0.15, 2), ("q", 5, False, 0.15, 2), ("x", 0.5, True, 0.45, 2),
    (None, 0.3, True, 0.28, 2)])
def test_matplotlib_waits_and_ends(key, seconds, result, shortest, longest, plot_window):
    plot_window.show(PICTURE, 0)
    timer = later(press, plot_window, key) if key else None
    answer, time_spent = spent(plot_window.wait, seconds)
    assert answer is result and shortest <= time_spent < longest
    if timer:
        timer.join()


def test_closing_matplotlibs_window_ends_it(plot_window):
    plot_window.show(PICTURE, 0)
    canvas = plot_window._figure.canvas
    timer = later(canvas.callbacks.process, "close_event", types.SimpleNamespace(canvas=canvas))
    answer, time_spent = spent(plot_window.wait, None)
    assert answer is False and time_spent < 2
    timer.join()
    assert plot_window.wait(1) is False


# For real


def real_window():
    if not screen._has_screen():
        pytest.skip("there is no screen")
    try:
        return screen.open_window("a test")
    except UserError as error:
        pytest.skip(str(error))


def test_a_real_window_stays_open_for_its_time():
    window = real_window()
    answers = [window.show(PICTURE, 0.3), window.show(255 - PICTURE, 0), window.wait(0.1)]
    window.close()
    window.close()
    assert answers == [True, True, True]
