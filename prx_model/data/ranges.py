"""Ranges of bytes of a data set's files, as open local files whose content has been checked.

From a local folder a range is read where it lies. From a bucket it is fetched into a cache folder first, as a file that
is named after its sha256: two data sets share what they have in common, and a torn or altered file gives itself away.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from prx_model.data.durable import exclusive
from prx_model.data.places import Bucket, Folder

CHUNK_BYTES = 1 << 20
PARTIAL_AGE_S = 3600.0  # no fetch takes so long: what is older was left by a process that was killed


@dataclass(frozen=True, kw_only=True)
class RangeCard:
    """Which bytes of which file, and their checksum."""

    file: str
    offset: int
    bytes: int
    sha256: str


class FileRange:
    """An open range of a local file. It holds a file descriptor and no data; the file may be deleted meanwhile."""

    def __init__(self, path: Path, name: str, offset: int, size: int) -> None:
        """name: for messages, of the file from which the data set says that the bytes come."""
        self.name = name
        self.bytes = size
        self._offset = offset
        self._descriptor = -1
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def read_into(self, target: memoryview, offset: int) -> None:
        """Fills `target` (bytes) from `offset` of the range on. ValueError where the file ends before."""
        assert 0 <= offset <= self.bytes - len(target)
        done = 0
        while done < len(target):
            got = os.preadv(self._descriptor, [target[done:]], self._offset + offset + done)
            if got == 0:
                raise ValueError(f"{self.name} is truncated: no byte at {self._offset + offset + done}; {ADVICE}")
            done += got

    def read(self, offset: int, size: int) -> bytearray:
        data = bytearray(size)
        self.read_into(memoryview(data), offset)
        return data

    def sha256(self) -> str:
        digest = hashlib.sha256()
        chunk = memoryview(bytearray(CHUNK_BYTES))
        for offset in range(0, self.bytes, CHUNK_BYTES):
            part = chunk[: min(CHUNK_BYTES, self.bytes - offset)]
            self.read_into(part, offset)
            digest.update(part)
        return digest.hexdigest()


ADVICE = "copy it again from where it was made, or encode it again"


@runtime_checkable
class Ranges(Protocol):
    """num_threads: how many ranges are worth opening at a time."""

    num_threads: int

    def open(self, card: RangeCard, stopping: threading.Event | None = None) -> FileRange:
        """The range, checked against its sha256 where this object opens it for the first time.

        ValueError, in one line with the file's name, where it is missing, truncated or corrupt. OSError where it could
        not be read. stopping: give up once set.
        """
        ...


class LocalRanges:
    """Ranges of the files of a local folder."""

    num_threads = 2

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self._checked: set[RangeCard] = set()

    def open(self, card: RangeCard, stopping: threading.Event | None = None) -> FileRange:
        name = self.folder.name_of(card.file)
        try:
            opened = FileRange(self.folder.path / card.file, name, card.offset, card.bytes)
        except FileNotFoundError as error:
            raise ValueError(f"{name} is missing; {ADVICE}") from error
        if card not in self._checked:
            got = opened.sha256()
            if got != card.sha256:
                raise _corrupt(name, card, got)
            self._checked.add(card)
        return opened


class CachedRanges:
    """Ranges of the objects in a bucket, through a cache folder that several processes may share.

    cache_bytes: the folder's bound; what was not used for longest goes first. Ranges that are open stay readable, so
    the disk holds at most those and a range per thread on top.
    """

    num_threads = 8

    def __init__(self, bucket: Bucket, cache: Path, cache_bytes: int) -> None:
        self.bucket = bucket
        self.cache = cache
        self.cache_bytes = cache_bytes
        self._checked: set[str] = set()

    def open(self, card: RangeCard, stopping: threading.Event | None = None) -> FileRange:
        return self._cached(card) or self._fetched(card, stopping)

    def _path(self, card: RangeCard) -> Path:
        return self.cache / card.sha256

    def _cached(self, card: RangeCard) -> FileRange | None:
        path = self._path(card)
        try:
            opened = FileRange(path, self.bucket.name_of(card.file), 0, card.bytes)
            os.utime(path)
        except FileNotFoundError:
            return None
        if card.sha256 not in self._checked:
            try:
                sound = opened.sha256() == card.sha256
            except ValueError:  # shorter than it should be
                sound = False
            if not sound:
                path.unlink(missing_ok=True)
                return None
            self._checked.add(card.sha256)
        return opened

    def _fetched(self, card: RangeCard, stopping: threading.Event | None) -> FileRange:
        name = self.bucket.name_of(card.file)
        data = self._download(card, name, stopping)
        self.cache.mkdir(parents=True, exist_ok=True)
        partial = self.cache / f".{card.sha256}.{uuid.uuid4().hex[:12]}.partial"
        try:
            # No flush to the disk: what a lost machine leaves torn is found by its checksum.
            partial.write_bytes(data)
            opened = FileRange(partial, name, 0, card.bytes)
            with exclusive(self.cache / "ranges"):
                self._make_room(card.bytes)
                partial.replace(self._path(card))
        except OSError as error:
            advice = "make room there or choose another folder"
            raise OSError(f"{self.cache} cannot take in what comes from {name} ({error}); {advice}") from error
        finally:
            partial.unlink(missing_ok=True)
        self._checked.add(card.sha256)
        return opened

    def _download(self, card: RangeCard, name: str, stopping: threading.Event | None) -> bytes:
        got = ""
        for _ in range(2):  # a damage on the way does not come twice
            try:
                data = self.bucket.read(card.file, card.offset, card.offset + card.bytes, stopping=stopping)
            except FileNotFoundError as error:
                raise ValueError(f"{name} is missing; {ADVICE}") from error
            got = hashlib.sha256(data).hexdigest()
            if got == card.sha256:
                return data
        raise _corrupt(name, card, got)

    def _make_room(self, size: int) -> None:
        """Deletes the files that were not used for longest, until another of `size` bytes fits."""
        files: list[tuple[float, int, str]] = []
        for entry in os.scandir(self.cache):
            with suppress(FileNotFoundError):  # another process may end its own fetch
                state = entry.stat()
                if not entry.name.startswith("."):
                    files.append((state.st_mtime, state.st_size, entry.path))
                elif entry.name.endswith(".partial") and time.time() - state.st_mtime > PARTIAL_AGE_S:
                    os.unlink(entry.path)
        held = sum(bytes_ for _, bytes_, _ in files)
        for _, bytes_, path in sorted(files):
            if held + size <= self.cache_bytes:
                return
            Path(path).unlink(missing_ok=True)
            held -= bytes_


def _corrupt(name: str, card: RangeCard, got: str) -> ValueError:
    place = f"bytes {card.offset} to {card.offset + card.bytes - 1}"
    return ValueError(f"{name} is corrupt: sha256 of {place} is {got}, the manifest says {card.sha256}; {ADVICE}")
