"""Put several sweeps on one page: one scoreboard and one figure, where their baseline is the same trial.

Each LEDGER is the folder of a sweep's results, on a disk or in S3, or the folder 'ledger' in it. Where the baselines
differ, or a sweep has not measured the first one's objective, it says in what. Nothing is trained.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sweeps.comparison import Comparison, read_sweeps
from sweeps.locations import location, write_whole
from sweeps.recorded import RecordedError

SUMMARY = "put several sweeps on one page"
EPILOG = """\
examples:
  prx-sweeps compare results/repa_weight-laptop-* results/repa_depth-laptop-*
  prx-sweeps compare results/repa-laptop-0123456789ab s3://bucket/results/irepa-laptop-ba9876543210 --to both.html

exit codes: 0 they compare; 1 they do not, and why is told; 2 bad input.
"""
EXIT_NOT_COMPARABLE = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    told = "folder or s3:// address of a sweep's results; two or more"
    parser.add_argument("ledgers", metavar="LEDGER", type=location, nargs="+", help=told)
    parser.add_argument(
        "--to", type=location, default=Path("comparison.html"), metavar="FILE", help="the page (comparison.html)"
    )


def run(options: argparse.Namespace) -> int:
    """Write the page, and print the best of all, or what differs; the exit code."""
    from sweeps.page.sweeps_page import comparison_page, headline

    if len(options.ledgers) < 2:
        raise RecordedError(f"got one sweep, {options.ledgers[0]}; needed are two or more to compare")
    comparison = Comparison(read_sweeps(options.ledgers))
    write_whole(options.to, comparison_page(comparison).encode())
    print(headline(comparison))
    for line in comparison.obstacles or comparison.differences:
        print(f"  {line}")
    print(f"page: {options.to}")
    return EXIT_NOT_COMPARABLE if comparison.obstacles else 0
