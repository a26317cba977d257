"""An address in S3 with those parts of pathlib.Path that a sweep uses, and with writes on a condition.

An object appears whole or not at all. What passes is waited for (prx_model.data.patience); what does not is a
StorageError with the address. A write on a condition whose connection was cut is asked about: it has been made if the
object is what was to be written.
"""

from __future__ import annotations

import asyncio
import mimetypes
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prx_model.data.patience import PAUSES_S, StorageError, error_code, patiently, single_try_client
from prx_model.data.places import S3_SCHEME

if TYPE_CHECKING:
    from s3fs import S3FileSystem

PAGE = 1000  # of a listing; the most that S3 gives at once
SIDE_BY_SIDE = 64
REFUSED = ("PreconditionFailed", "412")  # the condition of a write does not hold


@dataclass(frozen=True, kw_only=True)
class Tagged:
    """An object as it was read. tag: changes with its content. age_s: since it was written, by the storage's clock."""

    content: bytes
    tag: str
    age_s: float


@lru_cache(maxsize=1)
def client() -> S3FileSystem:
    """The process's own."""
    return single_try_client()


@dataclass(frozen=True, order=True)
class ObjectPath:
    """s3://bucket/key: an object, or the folder that others lie in. pauses_s: between tries."""

    bucket: str
    key: str = ""
    pauses_s: tuple[float, ...] = field(default=PAUSES_S, compare=False, repr=False)

    @classmethod
    def of(cls, address: str) -> ObjectPath:
        """Raises ValueError where the address names no bucket."""
        bucket, _, key = address.removeprefix(S3_SCHEME).partition("/")
        parts = [part for part in key.split("/") if part]
        if not address.startswith(S3_SCHEME) or not bucket or {".", ".."} & set(parts):
            raise ValueError(f"got {address!r}, allowed is {S3_SCHEME}bucket/prefix")
        return cls(bucket, "/".join(parts))

    def __str__(self) -> str:
        return f"{S3_SCHEME}{self._full}"

    def __truediv__(self, name: str) -> ObjectPath:
        return replace(self, key=f"{self.key}/{name}".strip("/"))

    @property
    def _full(self) -> str:
        return f"{self.bucket}/{self.key}".rstrip("/")

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2] or self.bucket

    @property
    def parent(self) -> ObjectPath:
        return replace(self, key=self.key.rpartition("/")[0])

    def absolute(self) -> ObjectPath:
        return self

    # -- what is there

    def is_file(self) -> bool:
        try:
            self._asked(lambda: self._call("head_object"), "looked at")
        except FileNotFoundError:
            return False
        return True

    def is_dir(self) -> bool:
        """Whether anything lies in it."""
        return any(page.get("KeyCount") for page in self._pages(MaxKeys=1))

    def exists(self) -> bool:
        return self.is_file() or self.is_dir()

    def folders(self) -> list[ObjectPath]:
        """Those right in it, sorted."""
        pages = self._pages(Delimiter="/")
        keys = [entry["Prefix"].rstrip("/") for page in pages for entry in page.get("CommonPrefixes", [])]
        return [replace(self, key=key) for key in sorted(keys)]

    def files(self, start: str = "") -> dict[ObjectPath, str]:
        """Every object below it whose name there starts so, sorted, with its tag. None where there is no bucket."""
        pages = self._pages(start)
        found = {entry["Key"]: entry["ETag"] for page in pages for entry in page.get("Contents", [])}
        return {replace(self, key=key): found[key] for key in sorted(found)}

    # -- reading

    def read_bytes(self) -> bytes:
        return self._asked(lambda: client().cat_file(self._full, max_concurrency=1), "read")

    def read_text(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self.read_bytes().decode(encoding, errors)

    def read_tagged(self) -> Tagged | None:
        """None where there is nothing."""
        try:
            return self._asked(lambda: _in_loop(self._get), "read")
        except FileNotFoundError:
            return None

    # -- writing

    def write_bytes(self, content: bytes) -> None:
        # A browser shows a page that says that it is one.
        kind = mimetypes.guess_type(self.name)[0] or "application/octet-stream"
        self._written(lambda: client().pipe_file(self._full, content, ContentType=kind))

    def download(self, file: Path) -> None:
        self._asked(lambda: client().get_file(self._full, str(file)), "read")

    def upload(self, file: Path) -> None:
        self._written(lambda: client().put_file(str(file), self._full))

    def copy_to(self, target: ObjectPath) -> None:
        """Inside the storage."""
        target._written(lambda: client().cp_file(self._full, target._full))

    def create(self, content: bytes) -> str | None:
        """Write it where there is nothing yet; its tag, or None where there is something else."""
        return self._conditional(content, IfNoneMatch="*")

    def replace(self, content: bytes, tag: str) -> str | None:
        """Write it over the content with this tag; the new tag, or None where it has another by now."""
        return self._conditional(content, IfMatch=tag)

    def remove(self) -> None:
        """The object; nothing happens where there is none."""
        self._written(lambda: self._call("delete_object"), "removed")

    # -- asking

    def _conditional(self, content: bytes, **condition: str) -> str | None:
        def put() -> str | None:
            try:
                return str(self._call("put_object", Body=content, **condition)["ETag"])
            except OSError as error:
                missing = isinstance(error, FileNotFoundError) and error_code(error) != "NoSuchBucket"
                if error_code(error) in REFUSED or (missing and "IfMatch" in condition):
                    return None
                raise

        tag = self._written(put)
        if tag is None:  # an earlier try may have come through, though we were not told
            there = self.read_tagged()
            tag = there.tag if there is not None and there.content == content else None
        return tag

    def _call(self, method: str, **arguments: Any) -> Mapping[str, Any]:
        answer: Any = client().call_s3(method, Bucket=self.bucket, Key=self.key, **arguments)
        return answer

    def _pages(self, start: str = "", **arguments: Any) -> Iterator[Mapping[str, Any]]:
        arguments = {"MaxKeys": PAGE} | arguments
        arguments |= {"Bucket": self.bucket, "Prefix": f"{self.key}/{start}" if self.key else start}
        while True:
            try:
                page = self._asked(lambda: client().call_s3("list_objects_v2", **arguments), "listed")
            except FileNotFoundError:  # no such bucket
                return
            yield page
            if not page.get("IsTruncated"):
                return
            arguments["ContinuationToken"] = page["NextContinuationToken"]

    async def _get(self) -> Tagged:
        answer = await client()._call_s3("get_object", Bucket=self.bucket, Key=self.key)
        try:
            content = await answer["Body"].read()
        finally:
            answer["Body"].close()
        said = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        now = parsedate_to_datetime(said) if said else datetime.now(UTC)
        return Tagged(content=content, tag=answer["ETag"], age_s=(now - answer["LastModified"]).total_seconds())

    def _asked(self, call: Callable[[], Any], verb: str) -> Any:
        return patiently(call, str(self), verb=verb, pauses_s=self.pauses_s)

    def _written(self, call: Callable[[], Any], verb: str = "written") -> Any:
        """What a write misses can only be the bucket."""
        try:
            return self._asked(call, verb)
        except FileNotFoundError as error:
            raise StorageError(f"{self} cannot be {verb}: there is no bucket {self.bucket!r}; make it first") from error


def read_many(paths: Sequence[ObjectPath]) -> Iterator[bytes]:
    """The content of each, fetched side by side."""

    async def fetch(some: Sequence[ObjectPath]) -> list[Any]:
        return await asyncio.gather(
            *(client()._cat_file(path._full, max_concurrency=1) for path in some), return_exceptions=True
        )

    for first in range(0, len(paths), SIDE_BY_SIDE):
        some = paths[first : first + SIDE_BY_SIDE]
        for path, content in zip(some, _in_loop(lambda some=some: fetch(some)), strict=True):
            yield content if isinstance(content, bytes) else path.read_bytes()  # now with patience


def _in_loop(call: Callable[[], Any]) -> Any:
    from fsspec.asyn import sync

    return sync(client().loop, call)
