"""What people are told of a sweep while they are elsewhere: found in the ledger, and told once over all its starts.

What was told is kept in a file beside the ledger. A sweep without one tells of what happens from now on.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sweeps.confirmation import best_record, is_confirmed
from sweeps.ledger import FAILED, Ledger, TrialRecord
from sweeps.locations import write_whole
from sweeps.onlookers.notify import BEST, END, FAILURE, Notice, send
from sweeps.space import SearchSpace
from sweeps.storage import SweepPaths
from sweeps.summary import summary_of
from sweeps.wording import compute_sentence, count, number, spoken_difference

TOLD_FILE = "notified.json"
MOST_FAILURES = 5  # in one message


@dataclass
class Notices:
    """tell: a line for people, where a hook has failed."""

    space: SearchSpace
    paths: SweepPaths
    tell: Callable[[str], None]
    told: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        file = self.paths.root / TOLD_FILE
        if file.is_file():
            self.told = set(json.loads(file.read_text()))
        else:
            self.told = {key for key, _ in self._news(Ledger(self.paths).records())}
            self._keep()

    def look(self, records: Sequence[TrialRecord]) -> None:
        """Tell of what has happened since the look before: of several failures in one message."""
        new = [(key, record) for key, record in self._news(records) if key not in self.told]
        failed = [record for key, record in new if key.startswith(FAILURE)]
        if failed:
            self._send(self._failures(failed), [key for key, _ in new if key.startswith(FAILURE)])
        for key, record in new:
            if key.startswith(BEST):
                self._send(self._best(record, records), [key])

    def ended(self, records: Sequence[TrialRecord]) -> None:
        """The command has come to its end."""
        key = f"{END} {sum(record.end is not None for record in records)}"
        if key not in self.told:
            self._send(self._end(records), [key])

    def halted(self, why: str) -> None:
        """Told every time."""
        self._send(self._notice(FAILURE, f"halted: {why}"), [])

    def _news(self, records: Sequence[TrialRecord]) -> Iterator[tuple[str, TrialRecord]]:
        """What there is to tell, each under a key."""
        for record in records:
            if record.outcome == FAILED:
                yield f"{FAILURE} {record.trial}", record
        best = best_record(self.space, records)
        if best is not None:
            sure = " confirmed" if is_confirmed(self.space, records) else ""
            yield f"{BEST} {best.trial}{sure}", best

    def _send(self, notice: Notice, keys: Sequence[str]) -> None:
        notify = self.space.notify
        if notice.event in notify.on:
            for problem in send(notice, notify):
                self.tell(problem)
        # Told or given up: nobody is told for ever of the same.
        self.told.update(keys)
        self._keep()

    def _keep(self) -> None:
        write_whole(self.paths.root / TOLD_FILE, json.dumps(sorted(self.told)).encode())

    def _notice(self, event: str, text: str, **more: Any) -> Notice:
        sweep = self.paths.root.name
        return Notice(
            event=event, text=f"{sweep}: {text}", more={"sweep": sweep, "results": str(self.paths.root), **more}
        )

    def _failures(self, failed: Sequence[TrialRecord]) -> Notice:
        lines = [f"{r.trial} failed at step {r.end.step}: {r.end.reason}" for r in failed if r.end is not None]
        rest = len(lines) - MOST_FAILURES
        told = [*lines[:MOST_FAILURES], *([f"and {count(rest, 'trial')} more"] if rest > 0 else [])]
        ends = [r.end for r in failed if r.end is not None]
        trials = [{"trial": end.trial, "step": end.step, "reason": end.reason, "log": end.log} for end in ends]
        return self._notice(FAILURE, "\n".join(told), failed=trials)

    def _best(self, record: TrialRecord, records: Sequence[TrialRecord]) -> Notice:
        summary, metric = summary_of(self.space, records), self.space.objective.metric
        best = summary.best
        row = record.evaluations[-1]
        config = best.config if best is not None and best.trial == record.trial else ""
        found = f"{metric} {number(row.metrics[metric])}"
        if best is not None and best.trial == record.trial and best.confirmed is not None:
            text = f"confirmed best: {summary.answer}"
        elif best is not None and best.trial == record.trial and best.reading.gap is not None:
            told = spoken_difference(best.reading, metric)
            text = f"new best: {record.trial} ({config}), {found}: on one seed, it {told}"
        else:
            text = f"new best: {record.trial} ({config}), {found}"
        return self._notice(
            BEST,
            text,
            trial=record.trial,
            config=config,
            overrides=dict(record.start.overrides),
            metrics=dict(row.metrics),
            num_samples=row.num_samples,
        )

    def _end(self, records: Sequence[TrialRecord]) -> Notice:
        summary = summary_of(self.space, records)
        outcomes = Counter(record.outcome for record in records if record.end is not None)
        told = ", ".join(f"{number} {outcome}" for outcome, number in outcomes.items())
        lines = [summary.answer, f"{count(len(records), 'trial')}: {told}; {compute_sentence(summary.compute)}"]
        if summary.used_up:
            lines.append(summary.used_up)
        lines.append(f"page: {self.paths.page}")
        return self._notice(
            END,
            "\n".join(lines),
            answer=summary.answer,
            complete=summary.complete,
            outcomes=dict(outcomes),
            best=summary.best.trial if summary.best else None,
            page=str(self.paths.page),
        )
