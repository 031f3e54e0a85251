"""Files that are there whole or not at all. Needs no deep-learning framework."""
from __future__ import annotations

import contextlib
import os
import shutil


def sync_to_disk(path):
    """fsync a file or folder that has been written and closed."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def atomic_path(path):
    """Give a temporary path beside ``path`` to write to; it replaces ``path`` at the end or vanishes.

    Whatever happens in between (error, Ctrl-C), ``path`` holds either its old content or the whole new one.
    The folder is made if it is missing.
    """
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        yield temporary
        sync_to_disk(temporary)
        os.replace(temporary, path)
        sync_to_disk(folder)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


@contextlib.contextmanager
def atomic_folder(path):
    """Give a new folder beside ``path`` to fill; it takes the place of ``path`` at the end or vanishes.

    Whatever happens in between, ``path`` holds either its old content or the whole new one.
    """
    path = os.path.realpath(path)  # a linked folder is replaced where it lies, the link stays
    parent, name = os.path.split(path)
    temporary, old = (os.path.join(parent, f".{name}.{os.getpid()}.{kind}") for kind in ("tmp", "old"))
    os.makedirs(temporary)
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
