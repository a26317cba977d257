"""Trackers are shown the ledger: every trial as a run, every evaluation once, how each ended. docs/decisions/0019.

What a tracker has already is asked of it, or kept beside it, so that a sweep that is killed and started again goes on
in the same runs. A tracker that does not answer harms nothing: it is told of in one line, and brought up to date later.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sweeps.ledger import LARGEST_GAP, EvaluationRow, TrialRecord
from sweeps.space import SearchSpace
from sweeps.storage import SweepPaths
from sweeps.titles import config_in_words

FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 300.0  # before a tracker that has failed is tried again
LONGEST_PROBLEM = 200  # characters


@dataclass(frozen=True, kw_only=True)
class Known:
    """What a tracker has of a trial: the steps, and whether it knows the end."""

    steps: frozenset[int] = frozenset()
    ended: bool = False


class Tracker(Protocol):
    """One tracker, open. Every method may raise whatever it likes."""

    def begin(self, record: TrialRecord) -> Known:
        """Open the trial's run, a new one or that of an earlier start."""
        ...

    def evaluated(self, record: TrialRecord, row: EvaluationRow) -> None: ...

    def ended(self, record: TrialRecord) -> None: ...

    def flush(self) -> None:
        """What was told is to be seen by others now."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class About:
    """What trackers tell of a trial's settings, and where it belongs."""

    space: SearchSpace
    paths: SweepPaths
    depth: int

    @property
    def sweep(self) -> str:
        return self.paths.root.name

    def settings(self, record: TrialRecord) -> dict[str, Any]:
        """Flat: what was searched, the seed and the role."""
        start = record.start
        told: dict[str, Any] = {"role": start.role, "seed": start.seed, "num_steps": start.num_steps}
        searched = {} if record.is_baseline else dict(start.overrides)
        return {**told, **({"confirms": start.confirms} if start.confirms else {}), **searched}

    def title(self, record: TrialRecord) -> str:
        return config_in_words(record.start, self.depth)

    def metric(self) -> str:
        return self.space.objective.metric


def values_of(row: EvaluationRow) -> dict[str, float]:
    """The numbers of an evaluation that trackers draw, under the names of the ledger."""
    told: dict[str, float | None] = {
        **row.metrics,
        "num_samples": row.num_samples,
        "flow_loss": row.flow_loss,
        "repa_loss": row.repa_loss,
        "grad_norm": row.grad_norm,
        "images_per_s": row.images_per_s,
        "gap_spreads": row.verdict.get("gap") if row.verdict else None,
    }
    return {name: float(value) for name, value in told.items() if value is not None and abs(value) < LARGEST_GAP}


@dataclass
class Tracking:
    """One tracker's way through the ledger. tell: a line for people."""

    name: str
    open: Callable[[], Tracker]
    tell: Callable[[str], None]
    tracker: Tracker | None = None
    steps: dict[str, set[int]] = field(default_factory=dict)
    over: set[str] = field(default_factory=set)
    pause_s: float = 0.0
    not_before: float = 0.0

    def look(self, records: Sequence[TrialRecord], *, at_last: bool = False) -> None:
        """Tell what is new. Raises nothing."""
        if time.monotonic() < self.not_before and not at_last:
            return
        try:
            self._catch_up(records)
            self.pause_s = 0.0
        except Exception as error:
            if not self.pause_s or at_last:
                problem = f"{type(error).__name__}: {' '.join(str(error).split())}"[:LONGEST_PROBLEM]
                later = "the same command brings it up to date" if at_last else "it is tried again later"
                self.tell(f"trackers: {self.name} cannot be told ({problem}); the sweep goes on, and {later}")
            self.pause_s = min(LONGEST_PAUSE_S, max(FIRST_PAUSE_S, 2 * self.pause_s))
            self.not_before = time.monotonic() + self.pause_s

    def _catch_up(self, records: Sequence[TrialRecord]) -> None:
        self.tracker = self.tracker or self.open()
        tracker, told = self.tracker, False
        for record in records:
            told |= self._follow(tracker, record)
        if told:
            tracker.flush()

    def _follow(self, tracker: Tracker, record: TrialRecord) -> bool:
        if record.trial in self.over:
            return False
        if record.trial not in self.steps:
            known = tracker.begin(record)
            self.steps[record.trial] = set(known.steps)
            if known.ended:
                self.over.add(record.trial)
                return False
        new = [row for row in record.evaluations if row.step not in self.steps[record.trial]]
        for row in new:
            tracker.evaluated(record, row)
            self.steps[record.trial].add(row.step)
        if record.end is not None:
            tracker.ended(record)
            self.over.add(record.trial)
        return bool(new) or record.end is not None

    def close(self) -> None:
        try:
            if self.tracker is not None:
                self.tracker.close()
        except Exception as error:
            self.tell(f"trackers: {self.name} could not be closed ({type(error).__name__})")


def trackings(space: SearchSpace, paths: SweepPaths, tell: Callable[[str], None]) -> list[Tracking]:
    """One for each tracker that the space names; none is opened yet."""
    about = About(space=space, paths=paths, depth=space.baseline_config(space.first_seed).model.depth)
    settings = space.trackers

    def tensorboard() -> Tracker:
        from sweeps.onlookers.to_tensorboard import TensorBoardRuns

        assert settings.tensorboard is not None
        return TensorBoardRuns(about, settings.tensorboard)

    def mlflow() -> Tracker:
        from sweeps.onlookers.to_mlflow import MLflowRuns

        assert settings.mlflow is not None
        return MLflowRuns(about, settings.mlflow)

    def wandb() -> Tracker:
        from sweeps.onlookers.to_wandb import WandbRuns

        assert settings.wandb is not None
        return WandbRuns(about, settings.wandb)

    opened: Mapping[str, Callable[[], Tracker]] = {"tensorboard": tensorboard, "mlflow": mlflow, "wandb": wandb}
    return [Tracking(name=name, open=opened[name], tell=tell) for name in settings.on]
