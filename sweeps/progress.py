"""What a sweep shows while it runs: a line per event, read from the ledger; in a terminal also where it stands."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.table import Table

from prx_model.data.patience import StorageError
from sweeps.gauges import Gauges
from sweeps.heartbeats import Heartbeats
from sweeps.ledger import FAILED, FINISHED, STOPPED, EvaluationRow, Ledger, TrialRecord, baseline_curves
from sweeps.meanwhile import meanwhile
from sweeps.rule import compare
from sweeps.space import SearchSpace
from sweeps.storage import SweepPaths
from sweeps.titles import short_config
from sweeps.usage import usage_of, used_up
from sweeps.wording import duration

POLL_S = 1.0
STYLES = {FINISHED: "green", STOPPED: "yellow", FAILED: "red"}
PLAIN_HEARTBEAT_S = 60.0  # without a terminal, so often a line says that work goes on


@dataclass
class Watch:
    """Follows a ledger and prints what is new in it. `planned` is the number of trials of the whole sweep.

    gauges: where Prometheus is shown the same.
    """

    console: Console
    space: SearchSpace
    paths: SweepPaths
    planned: int
    gauges: Gauges | None = None
    started: float = field(default_factory=time.monotonic)
    seen: set[tuple[str, str, int]] = field(default_factory=set)
    last_line: float = field(default_factory=time.monotonic)
    done_at_start: float = 0.0
    depth: int = 0  # of the model, kept because every poll tells it
    num_samples: int = 0  # of a whole evaluation, likewise
    heartbeats: Heartbeats = field(init=False)

    def __post_init__(self) -> None:
        self.heartbeats = Heartbeats(self.paths)
        records = Ledger(self.paths).records()
        self.seen = {event for record in records for event in _events(record)}
        self.done_at_start = self._steps_done(records)
        config = self.space.baseline_config(self.space.first_seed)
        self.depth, self.num_samples = config.model.depth, config.evaluation.num_samples

    def poll(self) -> Table | None:
        """Print new events; return the standing of the running trials."""
        records = Ledger(self.paths).records()
        for record in records:
            for event in _events(record):
                if event not in self.seen:
                    self.seen.add(event)
                    self._tell(record, event, records)
        if self.gauges is not None:
            self.gauges.show(records, self._step)
        quiet = time.monotonic() - self.last_line > PLAIN_HEARTBEAT_S
        if quiet and not self.console.is_terminal:
            self._line(self._standing_line(records))
        return self._standing(records)

    def _tell(self, record: TrialRecord, event: tuple[str, str, int], records: Sequence[TrialRecord]) -> None:
        self._print(record, event, records)
        if self.gauges is not None and event[1] == "evaluation":
            self.gauges.count(_row_at(record, event[2]))

    def _line(self, text: str) -> None:
        self.last_line = time.monotonic()
        clock = time.strftime("%H:%M:%S")
        self.console.print(f"[dim]{clock}[/dim]  {text}", highlight=False, soft_wrap=True)

    def _print(self, record: TrialRecord, event: tuple[str, str, int], records: Sequence[TrialRecord]) -> None:
        name, kind, step = event
        if kind == "start":
            self._line(f"{name:<16} starts    {self._config(record)}")
        elif kind == "evaluation":
            self._line(f"{name:<16} {step:>6}/{record.start.num_steps}  {self._measured(record, step, records)}")
        elif kind == "interruption":
            one = record.interruptions[step]
            self._line(f"{name:<16} goes on at step {one.step} after a {one.cause}: {one.reason}")
        elif record.end is not None:
            style = STYLES[record.end.outcome]
            self._line(f"{name:<16} [{style}]{record.end.outcome}[/{style}] at step {step}: {record.end.reason}")
            if record.end.outcome == FAILED:
                self._line(f"{'':<16} log: {record.end.log}")

    def _measured(self, record: TrialRecord, step: int, records: Sequence[TrialRecord]) -> str:
        row = _row_at(record, step)
        metric = self.space.objective.metric
        notes = [] if row.num_samples >= self.num_samples else [f"n={row.num_samples}"]
        if not record.is_baseline:
            compared = compare(record.curve(metric), baseline_curves(records, metric), mode=self.space.objective.mode)
            gap = next((gap.gap for gap in compared if gap.step == step), None)
            if gap is None:
                notes.append("baseline not there yet")
            elif abs(gap) < 1e6:
                notes.append(f"{gap:+.1f} spreads")
        if row.verdict and row.verdict.get("audited"):
            notes.append("audited: it goes on")
        note = f" ({', '.join(notes)})" if notes else ""
        return f"{metric} {row.metrics[metric]:.4g}{note}  loss {row.flow_loss:.3f}  {row.images_per_s:.0f} images/s"

    def _config(self, record: TrialRecord) -> str:
        if record.is_baseline:
            return f"seed {record.start.seed}"
        if record.start.confirms:
            return f"seed {record.start.seed} of {record.start.confirms}"
        return short_config(record.start.overrides, self.depth)

    def _running(self, records: Sequence[TrialRecord]) -> list[TrialRecord]:
        return [record for record in records if record.end is None]

    def _step(self, record: TrialRecord) -> int:
        """The step a running trial has come to, by its heartbeat."""
        return max(record.last_step, self.heartbeats.step(record.trial))

    def _steps_done(self, records: Sequence[TrialRecord]) -> float:
        """Trials' worth of work that needs no more doing: an ended trial is whole, however early it ended."""
        return sum(1.0 if r.end is not None else self._step(r) / r.start.num_steps for r in records)

    def remaining_s(self, records: Sequence[TrialRecord]) -> float | None:
        done = self._steps_done(records)
        if done - self.done_at_start < 0.2:
            return None
        pace = (time.monotonic() - self.started) / (done - self.done_at_start)
        return max(0.0, pace * (self.planned - done))

    def _standing_line(self, records: Sequence[TrialRecord]) -> str:
        ended = sum(record.end is not None for record in records)
        running = ", ".join(f"{r.trial} {self._step(r)}/{r.start.num_steps}" for r in self._running(records))
        remaining = self.remaining_s(records)
        left = f", about {duration(remaining)} left" if remaining is not None else ""
        usage = usage_of(records)
        used = f", {usage} used" if str(usage) else ""
        spent = used_up(self.space.budget, usage)
        if spent:
            left = f", {spent.partition(':')[0]}"
        elapsed = duration(time.monotonic() - self.started)
        return f"{ended} of {self.planned} trials ended, {elapsed} gone{left}{used}; running: {running or 'starting'}"

    def _standing(self, records: Sequence[TrialRecord]) -> Table:
        table = Table.grid(padding=(0, 2))
        for record in self._running(records):
            step, total = self._step(record), record.start.num_steps
            filled = round(20 * step / total)
            bar = f"[cyan]{'━' * filled}[/cyan][dim]{'━' * (20 - filled)}[/dim]"
            table.add_row(record.trial, bar, f"{step}/{total}", f"[dim]{self._config(record)}[/dim]")
        table.add_row(f"[dim]{self._standing_line(records).split(';')[0]}[/dim]")
        return table


def _row_at(record: TrialRecord, step: int) -> EvaluationRow:
    return next(row for row in record.evaluations if row.step == step)


def _events(record: TrialRecord) -> Iterator[tuple[str, str, int]]:
    """Every row of a trial as something to be told once."""
    yield record.trial, "start", 0
    for row in record.evaluations:
        yield record.trial, "evaluation", row.step
    for number, _ in enumerate(record.interruptions):
        yield record.trial, "interruption", number
    if record.end is not None:
        yield record.trial, "end", record.end.step


@contextmanager
def watching(watch: Watch) -> Iterator[None]:
    """Show progress while the body runs."""
    with _display(watch.console) as show:

        def follow() -> None:
            with suppress(StorageError):  # whoever writes there tells of it
                show(watch.poll())

        try:
            with meanwhile(POLL_S, follow):
                yield
        finally:
            watch.poll()


@contextmanager
def _display(console: Console) -> Iterator[Callable[[Table | None], None]]:
    """A live table in a terminal; nothing but the event lines elsewhere."""
    if not console.is_terminal:
        yield lambda _table: None
        return
    # What others print is on its way to a file already; Live would bring it back.
    with Live(
        console=console, refresh_per_second=2, transient=True, redirect_stdout=False, redirect_stderr=False
    ) as live:
        yield lambda table: live.update(table or "")


class CacheProgress:
    """Tells of long preparations: each stage when it begins, and how far it is every few seconds."""

    def __init__(self, console: Console, every_s: float = 5.0) -> None:
        self.console, self.every_s = console, every_s
        self.stage, self.begun, self.told = "", 0.0, 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if stage != self.stage:
            self.stage, self.begun, self.told = stage, now, now
            self.console.print(f"  {stage} ({total})", highlight=False)
        elif now - self.told >= self.every_s and done < total:
            self.told = now
            left = (now - self.begun) / max(done, 1) * (total - done)
            self.console.print(f"  {stage}: {done} of {total}, about {duration(left)} left", highlight=False)
