"""Who may write, with real locks and real processes."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys

import pytest

from sweeps import locks
from sweeps.locks import only_driver, only_writer
from sweeps.obstacles import HaltedError
from sweeps.space import SpaceError
from sweeps.storage import SweepPaths
from tests.sweeps.second_driver import refused


@pytest.fixture
def paths(tmp_path) -> SweepPaths:
    paths = SweepPaths(tmp_path / "sweep")
    paths.create()
    return paths


def test_a_second_driver_is_refused_with_who_holds_the_sweep_and_a_killed_one_holds_nothing(paths):
    _, pid = refused(paths)
    assert str(pid) in paths.lock.read_text(), "its note is still there, and holds nobody up"
    with only_driver(paths) as warning:
        assert warning == ""
        assert json.loads(paths.lock.read_text())["pid"] == os.getpid()
    assert paths.lock.read_text() == ""


@pytest.mark.parametrize("note", ["12345", '{"pid": 12', "", "[1]"])
def test_notes_of_earlier_versions_and_of_killed_writers_do_no_harm(paths, note):
    paths.lock.write_text(note)
    with only_driver(paths), pytest.raises(SpaceError, match="running already"), only_driver(paths):
        pass


def _without_locks(monkeypatch, number: int = errno.EOPNOTSUPP) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locks.fcntl, "flock", refuse)


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_is_told_of(paths, monkeypatch, number):
    _without_locks(monkeypatch, number)
    with only_driver(paths) as warning:
        assert warning.startswith(f"{paths.root}: its file system has no locks ({os.strerror(number)})")
        assert "\n" not in warning


def test_without_locks_the_note_keeps_out_a_second_driver_of_this_machine_alone(paths, monkeypatch):
    _without_locks(monkeypatch)
    alive = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    note = {"pid": alive.pid, "host": socket.gethostname(), "since": "2026-01-02 03:04:05 UTC", "command": "run.py x"}
    try:
        paths.lock.write_text(json.dumps(note))
        with pytest.raises(SpaceError, match=rf"process {alive.pid} on .* since 2026-01-02 .*run.py x; .* remove "):
            only_driver(paths).__enter__()
        paths.lock.write_text(json.dumps({**note, "host": "elsewhere"}))
        with only_driver(paths) as warning:
            assert f"Last: process {alive.pid} on elsewhere" in warning
    finally:
        alive.kill()
        alive.wait()
    paths.lock.write_text(json.dumps(note))
    with only_driver(paths):
        pass


def test_a_trial_waits_for_its_orphan_and_then_says_whose_it_is(paths, monkeypatch):
    monkeypatch.setattr(locks, "ORPHAN_WAIT_S", 1)
    with only_writer(paths, "candidate-000"):
        problem = rf"^candidate-000 is still run by another process after 1 s: process {os.getpid()} on "
        with pytest.raises(HaltedError, match=problem), only_writer(paths, "candidate-000"):
            pass
        with only_writer(paths, "candidate-001"):
            pass
    with only_writer(paths, "candidate-000"):
        pass


def test_without_locks_a_trial_runs_all_the_same(paths, monkeypatch, caplog):
    _without_locks(monkeypatch)
    with only_writer(paths, "candidate-000"):
        assert "no locks here" in caplog.text
