"""What a Markdown page shows as code: its fenced blocks, and its indented ones."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FENCED = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:(?<=\n\n)|\A)(?:(?: {4}.*)?\n)*(?: {4}.*\n)")


@dataclass(frozen=True, kw_only=True)
class Block:
    """language: '' of an indented block. place: a second word after it, which says what the code is a part of."""

    language: str
    place: str
    text: str


def text_of(page: str) -> str:
    """The page at a path below the project's folder."""
    return (ROOT / page).read_text()


def fenced(page: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found = []
    for match in FENCED.finditer(text_of(page)):
        language, _, place = match["info"].partition(" ")
        found.append(Block(language=language, place=place, text=match["text"]))
    assert found, f"{page} shows no code"
    return found


def indented(page: str) -> list[str]:
    """The lines of the indented blocks of a page, without comments; a line that ends in a backslash goes on."""
    text = FENCED.sub("", text_of(page))
    lines = "\n".join(match.group().replace("\n    ", "\n").strip() for match in INDENTED.finditer(text))
    joined = re.sub(r"[ ]*\\\n\s*", " ", re.sub(r" {2,}#[^\n]*", "", lines))
    return [line.strip() for line in joined.splitlines() if line.strip()]
