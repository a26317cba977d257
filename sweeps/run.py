"""Run a sweep, or resume it: the same command.

`python sweeps/run.py SPACE` is the same as `prx-sweeps run SPACE`.
"""

from __future__ import annotations

import sys
from pathlib import Path

# `python sweeps/run.py` puts sweeps/ first on the module path; what is meant is the folder above it.
ROOT = Path(__file__).resolve().parent.parent
if sys.path and Path(sys.path[0] or ".").resolve() == ROOT / "sweeps":
    sys.path[0] = str(ROOT)

import argparse  # noqa: E402
import os  # noqa: E402

from sweeps import cluster  # noqa: E402
from sweeps.config import ConfigError  # noqa: E402
from sweeps.ledger import LedgerError  # noqa: E402
from sweeps.locations import location  # noqa: E402
from sweeps.obstacles import obstacle  # noqa: E402
from sweeps.output import (  # noqa: E402
    EXIT_BAD_INPUT,
    EXIT_HALTED,
    EXIT_INTERRUPTED,
    EXIT_TRIAL_FAILED,
    Output,
)
from sweeps.space import SpaceError  # noqa: E402
from sweeps.space_file import read_space, resolve, with_budget  # noqa: E402
from sweeps.storage import SweepPaths  # noqa: E402

__all__ = ["EXIT_BAD_INPUT", "EXIT_HALTED", "EXIT_INTERRUPTED", "EXIT_TRIAL_FAILED", "main", "parse_arguments"]

RESULTS = "results"
SUMMARY = "run a sweep, or resume it: the same command"
EPILOG = """\
examples:
  prx-sweeps run search_spaces/repa.yaml --plan           # what would run, how long it takes; nothing is started
  prx-sweeps run search_spaces/repa.yaml                  # run it, or go on with it
  prx-sweeps run search_spaces/repa.yaml --profile cluster --results s3://bucket/results
  prx-sweeps run search_spaces/repa.yaml --json | jq -c 'select(.kind == "end")'

Ctrl-C ends it in order; the same command goes on.

exit codes: 0 all trials ended well; 1 a trial failed; 2 bad input; 3 halted by what is no fault of a trial's (a full
disk, a lost Ray); 130 interrupted. After 3 and 130 the same command goes on.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("space", metavar="SPACE", type=Path, help="a search-space file: search_spaces/repa.yaml")
    parser.add_argument(
        "--profile",
        metavar="NAME",
        help="a profile of the file; default: cluster if a Ray cluster holds it, else laptop",
    )
    parser.add_argument("--plan", action="store_true", help="print all that would run, and run nothing")
    parser.add_argument(
        "--results",
        type=location,
        metavar="WHERE",
        help="folder of the results, or s3://bucket/prefix (default: the file's, or results)",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path("cache"),
        metavar="FOLDER",
        help="folder of encoded data and features (default: cache)",
    )
    parser.add_argument("--candidates", type=int, metavar="N", help="number of candidates instead of the file's")
    parser.add_argument(
        "--fresh-baseline", action="store_true", help="train every baseline seed here, also those that could be reused"
    )
    parser.add_argument(
        "--address", help="address of a running Ray cluster; 'local' starts one here (default: RAY_ADDRESS)"
    )
    told = parser.add_mutually_exclusive_group()
    told.add_argument("--quiet", action="store_true", help="print the answer only, and what is wrong")
    told.add_argument("--json", action="store_true", help="print events for machines, a JSON object a line")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    return answered(parse_arguments(arguments))


def run(options: argparse.Namespace) -> int:
    """As a sub-command of `prx-sweeps`."""
    code = answered(options)
    leave_at_once_after(code)
    return code


def answered(options: argparse.Namespace) -> int:
    """The exit code, with the last word said."""
    output = Output.of(quiet=options.quiet, json=options.json)
    try:
        return output.ended(_main(options, output))
    except (SpaceError, ConfigError, LedgerError) as error:
        return output.ended(EXIT_BAD_INPUT, f"error: {error}")
    except KeyboardInterrupt:
        return output.ended(EXIT_INTERRUPTED, "\nInterrupted. Nothing is lost: the same command goes on from here.")
    except Exception as error:
        in_the_way = obstacle(error, options.results or RESULTS)
        if in_the_way is None:
            raise
        return output.ended(EXIT_HALTED, f"halted: {in_the_way}")


def _main(options: argparse.Namespace, output: Output) -> int:
    content = read_space(options.space)
    address = cluster.running_address(options.address)
    choice = cluster.choose_profile(content, options.space, options.profile, address)
    space = with_budget(resolve(content, file=options.space, profile=choice.profile), candidates=options.candidates)
    paths = SweepPaths.of(space, options.results or location(space.results or RESULTS), options.cache)
    output.console.print(f"Profile {choice.profile}: {choice.reason}.", highlight=False)
    from sweeps.session import Session  # Ray's libraries take seconds: mistakes in the file are told before

    session = Session(options, space, paths, choice, address, output)
    if options.plan:
        session.print_plan()
        return 0
    paths.create()
    return session.run()


def leave_at_once_after(code: int) -> None:
    """End this process, if it ends in the middle of a sweep: slots' threads still talk to Ray, and where its own end at
    exit meets one of them, it ends the process with a code of its own. Ray's processes end with this one either way.
    """
    if code in (EXIT_HALTED, EXIT_INTERRUPTED):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    code = main()
    leave_at_once_after(code)
    sys.exit(code)
