"""Files that come with an installed data package, checked before they are used."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path


def packaged_file(package: str, relative_path: str, sha256: str) -> Path:
    """The path of a file inside the installed package `package` (its import name), once its content is verified.

    The package is located, never imported: some of them import frameworks that are not needed to read a file.
    Raises ValueError where the package or the file is missing, or the content is not the pinned one.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            f"package {package!r} is not installed; install the data packages: pip install prx-sweeps[laptop]"
        )
    path = Path(next(iter(spec.submodule_search_locations))) / relative_path
    if not path.is_file():
        raise ValueError(f"{path} is missing; reinstall the data packages: pip install prx-sweeps[laptop]")
    with path.open("rb") as file:
        got = hashlib.file_digest(file, "sha256").hexdigest()
    if got != sha256:
        raise ValueError(f"{path}: sha256 is {got}, expected {sha256}; reinstall the package at its pinned version")
    return path
