"""The page's last section: what the result was made with, so that somebody else can make it again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from sweeps.config import to_plain
from sweeps.page.elements import definitions, details, paragraph, section
from sweeps.rule import ADAPTIVE
from sweeps.space import SearchSpace
from sweeps.storage import SweepPaths
from sweeps.summary import Summary
from sweeps.wording import count, either, reused


def record_section(space: SearchSpace, paths: SweepPaths, summary: Summary, starts: Sequence[Mapping[str, Any]]) -> str:
    """How to repeat it, settings, every start of the command, resolved configurations, and the search-space file."""
    parts = [*_again(starts), definitions(settings_of(space, summary)), "<h3>Starts of the command</h3>"]
    parts += [definitions(_start(start)) for start in starts] or [paragraph("None is recorded.")]
    baseline = to_plain(space.baseline_config(space.first_seed))
    parts.append(details("The baseline's configuration", json.dumps(baseline, indent=2)))
    best = next((trial for trial in summary.trials if summary.best and trial.name == summary.best.trial), None)
    if best is not None:
        config = to_plain(space.candidate_config(best.overrides))
        parts.append(details(f"The configuration of {best.name}, the best candidate", json.dumps(config, indent=2)))
    parts.append(_space_file(paths))
    return section("provenance", "How it was made, and how to make it again", *parts)


def _again(starts: Sequence[Mapping[str, Any]]) -> list[str]:
    command, words = repeat(starts)
    return [paragraph(words), f"<pre>{escape(command)}</pre>"] if command else []


def repeat(starts: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """The command that made it, and what to know before giving it again; '' where none is recorded."""
    last = next((start for start in reversed(starts) if start.get("command")), None)
    if last is None:
        return "", ""
    commit = last.get("commit", "unknown")
    checkout = "the same code (its commit is not known)" if commit == "unknown" else f"a checkout of commit {commit}"
    changed = ", which had uncommitted changes," if last.get("dirty") else ""
    return str(last["command"]), (
        f"To make it again: this command, in {checkout}{changed} with the versions below. In the same results folder "
        "it goes on with this sweep; in another it begins anew."
    )


def settings_of(space: SearchSpace, summary: Summary) -> list[tuple[str, str]]:
    evaluation, stop = space.baseline_config(space.first_seed).evaluation, space.stop
    samples = f"n = {evaluation.num_samples} per evaluation, noise seed {evaluation.noise_seed}"
    if other := [n for n in summary.sample_counts if n != evaluation.num_samples]:
        samples += f"; some candidates' evaluations have n = {either(other)} (stopping rule)"
    return [
        ("sweep", f"{space.name}, profile {space.profile}, fingerprint {space.fingerprint}"),
        ("objective", f"{space.objective.metric}, {space.objective.mode}"),
        ("searched", "; ".join(f"{dimension.path}: {dimension}" for dimension in space.dimensions)),
        ("seeds", _seeds(space, summary)),
        ("samples", samples),
        (
            "stopping rule",
            f"margin {stop.margin:g} spreads, patience {stop.patience}, grace {stop.grace:g} of the run: a candidate "
            f"ends after {count(stop.patience, 'evaluation')} in a row more than {stop.margin:g} spreads worse than "
            f"the baseline, none of them in the grace; a share of {stop.audit:g} of those, drawn at random, goes on "
            "as an audit",
        ),
        (
            "evaluations",
            "adaptive: a candidate's evaluation ends on as few samples as decide it; it is stopped, and its last one "
            "made, on all of them"
            if stop.evaluation == ADAPTIVE
            else "full: every evaluation is made on all samples",
        ),
        ("budget", f"{space.budget.candidates} candidates, {space.budget.baseline_seeds} baseline seeds"),
    ]


def _seeds(space: SearchSpace, summary: Summary) -> str:
    baseline = f"baseline {', '.join(map(str, space.baseline_seeds))}{reused(summary)}"
    fresh = sorted({trial.seed for trial in summary.confirmations})
    confirmed = f"; confirmed with {', '.join(map(str, fresh))}" if fresh else ""
    return f"{baseline}; candidates {space.first_seed}{confirmed}"


_TREES = {"True": "with uncommitted changes (dirty)", "False": "clean"}


def _start(start: Mapping[str, Any]) -> list[tuple[str, str]]:
    """One line of starts.jsonl. A key that an older version did not write is left out."""
    tree = _TREES.get(str(start.get("dirty")), "whether it was changed is unknown")
    packages = start.get("packages") or {}
    versions = [f"python {start['python']}"] if "python" in start else []
    versions += [f"{name} {version}" for name, version in packages.items()]
    reason = f" ({start['profile_reason']})" if start.get("profile_reason") else ""
    pairs = [
        ("time", start.get("time")),
        ("command", start.get("command")),
        ("profile", f"{start['profile']}{reason}" if "profile" in start else None),
        ("commit", f"{start['commit']}, {tree}" if "commit" in start else None),
        ("model code", start.get("model_code")),
        ("data", start.get("data")),
        ("versions", ", ".join(versions)),
        ("hardware", start.get("hardware")),
    ]
    return [(name, str(value)) for name, value in pairs if value]


def _space_file(paths: SweepPaths) -> str:
    try:
        text = paths.space.read_text(errors="replace")
    except OSError:
        return paragraph("No copy of the search-space file is kept in the sweep's folder.")
    return details("The search-space file, as it was when the sweep began", text)
