"""Where a data set lies: a local folder, or a bucket of S3 under a prefix.

S3 is reached through s3fs, which takes endpoint, region and credentials from where all of AWS's tools take them. The
network fails as a matter of course: what may pass (throttling, a cut connection, a time-out) is tried again with
growing pauses, what will not pass (nothing there, no permission) is an error at once.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

if TYPE_CHECKING:
    from s3fs import S3FileSystem

S3_SCHEME = "s3://"
# Seconds between tries, each varied by a half: a minute of trouble in all, then the error is told.
PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 30

Result = TypeVar("Result")


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
        import s3fs

        return s3fs.S3FileSystem(
            use_listings_cache=False,
            skip_instance_cache=True,  # fsspec would keep the first one's credentials for ever
            config_kwargs={"connect_timeout": CONNECT_TIMEOUT_S, "read_timeout": READ_TIMEOUT_S},
        )

    def name_of(self, file: str) -> str:
        return f"{self.url}/{file}"

    def sizes(self) -> dict[str, int]:
        def listed() -> dict[str, int]:
            try:
                entries = self._files.ls(self._key(""), detail=True, refresh=True)
            except FileNotFoundError:
                return {}
            return {entry["name"].rsplit("/", 1)[1]: entry["size"] for entry in entries if entry["type"] == "file"}

        return self._patiently(listed, self.url, None)

    def read(
        self, file: str, start: int = 0, stop: int | None = None, *, stopping: threading.Event | None = None
    ) -> bytes:
        def ranged() -> bytes:
            limits = {} if (start, stop) == (0, None) else {"start": start, "end": stop}
            data = self._files.cat_file(self._key(file), **limits)
            assert isinstance(data, bytes)
            return data

        return self._patiently(ranged, self.name_of(file), stopping)

    def _key(self, file: str) -> str:
        return f"{self.url.removeprefix(S3_SCHEME)}/{file}".rstrip("/")

    def _patiently(self, call: Callable[[], Result], name: str, stopping: threading.Event | None) -> Result:
        """What `call` returns, tried again while it fails in a way that may pass."""
        from aiohttp import ClientError as HttpError
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

        stopping = stopping or threading.Event()
        for pause_s in (*self.pauses_s, None):
            try:
                return call()
            except FileNotFoundError as error:
                raise FileNotFoundError(f"{name} is missing") from error
            except PermissionError as error:
                raise PermissionError(f"{name} may not be read ({error}); check the AWS credentials") from error
            except NoCredentialsError as error:
                raise PermissionError(f"{name} may not be read (no AWS credentials found); configure them") from error
            except (OSError, BotoCoreError, ClientError, HttpError) as error:
                if pause_s is None:
                    tries = len(self.pauses_s) + 1
                    raise OSError(f"{name} could not be read in {tries} tries; the last: {_told(error)}") from error
                if stopping.wait(pause_s * random.uniform(0.5, 1.5)):
                    raise CancelledError from error
        raise AssertionError("unreachable")


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
