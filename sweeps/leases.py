"""A lock where there are none: an object in S3 that says who holds it, renewed while its holder lives.

It is taken and renewed by writes on a condition, so that of two who want it one gets it. It is free where its holder
has let go of it, has not renewed it for a while (by the storage's clock), or was a process of this machine that is no
more. A holder learns by its next renewal that somebody else has it.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from prx_model.data.patience import StorageError
from sweeps.meanwhile import meanwhile
from sweeps.object_path import ObjectPath, Tagged

POLL_S = 1.0
FREE = b"{}"
RENEWAL_PAUSES_S = (0.5, 1.0)  # between tries; the next renewal is a try too

logger = logging.getLogger("sweeps.worker")


class HeldError(Exception):
    """Somebody else holds it: `holder` in words, and in how many seconds it is free if they are gone."""

    def __init__(self, holder: str, free_in_s: float) -> None:
        super().__init__(holder)
        self.holder, self.free_in_s = holder, free_in_s


class LeaseLostError(RuntimeError):
    """Somebody else has taken what was ours: we were not heard of for too long."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Renewed every so often; given up after so long without."""

    renew_s: float
    gone_after_s: float


@dataclass
class Lease:
    """One that is held. `check` before a write that only its holder may make."""

    place: ObjectPath
    terms: Terms
    note: dict[str, Any]
    tag: str
    on_lost: Callable[[str], None]
    renewed: float = field(default_factory=time.monotonic)
    lost_to: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def check(self) -> None:
        """Raises LeaseLostError where somebody else holds it by now, StorageError where nobody can tell."""
        if not self.lost_to and time.monotonic() - self.renewed > self.terms.gone_after_s / 2:
            self.renew()
        if self.lost_to:
            raise LeaseLostError(f"{self.place} is held by {self.lost_to}")

    def renew(self) -> None:
        with self.lock:
            if not self._is_lost():
                return
        self.on_lost(self.lost_to)

    def _is_lost(self) -> bool:
        """Renew it, or find out that it cannot be."""
        for _ in range(2):
            # Every renewal is other bytes: one whose answer was lost is known by them.
            self.note["renewals"] += 1
            tag = self.place.replace(_written(self.note), self.tag)
            if tag is not None:
                self.tag, self.renewed = tag, time.monotonic()
                return False
            there = self.place.read_tagged()
            if there is None or _read(there).get("word") != self.note["word"]:
                break
            self.tag = there.tag  # an earlier renewal of ours, which we were told had failed
        self.lost_to = in_words(_read(there)) if there is not None else "nobody; its object was removed"
        return True

    def let_go(self) -> None:
        """Nobody has to wait for it. Where the storage does not answer, time does the same."""
        with self.lock, suppress(StorageError):
            self.place.replace(FREE, self.tag)


@contextmanager
def held(
    place: ObjectPath,
    terms: Terms,
    *,
    wait_s: float = 0.0,
    on_lost: Callable[[str], None] = lambda holder: None,
    **about: str,
) -> Iterator[Lease]:
    """Hold the lease of this object; `about` is what its note says beside who holds it. Raises HeldError."""
    place = replace(place, pauses_s=RENEWAL_PAUSES_S)
    lease = _taken(place, terms, time.monotonic() + wait_s, on_lost, about)

    def renew() -> None:
        if lease.lost_to:
            return
        try:
            lease.renew()
        except StorageError as error:
            logger.warning("not renewed: %s", error)

    try:
        with meanwhile(terms.renew_s, renew):
            yield lease
    finally:
        lease.let_go()


def _taken(
    place: ObjectPath, terms: Terms, until: float, on_lost: Callable[[str], None], about: dict[str, str]
) -> Lease:
    note: dict[str, Any] = {**_signature(), **about, "renewals": 0}
    while True:
        tag = place.create(_written(note))
        there = place.read_tagged() if tag is None else None
        if there is not None and _is_free(there, terms):
            tag = place.replace(_written(note), there.tag)
        if tag is not None:
            return Lease(place=place, terms=terms, note=note, tag=tag, on_lost=on_lost)
        if there is not None and time.monotonic() >= until and not _is_free(there, terms):
            raise HeldError(in_words(_read(there)), max(0.0, terms.gone_after_s - there.age_s))
        time.sleep(POLL_S)


def holder(place: ObjectPath, terms: Terms) -> tuple[dict[str, Any], bool]:
    """The note of who holds it, or did last, and whether they hold it still. Nothing is taken."""
    there = place.read_tagged()
    return ({}, False) if there is None else (_read(there), not _is_free(there, terms))


def _is_free(there: Tagged, terms: Terms) -> bool:
    note = _read(there)
    if "pid" not in note or there.age_s > terms.gone_after_s:
        return True
    return note.get("machine") == _machine() and not Path(f"/proc/{note['pid']}").exists()


def _signature() -> dict[str, Any]:
    since = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    mine = {"pid": os.getpid(), "host": socket.gethostname(), "since": since, "machine": _machine()}
    return {**mine, "word": uuid.uuid4().hex}


def _machine() -> str:
    """Where process ids mean the same: one start of one machine, one space of ids in it."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"unknown {uuid.uuid4().hex}"


def _written(note: dict[str, Any]) -> bytes:
    return json.dumps(note).encode()


def _read(there: Tagged) -> dict[str, Any]:
    try:
        note = json.loads(there.content or FREE)
    except ValueError:
        note = None
    # What is no note of ours holds nobody up for ever: it is given up like one.
    return note if isinstance(note, dict) else {"pid": "unknown"}


def in_words(note: dict[str, Any]) -> str:
    """Who holds a lock, by the note beside it."""
    since = f" since {note['since']}" if "since" in note else ""
    command = f": {note['command']}" if "command" in note else ""
    return f"process {note.get('pid', 'unknown')} on {note.get('host', 'unknown host')}{since}{command}"
