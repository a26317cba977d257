"""Where a data set lies: a local folder, or a bucket of S3 under a prefix.

S3 is reached with the patience of prx_model.data.patience.
"""

from __future__ import annotations

import threading
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from prx_model.data.patience import PAUSES_S, patiently, single_try_client

if TYPE_CHECKING:
    from s3fs import S3FileSystem

S3_SCHEME = "s3://"


@runtime_checkable
class Place(Protocol):
    """A flat collection of files."""

    def name_of(self, file: str) -> str:
        """The file's full name, for messages."""
        ...

    def sizes(self) -> dict[str, int]:
        """Bytes of every file that is there; empty where there is nothing."""
        ...

    def read(
        self, file: str, start: int = 0, stop: int | None = None, *, stopping: threading.Event | None = None
    ) -> bytes:
        """Bytes `start` (included) to `stop` (excluded) of a file, as many as there are. stopping: give up once set.

        FileNotFoundError where it is missing, PermissionError where it may not be read.
        """
        ...


def place_at(location: str | Path) -> Folder | Bucket:
    """The place of a local path or of an "s3://bucket/prefix"."""
    text = str(location)
    if text.startswith(S3_SCHEME):
        return Bucket(text)
    if "://" in text:
        raise ValueError(f"location: got {text!r}, allowed is a local folder or {S3_SCHEME}bucket/prefix")
    return Folder(Path(location))


class Folder:
    """A folder on this machine."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def name_of(self, file: str) -> str:
        return str(self.path / file)

    def sizes(self) -> dict[str, int]:
        if not self.path.is_dir():
            return {}
        return {entry.name: entry.stat().st_size for entry in self.path.iterdir() if entry.is_file()}

    def read(
        self, file: str, start: int = 0, stop: int | None = None, *, stopping: threading.Event | None = None
    ) -> bytes:
        with (self.path / file).open("rb") as handle:
            handle.seek(start)
            return handle.read(-1 if stop is None else stop - start)


class Bucket:
    """A prefix in a bucket of S3."""

    def __init__(self, url: str, *, pauses_s: tuple[float, ...] = PAUSES_S) -> None:
        self.url = url.rstrip("/")
        self.pauses_s = pauses_s
        if not self.url.removeprefix(S3_SCHEME).split("/")[0]:
            raise ValueError(f"location: got {url!r}, allowed is {S3_SCHEME}bucket/prefix")

    @cached_property
    def _files(self) -> S3FileSystem:
        return single_try_client()

    def name_of(self, file: str) -> str:
        return f"{self.url}/{file}"

    def sizes(self) -> dict[str, int]:
        def listed() -> dict[str, int]:
            try:
                entries = self._files.ls(self._key(""), detail=True, refresh=True)
            except FileNotFoundError:
                return {}
            return {entry["name"].rsplit("/", 1)[1]: entry["size"] for entry in entries if entry["type"] == "file"}

        return patiently(listed, self.url, pauses_s=self.pauses_s)

    def read(
        self, file: str, start: int = 0, stop: int | None = None, *, stopping: threading.Event | None = None
    ) -> bytes:
        def ranged() -> bytes:
            limits = {} if (start, stop) == (0, None) else {"start": start, "end": stop}
            data = self._files.cat_file(self._key(file), max_concurrency=1, **limits)  # one request, one answer
            assert isinstance(data, bytes)
            return data

        return patiently(ranged, self.name_of(file), pauses_s=self.pauses_s, stopping=stopping)

    def _key(self, file: str) -> str:
        return f"{self.url.removeprefix(S3_SCHEME)}/{file}".rstrip("/")
