"""The scoreboard as plain texts, in the form of the paper's tables: the baseline first, then every candidate by rank.

The page and its Markdown twin show the same cells.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from sweeps.confirmed import Confirmed
from sweeps.findings import interval
from sweeps.hours import Hours
from sweeps.ledger import FINISHED
from sweeps.page.roles import BASELINE, role
from sweeps.readings import Reading
from sweeps.summary import Summary, TrialSummary
from sweeps.wording import (
    audit_note,
    count,
    either,
    estimated,
    gap_in_words,
    number,
    reused,
    signed_percent,
    steps,
)

Cell = tuple[str, str]  # what stands there, and what stands small below it
NOTHING: Cell = ("-", "")


@dataclass(frozen=True, kw_only=True)
class BoardRow:
    """role: of sweeps.page.roles. cells: one for each head."""

    role: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, kw_only=True)
class Board:
    """candidates: the baseline and every candidate. runs: what those are made of: seeds and confirmations, each."""

    heads: tuple[str, ...]
    candidates: tuple[BoardRow, ...]
    runs: tuple[BoardRow, ...]


def board(summary: Summary) -> Board:
    hours = Hours.of_sweep(summary.trials)
    heads = ["trial", summary.metric, "difference", *summary.metrics[1:]]
    heads += ["seeds", "n", "steps", "images/s", hours.unit, "outcome"]
    first = [_baseline_row(summary, hours)] if summary.baselines else []
    return Board(
        heads=tuple(heads),
        candidates=(*first, *(_row(summary, hours, trial) for trial in summary.ranked())),
        runs=tuple(
            _run_row(summary, hours, trial, trial.name) for trial in [*summary.baselines, *summary.confirmations]
        ),
    )


def _baseline_row(summary: Summary, hours: Hours) -> BoardRow:
    last = {metric: points[-1] for metric, points in summary.baseline.items() if points}
    point = last.get(summary.metric)
    values = [
        (number(last[metric].mean), _spread(last[metric].spread)) if metric in last else NOTHING
        for metric in summary.metrics
    ]
    done = sum(trial.outcome == FINISHED for trial in summary.baselines)
    outcome = f"{done} of {count(max(summary.num_planned_seeds, len(summary.baselines)), 'seed')} finished"
    cells = [
        (f"baseline{summary.scoreboard.mark(BASELINE)}", f"mean of {count(point.seeds, 'seed')}" if point else ""),
        values[0],
        ("reference", ""),
        *values[1:],
        (_listed([trial.seed for trial in summary.baselines]), ""),
        *_resources(summary, hours, summary.baselines),
        (outcome, reused(summary).removeprefix(", ")),
    ]
    return BoardRow(role=BASELINE, cells=tuple(cells))


def _spread(spread: float | None) -> str:
    return "" if spread is None else f"spread {100 * spread:.1f} %"


def _row(summary: Summary, hours: Hours, trial: TrialSummary) -> BoardRow:
    best = " (best)" if summary.best is not None and trial.name == summary.best.trial else ""
    name = f"{trial.name}{best}{summary.scoreboard.mark(trial.name)}"
    tested = next((one for one in summary.confirmed if one.trial == trial.name and one.objective is not None), None)
    return _run_row(summary, hours, trial, name) if tested is None else _tested_row(summary, hours, trial, name, tested)


def _run_row(summary: Summary, hours: Hours, trial: TrialSummary, name: str) -> BoardRow:
    """One run by itself."""
    readings = [trial.readings.get(metric) for metric in summary.metrics]
    cells = [
        (name, trial.config),
        value_cell(readings[0]),
        difference_cell(readings[0]),
        *(with_percent_cell(reading) for reading in readings[1:]),
        (str(trial.seed), ""),
        *_resources(summary, hours, [trial]),
        _outcome(summary, trial),
    ]
    return BoardRow(role=role(summary, trial), cells=tuple(cells))


def _tested_row(summary: Summary, hours: Hours, trial: TrialSummary, name: str, tested: Confirmed) -> BoardRow:
    """A candidate with its confirmations: means over all of its seeds, and the difference on fresh ones."""
    found, runs = tested.objective, [trial, *(run for run in summary.confirmations if run.confirms == trial.name)]
    assert found is not None
    others = []
    for metric in summary.metrics[1:]:
        other, mean = tested.differences.get(metric), tested.means.get(metric)
        percent = "" if other is None else signed_percent(other.percent)
        others.append(NOTHING if mean is None else (number(mean), percent))
    failed = f", {tested.num_failed} failed" if tested.num_failed else ""
    confirmed = f"confirmed on {count(found.fresh, 'fresh seed')}{failed}"
    outcome, reason = _outcome(summary, trial)
    cells = [
        (name, trial.config),
        (number(tested.means[summary.metric]), f"mean of {count(len(tested.seeds), 'seed')}"),
        (signed_percent(found.percent), interval(found)),
        *others,
        (_listed(tested.seeds), ""),
        *_resources(summary, hours, runs),
        (f"{outcome}, {confirmed}", reason),
    ]
    return BoardRow(role=role(summary, trial), cells=tuple(cells))


def value_cell(reading: Reading | None) -> Cell:
    return NOTHING if reading is None else (estimated(reading), "")


def difference_cell(reading: Reading | None) -> Cell:
    if reading is None or reading.percent is None:
        return NOTHING if reading is None or reading.gap is None else (gap_in_words(reading.gap), "")
    return signed_percent(reading.percent), "" if reading.gap is None else gap_in_words(reading.gap)


def with_percent_cell(reading: Reading | None) -> Cell:
    if reading is None:
        return NOTHING
    return estimated(reading), "" if reading.percent is None else signed_percent(reading.percent)


def _resources(summary: Summary, hours: Hours, runs: Sequence[TrialSummary]) -> list[Cell]:
    """n, steps, images/s and hours, of several runs together. n: of the last evaluation."""
    lasts = [run.readings[summary.metric] for run in runs if summary.metric in run.readings]
    rates = [run.images_per_s for run in runs if run.images_per_s is not None]
    saved = sum(hours.saved(run) for run in runs)
    spent = sum(hours.spent(run) for run in runs)
    return [
        (either(sorted({last.estimate.num_samples for last in lasts})), "") if lasts else NOTHING,
        (steps(max(runs, key=lambda run: run.step)), "") if runs else NOTHING,
        (f"{statistics.median(rates):.3g}", "") if rates else NOTHING,
        (f"{spent:.3g}", f"≈ {saved:.3g} saved" if saved else "") if spent else NOTHING,
    ]


def _outcome(summary: Summary, trial: TrialSummary) -> Cell:
    repeated = f"{count(trial.num_repeated, 'evaluation')} repeated" if trial.num_repeated else ""
    reason = "" if trial.outcome == FINISHED and not trial.reused_from else trial.reason
    notes = [reason, audit_note(trial) if trial.ended else "", summary.scoreboard.flag(trial.name), repeated]
    return trial.outcome, "; ".join(filter(None, notes))


def _listed(seeds: Sequence[int]) -> str:
    """'0, 1', '0 to 9'."""
    ordered = sorted(seeds)
    if len(ordered) > 3 and ordered == list(range(ordered[0], ordered[-1] + 1)):
        return f"{ordered[0]} to {ordered[-1]}"
    return ", ".join(map(str, ordered))
