"""Folders of files in object storage, through fsspec: sent, listed last, fetched, checked."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from prx_model.data.durable import exclusive, sweep_partials, whole_folder
from prx_model.data.patience import StorageError

logger = logging.getLogger(__name__)

COMPLETE = "complete.json"
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
ATTEMPTS = 5
WAIT_S = 2.0  # before the second attempt; twice as long before each later one. In each the client tries several times

T = TypeVar("T")


class TornError(ValueError):
    """What lies in the storage is not what was written there."""


class Bucket:
    """Named folders under an address such as 's3://bucket/run'; a folder counts once its list of files is there.

    Storage that cannot be reached, or does not let us, is a StorageError.
    names: of the folders that are ours; others stay as they are.
    scratch: a folder on this node's disk, which the workers of a node share.
    """

    def __init__(self, location: str, names: re.Pattern[str], scratch: Path) -> None:
        import fsspec.core

        # Listings are never remembered: other processes write here too.
        found: tuple[Any, str] = fsspec.core.url_to_fs(location, use_listings_cache=False)
        self._files, root = found
        self._root = root.rstrip("/")
        self._ours = names
        self._scratch = scratch
        self._key = hashlib.sha256(location.encode()).hexdigest()[:16]
        self._downloads = scratch / f"fetched-{self._key}"

    @contextmanager
    def outbox(self, rank: int) -> Iterator[Path]:
        """An empty folder on this node's disk for what a worker is to send; what a kill has left in it is gone.

        What was fetched before is loaded by now, and goes too.
        """
        shutil.rmtree(self._downloads, ignore_errors=True)
        folder = self._scratch / f"outbox-{self._key}-{rank}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def clear(self, name: str) -> str:
        """Remove folders that were left half written, and this one, which is to be written."""
        complete = set(self.complete_names()) - {name}
        for other in self._names():
            if other not in complete:
                self._remove(other)
        return ""

    def send(self, folder: Path, name: str) -> str:
        """Copy the files of a local folder; returns their cards, for `complete`."""
        cards = []
        for path in sorted(folder.iterdir()):
            target = f"{self._root}/{name}/{path.name}"
            _written(lambda path=path, target=target: self._files.put_file(str(path), target))
            cards.append({"name": path.name, "bytes": path.stat().st_size, "sha256": _sha256(path)})
        return json.dumps(cards)

    def complete(self, name: str, sent: Sequence[str]) -> str:
        """Write the list of all files, of which every worker has sent some: from now on the folder counts."""
        cards = [card for cards in sent for card in json.loads(cards)]
        assert len({card["name"] for card in cards}) == len(cards), f"two workers wrote one file: {cards}"
        content = json.dumps({"files": cards}, indent=1).encode()
        _written(lambda: self._files.pipe_file(f"{self._root}/{name}/{COMPLETE}", content))
        return ""

    def keep_newest(self, count: int) -> str:
        for name in self.complete_names()[count:]:
            try:
                self._remove(name)
            except OSError as error:
                logger.warning("%s/%s cannot be removed: %s", self._root, name, error)
        return ""

    def remove(self, name: str) -> str:
        self._remove(name)
        return ""

    def collect(self, count: int) -> str:
        """Remove all folders but the newest so many that count. Returns the bytes that were freed."""
        kept, freed = self.complete_names()[:count], 0
        for name in self._names():
            if name not in kept:
                freed += _asked(lambda name=name: self._files.du(f"{self._root}/{name}"))
                self._remove(name)
        return str(freed)

    def complete_names(self) -> list[str]:
        """Of the folders that count, the last first."""
        found: list[str] = _asked(lambda: self._files.glob(f"{self._root}/*/{COMPLETE}"))
        names = (path.split("/")[-2] for path in found)
        return sorted(filter(self._ours.fullmatch, names), reverse=True)

    def fetch(self, name: str) -> Path:
        """Copy a folder to this node's disk, once for all of its workers.

        Raises TornError if something is not as it was written.
        """
        content = self._list_of(name)
        target = self._downloads / f"{name}-{hashlib.sha256(content).hexdigest()[:16]}"
        with exclusive(target):
            sweep_partials(target)
            if not target.is_dir():
                with whole_folder(target) as partial:
                    for card in _cards(content):
                        self._fetch_file(name, card, partial / card["name"])
        return target

    def _list_of(self, name: str) -> bytes:
        try:
            return _asked(lambda: self._files.cat_file(f"{self._root}/{name}/{COMPLETE}"))
        except FileNotFoundError as error:
            raise TornError(f"{COMPLETE} is not there") from error

    def _fetch_file(self, name: str, card: dict[str, Any], path: Path) -> None:
        try:
            _asked(lambda: self._files.get_file(f"{self._root}/{name}/{card['name']}", str(path)))
        except FileNotFoundError as error:
            raise TornError(f"{card['name']} is not there") from error
        size = path.stat().st_size
        if size != card["bytes"]:
            raise TornError(f"{card['name']} has {size} bytes, {card['bytes']} were written")
        if _sha256(path) != card["sha256"]:
            raise TornError(f"{card['name']} has another sha256 than when it was written")
        with path.open("rb") as file:
            os.fsync(file.fileno())

    def _names(self) -> list[str]:
        try:
            found: list[str] = _asked(lambda: self._files.ls(self._root, detail=False))
        except FileNotFoundError:
            return []
        return list(filter(self._ours.fullmatch, (path.rstrip("/").split("/")[-1] for path in found)))

    def _remove(self, name: str) -> None:
        """The list first: what is half removed does not count."""
        folder = f"{self._root}/{name}"
        if _asked(lambda: self._files.exists(f"{folder}/{COMPLETE}")):
            _asked(lambda: self._files.rm_file(f"{folder}/{COMPLETE}"))
        if _asked(lambda: self._files.exists(folder)):
            _asked(lambda: self._files.rm(folder, recursive=True))


def _cards(content: bytes) -> list[dict[str, Any]]:
    """The files of a list: name, bytes, sha256."""
    try:
        cards = json.loads(content)["files"]
        # A name with a folder in it would be written somewhere else on this node.
        if all(FILE_NAME.fullmatch(card["name"]) and int(card["bytes"]) >= 0 and card["sha256"] for card in cards):
            return cards
    except (KeyError, TypeError, ValueError) as error:
        raise TornError(f"{COMPLETE} cannot be read: {error}") from error
    raise TornError(f"{COMPLETE} lists impossible files")


def _asked(action: Callable[[], T]) -> T:
    """What the storage answers. Raises FileNotFoundError for what is not there, StorageError for all else."""
    try:
        return _tried(action)
    except FileNotFoundError:
        raise
    except Exception as error:
        raise StorageError(f"{type(error).__name__}: {' '.join(str(error).split())}") from error


def _written(action: Callable[[], T]) -> T:
    """The same of a write: what it misses can only be the bucket."""
    try:
        return _asked(action)
    except FileNotFoundError as error:
        raise StorageError(f"there is no such bucket: {error}") from error


def _tried(action: Callable[[], T]) -> T:
    """An action that may be repeated, a few times if it must be."""
    for attempt in range(ATTEMPTS):
        try:
            return action()
        except (FileNotFoundError, PermissionError):
            raise
        except Exception as error:  # OSError, or what the client of the storage makes of it
            if attempt == ATTEMPTS - 1:
                raise
            wait_s = WAIT_S * 2**attempt
            logger.warning("object storage: %s: %s; once more in %g s", type(error).__name__, error, wait_s)
            time.sleep(wait_s)
    raise AssertionError("unreachable")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
