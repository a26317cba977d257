"""`prx-sweeps compare`: sweeps whose baseline is one trial stand on one page; of others it says what differs."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from sweeps.commands.compare import EXIT_NOT_COMPARABLE
from sweeps.comparison import Comparison, read_sweeps
from sweeps.ledger import CONFIRMATION, STOPPED
from sweeps.main import main as prx_sweeps
from sweeps.page.sweeps_page import board_of, headline, sections
from sweeps.provenance import append_start
from tests.sweeps.lab import OBJECTIVE, START, Lab
from tests.sweeps.test_report import parsed

ROOT = Path(__file__).parents[3]


def lab_in(folder: Path, **changes: Any) -> Lab:
    """A folder with a copy of its search-space file, as a run leaves it. changes: of the laptop profile."""
    lab = Lab(folder, candidates=2)
    space = yaml.safe_load((ROOT / "search_spaces" / "repa.yaml").read_text())
    for path, value in changes.items():
        section, _, name = path.partition("__")
        space["profiles"]["laptop"][section] = {**space["profiles"]["laptop"].get(section, {}), name: value}
    lab.paths.space.write_text(yaml.safe_dump(space))
    append_start(lab.paths.starts, START)
    return lab


@pytest.fixture
def labs(tmp_path: Path) -> list[Lab]:
    """Seeds 0 and 1, and 0 and 2; the best candidate in the second, where one was stopped."""
    first, second = lab_in(tmp_path / "a"), lab_in(tmp_path / "b", stop__margin=3.0)
    first.baselines(1.0, 1.03)
    first.trial("candidate-000", 0.95)
    second.baselines(1.0)
    second.trial("baseline-seed2", 1.02, role="baseline", seed=2, overrides={"repa": None})
    second.trial("candidate-000", 0.9)
    second.trial("candidate-001", 1.2, until=80, outcome=STOPPED, reason="worse <b>")
    return [first, second]


def test_candidates_of_all_sweeps_are_read_against_all_baseline_seeds(labs: list[Lab]) -> None:
    comparison = Comparison(read_sweeps([lab.paths.root for lab in labs]))
    assert comparison.obstacles == []
    assert [record.start.seed for record in comparison.baselines] == [0, 1, 2]
    mean = (1.03 * 1.02) ** (1 / 3)
    assert comparison.points[OBJECTIVE][-1].mean == pytest.approx(500 * math.exp(-200 / 150) * mean)
    names = [(sweep is comparison.sweeps[1], trial.name, trial.outcome) for sweep, trial in comparison.candidates]
    assert names == [
        (True, "candidate-000", "finished"),
        (False, "candidate-000", "finished"),
        (True, "candidate-001", "stopped"),
    ]
    percents = [trial.readings[OBJECTIVE].percent for _, trial in comparison.candidates]
    assert percents == pytest.approx([100 * (factor / mean - 1) for factor in (0.9, 0.95, 1.2)])
    rows = board_of(comparison).candidates
    assert (rows[0].cells[0], [row.role for row in rows]) == (
        ("baseline", "mean of 3 seeds, of all sweeps"),
        ["baseline", "sweep-1", "sweep-0", "sweep-1"],
    )
    assert any(line.startswith("stop.margin: 2.0 in ") and ", 3.0 in " in line for line in comparison.differences)


def test_what_is_confirmed_anywhere_decides_against_the_baseline_of_all(labs: list[Lab]) -> None:
    first, second = labs
    second.trial("candidate-000-seed2", 0.9 * 1.02 * 1.004, role=CONFIRMATION, seed=2, confirms="candidate-000")
    first.trial("candidate-000-seed1", 0.95 * 1.03 * 0.99, role=CONFIRMATION, seed=1, confirms="candidate-000")
    comparison = Comparison(read_sweeps([lab.paths.root for lab in labs]))
    found = {sweep: one for (sweep, _), one in comparison.on_fresh_seeds.items()}
    in_second, in_first = found[str(second.paths.root)], found[str(first.paths.root)]
    assert in_second.percent == pytest.approx(100 * (0.9 * 1.004 - 1))
    assert in_first.percent == pytest.approx(100 * (0.95 * 0.99 - 1))
    assert in_second.freedom == in_first.freedom == 2, "three runs, seven cells, three seeds"
    told = headline(comparison)
    assert told.startswith(f"Yes: candidate-000 of {second.paths.root} (")
    assert f"by 9.6 % in {OBJECTIVE} at step 200 (95 % interval -" in told
    assert told.endswith("1 fresh seed).")
    column = board_of(comparison).heads.index("on fresh seeds")
    assert board_of(comparison).candidates[1].cells[column][0] == "-9.6 %"


def test_they_stand_on_one_page(labs: list[Lab], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "both.html"
    assert prx_sweeps(["compare", *(str(lab.paths.root) for lab in labs), "--to", str(page)]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"On one seed, candidate-000 of {labs[1].paths.root} (")
    assert told.endswith(f"page: {page}\n")
    tags = parsed(page.read_text())
    ids = [attributes["id"] for tag, attributes in tags if tag in ("header", "section")]
    assert ids == ["answer", "scoreboard", "curves", "sweeps", "made"]
    assert page.read_text().count('<svg class="figure"') == 4
    assert "worse &lt;b&gt;" in page.read_text()
    assert not re.search(r'(?:src|href)="http', page.read_text())


def test_of_sweeps_that_do_not_compare_it_says_what_differs(
    labs: list[Lab], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = lab_in(tmp_path / "c", training__batch_size=32)
    other.baselines(1.0, 1.03)
    page = tmp_path / "both.html"
    folders = [str(lab.paths.root) for lab in (labs[0], other)]
    assert prx_sweeps(["compare", *folders, "--to", str(page)]) == EXIT_NOT_COMPARABLE
    told = capsys.readouterr().out
    assert f"baseline, training.batch_size: 16 in {folders[0]}, 32 in {folders[1]}" in told
    comparison = Comparison(read_sweeps([lab.paths.root for lab in (labs[0], other)]))
    assert [re.findall(r'id="(\w+)"', part)[0] for part in sections(comparison)] == ["answer", "obstacles", "sweeps"]


def test_one_sweep_or_one_twice_is_none_to_compare(labs: list[Lab], capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(labs[0].paths.root)
    assert prx_sweeps(["compare", folder]) == 2
    assert "needed are two or more" in capsys.readouterr().err
    assert prx_sweeps(["compare", folder, str(labs[0].paths.ledger)]) == 2
    assert "twice" in capsys.readouterr().err
