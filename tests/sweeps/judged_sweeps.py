"""Records of a sweep as its workers would have written them: looked at and judged in any order of turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sweeps.audit import audited
from sweeps.ledger import (
    BASELINE,
    CANDIDATE,
    FINISHED,
    STOPPED,
    End,
    EvaluationRow,
    Start,
    TrialRecord,
    baseline_curves,
    verdict_row,
)
from sweeps.rule import StopConfig, is_open, judge

METRIC = "mmd_opennsfw"
STEPS = (100, 200, 300, 400, 500)
COUNTS = (20, 40, 80)
TRAIN_S, SAMPLE_S = 30.0, 0.1

Values = Mapping[int, Mapping[int, float]]  # step -> number of samples -> value


@dataclass
class _Trial:
    start: Start
    values: Values
    rows: list[EvaluationRow]
    end: End | None = None

    @property
    def record(self) -> TrialRecord:
        return TrialRecord(start=self.start, evaluations=tuple(self.rows), end=self.end)


def run(
    trials: Mapping[str, Values], turns: Sequence[str], stop: StopConfig, *, audited_names: Sequence[str] = ()
) -> list[TrialRecord]:
    """Every turn makes the next evaluation of a trial. A name that opens with 'baseline' is a seed of the baseline."""
    running = {name: _Trial(_start(name), values, []) for name, values in trials.items()}
    for time, name in enumerate(turns):
        trial = running[name]
        if trial.end is None:
            _turn(trial, [other.record for other in running.values()], stop, float(time), name in audited_names)
    return [trial.record for trial in running.values()]


def _start(name: str) -> Start:
    role = BASELINE if name.startswith("baseline") else CANDIDATE
    return Start(trial=name, role=role, seed=0, overrides={}, fingerprint="f" * 12, num_steps=STEPS[-1], time=0.0)


def _turn(trial: _Trial, records: Sequence[TrialRecord], stop: StopConfig, time: float, audit: bool) -> None:
    step = STEPS[len(trial.rows)]
    whole, verdict = trial.values[step], None
    if trial.start.role == BASELINE:
        looks = dict(whole)
    else:
        looks, curve, baselines = {}, dict(trial.record.curve(METRIC)), baseline_curves(records, METRIC)
        for count in COUNTS:
            looks[count] = whole[count]
            if not is_open({**curve, step: looks}, baselines, stop, num_steps=STEPS[-1], num_samples=COUNTS[-1]):
                break
        verdict = judge({**curve, step: looks}, baselines, stop, num_steps=STEPS[-1])
        last = step == STEPS[-1]
        verdict = replace(verdict, stop=False) if last else audited(verdict, trial.start.trial, "f" * 12, float(audit))
    trial.rows.append(_row(trial.start.trial, step, looks, verdict_row(verdict), time))
    if step == STEPS[-1] or (verdict is not None and verdict.stop):
        outcome = STOPPED if verdict is not None and verdict.stop else FINISHED
        trial.end = End(trial=trial.start.trial, outcome=outcome, step=step, reason="", log="", time=time)


def _row(name: str, step: int, looks: Mapping[int, float], verdict, time: float) -> EvaluationRow:
    most = max(looks)
    return EvaluationRow(
        trial=name,
        step=step,
        metrics={METRIC: looks[most]},
        num_samples=most,
        nested={str(count): {METRIC: value} for count, value in looks.items()},
        flow_loss=0.3,
        repa_loss=None,
        grad_norm=0.1,
        images_per_s=70.0,
        start_s=5.0 if step == STEPS[0] else 0.0,
        train_s=TRAIN_S,
        eval_s=SAMPLE_S * most,
        peak_memory_bytes=1,
        resumed_from=0,
        verdict=verdict,
        time=time,
    )
