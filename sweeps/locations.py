"""Where results lie: a folder on a disk, or an address in S3. What is done differently with the two is done here."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prx_model.data.durable import write_file
from prx_model.data.places import S3_SCHEME
from sweeps.object_path import ObjectPath

Location = Path | ObjectPath


def location(text: str | Path | ObjectPath) -> Location:
    """The location of a path or of an address. Raises ValueError, in one line, for an address of another kind."""
    if isinstance(text, Path | ObjectPath):
        return text
    if text.startswith(S3_SCHEME):
        return ObjectPath.of(text)
    if "://" in text:
        raise ValueError(f"got {text!r}, allowed is a local folder or {S3_SCHEME}bucket/prefix")
    return Path(text)


def write_whole(target: Location, content: bytes) -> None:
    """Write a file as a whole or not at all, and the folders that it lies in."""
    if isinstance(target, ObjectPath):
        target.write_bytes(content)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    write_file(target, lambda file: file.write(content))


def folders_in(folder: Location) -> list[Location]:
    """Sorted; none where there is no such folder."""
    if isinstance(folder, ObjectPath):
        return list(folder.folders())
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def names_in(folder: Location) -> set[str]:
    """Of the files in a folder that has no folders; by one listing."""
    if isinstance(folder, ObjectPath):
        return {path.name for path in folder.files()}
    return {path.name for path in folder.iterdir() if path.is_file()} if folder.is_dir() else set()


def copy_files(source: Location, target: Location) -> None:
    """Copy the files of a folder that has no folders, where there is one. Both lie on a disk, or both in S3."""
    if isinstance(source, ObjectPath):
        assert isinstance(target, ObjectPath), (source, target)
        for path in source.files():
            path.copy_to(target / path.name)
    elif source.is_dir():
        assert isinstance(target, Path), (source, target)
        shutil.copytree(source, target, dirs_exist_ok=True)


def publish(folder: Path, target: Location, *, last: str) -> None:
    """Let a finished folder on this disk take the place of `target`.

    last: the file without which what lies there is nothing. In S3, where nothing can be renamed, it goes away first
    and comes last.
    """
    if isinstance(target, Path):
        shutil.rmtree(target, ignore_errors=True)
        folder.rename(target)
        return
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    assert last in names, (last, names)
    before = target.files()
    (target / last).remove()
    for name in sorted(names, key=lambda name: name == last):
        (target / name).upload(folder / name)
    for path in before.keys() - {target / name for name in names}:
        path.remove()
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def sent_at_the_end(file: Path, target: Location) -> Iterator[None]:
    """Copy a file of this disk to where it belongs when the body has ended, well or not; on a disk it lies there."""
    try:
        yield
    finally:
        if isinstance(target, ObjectPath) and file.is_file():
            target.upload(file)
