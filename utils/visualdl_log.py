"""Curves and pictures of a training for VisualDL, Paddle's dashboard (``train.py --use_vdl``).

    pip install visualdl
    visualdl --logdir logs

VisualDL is imported only when a ``VisualDLLog`` is made: with Flask and pandas it needs about 190 MB, so it is not
among the requirements. VisualDL shows one record file a folder, and takes every folder for a run. So a training
has a folder of its own, and a resumed training continues the file in it: its curves are one line.
"""
from __future__ import annotations

import contextlib
import io
import math
import os
import re
import struct
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from utils.coco_results import ROW_NAMES
from utils.files import atomic_path
from utils.in_out import check_writable
from utils.runtime import UserError

# VisualDL thins every curve to 1000 points, and reads a file of them all at its start: 800,000 would take minutes.
INTERVAL = 10
FILE_NAME = "vdlrecords.log"  # VisualDL looks for "vdlrecords" in the name
AP_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
# Measured between iterations, after as many as their step says; training scalars belong to the iteration itself.
BETWEEN_ITERATIONS = ("validation/", "pictures/")


class VisualDLLog:
    """Writes what VisualDL shows: ``<folder>/session_<n>/vdlrecords.log``.

    The first call decides where: at iteration 0 a new training begins, in a new sub folder. At a later one a
    training is resumed, and the newest sub folder's file goes on; what it held of the iterations that are repeated
    is taken out. A thread writes every point at once, so a killed run loses at most the last ``INTERVAL`` iterations.

    Args:
        folder: one for each config, e.g. ``logs/yolact_base``; made if missing.
        session: number of the JSON log's session (``Log.session``), which names the sub folder of a new training.
            One that is taken already is counted up, so without a JSON log 0 will do.

    Raises:
        UserError: VisualDL is not installed.
        CheckpointError: the folder cannot be written.
    """

    def __init__(self, folder: str, session: int = 0):
        self._writer_class = _import_writer()
        self._folder, self._session = folder, session
        self._writer: Any = None
        self._pending: list[dict[str, float]] = []  # scalars of the iterations since the last point
        self._iteration = 0  # of the last of them
        check_writable(folder, "--log_folder")

    def train(self, iteration: int, losses: Mapping[str, float], lr: float, seconds: float, reader_seconds: float,
              images: int) -> None:
        """Add one iteration; every tenth becomes a point, the mean of the iterations since the last point.

        Args:
            iteration: from 0.
            losses: dict of letter -> value; their sum is written as the total "T".
            lr: learning rate used; a point holds the last.
            seconds: of the iteration. reader_seconds: of these, waited for the batch.
            images: images in the batch.
        """
        self._open(iteration)
        terms = {name: float(value) for name, value in losses.items() if name != "T"}
        scalars = {f"loss/{name}": value for name, value in {**terms, "T": sum(terms.values())}.items()}
        scalars.update({"time/batch_cost": seconds, "time/reader_cost": reader_seconds, "images": images,
                        "learning_rate": lr})
        self._pending.append(scalars)
        self._iteration = iteration
        if iteration % INTERVAL == 0:
            self._write_point()

    def val(self, iteration: int, metrics: Mapping[str, Mapping[str, float]]) -> None:
        """Write the average precisions of a validation in per cent.

        Args:
            iteration: number of finished iterations.
            metrics: as of ``utils.coco_results.evaluate_results``, {"bbox": {"AP", ...}, "segm": {...}} as
                fractions; what could not be measured (-1) is left out.
        """
        self._open(iteration)
        self._add({f"validation/{ROW_NAMES[kind]}_{name}": 100 * values[name]
                   for kind, values in metrics.items() for name in AP_NAMES if values.get(name, -1) >= 0}, iteration)

    def image(self, iteration: int, name: str, image_bgr: np.ndarray) -> None:
        """Write a picture, uint8 [H, W, 3] in OpenCV's BGR; VisualDL shows ten a name and a slider over them."""
        self._open(iteration)
        self._writer.add_image(f"pictures/{name}", cv2.cvtColor(image_bgr, cv2.COLOR_BGR2RGB), iteration)

    def close(self) -> None:
        """Write what is left and end the writer's thread; further calls do nothing."""
        if self._writer is not None:
            self._write_point()
            self._writer.close()
            self._writer = None

    def __enter__(self) -> VisualDLLog:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def _open(self, iteration):
        """Make the writer, at the first call."""
        if self._writer is not None:
            return
        sessions = _sessions(self._folder)
        last = max(sessions, default=-1)
        if iteration > 0 and sessions:
            folder = sessions[last]
            _cut(os.path.join(folder, FILE_NAME), iteration)
        else:
            folder = os.path.join(self._folder, f"session_{max(self._session, last + 1)}")
        with contextlib.redirect_stdout(io.StringIO()):  # it prints that the file exists
            self._writer = self._writer_class(folder, file_name=FILE_NAME)

    def _write_point(self):
        """Means of the pending iterations; what is not finite is passed over."""
        pending, self._pending = self._pending, []
        if not pending:
            return
        means = {tag: _mean(scalars.get(tag, math.nan) for scalars in pending) for tag in pending[-1]}
        images, seconds = means.pop("images"), means["time/batch_cost"]
        means["learning_rate"] = pending[-1]["learning_rate"]
        means["throughput/images_per_second"] = images / seconds if seconds > 0 else math.nan
        self._add(means, self._iteration)

    def _add(self, scalars, step):
        for tag, value in scalars.items():
            if math.isfinite(value):
                self._writer.add_scalar(tag, value, step)


def _import_writer():
    """VisualDL's LogWriter."""
    try:
        from visualdl import LogWriter
    except ImportError as error:
        raise UserError("--use_vdl needs VisualDL, which is not among the requirements because it brings Flask and "
                        f"pandas (190 MB): pip install visualdl ({error})") from error
    return LogWriter


def _sessions(folder):
    """{session number: folder} of the trainings in a folder."""
    found = {}
    for name in os.listdir(folder):
        match = re.fullmatch(r"session_(\d+)", name)
        if match and os.path.isfile(os.path.join(folder, name, FILE_NAME)):
            found[int(match[1])] = os.path.join(folder, name)
    return found


def _mean(values):
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


def _cut(path, iteration):
    """Keep what a record file holds of the time before an iteration, without a record torn by a killed run."""
    with open(path, "rb") as old, atomic_path(path) as temporary, open(temporary, "wb") as new:
        for step, tag, record in _records(old):
            if step < iteration or (step == iteration and tag.startswith(BETWEEN_ITERATIONS)):
                new.write(record)


def _records(file):
    """(step, tag, bytes) of every whole record of VisualDL's format: 8 bytes of length, then a protobuf message."""
    from google.protobuf.message import DecodeError
    from visualdl.proto.record_pb2 import Record

    while True:
        header = file.read(8)
        if len(header) < 8:
            return
        length, = struct.unpack("<Q", header)
        left = os.fstat(file.fileno()).st_size - file.tell()
        if length > left:
            return
        body = file.read(length)
        try:
            value = Record.FromString(body).values[0]
        except (DecodeError, IndexError):
            return
        yield value.id, value.tag, header + body
