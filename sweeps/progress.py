"""What a sweep tells while it runs, read from its ledger: lines for people, events for machines, a live view."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from rich.console import Console, RenderableType
from rich.live import Live
from rich.markup import escape

from prx_model.data.patience import StorageError
from sweeps.events import Printer, end_fields, evaluation_fields, standing_fields, start_fields
from sweeps.gauges import Gauges
from sweeps.ledger import FAILED, EvaluationRow, Interruption, TrialRecord
from sweeps.live_view import STYLES, compute_line, live_view, trials_line
from sweeps.meanwhile import meanwhile
from sweeps.readings import Reading
from sweeps.standing import Observer, Standing
from sweeps.storage import SweepPaths
from sweeps.usage import Usage
from sweeps.wording import FAR, duration

POLL_S, STORED_POLL_S = 1.0, 5.0  # in S3 every look is a listing, which is paid for
LONGEST_POLL_S = 10.0  # what Prometheus is shown is forgotten after 20 s
MOST_SHARE = 0.1  # of the time that looks may take: those of a very large sweep come less often
STANDING_S = 60.0  # so often it is told where the sweep stands, if nothing else was


class Teller(Protocol):
    """Tells of rows that were not in the ledger before. `standing` comes with every look."""

    def start(self, record: TrialRecord, config: str) -> None: ...
    def evaluation(self, record: TrialRecord, row: EvaluationRow, reading: Reading | None) -> None: ...
    def interruption(self, record: TrialRecord, one: Interruption) -> None: ...
    def end(self, record: TrialRecord) -> None: ...
    def standing(self, standing: Standing) -> None: ...


class Lines:
    """A line per event for people; without a terminal also, now and then, where the sweep stands."""

    def __init__(self, console: Console, metric: str, num_samples: int) -> None:
        """num_samples: of a whole evaluation."""
        self.console, self.metric, self.num_samples = console, metric, num_samples
        self.told = time.monotonic()

    def start(self, record: TrialRecord, config: str) -> None:
        self._line(f"{record.trial:<16} starts    {escape(config)}")

    def evaluation(self, record: TrialRecord, row: EvaluationRow, reading: Reading | None) -> None:
        notes = [] if row.num_samples >= self.num_samples else [f"n={row.num_samples}"]
        if not record.is_baseline:
            gap = None if reading is None else reading.gap
            if gap is None:
                notes.append("baseline not there yet")
            elif abs(gap) < FAR:
                notes.append(f"{gap:+.1f} spreads")
        if row.verdict and row.verdict.get("audited"):
            notes.append("audited: it goes on")
        note = f" ({', '.join(notes)})" if notes else ""
        value = f"{self.metric} {row.metrics[self.metric]:.4g}{note}"
        rest = f"loss {row.flow_loss:.3f}  {row.images_per_s:.0f} images/s"
        self._line(f"{record.trial:<16} {row.step:>6}/{record.start.num_steps}  {value}  {rest}")

    def interruption(self, record: TrialRecord, one: Interruption) -> None:
        self._line(f"{record.trial:<16} goes on at step {one.step} after a {one.cause}: {escape(one.reason)}")

    def end(self, record: TrialRecord) -> None:
        end = record.end
        assert end is not None, record.trial
        style = STYLES[end.outcome]
        told = f"[{style}]{end.outcome}[/{style}] at step {end.step}: {escape(end.reason)}"
        self._line(f"{record.trial:<16} {told}")
        if end.outcome == FAILED:
            self._line(f"{'':<16} log: {escape(end.log)}")

    def standing(self, standing: Standing) -> None:
        if not self.console.is_terminal and time.monotonic() - self.told > STANDING_S:
            self._line(standing_line(standing))

    def _line(self, text: str) -> None:
        self.told = time.monotonic()
        self.console.print(
            f"[dim]{time.strftime('%H:%M:%S')}[/dim]  {text}", highlight=False, soft_wrap=not self.console.is_terminal
        )


class Events:
    """The same for machines (sweeps.events): where the sweep stands once a minute."""

    def __init__(self, printer: Printer) -> None:
        self.printer, self.told = printer, time.monotonic()

    def start(self, record: TrialRecord, config: str) -> None:
        self.printer("start", **start_fields(record))

    def evaluation(self, record: TrialRecord, row: EvaluationRow, reading: Reading | None) -> None:
        self.printer("evaluation", **evaluation_fields(record, row, reading))

    def interruption(self, record: TrialRecord, one: Interruption) -> None:
        self.printer("interruption", trial=record.trial, step=one.step, cause=one.cause, reason=one.reason)

    def end(self, record: TrialRecord) -> None:
        self.printer("end", **end_fields(record))

    def standing(self, standing: Standing) -> None:
        if time.monotonic() - self.told > STANDING_S:
            self.told = time.monotonic()
            self.printer("standing", **standing_fields(standing, with_ended=False))


@dataclass
class Watch:
    """Follows a ledger and has what is new in it told.

    teller: None tells nothing. gauges: where Prometheus is shown the same. resources: what the cluster has, in words.
    """

    observer: Observer
    teller: Teller | None = None
    gauges: Gauges | None = None
    resources: Callable[[], str] = lambda: ""
    seen: set[tuple[str, str, int]] = field(init=False)

    def __post_init__(self) -> None:
        self.seen = {event for record in self.observer.look() for event in _events(record)}

    def poll(self) -> Standing:
        """Tell new events; where the sweep stands."""
        for record in self.observer.look():
            for event in _events(record):
                if event not in self.seen:
                    self.seen.add(event)
                    self._tell(record, *event[1:])
        if self.gauges is not None:
            self.gauges.show(self.observer.records, self.observer.step)
        standing = self.observer.standing()
        if self.teller is not None:
            self.teller.standing(standing)
        return standing

    def _tell(self, record: TrialRecord, kind: str, step: int) -> None:
        row = next((row for row in record.evaluations if row.step == step), None)
        if kind == "evaluation" and self.gauges is not None and row is not None:
            self.gauges.count(row)
        if self.teller is None:
            return
        if kind == "start":
            self.teller.start(record, self.observer.config(record))
        elif kind == "end":
            self.teller.end(record)
        elif kind == "interruption":
            self.teller.interruption(record, record.interruptions[step])
        elif row is not None:
            self.teller.evaluation(record, row, self.observer.reading_at(record, step))


def standing_line(standing: Standing) -> str:
    running = ", ".join(f"{trial.trial} {trial.step}/{trial.num_steps}" for trial in standing.running)
    used = f"; {compute_line(standing)}" if standing.used != Usage() else ""
    return f"{trials_line(standing)}{used}; running: {running or 'starting'}"


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
def watching(watch: Watch, console: Console) -> Iterator[None]:
    """Tell what happens while the body runs; in a terminal with a live view of it below."""
    pace = Pace(watch.observer.paths)
    with _display(console, watch.resources) as show:

        def follow() -> None:
            if pace.is_due():
                with suppress(StorageError), pace.measured():  # whoever writes there tells of it
                    show(watch.poll())

        try:
            with meanwhile(POLL_S, follow):
                yield
        finally:
            watch.poll()


class Pace:
    """When to look again: often, but never for more than a tenth of the time."""

    def __init__(self, paths: SweepPaths) -> None:
        self.least_s = POLL_S if isinstance(paths.root, Path) else STORED_POLL_S
        self.next = 0.0

    def is_due(self) -> bool:
        return time.monotonic() >= self.next

    @contextmanager
    def measured(self) -> Iterator[None]:
        """A look: what it takes says when the next one is."""
        begun = time.monotonic()
        try:
            yield
        finally:
            now = time.monotonic()
            pause_s = max(self.least_s, (now - begun) / MOST_SHARE)
            self.next = now + min(pause_s, LONGEST_POLL_S) - 0.5 * POLL_S  # whoever asks, asks every POLL_S


@contextmanager
def _display(console: Console, resources: Callable[[], str]) -> Iterator[Callable[[Standing], None]]:
    """A live view in a terminal; nothing but the event lines elsewhere."""
    if not console.is_terminal or console.quiet:
        yield lambda standing: None
        return

    def view(standing: Standing) -> RenderableType:
        return live_view(standing, width=console.width, height=console.height, resources=resources())

    # What others print is on its way to a file already; Live would bring it back.
    with Live(
        console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
    ) as live:
        yield lambda standing: live.update(view(standing), refresh=True)


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
