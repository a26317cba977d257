"""Sample grids of a trial, put together through time: rows are steps, columns are prompts. Small, and kept."""

from __future__ import annotations

import io
from bisect import bisect_left
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

from sweeps.locations import Location, names_in
from sweeps.storage import SweepPaths
from sweeps.summary import TrialSummary

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")
ALL_BYTES, MOST_BYTES = 5_000_000, 60_000  # of all sheets of a page, and of one
READERS = 8  # of a trial's pictures at a time: in S3 each takes a moment


@dataclass(frozen=True, kw_only=True)
class _Level:
    """How much a sheet shows, and how well: at most so many steps and prompts, each so many px wide."""

    steps: int
    prompts: int
    side: int
    quality: int


# A sheet is made at the first level at which it is small enough; each is smaller than the one before.
LEVELS = (
    _Level(steps=8, prompts=8, side=64, quality=80),
    _Level(steps=6, prompts=8, side=64, quality=70),
    _Level(steps=6, prompts=8, side=48, quality=60),
    _Level(steps=5, prompts=6, side=32, quality=60),
    _Level(steps=4, prompts=5, side=32, quality=45),
    _Level(steps=3, prompts=4, side=24, quality=35),
)


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """content: WebP, rows of `steps`, columns of prompts."""

    content: bytes
    steps: tuple[int, ...]
    prompts: int


def sample_steps(paths: SweepPaths, trial: TrialSummary) -> list[int]:
    """Steps whose grid is there; the picture is written after the row, so that the last may be missing."""
    known, there = {step for curve in trial.curves.values() for step in curve}, names_in(paths.samples_of(trial.name))
    return [step for step in sorted(known) if paths.sample_grid(trial.name, step).name in there]


def sheet_bytes(num_trials: int) -> int:
    """What one sheet may take, so that all of them together stay small."""
    return min(MOST_BYTES, ALL_BYTES // max(1, num_trials))


def sheet_of(paths: SweepPaths, trial: TrialSummary, resolution: int, most_bytes: int) -> Sheet | None:
    """None where the trial has no picture that can be read. resolution: of one sample in a grid, in px."""
    grids = tuple(paths.sample_grid(trial.name, step) for step in sample_steps(paths, trial))
    return _made(grids, tuple(sample_steps(paths, trial)), resolution, most_bytes) if grids else None


@lru_cache(maxsize=4096)
def _made(grids: tuple[Location, ...], steps: tuple[int, ...], resolution: int, most_bytes: int) -> Sheet | None:
    """The page is made again and again while a sweep runs; a trial that has ended has its sheet already."""
    shown = spread_over(range(len(grids)), LEVELS[0].steps)
    with ThreadPoolExecutor(READERS) as pool:
        tiles = list(pool.map(lambda i: _tiles(grids[i], resolution), shown))
    read = [(steps[i], of) for i, of in zip(shown, tiles, strict=True) if of]
    if not read:
        return None
    sheets = lru_cache(lambda level: _sheet(read, level))
    first = bisect_left(LEVELS, True, key=lambda level: len(sheets(level).content) <= most_bytes)
    return sheets(LEVELS[min(first, len(LEVELS) - 1)])


def spread_over(items: Sequence[T], most: int) -> list[T]:
    """At most `most` items, the first and the last among them, evenly apart."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def _tiles(path: Location, resolution: int) -> list[Image]:
    """The samples of a grid, which lie one px apart; the grid as one where it is of other samples; [] if unreadable."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            grid = image.convert("RGB")
    except (OSError, SyntaxError):  # SyntaxError is what Pillow raises for a broken PNG
        return []
    pitch = resolution + 1
    if (grid.width + 1) % pitch or (grid.height + 1) % pitch:
        return [grid]
    corners = [(left, top) for top in range(0, grid.height, pitch) for left in range(0, grid.width, pitch)]
    return [grid.crop((left, top, left + resolution, top + resolution)) for left, top in corners[: LEVELS[0].prompts]]


def _sheet(read: Sequence[tuple[int, list[Image]]], level: _Level) -> Sheet:
    """read: steps and their samples."""
    from PIL import Image

    rows = spread_over(read, level.steps)
    prompts, side = min(level.prompts, len(rows[0][1])), min(level.side, rows[0][1][0].width)
    whole = Image.new("RGB", (prompts * (side + 1) - 1, len(rows) * (side + 1) - 1), "white")
    for i, (_, row) in enumerate(rows):
        for j, tile in enumerate(row[:prompts]):
            small = tile if tile.size == (side, side) else tile.resize((side, side), Image.Resampling.LANCZOS)
            whole.paste(small, (j * (side + 1), i * (side + 1)))
    content = io.BytesIO()
    whole.save(content, format="webp", quality=level.quality, method=2)
    return Sheet(content=content.getvalue(), steps=tuple(step for step, _ in rows), prompts=prompts)
