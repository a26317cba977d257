"""What the page shows of each trial: its row of the scoreboard, its curve, and how its samples emerge."""

from __future__ import annotations

import base64
import io
import re
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sweeps.ledger import FAILED, STOPPED
from sweeps.page.board import board
from sweeps.page.grids import ALL_BYTES, LEVELS, sheet_bytes, sheet_of
from sweeps.page.inline import INKS, inline
from sweeps.page.roles import STYLES
from sweeps.prompts import keep_prompts, prompts_of, shortened
from tests.sweeps.lab import STEPS, Lab

RESOLUTION = 32


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """Two baselines; a candidate that was confirmed, one that was stopped, one that failed."""
    lab = Lab(tmp_path, candidates=3, confirm=1)
    lab.baselines(1.0, 1.03)
    lab.trial("candidate-000", 0.9)
    lab.trial("candidate-001", 1.2, until=120, outcome=STOPPED, reason="5 spreads worse <at> step 120")
    lab.trial("candidate-002", 1.0, until=80, outcome=FAILED, end_step=97, reason="diverged")
    lab.confirmations("candidate-000", 0.91)
    return lab


def test_the_scoreboard_has_the_baseline_first_and_all_that_a_paper_tells(lab: Lab) -> None:
    whole = board(lab.summary())
    assert whole.heads[:3] == ("trial", "mmd_opennsfw", "difference")
    assert whole.heads[-6:] == ("seeds", "n", "steps", "images/s", "hours", "outcome")
    rows = {row.cells[0][0].split()[0]: dict(zip(whole.heads, row.cells, strict=True)) for row in whole.candidates}
    assert list(rows) == ["baseline", "candidate-000", "candidate-001", "candidate-002"]
    baseline, best, stopped = (rows[name] for name in list(rows)[:3])
    assert (baseline["difference"][0], baseline["seeds"][0], baseline["n"][0]) == ("reference", "0, 1", "384")
    assert (best["seeds"][0], best["difference"][1][:13]) == ("0, 1", "95 % interval")
    assert best["hours"][0] == f"{2 * 5 * 12 / 3600:.3g}", "its confirmation is paid for too"
    assert (stopped["steps"][0], stopped["seeds"][0], stopped["outcome"]) == (
        "120/200",
        "0",
        ("stopped", "5 spreads worse <at> step 120"),
    )
    assert stopped["hours"][1] == f"≈ {2 * 12 / 3600:.3g} saved"
    assert [row.cells[0][0] for row in whole.runs] == ["baseline-seed0", "baseline-seed1", "candidate-000-seed1"]


def test_a_curve_tells_the_mouse_why_it_ends(lab: Lab) -> None:
    page = lab.page()
    titles = [unescape(title) for title in re.findall(r"<g class=\"hint\"><title>(.*?)</title>", page)]
    assert any(
        title.startswith("candidate-001: dinov2s_saliency, depth 1/2, weight 0.422\nmmd_opennsfw")
        and title.endswith("step 120 of 200, stopped: 5 spreads worse <at> step 120")
        for title in titles
    )
    assert any(title.endswith("step 97 of 200, failed: diverged") for title in titles)


def test_colours_of_the_figures_are_the_pages_own(lab: Lab) -> None:
    assert {style.colour.lower() for style in STYLES.values()} <= INKS.keys()
    page = lab.page()
    figures = re.findall(r'<svg class="figure".*?</svg>', page)
    assert len(figures) > 10
    assert not [ink for ink in INKS for figure in figures if f": {ink}" in figure]
    assert all(f"--{name}:" in page for name in INKS.values())


def test_ids_of_two_figures_do_not_meet() -> None:
    svg = '<svg a="1" viewBox="0 0 1 1"><path id="m1" d="M 0 0"/><g id="x"><use xlink:href="#m1"/></g></svg>'
    assert inline(svg, "a-", 'b"') == (
        '<svg class="figure" role="img" aria-label="b&quot;" viewBox="0 0 1 1">'
        '<path id="a-m1" d="M 0 0"/><g><use href="#a-m1"/></g></svg>'
    )


def grids_of_one_colour(lab: Lab, name: str) -> None:
    """4 x 4 samples, all of a grey that is the step's."""
    for step in STEPS:
        Image.new("RGB", (4 * 33 - 1, 4 * 33 - 1), (step, step, step)).save(lab.paths.sample_grid(name, step))


def test_rows_of_a_sheet_are_steps_and_columns_are_prompts(lab: Lab) -> None:
    lab.paths.samples_of("candidate-000").mkdir(parents=True)
    grids_of_one_colour(lab, "candidate-000")
    trial = lab.summary().candidates[0]
    sheet = sheet_of(lab.paths, trial, RESOLUTION, sheet_bytes(10))
    assert sheet is not None
    assert (sheet.steps, sheet.prompts) == (STEPS, LEVELS[0].prompts)
    pixels = np.asarray(Image.open(io.BytesIO(sheet.content)).convert("RGB"))
    assert pixels.shape == (len(STEPS) * 33 - 1, 8 * 33 - 1, 3)
    middles = [pixels[row * 33 + 16, 16, 0] for row in range(len(STEPS))]
    assert middles == pytest.approx(STEPS, abs=6)


def test_prompts_head_the_columns_and_are_told_in_full_under_the_mouse(lab: Lab) -> None:
    for name in ("baseline-seed0", "candidate-000"):
        lab.paths.samples_of(name).mkdir(parents=True)
        grids_of_one_colour(lab, name)
    without = lab.page()
    assert 'class="prompts' not in without
    assert "The prompts, row" not in lab.paths.markdown.read_text()
    long = "a <b>red</b> fox | in the snow,\n under " + "many " * 40 + "stars"
    keep_prompts(lab.paths, lambda: [long, *(f"fox {number}" for number in range(1, 16))])
    keep_prompts(lab.paths, lambda: ["of another trial"])
    page = lab.page()
    told = unescape(page)
    assert "<b>red" not in page
    assert told.count(f'title="{" ".join(long.split())}"') == 3, "the winner's, and a column of two trials"
    winner, *columns = re.findall(r'<div class="prompts[^>]*--columns: (\d)">(.*?)</div>', page)
    assert [(number, cells.count("<span")) for number, cells in (winner, *columns)] == [("4", 16), ("8", 8), ("8", 8)]
    assert ">fox 7</span>" in columns[0][1]
    assert "row by row: a <b>red" in told
    twin = lab.paths.markdown.read_text()
    assert "| a &lt;b&gt;red&lt;/b&gt; fox \\| in the snow, under many" in twin
    assert "| fox 12 | fox 13 | fox 14 | fox 15 |" in twin


def test_prompts_that_cannot_be_read_are_none(lab: Lab) -> None:
    for content in (b"{", b"\xff", b"{}"):
        lab.paths.prompts.write_bytes(content)
        assert prompts_of(lab.paths) == []
    assert shortened("fox" * 20, 10) == "foxfoxfox…"
    assert shortened("a fox in the snow", 10) == "a fox in…"


def test_all_sheets_together_stay_small(lab: Lab) -> None:
    """Noise is what compresses worst."""
    lab.grids("candidate-000", side=4 * 33 - 1)
    trial = lab.summary().candidates[0]
    few, many = (sheet_of(lab.paths, trial, RESOLUTION, sheet_bytes(number)) for number in (10, 1000))
    assert few is not None
    assert many is not None
    assert len(many.content) < ALL_BYTES / 1000
    assert len(many.content) < len(few.content)
    assert few.steps == STEPS
    assert (many.steps[0], many.steps[-1]) == (STEPS[0], STEPS[-1])


def test_every_trial_has_its_sheet_folded_but_the_two_that_decide(lab: Lab) -> None:
    for trial in lab.summary().trials:
        lab.grids(trial.name, steps=(40, 80))
    section = re.search(r'<section id="samples">.*?</section>', lab.page(), re.DOTALL)
    assert section is not None
    pictures = re.findall(r'src="data:image/webp;base64,([^"]+)"', section[0])
    assert len(pictures) == 6
    assert section[0].count('<details class="named">') == 4
    assert Image.open(io.BytesIO(base64.b64decode(pictures[0]))).size == (4 * 33 - 1, 2 * 33 - 1)
