from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prx_model.encoding import plan as encode_plan
from prx_model.encoding.listing import DUPLICATE_KEY, Listed, Source
from prx_model.encoding.plan import (
    DUPLICATE,
    SHARD_BYTES,
    TRAIN,
    Items,
    Plan,
    PlannedItems,
    differences,
    num_candidates,
    read_items,
    roles_of,
    rows_per_unit,
    write_items,
    write_plan,
)
from prx_model.encoding.store_folder import StoreFolder

LISTED = [Listed(key=f"k{i}", file=f"f{i // 7}.tar", start=i * 512, size=100 + i, caption=f"c {i}") for i in range(50)]


@pytest.fixture
def small_groups(monkeypatch):
    monkeypatch.setattr(encode_plan, "ITEMS_PER_GROUP", 8)


def _items(listed: list[Listed], folder: Path) -> Items:
    return write_items(iter(listed), folder / "items.parquet")


@pytest.mark.parametrize(("start", "stop"), [(0, 50), (0, 1), (7, 9), (8, 16), (49, 50), (13, 41)])
def test_a_stretch_of_the_list_reads_back_as_it_was_written(start, stop, small_groups, tmp_path):
    _items(LISTED, tmp_path)
    assert read_items(tmp_path / "items.parquet", start, stop) == LISTED[start:stop]


def test_a_limit_takes_the_first_items(tmp_path):
    items = write_items(iter(LISTED), tmp_path / "items.parquet", limit=13)
    assert len(items) == 13
    assert read_items(tmp_path / "items.parquet", 0, 50) == LISTED[:13]


def test_units_cover_every_item_once_in_order(small_groups, tmp_path):
    items = _items(LISTED, tmp_path)
    store = StoreFolder(str(tmp_path / "store"))
    source = Source(location=str(tmp_path), layout="tar", files=("f0.tar",))
    plan = Plan(source=source, settings={"a": 1}, num_items=50, num_heldout=5, num_candidates=7, rows_per_unit=11)
    write_plan(store, plan, tmp_path / "items.parquet", roles_of(items, 7))
    assert Plan.read(store) == plan
    planned = PlannedItems(store, plan)
    pairs = [pair for number in range(plan.num_units) for pair in planned.unit(number)]
    assert [listed for listed, _ in pairs] == LISTED
    assert sorted(role for _, role in pairs if role >= 0) == list(range(7))


def test_of_equal_keys_the_first_counts(tmp_path):
    listed = [*LISTED[:10], replace(LISTED[3], file="other.tar"), replace(LISTED[3], caption="again"), *LISTED[10:20]]
    items = _items(listed, tmp_path)
    assert np.nonzero(roles_of(items, 4) == DUPLICATE)[0].tolist() == [10, 11]
    assert items.num_usable == 20


def test_a_duplicate_is_told_as_a_problem_of_its_unit(tmp_path):
    items = _items([LISTED[0], LISTED[0]], tmp_path)
    store = StoreFolder(str(tmp_path / "store"))
    source = Source(location="x", layout="tar")
    plan = Plan(source=source, settings={}, num_items=2, num_heldout=1, num_candidates=1, rows_per_unit=2)
    write_plan(store, plan, tmp_path / "items.parquet", roles_of(items, 1))
    assert [listed.problem for listed, _ in PlannedItems(store, plan).unit(0)] == ["", DUPLICATE_KEY]


def test_items_with_a_known_problem_are_no_candidates(tmp_path):
    broken = [replace(listed, problem="missing caption") if i % 2 else listed for i, listed in enumerate(LISTED)]
    roles = roles_of(_items(broken, tmp_path), 25)
    assert (roles[::2] >= 0).all()
    assert (roles[1::2] == TRAIN).all()


def test_candidates_do_not_depend_on_the_order_of_the_items(tmp_path):
    def candidates(listed: list[Listed]) -> list[str]:
        roles = roles_of(_items(listed, tmp_path), 9)
        return [listed[i].key for i in np.argsort(np.where(roles < 0, 99, roles), kind="stable")[:9]]

    assert candidates(LISTED) == candidates(LISTED[::-1])


def test_items_that_are_added_leave_most_candidates_what_they_were(tmp_path):
    more = [*LISTED, *(Listed(key=f"new {i}") for i in range(5))]
    before, after = roles_of(_items(LISTED, tmp_path), 20), roles_of(_items(more, tmp_path), 20)
    assert ((before >= 0) & (after[:50] < 0)).sum() <= 5
    assert ((before < 0) & (after[:50] >= 0)).sum() == 0


@given(st.integers(1, 10**5), st.integers(0, 10**6), st.floats(0, 0.3))
def test_the_reserve_covers_what_a_probe_says_is_broken(num_heldout, others, broken):
    candidates = num_candidates(num_heldout, num_heldout + others, broken)
    assert num_heldout <= candidates <= num_heldout + others
    if candidates < num_heldout + others:
        assert candidates * (1 - broken) >= num_heldout


@given(st.floats(100, 3 * SHARD_BYTES))
def test_a_shard_lies_between_64_and_256_mb_where_rows_allow_it(row_bytes):
    size = rows_per_unit(row_bytes, 10**9) * row_bytes
    assert size <= 2 * SHARD_BYTES or rows_per_unit(row_bytes, 10**9) == 1
    assert size >= SHARD_BYTES / 2


def test_settings_that_differ_are_named_with_both_values():
    recorded, wanted = {"resolution": 256, "teachers": [], "old": None}, {"resolution": 512, "teachers": []}
    assert differences(recorded, wanted) == ["resolution: the store has 256, asked for is 512"]


def test_a_damaged_plan_says_what_to_delete(tmp_path):
    store = StoreFolder(str(tmp_path))
    store.write(encode_plan.PLAN_FILE, b'{"source": 3}')
    with pytest.raises(ValueError, match=r"plan.json is damaged .*; delete .*\.encoding and run again"):
        Plan.read(store)
