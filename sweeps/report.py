"""What a sweep has found: a table and a few lines for the terminal, and (in sweeps.page) the logbook page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sweeps.ledger import FINISHED
from sweeps.page import write_page
from sweeps.storage import SweepPaths
from sweeps.summary import Summary, TrialSummary, summarise
from sweeps.wording import caution, compute_sentence, difference, number, outcome, signed_percent, steps

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Summary", "final_lines", "final_table", "summarise", "write_page"]

LONGEST_REASON = 160  # characters of a reason in the table; the page and the ledger have all of it


def final_table(summary: Summary) -> Table:
    """The baseline's mean, then every candidate, best first. Fits 100 columns, terminal or not."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    with_others = len(summary.metrics) > 1
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("candidate", overflow="fold", min_width=16, max_width=28)
    table.add_column(summary.metric, overflow="fold", min_width=14)
    if with_others:
        table.add_column("other metrics", overflow="fold", min_width=14, max_width=32)
    table.add_column("steps", justify="right", no_wrap=True)
    table.add_column("outcome and reason", overflow="fold", min_width=18)
    for name, value, others, trained, end in [_baseline_row(summary), *(_row(summary, t) for t in _shown(summary))]:
        cells = (name, value, others, trained, end) if with_others else (name, value, trained, end)
        # Text, not str: a reason may hold square brackets, which rich would take for markup.
        table.add_row(*map(Text, cells))
    return table


def final_lines(summary: Summary, paths: SweepPaths) -> list[str]:
    """The answer, the best configuration, compute used and saved, where the page and the model lie, and what failed."""
    lines = [summary.answer]
    if summary.best is not None:
        lines.append(f"best (*): {summary.best.trial}, {summary.best.config}. {caution(summary.best)}")
    lines += [f"compute: {compute_sentence(summary.compute)}", f"page: {paths.page}"]
    if paths.best_model.is_dir():
        lines.append(f"best model: {paths.best_model}")
    for trial in summary.failed:
        lines.append(f"failed: {trial.name} at step {trial.step}: {trial.reason}; log: {trial.log}")
    return lines


def _shown(summary: Summary) -> list[TrialSummary]:
    """Every candidate, and the baseline seeds whose end is worth a line."""
    return [*summary.ranked(), *(trial for trial in summary.baselines if trial.outcome != FINISHED)]


def _baseline_row(summary: Summary) -> tuple[str, ...]:
    done = sum(trial.outcome == FINISHED for trial in summary.baselines)
    seeds = f"{done} of {max(summary.num_planned_seeds, len(summary.baselines))} seeds finished"
    points = {metric: summary.baseline[metric][-1] for metric in summary.metrics if summary.baseline[metric]}
    last = points.get(summary.metric)
    if last is None:
        return "baseline", "-", "", "-", seeds
    spread = "no spread yet" if last.spread is None else f"spread {100 * last.spread:.1f} %"
    others = [f"{name} {number(point.mean)}" for name, point in points.items() if name != summary.metric]
    return f"baseline\nmean of {last.seeds}", f"{number(last.mean)}\n{spread}", "\n".join(others), str(last.step), seeds


def _row(summary: Summary, trial: TrialSummary) -> tuple[str, ...]:
    reading = trial.readings.get(summary.metric)
    value = "-" if reading is None else f"{number(reading.value)}\n{difference(reading)}".rstrip()
    others = []
    for name, other in trial.readings.items():
        if name != summary.metric:
            percent = "" if other.percent is None else f" ({signed_percent(other.percent)})"
            others.append(f"{name} {number(other.value)}{percent}")
    star = " *" if summary.best and trial.name == summary.best.trial else ""
    end = outcome(trial)
    end = end if len(end) <= LONGEST_REASON else f"{end[:LONGEST_REASON]} ..."
    return f"{trial.name}{star}\n{trial.config}", value, "\n".join(others), steps(trial), end
