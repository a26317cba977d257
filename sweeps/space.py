"""A search space as values: what is asked, what may vary, what it may cost. `space_file` reads it from a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prx_model.experiment import ExperimentConfig
from prx_model.metrics.table import network_of
from sweeps.config import deciding, fingerprint, listing, load_config, override, to_plain
from sweeps.confirmation import Confirm
from sweeps.onlookers.notify import Notify
from sweeps.onlookers.trackers import Trackers
from sweeps.rule import StopConfig
from sweeps.study import Sampler

FRACTION_OF = {"repa.depth": "model.depth"}  # what a fraction is a fraction of
PACK, SPREAD, STRICT_PACK, STRICT_SPREAD = PLACEMENTS = ("pack", "spread", "strict_pack", "strict_spread")


class SpaceError(ValueError):
    """A search-space file that cannot be run: one line with file, dotted path, what came, what is allowed."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What is minimised or maximised: a metric of the trial's evaluation.

    metric: one of evaluation.metrics. mode: 'min' or 'max'; it must be the metric's own direction.
    """

    metric: str
    mode: str = "min"

    def __post_init__(self) -> None:
        if self.mode not in ("min", "max"):
            raise ValueError(f"mode: got {self.mode!r}, allowed is min or max")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How many trials there are, and what they may cost. Raise any of it, and the same command goes on.

    candidates: that Optuna may choose, points included. baseline_seeds: runs of the baseline, at least 2.
    reuse_baseline: take over seeds that another sweep in the same results folder has trained alike (sweeps.reuse).
    max_gpu_hours, max_cpu_hours, max_cost: once one of them is used up, by the ledger, no trial is started any more,
    and those that run are let finish. The cost is in dollars, by the prices of node types. null is no limit.
    """

    candidates: int = 24
    baseline_seeds: int = 3
    reuse_baseline: bool = True
    max_gpu_hours: float | None = None
    max_cpu_hours: float | None = None
    max_cost: float | None = None

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise ValueError(f"candidates: got {self.candidates}, allowed is an integer of at least 1")
        if self.baseline_seeds < 2:
            raise ValueError(
                f"baseline_seeds: got {self.baseline_seeds}, allowed is at least 2: one seed has no spread"
            )
        for name in ("max_gpu_hours", "max_cpu_hours", "max_cost"):
            most = getattr(self, name)
            if most is not None and most <= 0:
                raise ValueError(f"{name}: got {most:g}, allowed is a number above 0, or null for no limit")


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one trial takes. None of it changes a result, so none of it is part of a fingerprint.

    workers: processes that share a trial's batch. cpus_per_worker: CPUs that Ray reserves for each.
    gpus_per_worker: 0 means a share of the GPUs that are there, if any; a fraction, that workers share a GPU.
    placement: a trial's workers on as few nodes as there is room on (pack), on one node (strict_pack), on as many
    as possible (spread), or each on a node of its own (strict_spread).
    concurrent_trials: trials side by side, at most.
    trials_per_slot: trials that one set of worker processes trains before it is renewed; 1 gives each its own.
    max_losses: times that a trial may lose its workers without notice and still go on, after which it has failed.
    """

    workers: int = 1
    cpus_per_worker: float = 1
    gpus_per_worker: float = 0
    concurrent_trials: int = 2
    trials_per_slot: int = 50
    max_losses: int = 2
    placement: str = PACK

    def __post_init__(self) -> None:
        for name in ("workers", "concurrent_trials", "trials_per_slot"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, allowed is an integer of at least 1")
        if self.max_losses < 0:
            raise ValueError(f"max_losses: got {self.max_losses}, allowed is an integer of at least 0")
        if self.cpus_per_worker <= 0 or self.gpus_per_worker < 0:
            raise ValueError(
                f"cpus_per_worker, gpus_per_worker: got {self.cpus_per_worker}, {self.gpus_per_worker}, "
                "allowed is above 0, and 0 or more"
            )
        if self.gpus_per_worker > 1 and self.gpus_per_worker % 1:
            raise ValueError(f"gpus_per_worker: got {self.gpus_per_worker}, allowed above 1 is a whole number")
        if self.placement not in PLACEMENTS:
            raise ValueError(f"placement: got {self.placement!r}, allowed is {listing(PLACEMENTS)}")


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """One searched setting. `values` for a choice, else low and high (included); log: sampled in the logarithm."""

    path: str
    kind: str  # 'choice' | 'float' | 'int'
    values: tuple[Any, ...] = ()
    low: float = 0
    high: float = 0
    log: bool = False

    def ends(self) -> list[Any]:
        """Values that show whether the whole dimension is possible."""
        return list(self.values) if self.kind == "choice" else [self.low, self.high]

    def holds(self, value: Any) -> bool:
        if self.kind == "choice":
            return value in self.values
        return type(value) in ((int,) if self.kind == "int" else (int, float)) and self.low <= value <= self.high

    def __str__(self) -> str:
        if self.kind == "choice":
            return listing(self.values)
        if self.kind == "int":
            return f"{self.low} to {self.high}"
        return f"{self.low:g} to {self.high:g}" + (" (log)" if self.log else "")


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """The question, resolved for one profile.

    base: a trial's settings before overrides, plain. baseline: the overrides that make it the baseline.
    points: overrides to try first, fractions already resolved. warm_start: folders of earlier sweeps.
    results: folder or s3:// address of the results, '' where the file does not say.
    trackers, notify: who is shown the sweep, and who is told of it.
    """

    file: str
    name: str
    profile: str
    question: str
    objective: Objective
    base: Mapping[str, Any]
    baseline: Mapping[str, Any]
    dimensions: tuple[Dimension, ...]
    points: tuple[Mapping[str, Any], ...]
    stop: StopConfig
    budget: Budget
    resources: Resources
    confirm: Confirm = field(default_factory=Confirm)
    sampler: Sampler = field(default_factory=Sampler)
    warm_start: tuple[str, ...] = ()
    results: str = ""
    trackers: Trackers = field(default_factory=Trackers)
    notify: Notify = field(default_factory=Notify)

    def baseline_config(self, seed: int) -> ExperimentConfig:
        return load_config(override(self.base, {**self.baseline, "seed": seed}))

    def candidate_config(self, overrides: Mapping[str, Any], seed: int | None = None) -> ExperimentConfig:
        """Candidates take the first baseline's seed: same weights to start from, same data order, same noise.

        Their confirmations take its other seeds.
        """
        return load_config(override(self.base, {**overrides, "seed": self.first_seed if seed is None else seed}))

    def first_ends(self) -> dict[str, Any]:
        """Overrides of the candidate at the first end of every dimension."""
        return {dimension.path: dimension.ends()[0] for dimension in self.dimensions}

    def end_candidates(self) -> list[ExperimentConfig]:
        """A candidate at each end of each dimension, the others at their first end."""
        first = self.first_ends()
        return [
            self.candidate_config({**first, dimension.path: end})
            for dimension in self.dimensions
            for end in dimension.ends()
        ]

    def teachers(self) -> list[str]:
        """Every teacher that a candidate can have."""
        return sorted({config.repa.teacher for config in self.end_candidates() if config.repa is not None})

    @property
    def first_seed(self) -> int:
        return int(self.base.get("seed", 0))

    @property
    def baseline_seeds(self) -> list[int]:
        return [self.first_seed + i for i in range(self.budget.baseline_seeds)]

    @property
    def fresh_seeds(self) -> list[int]:
        """The baseline's seeds that the best candidates are trained with again."""
        return self.baseline_seeds[1 : self.confirm.seeds]

    @property
    def fingerprint(self) -> str:
        """Of all that decides a trial's result. More candidates, other resources, another sampler, what it begins with,
        or more confirmation continue the same sweep.
        """
        dimensions = sorted(self.dimensions, key=lambda dimension: dimension.path)
        return fingerprint(
            {
                "baseline": deciding(to_plain(self.baseline_config(self.first_seed))),
                # The settings that the baseline overrides are the candidates' too.
                "candidate": deciding(to_plain(self.candidate_config(self.first_ends()))),
                "space": [[d.path, d.kind, list(d.values), d.low, d.high, d.log] for d in dimensions],
                "points": self.points,
                "objective": to_plain(self.objective),
                "stop": to_plain(self.stop),
            }
        )


def flattered_metrics(space: SearchSpace) -> list[tuple[str, str]]:
    """(metric, teacher) pairs where a metric beside the objective is scored by a network that also teaches."""
    metrics, teachers = space.baseline_config(space.first_seed).evaluation.metrics, space.teachers()
    return [(metric, network_of(metric)) for metric in metrics if network_of(metric) in teachers]
