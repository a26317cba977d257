"""Which sweep, and which trial, a person means: by folder or address, by name or by a part of it."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from sweeps.ledger import Ledger
from sweeps.locations import Location, folders_in, location
from sweeps.storage import SweepPaths

RESULTS = "results"
MOST_LISTED = 8


class UnknownNameError(ValueError):
    """Nothing, or too much, bears that name: one line that lists what there is."""


def add_sweep_argument(parser: argparse.ArgumentParser, *, positional: bool) -> None:
    """positional: as SWEEP; else as --sweep, beside a trial."""
    told = (
        "folder or s3:// address of a sweep's results, or of several sweeps' where it is the only one "
        f"(default: the last one in {RESULTS})"
    )
    if positional:
        parser.add_argument("sweep", metavar="SWEEP", nargs="?", help=told)
    else:
        parser.add_argument("--sweep", metavar="SWEEP", help=told)


def sweep_meant(text: str | None, *, sure: bool = False) -> SweepPaths:
    """The sweep at this place or whose ledger this is, or of this name in the folder of results, or the only one there.

    Without a place, the one in the folder of results that was started last; sure: only if it is the only one.
    """
    place = location(text if text is not None else RESULTS).absolute()
    if place.name == "ledger" and _is_sweep(place.parent):
        return SweepPaths(place.parent)
    named = location(RESULTS).absolute() / text if text is not None and "/" not in text else place
    for one in (place, named):
        if _is_sweep(one):
            return SweepPaths(one)
    inside = [folder for folder in folders_in(place) if _is_sweep(folder)]
    if len(inside) == 1:
        return SweepPaths(inside[0])
    if inside and text is None and not sure:
        return SweepPaths(max(inside, key=_started))
    if inside:
        raise UnknownNameError(f"{place} holds {len(inside)} sweeps; name one of: {_listed([str(f) for f in inside])}")
    beside = [str(folder) for folder in folders_in(place.parent) if _is_sweep(folder)]
    there = f"; beside it there are: {_listed(beside)}" if beside and text is not None else ""
    raise UnknownNameError(f"{place}: no sweep is there; allowed is the folder or s3:// address of one{there}")


def _is_sweep(place: Location) -> bool:
    paths = SweepPaths(place)
    return paths.starts.is_file() or paths.ledger.is_dir()


def _started(folder: Location) -> float:
    """When its command was given last; of a folder on a disk."""
    starts = SweepPaths(folder).starts
    return starts.stat().st_mtime if isinstance(starts, Path) and starts.is_file() else 0.0


def trial_meant(paths: SweepPaths, text: str) -> str:
    """The trial of this name, with this number (a candidate's), or the only one whose name begins so."""
    names = Ledger(paths).trials()
    if text in names:
        return text
    found = [name for name in names if name.startswith(text)]
    if text.isdigit():
        found = [name for name in names if re.fullmatch(rf"candidate-0*{int(text)}", name)]
    if len(found) == 1:
        return found[0]
    there = f"{paths.root.name} has {_listed(found or names)}" if names else f"{paths.root.name} has no trial yet"
    raise UnknownNameError(f"trial: got {text!r}, which is {'no' if not found else 'not one'} trial; {there}")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    return f"{', '.join(names[:MOST_LISTED])}{more}"
