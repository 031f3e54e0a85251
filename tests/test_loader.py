"""Batches: order, randomness, workers, errors."""
import dataclasses
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from utils.loader import (
    BatchLoader,
    LoaderError,
    batches_per_epoch,
    epoch_permutation,
    sample_random_state,
)

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@dataclasses.dataclass
class Batch:
    images: np.ndarray
    indices: list
    empty: np.ndarray


class Numbers:
    """A data set whose samples hold their index and three random numbers."""

    def __init__(self, n=10, broken=None, deadly=None):
        self.n, self.broken, self.deadly = n, broken, deadly
        self.ids = [1000 + i for i in range(n)]

    def __len__(self):
        return self.n

    def sample(self, index, rng):
        if index == self.broken:
            raise KeyError("no such category")
        if index == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return index, rng.uniform(size=3)


def collate(samples):
    return Batch(np.stack([draws for _, draws in samples]).astype(np.float32), [i for i, _ in samples],
                 np.zeros((0, 5), np.float32))


def _batches(dataset=None, batch_size=3, seed=1, epoch=0, start_batch=0, num_workers=0, collate=collate):
    """The batches of one epoch from `start_batch` on."""
    with BatchLoader(dataset or Numbers(), collate, batch_size, seed, num_workers) as loader:
        left = loader.batches_per_epoch - start_batch
        stream = loader.stream(epoch, start_batch)
        return [batch for _, _, batch in itertools.islice(stream, max(0, left))]


def _same(first, second):
    return len(first) == len(second) and all(
        a.indices == b.indices and np.array_equal(a.images, b.images) for a, b in zip(first, second))


def test_permutation_depends_on_seed_and_epoch_only():
    first = epoch_permutation(50, seed=3, epoch=2)
    np.random.rand()
    assert np.array_equal(first, epoch_permutation(50, seed=3, epoch=2))
    assert sorted(first) == list(range(50))
    assert not np.array_equal(first, epoch_permutation(50, seed=3, epoch=3))
    assert not np.array_equal(first, epoch_permutation(50, seed=4, epoch=2))


def test_order_is_the_same_on_every_numpy():
    assert epoch_permutation(8, seed=0, epoch=0).tolist() == [3, 4, 6, 0, 1, 2, 7, 5]
    assert sample_random_state(1, 2, 3).randint(0, 1000, 4).tolist() == [32, 395, 776, 279]


def test_epoch_covers_whole_batches_and_drops_the_rest():
    batches = _batches()
    assert [len(batch.indices) for batch in batches] == [3, 3, 3]
    seen = sum((batch.indices for batch in batches), [])
    assert len(set(seen)) == 9 and batches_per_epoch(10, 3) == 3
    assert isinstance(batches[0].images, np.ndarray) and batches[0].empty.shape == (0, 5)


def test_draws_differ_between_epochs_samples_and_seeds():
    draws = {}
    for seed in (1, 2):
        for epoch in (0, 1):
            for batch in _batches(seed=seed, epoch=epoch):
                for index, row in zip(batch.indices, batch.images):
                    draws[seed, epoch, index] = tuple(row)
    assert len(set(draws.values())) == len(draws)


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_nothing(workers):
    assert _same(_batches(num_workers=workers), _batches())


@pytest.mark.parametrize("workers", [0, 2])
def test_start_in_the_middle_continues_exactly(workers):
    whole = _batches(epoch=4)
    assert _same(_batches(epoch=4, start_batch=1, num_workers=workers), whole[1:])
    assert _batches(epoch=4, start_batch=3, num_workers=workers) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_stream_goes_on_over_epochs(workers):
    with BatchLoader(Numbers(), collate, 3, seed=1, num_workers=workers) as loader:
        stream = loader.stream(epoch=0, start_batch=2)
        taken = [next(stream) for _ in range(4)]
    assert [(epoch, position) for epoch, position, _ in taken] == [(0, 2), (1, 0), (1, 1), (1, 2)]
    assert _same([batch for _, _, batch in taken], _batches()[2:] + _batches(epoch=1))


def test_loader_can_be_used_twice_and_leaves_no_process():
    with BatchLoader(Numbers(), collate, 3, seed=1, num_workers=2) as loader:
        first = [next(loader.stream()) for _ in range(2)]
        assert multiprocessing.active_children()
    assert not multiprocessing.active_children()
    assert _same([first[0][2]], [first[1][2]])


class Counting(Numbers):
    """Counts the samples made in a file, one byte each."""

    def __init__(self, path):
        super().__init__(100)
        self.path = path

    def sample(self, index, rng):
        with open(self.path, "ab") as file:
            file.write(b".")
        return super().sample(index, rng)


def test_prefetch_is_bounded(tmp_path):
    path = tmp_path / "count"
    with BatchLoader(Counting(str(path)), collate, 5, num_workers=1) as loader:
        stream = loader.stream()
        for _ in range(6):
            next(stream)
        time.sleep(0.3)
        assert 30 <= path.stat().st_size <= 35  # those taken, and one more batch


@pytest.mark.parametrize("workers", [0, 2])
def test_error_names_the_image_and_keeps_the_traceback(workers):
    with pytest.raises(LoaderError) as caught:
        _batches(dataset=Numbers(broken=4), num_workers=workers, batch_size=10)
    message = str(caught.value)
    assert "image 1004 (index 4, epoch 0)" in message
    assert "no such category" in message and "in sample" in message


@pytest.mark.parametrize("workers", [0, 2])
def test_expected_error_is_told_in_its_own_words(workers):
    loader = BatchLoader(Numbers(broken=4), collate, 10, num_workers=workers, expected=(KeyError,))
    with loader, pytest.raises(LoaderError) as caught:
        next(loader.stream())
    assert str(caught.value) == "'no such category'"


def _bad_collate(samples):
    raise ValueError("ragged")


def test_error_in_collate_comes_through():
    with pytest.raises(LoaderError, match="(?s)could not be collated.*ragged"):
        _batches(collate=_bad_collate, num_workers=1)
    with pytest.raises(ValueError, match="ragged"):
        _batches(collate=_bad_collate)


def test_killed_worker_is_told_and_the_loader_recovers():
    with BatchLoader(Numbers(deadly=4), collate, 10, num_workers=2) as loader:
        with pytest.raises(LoaderError, match=r"with the images \[.*4.*\]; lower --num_workers"):
            next(loader.stream())
        loader._job[0].deadly = None
        assert len(next(loader.stream())[2].indices) == 10


def test_batch_larger_than_the_data_set():
    with pytest.raises(ValueError, match="--batch_size is 11 but the training set has 10"):
        _batches(batch_size=11)
    with pytest.raises(ValueError, match="dataset.train_info"):
        BatchLoader(Numbers(0), collate, 1)
    with pytest.raises(ValueError, match="at least 1"):
        _batches(batch_size=0)


ORPHANS = """
import multiprocessing, os, signal
from tests.test_loader import Numbers, collate
from utils.loader import BatchLoader
stream = BatchLoader(Numbers(), collate, 3, num_workers=2).stream()
next(stream)
print(*[child.pid for child in multiprocessing.active_children()], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def _alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks into /proc")
def test_workers_end_when_the_training_is_killed():
    result = subprocess.run([sys.executable, "-c", ORPHANS], stdout=subprocess.PIPE,
                            stderr=subprocess.DEVNULL, text=True, cwd=ROOT, timeout=60)
    workers = [int(word) for word in result.stdout.split()]
    assert len(workers) == 2
    deadline = time.time() + 10
    while any(_alive(pid) for pid in workers) and time.time() < deadline:
        time.sleep(0.2)
    assert not [pid for pid in workers if _alive(pid)]


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_ranks_share_every_batch(ranks):
    [whole] = _batches(batch_size=7, seed=5)
    shares = []
    for rank in range(ranks):
        with BatchLoader(Numbers(), collate, 7, seed=5, rank=rank, ranks=ranks) as loader:
            assert loader.batches_per_epoch == 1
            shares.append(next(loader.stream())[2].indices)
    assert [shares[place % ranks][place // ranks] for place in range(7)] == whole.indices
    assert sum(map(len, shares)) == 7


def test_fewer_samples_than_ranks_are_refused():
    with pytest.raises(ValueError, match="--batch_size is 3.*4 processes together; make it 4"):
        BatchLoader(Numbers(), collate, 3, rank=0, ranks=4)
