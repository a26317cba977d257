"""A sweep that a real process holds, wherever its results lie, and another one that wants it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sweeps.locks import only_driver
from sweeps.space import SpaceError
from sweeps.storage import SweepPaths

ROOT = Path(__file__).parents[2]
HOLDER = """
import sys, time
from sweeps.locks import only_driver
from sweeps.storage import SweepPaths
with only_driver(SweepPaths.at(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def refused(paths: SweepPaths) -> tuple[str, int]:
    """What the second driver is told, in one line that names the first, and the first one's id; it is killed then."""
    since = time.strftime("%Y-%m-%d %H:")
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(paths.root)], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(SpaceError) as caught, only_driver(paths):
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    message = str(caught.value)
    who = f"process {holder.pid} on {socket.gethostname()} since {since}"
    assert message.startswith(f"{paths.root}: this sweep is running already: {who}")
    assert f": {Path(sys.executable).name} -c " in message
    assert "\n" not in message
    return message, holder.pid
