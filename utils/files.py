"""Files that are there whole or not at all. Needs no deep-learning framework."""
from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from typing import Any


def sync_to_disk(path: str) -> None:
    """fsync a file or folder that has been written and closed."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_files(paths: Iterable[str]) -> None:
    """Delete files, those of them that are there."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)


def _remove_leftovers(folder: str, start: str) -> None:
    """Remove the files and folders ``<start><pid>.tmp`` of processes that are not alive any more."""
    if os.name == "nt":
        return  # os.kill would end the process there
    for name in _temporary_names(folder):
        pid = name[len(start):-len(".tmp")]
        if name.startswith(start) and pid.isdecimal() and not _is_alive(int(pid)):
            leftover = os.path.join(folder, name)
            with contextlib.suppress(OSError):  # another process was faster, or it is another user's
                shutil.rmtree(leftover) if os.path.isdir(leftover) else os.remove(leftover)


@functools.cache
def _temporary_names(folder: str) -> tuple[str, ...]:
    """The .tmp names in a folder when this process first wrote there.

    Looked up once: thousands of pictures go into one folder, and each look takes as long as there are files.
    """
    return tuple(name for name in os.listdir(folder) if name.endswith(".tmp"))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # another user's; no process id at all
        return True
    return True


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[str]:
    """Give a temporary path beside ``path`` to write to; it replaces ``path`` at the end or vanishes.

    Whatever happens in between (error, Ctrl-C), ``path`` holds either its old content or the whole new one.
    The folder is made if it is missing; what killed processes left of their attempts at ``path`` is removed.
    """
    folder, name = os.path.split(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    _remove_leftovers(folder, f"{name}.")
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        yield temporary
        sync_to_disk(temporary)
        os.replace(temporary, path)
        sync_to_disk(folder)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def write_json(path: str | os.PathLike[str], data: Any, indent: int | None = None) -> None:
    """Write JSON so that ``path`` holds either the old file or the whole new one; folders are made."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        json.dump(data, file, indent=indent, separators=(",", ":") if indent is None else None)
        file.write("\n" if indent else "")


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[str]:
    """Give a new folder beside ``path`` to fill; it takes the place of ``path`` at the end or vanishes.

    Whatever happens in between, ``path`` holds either its old content or the whole new one. What killed processes
    left of their attempts at ``path`` is removed.

    Raises:
        FileNotFoundError: ``path`` is empty, as of an unset variable in a shell; it would be the working folder.
    """
    if not os.fspath(path):
        raise FileNotFoundError("the folder to write has an empty name; give it one")
    path = os.path.realpath(path)  # a linked folder is replaced where it lies, the link stays
    parent, name = os.path.split(path)
    temporary, old = (os.path.join(parent, f".{name}.{os.getpid()}.{kind}") for kind in ("tmp", "old"))
    shutil.rmtree(temporary, ignore_errors=True)  # of a killed one with the same id, as is common in containers
    os.makedirs(temporary)
    _remove_leftovers(parent, f".{name}.")
    try:
        yield temporary
        if os.path.lexists(path):
            os.rename(path, old)
        os.rename(temporary, path)
    finally:
        if os.path.lexists(old) and not os.path.lexists(path):
            os.rename(old, path)
        for folder in (temporary, old):
            shutil.rmtree(folder, ignore_errors=True)
