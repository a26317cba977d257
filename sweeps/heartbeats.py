"""How far a trial has come between two evaluations: its worker writes the step now and then, the driver reads it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sweeps.locations import Location
from sweeps.meanwhile import meanwhile
from sweeps.storage import SweepPaths

HEARTBEAT_S = 2.0
STORED_HEARTBEAT_S = 15.0  # in S3, where every request is paid for


@contextmanager
def heartbeat(paths: SweepPaths, trial: str, step: Callable[[], int]) -> Iterator[None]:
    """Write the step every few seconds, so that progress shows between evaluations."""
    place = paths.heartbeat(trial)

    def beat() -> None:
        with suppress(OSError):  # a full disk is told by what matters more
            place.write_bytes(str(step()).encode())

    with meanwhile(period_s(place), beat):
        yield


class Heartbeats:
    """The steps that trials have come to; in S3 each is read as often as it is written."""

    def __init__(self, paths: SweepPaths) -> None:
        self.paths = paths
        self._heard: dict[str, tuple[float, int]] = {}  # trial -> when it was read, step

    def step(self, trial: str) -> int:
        """0 where nothing is known."""
        place, (read, step) = self.paths.heartbeat(trial), self._heard.get(trial, (float("-inf"), 0))
        if isinstance(place, Path) or time.monotonic() - read > period_s(place):
            with suppress(OSError, ValueError):
                step = int(place.read_text())
            self._heard[trial] = time.monotonic(), step
        return step


def period_s(place: Location) -> float:
    """How often a small thing is written, or looked for, beside a trial."""
    return HEARTBEAT_S if isinstance(place, Path) else STORED_HEARTBEAT_S
