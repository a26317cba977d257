"""Who a run of a sweep speaks to: people, people who want the answer only (--quiet), or machines (--json)."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Any, TextIO

from rich.console import Console

from sweeps.events import Printer

EXIT_TRIAL_FAILED, EXIT_BAD_INPUT, EXIT_HALTED, EXIT_INTERRUPTED = 1, 2, 3, 130


@dataclass(frozen=True, kw_only=True)
class Output:
    """console: for all that is said on the way. answer: for what came out. events: for machines, None without.

    The consoles and the printer keep the stream that was standard output when they were made.
    """

    console: Console
    answer: Console
    events: Printer | None = None

    @classmethod
    def of(cls, *, quiet: bool = False, json: bool = False) -> Output:
        spoken, silent = Console(file=sys.stdout, soft_wrap=True), Console(quiet=True)
        return cls(
            console=silent if quiet or json else spoken,
            answer=silent if json else spoken,
            events=Printer() if json else None,
        )

    def event(self, kind: str, **fields: Any) -> None:
        if self.events is not None:
            self.events(kind, **fields)

    def warn(self, text: str) -> None:
        """Also where nothing is said otherwise."""
        if self.console.quiet:
            print(f"warning: {text}", file=sys.stderr, flush=True)
        self.console.print(f"Warning: {text}", highlight=False, markup=False)

    def ended(self, code: int, message: str = "", stream: TextIO | None = None) -> int:
        """The last word, to standard error; returns the exit code."""
        if message:
            print(message, file=stream or sys.stderr, flush=True)
        self.event("exit", code=code, message=message.strip())
        return code

    def halt_at_once(self, why: str = "Ray has died (its raylet)") -> None:
        """Ray is gone, and would end this process in a moment, with an exit code that means something else."""
        self.ended(EXIT_HALTED, f"\nhalted: {why}; the same command goes on", sys.__stderr__)
        os._exit(EXIT_HALTED)

    def halt_for(self, holder: str) -> None:
        """Another driver has taken over: what this one would still do, it would do twice."""
        self.halt_at_once(f"this sweep is run by {holder}, since nothing was heard of this process for too long")
