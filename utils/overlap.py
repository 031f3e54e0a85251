"""Work beside the main thread: read ahead of it, and draw or write behind it, in order and in bounded memory.

The network stays in the main thread. OpenCV, numpy, zlib and the disk release Python's lock, so that one thread
for each stage is enough to hide them behind the network.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Callable, TypeVar

_END: Any = object()
_Item = TypeVar("_Item")


def ahead(items: Iterable[_Item], depth: int = 2) -> Generator[_Item, None, None]:
    """Iterate in a thread of its own, a few items ahead of whoever takes them.

    Args:
        items: an iterable; nothing else may iterate it meanwhile. A generator is closed at the end.
        depth: how many items, at least 1, may be there (or be in the making) before they are asked for.

    Yields:
        The items in their order. Closing the generator early waits for the item in the making, and takes no more.

    Raises:
        What ``items`` raises, once the items before are taken. ValueError: depth is below 1.
    """
    _check(depth)
    iterator: Any = iter(items)
    thread = ThreadPoolExecutor(1, "ahead")
    try:
        coming = deque(thread.submit(next, iterator, _END) for _ in range(depth))
        while (item := coming.popleft().result()) is not _END:
            coming.append(thread.submit(next, iterator, _END))
            yield item
    finally:
        thread.shutdown(cancel_futures=True)
        if hasattr(iterator, "close"):
            iterator.close()


class Behind:
    """Call a function in one other thread, in the order of the calls::

        with Behind(write) as write_behind, Behind(draw) as draw_behind:
            for picture in pictures:
                write_behind(draw_behind(picture))  # write gets a future: write(future) begins with future.result()

    A call returns at once with its ``concurrent.futures.Future``, unless ``depth`` calls are unfinished; then it first
    waits for the oldest. After an error no later call runs: each fails with that same error, which is raised to the
    caller at its next call, else at the end of the ``with`` block. That end waits for every call, also when the block
    itself fails (Ctrl-C included), and then the block's own error is the one that is raised.

    Args:
        function: what to call; called from the thread alone.
        depth: how many calls, at least 1, may be unfinished, the running one included.

    Raises:
        ValueError: depth is below 1.
    """

    def __init__(self, function: Callable[..., Any], depth: int = 2):
        _check(depth)
        self._function = function
        self._depth = depth
        self._calls: deque[Future] = deque()
        self._error: BaseException | None = None
        self._thread = ThreadPoolExecutor(1, "behind")

    def __enter__(self) -> Behind:
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Future:
        """Hand in a call of the function, from one thread only; returns its Future.

        Raises:
            What an earlier call raised.
        """
        while self._calls and (len(self._calls) >= self._depth or self._calls[0].done()):
            self._calls.popleft().exception()
        if self._error is not None:
            raise self._error
        future = self._thread.submit(self._run, args, kwargs)
        self._calls.append(future)
        return future

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        self._thread.shutdown()
        self._calls.clear()
        if kind is None and self._error is not None:
            raise self._error

    def _run(self, args, kwargs):
        if self._error is not None:
            raise self._error
        try:
            return self._function(*args, **kwargs)
        except BaseException as error:
            self._error = error
            raise


def _check(depth):
    if depth < 1:
        raise ValueError(f"depth is {depth}; it must be at least 1")
