"""Ray's own process on this machine, the raylet: whether it is still there.

Where it dies, Ray ends the driver too, without a word, at its next look at an object. This is quicker, and has a word.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


@contextmanager
def watched_raylet(on_loss: Callable[[], object]) -> Iterator[None]:
    """Call `on_loss` in a thread of its own where the raylet dies while the body runs. Ray must be connected."""
    done, line = threading.Event(), socket.socket(socket.AF_UNIX)
    try:
        line.connect(_address())
    except OSError:
        on_loss()

    def wait() -> None:
        # The system ends the connection with the process at its other end; nothing is ever sent.
        with suppress(OSError):
            line.recv(1)
        if not done.is_set():
            on_loss()

    threading.Thread(target=wait, daemon=True, name="raylet").start()
    try:
        yield
    finally:
        done.set()
        with suppress(OSError):
            line.shutdown(socket.SHUT_RDWR)
        line.close()


def _address() -> str:
    import ray

    here = ray.get_runtime_context().get_node_id()
    return str(next(node for node in ray.nodes() if node["NodeID"] == here)["RayletSocketName"])
