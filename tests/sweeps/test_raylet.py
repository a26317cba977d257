"""The end of a process at the other end of a socket, seen as soon as it comes."""

from __future__ import annotations

import socket
import threading

import pytest

from sweeps import raylet
from sweeps.raylet import watched_raylet


@pytest.fixture
def server(tmp_path, monkeypatch) -> socket.socket:
    """Where the raylet would listen."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "raylet"))
    server.listen()
    monkeypatch.setattr(raylet, "_address", lambda: str(tmp_path / "raylet"))
    return server


def test_the_end_of_the_raylet_is_told_once_and_at_once(server):
    told, count = threading.Event(), []
    with watched_raylet(lambda: (count.append(1), told.set())):
        line, _ = server.accept()
        assert not told.wait(0.2)
        line.close()
        assert told.wait(5)
    assert count == [1]


def test_nothing_is_told_of_an_end_that_comes_after_the_sweep(server):
    told = threading.Event()
    with watched_raylet(told.set):
        line, _ = server.accept()
    line.close()
    assert not told.wait(0.2)


def test_a_raylet_that_has_died_already_is_told(server):
    server.close()
    told = threading.Event()
    with watched_raylet(told.set):
        pass
    assert told.is_set()
