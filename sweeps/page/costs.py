"""The page's section on costs: where the time went, and how many samples evaluations took."""

from __future__ import annotations

from html import escape

from sweeps.costs import Costs
from sweeps.page.elements import dot, paragraph, picture, row, section, svg_uri
from sweeps.page.figure_costs import COLOURS, costs_figure
from sweeps.page.figures import role
from sweeps.summary import Summary, TrialSummary
from sweeps.wording import compute_sentence, duration, sampled, share, shares

WIDE_IN, NARROW_IN = 10.5, 4.6


def costs_section(summary: Summary) -> str:
    compute = summary.compute
    wide, narrow = costs_figure(summary, width_in=WIDE_IN), costs_figure(summary, width_in=NARROW_IN)
    if wide is None or narrow is None:
        return section("costs", "What it cost", paragraph("Nothing yet."))
    figure = picture(svg_uri(wide), svg_uri(narrow), f"Share of the time, all trials: {shares(compute.costs)}.")
    caption = (
        "Start-up: from a trial's hand-over to its worker to its first step, again after a resume. Data: waiting for "
        "batches. A part that is missing was not recorded, or took no time."
    )
    return section(
        "costs",
        "What it cost",
        f'<figure class="card">{figure}<figcaption>{escape(caption)}</figcaption></figure>',
        paragraph(f"Time: {compute_sentence(compute)}. Shares: {shares(compute.costs)}."),
        paragraph(f"Evaluation: {sampled(compute.num_sampled, compute.num_full)}. {_why_fewer(summary)}".rstrip()),
        _by_trial(summary),
    )


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
    heads = ["trial", "time", *COLOURS, "samples"]
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heads)
    rows = "".join(_trial_row(summary, heads, trial) for trial in summary.in_order())
    table = f'<table class="trials"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    return f"<details><summary>Time and samples of each trial</summary>{table}</details>"


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
