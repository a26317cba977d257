"""Make the logbook page of a sweep anew, from its ledger: of one that runs, was cut off, or has ended.

RESULTS is the folder of a sweep's results, on a disk or in S3, or the folder 'ledger' in it. Written there are
index.html, its Markdown twin page.md and the twin's pictures. Nothing else is changed, and nothing is trained.
"""

from __future__ import annotations

import argparse
import sys

from sweeps.ledger import Ledger
from sweeps.locations import location
from sweeps.page import write_page
from sweeps.provenance import read_starts
from sweeps.recorded import recorded_space, sweep_of
from sweeps.summary import summarise

SUMMARY = "make the page of a sweep anew, from its ledger"
EPILOG = """\
examples:
  prx-sweeps report results/repa-laptop-0123456789ab
  prx-sweeps report s3://bucket/results/repa-cluster-0123456789ab   # also while it runs

exit codes: 0 done; 2 bad input.
"""
EXIT_BAD_INPUT = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "results", metavar="RESULTS", type=location, help="folder or s3:// address of a sweep's results"
    )


def run(options: argparse.Namespace) -> int:
    """Write the page, and print the answer and where it lies; the exit code."""
    try:
        paths = sweep_of(options.results)
        space = recorded_space(paths)
        summary = summarise(space, Ledger(paths))
        page = write_page(space, paths, summary, read_starts(paths.starts))
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_BAD_INPUT
    print(summary.answer)
    print(f"page: {page}\nmarkdown: {paths.markdown}")
    return 0
