"""`prx-sweeps report`, the page's Markdown twin, and the page of a sweep that runs."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path

import pytest

from sweeps.ledger import FAILED, Ledger
from sweeps.main import main as prx_sweeps
from sweeps.page.fresh import kept_fresh
from sweeps.page.markdown import text
from sweeps.provenance import append_start, recorded_rule
from tests.sweeps.lab import START, Lab

ROOT = Path(__file__).parents[3]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path, candidates=2)
    lab.baselines(1.0, 1.03)
    lab.trial("candidate-000", 0.9)
    lab.trial("candidate-001", 1.0, until=80, outcome=FAILED, reason="diverged | <b>at</b> *once*")
    for name in ("baseline-seed0", "candidate-000"):
        lab.grids(name)
    return lab


def test_the_page_of_a_folder_is_made_from_what_lies_in_it(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.paths.space.write_bytes((ROOT / "search_spaces" / "repa.yaml").read_bytes())
    budget = {"budget": {"candidates": 5, "baseline_seeds": 2}}
    append_start(lab.paths.starts, {**START, **recorded_rule(lab.space), **budget})
    for folder in (lab.paths.root, lab.paths.ledger):
        assert prx_sweeps(["report", str(folder)]) == 0
        told = capsys.readouterr().out
        assert told.startswith("Not answered yet: 2 of 5 candidates have ended, 0 of 1 confirmations")
        assert f"page: {lab.paths.page}\nmarkdown: {lab.paths.markdown}\n" in told
    assert "repa, profile laptop; made " in lab.paths.page.read_text()
    twin = lab.paths.markdown.read_text()
    assert START["command"] in twin


def test_a_folder_without_a_ledger_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prx_sweeps(["report", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/none: no sweep is there; allowed is ")


def test_the_twin_has_the_same_numbers_and_its_pictures(lab: Lab) -> None:
    lab.page()
    twin = lab.paths.markdown.read_text()
    heads = re.findall(r"^## (.*)$", twin, re.MULTILINE)
    assert heads == [
        "The baseline beside candidate-000, the best",
        "Scoreboard",
        r"mmd\_opennsfw over the run",
        "What matters",
        "What stopping did",
        "What it cost",
        "What failed and why",
        "How it was made, and how to make it again",
    ]
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", twin)
    assert {name.partition("/")[2] for name in pictures} == {
        "baseline.png",
        "best.png",
        "curves.svg",
        "differences.svg",
        "settings.svg",
        "hours.svg",
        "shares.svg",
    }
    assert all((lab.paths.root / name).stat().st_size > 100 for name in pictures)
    table = [line for line in twin.splitlines() if line.startswith("| ")]
    assert len({line.replace(r"\|", "").count("|") for line in table[3:]}) == 1, "every row has every cell"
    assert r"diverged \| &lt;b&gt;at&lt;/b&gt; \*once\*" in twin
    assert lab.summary().answer.replace("_", r"\_") in twin


def test_a_text_is_no_markup() -> None:
    assert text("a_b *c* [d](e) <f>\n`g` | #h") == r"a\_b \*c\* \[d\](e) &lt;f&gt; \`g\` \| \#h"


def test_a_running_sweeps_page_is_made_anew_when_the_ledger_has_grown(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.space = replace(lab.space, budget=replace(lab.space.budget, candidates=5))
    # Its own look has read what is new: the page is made of that, and reads nothing again.
    monkeypatch.setattr(Ledger, "records", lambda _: pytest.fail("the whole ledger was read"))
    with kept_fresh(lab.space, lab.paths, first_s=0.01):
        deadline = time.monotonic() + 60
        while not lab.paths.page.is_file():
            assert time.monotonic() < deadline
            time.sleep(0.02)
    page = lab.paths.page.read_text()
    assert "running, 4 of 4 started trials ended" in page
    assert "load it again to see more" in page
