"""Looking a name up in a closed set, with an answer that helps when it is not there."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import TypeVar

Entry = TypeVar("Entry")


def known(entries: Mapping[str, Entry], name: str, kind: str) -> Entry:
    """entries[name]. Raises ValueError with the known names, the nearest first."""
    if name in entries:
        return entries[name]
    near = get_close_matches(name, entries, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"unknown {kind} {name!r}; {hint}known: {', '.join(sorted(entries))}")
