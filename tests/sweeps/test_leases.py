"""Who may write to a sweep in S3, with real processes that are killed."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from sweeps import leases, locks
from sweeps.leases import HeldError, LeaseLostError, Terms, held
from sweeps.locks import only_driver, only_writer
from sweeps.object_path import ObjectPath
from sweeps.obstacles import HaltedError
from sweeps.storage import SweepPaths
from tests.flaky_server import Troubles
from tests.sweeps.second_driver import refused

LONG = Terms(renew_s=600.0, gone_after_s=600.0)


@pytest.fixture(autouse=True)
def _asks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "POLL_S", 0.1)


@pytest.fixture
def paths(stored: ObjectPath, tmp_path: Path) -> SweepPaths:
    return SweepPaths(stored / "sweep", tmp_path)


def _note(place: ObjectPath) -> dict:
    return json.loads(place.read_bytes())


def test_a_second_driver_is_refused_with_who_holds_the_sweep_and_a_killed_one_holds_nothing(paths):
    message, _ = refused(paths)
    assert "if it is gone, the same command goes on in " in message
    with only_driver(paths) as warning:
        assert warning == ""
        assert _note(paths.lock)["pid"] == os.getpid()
    assert _note(paths.lock) == {}
    with only_driver(paths):
        pass


def _of_another_machine(place: ObjectPath) -> None:
    """As if the holder's note had been written on a node that is gone."""
    place.write_bytes(json.dumps({**_note(place), "machine": "another", "host": "gone"}).encode())


def test_a_holder_on_another_machine_is_given_up_when_it_is_silent(stored):
    with held(stored / "lock", LONG):
        _of_another_machine(stored / "lock")
        with pytest.raises(HeldError, match=f"process {os.getpid()} on gone"), held(stored / "lock", LONG):
            pass
        began = time.monotonic()
        with held(stored / "lock", replace(LONG, gone_after_s=2.0), wait_s=30):
            assert time.monotonic() - began > 0.5
            assert _note(stored / "lock")["host"] == socket.gethostname()
        assert _note(stored / "lock") == {}


def test_a_holder_renews_it_by_itself(stored):
    with held(stored / "lock", replace(LONG, renew_s=0.05)):
        until = time.monotonic() + 30
        while _note(stored / "lock")["renewals"] < 3:
            assert time.monotonic() < until
            time.sleep(0.05)


def test_of_many_who_want_it_one_has_it_at_a_time(stored):
    inside, most = [], []

    def take(number: int) -> None:
        with held(stored / "lock", LONG, wait_s=60):
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.02)
            inside.remove(number)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == [1] * 4


def test_a_holder_that_was_given_up_is_told_and_does_not_renew_what_is_another_s(stored):
    told: list[str] = []
    with held(stored / "lock", LONG, on_lost=told.append) as lease:
        lease.check()
        (stored / "lock").write_bytes(json.dumps({"pid": 1, "host": "elsewhere", "since": "noon"}).encode())
        lease.renew()
        assert told == ["process 1 on elsewhere since noon"]
        with pytest.raises(LeaseLostError, match="lock is held by process 1 on elsewhere since noon"):
            lease.check()
    assert _note(stored / "lock")["host"] == "elsewhere"


def test_a_renewal_that_was_lost_on_its_way_back_is_no_loss(stored, troubles: Troubles):
    with held(stored / "lock", LONG) as lease:
        troubles.of, troubles.coming = ("PUT",), ["lost"] * 99
        with pytest.raises(OSError, match="could not be written"):
            lease.renew()
        troubles.coming = []
        lease.renew()
        lease.check()
    assert _note(stored / "lock") == {}


def test_a_trial_waits_for_its_orphan_and_then_says_whose_it_is(paths, monkeypatch):
    monkeypatch.setattr(locks, "ORPHAN_WAIT_S", 1)
    with only_writer(paths, "candidate-000") as check:
        problem = rf"^candidate-000 is still run by another process after 1 s: process {os.getpid()} on "
        with pytest.raises(HaltedError, match=problem), only_writer(paths, "candidate-000"):
            pass
        with only_writer(paths, "candidate-001"):
            pass
        check()
    with only_writer(paths, "candidate-000"):
        pass


def test_what_is_no_note_holds_nobody_up_for_ever(stored):
    (stored / "lock").write_bytes(b"garbage")
    with held(stored / "lock", replace(LONG, gone_after_s=1.0), wait_s=30):
        assert _note(stored / "lock")["pid"] == os.getpid()
