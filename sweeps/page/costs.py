"""The page's section on costs: where the time went, and how many samples evaluations took."""

from __future__ import annotations

from html import escape

from sweeps.costs import Costs
from sweeps.page.elements import dot, folded, paragraph, row, section, table_of
from sweeps.page.figure_costs import PARTS, outcome_figure, shares_figure
from sweeps.page.inline import Album
from sweeps.page.roles import role
from sweeps.summary import Summary, TrialSummary
from sweeps.wording import compute_sentence, duration, sampled, share, shares

WIDE_IN, NARROW_IN = 10.5, 4.6
TITLE = "What it cost"


def costs_section(summary: Summary, album: Album) -> str:
    compute = summary.compute
    figures = _outcomes(summary, album) + _shares(summary, album)
    if not figures:
        return section("costs", TITLE, paragraph("Nothing yet."))
    return section(
        "costs",
        TITLE,
        paragraph(f"Time: {compute_sentence(compute)}. Shares: {shares(compute.costs)}."),
        figures,
        paragraph(f"Evaluation: {sampled(compute.num_sampled, compute.num_full)}. {_why_fewer(summary)}".rstrip()),
        _by_trial(summary),
    )


def _outcomes(summary: Summary, album: Album) -> str:
    wide, narrow = (outcome_figure(summary, width_in=width) for width in (WIDE_IN, NARROW_IN))
    if wide is None:
        return ""
    return album.card("hours", wide, narrow, alt="Hours by how trials ended, and what stopping has saved.")


def _shares(summary: Summary, album: Album) -> str:
    wide, narrow = (shares_figure(summary, width_in=width) for width in (WIDE_IN, NARROW_IN))
    if wide is None:
        return ""
    caption = (
        "Start-up: from a trial's hand-over to its worker to its first step, again after a resume. Data: waiting for "
        "batches. A part that is missing was not recorded, or took no time."
    )
    alt = f"Share of the time, all trials: {shares(summary.compute.costs)}."
    return album.card("shares", wide, narrow, alt=alt, caption=caption)


def _why_fewer(summary: Summary) -> str:
    if summary.compute.num_sampled >= summary.compute.num_full:
        return "Every evaluation was made on all samples."
    baseline, candidates = (
        sampled(sum(trial.num_sampled for trial in trials), sum(trial.num_full for trial in trials))
        for trials in (summary.baselines, summary.candidates)
    )
    return (
        f"Baseline: {baseline}; candidates: {candidates}. A candidate's evaluation ends on as few samples as decide "
        "it; the last one, and one that stops it, is made on all."
    )


def _by_trial(summary: Summary) -> str:
    heads = ["trial", "time", *PARTS, "samples"]
    rows = (_trial_row(summary, heads, trial) for trial in summary.in_order())
    return folded("Time and samples of each trial", table_of(heads, rows))


def _trial_row(summary: Summary, heads: list[str], trial: TrialSummary) -> str:
    samples = f"{trial.num_sampled:,} of {trial.num_full:,}" if trial.num_full else "-"
    cells = [duration(trial.spent_s), *_parts(trial.costs), samples]
    return row(heads, [dot(role(summary, trial)) + escape(trial.name), *map(escape, cells)])


def _parts(costs: Costs) -> list[str]:
    """'20 s (12 %)' for each part; '-' where it was not recorded or took no time."""
    percents = costs.shares()
    return [
        f"{duration(seconds)} ({share(percents[name])})" if name in percents else "-"
        for name, seconds in costs.named().items()
    ]
