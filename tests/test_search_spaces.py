"""The shipped search spaces: each a question with its lab card, and all of them about the same training run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from sweeps import plan, run
from sweeps.config import deciding, to_plain
from sweeps.space_file import load_space, profiles_of, read_space

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "search_spaces").glob("*.yaml"))
PROFILES = ("cluster", "laptop")
NAMES = (
    "irepa", "learning_rate", "optimizer", "repa", "repa_depth",
    "repa_schedule", "repa_teacher", "repa_weight", "timesteps",
)  # fmt: skip


def test_the_spaces_that_the_documents_speak_of_are_there() -> None:
    assert tuple(file.stem for file in FILES) == NAMES


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_space_opens_with_its_lab_card_and_has_both_profiles(file: Path) -> None:
    content = read_space(file)
    assert sorted(profiles_of(content)) == list(PROFILES)
    assert content["question"].endswith("?")
    card = [line.removeprefix("#") for line in file.read_text().partition("\nquestion:")[0].splitlines()]
    assert "?" in card[0] or "against" in card[0], "the first line asks"
    for entry in ("laptop", "cluster", "came out"):
        assert any(re.match(rf"\s+{entry}\s+\S", line) for line in card), f"the card says nothing of: {entry}"
    assert any(line.split()[:1] == ["command"] and line.endswith(f" search_spaces/{file.name}") for line in card)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_its_plan_is_printed(
    file: Path,
    profile: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plan, "seconds_per_trial", lambda config: None)  # tests of the plan take the time of steps
    assert run.main([str(file), "--plan", "--profile", profile, "--results", str(tmp_path), "--address", "local"]) == 0
    printed, space = capsys.readouterr().out, load_space(file, profile)
    assert space.question in printed
    for dimension in space.dimensions:
        assert f"{dimension.path}: {dimension}" in printed
    assert len(space.points) <= space.budget.candidates, "every point is tried"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_but_for_its_question_it_trains_what_repa_trains(file: Path, profile: str) -> None:
    """So that results of several questions compare, and a baseline that one has trained serves the others."""
    space, reference = load_space(file, profile), load_space(ROOT / "search_spaces/repa.yaml", profile)
    asked = {*space.baseline, *(dimension.path for dimension in space.dimensions)}

    def without_question(plain: dict[str, Any]) -> dict[str, Any]:
        kept = {**deciding(plain), "repa": None}
        for path in asked:
            *parents, leaf = path.split(".")
            section = kept
            for parent in parents:
                section = section.get(parent) or {}
            section.pop(leaf, None)
        return kept

    ours, theirs = (to_plain(one.baseline_config(0)) for one in (space, reference))
    if ours["repa"] is None:
        assert deciding(ours) == deciding(theirs), "the baseline is repa.yaml's, which can be reused"
    assert without_question(ours) == without_question(theirs)
    assert (space.objective, space.resources) == (reference.objective, reference.resources)
