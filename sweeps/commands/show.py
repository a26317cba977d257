"""Show one trial: its settings, its curve against the baseline's, every verdict, what it has cost and how it ended."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sweeps.commands.chosen_sweep import add_sweep_argument, sweep_meant, trial_meant

if TYPE_CHECKING:
    from sweeps.ledger import EvaluationRow, TrialRecord
    from sweeps.space import SearchSpace
    from sweeps.standing import Observer

SUMMARY = "show a trial: settings, curve, verdicts, cost"
EPILOG = """\
examples:
  prx-sweeps show candidate-003                   # of the last sweep in results/; `show 3` is the same
  prx-sweeps show 3 --config                      # every setting of it, as YAML
  prx-sweeps show baseline-seed0 --sweep s3://bucket/results/repa-cluster-0123456789ab

exit codes: 0 done; 2 bad input.
"""
NARROWEST = 100  # columns of the table where it is no terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("trial", metavar="TRIAL", help="its name, the beginning of it, or a candidate's number")
    add_sweep_argument(parser, positional=False)
    parser.add_argument("--config", action="store_true", help="print the whole configuration instead, as YAML")


def run(options: argparse.Namespace) -> int:
    from sweeps.recorded import space_of  # knows the space, which imports torch
    from sweeps.standing import Observer

    paths = sweep_meant(options.sweep)
    trial, space = trial_meant(paths, options.trial), space_of(paths)
    observer = Observer(space=space, paths=paths, planned=0, since=None)
    observer.look()
    record = next(record for record in observer.records if record.trial == trial)
    if options.config:
        sys.stdout.write(_yaml(space, record))
        return 0
    console = Console(file=sys.stdout, highlight=False)
    if not console.is_terminal:
        console.width = max(NARROWEST, console.width)
    for name, text in _facts(observer, record):
        console.print(Text(f"{name:<10} {text}"))
    if record.evaluations:
        console.print(_curve(observer, record))
        if len(record.evaluations[-1].metrics) > 1:
            console.print(_others(record))
    for line in _verdicts(record):
        console.print(Text(line))
    return 0


def _yaml(space: SearchSpace, record: TrialRecord) -> str:
    import yaml

    from sweeps.config import to_plain

    start = record.start
    config = space.baseline_config(start.seed)
    if not record.is_baseline:
        config = space.candidate_config(start.overrides, start.seed)
    return yaml.safe_dump(to_plain(config), sort_keys=False)


def _facts(observer: Observer, record: TrialRecord) -> Iterator[tuple[str, str]]:
    from sweeps.costs import Costs
    from sweeps.live_view import reading_in_words
    from sweeps.wording import count, duration, shares

    start, end, reading = record.start, record.end, observer.reading(record)
    yield "trial", f"{record.trial} of {observer.paths.root.name}"
    more = f", confirms {start.confirms}" if start.confirms else ""
    yield "role", f"{start.role}, seed {start.seed}{more}"
    for path, value in start.overrides.items():
        yield "settings", f"{path}: {value}"
    state, reason = ("running", "") if end is None else (end.outcome, f": {end.reason}")
    yield "outcome", f"{state} at step {observer.step(record)} of {start.num_steps}{reason}"
    if start.reused_from:
        yield "reused", f"from {start.reused_from}, which has paid for it"
    if reading is not None:
        metric = observer.space.objective.metric
        yield "objective", f"{metric} {reading_in_words(reading)} at step {reading.step}"
    costs: Costs = record.costs
    if costs.total_s:
        used = f" ({record.usage})" if str(record.usage) else ""
        again = f"; {count(record.num_repeated, 'evaluation')} made again after resumes" if record.num_repeated else ""
        yield "cost", f"{duration(costs.total_s)}{used}: {shares(costs)}{again}"
    yield "log", str(observer.paths.trial_log(record.trial))
    yield "samples", str(observer.paths.samples_of(record.trial))


def _curve(observer: Observer, record: TrialRecord) -> Table:
    """The objective, evaluation by evaluation."""
    from sweeps.wording import number, signed_percent

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    names = ("step", "n", observer.space.objective.metric, "to baseline", "spreads", "strikes", "loss", "images/s")
    for name in names:
        table.add_column(Text(name), justify="right", overflow="fold")
    for row in record.evaluations:
        reading = observer.reading_at(record, row.step)
        value = "-" if reading is None else f"{'≈ ' if reading.estimate.scaled else ''}{number(reading.value)}"
        percent = "-" if reading is None or reading.percent is None else signed_percent(reading.percent)
        gap = "-" if reading is None or reading.gap is None else f"{reading.gap:+.1f}"
        rest = [_strikes(row), f"{row.flow_loss:.4f}", number(row.images_per_s)]
        table.add_row(str(row.step), str(row.num_samples), value, percent, gap, *rest)
    return table


def _strikes(row: EvaluationRow) -> str:
    return "-" if not row.verdict else str(row.verdict.get("strikes", "-"))


def _others(record: TrialRecord) -> Table:
    """Every metric as it was measured, with the number of samples of the table above."""
    from sweeps.wording import number

    metrics: Sequence[str] = list(dict.fromkeys(name for row in record.evaluations for name in row.metrics))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="all metrics, as measured", title_justify="left")
    for name in ("step", *metrics):
        table.add_column(Text(name), justify="right", overflow="fold")
    for row in record.evaluations:
        values: list[Any] = [number(row.metrics[name]) if name in row.metrics else "-" for name in metrics]
        table.add_row(str(row.step), *values)
    return table


def _verdicts(record: TrialRecord) -> Iterator[str]:
    judged = [row for row in record.evaluations if row.verdict]
    if judged:
        yield "verdicts"
    for row in judged:
        assert row.verdict is not None
        decided = "stop" if row.verdict.get("stop") else "audited" if row.verdict.get("audited") else "go on"
        yield f"  step {row.step:>6}  {decided:<8} {row.verdict.get('reason', '')}"
