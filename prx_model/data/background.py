"""Threads that work ahead of whoever needs the results."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class Background:
    """A few threads that run calls in the order in which they are submitted.

    Unlike those of concurrent.futures they are daemons: a process that ends by an exception does not wait for what is
    queued. At the end of the `with` block no call begins any more, and no thread is left.
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
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stopping.set()
        for _ in self._threads:
            self._calls.put(None)
        for thread in self._threads:
            thread.join()

    def submit(
        self, call: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Future[Result]:
        future: Future[Result] = Future()
        self._calls.put((future, lambda: call(*args, **kwargs)))
        return future


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
