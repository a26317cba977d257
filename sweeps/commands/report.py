"""Make the logbook page of a sweep anew, from its ledger: of one that runs, was cut off, or has ended.

Written into the sweep's folder are index.html, its Markdown twin page.md and the twin's pictures. Nothing else is
changed, and nothing is trained.
"""

from __future__ import annotations

import argparse

from sweeps.commands.chosen_sweep import add_sweep_argument, sweep_meant
from sweeps.ledger import Ledger
from sweeps.page import write_page
from sweeps.provenance import read_starts
from sweeps.recorded import space_of
from sweeps.summary import summarise

SUMMARY = "make the page of a sweep anew, from its ledger"
EPILOG = """\
examples:
  prx-sweeps report results/repa-laptop-0123456789ab
  prx-sweeps report s3://bucket/results/repa-cluster-0123456789ab   # also while it runs

exit codes: 0 done; 2 bad input.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_sweep_argument(parser, positional=True)


def run(options: argparse.Namespace) -> int:
    """Write the page, and print the answer and where it lies; the exit code."""
    paths = sweep_meant(options.sweep)
    space = space_of(paths)
    summary = summarise(space, Ledger(paths))
    page = write_page(space, paths, summary, read_starts(paths.starts))
    print(summary.answer)
    print(f"page: {page}\nmarkdown: {paths.markdown}")
    return 0
