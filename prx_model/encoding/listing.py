"""What a source of images and captions holds: files found in a stable order, and one row for every item in them."""

from __future__ import annotations

import posixpath
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

IMAGE_SUFFIXES = (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

MOST_FETCHED_ITEMS = 64
MOST_FETCHED_BYTES = 64 << 20

# Why an item is left out: the kinds that the summary and the manifest count.
MISSING_IMAGE = "missing image"
MISSING_CAPTION = "missing caption"
EMPTY_CAPTION = "empty caption"
UNREADABLE_CAPTION = "unreadable caption"
TRUNCATED_FILE = "truncated file"
DUPLICATE_KEY = "duplicate key"
NOT_FINITE = "not finite"
SEVERAL_IMAGES = "several images"


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """A file of a source. path: below the source's root, with '/'."""

    path: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Listed:
    """Where one item lies; paths are below the source's root.

    file: what holds the image; start, size: its bytes in a tar, or start alone its row in a Parquet file. The caption
    is at hand (`caption`), a file or a tar's member (`caption_file`, `caption_start`, `caption_size`), or in that row.
    problem: why the item cannot be used, known without opening it; '' where nothing is known against it.
    """

    key: str
    file: str | None = None
    start: int | None = None
    size: int | None = None
    caption_file: str | None = None
    caption_start: int | None = None
    caption_size: int | None = None
    caption: str | None = None
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class SourceItem:
    """An item as its source has it. image: an encoded file. problem, detail: why it is left out, '' for whole ones."""

    key: str
    image: bytes = b""
    caption: str = ""
    problem: str = ""
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A recognised source: all that a worker needs to read its items. JSON values only.

    location: its root, a local folder or s3://bucket/prefix. layout: the name of a layout. files: sorted paths below
    the root that the layout reads its list of items from; empty where the list is that of the folder itself.
    """

    location: str
    layout: str
    files: tuple[str, ...] = ()
    image_column: str | None = None
    caption_column: str | None = None


@runtime_checkable
class Layout(Protocol):
    """One way to keep images and captions. `listed` gives the same items in the same order every time.

    `read` gives one item for each listed one, in order. What is wrong with an item is told by the item; OSError is for
    what may work the next time, or where a file of the list is gone.
    """

    name: ClassVar[str]

    def listed(self) -> Iterator[Listed]: ...
    def read(self, listed: Sequence[Listed]) -> Iterator[SourceItem]: ...


def file_system(location: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a local path or an s3:// address, and the path in it without a slash at the end."""
    import fsspec

    fs, path = fsspec.core.url_to_fs(location)
    return fs, path.rstrip("/")


def root_of(location: str) -> str:
    """A location as it is recorded: absolute where it is local, without a slash at the end."""
    return location.rstrip("/") if "://" in location else str(Path(location).absolute())


def files_below(fs: AbstractFileSystem, root: str) -> list[FileEntry]:
    """Every file below `root` but hidden ones (any part of the path begins with '.' or '_'), sorted by path."""
    fs.invalidate_cache()
    found: Any = fs.find(root, detail=True)
    entries = []
    for path, info in found.items():
        below = path.removeprefix(root).lstrip("/")
        if not any(part.startswith((".", "_")) for part in below.split("/")):
            entries.append(FileEntry(path=below, bytes=int(info.get("size") or 0)))
    return sorted(entries, key=lambda entry: entry.path)


def fetch_groups(listed: Sequence[Listed]) -> Iterator[list[Listed]]:
    """Consecutive items that are fetched together: many, for the sake of S3, but not more than memory takes lightly."""
    group: list[Listed] = []
    held = 0
    for one in listed:
        size = one.size or 0
        if group and (len(group) == MOST_FETCHED_ITEMS or held + size > MOST_FETCHED_BYTES):
            yield group
            group, held = [], 0
        group.append(one)
        held += size
    if group:
        yield group


def side_by_side(call: Callable[[Any], Any], arguments: Iterable[Any], at_a_time: int) -> Iterator[Any]:
    """The results in the order of the arguments; no more than `at_a_time` calls are begun ahead of who asks."""
    pool = ThreadPoolExecutor(at_a_time)
    waiting: deque[Future[Any]] = deque()
    try:
        for argument in arguments:
            waiting.append(pool.submit(call, argument))
            if len(waiting) == at_a_time:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def whole_files(fs: AbstractFileSystem, paths: Sequence[str]) -> list[bytes | Exception]:
    """The content of each file, fetched side by side where the file system can, or why there is none."""
    # Not `cat`, which takes the brackets of 'photo [1].jpg' for a pattern.
    return fs.cat_ranges(list(paths), [None] * len(paths), [None] * len(paths), on_error="return") if paths else []


def present(content: bytes | Exception) -> bytes:
    """The content, or its exception raised."""
    if isinstance(content, Exception):
        raise content
    return content


def suffix(path: str) -> str:
    """'.jpg' of 'a/b.JPG'."""
    return posixpath.splitext(path)[1].lower()


def stem(path: str) -> str:
    """'a/b' of 'a/b.jpg'."""
    return posixpath.splitext(path)[0]


def is_image(path: str) -> bool:
    return suffix(path) in IMAGE_SUFFIXES


def caption_item(listed: Listed, image: bytes, caption: bytes | str | None) -> SourceItem:
    """The item, with what can be wrong with its caption found out."""
    if caption is None:
        return SourceItem(key=listed.key, problem=MISSING_CAPTION)
    if isinstance(caption, bytes):
        try:
            caption = caption.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            return SourceItem(key=listed.key, problem=UNREADABLE_CAPTION, detail=f"not UTF-8: {error.reason}")
    caption = caption.strip()
    if not caption:
        return SourceItem(key=listed.key, problem=EMPTY_CAPTION)
    return SourceItem(key=listed.key, image=image, caption=caption)


def chosen_column(kind: str, names: Sequence[str], asked: str | None, usual: Sequence[str], where: str) -> str:
    """The column asked for, else the only one that bears one of the usual names. ValueError names those there are."""
    there = ", ".join(names) or "none"
    if asked is not None:
        if asked not in names:
            raise ValueError(f"--{kind}-column: got {asked!r}, allowed is a column of {where}: {there}")
        return asked
    fitting = [name for name in usual if name in names]
    if len(fitting) == 1:
        return fitting[0]
    problem = f"both {fitting[0]} and {fitting[1]} may hold the {kind}" if fitting else f"no column for the {kind}"
    raise ValueError(f"{where}: {problem}; choose with --{kind}-column: {there}")
