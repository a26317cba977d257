"""Candidates of earlier sweeps, for Optuna to begin with: only those that would be the same trial in this sweep."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sweeps.config import ConfigError, deciding, fingerprint, to_plain
from sweeps.ledger import FAILED, Ledger, TrialRecord
from sweeps.space import SearchSpace, SpaceError
from sweeps.storage import SweepPaths
from sweeps.wording import count


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """records: what Optuna is told, beside this sweep's own. lines: what was taken from where, and what not and why."""

    records: tuple[TrialRecord, ...] = ()
    lines: tuple[str, ...] = ()


def read_earlier(space: SearchSpace, paths: SweepPaths) -> Earlier:
    """Read the ledgers that `warm_start` names. Raises SpaceError where there is none.

    Their values are this sweep's own only where its settings are: a candidate is taken if its settings lie in this
    space, and with this sweep's model, data, training, evaluation and seed would make the trial that it was.
    """
    records: list[TrialRecord] = []
    lines = []
    for i, name in enumerate(space.warm_start):
        folder = _sweep_at(name, f"{space.file}: warm_start[{i}]")
        if folder.root == paths.root:
            lines.append(f"{name}: this sweep itself; nothing is counted twice")
            continue
        found = [record for record in _records(folder, f"{space.file}: warm_start[{i}]") if record.is_candidate]
        reasons = Counter(reason for record in found if (reason := _why_not(space, record)))
        taken = [record for record in found if not _why_not(space, record)]
        left_out = ", ".join(f"{number} {reason}" for reason, number in reasons.items())
        told = f"{len(taken)} of {count(len(found), 'candidate')} of {folder.root.name}"
        lines.append(f"{told}; not: {left_out}" if left_out else told)
        records += taken
    return Earlier(records=tuple(records), lines=tuple(lines))


def _sweep_at(name: str, where: str) -> SweepPaths:
    try:
        return SweepPaths.at(name)
    except ValueError as error:
        raise SpaceError(f"{where}: {error}") from error


def _records(folder: SweepPaths, where: str) -> list[TrialRecord]:
    if not folder.ledger.is_dir():
        raise SpaceError(f"{where}: got {folder.root}, which has no ledger; allowed is the folder of a sweep")
    try:
        return Ledger(folder).records()
    except ValueError as error:
        raise SpaceError(f"{where}: {error}") from error


def _why_not(space: SearchSpace, record: TrialRecord) -> str:
    """'' where it is the same trial here."""
    if record.end is None:
        return "not ended"
    overrides: Mapping[str, Any] = record.start.overrides
    dimensions = {dimension.path: dimension for dimension in space.dimensions}
    if overrides.keys() != dimensions.keys() or not all(dimensions[p].holds(v) for p, v in overrides.items()):
        return "outside this space"
    try:
        here = fingerprint(deciding(to_plain(space.candidate_config(overrides))))
    except ConfigError:
        return "outside this space"
    if here != record.start.fingerprint:
        return "with other settings than this sweep's"
    if record.outcome != FAILED and space.objective.metric not in record.evaluations[-1].metrics:
        return f"without {space.objective.metric}"
    return ""
