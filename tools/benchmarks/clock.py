"""What the parts of tools/benchmark.py measure with: a clock that tells parts apart, and medians of what it read."""
from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any, Callable

import numpy as np
import paddle

SETTLE = 0.25  # seconds


class PartTimer:
    """Seconds by name, each without those of the parts measured inside it.

    Args:
        synchronize: called before the time is read, so that work on a GPU has ended.

    Attributes:
        seconds: {name: seconds since the last `take`}.
    """

    def __init__(self, synchronize: Callable[[], None] = lambda: None):
        self.seconds: dict[str, float] = {}
        self._synchronize = synchronize
        self._inside: list[float] = []  # for every open part, the seconds of the parts inside it

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what runs inside as `name`."""
        self._synchronize()
        start = time.perf_counter()
        self._inside.append(0.0)
        try:
            yield
        finally:
            self._synchronize()
            passed = time.perf_counter() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + passed - self._inside.pop()
            if self._inside:
                self._inside[-1] += passed

    def take(self) -> dict[str, float]:
        """The seconds since the last call."""
        taken, self.seconds = self.seconds, {}
        return taken

    @contextlib.contextmanager
    def watching(self, functions: Sequence[tuple[str, Any, str]]) -> Iterator[None]:
        """Count calls of (name, module, function name) that go through the module's names, until the end."""
        def watched(name: str, function: Callable) -> Callable:
            def call(*args: Any, **kwargs: Any) -> Any:
                with self.part(name):
                    return function(*args, **kwargs)
            return call

        replaced = []
        try:
            for name, module, attribute in functions:
                if hasattr(module, attribute):
                    replaced.append((module, attribute, getattr(module, attribute)))
                    setattr(module, attribute, watched(name, replaced[-1][2]))
            yield
        finally:
            for module, attribute, function in replaced:
                setattr(module, attribute, function)


def synchronizer() -> Callable[[], None]:
    """A function that waits for the device; on the CPU there is nothing to wait for."""
    return paddle.device.synchronize if paddle.device.get_device().startswith("gpu") else lambda: None


def settle() -> None:
    """Wait until the threads of whatever ran before are asleep.

    The threads of Paddle's OpenMP wait for more work with a busy loop for 0.2 seconds, on the cores that the next
    engine is to be measured on.
    """
    time.sleep(SETTLE)


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Median and 95th percentile of durations in seconds, as milliseconds."""
    milliseconds = np.asarray(seconds) * 1e3
    return {"median_ms": float(np.median(milliseconds)), "p95_ms": float(np.percentile(milliseconds, 95))}


def summaries(records: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    """`summary` of every name in a list of {name: seconds}; a name that a record lacks took 0 there."""
    names = list(dict.fromkeys(name for record in records for name in record))
    return {name: summary([record.get(name, 0.0) for record in records]) for name in names}
