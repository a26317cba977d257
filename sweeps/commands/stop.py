"""Stop a trial of a sweep: it ends in order, as `stopped`, and the ledger says by whom and why.

The request is a file in the sweep's folder, so that it may come from any machine that reaches the results; the trial
finds it within seconds (in S3 a quarter of a minute) and ends at its next pause or evaluation. A trial that waits, or
whose sweep is not running, ends when its turn comes. The rule, its audit and Optuna take it for no verdict.
"""

from __future__ import annotations

import argparse
import time

from sweeps.commands.chosen_sweep import add_sweep_argument, sweep_meant, trial_meant
from sweeps.drivers import driver_of
from sweeps.ledger import Ledger, TrialRecord
from sweeps.stop_requests import ask_to_stop

SUMMARY = "stop a trial of a sweep, in order and with a reason"
EPILOG = """\
examples:
  prx-sweeps stop candidate-003 --why "the loss is flat"   # of the only sweep in results/; `stop 3` is the same
  prx-sweeps stop 3 --sweep s3://bucket/results/repa-cluster-0123456789ab --wait 600

exit codes: 0 asked (with --wait: ended); 1 not ended within --wait; 2 bad input, or the trial has ended already.
"""
EXIT_NOT_ENDED = 1
LOOK_S = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("trial", metavar="TRIAL", help="its name, the beginning of it, or a candidate's number")
    add_sweep_argument(parser, positional=False)
    parser.add_argument("--why", default="", metavar="TEXT", help="for the ledger and the page")
    parser.add_argument("--wait", type=float, metavar="SECONDS", help="until it has ended, but no longer than that")


def run(options: argparse.Namespace) -> int:
    paths = sweep_meant(options.sweep, sure=True)
    trial = trial_meant(paths, options.trial)
    ledger = Ledger(paths)
    record = ledger.record(trial)
    if record is not None and record.end is not None:
        raise ValueError(f"{trial} of {paths.root.name} has ended already: {_ending(record)}")
    ask_to_stop(paths, trial, options.why)
    driver = driver_of(paths)
    when = "it ends at its next pause or evaluation"
    if driver.alive is False:
        when = "nobody runs the sweep now: it ends when the sweep goes on and its turn comes"
    print(f"{trial} of {paths.root.name} is asked to stop; {when}.", flush=True)
    if record is not None and record.is_baseline:
        print(f"It is a baseline seed: candidates are compared with its curve to step {record.last_step} only.")
    return _wait(ledger, trial, options.wait) if options.wait else 0


def _wait(ledger: Ledger, trial: str, seconds: float) -> int:
    until = time.monotonic() + seconds
    while True:
        record = ledger.record(trial)
        if record is not None and record.end is not None:
            print(f"{trial} has ended: {_ending(record)}")
            return 0
        if time.monotonic() >= until:
            print(f"{trial} has not ended within {seconds:g} s; the request stays")
            return EXIT_NOT_ENDED
        time.sleep(min(LOOK_S, max(0.1, until - time.monotonic())))


def _ending(record: TrialRecord) -> str:
    end = record.end
    assert end is not None, record.trial
    return f"{end.outcome} at step {end.step}: {end.reason}"
