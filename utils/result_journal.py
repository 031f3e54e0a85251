"""Results of a long evaluation, on disk image by image: memory stays flat, and what was interrupted can go on.

A journal is a text file per process: a line that says what run this is, then one line for every image done, of three
parts between tabs: the image's place in the order of evaluation, its box results, its mask results, both as JSON. The
result files are made of it at the end, so that they appear whole and in order whatever happened before.
"""
from __future__ import annotations

import array
import glob
import hashlib
import itertools
import json
import logging
import os
import re
import shutil
import zipfile

from utils import ranks
from utils.files import atomic_path
from utils.runtime import UserError

NAME = "detections.partial"


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
        UserError: with resume, the journals are of another run.
    """

    def __init__(self, folder, run, count, coco_format, has_masks=True, rank=0, resume=False):
        self.folder = folder
        self.has_masks = has_masks
        self.count = count
        self.done = set()
        self._format = coco_format
        self._lines = None
        path = os.path.join(folder, f"{NAME}.{rank}")
        if resume:
            for other in journals(folder):
                self.done.update(place for place, _ in _whole_lines(other, run))
            _cut_torn_line(path)
        is_new = not os.path.exists(path) or not os.path.getsize(path)
        self._file = open(path, "ab")  # noqa: SIM115 (until close)
        if is_new:
            self._write(json.dumps(run))

    def add(self, place, image_id, found):
        """Write the results of one image; found is an Instances, or None for an image that could not be read."""
        bbox, segm = ([], []) if found is None else self._format(image_id, found)
        self._write(f"{place}\t{_compact(bbox)}\t{_compact(segm)}")

    def part(self):
        """What other processes must be sent: nothing, as the journals lie in one folder."""

    def merge(self, parts):
        """Called when every process is done; the journals are read together from here on."""

    def __enter__(self):
        return self

    def __exit__(self, *error):
        """Close the files; what is in them stays, so that the run can go on."""
        self._file.close()
        for reader in () if self._lines is None else self._lines[0]:
            reader.close()
        self._lines = None

    def remove(self):
        """The run is over: remove the journals of all processes."""
        self.__exit__()
        _clear(self.folder)

    def _write(self, line):
        self._file.write(line.encode() + b"\n")
        self._file.flush()  # to the system, so that a killed process loses nothing

    # --- reading back ---

    def texts(self, place):
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

    def of_place(self, place):
        """(bbox, segm) of an image: lists of COCO results."""
        return tuple(json.loads(text) for text in self.texts(place))

    def lists(self):
        """As CocoResults.lists, in memory: COCOeval needs them all."""
        parts = zip(*map(self.of_place, range(self.count)))
        kinds = ("bbox", "segm") if self.has_masks else ("bbox",)
        return {kind: list(itertools.chain(*part)) for kind, part in zip(kinds, parts)}

    def write(self, bbox_file, mask_file=None):
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
        """(open files, file of every place, offset in it): 9 bytes an image."""
        if self._lines is None:
            readers = []
            which, offsets = array.array("b", [-1]) * self.count, array.array("q", [0]) * self.count
            for number, path in enumerate(journals(self.folder)):
                readers.append(open(path, "rb"))  # noqa: SIM115 (until remove)
                for place, offset in _whole_lines(path):
                    which[place], offsets[place] = number, offset
            self._lines = readers, which, offsets
        return self._lines


def journals(folder):
    """Paths of the journals in a folder."""
    return sorted(glob.glob(os.path.join(glob.escape(folder), NAME + ".*")))


def _clear(folder):
    for path in journals(folder):
        os.remove(path)


def run_of(path, config, images, options):
    """What decides the results of a run, for ResultJournal.

    Args:
        path: file of the weights. config: dict. images: list of what tells the images, in order. options: dict of str
            -> plain values.
    """
    with open(path, "rb") as file:
        told = {"weights": file.read(), "config": json.dumps(config).encode(), "images": json.dumps(images).encode()}
    return {**{name: hashlib.sha256(content).hexdigest()[:16] for name, content in told.items()}, **options}


def open_journal(folder, run, count, coco_format, has_masks, resume):
    """A ResultJournal for each of the ranks, begun anew unless `resume`; arguments as there."""
    interrupted = bool(journals(folder))
    ranks.gathered(None)  # nobody makes a file before all have looked
    if ranks.rank() == 0:
        if interrupted and not resume:
            logging.warning("%s holds an interrupted run, which --resume would have continued; it begins anew", folder)
            _clear(folder)
        if resume and not interrupted:
            logging.warning("--resume: there is no interrupted run in %s; starting with the first image", folder)
    ranks.gathered(None)
    return ResultJournal(folder, run, count, coco_format, has_masks, ranks.rank(), resume)


def _compact(results):
    return json.dumps(results, separators=(",", ":"))


def _whole_lines(path, run=None):
    """(place, offset) of every image in a journal; `run` is compared with its first line."""
    with open(path, "rb") as file:
        head = file.readline()
        if run is not None and head.endswith(b"\n"):
            _compare(json.loads(head), run, path)
        offset = len(head)
        for line in file:
            if line.endswith(b"\n"):  # else the process was killed while it wrote
                yield int(line[:line.index(b"\t")]), offset
            offset += len(line)


def _compare(theirs, ours, path):
    different = [key for key in ours if theirs.get(key) != json.loads(json.dumps(ours[key]))]
    if different:
        told = ", ".join(f"{key}={theirs.get(key)} (now {ours[key]})" for key in different)
        raise UserError(f"--resume: the interrupted run in {path} had {told}; give the same options, or leave --resume "
                        "out to begin anew")


def _cut_torn_line(path):
    if not os.path.exists(path):
        return
    with open(path, "rb+") as file:
        whole = 0
        for line in file:
            whole += len(line) if line.endswith(b"\n") else 0
        file.truncate(whole)


def split_name(info_file):
    """Which part of COCO a file of annotations is of, as its server names it: test-dev2017 unless the name tells."""
    found = re.search(r"(test-dev|test|val|train)(2014|2015|2017)", os.path.basename(info_file))
    return found[0] if found else "test-dev2017"


def write_zip(folder, mask_file, split, name):
    """The archive that COCO's test server takes, with the names that it asks for, around a result file.

    Args:
        folder: where it goes. mask_file: the results. split: as of `split_name`. name: of the algorithm.

    Returns: its path.
    """
    stem = f"detections_{split}_{re.sub(r'[^A-Za-z0-9.-]+', '-', name)}_results"
    path = os.path.join(folder, stem + ".zip")
    entry = zipfile.ZipInfo(stem + ".json")  # without the time, so that equal results make equal files
    entry.compress_type = zipfile.ZIP_DEFLATED
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive, open(mask_file, "rb") as source, \
            archive.open(entry, "w", force_zip64=True) as target:
        shutil.copyfileobj(source, target)
    return path


def write_web_json(path, journal, image_ids, names, config):
    """What the original's web viewer reads: {"info": ..., "images": [{"image_id", "dets": [...]}]}, by image id.

    Args:
        path: the file. journal: ResultJournal. image_ids: in the order of evaluation. names: {category id: class name}.
        config: dict that goes into the info.
    """
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(f'{{"info":{_compact({"Config": config})},"images":[')
        for number, (image_id, place) in enumerate(sorted(zip(image_ids, range(len(image_ids))))):
            bbox, segm = journal.of_place(place)
            found = [{"score": box["score"], "bbox": box["bbox"], "category": names[box["category_id"]],
                      **({"mask": segm[index]["segmentation"]} if segm else {})} for index, box in enumerate(bbox)]
            file.write("," * (number > 0) + _compact({"image_id": image_id, "dets": found}))
        file.write("]}")
