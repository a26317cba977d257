"""The folder that a data set is written into, on a local disk or on S3: each file is there whole or not at all."""

from __future__ import annotations

import hashlib
import posixpath
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prx_model.data.durable import write_file
from prx_model.encoding.listing import file_system, present, root_of, whole_files

HASHED_BYTES = 8 << 20


class StoreFolder:
    """Files by name ('manifest.json', '.encoding/plan.json') below a local path or an s3:// address.

    An S3 object appears when its upload is complete. OSError where the place cannot be reached or written to.
    """

    def __init__(self, location: str) -> None:
        self.location = root_of(location)
        self._fs, self._root = file_system(self.location)

    @property
    def local(self) -> Path | None:
        """The folder, where it is on a disk."""
        return None if "://" in self.location else Path(self.location)

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is none."""
        self._fs.invalidate_cache()
        try:
            return int(self._fs.info(self._path(name))["size"])
        except FileNotFoundError:
            return None

    def sizes(self, folder: str) -> dict[str, int]:
        """Name and bytes of the files right in a folder; of a folder that is not there, none."""
        self._fs.invalidate_cache()
        try:
            found = self._fs.ls(self._path(folder).rstrip("/"), detail=True)
        except FileNotFoundError:
            return {}
        return {posixpath.basename(entry["name"]): int(entry["size"]) for entry in found if entry["type"] == "file"}

    def read_all(self, folder: str) -> dict[str, bytes]:
        """Name and content of the files right in a folder, fetched side by side."""
        names = sorted(self.sizes(folder))
        contents = whole_files(self._fs, [self._path(f"{folder}/{name}") for name in names])
        return {name: present(content) for name, content in zip(names, contents, strict=True)}

    def open(self, name: str) -> Any:
        """The file, open to read bytes anywhere in it."""
        return self._fs.open(self._path(name), "rb")

    def read(self, name: str) -> bytes:
        content = self._fs.cat_file(self._path(name))
        assert isinstance(content, bytes)
        return content

    def write(self, name: str, content: bytes) -> None:
        if self.local is None:
            self._fs.pipe_file(self._path(name), content)
        else:
            target = self._target(name)
            write_file(target, lambda file: file.write(content))

    def put(self, name: str, file: Path) -> None:
        """Make a finished local file the file of this name, unless it is that already."""
        if self.local is None:
            self._fs.put_file(str(file), self._path(name))
        elif file.absolute() != self.local / name:
            with file.open("rb") as source:
                write_file(self._target(name), lambda target: shutil.copyfileobj(source, target, HASHED_BYTES))

    def fetch(self, name: str, file: Path) -> None:
        """Copy a file to a local one."""
        self._fs.get_file(self._path(name), str(file))

    def sha256(self, name: str) -> str:
        digest = hashlib.sha256()
        with self.open(name) as file:
            while block := file.read(HASHED_BYTES):
                digest.update(block)
        return digest.hexdigest()

    def remove(self, folder: str) -> None:
        """Remove a folder and all in it, where there is one."""
        if self.local is not None:
            shutil.rmtree(self.local / folder, ignore_errors=True)
            return
        self._fs.invalidate_cache()
        if self._fs.exists(self._path(folder)):
            self._fs.rm(self._path(folder), recursive=True)

    def sweep_partials(self, *folders: str) -> None:
        """Remove what killed writers left behind, in the store itself and in these of its folders."""
        for folder in ("", *folders):
            for partial in (self.local / folder).glob(".*.partial") if self.local is not None else ():
                partial.unlink(missing_ok=True)

    @contextmanager
    def writing_folder(self, scratch: Path) -> Iterator[Path]:
        """A local folder to write shards into: the store itself on a disk, else `scratch`, which is emptied after."""
        if self.local is not None:
            self.local.mkdir(parents=True, exist_ok=True)
            yield self.local
            return
        scratch.mkdir(parents=True, exist_ok=True)
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _target(self, name: str) -> Path:
        target = Path(self.location) / name
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"
