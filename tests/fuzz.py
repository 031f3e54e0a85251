"""What the fuzz tests share: how many cases, what foreign bytes look like, and what reading them may do.

Three profiles, named by YOLACT_FUZZ: "short", in every run; "long", ten times as many cases; both
without chance. "random", of `make test-all`, are as many as "long", others each time; the report of a failure has the
line that repeats it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import os
import resource
import signal
import sys
import tempfile

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

MEBIBYTE = 2**20
ROOM, GROWTH = 4096 * MEBIBYTE, 512 * MEBIBYTE  # of memory: what a case may ask for, and what it may fill
SECONDS = 10  # of processor time
# What reading may not do, by the name of Python's audit event or its beginning. Stand-ins are looked up without
# pickle.find_class, and code that is only parsed (numpy's headers, the literals of -o) raises "compile", not "exec".
FORBIDDEN = (
    "exec",
    "pickle.find_class",
    "marshal.",
    "ctypes.",
    "subprocess.",
    "socket.",
    "shutil.",
    "urllib.",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.mkdir",
    "os.chmod",
    "os.chown",
    "os.kill",
    "os.putenv",
    "os.symlink",
    "os.link",
    "os.truncate",
)

_events: list[str] | None = None  # what the case under guard did that it may not; None: no case is


class Hang(BaseException):
    """A case took too long. No Exception, so that no reader takes it for damage."""


def load_profile() -> None:
    """The profile that YOLACT_FUZZ names, or "short"."""
    # Hypothesis would keep notes about the source code in the repository.
    os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", os.path.join(tempfile.gettempdir(), "hypothesis"))
    common = {"database": None, "deadline": None, "suppress_health_check": list(HealthCheck)}
    settings.register_profile("short", derandomize=True, **common)
    settings.register_profile("long", derandomize=True, **common)
    settings.register_profile("random", print_blob=True, **common)
    settings.load_profile(os.environ.get("YOLACT_FUZZ", "short"))


def cases(number: int):
    """Decorator: so many cases in the short profile."""
    return settings(max_examples=number * (10 if os.environ.get("YOLACT_FUZZ") in ("long", "random") else 1))


# --- what a case may do ---


def _audit(event, arguments):
    if _events is None:
        return
    writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    # A module that our code imports late is run as well; a file's wish for one would be a pickle.find_class.
    if (writes or event.startswith(FORBIDDEN)) and not _in_an_import():
        _events.append(f"{event} {arguments}"[:200])
        raise RuntimeError("stopped by the test")  # before it happens; a reader may catch this, so it is told below


def _in_an_import() -> bool:
    frame = sys._getframe(1)
    while frame is not None and "importlib" not in frame.f_code.co_filename:
        frame = frame.f_back
    return frame is not None


@functools.cache
def _watch():
    """From the first guarded case on: the hook cannot be taken away, and every file that is opened calls it."""
    sys.addaudithook(_audit)


@contextlib.contextmanager
def guarded(may_write: bool = False):
    """Fails if what runs inside takes too long or too much memory, runs code of the data's, or changes a file.

    Args:
        may_write: files are its business; the other rules hold.
    """
    global _events
    _watch()
    events = [] if not may_write else None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    old_limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_virtual_memory() + ROOM, old_limits[1]))
    old_handler = signal.signal(signal.SIGPROF, _raise_hang)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    faulthandler.dump_traceback_later(30 * SECONDS, exit=True)  # for loops in C, where no signal handler runs
    _events = events
    try:
        yield
    finally:
        _events = None
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, old_handler)
        resource.setrlimit(resource.RLIMIT_AS, old_limits)
    assert not events, f"reading did what it may not: {events}"
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak)
    assert grown < GROWTH, f"reading filled {grown / MEBIBYTE:.0f} MiB of memory"


def _raise_hang(_signal, _frame):
    raise Hang(f"no end after {SECONDS} seconds of processor time")


def _virtual_memory() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


@contextlib.contextmanager
def refusal(*errors):
    """Allows the errors of a kind that the reader documents, if their message is one line and not empty."""
    try:
        yield
    except errors as error:
        text = str(error)
        assert text.strip() and len(text.splitlines()) == 1, f"no message of one line: {text!r}"
        assert len(text) < 20_000, f"a message of {len(text)} characters: {text[:300]}"


# --- foreign data ---

ODD_NUMBERS = (
    0,
    -1,
    1,
    2**31,
    -(2**31) - 1,
    2**62,
    2**63,
    2**64,
    10**30,
    10**400,
    0.0,
    -0.0,
    0.5,
    1e-320,
    1e9,
    1e308,
    -1e308,
    float("inf"),
    float("-inf"),
    float("nan"),
)
ODD_TEXTS = (
    "",
    "0",
    "nan",
    "²",
    "١",
    "é",
    "a\nb",
    "\u2028",
    "\0",
    "\ud800",
    "..",
    "../..",
    "/",
    ".",
    "a/b",
    "%s",
    "{}",
    "x" * 300,
    "1" * 5000,
)
odd_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(ODD_NUMBERS),
    st.sampled_from(ODD_TEXTS),
    st.integers(-300, 300),
    st.floats(),
    st.text(max_size=8),
)
odd_values = st.recursive(
    odd_scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from(("a", "id", "name", "1", "²", "")), inner, max_size=3),
    ),
    max_leaves=6,
)


def _places(value, path=()):
    """The paths to everything inside a JSON value, itself included."""
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in inside:
        yield from _places(inner, (*path, key))


ODD_VALUES = (
    None,
    True,
    0,
    1.5,
    10**9,
    10**400,
    1e308,
    float("nan"),
    "a\nb\0\ud800",
    "1" * 5000,
    [],
    [1, 2, 3],
    {},
    {"²": 1},
)


def every_change(value):
    """Yields (words for a failure, copy) of a JSON value, each place in turn replaced by ODD_VALUES and removed."""
    for path in _places(value):
        for new in ODD_VALUES:
            yield (
                f"{path} = {new!a:.60}" if new != 10**400 else f"{path} = 10**400",
                _changed(value, path, "replace", new),
            )
        if path:
            yield f"{path} removed", _changed(value, path, "remove", None)


@contextlib.contextmanager
def told(words: str):
    """Prints which case it was if it fails."""
    try:
        yield
    except BaseException:
        print("failed with", words)
        raise


@st.composite
def spoilt(draw, value, most: int = 3):
    """A copy of a JSON value in which one to `most` places are replaced, removed, doubled or swapped with others.

    Args:
        value: of dicts, lists and scalars; it is left as it is.
    """
    for _ in range(draw(st.integers(1, most))):
        places = list(_places(value))
        path = draw(st.sampled_from(places))
        kind = draw(st.sampled_from(("replace", "replace", "remove", "double", "other")))
        if kind == "other":
            new = _at(value, draw(st.sampled_from(places)))
        else:
            new = draw(odd_values) if kind == "replace" else None
        value = _changed(value, path, kind, new)
    return value


def _at(value, path):
    for key in path:
        value = value[key]
    return value


def _changed(value, path, kind, new):
    """A copy of a JSON value with the place at `path` changed."""
    if not path:
        return new if kind in ("replace", "other") else value
    key, rest = path[0], path[1:]
    if isinstance(value, dict):
        items = {**value, key: _changed(value[key], rest, kind, new)}
        if not rest and kind == "remove":
            del items[key]
        return items
    items = list(value)
    items[key] = _changed(items[key], rest, kind, new)
    if not rest and kind == "remove":
        del items[key]
    elif not rest and kind == "double":
        items.insert(key, items[key])
    return items


def _interesting_bytes():
    numbers = (0, 1, 0x7F, 0x80, 0xFF, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**64 - 1)
    return sorted(
        {
            number.to_bytes(width, order)
            for width in (1, 2, 4, 8)
            for order in ("little", "big")
            for number in numbers
            if number < 2 ** (8 * width)
        }
    )


INTERESTING_BYTES = _interesting_bytes()


@st.composite
def spoilt_bytes(draw, data: bytes, most: int = 4):
    """Bytes with one to `most` places flipped, overwritten, cut out, doubled, filled with others, or cut off behind."""
    for _ in range(draw(st.integers(1, most))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        length = draw(st.integers(1, 40))
        kind = draw(st.sampled_from(("flip", "write", "write", "insert", "remove", "double", "cut")))
        if kind == "flip" and data:
            data = data[:at] + bytes([data[at] ^ 1 << draw(st.integers(0, 7))]) + data[at + 1 :]
        elif kind in ("write", "insert"):
            new = draw(st.sampled_from(INTERESTING_BYTES) | st.binary(min_size=1, max_size=8))
            data = data[:at] + new + data[at + (len(new) if kind == "write" else 0) :]
        elif kind == "remove":
            data = data[:at] + data[at + length :]
        elif kind == "double":
            data = data[: at + length] + data[at:]
        elif kind == "cut":
            data = data[:at]
    return data


# JSON texts that Python's own reader meets with something else than a ValueError, or not at all.
DEEP_JSON = ("[" * 100_000, '{"a":' * 50_000 + "1" + "}" * 50_000, "[" * 900 + "]" * 900)
