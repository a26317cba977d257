"""What a sweep's samples are of: the prompts of its sample grids, told once for all trials."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Sequence

from sweeps.locations import write_whole
from sweeps.storage import SweepPaths


def keep_prompts(paths: SweepPaths, read: Callable[[], Sequence[str]]) -> None:
    """Write paths.prompts, where no trial has yet: every trial has the same. read: gives them."""
    if not paths.prompts.is_file():
        write_whole(paths.prompts, json.dumps(list(read()), ensure_ascii=False, indent=1).encode() + b"\n")


def prompts_of(paths: SweepPaths) -> list[str]:
    """Of the samples in a grid, row by row, each in one line; [] of a sweep that does not tell, or not yet."""
    try:
        told = json.loads(paths.prompts.read_bytes())
    except (OSError, ValueError):
        return []
    return [" ".join(str(prompt).split()) for prompt in told] if isinstance(told, list) else []


def shortened(prompt: str, longest: int) -> str:
    """At most so many characters of it, cut between words where there are some."""
    cut = textwrap.shorten(prompt, longest, placeholder="…")
    return cut if cut != "…" else f"{prompt[: longest - 1]}…"
