"""Who may write: one driver per sweep, one process per trial. The system lets go of a lock when its holder dies.

Beside the lock stands who took it, for whoever is refused. On a file system that has no locks the note is all there is:
it keeps out a second driver of the same machine, and the user is told to see to the others.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from sweeps.obstacles import HaltedError
from sweeps.space import SpaceError
from sweeps.storage import SweepPaths

ORPHAN_WAIT_S = 60

logger = logging.getLogger("sweeps.worker")


@contextmanager
def only_driver(paths: SweepPaths) -> Iterator[str]:
    """Hold the sweep's lock: two drivers of one sweep would run its trials twice. A killed driver's lock is free.

    Yields a warning for the user, '' where there is nothing to warn of. Raises SpaceError where another holds it.
    """
    with paths.lock.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            warning = ""
        except BlockingIOError as error:
            raise SpaceError(f"{paths.root}: this sweep is running already: {_holder(file)}") from error
        except OSError as error:
            warning = _without_locks(paths, file, error)
        _sign(file, command=shlex.join([Path(sys.executable).name, *sys.argv]))
        yield warning
        file.truncate(0)


@contextmanager
def only_writer(paths: SweepPaths, trial: str) -> Iterator[None]:
    """Wait for an earlier process of this trial to go: after its driver is killed, a worker lives on for seconds."""
    with paths.trial_lock(trial).open("a+") as file:
        for _ in range(ORPHAN_WAIT_S):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(1)
            except OSError as error:
                logger.warning("%s: no locks here (%s): nothing keeps two processes apart", file.name, error.strerror)
                break
        else:
            raise HaltedError(f"{trial} is still run by another process after {ORPHAN_WAIT_S} s: {_holder(file)}")
        _sign(file)
        yield


def _without_locks(paths: SweepPaths, file: IO[str], error: OSError) -> str:
    """The warning; raises SpaceError where the last driver is still alive on this machine."""
    note = _note(file)
    if note.get("host") == socket.gethostname() and _is_alive(note.get("pid", 0)):
        problem = f"this sweep is running already: {_holder(file)}"
        raise SpaceError(f"{paths.root}: {problem}; if that is another program, remove {paths.lock}") from error
    return (
        f"{paths.root}: its file system has no locks ({error.strerror}): nothing keeps the same command on another "
        f"machine from running these trials too. Last: {_holder(file)}"
    )


def _is_alive(pid: int) -> bool:
    return pid > 0 and pid != os.getpid() and Path(f"/proc/{pid}").exists()


def _sign(file: IO[str], **more: str) -> None:
    since = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    file.truncate(0)
    file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since, **more}))
    file.flush()


def _note(file: IO[str]) -> dict[str, Any]:
    """What stands beside the lock. Earlier versions wrote a bare process id."""
    file.seek(0)
    try:
        note = json.loads(file.read() or "{}")
    except ValueError:  # its writer was killed
        return {}
    return note if isinstance(note, dict) else {"pid": note}


def _holder(file: IO[str]) -> str:
    note = _note(file)
    since = f" since {note['since']}" if "since" in note else ""
    command = f": {note['command']}" if "command" in note else ""
    return f"process {note.get('pid', 'unknown')} on {note.get('host', 'unknown host')}{since}{command}"
