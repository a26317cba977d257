"""A person's wish that a trial ends now: a file in the sweep's folder, on a disk or in S3, that its worker looks for.

So it may come from any machine that reaches the results, and waits for a trial that is queued, or whose sweep is not
running. The worker ends the trial in order and writes why into the ledger, which stays the only record of it: the
request has no meaning once the trial has an end.
"""

from __future__ import annotations

import getpass
import json
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace

from sweeps.locations import Location, write_whole
from sweeps.object_path import ObjectPath
from sweeps.storage import SweepPaths


def ask_to_stop(paths: SweepPaths, trial: str, why: str = "") -> None:
    """Leave the request. A second one changes nothing but its words."""
    request = {"by": _person(), "host": socket.gethostname(), "time": time.strftime("%Y-%m-%d %H:%M:%S %Z"), "why": why}
    write_whole(paths.stop_request(trial), json.dumps(request).encode())


@dataclass
class StopRequest:
    """The request for one trial. told: its words, '' while there is none."""

    place: Location
    told: str = field(default="", init=False)

    def __post_init__(self) -> None:
        if isinstance(self.place, ObjectPath):
            self.place = replace(self.place, pauses_s=())  # the next look is a try too

    def look(self) -> str:
        """Read it, unless it has been; what cannot be read is looked for again the next time."""
        if not self.told:
            with suppress(OSError):
                self.told = _in_words(self.place.read_bytes())
        return self.told


def _in_words(content: bytes) -> str:
    """'by hand (ana on head-1, 2026-11-27 08:30:00 UTC): the loss has a plateau'."""
    try:
        request = json.loads(content)
        who = f" ({request['by']} on {request['host']}, {request['time']})"
        why = f": {' '.join(str(request['why']).split())}" if request["why"] else ""
    except (ValueError, KeyError, TypeError):  # a file of that name that somebody has made: what it wants is clear
        who, why = "", ""
    return f"by hand{who}{why}"


def _person() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a process id of nobody, as in some containers
        return "somebody"
