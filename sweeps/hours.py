"""A sweep's hours in the unit that counts: of GPUs, else of CPUs, else by the clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sweeps.trial_summary import TrialSummary
from sweeps.usage import HOUR_S, Usage


@dataclass(frozen=True, kw_only=True)
class Hours:
    """unit: 'GPU-hours', 'CPU-hours' or, of ledgers that do not tell what trials held, 'hours'."""

    unit: str

    @classmethod
    def of_sweep(cls, trials: Sequence[TrialSummary]) -> Hours:
        total = sum((trial.usage for trial in trials), Usage())
        return cls(unit="GPU-hours" if total.gpu_s else "CPU-hours" if total.cpu_s else "hours")

    def spent(self, trial: TrialSummary) -> float:
        seconds = {"GPU-hours": trial.usage.gpu_s, "CPU-hours": trial.usage.cpu_s, "hours": trial.spent_s}
        return seconds[self.unit] / HOUR_S

    def saved(self, trial: TrialSummary) -> float:
        """What stopping it has saved, at what the trial held (an estimate)."""
        return self.spent(trial) / trial.spent_s * trial.saved_s if trial.spent_s else 0.0
