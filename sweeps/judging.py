"""One candidate before the rule, on its worker: what the ledger says of the others, and the verdict on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from prx_model.metrics.suite import SuiteResult
from sweeps.audit import audited
from sweeps.config import build
from sweeps.ledger import CANDIDATE, Ledger, TrialRecord, baseline_curves, peer_curves
from sweeps.rule import Curve, StopConfig, Verdict, is_open, judge
from sweeps.task import Task


@dataclass
class Judge:
    """Reads the ledger once a look. num_steps, num_samples: of a whole run, and of a whole evaluation."""

    task: Task
    ledger: Ledger
    num_steps: int
    num_samples: int
    stop: StopConfig = field(init=False)
    records: Sequence[TrialRecord] = ()  # as the last look has found them

    def __post_init__(self) -> None:
        self.stop = build(StopConfig, self.task.stop, "stop")

    def is_open(self, step: int, looks: Sequence[SuiteResult]) -> bool:
        """Whether the verdict needs the evaluation on more samples. Of a trial that is not judged all are taken."""
        if self.task.role != CANDIDATE:
            return True
        self.records = self.ledger.records()
        if self.task.metric not in looks[-1].values:
            return True
        return is_open(
            self._curve(step, looks),
            baseline_curves(self.records, self.task.metric),
            self.stop,
            num_steps=self.num_steps,
            num_samples=self.num_samples,
            mode=self.task.mode,
            peers=self._peers(),
        )

    def verdict(self, step: int, looks: Sequence[SuiteResult]) -> Verdict | None:
        """The verdict on the curve with this evaluation added, by what the ledger said at its last look.

        Baselines and confirmations are not judged.
        """
        if self.task.role != CANDIDATE:
            return None
        curve, baselines = self._curve(step, looks), baseline_curves(self.records, self.task.metric)
        verdict = judge(curve, baselines, self.stop, num_steps=self.num_steps, mode=self.task.mode, peers=self._peers())
        # The last evaluation ends the trial anyway: there is nothing left to save by stopping it.
        if step >= self.num_steps:
            return replace(verdict, stop=False)
        own = self._own()
        assert own is not None, f"{self.task.trial}: not in the ledger"
        return audited(verdict, self.task.trial, own.start.fingerprint, self.stop.audit)

    def _own(self) -> TrialRecord | None:
        return next((record for record in self.records if record.trial == self.task.trial), None)

    def _curve(self, step: int, looks: Sequence[SuiteResult]) -> Curve:
        """The trial's curve with this evaluation, as far as it has come, added."""
        record, metric = self._own(), self.task.metric
        known = dict(record.curve(metric)) if record else {}
        return known | {step: {look.num_samples: look.values[metric] for look in looks if metric in look.values}}

    def _peers(self) -> list[Curve]:
        """The other candidates' curves, where the rule reads them."""
        return [] if self.stop.halving is None else peer_curves(self.records, self.task.trial, self.task.metric)
