"""Something that is done again and again beside something else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def meanwhile(every_s: float, do: Callable[[], object]) -> Iterator[None]:
    """Call `do` so often, in a thread of its own, while the body runs. None of its calls outlasts the body."""
    done = threading.Event()

    def repeat() -> None:
        while not done.wait(every_s):
            do()

    thread = threading.Thread(target=repeat, daemon=True, name=do.__qualname__)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
