"""The head of the page: the question, the answer in one sentence, what it is worth, and how far the sweep is."""

from __future__ import annotations

import time
from html import escape

from sweeps.findings import caution
from sweeps.hours import Hours
from sweeps.ledger import FAILED, FINISHED, STOPPED
from sweeps.page.elements import paragraph
from sweeps.space import SearchSpace
from sweeps.summary import UNFINISHED, Summary
from sweeps.wording import count, duration, reused


def answer_section(space: SearchSpace, summary: Summary) -> str:
    warning = caution(summary.best) if summary.best else ""
    return (
        f'<header id="answer">\n<p class="kicker">{escape(made(space, summary))}</p>\n'
        f"<h1>{escape(space.question or space.name)}</h1>\n"
        f'<p class="answer">{escape(summary.answer)}</p>\n{paragraph(warning) if warning else ""}\n'
        f"{''.join(paragraph(told, 'state') for told in state(summary))}\n{_tiles(summary)}\n</header>"
    )


def made(space: SearchSpace, summary: Summary) -> str:
    """When, of what, and how far it was then."""
    trials, ended = len(summary.trials), sum(trial.ended for trial in summary.trials)
    standing = "complete" if summary.complete else f"running, {ended} of {count(trials, 'started trial')} ended"
    return f"{space.name}, profile {space.profile}; made {time.strftime('%Y-%m-%d %H:%M:%S %Z')}; {standing}"


def state(summary: Summary) -> list[str]:
    """What is to be said before anything is believed."""
    told = []
    if not summary.complete:
        told.append(
            "This sweep is not complete: this is how it stood when the page was made. While it runs the page is made "
            "anew; load it again to see more."
        )
    if summary.used_up:
        told.append(f"{summary.used_up[0].upper()}{summary.used_up[1:]}.")
    return told


def tiles(summary: Summary) -> list[tuple[str, str, str]]:
    """(name, value, note) of what everybody asks first."""
    outcomes = [trial.outcome for trial in summary.candidates]
    present = [name for name in (FINISHED, STOPPED, FAILED, UNFINISHED) if name in outcomes]
    counts = ", ".join(f"{outcomes.count(name)} {name}" for name in present)
    done = sum(trial.outcome == FINISHED for trial in summary.baselines)
    compute, stopped = summary.compute, count(summary.compute.num_stopped, "trial")
    used = str(compute.usage) if compute.usage is not None else ""
    hours = Hours.of_sweep(summary.trials)
    saved = sum(hours.saved(trial) for trial in summary.trials)
    repeated = f", {duration(compute.repeated_s)} of it repeated after resumes" if compute.num_repeated else ""
    clock = duration(compute.spent_s)
    return [
        ("Candidates", f"{len(outcomes)} of {max(summary.num_planned, len(outcomes))}", counts or "none started"),
        (
            "Baseline",
            f"{done} of {max(summary.num_planned_seeds, len(summary.baselines))}",
            f"seeds finished{reused(summary)}",
        ),
        ("Compute", used or clock, f"{f'{clock}, ' if used else ''}summed over trials{repeated}"),
        (
            "Saved by stopping",
            f"≈ {duration(compute.saved_s)}",
            f"estimate: {stopped} stopped early{f', {saved:.2g} {hours.unit}' if saved else ''}",
        ),
    ]


def _tiles(summary: Summary) -> str:
    cells = "".join(
        f'<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd><dd class="small">{escape(note)}</dd></div>'
        for name, value, note in tiles(summary)
    )
    return f'<dl class="tiles">{cells}</dl>'
