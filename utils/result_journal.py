"""Results of a long evaluation, on disk image by image: memory stays flat, and what was interrupted can go on.

A journal is a text file per process: a line that says what run this is, then one line for every image done, of three
parts between tabs: the image's place in the order of evaluation, its box results, its mask results, both as JSON. The
result files are made of it at the end, so that they appear whole and in order whatever happened before.
"""
from __future__ import annotations

import array
import fcntl
import glob
import hashlib
import itertools
import json
import logging
import os
import re
from collections.abc import Sequence
from typing import Any, Callable

from utils import ranks
from utils.files import atomic_path
from utils.instances import Instances
from utils.runtime import UserError

NAME = "detections.partial"
_LINE = re.compile(rb"(\d{1,15})\t\[[ -~]*\]\t\[[ -~]*\]\n")  # JSON as it is written here: printable ASCII


class ResultJournal:
    """The images done so far of one run.

    Args:
        folder: where the journals lie, one for each process.
        run: what decides the results, dict of str -> plain values; a journal of another run is not continued.
        count: images of the whole run.
        coco_format: (image_id, Instances) -> (bbox, segm), a utils.coco_results.CocoFormat.
        has_masks: whether the network has masks.
        rank: number of this process.
        resume: continue the journals that are there; False: there must be none.

    Attributes:
        done: places of the images that need not be evaluated again.

    Raises:
        UserError: another process is writing it; or, with resume, it is of another run.
    """

    def __init__(self, folder: str, run: dict[str, Any], count: int,
                 coco_format: Callable[[int, Instances], tuple[list, list]], has_masks: bool = True, rank: int = 0,
                 resume: bool = False):
        self.folder = folder
        self.has_masks = has_masks
        self.count = count
        self.done: set[int] = set()
        self._format = coco_format
        self._added = 0
        self._lines: tuple[list, array.array, array.array] | None = None  # see _index
        path = os.path.join(folder, f"{NAME}.{rank}")
        if resume:
            for other in journals(folder):
                self.done.update(place for place, _ in _whole_lines(other, count, run))
        self._file = open(path, "ab")  # noqa: SIM115 (until close)
        _lock(self._file, folder)
        _cut_torn_line(path)
        if not os.path.getsize(path):
            self._write(json.dumps(run))

    def add(self, place: int, image_id: int, found: Instances | None) -> None:
        """Write the results of one image; found is an Instances, or None for an image that could not be read."""
        bbox, segm = ([], []) if found is None else self._format(image_id, found)
        self._write(f"{place}\t{compact_json(bbox)}\t{compact_json(segm)}")
        self._added += 1

    def part(self) -> None:
        """What other processes must be sent: nothing, as the journals lie in one folder."""

    def merge(self, parts: list) -> None:
        """Called when every process is done; the journals are read together from here on."""

    def __enter__(self) -> ResultJournal:
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        """Close the files; what is in them stays, so that the run can go on."""
        self.close()
        if kind is not None and not self.done and not self._added:
            os.remove(self._file.name)
        elif kind is not None:
            logging.warning("what was evaluated so far is kept in %s; the same command with --resume goes on",
                            self.folder)

    def close(self) -> None:
        """Close the files; a second call does nothing."""
        self._file.close()
        for reader in () if self._lines is None else self._lines[0]:
            reader.close()
        self._lines = None

    def remove(self) -> None:
        """The run is over: remove the journals of all processes."""
        self.close()
        _clear(self.folder)

    def _write(self, line):
        self._file.write(line.encode() + b"\n")
        self._file.flush()  # to the system, so that a killed process loses nothing

    # --- reading back ---

    def texts(self, place: int) -> tuple[str, str]:
        """(box results, mask results) of an image as JSON texts, "[...]".

        Raises:
            UserError: the image is in no journal.
        """
        readers, which, offsets = self._index()
        if which[place] < 0:
            raise UserError(f"image {place} of {self.count} is in none of the {NAME} files of {self.folder}; processes "
                            "on several machines need one --output_folder that they all see")
        readers[which[place]].seek(offsets[place])
        _, bbox, segm = readers[which[place]].readline().decode().rstrip("\n").split("\t")
        return bbox, segm

    def of_place(self, place: int) -> tuple[list, list]:
        """(bbox, segm) of an image: lists of COCO results.

        Raises:
            UserError: as `texts`; or the file is damaged.
        """
        try:
            return tuple(json.loads(text) for text in self.texts(place))
        except (ValueError, RecursionError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"a {NAME} file of {self.folder} is damaged ({error}); leave --resume out to begin "
                            "anew") from error

    def lists(self) -> dict[str, list]:
        """As CocoResults.lists, in memory: COCOeval needs them all."""
        parts = zip(*map(self.of_place, range(self.count)))
        kinds = ("bbox", "segm") if self.has_masks else ("bbox",)
        return {kind: list(itertools.chain(*part)) for kind, part in zip(kinds, parts)}

    def write(self, bbox_file: str | None, mask_file: str | None = None) -> None:
        """Write the two result files, each whole or not at all, making their folders; None leaves one out."""
        for part, path in enumerate((bbox_file, mask_file)):
            if path is None:
                continue
            with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
                separator = "["
                for place in range(self.count):
                    results = self.texts(place)[part][1:-1]
                    if results:
                        file.write(separator + results)
                        separator = ","
                file.write("]" if separator == "," else "[]")

    def _index(self):
        """(open files, file of every place, offset in it): 10 bytes an image."""
        if self._lines is None:
            readers = []
            which, offsets = array.array("h", [-1]) * self.count, array.array("q", [0]) * self.count
            for number, path in enumerate(journals(self.folder)):
                readers.append(open(path, "rb"))  # noqa: SIM115 (until remove)
                for place, offset in _whole_lines(path, self.count):
                    which[place], offsets[place] = number, offset
            self._lines = readers, which, offsets
        return self._lines


def journals(folder: str) -> list[str]:
    """Paths of the journals in a folder."""
    return sorted(glob.glob(os.path.join(glob.escape(folder), NAME + ".*")))


def _clear(folder):
    for path in journals(folder):
        os.remove(path)


def run_of(path: str, config: dict[str, Any], images: Sequence[Any], options: dict[str, Any]) -> dict[str, Any]:
    """What decides the results of a run, for ResultJournal.

    Args:
        path: file of the weights. config: dict. images: list of what tells the images, in order. options: dict of str
            -> plain values.
    """
    with open(path, "rb") as file:
        told = {"weights": file.read(), "config": json.dumps(config).encode(), "images": json.dumps(images).encode()}
    return {**{name: hashlib.sha256(content).hexdigest()[:16] for name, content in told.items()}, **options}


def open_journal(folder: str, run: dict[str, Any], count: int,
                 coco_format: Callable[[int, Instances], tuple[list, list]], has_masks: bool,
                 resume: bool) -> ResultJournal:
    """A ResultJournal for each of the ranks, begun anew unless `resume`; arguments as there."""
    interrupted = bool(journals(folder))
    ranks.gathered(None)  # nobody makes a file before all have looked
    if ranks.rank() == 0:
        for path in journals(folder):
            with open(path, "rb") as file:
                _lock(file, folder)
        if interrupted and not resume:
            logging.warning("%s holds an interrupted run, which --resume would have continued; it begins anew", folder)
            _clear(folder)
        if resume and not interrupted:
            logging.warning("--resume: there is no interrupted run in %s; starting with the first image", folder)
    ranks.gathered(None)
    return ResultJournal(folder, run, count, coco_format, has_masks, ranks.rank(), resume)


def compact_json(value: Any) -> str:
    """JSON without spaces."""
    return json.dumps(value, separators=(",", ":"))


def _lock(file, folder):
    """Keep other processes off a journal until the file is closed.

    Raises:
        UserError: another one has it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(f"another eval.py is writing into {folder}; wait for it, or give this one another "
                        "--output_folder") from error
    except OSError:  # a file system without locks
        logging.warning("%s cannot be kept from a second eval.py; do not start one with it", folder)


def _whole_lines(path, count, run=None):
    """(place, offset) of the images, of `count`, in a journal; `run` is compared with its first line.

    What is no whole line costs its image another evaluation, no more: a process was killed, or the power failed, while
    it was written.
    """
    with open(path, "rb") as file:
        head = file.readline()
        if run is not None and head.endswith(b"\n"):
            _compare(head, run, path)
        offset = len(head)
        for line in file:
            parts = _LINE.fullmatch(line)
            if parts and int(parts[1]) < count:
                yield int(parts[1]), offset
            offset += len(line)


def _compare(head, run, path):
    try:
        theirs = json.loads(head)
    except (ValueError, RecursionError):
        theirs = None
    if not isinstance(theirs, dict):
        raise UserError(f"{path} is no journal of eval.py; remove it, or choose another --output_folder")
    words = {"weights": "other weights", "config": "another config",
             "images": "other images or another order (--shuffle needs the same --seed)"}
    different = [words.get(key, f"{key}={theirs.get(key)} (now {run[key]})") for key in run
                 if theirs.get(key) != json.loads(json.dumps(run[key]))]
    if different:
        raise UserError(f"--resume: the interrupted run in {os.path.dirname(path)} had {', '.join(different)}; give "
                        "the same options, or leave --resume out to begin anew")


def _cut_torn_line(path):
    with open(path, "rb+") as file:
        whole = 0
        for line in file:
            whole += len(line) if line.endswith(b"\n") else 0
        file.truncate(whole)
