"""The files of checkpoints in a folder: how they are called, which there are, which may go.

A checkpoint is three files of one stem, ``<config>_<epoch>_<iteration>`` (``..._interrupt`` after Ctrl-C):
``.pdparams`` (weights), ``.pdopt`` (optimizer slots) and ``.json`` (config, progress). The ``.pdparams``
appears last: where it is, the other two are complete.
"""
from __future__ import annotations

import os
import re
import shutil
from typing import NamedTuple

from utils.files import remove_files
from utils.runtime import UserError

SUFFIXES = (".json", ".pdopt", ".pdparams")  # in the order in which they appear
# Behind the name of weights, what utils/networks.py keeps beside them, for networks with and without a mask branch.
ENGINE_FOLDERS = {True: ".engine", False: ".boxes.engine"}
_NAME = re.compile(r"(?P<config>.+)_(?P<epoch>\d+)_(?P<iteration>\d+)(?P<interrupt>_interrupt)?")


class CheckpointError(UserError):
    """A checkpoint that is missing, incomplete or of another training."""


class Name(NamedTuple):
    """What a checkpoint's file name says; ``str()`` gives the name without folder and suffix."""

    config: str
    epoch: int
    iteration: int
    interrupt: bool = False

    def __str__(self) -> str:
        return f"{self.config}_{self.epoch}_{self.iteration}{'_interrupt' if self.interrupt else ''}"


def parse_name(path: str) -> Name | None:
    """Name of a weights file called ``<config>_<epoch>_<iteration>[_interrupt].<suffix>``, or None."""
    match = _NAME.fullmatch(os.path.splitext(os.path.basename(path))[0])
    if match is None:
        return None
    return Name(match["config"], int(match["epoch"]), int(match["iteration"]), bool(match["interrupt"]))


def name_of_config(path: str) -> str:
    """The config that a weights file is named after: yolact_base of yolact_base_54_800000.npz or yolact_base.npz."""
    name = parse_name(path)
    return name.config if name else os.path.splitext(os.path.basename(path))[0]


def list_checkpoints(folder: str, config_name: str, which: str = "latest") -> list[tuple[Name, str]]:
    """(Name, path of the .pdparams) of a config's checkpoints, oldest iteration first.

    Weights without optimizer state, such as converted ones, are no checkpoint.

    Args:
        folder: ``--save_folder``; it may be missing. config_name: the config's ``name``.
        which: 'latest' (any kind) or 'interrupt' (only those saved by Ctrl-C), as on the command line.
    """
    found = []
    for file in os.listdir(folder) if os.path.isdir(folder) else []:
        name = parse_name(file) if file.endswith(".pdparams") else None
        path = os.path.join(folder, file)
        if (name is not None and name.config == config_name and (which == "latest" or name.interrupt)
                and os.path.exists(os.path.splitext(path)[0] + ".pdopt")):
            found.append((name, path))
    return sorted(found, key=lambda item: (item[0].iteration, item[0].interrupt))


def find(folder: str, which: str, config_name: str) -> str:
    """Path of the newest checkpoint of a config; arguments as for ``list_checkpoints``.

    Raises:
        CheckpointError: when there is none.
    """
    found = list_checkpoints(folder, config_name, which)
    if not found:
        kind = "checkpoint" if which == "latest" else "interrupted checkpoint"
        raise CheckpointError(f"{which!r}: there is no {kind} of {config_name} in {folder}; "
                              "check --save_folder and --config, or give the file's path")
    return found[-1][1]


def remove(path: str) -> None:
    """Delete the three files of a checkpoint, the .pdparams first, and what engines ran in place of it."""
    stem = os.path.splitext(path)[0]
    remove_files(stem + suffix for suffix in reversed(SUFFIXES))
    for suffix in ENGINE_FOLDERS.values():
        shutil.rmtree(stem + ".pdparams" + suffix, ignore_errors=True)


def prune(previous: str | None, current: str, keep_interval: int) -> None:
    """``--keep_latest``: delete the previous checkpoint once the current one is saved.

    Args:
        previous: path of the latest checkpoint before saving, or None.
        current: path just saved; never deleted.
        keep_interval: checkpoints at multiples of this iteration stay (``--keep_latest_interval``); <= 0
            keeps none.
    """
    name = parse_name(previous) if previous is not None else None
    if previous is None or name is None or os.path.abspath(previous) == os.path.abspath(current):
        return
    if keep_interval <= 0 or name.iteration == 0 or name.iteration % keep_interval:
        remove(previous)


def remove_interrupts(folder: str, config_name: str, keep: str) -> None:
    """Delete a config's ``_interrupt`` checkpoints but the path ``keep``: after Ctrl-C only the newest is of use."""
    for _, path in list_checkpoints(folder, config_name, "interrupt"):
        if os.path.abspath(path) != os.path.abspath(keep):
            remove(path)


def remove_leftovers(folder: str, config_name: str) -> None:
    """Delete what a killed save of this config left behind: ``.tmp`` files, and optimizer slots without .pdparams."""
    for file in os.listdir(folder) if os.path.isdir(folder) else []:
        stem, suffix = os.path.splitext(file[:-4] if file.endswith(".tmp") else file)
        name = parse_name(stem + suffix) if suffix in SUFFIXES else None
        if name is None or name.config != config_name:
            continue
        whole = os.path.exists(os.path.join(folder, stem + ".pdparams"))
        if file.endswith(".tmp") or (suffix == ".pdopt" and not whole):
            remove_files([os.path.join(folder, file)])
