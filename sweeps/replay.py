"""A recorded sweep judged again under other settings: what would have been stopped, saved and lost. Pure.

Evaluations are judged in the order in which the sweep made them, each against what the baseline's seeds had shown by
then, look by look as far as the settings ask for looks: under its own settings a sweep stops what it has stopped.

A ledger cannot tell everything. A candidate that was really stopped has no curve after that step: where the settings
would let it go on, its end is unknown. The audited candidates are what is known of such ends. And an evaluation that
ended on few samples has no more of them: a stop by strikes that rests on fewer samples than the rule takes is marked as
such, and what halving would leave behind on fewer samples goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sweeps.audit import BETTER, audit_of, standing
from sweeps.costs import working_s
from sweeps.ledger import CANDIDATE, FAILED, FINISHED, STOPPED, EvaluationRow, TrialRecord, baseline_curves
from sweeps.looks import Curve, most_samples
from sweeps.rule import StopConfig, compare, is_open, judge


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Where a candidate would have been stopped. `whole`: on all samples, as the rule itself stops."""

    step: int
    gap: float | None
    num_samples: int | None
    whole: bool


@dataclass(frozen=True, kw_only=True)
class Ending:
    """A candidate's objective at the last step, and its gap to the baseline there; None without a comparison."""

    value: float
    gap: float | None


@dataclass(frozen=True, kw_only=True)
class Course:
    """How a candidate has fared, and how it would have.

    outcome: the ledger's; None while it is unfinished. recorded_stop: the step at which the sweep's own rule has
    stopped it, or would have if it were not `audited`. by_hand: a person has. stop: under the settings.
    ending: of a finished one.
    strikes: by step, of the evaluations up to the stop. num_sampled: images for them; num_short: evaluations that the
    settings would have made on more samples than there are.
    recorded_s: what it has spent, repeated work and start-up left out. whole_s: the same to the end, for a stopped one
    estimated from its own seconds per step. spent_s: up to the stop; of an unknown course, as far as it is recorded.
    """

    trial: str
    num_steps: int
    last_step: int
    outcome: str | None
    recorded_stop: int | None
    by_hand: bool
    audited: bool
    stop: Stop | None
    ending: Ending | None
    strikes: Mapping[int, bool]
    num_sampled: int
    num_short: int
    recorded_s: float
    whole_s: float
    spent_s: float

    @property
    def unknown(self) -> bool:
        """Whether it would have gone on beyond what is recorded of it."""
        return self.stop is None and self.outcome not in (FINISHED, FAILED)

    @property
    def saved_s(self) -> float:
        """Against training to the end; 0 where the course is unknown."""
        return 0.0 if self.unknown else self.whole_s - self.spent_s

    @property
    def lost(self) -> bool:
        """Whether it would have been stopped though it ended better than the baseline."""
        gap = self.ending.gap if self.ending else None
        return self.stop is not None and gap is not None and gap < 0

    @property
    def clearly_lost(self) -> bool:
        return self.lost and self.ending is not None and standing(self.ending.gap or 0.0) == BETTER


@dataclass(frozen=True, kw_only=True)
class Replay:
    """All candidates of a sweep under `config`. num_samples: of a whole evaluation; num_seeds: of the baseline."""

    config: StopConfig
    metric: str
    mode: str
    num_samples: int
    num_seeds: int
    courses: tuple[Course, ...]

    @property
    def stopped(self) -> list[Course]:
        return [course for course in self.courses if course.stop is not None]

    @property
    def unknown(self) -> list[Course]:
        return [course for course in self.courses if course.unknown]

    @property
    def lost(self) -> list[Course]:
        return [course for course in self.courses if course.lost]

    @property
    def best(self) -> Course | None:
        """The best that has finished."""
        return self._best(self.courses)

    @property
    def best_left(self) -> Course | None:
        """The best that would have finished, of those whose end is known."""
        return self._best([course for course in self.courses if course.stop is None])

    def _best(self, courses: Sequence[Course]) -> Course | None:
        sign = 1 if self.mode == "min" else -1
        ended = [(sign * course.ending.value, course) for course in courses if course.ending is not None]
        return min(ended, key=lambda pair: pair[0])[1] if ended else None


def replay(
    records: Sequence[TrialRecord], config: StopConfig, *, metric: str, mode: str, hindsight: bool = False
) -> Replay:
    """Judge every candidate again. hindsight: against the baseline as it is now, not as it was at the time."""
    baselines = [record for record in records if record.is_baseline]
    whole = baseline_curves(baselines, metric)
    rules = _Rules(config=config, metric=metric, mode=mode, num_samples=most_samples(whole))
    runs = {record.trial: _Run(record) for record in records if record.start.role == CANDIDATE}
    rows = [row for run in runs.values() for row in run.record.evaluations]
    for row in sorted(rows, key=lambda row: (row.time, row.trial, row.step)):
        peers = _peers_at(row.time, [run for trial, run in runs.items() if trial != row.trial])
        runs[row.trial].judge(row, whole if hindsight else _known_at(row.time, baselines, metric), peers, rules)
    return Replay(
        config=config,
        metric=metric,
        mode=mode,
        num_samples=rules.num_samples,
        num_seeds=len(whole),
        courses=tuple(_course(run, whole, rules) for run in runs.values()),
    )


def _known_at(time: float, baselines: Sequence[TrialRecord], metric: str) -> list[Curve]:
    """The baseline's curves as the ledger had them at a time."""
    return [
        {row.step: scores for row in record.evaluations if row.time <= time and (scores := row.scores(metric))}
        for record in baselines
        if not _had_failed(record, time)
    ]


def _peers_at(time: float, runs: Sequence[_Run]) -> list[Curve]:
    """The other candidates' curves up to where each would have been stopped, without those that had failed by then."""
    return [run.seen for run in runs if not _had_failed(run.record, time)]


def _had_failed(record: TrialRecord, time: float) -> bool:
    return record.end is not None and record.outcome == FAILED and record.end.time <= time


@dataclass(frozen=True, kw_only=True)
class _Rules:
    config: StopConfig
    metric: str
    mode: str
    num_samples: int


@dataclass
class _Run:
    """One candidate on its way through its recorded evaluations."""

    record: TrialRecord
    seen: dict[int, dict[int, float]] = field(default_factory=dict)
    strikes: dict[int, bool] = field(default_factory=dict)
    stop: Stop | None = None
    num_sampled: int = 0
    num_short: int = 0
    spent_s: float = 0.0

    def judge(self, row: EvaluationRow, baselines: Sequence[Curve], peers: Sequence[Curve], rules: _Rules) -> None:
        """Go on to this evaluation, unless the candidate is stopped already."""
        scores, config, num_steps = row.scores(rules.metric), rules.config, self.record.start.num_steps
        if self.stop is not None or not scores:
            return
        short = self._look(row.step, scores, baselines, peers, rules)
        taken = max(self.seen[row.step])
        self.num_sampled += taken
        self.num_short += short
        self.spent_s += working_s([row]) - row.eval_s * (1 - taken / max(scores))
        verdict = judge(self.seen, baselines, config, num_steps=num_steps, mode=rules.mode, peers=peers)
        self.strikes[row.step] = verdict.judged_step == row.step and verdict.strikes > 0
        if row.step < num_steps and (verdict.stop or (short and verdict.strikes >= config.patience)):
            self.stop = Stop(step=row.step, gap=verdict.gap, num_samples=verdict.num_samples, whole=verdict.stop)

    def _look(
        self,
        step: int,
        scores: Mapping[int, float],
        baselines: Sequence[Curve],
        peers: Sequence[Curve],
        rules: _Rules,
    ) -> bool:
        """Take looks until the settings ask for no more. Returns whether they ask for more than there are."""
        self.seen[step] = {}
        for num_samples in sorted(scores):
            self.seen[step][num_samples] = scores[num_samples]
            if not is_open(
                self.seen,
                baselines,
                rules.config,
                num_steps=self.record.start.num_steps,
                num_samples=rules.num_samples,
                mode=rules.mode,
                peers=peers,
            ):
                return False
        return max(scores) < rules.num_samples


def _course(run: _Run, baselines: Sequence[Curve], rules: _Rules) -> Course:
    record, ended = run.record, [run.record.end] if run.record.end is not None else []
    recorded_s = working_s([*record.evaluations, *ended])
    left = record.start.num_steps - record.last_step if record.outcome == STOPPED else 0
    audit = audit_of(record)
    stopped_at = record.last_step if record.stopped_by_rule else None
    return Course(
        trial=record.trial,
        num_steps=record.start.num_steps,
        last_step=record.last_step,
        outcome=record.outcome,
        recorded_stop=stopped_at if audit is None else audit.step,
        by_hand=record.stopped_by_hand,
        audited=audit is not None,
        stop=run.stop,
        ending=_ending(record, baselines, rules),
        strikes=run.strikes,
        num_sampled=run.num_sampled,
        num_short=run.num_short,
        recorded_s=recorded_s,
        whole_s=recorded_s + (recorded_s / record.last_step * left if record.last_step else 0.0),
        spent_s=run.spent_s if run.stop is not None else run.spent_s + working_s(ended),
    )


def _ending(record: TrialRecord, baselines: Sequence[Curve], rules: _Rules) -> Ending | None:
    curve = record.curve(rules.metric)
    if record.outcome != FINISHED or not curve:
        return None
    step = max(curve)
    gaps = compare(curve, baselines, mode=rules.mode)
    gap = next((gap.gap for gap in gaps if gap.step == step), None)
    return Ending(value=record.values(rules.metric)[step], gap=gap)
