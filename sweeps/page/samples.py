"""How each trial's samples emerge with the steps: what tells a broken metric from a broken model."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

from sweeps.page.elements import dot, folded, heads_of, paragraph, section
from sweeps.page.grids import Sheet, sheet_bytes, sheet_of
from sweeps.page.roles import role
from sweeps.page.winner import pair
from sweeps.prompts import prompts_of
from sweeps.space import SearchSpace
from sweeps.storage import SweepPaths
from sweeps.summary import Summary, TrialSummary

TITLE = "How the images emerge"
LONGEST_HEAD = 48  # characters of a prompt over its column
MOST_LISTED = 40  # trials that are not folded once more


def samples_section(space: SearchSpace, paths: SweepPaths, summary: Summary) -> str:
    first, prompts = pair(summary), prompts_of(paths)
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
    shown = "".join(_open(trial, sheets[trial.name], prompts) for trial in first)
    kept = [_row(summary, trial, sheets[trial.name], prompts) for trial in rest]
    more = [folded(f"{len(kept) - MOST_LISTED} more trials", "".join(kept[MOST_LISTED:]))] if kept[MOST_LISTED:] else []
    others = ["<h3>Every other trial</h3>", *kept[:MOST_LISTED], *more] if kept else []
    return section("samples", TITLE, paragraph(note), f'<div class="pair">{shown}</div>', *others)


def _open(trial: TrialSummary, sheet: Sheet | None, prompts: Sequence[str]) -> str:
    caption = f"<figcaption>{escape(f'{trial.name} ({trial.config})')}</figcaption>"
    return f'<figure class="card">{picture_of(trial, sheet, prompts)}{caption}</figure>'


def _row(summary: Summary, trial: TrialSummary, sheet: Sheet | None, prompts: Sequence[str]) -> str:
    """Folded: a browser decodes and draws none of it before it is opened."""
    name = f"{dot(role(summary, trial))}{escape(trial.name)} <span>{escape(f'{trial.config}: {trial.outcome}')}</span>"
    figure = f'<figure class="card">{picture_of(trial, sheet, prompts)}</figure>'
    return f'<details class="named"><summary>{name}</summary>{figure}</details>'


def picture_of(trial: TrialSummary, sheet: Sheet | None, prompts: Sequence[str]) -> str:
    """prompts: of the sheet's columns, from the first; none of a sweep that does not tell them."""
    if sheet is None:
        return "<p>no samples</p>"
    steps = "".join(f"<span>{step}</span>" for step in sheet.steps)
    uri = "data:image/webp;base64," + base64.b64encode(sheet.content).decode()
    alt = f"Samples of {trial.name} for {sheet.prompts} prompts at the steps {_listed(sheet.steps)}"
    image = f'<img class="grid" loading="lazy" decoding="async" src="{uri}" alt="{escape(alt)}">'
    # A grid that was not made of samples of this size stands there as one picture, which has no columns.
    shown = prompts[: sheet.prompts] if sheet.prompts > 1 else ()
    cells = heads_of(shown, LONGEST_HEAD)
    heads = f'<div class="prompts heads" style="--columns: {sheet.prompts}">{cells}</div>' if cells else ""
    return f'<div class="sheet">{heads}<div class="steps">{steps}</div>{image}</div>'


def _listed(steps: Sequence[int]) -> str:
    return ", ".join(map(str, steps))
