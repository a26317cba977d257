"""The page of a sweep that runs: made anew now and then, so that an open one is a minute or so behind."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from prx_model.data.patience import StorageError
from sweeps.following import Following
from sweeps.ledger import TrialRecord
from sweeps.meanwhile import meanwhile
from sweeps.page.document import write_page
from sweeps.provenance import read_starts
from sweeps.space import SearchSpace
from sweeps.storage import SweepPaths
from sweeps.summary import summary_of

POLL_S, EVERY_S = 5.0, 60.0
MOST_SHARE = 0.05  # of the driver's time: a big sweep's page takes long, and is made less often


@dataclass
class _Page:
    space: SearchSpace
    paths: SweepPaths
    due: float
    following: Following
    known: tuple[int, int] = (0, 0)

    def look(self) -> None:
        """Make the page where it is due, and the ledger has something new."""
        if time.monotonic() < self.due:
            return
        with suppress(OSError, StorageError):  # whoever writes the ledger tells of it
            self.following.look()
            known = _size(self.following.records)
            if known == self.known:
                return
            began = time.monotonic()
            summary = summary_of(self.space, self.following.records)
            write_page(self.space, self.paths, summary, read_starts(self.paths.starts))
            self.known, took = known, time.monotonic() - began
            self.due = time.monotonic() + max(EVERY_S, took / MOST_SHARE)


def _size(records: Sequence[TrialRecord]) -> tuple[int, int]:
    """Evaluations and ends."""
    return sum(len(record.evaluations) for record in records), sum(record.end is not None for record in records)


@contextmanager
def kept_fresh(space: SearchSpace, paths: SweepPaths, *, first_s: float = EVERY_S) -> Iterator[None]:
    """Make the page again and again while the body runs. first_s: until it is made for the first time."""
    page = _Page(space, paths, due=time.monotonic() + first_s, following=Following(paths))
    with meanwhile(min(POLL_S, first_s), page.look):
        yield
