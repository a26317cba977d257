"""A folder of results -> what its sweep was judged by. Where the folder does not say it, the error names the option."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from prx_model.metrics.table import METRICS
from sweeps.config import build, listing
from sweeps.ledger import Ledger
from sweeps.locations import Location
from sweeps.provenance import read_starts
from sweeps.rule import StopConfig
from sweeps.space import Budget, Objective, SearchSpace
from sweeps.space_file import load_space, profiles_of, read_space
from sweeps.storage import SweepPaths


class RecordedError(ValueError):
    """A folder that cannot be judged again: one line with where, what is missing, and what to give or to allow."""


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """The objective, and the rule of the sweep itself; None where nothing of the rule is recorded."""

    metric: str
    mode: str
    stop: StopConfig | None


def sweep_of(folder: Location) -> SweepPaths:
    """The sweep whose results, or whose ledger, lie in the folder."""
    allowed = "allowed is the folder of a sweep's results, or the folder 'ledger' in it"
    if not folder.is_dir():
        raise RecordedError(f"{folder}: {'not a folder' if folder.exists() else 'no such folder'}; {allowed}")
    folder = folder.absolute()
    inside = folder.name == "ledger" and not (folder / "ledger").is_dir()
    paths = SweepPaths(folder.parent if inside else folder)
    if not Ledger(paths).trials():
        raise RecordedError(f"{folder}: no ledger of a trial in it; {allowed}")
    return paths


def recorded(paths: SweepPaths, *, metric: str | None = None, mode: str | None = None) -> Recorded:
    """What the sweep was judged by; a metric or a mode that is given stands instead of the sweep's own."""
    try:
        own = _from_starts(paths) or _from_space_file(paths)
    except (ValueError, OSError) as error:
        if metric is None:
            raise RecordedError(
                f"the sweep's objective is not known: {error}; give it by hand with --metric"
            ) from error
        own = None
    if own is None or metric not in (None, own.metric):
        assert metric is not None
        return Recorded(metric=metric, mode=mode or _direction(metric), stop=own.stop if own else None)
    return Recorded(metric=own.metric, mode=mode or own.mode, stop=own.stop)


def _from_starts(paths: SweepPaths) -> Recorded | None:
    """From the last start that tells; older versions did not write it."""
    for start in reversed(read_starts(paths.starts)):
        if isinstance(start, Mapping) and "objective" in start and "stop" in start:
            objective: Objective = build(Objective, start["objective"], f"{paths.starts}: objective")
            stop: StopConfig = build(StopConfig, start["stop"], f"{paths.starts}: stop")
            return Recorded(metric=objective.metric, mode=objective.mode, stop=stop)
    return None


def recorded_space(paths: SweepPaths) -> SearchSpace:
    """The whole space: the copy of the file, under the profile and with the budget of the last start.

    Raises ValueError, in one line, where the folder does not say it.
    """
    content = read_space(paths.space)
    profiles, told = profiles_of(content), _told(paths)
    profile = next((start["profile"] for start in reversed(told) if "profile" in start), None)
    if profile is None and len(profiles) != 1:
        raise RecordedError(f"{paths.starts} does not name a profile, of {listing(profiles)}")
    chosen = str(profile or profiles[0])
    space = load_space(paths.space, chosen)
    # What the command was given (`--candidates`) stands in no file.
    budget = next((start["budget"] for start in reversed(told) if "budget" in start), None)
    if budget is not None:
        space = replace(space, budget=build(Budget, budget, f"{paths.starts}: budget"))
    return replace(space, name=paths.root.name.rpartition("-")[0].removesuffix(f"-{chosen}") or space.name)


def _from_space_file(paths: SweepPaths) -> Recorded:
    space = recorded_space(paths)
    return Recorded(metric=space.objective.metric, mode=space.objective.mode, stop=space.stop)


def _told(paths: SweepPaths) -> list[Mapping[str, Any]]:
    return [start for start in read_starts(paths.starts) if isinstance(start, Mapping)]


def _direction(metric: str) -> str:
    if metric not in METRICS:
        raise RecordedError(
            f"--metric: whether less or more of {metric} is better is not known; give --mode min or max"
        )
    return METRICS[metric].direction
