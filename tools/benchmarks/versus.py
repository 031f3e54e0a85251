"""tools/benchmark.py --versus: another implementation's command beside eval.py, timed in turn on the same pictures.

Starting up and loading a network is none of a picture's time: that is the slope between one picture and many.
"""
from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from utils.runtime import UserError

IMAGES, OUT = "{images}", "{out}"
REPEATS = 3
THEIRS = "--versus"
EVAL = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "eval.py")


def split_command(text: str) -> list[str]:
    """The words of --versus.

    Raises:
        UserError: it names no place for the pictures, or its quotes do not match.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UserError(f"--versus {text!r} cannot be read ({error}); correct its quotes") from None
    if not any(IMAGES in word for word in words):
        raise UserError(f"--versus {text!r} says nowhere which pictures; write {IMAGES} for their folder and {OUT} "
                        "for an empty one that takes results")
    return words


def eval_command(weights: str, engine: Sequence[str], options: Sequence[str]) -> list[str]:
    """The words that detect with eval.py. engine: backend and precision. options: more of its command line."""
    backend, precision = engine
    return [sys.executable, EVAL, f"--trained_model={weights}", f"--images={IMAGES}:{OUT}", "--no_bar",
            f"--backend={backend}", f"--precision={precision}", *options]


def time_command(words: Sequence[str], images: str, environment: Mapping[str, str]) -> float:
    """Seconds of a command from its start to its end.

    Args:
        words: with IMAGES and OUT in them. images: folder of pictures. environment: of the process.

    Raises:
        UserError: it cannot be started or fails; the last line that it wrote to stderr tells why.
    """
    with tempfile.TemporaryDirectory() as out:
        command = [word.replace(IMAGES, images).replace(OUT, out) for word in words]
        start = time.perf_counter()
        try:
            done = subprocess.run(command, env=dict(environment), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                  text=True, errors="replace", check=False)
        except OSError as error:
            raise UserError(f"{words[0]} cannot be started ({error.strerror}); correct --versus") from error
        seconds = time.perf_counter() - start
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise UserError(f"{shlex.join(words)} ended with exit code {done.returncode}: "
                        f"{lines[-1] if lines else 'it wrote nothing to stderr'}")
    return seconds


def copy_pictures(paths: Sequence[str], folder: str) -> str:
    """Copy pictures into a new folder, numbered in their order; returns it."""
    os.makedirs(folder)
    for number, path in enumerate(paths):
        shutil.copyfile(path, os.path.join(folder, f"{number:06d}{os.path.splitext(path)[1]}"))
    return folder


def measure_versus(commands: Mapping[str, Sequence[str]], paths: Sequence[str],
                   environment: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Milliseconds that each of several commands takes for a picture.

    Args:
        commands: {name: words}, THEIRS among them. paths: of pictures, two or more.

    Returns: {name: {"command", "ms_per_picture", "slopes": of every repetition, "of_theirs": ms / those of THEIRS, or
        None if one of them is not above 0}}.

    Raises:
        UserError: a command fails.
    """
    slopes: dict[str, list[float]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as folder:
        one, many = (copy_pictures(some, os.path.join(folder, name)) for some, name in
                     ((paths[:1], "one"), (paths, "many")))
        with tqdm(total=REPEATS * len(commands), desc="Commands", unit="command", disable=None) as progress:
            for _ in range(REPEATS):
                for name, words in commands.items():
                    few, all_of_them = (time_command(words, images, environment) for images in (one, many))
                    slopes[name].append(1e3 * (all_of_them - few) / (len(paths) - 1))
                    progress.update()
    middle = {name: float(np.median(found)) for name, found in slopes.items()}
    return {name: {"command": shlex.join(words), "ms_per_picture": middle[name], "slopes": slopes[name],
                   "of_theirs": middle[name] / middle[THEIRS] if min(middle[name], middle[THEIRS]) > 0 else None}
            for name, words in commands.items()}


def try_command(words: list[str], paths: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """Run a command on the first picture, so that a mistake in it shows before all else is measured; returns `words`.

    Raises:
        UserError: it fails, or there are too few pictures.
    """
    if len(paths) < 2:
        raise UserError("--versus needs at least 2 pictures, as a picture's time is told from their number")
    with tempfile.TemporaryDirectory() as folder:
        time_command(words, copy_pictures(paths[:1], os.path.join(folder, "one")), environment)
    return words
