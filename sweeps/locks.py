"""Who may write: one driver per sweep, one process per trial. The system lets go of a lock when its holder dies.

Beside the lock stands who took it, for whoever is refused. On a file system that has no locks the note is all there is:
it keeps out a second driver of the same machine, and the user is told to see to the others. In S3 a lock is a lease.
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import shlex
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from sweeps.drivers import DRIVER, is_process, note_of
from sweeps.leases import HeldError, Terms, held, in_words
from sweeps.obstacles import HaltedError
from sweeps.space import SpaceError
from sweeps.storage import SweepPaths

ORPHAN_WAIT_S = 60
TRIAL = Terms(renew_s=8.0, gone_after_s=30.0)  # an orphan on a lost node is waited for so long

logger = logging.getLogger("sweeps.worker")


@contextmanager
def only_driver(paths: SweepPaths, on_lost: Callable[[str], None] = lambda holder: None) -> Iterator[str]:
    """Hold the sweep's lock: two drivers of one sweep would run its trials twice. A killed driver's lock is free.

    on_lost: called with who has it now, where this driver was not heard of for too long.
    Yields a warning for the user, '' where there is nothing to warn of. Raises SpaceError where another holds it.
    """
    command = shlex.join([Path(sys.executable).name, *sys.argv])
    if isinstance(paths.lock, Path):
        with _locked_driver(paths, paths.lock, command) as warning:
            yield warning
        return
    try:
        with held(paths.lock, DRIVER, on_lost=on_lost, command=command):
            yield ""
    except HeldError as error:
        wait = f"if it is gone, the same command goes on in {math.ceil(error.free_in_s)} s"
        raise SpaceError(f"{paths.root}: this sweep is running already: {error.holder}; {wait}") from error


@contextmanager
def only_writer(paths: SweepPaths, trial: str) -> Iterator[Callable[[], None]]:
    """Wait for an earlier process of this trial to go: after its driver is killed, a worker lives on for seconds.

    Yields what to call before a row is written: it raises LeaseLostError where another process has taken over.
    """
    lock = paths.trial_lock(trial)
    if isinstance(lock, Path):
        with _locked_writer(lock, trial):
            yield lambda: None
        return
    try:
        with held(lock, TRIAL, wait_s=ORPHAN_WAIT_S) as lease:
            yield lease.check
    except HeldError as error:
        raise _not_going(trial, error.holder) from error


@contextmanager
def _locked_driver(paths: SweepPaths, lock: Path, command: str) -> Iterator[str]:
    with lock.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            warning = ""
        except BlockingIOError as error:
            raise SpaceError(f"{paths.root}: this sweep is running already: {_holder(file)}") from error
        except OSError as error:
            warning = _without_locks(paths, file, error)
        _sign(file, command=command)
        yield warning
        file.truncate(0)


@contextmanager
def _locked_writer(lock: Path, trial: str) -> Iterator[None]:
    with lock.open("a+") as file:
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
            raise _not_going(trial, _holder(file))
        _sign(file)
        yield


def _not_going(trial: str, holder: str) -> HaltedError:
    return HaltedError(f"{trial} is still run by another process after {ORPHAN_WAIT_S} s: {holder}")


def _without_locks(paths: SweepPaths, file: IO[str], error: OSError) -> str:
    """The warning; raises SpaceError where the last driver is still alive on this machine."""
    note = _note(file)
    if note.get("host") == socket.gethostname() and is_process(note.get("pid", 0)):
        problem = f"this sweep is running already: {_holder(file)}"
        raise SpaceError(f"{paths.root}: {problem}; if that is another program, remove {paths.lock}") from error
    return (
        f"{paths.root}: its file system has no locks ({error.strerror}): nothing keeps the same command on another "
        f"machine from running these trials too. Last: {_holder(file)}"
    )


def _sign(file: IO[str], **more: str) -> None:
    since = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    file.truncate(0)
    file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since, **more}))
    file.flush()


def _note(file: IO[str]) -> dict[str, Any]:
    """What stands beside the lock."""
    file.seek(0)
    return note_of(file.read())


def _holder(file: IO[str]) -> str:
    return in_words(_note(file))
