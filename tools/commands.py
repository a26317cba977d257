"""Write docs/commands.md: every command with its help, and the events of --json, from the code itself.

python tools/commands.py
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from sweeps.events import EVENTS  # noqa: E402
from sweeps.main import COMMANDS, module_of, parser  # noqa: E402

PAGE = ROOT / "docs" / "commands.md"
COLUMNS = 110
OPENING = """\
# Commands

`prx-sweeps COMMAND`; `python -m sweeps.main COMMAND` is the same from a checkout. Written by `python tools/commands.py`
from the commands' own help: do not edit.

A sweep is named by the folder or `s3://` address of its results, by its folder's name in `results/`, or not at all:
then it is the one in `results/` that was started last (`stop` wants it to be the only one). A trial is named by its
name, by the beginning of it if there is only one such, and a candidate by its number.

`eval "$(prx-sweeps completion bash)"` lets the shell complete all of it.

## Exit codes

| code | meaning |
|---|---|
| 0 | done; of `run`: all trials ended well |
| 1 | done in part: of `run` a trial failed, of `encode` some units, of `stop --wait` the trial has not ended yet |
| 2 | bad input, told in one line on standard error |
| 3 | of `run`: halted by what is no fault of a trial's (a full disk, a lost Ray); the same command goes on |
| 130 | interrupted (Ctrl-C); the same command goes on |
| 141 | whoever read the output has seen enough, as `head` has |

"""
EVENTS_OPENING = """\
## Events

`prx-sweeps run SPACE --json` prints one JSON object a line on standard output, and nothing else there; `status --json`
prints one each of the kinds `driver`, `standing` and `answer`. Every object has `kind` and `time` (seconds since 1970),
and by its kind:

"""


def main() -> None:
    PAGE.write_text(page())
    print(f"{PAGE.relative_to(ROOT)}: {len(COMMANDS)} commands")


def page() -> str:
    os.environ["COLUMNS"] = str(COLUMNS)  # argparse asks for the terminal's
    whole = parser()
    table = "".join(f"| [`{name}`](#{name}) | {module_of(name).SUMMARY} |\n" for name in COMMANDS)
    parts = [OPENING, "## All of them\n\n| command | |\n|---|---|\n", table, "\n"]
    parts += [f"## {name}\n\n```text\n{_help(whole, name)}```\n\n" for name in COMMANDS]
    parts += [EVENTS_OPENING, *(_event(kind) for kind in EVENTS)]
    return "".join(parts).rstrip("\n") + "\n"


def _help(whole: argparse.ArgumentParser, name: str) -> str:
    commands = next(action for action in whole._actions if isinstance(action, argparse._SubParsersAction))
    return "".join(f"{line.rstrip()}\n" for line in commands.choices[name].format_help().splitlines())


def _event(kind: str) -> str:
    fields = "".join(f"| `{name}` | {meaning} |\n" for name, meaning in EVENTS[kind].items())
    return f"### {kind}\n\n| field | |\n|---|---|\n{fields}\n"


if __name__ == "__main__":
    main()
