"""Threads that work ahead of whoever needs the results."""

from __future__ import annotations

import atexit
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

AT_EXIT_S = 5.0  # that a process which ends waits for calls under way

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class Background:
    """A few threads that run calls in the order in which they are submitted.

    Unlike those of concurrent.futures they are daemons: a process that ends by an exception does not wait for what is
    queued, and AT_EXIT_S at most for what is under way (a daemon in the middle of C++ can abort a process that ends).
    At the end of the `with` block no call begins any more, and no thread is left.
    stopping: set at that end; a call that may wait for long looks at it.
    """

    def __init__(self, num_threads: int, name: str) -> None:
        self.stopping = threading.Event()
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        # The threads know the queue, not this object: forgotten, it can be collected.
        self._threads = [
            threading.Thread(target=_work, args=(self._calls, self.stopping), name=f"{name}-{number}", daemon=True)
            for number in range(num_threads)
        ]

    def __enter__(self) -> Background:
        for thread in self._threads:
            thread.start()
        _running.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()

    def end(self, timeout_s: float | None = None) -> None:
        """Begin no call any more, and wait for those under way, each for `timeout_s` at most."""
        self.stopping.set()
        for _ in self._threads:
            self._calls.put(None)
        for thread in self._threads:
            thread.join(timeout_s)

    def submit(
        self, call: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Future[Result]:
        future: Future[Result] = Future()
        self._calls.put((future, lambda: call(*args, **kwargs)))
        return future


_running: weakref.WeakSet[Background] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    for background in list(_running):
        background.end(AT_EXIT_S)


def _work(calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None], stopping: threading.Event) -> None:
    while (item := calls.get()) is not None:
        future, call = item
        if stopping.is_set():
            future.cancel()
            future.set_running_or_notify_cancel()
            continue
        future.set_running_or_notify_cancel()
        try:
            result = call()
        except BaseException as error:  # whoever waits for the result raises it
            future.set_exception(error)
        else:
            future.set_result(result)
        del item, future, call  # an idle thread keeps nothing alive
