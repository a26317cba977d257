"""The page's section on what failed, why, and where more is to be read of it."""

from __future__ import annotations

from html import escape

from sweeps.page.elements import paragraph, section
from sweeps.storage import SweepPaths
from sweeps.summary import Summary, TrialSummary
from sweeps.wording import interruptions_sentence

TITLE = "What failed and why"


def failures_section(paths: SweepPaths, summary: Summary) -> str:
    interrupted = interruptions_sentence(summary.interruptions)
    told = paragraph(f"Interrupted: {interrupted}.") if interrupted else ""
    if not summary.failed:
        return section("failures", TITLE, paragraph("Nothing has failed."), told)
    items = "".join(
        f'<li>{escape(failure(trial))}<span class="small">log: {_log_link(paths, trial.log)}</span></li>'
        for trial in summary.failed
    )
    return section("failures", TITLE, f"<ul>{items}</ul>", told)


def failure(trial: TrialSummary) -> str:
    return f"{trial.name} ({trial.config}) failed at step {trial.step} of {trial.num_steps}: {trial.reason}"


def _log_link(paths: SweepPaths, log: str) -> str:
    """The log's path; a link where it lies in the sweep's folder, beside the page."""
    beside = log.removeprefix(f"{paths.root}/")
    return escape(log or "none") if beside == log else f'<a href="{escape(beside)}">{escape(log)}</a>'
