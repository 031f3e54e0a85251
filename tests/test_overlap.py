"""Threads beside the main one: order, bounds, errors at their place, and a clean end."""

import contextlib
import threading
import time

import pytest

from utils import overlap
from utils.overlap import Behind, ahead


class Broken(Exception):
    pass


def wait_until(condition, seconds=5):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.001)
    assert condition()


def settled(values, pause=0.1):
    """Length of a list once it has not grown for a while."""
    length = -1
    while length != len(values):
        length = len(values)
        time.sleep(pause)
    return length


def recorded(made, count=100, broken_at=None):
    """A generator that notes what it yields, and its end."""
    try:
        for number in range(count):
            if number == broken_at:
                raise Broken
            made.append(number)
            yield number
    finally:
        made.append("closed")


def test_ahead_gives_everything_in_order_from_another_thread():
    threads = set()

    def items():
        for number in range(50):
            threads.add(threading.get_ident())
            yield number

    assert list(ahead(items())) == list(range(50))
    assert list(ahead([])) == [] and list(ahead([None, 0, False])) == [None, 0, False]
    assert len(threads) == 1 and threading.get_ident() not in threads


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_ahead_keeps_to_its_depth(depth):
    made = []
    items = ahead(recorded(made), depth)
    assert made == []
    for taken in range(1, 4):
        next(items)
        assert settled(made) == taken + depth
    items.close()


def test_ahead_raises_the_error_of_the_source_at_its_place():
    taken = []
    with pytest.raises(Broken):
        for number in ahead(recorded([], broken_at=3), depth=2):
            time.sleep(0.02)  # the error is there long before its turn
            taken.append(number)
    assert taken == [0, 1, 2]


def test_ahead_stops_when_it_is_closed():
    made, threads = [], threading.active_count()
    items = ahead(recorded(made), depth=3)
    next(items)
    items.close()
    assert made[-1] == "closed" and len(made) <= 5
    assert threading.active_count() == threads


def test_ahead_finishes_the_item_in_the_making_and_takes_no_more(monkeypatch):
    made, begun, go_on = [], threading.Event(), threading.Event()

    class Thread(overlap.ThreadPoolExecutor):
        def shutdown(self, **options):
            threading.Timer(0.2, go_on.set).start()  # when what waits has been cancelled
            super().shutdown(**options)

    def source():
        yield 0
        for number in range(1, 5):
            begun.set()
            go_on.wait(20)
            made.append(number)
            yield number

    monkeypatch.setattr(overlap, "ThreadPoolExecutor", Thread)
    items = ahead(source(), depth=3)
    next(items)
    begun.wait(20)
    items.close()
    assert made == [1]


@pytest.mark.parametrize("fails", [False, True])
def test_ahead_closes_its_source_although_others_hold_it(fails):
    """When it is closed early itself and not just forgotten, also by an error of whoever takes the items."""
    made = []
    source = recorded(made)
    with pytest.raises(Broken) if fails else contextlib.nullcontext(), contextlib.closing(ahead(source)) as items:
        assert next(items) == 0
        if fails:
            raise Broken
    assert made[-1] == "closed" and made[:-1] == list(range(len(made) - 1))
    assert list(source) == []


def test_ahead_closes_early_what_has_no_close():
    source = iter(range(100))
    items = ahead(source, depth=2)
    assert next(items) == 0
    items.close()
    assert 1 <= next(source) <= 3  # the rest is still there


@pytest.mark.parametrize("depth", [0, -1])
def test_a_depth_below_one_is_refused(depth):
    with pytest.raises(ValueError, match="at least 1"):
        next(ahead([1], depth))
    with pytest.raises(ValueError, match="at least 1"):
        Behind(print, depth)


def test_behind_calls_in_order_in_one_other_thread():
    calls, threads = [], set()

    def work(number, factor=1):
        time.sleep(0.002 * (number % 3))
        threads.add(threading.get_ident())
        calls.append(number)
        return number * factor

    with Behind(work) as behind:
        futures = [behind(number, factor=2) for number in range(20)]
    assert calls == list(range(20)) and [future.result() for future in futures] == [2 * n for n in calls]
    assert len(threads) == 1 and threading.get_ident() not in threads


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_behind_lets_so_many_calls_wait_and_no_more(depth):
    gate, handed_in = threading.Event(), []
    with Behind(lambda: gate.wait(10), depth) as behind:
        def caller():
            for number in range(depth + 2):
                behind()
                handed_in.append(number)

        thread = threading.Thread(target=caller)
        thread.start()
        assert settled(handed_in) == depth
        gate.set()
        thread.join()
    assert len(handed_in) == depth + 2


def failing_at(number, done):
    def work(value):
        if value == number:
            raise Broken(value)
        done.append(value)
        return value
    return work


def test_behind_raises_the_first_error_at_the_next_call_and_runs_nothing_more():
    done = []
    with pytest.raises(Broken) as caught, Behind(failing_at(2, done), depth=3) as behind:
        first = [behind(value) for value in range(3)]
        wait_until(lambda: all(future.done() for future in first))
        behind(3)
        pytest.fail("the call after the error went through")
    assert caught.value.args == (2,) and done == [0, 1]


def test_behind_raises_an_error_at_the_end_and_skips_what_waited():
    done, gate = [], threading.Event()

    def work(value):
        gate.wait(5)
        return failing_at(1, done)(value)

    with pytest.raises(Broken), Behind(work, depth=4) as behind:
        futures = [behind(value) for value in range(4)]
        gate.set()
    assert done == [0]
    assert [type(future.exception()) for future in futures] == [type(None), Broken, Broken, Broken]


@pytest.mark.parametrize("error", [Broken, KeyboardInterrupt])
@pytest.mark.parametrize("work_fails", [False, True])
def test_the_error_of_the_block_wins_and_everything_handed_in_is_done(error, work_fails):
    done = []

    def work(value):
        time.sleep(0.03)
        done.append(value)
        if work_fails:
            raise ZeroDivisionError

    with pytest.raises(error), Behind(work, depth=3) as behind:
        for value in range(3):
            behind(value)
        raise error
    assert done == ([0] if work_fails else [0, 1, 2])


def chained(values, first, second, depth=2):
    with Behind(lambda future: second(future.result()), depth) as last, Behind(first, depth) as before:
        for value in values:
            last(before(value))


def test_two_in_a_row_keep_order_and_bounds():
    started, done = [], []

    def first(value):
        started.append(value)
        assert len(started) - len(done) <= 5  # 2 in each, and the one that passes from one to the other
        return value

    def second(value):
        time.sleep(0.002)
        done.append(value)

    chained(range(40), first, second)
    assert done == list(range(40))


@pytest.mark.parametrize("stage", [0, 1])
def test_two_in_a_row_stop_at_an_error_of_either(stage):
    done = []
    stages = [lambda value: value, failing_at(None, done)]
    stages[stage] = failing_at(5, [] if stage == 0 else done)
    with pytest.raises(Broken):
        chained(range(20), *stages)
    assert done == [0, 1, 2, 3, 4]


def test_stages_overlap():
    """Three stages of equal length take little longer than one of them, not three times as long."""
    def pause(value):
        time.sleep(0.02)
        return value

    start = time.perf_counter()
    chained((pause(value) for value in ahead(map(pause, range(15)))), pause, pause)
    assert time.perf_counter() - start < 4 * 15 * 0.02 / 2  # one alone: 0.3, all in turn: 1.2
