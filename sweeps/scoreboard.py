"""All metrics side by side: who wins the objective and clearly loses elsewhere, and whom nobody beats in everything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sweeps.confirmed import Confirmed
from sweeps.findings import interval
from sweeps.ledger import FINISHED
from sweeps.readings import CONCLUSIVE, BaselinePoint
from sweeps.space import SearchSpace
from sweeps.trial_summary import TrialSummary, direction
from sweeps.wording import signed_percent, spreads

BASELINE = "baseline"
MARK = "◇"  # of the Pareto set


@dataclass(frozen=True, kw_only=True)
class Scoreboard:
    """losses: candidate that wins the objective -> the metrics that it clearly loses, in words, with numbers.

    pareto: candidates, and BASELINE, that no other beats: is as good as in every metric and better in one. By the
    values that the table shows, noise or not. Empty where there is one metric only.
    """

    losses: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    pareto: frozenset[str] = frozenset()

    def mark(self, name: str) -> str:
        return f" {MARK}" if name in self.pareto else ""

    def flag(self, name: str) -> str:
        """'clearly loses in cmmd (+12.0 %, 3.1 spreads)', or ''."""
        return f"clearly loses in {' and '.join(self.losses[name])}" if self.losses.get(name) else ""


def scoreboard(
    space: SearchSpace,
    candidates: Sequence[TrialSummary],
    confirmed: Sequence[Confirmed],
    baseline: Mapping[str, Sequence[BaselinePoint]],
) -> Scoreboard:
    """Every metric is judged as the objective is: by intervals where there are, else by spreads.

    baseline: metric -> its points.
    """
    tested = {one.trial: one for one in confirmed if one.objective is not None}
    finished = [trial for trial in candidates if trial.outcome == FINISHED]
    losses = {}
    for trial in finished:
        sides = _sides(space, trial, tested.get(trial.name), list(baseline))
        if sides.get(space.objective.metric, (0, ""))[0] < 0:
            losses[trial.name] = tuple(told for side, told in sides.values() if side > 0)
    values = {trial.name: _values(trial, tested.get(trial.name)) for trial in finished}
    values[BASELINE] = {metric: points[-1].mean for metric, points in baseline.items() if points}
    directions = {metric: way for metric in baseline if (way := direction(metric, space)) is not None}
    return Scoreboard(
        losses={name: told for name, told in losses.items() if told},
        pareto=frozenset(pareto_set(values, directions)) if len(directions) > 1 else frozenset(),
    )


def pareto_set(values: Mapping[str, Mapping[str, float]], directions: Mapping[str, str]) -> list[str]:
    """The names that no other beats, of those that have every metric."""
    signed = {
        name: [of[metric] * (1 if way == "min" else -1) for metric, way in directions.items()]
        for name, of in values.items()
        if directions.keys() <= of.keys()
    }
    return [name for name, own in signed.items() if not any(_beats(other, own) for other in signed.values())]


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def _values(trial: TrialSummary, tested: Confirmed | None) -> Mapping[str, float]:
    return tested.means if tested else {metric: reading.value for metric, reading in trial.readings.items()}


def _sides(
    space: SearchSpace, trial: TrialSummary, tested: Confirmed | None, metrics: Sequence[str]
) -> dict[str, tuple[int, str]]:
    """Metric -> (-1 where it is clearly better, 1 where clearly worse, 0 where neither is clear; in words)."""
    sides = {}
    for metric in metrics:
        way = direction(metric, space)
        if way is None:
            continue
        if tested is not None:
            found = tested.differences.get(metric)
            if found is not None:
                side = found.worse(way) - found.better(way)
                sides[metric] = side, f"{metric} ({signed_percent(found.percent)}, {interval(found)})"
            continue
        reading = trial.readings.get(metric)
        if reading is not None and reading.gap is not None:
            side = (reading.gap >= CONCLUSIVE) - (reading.gap <= -CONCLUSIVE)
            percent = "" if reading.percent is None else f"{signed_percent(reading.percent)}, "
            sides[metric] = side, f"{metric} ({percent}{spreads(reading.gap)})"
    return sides
