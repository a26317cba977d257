"""How each trial's samples emerge with the steps: what tells a broken metric from a broken model."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

from sweeps.page.elements import dot, folded, paragraph, section
from sweeps.page.grids import Sheet, sheet_bytes, sheet_of
from sweeps.page.roles import role
from sweeps.page.winner import pair
from sweeps.space import SearchSpace
from sweeps.storage import SweepPaths
from sweeps.summary import Summary, TrialSummary

TITLE = "How the images emerge"
MOST_LISTED = 40  # trials that are not folded once more


def samples_section(space: SearchSpace, paths: SweepPaths, summary: Summary) -> str:
    first = pair(summary)
    rest = [trial for trial in summary.in_order() if trial not in first]
    config = space.baseline_config(space.first_seed)
    most = sheet_bytes(max(len(summary.trials), summary.num_planned + summary.num_planned_seeds))
    sheets = {trial.name: sheet_of(paths, trial, config.data.resolution, most) for trial in [*first, *rest]}
    if not any(sheets.values()):
        return section("samples", TITLE, paragraph("No samples yet."))
    note = (
        "Rows are steps, columns are prompts; prompts and noise are the same for all trials "
        f"(held-out captions, noise seed {config.evaluation.noise_seed})."
    )
    shown = "".join(_open(trial, sheets[trial.name]) for trial in first)
    kept = [_row(summary, trial, sheets[trial.name]) for trial in rest]
    more = [folded(f"{len(kept) - MOST_LISTED} more trials", "".join(kept[MOST_LISTED:]))] if kept[MOST_LISTED:] else []
    others = ["<h3>Every other trial</h3>", *kept[:MOST_LISTED], *more] if kept else []
    return section("samples", TITLE, paragraph(note), f'<div class="pair">{shown}</div>', *others)


def _open(trial: TrialSummary, sheet: Sheet | None) -> str:
    caption = f"<figcaption>{escape(f'{trial.name} ({trial.config})')}</figcaption>"
    return f'<figure class="card">{picture_of(trial, sheet)}{caption}</figure>'


def _row(summary: Summary, trial: TrialSummary, sheet: Sheet | None) -> str:
    """Folded: a browser decodes and draws none of it before it is opened."""
    name = f"{dot(role(summary, trial))}{escape(trial.name)} <span>{escape(f'{trial.config}: {trial.outcome}')}</span>"
    figure = f'<figure class="card">{picture_of(trial, sheet)}</figure>'
    return f'<details class="named"><summary>{name}</summary>{figure}</details>'


def picture_of(trial: TrialSummary, sheet: Sheet | None) -> str:
    if sheet is None:
        return "<p>no samples</p>"
    steps = "".join(f"<span>{step}</span>" for step in sheet.steps)
    uri = "data:image/webp;base64," + base64.b64encode(sheet.content).decode()
    alt = f"Samples of {trial.name} for {sheet.prompts} prompts at the steps {_listed(sheet.steps)}"
    image = f'<img class="grid" loading="lazy" decoding="async" src="{uri}" alt="{escape(alt)}">'
    return f'<div class="sheet"><div class="steps">{steps}</div>{image}</div>'


def _listed(steps: Sequence[int]) -> str:
    return ", ".join(map(str, steps))
