"""What a sweep has found: a table and a few lines for the terminal, and (in sweeps.page) the logbook page."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sweeps.confirmed import Confirmed
from sweeps.findings import caution, interval
from sweeps.ledger import FINISHED
from sweeps.page import write_page
from sweeps.scoreboard import BASELINE, MARK
from sweeps.stopping import stopping_line
from sweeps.storage import SweepPaths
from sweeps.summary import Summary, TrialSummary, summarise
from sweeps.wording import (
    compute_sentence,
    count,
    difference,
    estimated,
    interruptions_sentence,
    number,
    outcome,
    reused,
    signed_percent,
    steps,
    time_sentence,
)

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Summary", "final_lines", "final_table", "summarise", "write_page"]

MOST_OTHERS = 3  # metrics beside the objective that fit into 100 columns
LONGEST_REASON = 160  # characters of a reason in the table; the page and the ledger have all of it


def final_table(summary: Summary) -> Table:
    """The baseline's mean, then every candidate, best first. Fits 100 columns, terminal or not."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    others = summary.metrics[1 : 1 + MOST_OTHERS]
    left_out = ", ".join(summary.metrics[1 + MOST_OTHERS :])
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=f"on the page only: {left_out}" if left_out else None)
    table.add_column("candidate", overflow="fold", min_width=16, max_width=24)
    table.add_column(Text(_broken(summary.metric, 18)), overflow="fold", min_width=18)
    for metric in others:
        table.add_column(Text(_broken(metric, 11)), overflow="fold", min_width=9)
    table.add_column("steps", justify="right", no_wrap=True)
    table.add_column("outcome and reason", overflow="fold", min_width=18)
    for cells in [_baseline_row(summary, others), *(_row(summary, trial, others) for trial in _shown(summary))]:
        # Text, not str: a reason may hold square brackets, which rich would take for markup.
        table.add_row(*map(Text, cells))
    return table


def final_lines(summary: Summary, paths: SweepPaths) -> list[str]:
    """The answer, the best configuration, compute used and saved, where the page and the model lie, and what failed."""
    lines = [summary.answer]
    if summary.best is not None:
        lines.append(f"best (*): {summary.best.trial}, {summary.best.config}. {caution(summary.best)}")
    lines.append(f"compute: {compute_sentence(summary.compute)}")
    if summary.used_up:
        lines.append(f"budget: {summary.used_up}")
    lines.append(f"stopping: {stopping_line(summary)}")
    if interrupted := interruptions_sentence(summary.interruptions):
        lines.append(f"interrupted: {interrupted}")
    if summary.compute.spent_s:
        lines.append(f"time: {time_sentence(summary.compute)}")
    lines.append(f"page: {paths.page}")
    if paths.best_model.is_dir():
        lines.append(f"best model: {paths.best_model}")
    if summary.scoreboard.pareto:
        lines.append(f"{MARK}: no other is as good in every metric and better in one (by the values in the table)")
    for trial in summary.failed:
        lines.append(f"failed: {trial.name} at step {trial.step}: {trial.reason}; log: {trial.log}")
    return lines


def _shown(summary: Summary) -> list[TrialSummary]:
    """Every candidate, and the baseline seeds whose end is worth a line."""
    return [*summary.ranked(), *(trial for trial in summary.baselines if trial.outcome != FINISHED)]


def _broken(name: str, width: int) -> str:
    """A metric's name over several lines, so that its column is as narrow as its values."""
    return "\n".join(textwrap.wrap(name.replace("_", "_ "), width)).replace("_ ", "_")


def _baseline_row(summary: Summary, others: Sequence[str]) -> list[str]:
    done = sum(trial.outcome == FINISHED for trial in summary.baselines)
    seeds = f"{done} of {max(summary.num_planned_seeds, len(summary.baselines))} seeds finished{reused(summary)}"
    last = {metric: points[-1] for metric, points in summary.baseline.items() if points}
    point = last.get(summary.metric)
    if point is None:
        return ["baseline", "-", *("-" for _ in others), "-", seeds]
    spread = "no spread yet" if point.spread is None else f"spread {100 * point.spread:.1f} %"
    values = [number(last[metric].mean) if metric in last else "-" for metric in others]
    name = f"baseline{summary.scoreboard.mark(BASELINE)}\nmean of {point.seeds}"
    return [name, f"{number(point.mean)}\n{spread}", *values, str(point.step), seeds]


def _row(summary: Summary, trial: TrialSummary, others: Sequence[str]) -> list[str]:
    if tested := next((one for one in summary.confirmed if one.trial == trial.name and one.objective), None):
        return _confirmed_row(summary, trial, tested, others)
    reading = trial.readings.get(summary.metric)
    value = "-" if reading is None else "\n".join(difference(reading)).rstrip()
    values = []
    for metric in others:
        other = trial.readings.get(metric)
        percent = "" if other is None or other.percent is None else f"\n{signed_percent(other.percent)}"
        values.append("-" if other is None else f"{estimated(other)}{percent}")
    end = "; ".join(filter(None, [outcome(trial), summary.scoreboard.flag(trial.name)]))
    end = end if len(end) <= LONGEST_REASON else f"{end[:LONGEST_REASON]} ..."
    return [_name(summary, trial), value, *values, steps(trial), end]


def _name(summary: Summary, trial: TrialSummary) -> str:
    star = " *" if summary.best and trial.name == summary.best.trial else ""
    return f"{trial.name}{star}{summary.scoreboard.mark(trial.name)}\n{trial.config}"


def _confirmed_row(summary: Summary, trial: TrialSummary, tested: Confirmed, others: Sequence[str]) -> list[str]:
    """Means over seeds; differences, with their interval, on fresh ones."""
    found = tested.objective
    assert found is not None
    value = f"{number(tested.means[summary.metric])} ({signed_percent(found.percent)})\n{interval(found)}"
    values = []
    for metric in others:
        other, mean = tested.differences.get(metric), tested.means.get(metric)
        percent = "" if other is None else f"\n{signed_percent(other.percent)}"
        values.append("-" if mean is None else f"{number(mean)}{percent}")
    failed = f", {tested.num_failed} failed" if tested.num_failed else ""
    end = f"confirmed: mean of {count(len(tested.seeds), 'seed')}, differences on {found.fresh} fresh{failed}"
    end = "; ".join(filter(None, [end, summary.scoreboard.flag(trial.name)]))
    return [_name(summary, trial), value, *values, steps(trial), end]
