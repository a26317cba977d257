"""docs/errors.md quotes what the code says, and nothing that it no longer says."""

from __future__ import annotations

import ast
import functools
import re

import pytest

from sweeps import run
from tests.documents.blocks import ROOT, text_of

PAGE = text_of("docs/errors.md")
GAP = "…"
# The first cells of its tables.
QUOTES = re.findall(r"^\| `([^`]+)` \|", PAGE, re.MULTILINE)


@functools.cache
def said() -> list[str]:
    """Every text of the packages, with a gap where a value is put in."""
    texts = []
    for package in ("sweeps", "prx_model"):
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    texts.append(node.value)
                elif isinstance(node, ast.JoinedStr):
                    parts = (part.value if isinstance(part, ast.Constant) else GAP for part in node.values)
                    texts.append("".join(map(str, parts)))
    return texts


def is_said(quote: str) -> bool:
    return any(quote in text for text in said())


@pytest.mark.parametrize("quote", QUOTES)
def test_the_code_says_what_the_page_quotes(quote: str) -> None:
    assert is_said(quote)


def test_what_nobody_says_is_noticed() -> None:
    assert len(QUOTES) >= 25
    assert not is_said("no such settings")
    assert is_said("no such setting")
    assert not is_said("got …, allowed is a folder or s3://bucket/suffix")


def test_the_exit_codes_are_those_of_the_command() -> None:
    told = dict(re.findall(r"^\| (\d+) \| (\w+)", PAGE, re.MULTILINE))
    assert told == {"0": "all", "1": "a", "2": "bad", "3": "halted", "130": "interrupted"}
    codes = (run.EXIT_TRIAL_FAILED, run.EXIT_BAD_INPUT, run.EXIT_HALTED, run.EXIT_INTERRUPTED)
    assert codes == (1, 2, 3, 130)
