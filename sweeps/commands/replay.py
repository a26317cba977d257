"""Judge a recorded sweep again, under other settings of the stopping rule.

LEDGER is the folder of a sweep's results, or the folder 'ledger' in it. Told is for every candidate when it would have
been stopped, what that would have saved by the trial's own seconds, and how it really ended: whether it would have been
lost. Nothing is trained, and nothing is written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console

from sweeps.config import nearest
from sweeps.ledger import CANDIDATE, Ledger, TrialRecord, baseline_curves
from sweeps.locations import location
from sweeps.looks import MIN_SEEDS
from sweeps.recorded import RecordedError, recorded, sweep_of
from sweeps.replay import replay
from sweeps.replay_table import WIDTH, lines, settings_line, table
from sweeps.rule import ADAPTIVE, FULL, StopConfig
from sweeps.storage import SweepPaths

SUMMARY = "judge a recorded sweep again under other stopping settings"
EPILOG = """\
examples:
  prx-sweeps replay results/repa-laptop-0123456789ab                           # its own settings: what the rule did
  prx-sweeps replay results/repa-laptop-0123456789ab --margin 1 --patience 1   # a stricter rule

exit codes: 0 done; 2 bad input.
"""
NEEDED, OTHERS = ("margin", "patience", "grace"), ("min_seeds", "evaluation")  # the first by hand, where none is known


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ledger", metavar="LEDGER", type=location, help="folder or s3:// address of a sweep's results")
    rule = parser.add_argument_group("the rule; what is not given is as the sweep had it")
    rule.add_argument("--margin", type=float, metavar="X", help="gap in spreads above which an evaluation is a strike")
    rule.add_argument("--patience", type=int, metavar="N", help="so many strikes in a row stop a candidate")
    rule.add_argument("--grace", type=float, metavar="X", help="fraction of the run in which nothing is a strike")
    rule.add_argument("--min-seeds", type=int, metavar="N", help="baseline seeds that a step needs to be judged")
    rule.add_argument("--evaluation", choices=(ADAPTIVE, FULL), help="as few samples as decide, or always all")
    objective = parser.add_argument_group("what is judged")
    objective.add_argument("--metric", metavar="NAME", help="a metric of the ledger (the sweep's objective)")
    objective.add_argument("--mode", choices=("min", "max"), help="whether less or more of it is better")


def run(options: argparse.Namespace) -> int:
    """Print the replay; the exit code."""
    console = Console(file=sys.stdout, width=WIDTH, highlight=False, markup=False)
    paths = sweep_of(options.ledger)
    records = Ledger(paths).records()
    if all(record.start.role != CANDIDATE for record in records):
        raise RecordedError(f"{paths.ledger}: no candidate in it; allowed is a sweep that has started one")
    if options.metric is not None:
        _check_metric(records, options.metric, paths)
    own = recorded(paths, metric=options.metric, mode=options.mode)
    _check_metric(records, own.metric, paths)
    stop = _stop_config(options, own.stop)
    again = replay(records, stop, metric=own.metric, mode=own.mode)
    console.print(
        f"{paths.root.name}: {own.metric} ({own.mode}), {len(again.courses)} candidates, {again.num_seeds} baseline "
        f"seeds, n = {again.num_samples}"
    )
    console.print(f"recorded  {settings_line(own.stop) if own.stop else 'unknown settings'}")
    console.print(f"replayed  {settings_line(stop)}")
    console.print(table(again))
    for line in lines(again):
        console.print(line)
    return 0


def _check_metric(records: Sequence[TrialRecord], metric: str, paths: SweepPaths) -> None:
    """Something must be known of the metric, and of at least two baseline seeds."""
    known = sorted({name for record in records for row in record.evaluations for name in row.metrics})
    if not known:
        raise RecordedError(f"{paths.ledger}: no evaluation in it yet")
    if metric not in known:
        raise RecordedError(f"--metric: got {metric!r}{nearest(metric, known)}")
    seeds = sum(bool(curve) for curve in baseline_curves(records, metric))
    if seeds < MIN_SEEDS:
        raise RecordedError(f"{paths.ledger}: {seeds} baseline seeds with {metric}; needed are {MIN_SEEDS} to judge by")


def _stop_config(options: argparse.Namespace, own: StopConfig | None) -> StopConfig:
    """The sweep's own rule with what the options change."""
    given = {name: value for name in (*NEEDED, *OTHERS) if (value := getattr(options, name)) is not None}
    missing = [f"--{name}" for name in NEEDED if own is None and name not in given]
    if missing:
        raise RecordedError(f"{options.ledger}: the sweep's own rule is not known; give {', '.join(missing)} by hand")
    try:
        return replace(own or StopConfig(), **given)
    except ValueError as error:
        raise RecordedError(f"--{str(error).replace('_', '-', 1)}") from error
