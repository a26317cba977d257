"""The ledger: append-only rows of every trial, the only truth about a sweep. How they are kept: sweeps.rows_kept.

Four kinds of row: `start` (what the trial is), `evaluation` (what was measured and decided), `interruption` (its
workers went away, and others went on), `end` (how it ended).
A row is one line of JSON. After a resume an evaluation can stand there twice, because its row is written before its
checkpoint (the other order could lose it); readers take the later one.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from sweeps.costs import Costs
from sweeps.locations import Location
from sweeps.looks import Curve, latest
from sweeps.rows_kept import Mark, Marks, rows_of
from sweeps.rule import Verdict
from sweeps.storage import SweepPaths
from sweeps.usage import Usage

BASELINE, CANDIDATE, CONFIRMATION = "baseline", "candidate", "confirmation"
FINISHED, STOPPED, FAILED = "finished", "stopped", "failed"
LOSS, NOTICE = "loss", "notice"  # causes of interruptions
LARGEST_GAP = 1e9


class LedgerError(ValueError):
    """A file of the ledger that cannot be read: one line that names it."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a trial is. Written once, by the driver, before the trial runs.

    order: of its start among the sweep's trials, counted by the ledger, because a clock can go back. Rows of older
    ledgers have none, and are in the order of their time, before all that have one.
    confirms: the candidate that a confirmation trains again with another seed. reused_from: the sweep, in the same
    results folder, that has trained this baseline. Both are '' in rows of other kinds, and of older ledgers.
    """

    trial: str
    role: str
    seed: int
    overrides: Mapping[str, Any]
    fingerprint: str
    num_steps: int
    order: int | None = None
    confirms: str = ""
    reused_from: str = ""
    kind: str = "start"
    time: float = field(default_factory=time.time)


@dataclass(frozen=True, kw_only=True)
class EvaluationRow:
    """What was measured at a step, on how many samples, what it cost in seconds, and what the rule said.

    nested: number of samples, as text -> metric -> value, for every look that was made, the one on num_samples among
    them. Rows of older ledgers have none, and their metrics are on num_samples only.
    start_s: from the trial's hand-over to its worker to its first step, in the first row after a start or a resume.
    data_s: waiting for batches, and checkpoint_s: writing checkpoints, since the row before, as train_s is.
    cpus, gpus, usd_per_hour: what the trial held, as in sweeps.usage.Rate; rows of older ledgers do not tell.
    """

    trial: str
    step: int
    metrics: Mapping[str, float]
    num_samples: int
    flow_loss: float
    repa_loss: float | None
    grad_norm: float
    images_per_s: float
    train_s: float
    eval_s: float
    peak_memory_bytes: int
    resumed_from: int
    verdict: Mapping[str, Any] | None = None  # sweeps.rule.Verdict; None for a baseline
    nested: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    start_s: float = 0.0
    data_s: float = 0.0
    checkpoint_s: float = 0.0
    cpus: float | None = None
    gpus: float | None = None
    usd_per_hour: float | None = None
    kind: str = "evaluation"
    time: float = field(default_factory=time.time)

    def scores(self, metric: str) -> dict[int, float]:
        """Number of samples -> value, ascending; empty where the metric was not measured."""
        looks = {int(n): values[metric] for n, values in self.nested.items() if metric in values}
        if metric in self.metrics:
            looks[self.num_samples] = self.metrics[metric]
        return dict(sorted(looks.items()))


@dataclass(frozen=True, kw_only=True)
class End:
    """How a trial ended: finished, stopped or failed, after `step` steps, and why.

    data_s, train_s, checkpoint_s: as in an evaluation's row, since the last of them.
    by_hand: a person has stopped it (`prx-sweeps stop`), and not the rule; rows of older ledgers know no such end.
    """

    trial: str
    outcome: str
    step: int
    reason: str
    log: str
    data_s: float = 0.0
    train_s: float = 0.0
    checkpoint_s: float = 0.0
    by_hand: bool = False
    kind: str = "end"
    time: float = field(default_factory=time.time)


@dataclass(frozen=True, kw_only=True)
class Interruption:
    """A trial's workers went away in the middle of it. Written by those that take it over, who go on at `step`.

    cause: a loss comes without a word (a crash, a machine that is gone); a notice leaves time for a checkpoint (spot).
    time: when the driver heard of it. It tells one from another: a row that stands there twice is one interruption.
    """

    trial: str
    cause: str
    step: int
    reason: str
    time: float
    kind: str = "interruption"


Row = Start | EvaluationRow | Interruption | End
_KINDS: dict[str, type[Row]] = {
    "start": Start,
    "evaluation": EvaluationRow,
    "interruption": Interruption,
    "end": End,
}


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """All that the ledger knows of one trial. `evaluations` are in order of step, one per step."""

    start: Start
    evaluations: tuple[EvaluationRow, ...]
    end: End | None
    num_repeated: int = 0  # evaluations that a resume has made again
    costs: Costs = field(default_factory=Costs)  # repeated work included
    num_sampled: int = 0  # images that evaluations have sampled, repeated ones included
    usage: Usage = field(default_factory=Usage)  # likewise
    interruptions: tuple[Interruption, ...] = ()

    @property
    def trial(self) -> str:
        return self.start.trial

    @property
    def is_baseline(self) -> bool:
        return self.start.role == BASELINE

    @property
    def is_candidate(self) -> bool:
        """Whether it is one of those that Optuna chose: neither a baseline nor a candidate's run with another seed."""
        return self.start.role == CANDIDATE

    @property
    def outcome(self) -> str | None:
        return self.end.outcome if self.end else None

    @property
    def stopped_by_rule(self) -> bool:
        """Whether a verdict has ended it. That a person has stopped it says nothing of the rule or of its settings."""
        return self.outcome == STOPPED and not self.stopped_by_hand

    @property
    def stopped_by_hand(self) -> bool:
        return self.end is not None and self.end.by_hand

    @property
    def last_step(self) -> int:
        return self.evaluations[-1].step if self.evaluations else 0

    @property
    def spent_s(self) -> float:
        """Start-up, data, training, evaluation and checkpoints, repeated work included."""
        return self.costs.total_s

    def curve(self, metric: str) -> Curve:
        """Step -> number of samples -> value, at the steps that have the metric."""
        return {row.step: scores for row in self.evaluations if (scores := row.scores(metric))}

    def values(self, metric: str) -> dict[int, float]:
        """Step -> value on the most samples of that step; not all of them are on equally many."""
        return {step: latest(scores) for step, scores in self.curve(metric).items()}


class Ledger:
    """Appends to, and reads, the ledger of a sweep. Cheap to make."""

    def __init__(self, paths: SweepPaths) -> None:
        self.paths = paths
        self._kept = rows_of(paths)

    def append(self, row: Row) -> None:
        """Write one row, durably. Rows of one trial come from one writer at a time. A NaN is a ValueError.

        Raises OSError, with the path, where the row could not be written whole; readers skip what there is of it.
        """
        if isinstance(row, Start) and row.order is None:
            row = replace(row, order=self._next_order())
        self._kept.append(row.trial, _line(row))

    def adopt(self, rows: Iterable[Row]) -> None:
        """Write all rows of a trial that this ledger does not know: all of them, or none."""
        rows = [replace(row, order=self._next_order()) if isinstance(row, Start) else row for row in rows]
        self._kept.adopt(rows[0].trial, b"".join(map(_line, rows)))

    def _next_order(self) -> int:
        starts = [record.start.order for record in self.records()]
        return 1 + max((order for order in starts if order is not None), default=-1)

    def rows(self, trial: str) -> list[Row]:
        """All rows of a trial in the order of writing. A torn line is skipped: its row will be written again."""
        return _rows(self._kept.of(trial), self.paths.trial_ledger(trial))

    def trials(self) -> list[str]:
        """Names of all trials that were started, in the order of their start."""
        return [record.trial for record in self.records()]

    def record(self, trial: str) -> TrialRecord | None:
        """What is known of a trial; None before its start row is whole."""
        return _record(self.rows(trial))

    def records(self) -> list[TrialRecord]:
        """Every trial, in the order of their start; by one reading."""
        return in_order(record for _, record in self.changed({}).values())

    def changed(self, known: Marks) -> dict[str, tuple[Mark, TrialRecord | None]]:
        """Every trial whose rows are others than when its mark was the known one: its new mark, and what is known."""
        changed = self._kept.changed(known)
        return {
            trial: (mark, _record(_rows(kept, self.paths.trial_ledger(trial))))
            for trial, (mark, kept) in changed.items()
        }


def _rows(contents: Iterable[bytes], path: Location) -> list[Row]:
    lines = (line for content in contents for line in content.split(b"\n"))
    return [row for line in lines if line and (row := _parse(line, path)) is not None]


def _record(rows: Sequence[Row]) -> TrialRecord | None:
    start = next((row for row in rows if isinstance(row, Start)), None)
    if start is None:
        return None
    evaluations = [row for row in rows if isinstance(row, EvaluationRow)]
    latest = {row.step: row for row in evaluations}
    ends = [row for row in rows if isinstance(row, End)]
    return TrialRecord(
        start=start,
        evaluations=tuple(latest[step] for step in sorted(latest)),
        end=ends[-1] if ends else None,
        num_repeated=len(evaluations) - len(latest),
        costs=Costs.of(rows),
        num_sampled=sum(row.num_samples for row in evaluations),
        usage=Usage.of(rows),
        interruptions=tuple({row.time: row for row in rows if isinstance(row, Interruption)}.values()),
    )


def baseline_curves(records: Iterable[TrialRecord], metric: str) -> list[Curve]:
    """The curves of all baseline seeds that have not failed."""
    return [record.curve(metric) for record in records if record.is_baseline and record.outcome != FAILED]


def in_order(records: Iterable[TrialRecord | None]) -> list[TrialRecord]:
    """Those that there are, in the order of their start."""
    return sorted((record for record in records if record is not None), key=_by_start)


def _by_start(record: TrialRecord) -> tuple[int, float, str]:
    order = record.start.order
    return (-1, record.start.time, record.trial) if order is None else (order, 0.0, record.trial)


def peer_curves(records: Iterable[TrialRecord], trial: str, metric: str) -> list[Curve]:
    """The curves of all candidates but `trial` that have not failed, however they ended.

    An audited one has none after the step at which it would have been stopped: an audit changes nothing for others.
    """
    others = (record for record in records if record.start.role == CANDIDATE and record.trial != trial)
    return [_until_audited(record, metric) for record in others if record.outcome != FAILED]


def _until_audited(record: TrialRecord, metric: str) -> Curve:
    steps = [row.step for row in record.evaluations if row.verdict and row.verdict.get("audited")]
    curve = record.curve(metric)
    return {step: scores for step, scores in curve.items() if step <= steps[0]} if steps else curve


def verdict_row(verdict: Verdict | None) -> dict[str, Any] | None:
    """A verdict as JSON holds and gives it back: an infinite gap becomes the largest number, a tuple a list."""
    if verdict is None:
        return None
    return {name: _plain(value) for name, value in asdict(verdict).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return max(-LARGEST_GAP, min(LARGEST_GAP, value)) if isinstance(value, float) else value


def recorded_verdict(row: EvaluationRow) -> Verdict | None:
    """The verdict of a row, whatever version has written it: what is missing has its default, the rest is left out."""
    if not row.verdict:
        return None
    known = {field.name for field in fields(Verdict)}
    # JSON knows no tuples.
    told: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in row.verdict.items() if name in known
    }
    return Verdict(**told)


def _line(row: Row) -> bytes:
    try:
        return json.dumps(asdict(row), allow_nan=False, separators=(",", ":")).encode() + b"\n"
    except ValueError as error:
        numbers = asdict(row)
        if isinstance(row, EvaluationRow):
            numbers |= {
                f"{metric} (n={n})": value for n, looks in row.nested.items() for metric, value in looks.items()
            }
            numbers |= row.metrics
        odd = [f"{name} is {n}" for name, n in numbers.items() if isinstance(n, float) and not math.isfinite(n)]
        raise ValueError(f"{', '.join(odd) or error}; allowed are finite numbers") from error


def _parse(line: bytes, path: Location) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    if not isinstance(row, dict):  # garbage that happens to read as a number
        return None
    try:
        return _KINDS[row["kind"]](**row)
    except (KeyError, TypeError) as error:
        raise LedgerError(f"{path}: not a row of this version's ledger: {line[:80]!r}") from error
