"""A ledger that is read again and again: a look reads and parses only the trials that have new rows."""

from __future__ import annotations

from collections.abc import Sequence

from sweeps.ledger import Ledger, TrialRecord, in_order
from sweeps.rows_kept import Mark
from sweeps.storage import SweepPaths


class Following:
    """The ledger of a sweep as the last look has found it. A trial without new rows keeps its very record."""

    def __init__(self, paths: SweepPaths) -> None:
        self._ledger = Ledger(paths)
        self._marks: dict[str, Mark] = {}
        self._known: dict[str, TrialRecord | None] = {}
        self.records: Sequence[TrialRecord] = ()  # in the order of their start

    def look(self) -> list[TrialRecord]:
        """The trials that have new rows since the look before, in the order of their start."""
        changed = self._ledger.changed(self._marks)
        for trial, (mark, record) in changed.items():
            self._marks[trial], self._known[trial] = mark, record
        if changed:
            self.records = in_order(self._known.values())
        return in_order(record for _, record in changed.values())
