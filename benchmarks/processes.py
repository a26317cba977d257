"""The processes of a sweep that a benchmark has started, seen from outside; and what its Ray says that it holds."""

from __future__ import annotations

import json
import os
import re
import signal
import urllib.request
from pathlib import Path


class Processes:
    """The processes that descend from one start of the sweep, and stay known when their parents have died.

    Call `alive` often: a process is found while its parent lives. (An inherited environment variable would not do: Ray
    writes a process's title over what the system shows of its environment.)
    """

    def __init__(self, root: int) -> None:
        # When each began tells it from a later process of the same number.
        self.known: dict[int, str] = {root: (self._status(Path(f"/proc/{root}")) or (0, ""))[1]}

    def alive(self) -> dict[int, str]:
        """Process -> title, of all that have not ended."""
        table = {int(folder.name): it for folder in Path("/proc").glob("[0-9]*") if (it := self._status(folder))}
        grown = True
        while grown:
            children = {pid: began for pid, (parent, began) in table.items() if parent in self.known}
            new = {pid: began for pid, began in children.items() if pid not in self.known}
            self.known |= new
            grown = bool(new)
        there = [pid for pid, began in self.known.items() if pid in table and table[pid][1] == began]
        return {pid: self._title(Path(f"/proc/{pid}")) for pid in there}

    @staticmethod
    def resident_mib(pid: int) -> float:
        """0 of a process that has ended."""
        try:
            return int((Path("/proc") / str(pid) / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
        except OSError:
            return 0.0

    @staticmethod
    def _status(folder: Path) -> tuple[int, str] | None:
        """Parent and beginning; None of a process that has ended."""
        try:
            state, parent, *rest = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if state == "Z" else (int(parent), rest[17])

    @staticmethod
    def _title(folder: Path) -> str:
        try:
            name = (folder / "comm").read_text().strip()
            title = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            return ""
        return name if name == "raylet" else title or name


def kill_quietly(pid: int) -> bool:
    """Whether there was something to kill."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def held(output: bytes, what: str) -> int | None:
    """How many 'placement_groups' or 'actors' hold something, by the State API of the Ray whose address is in a sweep's
    `output`; None where it does not answer (any more).
    """
    addresses = re.findall(rb"Dashboard  (http://\S+)", output)
    if not addresses:
        return None
    try:
        with urllib.request.urlopen(f"{addresses[-1].decode()}/api/v0/{what}?limit=10000", timeout=5) as answer:
            found = json.load(answer)["data"]["result"]["result"]
    except (OSError, KeyError, TypeError, ValueError):
        return None
    return sum(it["state"] not in ("REMOVED", "DEAD") for it in found)
