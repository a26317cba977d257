"""Looks at nested numbers of samples: what they are worth, how lazy they are, and that workers change no bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice, pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prx_model.metrics.features import FeatureExtractor
from prx_model.metrics.reference import ReferenceStatistics
from prx_model.metrics.samples import nested_counts, sample_noise
from prx_model.metrics.suite import MetricSuite, SuiteResult
from prx_model.metrics.table import METRICS
from tests.prx_model.metrics.conftest import random_images, tiny_extractor
from tests.prx_model.metrics.test_suite import LITE0, SHAPE, as_workers, generate, prompts, suite

PARTS = (0.1, 0.25, 0.5)
COUNTS = (8, 16, 24, 41)  # of 41 samples in batches of 8


def looks_suite(**changes) -> MetricSuite:
    return suite(**({"parts": PARTS, "num_kept": 41} | changes))


@pytest.fixture
def with_frechet(monkeypatch: pytest.MonkeyPatch) -> MetricSuite:
    """An MMD and a Frechet distance in 6 directions, on one network, in batches of 5."""
    spec = replace(METRICS["frechet_lite0_pc32"], principal_directions=6)
    monkeypatch.setitem(METRICS, "frechet_lite0_pc32", spec)
    extractor = tiny_extractor(LITE0)
    names = ("mmd_lite0", "frechet_lite0_pc32")
    real = extractor(random_images(0, 60))
    reference = {name: ReferenceStatistics.fit(METRICS[name], real) for name in names}
    return suite(names, extractors={LITE0: extractor}, reference=reference, batch_size=5, parts=(0.05, 0.5))


class Counted:
    """`generate`, and how often it was called."""

    def __init__(self) -> None:
        self.shapes: list[torch.Size] = []

    def __call__(self, noise: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        self.shapes.append(noise.shape)
        return generate(noise, text, text_mask)


# -- how many samples


@pytest.mark.parametrize(
    ("num_samples", "batch_size", "parts", "expected"),
    [
        (160, 20, (0.125, 0.25, 0.5), (20, 40, 80, 160)),
        (160, 80, (0.125, 0.25, 0.5), (80, 160)),
        (10_000, 128, (0.125, 0.25, 0.5), (1280, 2560, 5120, 10_000)),
        (41, 8, PARTS, COUNTS),
        (41, 8, (), (41,)),
        (41, 8, (0.99,), (41,)),
        (3, 3, (1e-12,), (3,)),
        (100, 1, (0.07, 0.29, 0.57), (7, 29, 57, 100)),  # 0.07 * 100 is above 7 in binary
    ],
)
def test_counts_are_parts_rounded_up_to_whole_batches(num_samples, batch_size, parts, expected) -> None:
    assert nested_counts(num_samples, batch_size, parts) == expected


@given(
    num_samples=st.integers(1, 500),
    batch_size=st.integers(1, 64),
    parts=st.lists(st.floats(0.001, 0.999), unique=True, max_size=5).map(sorted),
)
def test_counts_ascend_in_whole_batches_to_all(num_samples: int, batch_size: int, parts: list[float]) -> None:
    counts = nested_counts(num_samples, batch_size, parts)
    assert list(counts) == sorted(set(counts))
    assert counts[-1] == num_samples
    assert all(count % batch_size == 0 for count in counts[:-1])
    for part in parts:
        (least,) = islice((count for count in counts if count >= part * num_samples - 1e-6), 1)
        assert least < part * num_samples + batch_size + 1e-6


@pytest.mark.parametrize("parts", [(0.0, 0.5), (0.5, 1.0), (0.5, 0.25), (0.5, 0.5), (-0.5,), (float("nan"),)])
def test_impossible_parts_are_errors(parts: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"^parts: got \[.*allowed are ascending numbers above 0 and below 1"):
        suite(parts=parts)


# -- what is looked at


def test_each_look_is_the_metrics_of_the_first_n_samples_done_by_hand() -> None:
    one = looks_suite()
    prompt = prompts()
    samples = generate(sample_noise(3, range(41), SHAPE), prompt.text[:41], prompt.text_mask[:41])
    looks = list(one.looks(generate))
    assert tuple(look.num_samples for look in looks) == one.counts == COUNTS
    for look in looks:
        assert torch.equal(look.images, samples[: look.num_samples])
        for spec in one.specs:
            direct = one.reference[spec.name].distance(one.extractors[spec.extractor](samples[: look.num_samples]))
            assert look.values[spec.name] == pytest.approx(direct, rel=1e-5)


def test_values_at_n_do_not_depend_on_what_was_looked_at_before() -> None:
    looks = list(looks_suite().looks(generate))
    for look in looks:
        alone = looks_suite(num_samples=look.num_samples, parts=()).evaluate(generate)
        assert look.values == pytest.approx(alone.values, rel=1e-9)
        assert torch.equal(look.images, alone.images)
    assert looks_suite().evaluate(generate).values == looks[-1].values


def test_a_metric_that_needs_more_samples_comes_at_a_later_look(with_frechet: MetricSuite) -> None:
    looks = list(with_frechet.looks(generate))
    assert [(look.num_samples, set(look.values)) for look in looks] == [
        (5, {"mmd_lite0"}),
        (25, {"mmd_lite0", "frechet_lite0_pc32"}),
        (41, {"mmd_lite0", "frechet_lite0_pc32"}),
    ]


def test_times_are_those_of_the_evaluation_so_far() -> None:
    looks = list(looks_suite().looks(generate))
    for before, after in pairwise(looks):
        assert 0 < before.sampling_s < after.sampling_s
        assert 0 < before.scoring_s < after.scoring_s


def test_first_images_are_kept_as_far_as_they_are_there() -> None:
    looks = list(looks_suite(num_kept=20).looks(generate))
    assert [len(look.images) for look in looks] == [8, 16, 20, 20]
    assert all(torch.equal(look.images, looks[-1].images[: len(look.images)]) for look in looks)


# -- lazy


def test_nothing_is_sampled_before_it_is_asked_for() -> None:
    counted = Counted()
    looks = looks_suite().looks(counted)
    assert len(counted.shapes) == 0
    for batches in (1, 2, 3, 6):
        next(looks)
        assert counted.shapes == [torch.Size([8, *SHAPE])] * batches
    assert list(looks) == []
    assert len(counted.shapes) == 6


def test_an_evaluation_that_was_left_does_not_touch_the_next() -> None:
    one = looks_suite()
    fresh = [look.values for look in looks_suite().looks(generate)]
    left = one.looks(generate)
    assert [next(left).values, next(left).values] == fresh[:2]
    assert [look.values for look in one.looks(generate)] == fresh
    assert [look.values for look in left] == fresh[2:]  # nor the next one it


def test_each_image_passes_each_network_once_over_all_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    one, rows = looks_suite(num_samples=40), []
    forward = FeatureExtractor.forward
    monkeypatch.setattr(
        FeatureExtractor, "forward", lambda self, image: rows.append(len(image)) or forward(self, image)
    )
    list(one.looks(generate))
    assert sum(rows) == 40 * len(one.extractors)


def test_a_sample_that_cannot_be_scored_ends_the_evaluation_at_its_look() -> None:
    one, counted = looks_suite(), Counted()
    looks = one.looks(counted)
    next(looks)
    with torch.no_grad():
        one.extractors[LITE0].network.body[0].bias[0] = float("nan")  # pyright: ignore
    with pytest.raises(FloatingPointError, match="'mmd_lite0'"):
        next(looks)
    assert list(looks) == []
    assert len(counted.shapes) == 2


# -- several workers


@pytest.mark.parametrize("world_size", [2, 3, 7])
@pytest.mark.parametrize("num_samples", [41, 48, 5])
def test_any_number_of_workers_gives_the_same_bits_at_every_look(world_size: int, num_samples: int) -> None:
    one = looks_suite(num_samples=num_samples)
    alone = list(one.looks(generate))

    def work(rank: int, gather: Callable[[Tensor], Tensor]) -> list[SuiteResult]:
        return list(one.looks(generate, rank=rank, world_size=world_size, gather=gather))

    for looks in as_workers(world_size, work):
        for look, expected in zip(looks, alone, strict=True):
            assert look.num_samples == expected.num_samples
            assert look.values == expected.values
            assert torch.equal(look.images, expected.images)


def test_frechet_distances_of_two_workers_have_the_same_bits(with_frechet: MetricSuite) -> None:
    alone = [look.values for look in with_frechet.looks(generate)]

    def work(rank: int, gather: Callable[[Tensor], Tensor]) -> list[dict[str, float]]:
        return [look.values for look in with_frechet.looks(generate, rank=rank, world_size=2, gather=gather)]

    assert as_workers(2, work) == [alone, alone]


def test_workers_make_batches_in_turns_and_none_twice_on_the_way() -> None:
    one, counted = looks_suite(num_samples=80), [Counted() for _ in range(3)]
    assert one.counts == (8, 24, 40, 80)  # 1, 3, 5 and 10 batches
    turns: list[list[int]] = [[], [], []]

    def work(rank: int, gather: Callable[[Tensor], Tensor]) -> None:
        for _ in one.looks(counted[rank], rank=rank, world_size=3, gather=gather):
            turns[rank].append(len(counted[rank].shapes))

    as_workers(3, work)
    # The batches that the second and third worker made in the first turn are the ones that the second look needs.
    assert turns == [[1, 1, 2, 4]] * 3
    assert {shape for one in counted for shape in one.shapes} == {torch.Size([8, *SHAPE])}


def test_workers_that_stop_after_the_same_look_are_ready_for_the_next_evaluation() -> None:
    one = looks_suite()
    expected = [look.values for look in one.looks(generate)]

    def work(rank: int, gather: Callable[[Tensor], Tensor]) -> list[dict[str, float]]:
        assert next(one.looks(generate, rank=rank, world_size=2, gather=gather)).values == expected[0]
        return [look.values for look in one.looks(generate, rank=rank, world_size=2, gather=gather)]

    assert as_workers(2, work) == [expected, expected]
