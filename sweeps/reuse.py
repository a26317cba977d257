"""Baselines that another sweep of the same results folder has trained: taken over, with what is known of them.

A trial's numbers depend on its settings, on the code and the versions that compute them, on the data and, in the last
digits, on the machine. Only a finished baseline that agrees in all of these is reused; what disagrees is told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sweeps.agenda import baseline_name, missing_baselines
from sweeps.config import deciding, fingerprint, listing, to_plain
from sweeps.ledger import FINISHED, Ledger, Start, TrialRecord
from sweeps.locations import Location, copy_files, folders_in
from sweeps.provenance import read_starts
from sweeps.space import SearchSpace
from sweeps.storage import SweepPaths

# Packages that compute a result; others, such as Ray and Optuna, only say which trials there are and where they run.
COMPUTING = (
    "torch",
    "diffusers",
    "transformers",
    "torchmetrics",
    "numpy",
    "scipy",
    "onnxruntime",
    "pillow",
    "resvg-py",
)
MOST_DIFFERENCES = 3  # that one line tells


@dataclass(frozen=True, kw_only=True)
class Reusable:
    """A finished baseline of another sweep, whose folder `source` lies beside this one's."""

    seed: int
    source: Location


@dataclass(frozen=True, kw_only=True)
class Found:
    """reusable: at most one per missing seed. refused: one line for each sweep whose baseline would be the same trial,
    if it had been made alike.
    """

    reusable: tuple[Reusable, ...] = ()
    refused: tuple[str, ...] = ()


def find(space: SearchSpace, paths: SweepPaths, made_with: Mapping[str, Any]) -> Found:
    """What the other sweeps in the results folder offer for the seeds that this one lacks.

    made_with: provenance of this start of the command. The newest of several is taken.
    """
    records = Ledger(paths).records() if paths.ledger.is_dir() else []
    reusable, refused = [], {}
    folders = _other_sweeps(paths)
    for planned in missing_baselines(space, records):
        own = fingerprint(deciding(to_plain(space.baseline_config(planned.seed))))
        offers = []
        for folder in folders:
            record = _finished(folder, planned.trial)
            if record is None or (record.start.fingerprint, record.start.seed) != (own, planned.seed):
                continue
            differences = _differences(folder, record, made_with)
            if differences:
                told = listing(differences[:MOST_DIFFERENCES])
                refused[folder] = f"the baseline of {folder.root.name} is not reused: {told}"
            else:
                offers.append((record.end.time if record.end else 0.0, folder.root))
        if offers:
            reusable.append(Reusable(seed=planned.seed, source=max(offers)[1]))
    return Found(reusable=tuple(reusable), refused=tuple(refused.values()))


def adopt(found: Found, paths: SweepPaths) -> None:
    """Copy the baselines into this sweep's ledger: each as a whole, or not at all."""
    for one in found.reusable:
        trial, source = baseline_name(one.seed), SweepPaths(one.source)
        rows = [
            replace(row, reused_from=one.source.name) if isinstance(row, Start) else row
            for row in Ledger(source).rows(trial)
        ]
        # Pictures first: what the ledger knows of is there.
        copy_files(source.samples_of(trial), paths.samples_of(trial))
        Ledger(paths).adopt(rows)


def lines(found: Found, records: Sequence[TrialRecord]) -> list[str]:
    """What a plan says: of baselines that were reused, that would be, and that are not."""
    seeds: dict[str, list[int]] = {}
    for record in records:
        if record.start.reused_from:
            seeds.setdefault(record.start.reused_from, []).append(record.start.seed)
    for one in found.reusable:
        if one.seed not in seeds.get(one.source.name, []):
            seeds.setdefault(one.source.name, []).append(one.seed)
    return [
        *(f"seed{'s' * (len(of) > 1)} {listing(sorted(of))} reused from {source}" for source, of in seeds.items()),
        *found.refused,
    ]


def _other_sweeps(paths: SweepPaths) -> list[SweepPaths]:
    folders = [SweepPaths(folder) for folder in folders_in(paths.root.parent)]
    return [folder for folder in folders if folder.root != paths.root and folder.ledger.is_dir()]


def _finished(folder: SweepPaths, trial: str) -> TrialRecord | None:
    """A baseline that the sweep has trained itself, to its end."""
    try:
        record = Ledger(folder).record(trial)
    except (ValueError, OSError):  # of another version, or torn; the sweep that owns it will say so
        return None
    own = record is not None and record.is_baseline and record.outcome == FINISHED and not record.start.reused_from
    return record if own else None


def _differences(folder: SweepPaths, record: TrialRecord, made_with: Mapping[str, Any]) -> list[str]:
    """What it was made with and this start of the command is not: 'torch 2.12.0 there, 2.13.0 here'."""
    starts = _starts_of(read_starts(folder.starts), record)
    if not starts:
        return ["it is not recorded what it was made with"]
    here, differences = decides(made_with), {}
    for start in starts:
        for name, value in decides(start).items():
            if value != here[name]:
                differences[name] = f"{name} {value or 'not recorded'} there, {here[name] or 'not recorded'} here"
    return list(differences.values())


def decides(start: Mapping[str, Any]) -> dict[str, Any]:
    """What of a start of the command decides the numbers of its trials, beside their settings."""
    packages = start.get("packages") or {}
    return {
        "model code": start.get("model_code"),
        "data": start.get("data"),
        "machine": start.get("hardware"),
        **{name: packages.get(name) for name in COMPUTING},
    }


def _starts_of(starts: Sequence[Mapping[str, Any]], record: TrialRecord) -> list[Mapping[str, Any]]:
    """The starts of the command under which a trial ran: the last one before it began, and those until it ended."""
    ended = record.end.time if record.end else record.start.time
    timed = sorted(((_seconds(start), start) for start in starts), key=lambda pair: pair[0])
    before = [moment for moment, _ in timed if moment <= record.start.time + 1]  # starts are told in whole seconds
    first = max(before, default=float("inf"))
    return [start for moment, start in timed if first <= moment <= ended]


def _seconds(start: Mapping[str, Any]) -> float:
    try:
        return datetime.fromisoformat(str(start.get("time"))).timestamp()
    except ValueError:
        return float("inf")
