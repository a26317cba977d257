"""Print the log of a trial: what its first worker has done, evaluation by evaluation, and what has gone wrong.

On a disk it is written as it happens. In S3 it is sent at every evaluation and at the trial's end.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from sweeps.commands.chosen_sweep import add_sweep_argument, sweep_meant, trial_meant
from sweeps.drivers import driver_of
from sweeps.ledger import Ledger
from sweeps.locations import Location
from sweeps.storage import SweepPaths

SUMMARY = "print a trial's log, or follow it"
EPILOG = """\
examples:
  prx-sweeps logs candidate-003                            # of the last sweep in results/; `logs 3` is the same
  prx-sweeps logs baseline-seed0 --tail 20 --follow
  prx-sweeps logs 3 --sweep s3://bucket/results/repa-cluster-0123456789ab --rank 1

exit codes: 0 done; 2 bad input, or no log yet; 130 interrupted.
"""
LOOK_S, STORED_LOOK_S = 1.0, 15.0  # between two looks at a log that is followed; in S3 it is fetched whole
QUIET_LOOK_S = 15.0  # between two questions whether anybody writes it still


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("trial", metavar="TRIAL", help="its name, the beginning of it, or a candidate's number")
    add_sweep_argument(parser, positional=False)
    parser.add_argument("--tail", type=int, metavar="N", help="only the last N lines, and what comes after them")
    parser.add_argument("--follow", action="store_true", help="stay until it has ended, or nobody runs the sweep")
    parser.add_argument(
        "--rank", type=int, default=0, metavar="N", help="of a worker beside the first: in S3 each has its own log (0)"
    )


def run(options: argparse.Namespace) -> int:
    paths = sweep_meant(options.sweep)
    trial = trial_meant(paths, options.trial)
    log = _log(paths, trial, options.rank)
    shown = _shown_from(_content(log), options.tail)
    if not shown and not options.follow:
        raise ValueError(f"{log}: no log yet; --follow waits for it")
    sys.stdout.write(shown)
    sys.stdout.flush()
    if options.follow:
        _follow(paths, trial, log)
    return 0


def _log(paths: SweepPaths, trial: str, rank: int) -> Location:
    if rank == 0:
        return paths.trial_log(trial)
    if isinstance(paths.root, Path):
        raise ValueError(f"--rank: got {rank}, allowed is 0: on a disk all workers of a trial write into one log")
    return paths.trial_log(f"{trial}-rank{rank}")


def _content(log: Location) -> bytes:
    try:
        return log.read_bytes()
    except FileNotFoundError:
        return b""


def _shown_from(content: bytes, tail: int | None) -> str:
    text = content.decode(errors="replace")
    return text if tail is None else "".join(text.splitlines(keepends=True)[-tail:] if tail > 0 else [])


def _follow(paths: SweepPaths, trial: str, log: Location) -> None:
    """Print what comes. It ends with the trial, or where nobody is there to write any more."""
    seen, look_s, asked = len(_content(log)), LOOK_S if isinstance(log, Path) else STORED_LOOK_S, 0.0
    while True:
        over = False
        if time.monotonic() - asked > QUIET_LOOK_S:
            asked = time.monotonic()
            record = Ledger(paths).record(trial)
            over = (record is not None and record.end is not None) or driver_of(paths).alive is False
        new = _since(log, seen)  # after the question: what was written before an end is printed
        seen += len(new)
        sys.stdout.write(new.decode(errors="replace"))
        sys.stdout.flush()
        if over:
            return
        time.sleep(look_s)


def _since(log: Location, seen: int) -> bytes:
    if not isinstance(log, Path):
        return _content(log)[seen:]
    try:
        with log.open("rb") as file:
            file.seek(seen)
            return file.read()
    except FileNotFoundError:
        return b""
