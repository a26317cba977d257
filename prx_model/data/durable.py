"""Files and folders that are either whole or not there, whenever the process is killed.

Everything is written under a temporary name in the target's own folder, flushed to the disk, then renamed: a rename
inside one file system is atomic. Two processes that build the same thing take turns where the file system can lock;
where it cannot, both build and the second rename is a no-op.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def exclusive(target: Path) -> Iterator[None]:
    """Holds the right to build `target`; other processes wait. The system lets go when the holder dies.

    The empty lock file beside the target stays: removing it would let two processes lock two different files.
    """
    import fcntl

    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / f".{target.name}.lock").open("ab") as lock:
        with suppress(OSError):  # a file system without locks: the renames alone keep us safe
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def sweep_partials(target: Path) -> None:
    """Removes what killed builders of `target` left behind. Call it inside `exclusive(target)`."""
    for partial in target.parent.glob(f".{target.name}.*.partial"):
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Yields an empty folder to fill; it becomes `target` when the block ends well, and goes away when it does not.

    Files inside must be flushed by `write_file`. If another process has finished `target` meanwhile, that one stays.
    """
    partial = _partial_path(target)
    partial.mkdir(parents=True)
    try:
        yield partial
        flush_folder(partial)
        try:
            partial.rename(target)
        except OSError:
            if not target.is_dir():
                raise
        flush_folder(target.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_file(target: Path, write: Callable[[BinaryIO], object]) -> None:
    """Gives `write` an open binary file, flushes it to the disk and lets it take the place of `target`."""
    partial = _partial_path(target)
    try:
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
        flush_folder(target.parent)
    finally:
        partial.unlink(missing_ok=True)


def _partial_path(target: Path) -> Path:
    return target.parent / f".{target.name}.{uuid.uuid4().hex[:12]}.partial"


def flush_folder(folder: Path) -> None:
    """Make the names in a folder as durable as the content of its files."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
