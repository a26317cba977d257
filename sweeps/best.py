"""The best candidate of a sweep, and how far to trust it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from sweeps.confirmation import best_record, contenders, is_confirmed
from sweeps.confirmed import Confirmed
from sweeps.ledger import TrialRecord, baseline_curves
from sweeps.looks import latest
from sweeps.readings import CONCLUSIVE, Reading
from sweeps.space import SearchSpace
from sweeps.trial_summary import TrialSummary


@dataclass(frozen=True, kw_only=True)
class Best:
    """The winner (sweeps.confirmation), and how far to trust its lead.

    reading: of its run with the first seed, for which it was chosen.

    chosen_from: candidates with at least one evaluation. luck: the lead in spreads that the best of so many would be
    expected to show if none of them differed from the baseline. conclusive: |gap| is at least 2 and no lead of luck;
    where it has been confirmed, the interval of its difference to the baseline does not hold 0.
    confirmed: None before all contenders have been, or where no confirmation has finished.
    unconfirmed: why it is not, in a few words; '' where it is, or none was asked for.
    """

    trial: str
    config: str
    reading: Reading
    chosen_from: int
    luck: float
    conclusive: bool
    confirmed: Confirmed | None = None
    unconfirmed: str = ""


def luck_of_best(num_candidates: int, num_seeds: int) -> float:
    """Expected lead in spreads of the best of k candidates that do not differ from the baseline.

    The expected largest of k standard normal values (Blom's approximation), less the part of the gap that all
    candidates share because they are compared with the same mean of `num_seeds` seeds.
    """
    if num_candidates < 2:
        return 0.0
    expected = statistics.NormalDist().inv_cdf((num_candidates - 0.375) / (num_candidates + 0.25))
    return expected / math.sqrt(1 + 1 / num_seeds)


def best_of(
    space: SearchSpace,
    records: Sequence[TrialRecord],
    trials: Sequence[TrialSummary],
    confirmed: Sequence[Confirmed],
) -> Best | None:
    """None where no candidate has finished."""
    record = best_record(space, records)
    if record is None:
        return None
    trial = next(trial for trial in trials if trial.name == record.trial)
    reading = trial.readings[space.objective.metric]
    baselines = baseline_curves(records, space.objective.metric)
    seeds = sum(latest(curve[reading.step]) > 0 for curve in baselines if reading.step in curve)
    chosen_from = sum(other.is_candidate and bool(other.curves) for other in trials)
    luck = luck_of_best(chosen_from, max(1, seeds))
    decided = is_confirmed(space, records)
    own = next((c for c in confirmed if decided and c.trial == record.trial and c.objective is not None), None)
    gap = reading.gap
    conclusive = gap is not None and (gap >= CONCLUSIVE or -gap >= max(CONCLUSIVE, luck))
    if own is not None and own.objective is not None:
        conclusive = own.objective.better(space.objective.mode) or own.objective.worse(space.objective.mode)
    unconfirmed = _unconfirmed(space, records, decided) if own is None else ""
    return Best(
        trial=trial.name,
        config=trial.config,
        reading=reading,
        chosen_from=chosen_from,
        luck=luck,
        conclusive=conclusive and not (decided and own is None),
        confirmed=own,
        unconfirmed=unconfirmed,
    )


def _unconfirmed(space: SearchSpace, records: Sequence[TrialRecord], decided: bool) -> str:
    """Why there is no interval."""
    if decided:
        return "no confirmation has finished with a seed that the baseline has finished too"
    due = len(contenders(space, records)) * len(space.fresh_seeds)
    if not due:
        return ""
    ended = sum(bool(record.start.confirms) and record.end is not None for record in records)
    return f"{ended} of {due} confirmations have ended"
