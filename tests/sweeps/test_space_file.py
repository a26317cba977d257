from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest

from sweeps.rule import StopConfig
from sweeps.space import Budget, SpaceError
from sweeps.space_file import load_space, profiles_of, read_space, resolve
from tests.sweeps.space_files import CONTENT, FILE, TEXT, laptop, space_of

ROOT = Path(__file__).parents[2]


def test_a_profile_is_laid_over_the_file_section_by_section():
    space = space_of(laptop({"stop": {"patience": 1}, "objective": {"metric": "frechet_opennsfw_pc32"}}))
    assert space.stop == StopConfig(patience=1)  # the section is replaced, and the rest of it is the default
    assert space.objective.metric == "frechet_opennsfw_pc32"


def test_a_dotted_key_of_a_profile_sets_one_value():
    space = space_of(
        laptop(
            {
                "space.repa.teacher": {"choice": ["vgg16_hed"]},
                "stop.margin": 0.5,
                "budget.candidates": 9,
                "training.timesteps.shift": 2.0,
                "baseline.training.learning_rate": 1.0e-3,
                "points": [],
            }
        )
    )
    assert space.dimensions[0].values == ("vgg16_hed",)
    assert len(space.dimensions) == 3
    assert space.stop == StopConfig(margin=0.5, patience=3)
    assert space.budget == Budget(candidates=9, baseline_seeds=2)
    assert (space.base["training"]["steps"], space.base["training"]["timesteps"]) == (240, {"shift": 2.0})
    assert space.baseline_config(4).training.learning_rate == 1e-3
    assert space.baseline_config(4).repa is None


@pytest.mark.parametrize("dotted_first", [True, False])
def test_a_dotted_key_goes_over_the_whole_section_in_any_order(dotted_first):
    entries = {"stop.margin": 0.5, "stop": {"margin": 3.0, "patience": 5}}
    if not dotted_first:
        entries = dict(reversed(entries.items()))
    assert space_of(laptop(entries)).stop == StopConfig(margin=0.5, patience=5)


def test_a_dotted_key_opens_a_section_that_is_null_or_not_there():
    space = space_of(laptop({"repa": None, "repa.projector": "conv3x3", "data.num_heldout": 300}))
    assert space.base["repa"] == {"projector": "conv3x3"}
    assert space.base["data"]["num_heldout"] == 300

    def without_stop(content):
        del content["stop"]
        content["profiles"]["laptop"]["stop.patience"] = 4

    assert space_of(without_stop).stop == StopConfig(patience=4)


def test_resolving_leaves_the_content_as_it_was():
    content = copy.deepcopy(CONTENT)
    content["profiles"]["laptop"]["stop.margin"] = 9.0
    before = copy.deepcopy(content)
    resolve(content, file=FILE, profile="laptop")
    resolve(content, file=FILE, profile="laptop")
    assert content == before


def test_profiles_of():
    assert profiles_of(CONTENT) == ["laptop"]
    assert profiles_of({}) == profiles_of({"profiles": None}) == profiles_of({"profiles": [1]}) == []
    assert profiles_of({"profiles": {1: {}, "b": {}}}) == ["1", "b"]


def test_a_file_is_read_as_it_stands(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text(TEXT)
    assert load_space(file, "laptop").fingerprint == space_of().fingerprint


def test_numbers_are_read_as_people_write_them(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text(TEXT.replace("5.0e-4", "5e-4"))  # a text for plain PyYAML
    assert load_space(file, "laptop").base["training"]["learning_rate"] == 5e-4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the file is empty; needed are at least objective, baseline, space and profiles"),
        ("# only a comment\n", "the file is empty"),
        ("{}", "the file is empty"),
        ("- a\n- b\n", "got a list, allowed is a mapping with question"),
        ("just text", "."),
        ("3", "."),
        ("a: [1\nb: 2\n", r"line 2, column \d+: not YAML: "),
        ("a: 1\n\tb: 2\n", r"line 2, column \d+: not YAML: "),
        ("a: 1\na: 2\n", r"line 2, column \d+: not YAML: .*duplicate"),
        ("a: *b\n", r"line 1, column \d+: not YAML: .*undefined alias"),
        ("a: !!python/object:os.system {}\n", r"line 1, column \d+: not YAML: "),
        ("question: ${nothing.there}\n", "nothing"),
        ("a: ${b}\nb: ${a}\n", "."),
        ("a: ${\n", "."),
        ("a: " + "9" * 5000, "."),
        ("a: " + "[" * 3000 + "]" * 3000, "too deep"),
        (b"\xff\xfe\x00question", "."),
        (b"question: \x80\n", "."),
        (b"question: \x00\n", "."),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path, text, words):
    file = tmp_path / "x.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SpaceError) as caught:
        load_space(file, "laptop")
    message = str(caught.value)
    assert message.startswith(f"{file}: ")
    assert "\n" not in message
    assert re.search(words, message.removeprefix(f"{file}: ")), message


@pytest.mark.parametrize(("name", "words"), [("no.yaml", "no such file"), ("", "a folder"), ("x" * 300, "too long")])
def test_a_file_that_is_not_there_is_one_line(tmp_path, name, words):
    with pytest.raises(SpaceError, match=words) as caught:
        read_space(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert "\n" not in str(caught.value)


SHIPPED = sorted([*ROOT.glob("search_spaces/*.yaml"), *ROOT.glob("tests/spaces/*.yaml")])


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_every_shipped_file_resolves_under_every_profile(file):
    profiles = profiles_of(read_space(file))
    assert profiles
    spaces = [load_space(file, profile) for profile in profiles]
    assert len({space.fingerprint for space in spaces}) == len(profiles)


def test_there_are_shipped_files():
    assert "repa.yaml" in {file.name for file in SHIPPED}
