"""Whether a process runs a sweep, as another process can tell: by the lock beside the ledger, or by the lease in S3."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeps.leases import Terms, holder, in_words
from sweeps.object_path import ObjectPath
from sweeps.storage import SweepPaths

DRIVER = Terms(renew_s=20.0, gone_after_s=90.0)


@dataclass(frozen=True, kw_only=True)
class Driver:
    """alive: None where nobody can tell. told: in words."""

    alive: bool | None
    told: str


def driver_of(paths: SweepPaths) -> Driver:
    """The process that runs the sweep. Nothing is written, and a lock is only tried where its note does not tell."""
    lock = paths.lock
    if isinstance(lock, ObjectPath):
        note, alive = holder(lock, DRIVER)
    else:
        note, alive = _on_disk(lock)
    if "pid" not in note:
        return Driver(alive=False, told="the command has ended, or was never given here")
    words = in_words(note)
    if alive is None:
        return Driver(alive=None, told=f"perhaps {words}; this file system has no locks that would tell")
    return Driver(alive=alive, told=words if alive else f"gone, without an orderly end: {words}")


def _on_disk(lock: Path) -> tuple[dict[str, Any], bool | None]:
    """A driver that ends in order empties its note; of one that was killed the system lets the lock go."""
    try:
        file = lock.open("r")
    except FileNotFoundError:
        return {}, False
    with file:
        note = note_of(file.read())
        if "pid" not in note:
            return note, False
        if note.get("host") == socket.gethostname() and not Path(f"/proc/{note['pid']}").exists():
            return note, False
        try:
            # A driver that starts in this very moment would be refused: hence all the looks before.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return note, True
        except OSError:
            return note, None
    return note, False


def note_of(text: str) -> dict[str, Any]:
    """Who has taken a lock. Earlier versions wrote a bare process id."""
    try:
        note = json.loads(text or "{}")
    except ValueError:  # its writer was killed
        return {}
    return note if isinstance(note, dict) else {"pid": note}


def is_process(pid: int) -> bool:
    """Whether it runs on this machine, and is not this one."""
    return pid > 0 and pid != os.getpid() and Path(f"/proc/{pid}").exists()
