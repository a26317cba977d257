from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prx_model.batch import Batch
from prx_model.data.reader import BatchReader
from prx_model.data.store import ImageCaptionStore, Split


def split_of(count: int) -> Split:
    """Image i is filled with the value i, its text with i + 1."""
    images = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(count, 3, 4, 4).contiguous()
    return Split(
        name="train",
        fingerprint="f",
        keys=tuple(str(index) for index in range(count)),
        captions=tuple(f"number {index}" for index in range(count)),
        families=tuple(str(index) for index in range(count)),
        images=images,
        text=torch.arange(1, count + 1, dtype=torch.float32)[:, None, None].expand(count, 2, 5).contiguous(),
        text_mask=torch.ones(count, 2, dtype=torch.bool),
    )


def first(reader: BatchReader, steps: int, from_step: int = 0) -> list[Batch]:
    return list(islice(reader.batches(from_step), steps))


shapes = st.integers(1, 40).flatmap(lambda count: st.tuples(st.just(count), st.integers(1, count)))
seeds = st.integers(0, 2**40)


@given(shapes, seeds, st.integers(0, 200))
def test_resuming_needs_nothing_but_the_step(shape: tuple[int, int], seed: int, step: int) -> None:
    count, batch_size = shape
    walked = first(BatchReader(split_of(count), batch_size, seed), step + 3)[step:]
    resumed = first(BatchReader(split_of(count), batch_size, seed), 3, from_step=step)
    for before, after in zip(walked, resumed, strict=True):
        assert torch.equal(before.index, after.index)
        assert torch.equal(before.clean, after.clean)


@given(shapes, seeds)
def test_each_epoch_shows_every_image_once(shape: tuple[int, int], seed: int) -> None:
    count, batch_size = shape
    batches = first(BatchReader(split_of(count), batch_size, seed), -(-3 * count // batch_size))
    stream = torch.cat([batch.index for batch in batches])
    assert all(len(batch) == batch_size for batch in batches)
    for epoch in range(3):
        assert sorted(stream[epoch * count : (epoch + 1) * count].tolist()) == list(range(count))


@given(seeds, st.integers(0, 20), st.sampled_from([1, 2, 4]))
def test_shares_of_all_workers_make_up_the_batch(seed: int, step: int, world_size: int) -> None:
    whole = BatchReader(split_of(10), 4, seed).batch(step)
    size = 4 // world_size
    shares = [
        BatchReader(split_of(10), 4, seed, share=(rank * size, (rank + 1) * size)).batch(step)
        for rank in range(world_size)
    ]
    assert all(len(share) == size for share in shares)
    assert torch.equal(torch.cat([share.index for share in shares]), whole.index)
    assert torch.equal(torch.cat([share.clean for share in shares]), whole.clean)


@given(shapes, seeds, st.integers(0, 50))
def test_rows_of_a_batch_belong_together(shape: tuple[int, int], seed: int, step: int) -> None:
    count, batch_size = shape
    tokens = np.arange(count, dtype=np.float16)[:, None, None] * np.ones((1, 3, 2), dtype=np.float16)
    batch = BatchReader(split_of(count), batch_size, seed, teacher_tokens=tokens).batch(step)
    index = batch.index.float()
    assert batch.clean.dtype == torch.float32
    torch.testing.assert_close(batch.clean[:, 1, 2, 3], index / 127.5 - 1)
    assert torch.equal(batch.text[:, 1, 4], index + 1)
    assert batch.teacher_tokens is not None
    assert batch.teacher_tokens.dtype == torch.float32
    assert torch.equal(batch.teacher_tokens[:, 2, 1], index)


def test_order_is_pinned() -> None:
    """A changed order would change every result of a sweep that is resumed."""
    stream = [batch.index.tolist() for batch in first(BatchReader(split_of(10), 4, seed=7), 5)]
    orders = [np.random.Generator(np.random.PCG64([7, epoch])).permutation(10).tolist() for epoch in (0, 1)]
    assert [index for indices in stream for index in indices] == orders[0] + orders[1]
    assert stream == [[8, 0, 7, 1], [3, 6, 2, 4], [5, 9, 9, 0], [8, 6, 7, 1], [3, 4, 2, 5]]


def test_seeds_and_epochs_differ() -> None:
    def epochs(seed: int) -> list[list[int]]:
        return [batch.index.tolist() for batch in first(BatchReader(split_of(30), 30, seed), 3)]

    seen = epochs(0) + epochs(1)
    assert len({tuple(order) for order in seen}) == 6


def test_pixels_span_the_whole_range(small_store: ImageCaptionStore) -> None:
    batch = BatchReader(small_store.train, 32, seed=0).batch(0)
    assert batch.clean.shape == (32, 3, 32, 32)
    assert batch.clean.max() == 1
    assert batch.clean.min() >= -1
    assert batch.clean.min() < -0.9
    assert batch.teacher_tokens is None
    expected = small_store.train.text[batch.index]
    assert torch.equal(batch.text, expected)
    assert torch.equal(batch.text_mask, small_store.train.text_mask[batch.index])
    back = ((batch.clean + 1) * 127.5).round().to(torch.uint8)
    assert torch.equal(back, small_store.train.images[batch.index])


def test_a_changed_batch_does_not_change_the_next_one() -> None:
    reader = BatchReader(split_of(6), 3, seed=0)
    batch = reader.batch(0)
    expected = batch.index.clone()
    batch.index.zero_()
    batch.clean.zero_()
    batch.text.zero_()
    assert torch.equal(reader.batch(0).index, expected)
    assert reader.batch(0).text.min() >= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 7}, "batch_size is 7, must be 1 to 6, the images in split 'train'"),
        ({"batch_size": 0}, "batch_size is 0, must be 1 to 6"),
        ({"seed": -1}, "seed is -1, must be 0 or more"),
        ({"teacher_tokens": np.zeros((5, 3, 2), dtype=np.float16)}, r"\(5, 3, 2\), must be \[6, N, Z\]"),
        ({"teacher_tokens": torch.zeros(7, 3, 2)}, r"\(7, 3, 2\), must be \[6, N, Z\]"),
        ({"teacher_tokens": np.zeros((6, 3), dtype=np.float16)}, r"\(6, 3\), must be \[6, N, Z\]"),
    ],
)
def test_impossible_readers_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BatchReader(split_of(6), **{"batch_size": 2, "seed": 0, **arguments})


def test_a_negative_step_is_refused_at_the_call() -> None:
    with pytest.raises(ValueError, match="from_step is -1"):
        BatchReader(split_of(6), 2, seed=0).batches(-1)
