"""What a sweep has still to run, by its ledger: known trials by name, and how many more there may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweeps.confirmation import confirmation_name, contenders
from sweeps.ledger import BASELINE, CONFIRMATION, TrialRecord
from sweeps.space import SearchSpace


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A trial that is to run. confirms: as in the ledger."""

    trial: str
    role: str
    seed: int
    overrides: Mapping[str, Any]
    confirms: str = ""


def baseline_name(seed: int) -> str:
    return f"baseline-seed{seed}"


def candidate_name(number: int) -> str:
    return f"candidate-{number:03d}"


def again(record: TrialRecord) -> Planned:
    """A trial that an earlier start of the sweep has begun."""
    start = record.start
    return Planned(
        trial=start.trial, role=start.role, seed=start.seed, overrides=start.overrides, confirms=start.confirms
    )


def unfinished(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    return [record for record in records if record.end is None]


def missing_baselines(space: SearchSpace, records: Sequence[TrialRecord]) -> list[Planned]:
    started = {record.trial for record in records}
    return [
        Planned(trial=baseline_name(seed), role=BASELINE, seed=seed, overrides=dict(space.baseline))
        for seed in space.baseline_seeds
        if baseline_name(seed) not in started
    ]


def missing_confirmations(space: SearchSpace, records: Sequence[TrialRecord]) -> list[Planned]:
    """Those of the best finished candidates that have not been started; they are final once all candidates have ended.

    The best candidate's come first, and all of a candidate's together.
    """
    started = {record.trial for record in records}
    return [
        Planned(
            trial=confirmation_name(best.trial, seed),
            role=CONFIRMATION,
            seed=seed,
            overrides=dict(best.start.overrides),
            confirms=best.trial,
        )
        for best in contenders(space, records)
        for seed in space.fresh_seeds
        if confirmation_name(best.trial, seed) not in started
    ]


def to_suggest(space: SearchSpace, records: Sequence[TrialRecord]) -> int:
    """Candidates that the budget still allows."""
    return max(0, space.budget.candidates - sum(record.is_candidate for record in records))


def most_confirmations(space: SearchSpace) -> int:
    """Confirmations of a sweep in which enough candidates finish."""
    return min(space.confirm.best, space.budget.candidates) * len(space.fresh_seeds)


def num_trials(space: SearchSpace) -> int:
    """Of a whole sweep, at most."""
    return space.budget.candidates + space.budget.baseline_seeds + most_confirmations(space)


def num_open(space: SearchSpace, records: Sequence[TrialRecord]) -> int:
    """Trials still to run, of this budget; at most, while candidates may yet end among those to confirm."""
    suggestions = to_suggest(space, records)
    undecided = suggestions or any(record.is_candidate for record in unfinished(records))
    confirmations = most_confirmations(space) if undecided else len(missing_confirmations(space, records))
    return len(unfinished(records)) + len(missing_baselines(space, records)) + suggestions + confirmations


def is_complete(space: SearchSpace, records: Sequence[TrialRecord]) -> bool:
    return not num_open(space, records)
