"""Batches of training samples, in an order and with random draws that depend on (seed, epoch, index) only.

Nothing here keeps a random state between samples, so any number of workers gives the same batches, and a
training resumed in the middle of an epoch sees exactly what it would have seen.

The workers are a process pool of the standard library rather than ``paddle.io.DataLoader``: an error in the
data set hangs the latter without workers and hides its traceback with them, and a worker killed for lack of
memory must be told, not waited for. A pool also serves many short epochs without a new fork for each.
"""
from __future__ import annotations

import collections
import concurrent.futures
import itertools
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Callable, NamedTuple, Protocol

import cv2
import numpy as np

from utils.runtime import UserError

BATCHES_AHEAD_PER_WORKER = 2
PARENT_CHECK_SECONDS = 2.0
_ORDER, _SAMPLE = 0, 1  # what a random stream is for, so that no two streams share a seed


class LoaderError(UserError):
    """A sample could not be made; unless that was to be expected, the message holds the whole traceback."""


def _random_state(*numbers: int) -> np.random.RandomState:
    return np.random.RandomState(np.random.SeedSequence(numbers).generate_state(8))


def epoch_permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    """Order of the n samples in an epoch, int64 [n]: the same for the same (n, seed, epoch)."""
    return _random_state(_ORDER, seed, epoch).permutation(n)


def sample_random_state(seed: int, epoch: int, index: int) -> np.random.RandomState:
    """RandomState for the augmentation of one sample in one epoch."""
    return _random_state(_SAMPLE, seed, epoch, index)


def batches_per_epoch(n: int, batch_size: int) -> int:
    """Number of whole batches in an epoch; the last partial one is dropped, as the original counts epochs.

    Raises:
        UserError: when there are fewer images than one batch holds.
    """
    if batch_size < 1:
        raise UserError(f"--batch_size is {batch_size}; it must be at least 1")
    if n < batch_size:
        raise UserError(f"--batch_size is {batch_size} but the training set has {n} images with objects; "
                        "lower --batch_size or check dataset.train_info")
    return n // batch_size


def _plan(n: int, batch_size: int, seed: int, epoch: int, start_batch: int, rank: int, ranks: int
          ) -> Iterator[tuple[int, int, list[int]]]:
    """Yield (epoch, position in the epoch, indices of a rank's share) of every batch from the given one on, forever."""
    count = batches_per_epoch(n, batch_size)
    while True:
        order = epoch_permutation(n, seed, epoch)
        for position in range(start_batch, count):
            yield epoch, position, order[position * batch_size + rank:(position + 1) * batch_size:ranks].tolist()
        epoch, start_batch = epoch + 1, 0


class Dataset(Protocol):
    """What a data set has to have; ``ids``, the image of each index, is used in messages if it is there."""

    def __len__(self) -> int: ...

    def sample(self, index: int, rng: np.random.RandomState) -> Any:
        """Make a sample; all random numbers come from ``rng``."""


class _Job(NamedTuple):
    """How batches are made, as `BatchLoader` is told."""

    dataset: Dataset
    collate: Callable[[list[Any]], Any]
    seed: int
    expected: tuple[type[Exception], ...]


def _make_batch(job: _Job, epoch: int, indices: Sequence[int]) -> Any:
    """Samples of the indices, collated. Raises LoaderError, for an unexpected error with its traceback."""
    samples = []
    for index in indices:
        try:
            samples.append(job.dataset.sample(index, sample_random_state(job.seed, epoch, index)))
        except job.expected as error:
            raise LoaderError(str(error)) from error
        except Exception as error:  # whatever the data set raises is told with the image it concerns
            ids = getattr(job.dataset, "ids", None)
            name = f"image {ids[index]}" if ids is not None else "sample"
            raise LoaderError(f"{name} (index {index}, epoch {epoch}) could not be prepared: {error}\n"
                              f"{traceback.format_exc()}") from error
    return job.collate(samples)


_worker_job: _Job  # of a worker process; inherited by fork, not pickled


def _start_worker(job: _Job, parent: int) -> None:
    """Prepare a worker: Ctrl-C and SIGTERM are the parent's affair, OpenCV has one thread, it ends with the parent."""
    global _worker_job
    _worker_job = job
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    cv2.setNumThreads(0)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_CHECK_SECONDS)
        os._exit(1)  # the parent was killed; waiting for its queue would last for ever

    threading.Thread(target=watch, daemon=True).start()


def _work(epoch: int, indices: Sequence[int]) -> tuple[Any, str | None]:
    """A batch, or the LoaderError's text: not every exception survives the way between processes."""
    try:
        return _make_batch(_worker_job, epoch, indices), None
    except LoaderError as error:
        return None, str(error)
    except Exception:
        return None, f"the batch of indices {indices} could not be collated:\n{traceback.format_exc()}"


class BatchLoader:
    """Batches of a data set, made in this process or by workers that stay for the whole training.

    Args:
        dataset: see `Dataset`. collate: list of samples -> batch.
        batch_size: samples per batch.
        seed: of the order and of every augmentation, >= 0.
        num_workers: worker processes; 0 makes the batches here. At most
            ``BATCHES_AHEAD_PER_WORKER * num_workers`` batches are held ready.
        expected: types of exceptions of the data set whose message is all that a user needs; others are
            told with their traceback.
        rank, ranks: of `ranks` processes that share every batch, this one makes the share number `rank`: of the
            batch's samples the one at `rank` and every `ranks`-th after it.

    Attributes:
        batches_per_epoch: whole batches of all ranks together.

    Raises:
        UserError: when the data set is smaller than one batch, or a batch has fewer samples than there are ranks.
    """

    def __init__(self, dataset: Dataset, collate: Callable[[list[Any]], Any], batch_size: int, seed: int = 0,
                 num_workers: int = 0, expected: tuple[type[Exception], ...] = (), rank: int = 0, ranks: int = 1
                 ) -> None:
        self.batches_per_epoch = batches_per_epoch(len(dataset), batch_size)
        if batch_size < ranks:
            raise UserError(f"--batch_size is {batch_size}, for all of the {ranks} processes together; make it {ranks} "
                            "or more, or start fewer processes")
        self._share = (rank, ranks)
        self._job = _Job(dataset, collate, seed, expected)
        self._batch_size = batch_size
        self._num_workers = num_workers
        self._pool: concurrent.futures.ProcessPoolExecutor | None = None

    def stream(self, epoch: int = 0, start_batch: int = 0) -> Iterator[tuple[int, int, Any]]:
        """Yield (epoch, position in it, batch) from a place on, epoch after epoch, without end.

        Args:
            epoch: from 0. start_batch: below ``batches_per_epoch``.

        Raises:
            LoaderError: with the image and the traceback, when a sample fails or a worker dies.
        """
        plan = _plan(len(self._job.dataset), self._batch_size, self._job.seed, epoch, start_batch, *self._share)
        if self._num_workers < 1:
            for epoch, position, indices in plan:
                yield epoch, position, _make_batch(self._job, epoch, indices)
        else:
            yield from self._stream_from_workers(plan)

    def _stream_from_workers(self, plan: Iterator[tuple[int, int, list[int]]]) -> Iterator[tuple[int, int, Any]]:
        if self._pool is None:
            self._pool = self._start_pool()
        pending: collections.deque[tuple[int, int, list[int], concurrent.futures.Future[Any]]] = collections.deque()
        workers: list[multiprocessing.process.BaseProcess] = []
        try:
            while True:
                room = BATCHES_AHEAD_PER_WORKER * self._num_workers - len(pending)
                for epoch, position, indices in itertools.islice(plan, room):
                    pending.append((epoch, position, indices, self._pool.submit(_work, epoch, indices)))
                workers = list((self._pool._processes or {}).values())  # gone from there once the pool is broken
                epoch, position, _, future = pending[0]
                batch, problem = future.result()
                pending.popleft()
                if problem is not None:
                    raise LoaderError(problem)
                yield epoch, position, batch
        except BrokenProcessPool as error:
            for process in workers:  # they ignore the pool's SIGTERM
                process.kill()
            self._pool = None
            at_work = [index for _, _, indices, _ in itertools.islice(pending, self._num_workers) for index in indices]
            ids = getattr(self._job.dataset, "ids", None)
            raise LoaderError("a data worker died, most likely killed for lack of memory, with the images "
                              f"{at_work if ids is None else [ids[index] for index in at_work]}; lower --num_workers "
                              "or --batch_size, or look at them") from error
        finally:
            for *_, future in pending:
                future.cancel()

    def _start_pool(self) -> concurrent.futures.ProcessPoolExecutor:
        # Forked workers share the annotations in memory and start at once; elsewhere they get a copy.
        methods = multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("fork" if "fork" in methods else "spawn")
        return concurrent.futures.ProcessPoolExecutor(
            self._num_workers, mp_context=context, initializer=_start_worker,
            initargs=(self._job, os.getpid()))

    def close(self) -> None:
        """Stop the workers; the loader can be used again afterwards."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def __enter__(self) -> BatchLoader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
