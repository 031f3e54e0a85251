"""Reads the logs that train.py writes (utils/logger.py): the sessions of a training joined into one."""
from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

Entry = dict[str, Any]  # "data" of a record
LOSS_NAMES = {"T": "total loss", "B": "box (B)", "C": "class (C)", "M": "mask (M)", "S": "semantic segmentation (S)",
              "I": "mask IoU (I)", "D": "coefficient diversity (D)", "E": "class existence (E)"}


class LogError(ValueError):
    """A log that cannot be read or holds no training; the message names the file."""


class TrainingLog(NamedTuple):
    """The records of a training. What one of them lacks is NaN; n training iterations, m validations.

    Attributes:
        iterations: int [n], rising.
        losses: {letter: float [n]}, in the order of LOSS_NAMES.
        learning_rates: float [n].
        seconds: float [n], of each iteration.
        session_starts: the sessions' first iterations.
        validated: int [m], the iterations after which the network was validated, rising.
        precisions: {"box", "mask": float [m]}, AP over all IoU thresholds in per cent.
    """

    iterations: np.ndarray
    losses: dict[str, np.ndarray]
    learning_rates: np.ndarray
    seconds: np.ndarray
    session_starts: list[int]
    validated: np.ndarray
    precisions: dict[str, np.ndarray]


def read_log(path: str, last_session: bool = False) -> TrainingLog:
    """Read the training and validation records of a log.

    Args:
        path: JSON-lines file; lines that are cut off (a killed run) and records of another kind are skipped.
        last_session: take only the last session that trained, instead of all of them joined.

    Raises:
        LogError: no such file, or no training record in it.
    """
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            records = [record for record in map(_record, file) if record is not None]
    except OSError as error:
        raise LogError(f"cannot read {path} ({error.strerror}); give a log that train.py wrote") from error
    sessions = [record["session"] for record in records if record["type"] == "train"]
    if not sessions:
        raise LogError(f"{path} holds no training record; give a log that train.py wrote (logs/<config>.log)")
    if last_session:
        records = [record for record in records if record["session"] == sessions[-1]]

    trained, validated, starts = _joined(records)
    losses = [entry["loss"] for entry in trained]
    return TrainingLog(
        _iterations(trained), {letter: _column(losses, letter) for letter in in_order(losses)},
        _column(trained, "lr"), _column(trained, "elapsed"), starts, _iterations(validated),
        {kind: _column([_as_dict(entry.get(kind)) for entry in validated], "all") for kind in ("box", "mask")})


def in_order(losses: Sequence[dict[str, Any]]) -> list[str]:
    """The letters of all terms in dicts of losses: those of LOSS_NAMES in its order, then others."""
    found = {letter for loss in losses for letter in loss}
    return [letter for letter in LOSS_NAMES if letter in found] + sorted(found.difference(LOSS_NAMES))


def _record(line: str) -> dict[str, Any] | None:
    """A log line as a dict, or None if it is cut off, of another kind or without what is read of it."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not (isinstance(record, dict) and {"type", "session", "data"} <= record.keys()):
        return None
    kind, data = record["type"], _as_dict(record["data"])
    is_known = kind == "val" or (kind == "train" and isinstance(data.get("loss"), dict))
    has_place = type(data.get("iter")) is int and 0 <= data["iter"] < 2 ** 53
    return record if is_known and has_place else None


def _joined(records: Sequence[dict[str, Any]]) -> tuple[list[Entry], list[Entry], list[int]]:
    """(training entries, validation entries, starts of sessions), each with rising iterations."""
    # A resumed run starts at its checkpoint, so what the interrupted one did after that is void. A validation
    # after k iterations comes before training iteration k and stays when that one is repeated.
    trained: list[Entry] = []
    validated: list[Entry] = []
    starts: list[int] = []
    session = None
    for record in records:
        entry, first = record["data"], record["data"]["iter"]
        if record["type"] == "val":
            _drop_from(validated, first)
            validated.append(entry)
            continue
        _drop_from(trained, first)
        _drop_from(validated, first + 1)
        if record["session"] != session:
            session = record["session"]
            starts = [start for start in starts if start < first] + [first]
        trained.append(entry)
    return trained, validated, starts


def _drop_from(entries: list[Entry], first: int) -> None:
    """Take the entries of iteration `first` and later ones off the end."""
    while entries and entries[-1]["iter"] >= first:
        entries.pop()


def _iterations(entries: Sequence[Entry]) -> np.ndarray:
    return np.array([entry["iter"] for entry in entries], np.int64)


def _column(entries: Sequence[Entry], key: str) -> np.ndarray:
    """Float array of one key; NaN where it is missing, null (JSON has no NaN) or too large for an axis."""
    values = [entry.get(key) for entry in entries]
    return np.array([value if isinstance(value, (int, float)) and abs(value) < 1e30 else np.nan for value in values],
                    np.float64)


def _as_dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
