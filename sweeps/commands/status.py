"""Tell where a sweep stands, from another shell or machine: while it runs, or after.

Read are its ledger, its heartbeats and the lock of the process that runs it; no process is spoken to.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.live import Live

from sweeps.commands.chosen_sweep import add_sweep_argument, sweep_meant
from sweeps.drivers import Driver, driver_of
from sweeps.storage import SweepPaths

SUMMARY = "tell where a sweep stands: whether it runs, its trials, its best, what it has used"
EPILOG = """\
examples:
  prx-sweeps status                                        # of the last sweep in results/
  prx-sweeps status results/repa-laptop-0123456789ab --all
  prx-sweeps status s3://bucket/results/repa-cluster-0123456789ab --watch
  prx-sweeps status --json | jq 'select(.kind == "standing") | .running[] | {trial, step, left_s}'

exit codes: 0 done; 2 bad input; 130 interrupted, which is how a --watch ends.
"""
MOST_TRIALS = 20
WATCH_S = 5.0  # between two looks of --watch
DRIVER_LOOK_S = 30.0  # and at the driver's lock


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_sweep_argument(parser, positional=True)
    parser.add_argument("--all", action="store_true", help=f"every trial, and not {MOST_TRIALS} at most")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--watch", action="store_true", help="stay, and show it until its driver has ended, or Ctrl-C")
    how.add_argument("--json", action="store_true", help="the objects `driver`, `standing` and `answer` of the events")


def run(options: argparse.Namespace) -> int:
    from sweeps.agenda import num_trials
    from sweeps.recorded import space_of  # knows the space, which imports torch
    from sweeps.standing import Observer

    paths = sweep_meant(options.sweep)
    console, driver, space = Console(file=sys.stdout, highlight=False), driver_of(paths), space_of(paths)
    since = _last_start(paths) if driver.alive else None
    observer = Observer(space=space, paths=paths, planned=num_trials(space), since=since, resting=driver.alive is False)
    if options.json:
        _print_json(observer, driver)
    elif options.watch and console.is_terminal:
        _watch(console, observer, driver)
    else:
        observer.look()
        console.print(_view(observer, driver, console.width, None if options.all else MOST_TRIALS))
        console.print(_summary(observer).answer, markup=False)
    return 0


def _view(observer: Any, driver: Driver, width: int, most: int | None) -> Any:
    from sweeps.live_view import whole_view

    facts = [("sweep", str(observer.paths.root)), ("question", observer.space.question or "none given")]
    runs = {True: "running: ", False: "not running: ", None: ""}[driver.alive]
    return whole_view(observer.standing(), [*facts, ("driver", f"{runs}{driver.told}")], width=width, most=most)


def _summary(observer: Any) -> Any:
    from sweeps.summary import summary_of

    return summary_of(observer.space, observer.records)


def _watch(console: Console, observer: Any, driver: Driver) -> None:
    """Until nobody runs it any more. The last view stays."""
    asked = time.monotonic()
    with Live(console=console, auto_refresh=False) as live:
        while True:
            begun = time.monotonic()
            observer.look()
            observer.resting = driver.alive is False
            most = max(6, console.height - 14)
            live.update(_view(observer, driver, console.width, most), refresh=True)
            if driver.alive is False:
                break
            time.sleep(max(WATCH_S, 10 * (time.monotonic() - begun)))
            if time.monotonic() - asked > DRIVER_LOOK_S:
                asked, driver = time.monotonic(), driver_of(observer.paths)
    console.print(_summary(observer).answer, markup=False)


def _print_json(observer: Any, driver: Driver) -> None:
    from sweeps.events import Printer, standing_fields

    observer.look()
    summary, printer = _summary(observer), Printer()
    printer("driver", alive=driver.alive, told=driver.told)
    printer("standing", **standing_fields(observer.standing(), with_ended=True))
    best = summary.best.trial if summary.best else None
    printer("answer", answer=summary.answer, complete=summary.complete, best=best, page=str(observer.paths.page))


def _last_start(paths: SweepPaths) -> float | None:
    """When the command was given last."""
    from sweeps.provenance import read_starts

    for start in reversed(read_starts(paths.starts)):
        with suppress(KeyError, TypeError, ValueError):
            told: Mapping[str, Any] = start
            return datetime.strptime(told["time"], "%Y-%m-%dT%H:%M:%S%z").timestamp()
    return None
