"""Confirmation: the best candidates are trained again with the baseline's other seeds, so that a winner is one.

A candidate is chosen for its result on the first seed, where the best of many is lucky as a rule. What decides is
therefore its fresh seeds (sweeps.intervals). All chance of a run is a function of its seed, which the baseline shares.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sweeps.ledger import FINISHED, TrialRecord

if TYPE_CHECKING:
    from sweeps.space import SearchSpace


@dataclass(frozen=True, kw_only=True)
class Confirm:
    """What is trained again once the candidates have ended.

    best: so many of the finished candidates; 0 turns it off. seeds: of each, its first one included; null is as many as
    the baseline has.
    """

    best: int = 1
    seeds: int | None = None

    def __post_init__(self) -> None:
        if self.best < 0:
            raise ValueError(f"best: got {self.best}, allowed is an integer of at least 0")
        if self.seeds is not None and self.seeds < 2:
            raise ValueError(f"seeds: got {self.seeds}, allowed is null or an integer of at least 2")


def confirmation_name(candidate: str, seed: int) -> str:
    return f"{candidate}-seed{seed}"


def contenders(space: SearchSpace, records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The candidates to confirm, the best on the first seed first: so many as asked for, of those that finished.

    One that was confirmed before the budget was raised stays in the contest.
    """
    begun = {record.start.confirms for record in records}
    ranked = _by_first_seed(space, records)
    return [record for rank, record in enumerate(ranked) if rank < space.confirm.best or record.trial in begun]


def best_record(space: SearchSpace, records: Sequence[TrialRecord]) -> TrialRecord | None:
    """The winner: once every contender has been confirmed, the one with the best mean over its seeds.

    Before that, and where no confirmation has finished, the best on the first seed. The mean is over the seeds that all
    confirmed contenders have finished, the first one included: which of them is best, all seeds tell alike.
    """
    ranked = _by_first_seed(space, records)
    if not ranked or not is_confirmed(space, records):
        return ranked[0] if ranked else None
    metric, sign = space.objective.metric, 1 if space.objective.mode == "min" else -1
    values = {record.trial: last_values(record, records, metric) for record in contenders(space, records)}
    several = {trial: by_seed for trial, by_seed in values.items() if len(by_seed) > 1}
    if not several:
        return ranked[0]
    shared = set.intersection(*map(set, several.values()))

    def mean(record: TrialRecord) -> float:
        return sign * statistics.fmean(several[record.trial][seed] for seed in sorted(shared))

    return min((record for record in ranked if record.trial in several), key=mean)


def is_confirmed(space: SearchSpace, records: Sequence[TrialRecord]) -> bool:
    """Whether every confirmation that is due has ended, well or badly, and there is one."""
    ended = {record.trial for record in records if record.end is not None}
    due = [confirmation_name(record.trial, seed) for record in contenders(space, records) for seed in space.fresh_seeds]
    return bool(due) and ended.issuperset(due)


def last_values(candidate: TrialRecord, records: Sequence[TrialRecord], metric: str) -> dict[int, float]:
    """Seed -> the metric at the end of the candidate's finished runs: its own, and its confirmations."""
    runs = [r for r in records if r.trial == candidate.trial or r.start.confirms == candidate.trial]
    return finished_values(runs, metric)


def finished_values(runs: Sequence[TrialRecord], metric: str) -> dict[int, float]:
    """Seed -> the metric at the last step, of the runs that have come there."""
    ends = {run.start.seed: run.evaluations[-1] for run in runs if run.outcome == FINISHED and run.evaluations}
    return {seed: row.metrics[metric] for seed, row in sorted(ends.items()) if metric in row.metrics}


def _by_first_seed(space: SearchSpace, records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The finished candidates, the best first."""
    metric, sign = space.objective.metric, 1 if space.objective.mode == "min" else -1
    finished = [r for r in records if r.is_candidate and r.outcome == FINISHED and r.curve(metric)]
    return sorted(finished, key=lambda record: sign * record.evaluations[-1].metrics[metric])
