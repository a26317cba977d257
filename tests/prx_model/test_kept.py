from __future__ import annotations

import pytest

from prx_model.kept import Kept


def test_a_thing_is_made_once_and_found_by_its_fingerprint():
    kept, made = Kept(), []

    def make(name: str) -> list[str]:
        made.append(name)
        return [name]

    first = kept.get("store", "a", lambda: make("a"))
    assert kept.get("store", "a", lambda: make("again")) is first
    assert kept.get("suite", "a", lambda: make("suite")) == ["suite"]
    assert made == ["a", "suite"]


def test_the_one_used_longest_ago_goes_first():
    kept = Kept(most=2)
    for name in ("a", "b", "a", "c"):
        kept.get("teacher", name, lambda name=name: object())
    assert kept.count("teacher") == 2
    made = []
    kept.get("teacher", "a", lambda: made.append("a"))
    kept.get("teacher", "b", lambda: made.append("b"))
    assert made == ["b"]


def test_a_kind_that_takes_much_room_makes_room_first():
    kept = Kept()
    kept.get("teacher", "a", object)

    def make() -> int:
        return kept.count("teacher")

    assert kept.get("teacher", "b", make, most=1) == 0
    assert kept.count("teacher") == 1


def test_what_fails_to_be_made_is_not_kept():
    kept = Kept()
    with pytest.raises(OSError, match="disk"):
        kept.get("store", "a", lambda: (_ for _ in ()).throw(OSError("disk")))
    assert kept.count("store") == 0
    assert kept.get("store", "a", lambda: 1) == 1


def test_it_holds_at_least_one():
    with pytest.raises(ValueError, match="most: got 0"):
        Kept(most=0)
