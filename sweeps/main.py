"""The command `prx-sweeps`, and its sub-commands: one line each in COMMANDS."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from sweeps import compare_command, replay_command, report_command
from sweeps.encoding import command as encode_command

EXIT_INTERRUPTED = 130
COMMANDS = {
    "compare": compare_command,
    "encode": encode_command,
    "replay": replay_command,
    "report": report_command,
}


def parser() -> argparse.ArgumentParser:
    """Every sub-command's module has SUMMARY, `add_arguments(parser)` and `run(options) -> exit code`."""
    whole = argparse.ArgumentParser(prog="prx-sweeps", description="Sweeps for text-to-image training, and their data.")
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        command.add_arguments(
            commands.add_parser(
                name,
                help=command.SUMMARY,
                description=command.__doc__,
                epilog=command.EPILOG,
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
        )
    return whole


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        return COMMANDS[options.command].run(options)
    except KeyboardInterrupt:
        print("\nInterrupted. Nothing is lost: the same command goes on from here.", file=sys.stderr)
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
