"""Steps with their times, and waits that end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Value = TypeVar("Value")
TELL_S = 15.0  # how often a wait says that it still waits
_started = time.monotonic()
times: list[tuple[str, float]] = []


def tell(words: str) -> None:
    print(f"[{time.monotonic() - _started:7.1f} s] {words}", flush=True)


@contextmanager
def step(name: str) -> Iterator[None]:
    """Print a step as it begins and ends, and keep how long it took."""
    began = time.monotonic()
    tell(f"{name} ...")
    yield
    times.append((name, time.monotonic() - began))
    tell(f"{name}: {times[-1][1]:.1f} s")


def wait_for(what: str, look: Callable[[], Value | None], limit_s: float, every_s: float = 0.5) -> Value:
    """Look until there is something to see. Raises TimeoutError that names it."""
    began = told = time.monotonic()
    while True:
        seen = look()
        if seen:
            return seen
        now = time.monotonic()
        if now - began > limit_s:
            raise TimeoutError(f"waited {limit_s:.0f} s in vain for {what}")
        if now - told > TELL_S:
            told = now
            tell(f"  waiting for {what}, {now - began:.0f} of at most {limit_s:.0f} s")
        time.sleep(every_s)


def summary() -> str:
    lines = [f"  {seconds:7.1f} s  {name}" for name, seconds in times]
    return "\n".join([*lines, f"  {time.monotonic() - _started:7.1f} s  in all"])
