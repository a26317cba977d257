"""MMD: against a double loop over the definition, and the statistics that tell its two forms apart."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prx_model.metrics import mmd as module
from prx_model.metrics.mmd import ReferenceKernel, mmd, unit_vectors


def points(seed: int, n: int, width: int = 3) -> Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_double_loop(x: Tensor, y: Tensor, sigma: float, unbiased: bool) -> float:
    def k(a: Tensor, b: Tensor) -> float:
        return math.exp(-float((a - b).square().sum()) / (2 * sigma**2))

    def within(z: Tensor) -> float:
        pairs = [k(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if not (unbiased and i == j)]
        return sum(pairs) / len(pairs)

    between = [k(a, b) for a in x for b in y]
    return within(x) + within(y) - 2 * sum(between) / len(between)


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("sigma", [0.5, 10.0])
def test_equals_a_double_loop_over_the_definition(sigma: float, unbiased: bool) -> None:
    x, y = points(0, 13), points(1, 17) * 1.3 + 0.2
    assert mmd(x, y, sigma, unbiased) == pytest.approx(by_double_loop(x, y, sigma, unbiased), rel=1e-9)


@pytest.mark.parametrize("unbiased", [False, True])
def test_blocks_of_the_kernel_matrix_add_up(monkeypatch: pytest.MonkeyPatch, unbiased: bool) -> None:
    x, y = points(0, 23), points(1, 31)
    whole = mmd(x, y, 1.0, unbiased)
    monkeypatch.setattr(module, "BLOCK_ROWS", 7)
    assert mmd(x, y, 1.0, unbiased) == pytest.approx(whole, rel=1e-12)


def test_cmmd_of_opposite_unit_vectors_has_its_closed_form() -> None:
    x, y = torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.0]])
    assert 1000 * mmd(x, y, 10.0, unbiased=False) == pytest.approx(1000 * (2 - 2 * math.exp(-4 / 200)), rel=1e-12)


def test_unbiased_is_zero_on_average_between_halves_and_biased_has_the_stated_floor() -> None:
    unbiased, biased, n = [], [], 20
    for seed in range(300):
        x, y = points(seed, 2 * n).split(n)
        unbiased.append(mmd(x, y, 1.0, unbiased=True))
        biased.append(mmd(x, y, 1.0, unbiased=False))
    spread = torch.tensor(unbiased).std() / math.sqrt(len(unbiased))
    assert abs(sum(unbiased) / len(unbiased)) < 4 * spread
    assert min(unbiased) < 0 < max(unbiased)
    assert min(biased) > 0
    # E k between two standard normals of width 3 is (1 + 2 / sigma^2)^(-3/2).
    floor = (1 - 3**-1.5) * (2 / n)
    assert sum(biased) / len(biased) == pytest.approx(floor, rel=0.03)


def test_unbiased_does_not_move_with_the_number_of_samples_but_biased_does() -> None:
    def mean(n: int, unbiased: bool) -> float:
        runs = [mmd(points(2 * s, n), points(2 * s + 1, n) + 0.5, 1.0, unbiased) for s in range(200)]
        return sum(runs) / len(runs)

    assert mean(10, True) == pytest.approx(mean(60, True), abs=0.01)
    assert mean(10, False) > mean(60, False) + 0.1


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), unbiased=st.booleans(), shift=st.floats(-5, 5))
def test_symmetric_and_blind_to_a_common_shift_and_to_order(seed: int, unbiased: bool, shift: float) -> None:
    x, y = points(seed, 6), points(seed + 1, 9)
    value = mmd(x, y, 1.0, unbiased)
    assert mmd(y, x, 1.0, unbiased) == pytest.approx(value, abs=1e-12)
    assert mmd(x + shift, y + shift, 1.0, unbiased) == pytest.approx(value, abs=1e-10)
    assert mmd(x.flip(0), y, 1.0, unbiased) == pytest.approx(value, abs=1e-12)


def test_a_set_has_no_biased_distance_to_itself() -> None:
    assert mmd(points(0, 20), points(0, 20), 1.0, unbiased=False) == pytest.approx(0, abs=1e-14)


def test_kept_reference_gives_the_same_as_both_sets_together() -> None:
    reference = ReferenceKernel.fit(points(0, 20), sigma=0.7, unbiased=True)
    for seed in (1, 2):
        assert reference.distance(points(seed, 10)) == mmd(points(seed, 10), points(0, 20), 0.7, unbiased=True)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    unbiased=st.booleans(),
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=6),
    block_rows=st.integers(1, 12),
)
def test_a_growing_set_has_the_distance_of_its_whole_at_every_size(
    seed: int, unbiased: bool, sizes: list[int], block_rows: int
) -> None:
    reference = ReferenceKernel.fit(points(seed + 1, 20) + 0.5, sigma=0.7, unbiased=unbiased)
    x, running, n = points(seed, sum(sizes)), reference.running(), 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_ROWS", block_rows)
        for block in x.split(sizes):
            n += len(block)
            running.add(block)
            assert running.num_samples == n
            if n > 1:
                expected = by_double_loop(x[:n], reference.features, 0.7, unbiased)
                assert running.value() == pytest.approx(expected, rel=1e-9, abs=1e-12)
                assert running.value() == pytest.approx(reference.distance(x[:n]), rel=1e-9, abs=1e-14)


def test_a_growing_set_costs_each_pair_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = []
    monkeypatch.setattr(module, "kernel_sum", lambda x, y, sigma: pairs.append(len(x) * len(y)) or 0.0)
    reference = ReferenceKernel(features=points(0, 30), sigma=1.0, unbiased=True, mean_within=0.5)
    running = reference.running()
    for block in points(1, 16).split([4, 12]):
        running.add(block).value()
    assert sum(pairs) == 16 * 30 + 4 * 4 + 12 * 4 + 12 * 12


def test_a_growing_set_that_is_too_small_has_no_value_yet() -> None:
    running = ReferenceKernel.fit(points(0, 20), sigma=0.7, unbiased=True).running()
    with pytest.raises(ValueError, match="0 generated samples"):
        running.value()
    with pytest.raises(ValueError, match="1 generated samples"):
        running.add(points(1, 1)).value()
    with pytest.raises(ValueError, match=r"expected \[n, 3\]"):
        running.add(points(1, 5, width=4))
    assert running.add(points(2, 1)).num_samples == 2


def test_float32_features_are_compared_in_float64() -> None:
    x, y = unit_vectors(points(0, 50, 8).float()), unit_vectors(points(1, 60, 8).float())
    # With sigma 10 the kernel of unit vectors is 1 to within 0.02: float32 would leave three digits of the distance.
    assert mmd(x, y, 10.0, unbiased=True) == pytest.approx(by_double_loop(x, y, 10.0, True), rel=1e-8)


def test_unit_vectors_have_length_one_and_refuse_zeros() -> None:
    torch.testing.assert_close(unit_vectors(points(0, 5).float()).norm(dim=1), torch.ones(5, dtype=torch.float64))
    with pytest.raises(FloatingPointError, match="length 0"):
        unit_vectors(torch.zeros(2, 3))


def test_impossible_settings_are_errors() -> None:
    with pytest.raises(ValueError, match="sigma 0"):
        mmd(points(0, 5), points(1, 5), 0.0, unbiased=True)
    with pytest.raises(ValueError, match=r"1 generated samples.*2 or more"):
        mmd(points(0, 1), points(1, 5), 1.0, unbiased=True)
    with pytest.raises(ValueError, match=r"expected \[n, 3\]"):
        ReferenceKernel.fit(points(1, 5), sigma=1.0, unbiased=True).distance(points(0, 5, width=4))
