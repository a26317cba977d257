"""The page's Markdown twin, for a repository or a pull request: the same answer, tables and figures, pictures as files.

It shows what a README can: figures are SVG files and grids PNG files in the folder beside it, and what the page folds
or tells under the mouse is left to the page.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from sweeps.findings import caution
from sweeps.locations import Location, write_whole
from sweeps.page.answer import made, state, tiles
from sweeps.page.board import board
from sweeps.page.curves import what_metrics_are
from sweeps.page.failures import failure
from sweeps.page.grids import sample_steps
from sweeps.page.inline import Album
from sweeps.page.record import repeat, settings_of
from sweeps.page.roles import provenance_line
from sweeps.page.scores import remarks, unit
from sweeps.page.winner import GRID_PX, LONGEST_PROMPT, grid_caption, pair, same_noise, title
from sweeps.prompts import prompts_of, shortened
from sweeps.space import SearchSpace
from sweeps.stopping import audit_sentences, stopped_sentence
from sweeps.storage import PICTURES, SweepPaths
from sweeps.summary import Summary
from sweeps.trial_folder import grid_columns
from sweeps.wording import compute_sentence, interruptions_sentence, sampled, shares

MOST_ROWS = 30  # of candidates in the table; the page has all of them


def write_markdown(
    space: SearchSpace, paths: SweepPaths, summary: Summary, starts: Sequence[Mapping[str, Any]], album: Album
) -> Location:
    """Write paths.markdown, after its pictures, and return it. album: the page's figures."""
    for figure in album.figures:
        write_whole(paths.pictures / f"{figure.name}.svg", figure.wide.encode())
    parts = [
        *_answer(space, summary),
        *_winner(space, paths, summary, album),
        *_scoreboard(summary),
        *_figures(album, f"{summary.metric} over the run", "curves", "differences"),
        *(f"- {text(line)}" for line in what_metrics_are(space, summary)),
        *_figures(album, "What matters", "importance", "settings"),
        *_stopping(summary),
        *_costs(summary, album),
        *_failures(summary),
        *_provenance(space, summary, starts),
    ]
    write_whole(paths.markdown, ("\n".join(_spaced(parts)) + "\n").encode())
    return paths.markdown


def text(told: str) -> str:
    """A text that Markdown shows as it is: no markup of its own, no HTML, one line."""
    return re.sub(r"([\\`*_\[\]|#])", r"\\\1", escape(" ".join(told.split()), quote=False))


def _spaced(parts: Iterable[str]) -> list[str]:
    """A line between blocks, none between the lines of a list or a table."""
    lines: list[str] = []
    for part in parts:
        if lines and not (part[:2] == lines[-1][:2] and part[:2] in ("- ", "| ")):
            lines.append("")
        lines.append(part)
    return lines


def _answer(space: SearchSpace, summary: Summary) -> list[str]:
    warning = caution(summary.best) if summary.best else ""
    return [
        f"# {text(space.question or space.name)}",
        f"**{text(summary.answer)}**",
        *([text(warning)] if warning else []),
        *(text(told) for told in state(summary)),
        "; ".join(f"{name}: {text(value)} ({text(note)})" for name, value, note in tiles(summary)),
        f"*{text(made(space, summary))}. The [whole page](index.html) is one file beside this one.*",
    ]


def _winner(space: SearchSpace, paths: SweepPaths, summary: Summary, album: Album) -> list[str]:
    shown = [(trial, steps[-1]) for trial in pair(summary) if (steps := sample_steps(paths, trial))]
    links = []
    for trial, step in shown:
        name = f"{'baseline' if trial.is_baseline else 'best'}.png"
        content = _scaled(paths.sample_grid(trial.name, step))
        if content is not None:
            write_whole(paths.pictures / name, content)
            links.append((text(grid_caption(trial, step)), f"![]({PICTURES}/{name})"))
    table = [_line(heads) for heads in (zip(*links, strict=True) if links else ())]
    rule = [_line(["---"] * len(links))] if links else []
    return [
        f"## {text(title(summary))}",
        text(same_noise(space)),
        *table[:1],
        *rule,
        *table[1:],
        *_prompts(paths),
        *_pictures(album, "confirmation"),
    ]


def _prompts(paths: SweepPaths) -> list[str]:
    """A table in the form of the grids."""
    told = [text(shortened(prompt, LONGEST_PROMPT)) for prompt in prompts_of(paths)]
    columns = grid_columns(len(told))
    rows = [told[i : i + columns] for i in range(0, len(told), columns)]
    if not rows:
        return []
    head = [_line([""] * columns), _line(["---"] * columns)]
    return [
        "The prompts, row by row as their samples lie in a grid:",
        *head,
        *(_line([*row, *[""] * (columns - len(row))]) for row in rows),
    ]


def _scaled(path: Location) -> bytes | None:
    """The grid as PNG, as it is where it is small. None if unreadable."""
    from PIL import Image

    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            if max(image.size) <= GRID_PX:
                return content
            small = image.convert("RGB")
    except (OSError, SyntaxError):  # SyntaxError is what Pillow raises for a broken PNG
        return None
    small.thumbnail((GRID_PX, GRID_PX))
    file = io.BytesIO()
    small.save(file, format="png")
    return file.getvalue()


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _scoreboard(summary: Summary) -> list[str]:
    whole = board(summary)
    if not whole.candidates:
        return ["## Scoreboard", "No trial has started yet."]
    rows = whole.candidates[: MOST_ROWS + 1]
    cells = [
        [text(" ".join(filter(None, [first, small and f"({small})"]))) for first, small in row.cells] for row in rows
    ]
    left = len(whole.candidates) - len(rows)
    return [
        "## Scoreboard",
        _line(map(text, whole.heads)),
        _line(["---"] * len(whole.heads)),
        *map(_line, cells),
        *([f"{left} more candidates, all of them behind these, are on the page."] if left else []),
        text(unit(summary)),
        *(f"- {text(remark)}" for remark in remarks(summary)),
        f"*{text(provenance_line(summary))}*",
    ]


def _figures(album: Album, heading: str, *names: str) -> list[str]:
    pictures = _pictures(album, *names)
    return [f"## {text(heading)}", *pictures] if pictures else []


def _pictures(album: Album, *names: str) -> list[str]:
    found = {figure.name: figure for figure in album.figures}
    return [f"![{text(found[name].alt)}]({PICTURES}/{name}.svg)" for name in names if name in found]


def _stopping(summary: Summary) -> list[str]:
    return ["## What stopping did", *map(text, [stopped_sentence(summary), *audit_sentences(summary)])]


def _costs(summary: Summary, album: Album) -> list[str]:
    compute = summary.compute
    if not compute.spent_s:
        return ["## What it cost", "Nothing yet."]
    return [
        "## What it cost",
        text(f"Time: {compute_sentence(compute)}. Shares: {shares(compute.costs)}."),
        *_pictures(album, "hours", "shares"),
        text(f"Evaluation: {sampled(compute.num_sampled, compute.num_full)}."),
    ]


def _failures(summary: Summary) -> list[str]:
    told = [f"- {text(failure(trial))}; log: {text(trial.log)}" for trial in summary.failed]
    interrupted = interruptions_sentence(summary.interruptions)
    more = [text(f"Interrupted: {interrupted}.")] if interrupted else []
    return ["## What failed and why", *(told or ["Nothing has failed."]), *more]


def _provenance(space: SearchSpace, summary: Summary, starts: Sequence[Mapping[str, Any]]) -> list[str]:
    command, words = repeat(starts)
    versions = starts[-1].get("packages") if starts else None
    return [
        "## How it was made, and how to make it again",
        *([text(words), f"    {' '.join(command.split())}"] if command else []),
        *(f"- {name}: {text(told)}" for name, told in settings_of(space, summary)),
        *([f"- versions: {text(', '.join(f'{name} {of}' for name, of in versions.items()))}"] if versions else []),
        *([f"- hardware: {text(str(starts[-1]['hardware']))}"] if starts and starts[-1].get("hardware") else []),
        "The search-space file is [space.yaml](space.yaml); resolved configurations are on the page.",
    ]
