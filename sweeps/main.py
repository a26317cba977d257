"""The command `prx-sweeps`, and its sub-commands: one line each in COMMANDS."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType

EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_PIPE_CLOSED = 2, 130, 141
# Only the module of the command that is given is imported: some of them take seconds, for torch.
COMMANDS = {
    "run": "sweeps.run",
    "status": "sweeps.commands.status",
    "logs": "sweeps.commands.logs",
    "show": "sweeps.commands.show",
    "stop": "sweeps.commands.stop",
    "report": "sweeps.commands.report",
    "compare": "sweeps.commands.compare",
    "sample": "sweeps.commands.sample",
    "export": "sweeps.commands.export",
    "replay": "sweeps.commands.replay",
    "encode": "sweeps.encoding.command",
    "completion": "sweeps.commands.completion",
}
EPILOG = """\
examples:
  prx-sweeps COMMAND --help    # each has examples of its own, and its exit codes

exit codes of every command: 0 done; 2 bad input, told in one line; 130 interrupted.
"""


def parser(only: str | None = None) -> argparse.ArgumentParser:
    """Of all commands, or of one. Its module has SUMMARY, EPILOG, `add_arguments(parser)`, `run(options) -> code`."""
    whole = argparse.ArgumentParser(
        prog="prx-sweeps",
        description="Sweeps for text-to-image training, and their data.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS if only is None else (only,):
        command = module_of(name)
        own = commands.add_parser(
            name,
            help=command.SUMMARY,
            description=command.__doc__,
            epilog=command.EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(own)
        own.set_defaults(refuse=own.error)  # with its usage; argparse would show the one of all commands
    return whole


def module_of(command: str) -> ModuleType:
    return importlib.import_module(COMMANDS[command])


def main(arguments: Sequence[str] | None = None) -> int:
    """What a user can get wrong is a ValueError or an OSError, whose text is one line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    whole = parser(arguments[0] if arguments and arguments[0] in COMMANDS else None)
    options, unknown = whole.parse_known_args(arguments)
    if unknown:
        options.refuse(f"unrecognized arguments: {' '.join(unknown)}")
    try:
        return module_of(options.command).run(options)
    except KeyboardInterrupt:
        print("\nInterrupted. Nothing is lost: the same command goes on from here.", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `prx-sweeps logs ... | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE_CLOSED
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
