"""Files that are there whole or not at all. Needs no deep-learning framework."""
from __future__ import annotations

import contextlib
import os


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
