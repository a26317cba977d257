"""How the ledger's rows are kept: on a disk as lines of a file per trial, in S3 as objects, one per row.

A line is written with a single write and fsync: after a kill there is the whole line, or a torn last line that readers
skip. An object is written where there is none yet, under the trial's next number, so that two writers, or one whose
connection was cut and who tries again, can neither lose a row nor write it twice; nothing that grows is written anew.
Either is read where it lies, also after a sweep was copied from a disk to S3 or back.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from prx_model.data.durable import flush_folder, write_file
from sweeps.object_path import ObjectPath, read_many
from sweeps.storage import SweepPaths

ROWS = re.compile(r"(?P<trial>[^/]+)/(?P<number>\d{6,})\.jsonl|(?P<whole>[^/]+)\.jsonl")
BEFORE_ALL = -1  # number of a file that was copied from a disk

Mark = tuple[object, ...]  # of a trial's rows: another one wherever they are others
Marks = Mapping[str, Mark]

# What this process has read or written, by its tag. Rows never change, so each is fetched once.
_known: dict[ObjectPath, tuple[str, bytes]] = {}


@runtime_checkable
class RowsKept(Protocol):
    """Rows come and go as lines of JSON with their newline."""

    def append(self, trial: str, line: bytes) -> None: ...
    def adopt(self, trial: str, lines: bytes) -> None:
        """All of them or none, of a trial that has no row yet."""
        ...

    def of(self, trial: str) -> list[bytes]:
        """The trial's rows in the order of writing: one or more lines in each."""
        ...

    def changed(self, known: Marks) -> dict[str, tuple[Mark, list[bytes]]]:
        """The same of every trial that has other rows than when its mark was the known one, with the new mark."""
        ...


def rows_of(paths: SweepPaths) -> RowsKept:
    return RowsInStorage(paths.ledger) if isinstance(paths.ledger, ObjectPath) else RowsOnDisk(paths.ledger)


class RowsOnDisk:
    """A file per trial."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def append(self, trial: str, line: bytes) -> None:
        path = self._file(trial)
        new = not path.exists()
        if not new and not _ends_with_newline(path):
            line = b"\n" + line  # the torn line becomes one of its own
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            _write_all(descriptor, line)
            os.fsync(descriptor)
        except OSError as error:
            raise OSError(error.errno, os.strerror(error.errno or errno.EIO), str(path)) from error
        finally:
            os.close(descriptor)
        if new:
            flush_folder(path.parent)

    def adopt(self, trial: str, lines: bytes) -> None:
        path = self._file(trial)
        assert not path.exists(), path
        write_file(path, lambda file: file.write(lines))

    def of(self, trial: str) -> list[bytes]:
        copied = sorted((self.folder / trial).glob("*.jsonl"))
        return [path.read_bytes() for path in (*copied, self._file(trial)) if path.exists()]

    def changed(self, known: Marks) -> dict[str, tuple[Mark, list[bytes]]]:
        marks = self._marks()
        return {trial: (mark, self.of(trial)) for trial, mark in marks.items() if known.get(trial) != mark}

    def _marks(self) -> Marks:
        """Taken before the rows are read: one that is written meanwhile changes the mark again."""
        found: dict[str, Mark] = {}
        if not self.folder.is_dir():
            return found
        with os.scandir(self.folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.is_dir():  # copied from S3
                    names = tuple(sorted(path.name for path in Path(entry.path).glob("*.jsonl")))
                    found[entry.name] = (*found.get(entry.name, ()), *names) if names else found.get(entry.name, ())
                elif entry.name.endswith(".jsonl"):
                    trial, stat = entry.name.removesuffix(".jsonl"), entry.stat()
                    found[trial] = (*found.get(trial, ()), stat.st_size, stat.st_mtime_ns)
        return {trial: mark for trial, mark in found.items() if mark}

    def _file(self, trial: str) -> Path:
        return self.folder / f"{trial}.jsonl"


class RowsInStorage:
    """An object per row: TRIAL/000000.jsonl, ..."""

    def __init__(self, folder: ObjectPath) -> None:
        self.folder = folder
        self._last: dict[str, int] = {}  # number of a trial's last row, as far as it is known here

    def append(self, trial: str, line: bytes) -> None:
        if trial not in self._last:
            self._find_last(trial)
        while not self._create(trial, self._last[trial] + 1, line):
            self._find_last(trial)  # somebody else was quicker
        self._last[trial] += 1

    def adopt(self, trial: str, lines: bytes) -> None:
        created = self._create(trial, 0, lines)
        assert created, self.folder / trial

    def _create(self, trial: str, number: int, content: bytes) -> bool:
        path = self.folder / trial / f"{number:06d}.jsonl"
        tag = path.create(content)
        if tag is not None:
            _known[path] = tag, content
        return tag is not None

    def _find_last(self, trial: str) -> None:
        numbers = [number for number, _, _ in self._listed(trial).get(trial, [])]
        self._last[trial] = max(numbers, default=-1)

    def of(self, trial: str) -> list[bytes]:
        return _contents(self._listed(trial).get(trial, []))

    def changed(self, known: Marks) -> dict[str, tuple[Mark, list[bytes]]]:
        marks = {trial: (tuple(tag for _, _, tag in entries), entries) for trial, entries in self._listed().items()}
        new = {trial: (mark, entries) for trial, (mark, entries) in marks.items() if known.get(trial) != mark}
        _fetch([entry for _, entries in new.values() for entry in entries])
        return {trial: (mark, _contents(entries)) for trial, (mark, entries) in new.items()}

    def _listed(self, start: str = "") -> dict[str, list[_Entry]]:
        """Trial -> its objects, in order; of the trials whose names start so. One listing."""
        found: dict[str, list[_Entry]] = {}
        skipped = len(self.folder.key) + 1
        for path, tag in self.folder.files(start).items():
            if named := ROWS.fullmatch(path.key[skipped:]):
                number = BEFORE_ALL if named["whole"] else int(named["number"])
                found.setdefault(named["trial"] or named["whole"], []).append((number, path, tag))
        return {trial: sorted(entries) for trial, entries in found.items()}


_Entry = tuple[int, ObjectPath, str]  # number, where, tag


def _fetch(entries: Sequence[_Entry]) -> None:
    """Bring what is not known yet, side by side."""
    new = [(path, tag) for _, path, tag in entries if _known.get(path, ("",))[0] != tag]
    for (path, tag), content in zip(new, read_many([path for path, _ in new]), strict=True):
        _known[path] = tag, content


def _contents(entries: Sequence[_Entry]) -> list[bytes]:
    _fetch(entries)
    return [_known[path][1] for _, path, _ in entries]


def _write_all(descriptor: int, content: bytes) -> None:
    """A disk that fills up takes a part; asking for the rest tells what is wrong."""
    while content:
        written = os.write(descriptor, content)
        if not written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        content = content[written:]


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
