"""Stopping rules to compare. Each sees what a running sweep has seen so far, and says whether a candidate goes on.

Ours is the product's own `judge`. The others are written from their papers and from the code that people run:
    ASHA       "A System for Massively Parallel Hyperparameter Tuning" (arXiv 1810.05934), the stopping variant of Ray
               Tune and Syne Tune: at a rung, stop unless among the top 1/eta of those that have come there
    Hyperband  arXiv 1603.06560: synchronous halving in brackets with different first rungs
    median     Vizier (KDD 2017): stop where the best value so far is worse than the median of the others' mean values
    bandit     Azure's BanditPolicy: stop where worse than the best at the same step by more than a slack
    first      arXiv 2404.04111: all candidates for i evaluations, then only the best of them to the end
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from benchmarks.stopping_curves import Problem
from sweeps.halving import Halving
from sweeps.looks import Curve
from sweeps.rule import StopConfig, judge

SAMPLES = 1  # every value of these curves is on all samples


@dataclass(eq=False)
class Seen:
    """What a sweep under way has in its ledger: how many evaluations of each baseline seed and of each candidate."""

    problem: Problem
    of_baselines: list[int] = field(default_factory=list)
    of_candidates: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.of_baselines = [0] * len(self.problem.baselines)
        self.of_candidates = [0] * self.problem.num_candidates

    def there(self, index: int) -> np.ndarray:
        """The values at an evaluation of all candidates that have come to it."""
        come = [candidate for candidate, count in enumerate(self.of_candidates) if count > index]
        return self.problem.candidates[come, index]


class Rule(Protocol):
    """A stopping rule for one sweep. `stops` is asked at each evaluation of a candidate but the last."""

    def stops(self, seen: Seen, candidate: int) -> bool: ...


class Never:
    def stops(self, seen: Seen, candidate: int) -> bool:
        return False


class Ours:
    """The product's rule."""

    def __init__(self, problem: Problem, config: StopConfig) -> None:
        self.config, self.num_steps = config, int(problem.steps[-1])
        self.first = _first_index(problem, config.begins)
        self.baselines = [_curve(problem.steps, values) for values in problem.baselines]
        self.candidates = [_curve(problem.steps, values) for values in problem.candidates]

    def stops(self, seen: Seen, candidate: int) -> bool:
        if seen.of_candidates[candidate] <= self.first:
            return False  # as `judge` would say, before the grace ends and halving starts
        baselines = [self._upto(*known) for known in zip(self.baselines, seen.of_baselines, strict=True)]
        own = self._upto(self.candidates[candidate], seen.of_candidates[candidate])
        peers: list[Curve] = []
        if self.config.halving is not None:
            peers = [
                self._upto(self.candidates[other], count)
                for other, count in enumerate(seen.of_candidates)
                if other != candidate and count
            ]
        return judge(own, baselines, self.config, num_steps=self.num_steps, peers=peers).stop

    def _upto(self, curve: Curve, count: int) -> Curve:
        return dict(list(curve.items())[:count])


def _curve(steps: np.ndarray, values: np.ndarray) -> Curve:
    return {int(step): {SAMPLES: math.exp(value)} for step, value in zip(steps, values, strict=True)}


class Asha:
    """Rungs at first * eta^i of the run, each at the evaluation that comes there."""

    def __init__(self, problem: Problem, *, eta: float, first: float) -> None:
        self.eta, self.rungs = eta, _rungs(problem, eta, first)

    def stops(self, seen: Seen, candidate: int) -> bool:
        index = seen.of_candidates[candidate] - 1
        if index not in self.rungs:
            return False
        values = np.sort(seen.there(index))
        # As Syne Tune: below eta values nobody can be told to be outside the top 1/eta.
        if len(values) < self.eta:
            return False
        return bool(seen.problem.candidates[candidate, index] > np.quantile(values, 1 / self.eta))


class Hyperband:
    """Candidates are dealt to brackets by the published proportions; within one, halving waits for all."""

    def __init__(self, problem: Problem, *, eta: float) -> None:
        evaluations = len(problem.steps)
        first = problem.steps[0] / problem.steps[-1]
        most = math.floor(math.log(1 / first) / math.log(eta) + 1e-9)
        share = np.array([eta**s / (s + 1) for s in range(most, -1, -1)])
        ends = np.round(np.cumsum(share / share.sum()) * problem.num_candidates).astype(int)
        self.last = np.full(problem.num_candidates, evaluations - 1)
        for bracket, s in enumerate(range(most, -1, -1)):
            members = np.arange(ends[bracket - 1] if bracket else 0, ends[bracket])
            for rung in _rungs(problem, eta, eta**-s) if s else []:
                kept = max(1, len(members) // eta)
                order = members[np.argsort(problem.candidates[members, rung], kind="stable")]
                self.last[order[int(kept) :]] = rung
                members = order[: int(kept)]

    def stops(self, seen: Seen, candidate: int) -> bool:
        return seen.of_candidates[candidate] - 1 >= self.last[candidate]


class Median:
    """After `grace` of the run, and once `fewest` others have come as far."""

    def __init__(self, problem: Problem, *, grace: float, fewest: int = 3) -> None:
        self.first, self.fewest = _first_index(problem, grace), fewest

    def stops(self, seen: Seen, candidate: int) -> bool:
        index = seen.of_candidates[candidate] - 1
        others = [c for c, count in enumerate(seen.of_candidates) if c != candidate and count > index]
        if index < self.first or len(others) < self.fewest:
            return False
        means = seen.problem.candidates[others, : index + 1].mean(axis=1)
        return bool(seen.problem.candidates[candidate, : index + 1].min() > np.median(means))


class Bandit:
    """After `grace` of the run: worse than the best of all at the same step by the factor 1 + slack."""

    def __init__(self, problem: Problem, *, slack: float, grace: float) -> None:
        self.slack, self.first = math.log1p(slack), _first_index(problem, grace)

    def stops(self, seen: Seen, candidate: int) -> bool:
        index = seen.of_candidates[candidate] - 1
        if index < self.first:
            return False
        return bool(seen.problem.candidates[candidate, index] > seen.there(index).min() + self.slack)


class First:
    """All for so many evaluations; the best `kept` of them to the end."""

    def __init__(self, problem: Problem, *, evaluations: int, kept: int) -> None:
        self.index = min(evaluations, len(problem.steps)) - 1
        self.kept = np.argsort(problem.candidates[:, self.index], kind="stable")[:kept]

    def stops(self, seen: Seen, candidate: int) -> bool:
        return seen.of_candidates[candidate] - 1 >= self.index and candidate not in self.kept


def _first_index(problem: Problem, fraction: float) -> int:
    """The first evaluation at or after a fraction of the run."""
    return int(np.searchsorted(problem.steps, fraction * problem.steps[-1] * (1 - 1e-9)))


def _rungs(problem: Problem, eta: float, first: float) -> list[int]:
    """The evaluations at first * eta^i of the run, the last left out."""
    rungs, fraction = [], first
    while fraction < 1 - 1e-9:
        rungs.append(_first_index(problem, fraction))
        fraction *= eta
    return sorted({rung for rung in rungs if rung < len(problem.steps) - 1})


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A rule at one of its settings. family: what is one front in the picture. headline: stands in the table."""

    family: str
    settings: Mapping[str, Any]
    headline: bool = False

    @property
    def label(self) -> str:
        told = ", ".join(f"{name} {value:g}" for name, value in self.settings.items())
        return f"{self.family} ({told})" if told else self.family


def rule_of(entry: Entry, problem: Problem) -> Rule:
    makers: dict[str, Any] = {
        "no stopping": lambda _: Never(),
        "ASHA": Asha,
        "Hyperband": Hyperband,
        "median": Median,
        "bandit": Bandit,
        "first": First,
    }
    if entry.family in makers:
        return makers[entry.family](problem, **entry.settings)
    return Ours(problem, _config(entry.settings))


def _config(settings: Mapping[str, Any]) -> StopConfig:
    thinning = {name: value for name, value in settings.items() if name in ("start", "keep", "apart")}
    own = {name: value for name, value in settings.items() if name not in thinning}
    return StopConfig(**own, halving=Halving(**thinning) if thinning else None)


def entries() -> Sequence[Entry]:
    """Every rule at its usual settings and at some around them."""
    return [
        Entry(family="no stopping", settings={}, headline=True),
        *(
            Entry(family="first", settings={"evaluations": i, "kept": kept}, headline=(i, kept) == (1, 1))
            for i in (1, 2, 3, 4, 6, 8)
            for kept in (1, 3)
        ),
        *(Entry(family="median", settings={"grace": grace}, headline=grace == 0.1) for grace in (0.03, 0.1, 0.2, 0.4)),
        *(
            Entry(family="ASHA", settings={"eta": eta, "first": first}, headline=(eta, first) == (4, 1 / 16))
            for eta in (2, 3, 4)
            for first in (1 / 27, 1 / 16, 1 / 9, 1 / 4)
        ),
        *(Entry(family="Hyperband", settings={"eta": eta}, headline=eta == 3) for eta in (2, 3, 4)),
        *(
            Entry(family="bandit", settings={"slack": slack, "grace": grace}, headline=(slack, grace) == (0.1, 0.1))
            for slack in (0.02, 0.05, 0.1, 0.2, 0.5)
            for grace in (0.1, 0.2)
        ),
        *(
            Entry(
                family="baseline rule",
                settings={"margin": margin, "patience": patience, "grace": grace},
                headline=(margin, patience, grace) == (2, 2, 0.2),
            )
            for margin, patience, grace in (
                (1, 2, 0.1),
                (2, 2, 0.1),
                (2, 2, 0.2),
                (2, 2, 0.3),
            )
        ),
        *(
            Entry(
                family="baseline rule + halving",
                settings={"grace": grace, "start": start, "keep": keep, "apart": apart},
                headline=(grace, start, keep, apart) == (0.2, 0.1, 0.5, 1),
            )
            for grace, start, keep, apart in (
                (0.1, 0.03, 0.5, 0.3),
                (0.1, 0.03, 0.5, 1),
                (0.1, 0.03, 0.6, 1),
                (0.1, 0.06, 0.5, 1),
                (0.1, 0.1, 0.5, 1),
                (0.2, 0.1, 0.5, 1),
            )
        ),
    ]
