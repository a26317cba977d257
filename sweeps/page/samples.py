"""The page's samples: the baseline beside the best candidate, at the last step and through the run."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from sweeps.locations import names_in
from sweeps.page.elements import image_uri, paragraph, section
from sweeps.space import SearchSpace
from sweeps.storage import SweepPaths
from sweeps.summary import Summary, TrialSummary

MOST_STEPS = 6
GRID_PX, STRIP_PX = 640, 288  # larger grids are scaled down to this side, which keeps the page small


def samples_section(space: SearchSpace, paths: SweepPaths, summary: Summary) -> str:
    shown = [trial for trial in (_first_baseline(summary), _best_trial(summary)) if trial is not None]
    found = {trial.name: _sample_steps(paths, trial) for trial in shown}
    if not any(found.values()):
        return section("samples", "Samples", paragraph("No samples yet."))
    evaluation = space.baseline_config(space.first_seed).evaluation
    note = (
        f"Every grid has the same prompts (held-out captions) and the same noise (noise seed {evaluation.noise_seed})."
    )
    if summary.best is None:
        note += " There is no finished candidate to show beside the baseline."
    last = "".join(_grid(paths, trial, found[trial.name]) for trial in shown)
    columns = _spread_over(sorted(set().union(*found.values())), MOST_STEPS)
    heads = "".join(f'<th scope="col">step {step}</th>' for step in columns)
    rows = "".join(_strip(paths, trial, columns) for trial in shown)
    return section(
        "samples",
        "Samples",
        paragraph(note),
        f'<div class="panels">{last}</div>',
        "<h3>Through the steps</h3>",
        f'<div class="scroll card"><table class="strip"><tr><td></td>{heads}</tr>{rows}</table></div>',
    )


def _first_baseline(summary: Summary) -> TrialSummary | None:
    return min(summary.baselines, key=lambda trial: trial.seed, default=None)


def _best_trial(summary: Summary) -> TrialSummary | None:
    return next((trial for trial in summary.trials if summary.best and trial.name == summary.best.trial), None)


def _sample_steps(paths: SweepPaths, trial: TrialSummary) -> list[int]:
    """Steps whose grid is there; the picture is written after the row, so that the last may be missing."""
    known, there = {step for curve in trial.curves.values() for step in curve}, names_in(paths.samples_of(trial.name))
    return [step for step in sorted(known) if paths.sample_grid(trial.name, step).name in there]


def _spread_over(items: Sequence[int], most: int) -> list[int]:
    """At most `most` items, the first and the last among them, evenly apart."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def _grid(paths: SweepPaths, trial: TrialSummary, found: Sequence[int]) -> str:
    if not found:
        return f'<figure class="card"><p>{escape(trial.name)}: no samples yet</p></figure>'
    uri = image_uri(paths.sample_grid(trial.name, found[-1]), GRID_PX)
    caption = f"{trial.name} ({trial.config}), step {found[-1]}"
    image = (
        f'<img class="grid" src="{uri}" alt="{escape(f"Sample grid of {caption}")}">'
        if uri
        else "<p>unreadable picture</p>"
    )
    return f'<figure class="card">{image}<figcaption>{escape(caption)}</figcaption></figure>'


def _strip(paths: SweepPaths, trial: TrialSummary, columns: Sequence[int]) -> str:
    cells = []
    for step in columns:
        uri = image_uri(paths.sample_grid(trial.name, step), STRIP_PX)
        alt = escape(f"Samples of {trial.name} at step {step}")
        cells.append(f'<td><img class="grid" src="{uri}" alt="{alt}"></td>' if uri else "<td>no sample</td>")
    return f'<tr><th scope="row">{escape(trial.name)}</th>{"".join(cells)}</tr>'
