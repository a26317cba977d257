"""The baseline and the best candidate side by side: their numbers, and what they paint of the same noise."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from sweeps.ledger import FAILED
from sweeps.page.board import Board, BoardRow, board
from sweeps.page.elements import definitions, dot, heads_of, image_uri, paragraph, section
from sweeps.page.grids import sample_steps
from sweeps.page.roles import best_trial
from sweeps.prompts import prompts_of, shortened
from sweeps.space import SearchSpace
from sweeps.storage import SweepPaths
from sweeps.summary import Summary, TrialSummary
from sweeps.trial_folder import grid_columns

LONGEST_PROMPT = 80  # characters that are shown; a mouse that rests there sees all
GRID_PX = 640  # larger grids are scaled down to this side, which keeps the page small


def winner_section(space: SearchSpace, paths: SweepPaths, summary: Summary, confirmation: str) -> str:
    """confirmation: HTML of what other seeds say."""
    shown, whole, prompts = pair(summary), board(summary), prompts_of(paths)
    note = same_noise(space)
    if len(shown) == 1 and best_trial(summary) is None:
        note += " There is no finished candidate to show beside the baseline."
    cards = "".join(_card(paths, trial, whole, prompts) for trial in shown) or paragraph("No trial has started yet.")
    told = prompts_told(prompts)
    return section("winner", title(summary), paragraph(note), told, f'<div class="pair">{cards}</div>', confirmation)


def prompts_told(prompts: Sequence[str]) -> str:
    """HTML: the prompts in the form of a grid; '' without any."""
    if not prompts:
        return ""
    columns = grid_columns(len(prompts))
    cells = heads_of(prompts, LONGEST_PROMPT)
    head = paragraph("The prompts, row by row as their samples lie in a grid:", "small")
    return f'{head}<div class="prompts" style="--columns: {columns}">{cells}</div>'


def title(summary: Summary) -> str:
    best = best_trial(summary)
    return "The baseline, before there is a winner" if best is None else f"The baseline beside {best.name}, the best"


def same_noise(space: SearchSpace) -> str:
    seed = space.baseline_config(space.first_seed).evaluation.noise_seed
    return f"Both sample grids have the same prompts (held-out captions) and the same noise (noise seed {seed})."


def pair(summary: Summary) -> list[TrialSummary]:
    """The first baseline seed that has not failed, and the best candidate: those of them that there are."""
    sound = [trial for trial in summary.baselines if trial.outcome != FAILED] or summary.baselines
    first = min(sound, key=lambda trial: trial.seed, default=None)
    return [trial for trial in (first, best_trial(summary)) if trial is not None]


def facts(whole: Board, trial: TrialSummary) -> list[tuple[str, str]]:
    """The trial's row of the scoreboard, name by name: of a baseline, that of all its seeds."""
    row = _row_of(whole, trial)
    pairs = [
        (head, " ".join(filter(None, [first, f"({small})" if small else ""])))
        for head, (first, small) in zip(whole.heads, row.cells, strict=True)
    ]
    return [(head, told) for head, told in pairs[1:] if told not in ("-", "reference")]


def _row_of(whole: Board, trial: TrialSummary) -> BoardRow:
    if trial.is_baseline:
        return whole.candidates[0]
    return next(row for row in whole.candidates if row.cells[0][0].split(" ")[0] == trial.name)


def grid_caption(trial: TrialSummary, step: int) -> str:
    return f"{trial.name} ({trial.config}), step {step}"


def _card(paths: SweepPaths, trial: TrialSummary, whole: Board, prompts: Sequence[str]) -> str:
    found = sample_steps(paths, trial)
    row = _row_of(whole, trial)
    name = "Baseline" if trial.is_baseline else f"Best: {trial.config}"
    if not found:
        image, caption = "<p>no samples yet</p>", trial.name
    else:
        caption = grid_caption(trial, found[-1])
        uri = image_uri(paths.sample_grid(trial.name, found[-1]), GRID_PX)
        of = f", row by row: {'; '.join(shortened(prompt, LONGEST_PROMPT) for prompt in prompts)}" if prompts else ""
        alt = escape(f"Sample grid of {caption}{of}")
        image = f'<img class="grid" src="{uri}" alt="{alt}">' if uri else "<p>unreadable picture</p>"
    return (
        f'<div><h3 class="named">{dot(row.role)}{escape(name)}</h3>'
        f'<figure class="card">{image}<figcaption>{escape(caption)}</figcaption></figure>'
        f"{definitions(facts(whole, trial))}</div>"
    )
