from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prx_model.data.order import Order

# Groups as they come: full ones, and a short one at the end of each shard.
group_lists = st.lists(st.integers(1, 9), min_size=1, max_size=30)
seeds = st.integers(0, 2**40)


@st.composite
def shapes(draw: st.DrawFn) -> dict[str, Any]:
    groups = draw(group_lists)
    batch_size = draw(st.integers(1, sum(groups)))
    shuffle_rows = draw(st.integers(1, 300))
    return {"group_rows": groups, "batch_size": batch_size, "seed": draw(seeds), "shuffle_rows": shuffle_rows}


def epoch_of(order: Order, epoch: int) -> list[list[int]]:
    first = epoch * order.steps_per_epoch
    return [order.step(step).rows.tolist() for step in range(first, first + order.steps_per_epoch)]


@given(shapes(), st.integers(0, 3))
def test_an_epoch_shows_no_row_twice_and_drops_less_than_a_batch(shape: dict[str, Any], epoch: int) -> None:
    order = Order(**shape)
    batches = epoch_of(order, epoch)
    rows = [row for batch in batches for row in batch]
    num_rows = sum(shape["group_rows"])
    assert all(len(batch) == order.batch_size for batch in batches)
    assert len(set(rows)) == len(rows)
    assert set(rows) <= set(range(num_rows))
    assert 0 <= num_rows - len(rows) < order.batch_size


@given(shapes(), st.integers(0, 60), st.sampled_from([1, 2, 3, 8]))
def test_shares_put_together_are_the_batch(shape: dict[str, Any], step: int, num_workers: int) -> None:
    order = Order(**shape)
    borders = [order.batch_size * worker // num_workers for worker in range(num_workers + 1)]
    shares = [order.step(step, (a, b)) for a, b in pairwise(borders) if a < b]
    whole = order.step(step)
    assert np.concatenate([share.rows for share in shares]).tolist() == whole.rows.tolist()
    assert set().union(*(share.groups for share in shares)) == set(whole.groups)


@given(shapes(), st.integers(0, 40))
def test_any_step_can_come_first(shape: dict[str, Any], step: int) -> None:
    anew, walked = Order(**shape), Order(**shape)
    for earlier in range(step):
        walked.step(earlier)
    for later in range(step, step + 3):
        assert anew.step(later).rows.tolist() == walked.step(later).rows.tolist()
        assert anew.step(later).groups == walked.step(later).groups


@given(shapes(), st.integers(0, 60))
def test_rows_lie_in_the_groups_that_are_alive(shape: dict[str, Any], step: int) -> None:
    order = Order(**shape)
    plan = order.step(step)
    groups, places = order.group_of(plan.rows)
    assert set(groups.tolist()) <= set(plan.groups)
    sizes = np.array(shape["group_rows"])
    assert ((np.cumsum(sizes) - sizes)[groups] + places == plan.rows).all()
    assert ((places >= 0) & (places < sizes[groups])).all()


@pytest.mark.parametrize(("share", "lanes"), [((0, 256), 64), ((128, 160), 8), ((3, 5), 2), ((4, 8), 1)])
def test_few_groups_are_alive_at_a_time(share: tuple[int, int], lanes: int) -> None:
    order = Order([64] * 500, 256, seed=1, shuffle_rows=4096)
    assert (order.num_lanes, order.window_rows) == (64, 64)
    alive = [len(order.step(step, share).groups) for step in range(order.steps_per_epoch)]
    assert max(alive) <= lanes * 4
    assert lanes <= np.mean(alive) <= lanes * 2.3  # a window of 64 rows lies in two groups of 64, mostly


def test_windows_end_at_different_steps() -> None:
    """New groups are asked for a few at a time, not all lanes' at once."""
    order = Order([64] * 2000, 256, seed=1, shuffle_rows=4096)
    alive = [set(order.step(step).groups) for step in range(100, 200)]
    fresh = [len(now - before) for before, now in pairwise(alive)]
    assert max(fresh) <= 3 * np.mean(fresh) + 1


def test_batches_are_mixed_well() -> None:
    """Rows of a batch come from all over the data set, and neighbours on the disk are rarely neighbours in training."""
    order = Order([64] * 1000, 256, seed=5)
    for step in (0, 7, 120, 249):
        rows = np.sort(order.step(step).rows)
        assert len(np.unique(rows // 1024)) >= 35  # of 63 shards: 64 lanes at random would meet 40
        assert (np.diff(rows) == 1).sum() <= 32  # four of 64 rows: a pair of neighbours in every fifth lane
        # Uniform over the data set: the largest gap between the two distribution functions, Kolmogorov's at 1 in 1,000
        # for the 64 groups that are drawn.
        assert np.abs(rows / 64000 - (np.arange(256) + 0.5) / 256).max() < 1.95 / np.sqrt(64)
    stream = np.concatenate([order.step(step).rows for step in range(order.steps_per_epoch)])
    assert np.mean(np.abs(np.diff(stream)) == 1) < 0.025  # as stored, three in four would be


@given(group_lists.filter(lambda groups: sum(groups) >= 40), st.integers(0, 2**40))
def test_seeds_and_epochs_differ(groups: list[int], seed: int) -> None:
    order, other = Order(groups, 20, seed), Order(groups, 20, seed + 1)
    seen = [epoch_of(order, 0), epoch_of(order, 1), epoch_of(order, 2), epoch_of(other, 0), epoch_of(other, 1)]
    assert len({str(epoch) for epoch in seen}) == 5


def test_order_is_pinned() -> None:
    """A changed order would change every result of a sweep that is resumed."""
    order = Order([4, 4, 3, 4], 4, seed=7, shuffle_rows=16)
    assert [order.step(step).rows.tolist() for step in range(4)] == PINNED


PINNED = [[6, 7, 14, 9], [5, 11, 8, 10], [4, 12, 13, 0], [11, 14, 3, 5]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 8}, "batch_size: got 8, allowed is 1 to 7, the rows of the data set"),
        ({"batch_size": 0}, "batch_size: got 0, allowed is 1 to 7"),
        ({"seed": -1}, "seed: got -1, allowed is an integer of at least 0"),
        ({"shuffle_rows": 0}, "shuffle_rows: got 0, allowed is an integer of at least 1"),
    ],
)
def test_impossible_orders_are_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Order([4, 3], **{"batch_size": 2, "seed": 0, **arguments})
