"""Training log as JSON lines in the original's record shape, and the line on the console.

Every record is ``{"type": "session" | "train" | "val", "session": n, "data": {...}, "time": seconds}``.
"""
from __future__ import annotations

import collections
import datetime
import json
import logging
import math
import os
import time
from collections.abc import Iterable, Mapping
from typing import Any, Callable

LOSS_ORDER = "BCMSI"  # box, class, mask, semantic segmentation, mask IoU
TAIL_BYTES = 1 << 20  # of a log, in which its last session is looked for


def _plain(value: Any) -> Any:
    """A value JSON can hold: numpy numbers and arrays unpacked, nan and infinity as null."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no nan; a reader in any language must be able to parse the line
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _last_session(path: str) -> int:
    """Highest session number in the last part of a log, or -1; lines that cannot be read are passed over."""
    last = -1
    if not os.path.exists(path):
        return last
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - TAIL_BYTES))
        for line in file:
            try:
                last = max(last, int(json.loads(line)["session"]))
            except (ValueError, KeyError, TypeError):
                continue  # half a line: a killed run, or where the tail begins
    return last


def _ends_in_newline(path: str) -> bool:
    if not os.path.exists(path) or os.path.getsize(path) == 0:
        return True
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


class Log:
    """Appends records to a log file, each flushed at once, so that a killed run loses none.

    Opening writes a record of type 'session' with the arguments of the run; its number is the last one in
    the file plus 1 (0 in a new file).

    Args:
        path: the file, e.g. ``logs/yolact_base.log``; its folder is made.
        session_data: dict of the command-line arguments (and whatever else describes the run).
        gpu_stats: function returning figures to add to each record as "gpu", or None.

    Raises:
        OSError: when the file cannot be written.
    """

    def __init__(self, path: str, session_data: Mapping[str, Any] | None = None,
                 gpu_stats: Callable[[], Any] | None = None) -> None:
        self.path = path
        self._gpu_stats = gpu_stats
        try:
            os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
            self.session = _last_session(path) + 1
            torn = not _ends_in_newline(path)
            self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (open for the length of the run)
        except OSError as error:
            raise OSError(f"cannot write the log {path} ({error.strerror}); choose another --log_folder "
                          "or pass --no_log") from error
        if torn:
            self._file.write("\n")  # keep a line torn by a killed run from spoiling ours
        self.log("session", session_data or {})

    def log(self, kind: str, data: Mapping[str, Any]) -> None:
        """Write one record.

        Args:
            kind: its type, "session", "train" or "val". data: plain values, or numpy's.

        Raises:
            OSError: the file cannot be written.
        """
        record = {"type": kind, "session": self.session, "data": _plain(data), "time": time.time()}
        if self._gpu_stats is not None:
            record["gpu"] = _plain(self._gpu_stats())
        if not os.path.exists(self.path):
            logging.warning("the log %s was deleted; a new one is begun", self.path)
            os.makedirs(os.path.dirname(os.path.abspath(self.path)), exist_ok=True)
            self._file.close()
            self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 (open for the length of the run)
        try:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
        except OSError as error:
            raise OSError(f"cannot write the log {self.path} ({error.strerror}); free some space, and continue with "
                          "--resume=latest") from error

    def train(self, losses: Mapping[str, float], epoch: int, iteration: int, lr: float, elapsed: float) -> None:
        """Record of one iteration.

        Args:
            losses: dict of letter -> value, without the total; taken before the update, unrounded.
            epoch, iteration: from 0.
            lr: learning rate used.
            elapsed: seconds of the iteration.
        """
        values = {name: float(losses[name]) for name in _ordered(losses)}
        values["T"] = float(sum(values.values()))
        self.log("train", {"loss": values, "epoch": epoch, "iter": iteration, "lr": lr, "elapsed": elapsed})

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _ordered(losses: Iterable[str]) -> list[str]:
    """Loss names in the order of the console line; those of the papers' comparisons come last."""
    known = [name for name in LOSS_ORDER if name in losses]
    return known + [name for name in losses if name not in LOSS_ORDER]


class Meter:
    """Averages over the last iterations, for the console.

    Times of the first iteration are left out as soon as there are others: it pays for allocation and for
    the data workers' start (the original does the same).

    Args:
        window: iterations that are averaged over.

    Attributes:
        timer: seconds of the last iteration.
    """

    def __init__(self, window: int = 100) -> None:
        self._losses: dict[str, collections.deque[float]] = collections.defaultdict(
            lambda: collections.deque(maxlen=window))
        self._times: collections.deque[tuple[float, float, int]] = collections.deque(maxlen=window)
        self._updates = 0
        self.timer = 0.0

    def update(self, losses: Mapping[str, float], batch_cost: float, reader_cost: float, images: int) -> None:
        """Add an iteration: loss values by letter, seconds in all, seconds waited for data, images seen."""
        for name in _ordered(losses):
            value = float(losses[name])
            if math.isfinite(value):
                self._losses[name].append(value)
        if self._updates == 1:
            self._times.clear()
        self._times.append((batch_cost, reader_cost, images))
        self._updates += 1
        self.timer = batch_cost

    def _mean_time(self, column: int) -> float:
        return sum(row[column] for row in self._times) / len(self._times) if self._times else 0.0

    @property
    def losses(self) -> dict[str, float]:
        """dict of letter -> mean of its finite values, in console order."""
        return {name: sum(self._losses[name]) / len(self._losses[name]) for name in _ordered(self._losses)}

    @property
    def batch_cost(self) -> float:
        """Mean seconds of an iteration."""
        return self._mean_time(0)

    @property
    def reader_cost(self) -> float:
        """Mean seconds an iteration waited for its batch."""
        return self._mean_time(1)

    @property
    def ips(self) -> float:
        """Images per second."""
        return self._mean_time(2) / self.batch_cost if self.batch_cost > 0 else 0.0

    def eta(self, iterations_left: int) -> float:
        """Seconds the remaining iterations will take."""
        return iterations_left * self.batch_cost


def console_line(epoch: int, iteration: int, meter: Meter, iterations_left: int) -> str:
    """The line printed every tenth iteration: the original's, then the three figures Paddle users expect.

    Args:
        epoch, iteration: from 0. iterations_left: for the time that is left.
    """
    losses = meter.losses
    terms = [f"{name}: {value:.3f}" for name, value in losses.items()]
    terms.append(f"T: {sum(losses.values()):.3f}")
    eta = datetime.timedelta(seconds=int(meter.eta(iterations_left)))
    return (f"[{epoch:3d}] {iteration:7d} || {' | '.join(terms)} || ETA: {eta} || timer: {meter.timer:.3f}"
            f" || batch_cost: {meter.batch_cost:.4f} s, reader_cost: {meter.reader_cost:.4f} s, "
            f"ips: {meter.ips:.3f} images/s")
