"""Print what a shell needs to complete commands, options, files and trials of prx-sweeps."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

SUMMARY = "print the completion of this command for a shell"
EPILOG = """\
examples:
  eval "$(prx-sweeps completion bash)"                                       # for this shell
  prx-sweeps completion bash > ~/.local/share/bash-completion/completions/prx-sweeps
  prx-sweeps completion zsh > ~/.zfunc/_prx-sweeps                           # with ~/.zfunc in fpath

exit codes: 0 done; 2 bad input.
"""
SHELLS = ("bash", "zsh")
FILES, FOLDERS = ("SPACE",), ("SWEEP", "FOLDER", "WHERE", "STORE", "SOURCE", "LEDGER")  # by what the help calls them
# Names of trials are those of the ledgers in results/; all sweeps have the same.
TRIALS = {
    "bash": """
_prx_sweeps_trials() {
  compgen -W "$(ls results/*/ledger 2>/dev/null | sed -n 's/\\.jsonl$//p' | sort -u)" -- "$1"
}
""",
    "zsh": """
_prx_sweeps_trials() {
  compadd -- ${(u)$(ls results/*/ledger 2>/dev/null | sed -n 's/\\.jsonl$//p')}
}
""",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help="bash or zsh")


def run(options: argparse.Namespace) -> int:
    import shtab

    from sweeps.main import parser

    whole = parser()
    for one in _all_parsers(whole):
        for action in one._actions:
            if action.metavar in FILES:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
            elif action.metavar in FOLDERS:
                action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
            elif action.metavar == "TRIAL":
                action.complete = dict.fromkeys(SHELLS, "_prx_sweeps_trials")  # type: ignore[attr-defined]
    print(shtab.complete(whole, options.shell, preamble=TRIALS[options.shell]))
    return 0


def _all_parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from _all_parsers(inner)
