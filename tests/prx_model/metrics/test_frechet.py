"""Frechet distance: against scipy's matrix root, closed forms of Gaussians, and its own symmetries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg
from torch import Tensor, nn

from prx_model.metrics.frechet import FrechetDistance, PrincipalDirections, ReferenceMoments, covariance


def gaussian(seed: int, n: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=generator, dtype=torch.float64)
    return torch.randn(n, width, generator=generator, dtype=torch.float64) @ mix + mix[0]


def frechet(reference: Tensor, features: Tensor) -> float:
    distance = FrechetDistance(reference.shape[1])
    distance.fit(reference)
    return distance.distance(features)


def by_scipy(x: Tensor, y: Tensor) -> float:
    """The definition, with NumPy's moments and scipy's matrix square root."""
    first, second = x.numpy(), y.numpy()
    s1, s2 = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    gap = first.mean(axis=0) - second.mean(axis=0)
    return float(gap @ gap + np.trace(s1 + s2 - 2 * np.real(linalg.sqrtm(s1 @ s2))))


def with_moments(x: Tensor, mean: Tensor, root: Tensor) -> Tensor:
    """x moved and turned so that its mean is `mean` and its unbiased covariance is root @ root.T, exactly."""
    centred = x - x.mean(dim=0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance(centred)), centred.T, upper=False).T
    return white @ root.T + mean


@pytest.mark.parametrize(("n", "m", "width"), [(50, 40, 3), (300, 200, 24), (500, 700, 64)])
def test_equals_the_definition_computed_by_scipy(n: int, m: int, width: int) -> None:
    x, y = gaussian(0, n, width), gaussian(1, m, width)
    assert frechet(x, y) == pytest.approx(by_scipy(x, y), rel=1e-6)


def test_features_in_float32_lose_nothing_to_sums_in_float32() -> None:
    # A common offset of 100 would leave float32 sums of squares without a digit of the variance.
    x, y = (gaussian(0, 400, 8) + 100).float(), (gaussian(1, 400, 8) + 100).float()
    assert frechet(x, y) == pytest.approx(by_scipy(x.double(), y.double()), rel=1e-6)


def test_diagonal_gaussians_have_the_closed_form() -> None:
    mean = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    std_x, std_y = (torch.tensor(s, dtype=torch.float64) for s in ([1.0, 2.0, 0.1, 5.0], [3.0, 1.0, 0.4, 5.0]))
    x = with_moments(gaussian(2, 30, 4), mean, torch.diag(std_x))
    y = with_moments(gaussian(3, 50, 4), torch.zeros(4, dtype=torch.float64), torch.diag(std_y))
    # For commuting covariances the distance is |m1 - m2|^2 + |s1 - s2|^2: 14.25 + (4 + 1 + 0.09 + 0).
    assert frechet(x, y) == pytest.approx(19.34, rel=1e-9)


def test_samples_of_known_gaussians_come_close_to_the_closed_form() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60_000, 3, generator=generator, dtype=torch.float64) * 2
    y = torch.randn(60_000, 3, generator=generator, dtype=torch.float64) + 1
    assert frechet(x, y) == pytest.approx(3 * 1 + 3 * (2 - 1) ** 2, rel=0.02)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), width=st.integers(1, 6), extra=st.integers(3, 20))
def test_is_symmetric_and_zero_on_a_set_and_itself(seed: int, width: int, extra: int) -> None:
    x, y = gaussian(seed, width + extra, width), gaussian(seed + 1, width + extra + 5, width)
    size = float(covariance(x).trace() + covariance(y).trace())
    assert frechet(x, y) == pytest.approx(frechet(y, x), rel=1e-6, abs=1e-6 * size)
    assert frechet(x, x) == pytest.approx(0, abs=1e-6 * size)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), shift=st.floats(-10, 10))
def test_moving_both_changes_nothing_and_moving_one_adds_the_square(seed: int, shift: float) -> None:
    x = gaussian(seed, 40, 4)
    y = gaussian(seed + 1, 30, 4)
    before = frechet(x, y)
    assert frechet(x + shift, y + shift) == pytest.approx(before, rel=1e-6, abs=1e-6)
    # A set and the same set moved differ in the mean alone.
    assert frechet(x, x + shift) == pytest.approx(4 * shift**2, rel=1e-6, abs=1e-5)


def test_order_and_rotation_change_nothing() -> None:
    x, y = gaussian(0, 60, 5), gaussian(1, 70, 5)
    rotation = torch.linalg.qr(gaussian(2, 5, 5)).Q
    assert frechet(x, y.flip(0)) == pytest.approx(frechet(x, y), rel=1e-9)
    assert frechet(x @ rotation, y @ rotation) == pytest.approx(frechet(x, y), rel=1e-9)


def test_moments_fitted_before_give_the_same_distance() -> None:
    x, y = gaussian(0, 50, 4), gaussian(1, 60, 4)
    moments = ReferenceMoments.fit(x)
    assert moments.num_samples == 50
    assert FrechetDistance(4, moments).distance(y) == frechet(x, y)


@given(seed=st.integers(0, 1000), sizes=st.lists(st.integers(1, 30), min_size=2, max_size=6))
def test_a_growing_set_has_the_distance_of_its_whole_at_every_size(seed: int, sizes: list[int]) -> None:
    x, distance = gaussian(seed + 1, 60, 4), FrechetDistance(4)
    distance.fit(x)
    y, running, n = gaussian(seed, sum(sizes) + 12, 4), distance.running(), 0
    for block in y.split([12, *sizes]):
        n += len(block)
        assert running.add(block).num_samples == n
        assert running.value() == pytest.approx(distance.distance(y[:n]), rel=1e-9)
    assert running.value() == pytest.approx(by_scipy(x, y), rel=1e-6)


def test_growing_sets_of_one_reference_do_not_mix() -> None:
    distance = FrechetDistance(4)
    distance.fit(gaussian(0, 60, 4))
    one, other = distance.running(), distance.running()
    with pytest.raises(ValueError, match="3 generated samples"):
        one.add(gaussian(1, 3, 4)).value()
    assert other.add(gaussian(2, 30, 4)).value() == distance.distance(gaussian(2, 30, 4))
    with pytest.raises(ValueError, match=r"\[n, 4\]"):
        one.add(gaussian(1, 20, 5))


@pytest.mark.parametrize(("n", "m", "of"), [(8, 30, "reference"), (30, 8, "generated")])
def test_no_more_samples_than_dimensions_is_an_error_with_both_numbers(n: int, m: int, of: str) -> None:
    with pytest.raises(ValueError, match=rf"8 {of} samples .* 8 dimensions.*principal directions"):
        frechet(gaussian(0, n, 8), gaussian(1, m, 8))


def test_one_sample_more_than_dimensions_will_do() -> None:
    assert np.isfinite(frechet(gaussian(0, 9, 8), gaussian(1, 9, 8)))


def test_other_widths_and_a_missing_reference_are_errors() -> None:
    with pytest.raises(ValueError, match=r"\[n, 4\]"):
        FrechetDistance(4).fit(gaussian(0, 20, 5))
    with pytest.raises(ValueError, match=r"fit\(\)"):
        FrechetDistance(4).distance(gaussian(0, 20, 4))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e80])
def test_numbers_that_would_end_the_process_in_lapack_are_errors(bad: float) -> None:
    x, y = gaussian(0, 50, 4), gaussian(1, 60, 4)
    y[7, 2] = bad
    for first, second in ((x, y), (y, x)):
        with pytest.raises(FloatingPointError, match="not finite, or above 1e"):
            frechet(first, second)
    with pytest.raises(FloatingPointError, match="not finite, or above 1e"):
        PrincipalDirections.fit(y, 2)
    at_the_limit = frechet(x, y.nan_to_num(0, 0, 0).clamp(-10, 10) * 1e59)
    assert np.isfinite(at_the_limit)


def by_torchmetrics(x: Tensor, y: Tensor) -> float:
    """torchmetrics' own accumulation and formula, on features that are there already."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Features(nn.Module):
        num_features = x.shape[1]

        def forward(self, features: Tensor) -> Tensor:
            return features

    metric = FrechetInceptionDistance(feature=Features(), normalize=False).set_dtype(torch.float64)
    metric.update(x, real=True)
    metric.update(y, real=False)
    return float(metric.compute())


def deep_features(seed: int, n: int, width: int, shift: float = 0.0) -> Tensor:
    """Like a network's pooled ones: at least 0, and with variances over six orders of magnitude."""
    generator = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(gaussian(99, width, width)).Q
    scale = torch.logspace(0, -3, width, dtype=torch.float64)
    return (torch.randn(n, width, generator=generator, dtype=torch.float64) * scale @ turn + shift).relu().float()


@pytest.mark.parametrize("n", [257, 400])  # one sample more than dimensions: many directions hardly vary
def test_features_of_a_wide_range_agree_with_scipy_and_torchmetrics(n: int) -> None:
    x, y = deep_features(0, n, 256), deep_features(1, n, 256, shift=0.01)
    assert frechet(x, y) == pytest.approx(by_scipy(x.double(), y.double()), rel=1e-4)
    assert frechet(x, y) == pytest.approx(by_torchmetrics(x, y), rel=1e-4)


def test_directions_in_which_nothing_varies_agree_with_torchmetrics() -> None:
    """scipy's root gives up on a singular matrix."""
    x, y = deep_features(0, 100, 32), deep_features(1, 90, 32, shift=0.1)
    x[:, 5:9] = 0  # dead units
    y[:, 7:12] = x[:5, 7:12].mean()
    assert frechet(x, y) == pytest.approx(by_torchmetrics(x, y), rel=1e-4)


def test_the_root_of_a_reference_is_found_once_and_only_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    eigh = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda matrix: found.append(len(matrix)) or eigh(matrix))
    distance = FrechetDistance(4)
    moments = distance.fit(gaussian(0, 60, 4))
    running = distance.running().add(gaussian(1, 30, 4))
    assert found == []
    running.value()
    distance.distance(gaussian(2, 30, 4))
    assert found == [4]
    torch.testing.assert_close(moments.root @ moments.root.T, moments.covariance)


def test_the_reference_is_white_in_its_principal_directions() -> None:
    reference = gaussian(0, 200, 20)
    white = PrincipalDirections.fit(reference, 6).project(reference)
    torch.testing.assert_close(white.mean(dim=0), torch.zeros(6, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(covariance(white), torch.eye(6, dtype=torch.float64), atol=1e-9, rtol=0)


def test_principal_directions_are_those_of_largest_variance() -> None:
    stds = torch.tensor([0.1, 5.0, 1.0, 20.0, 0.3], dtype=torch.float64)
    zero = torch.zeros(5, dtype=torch.float64)
    reference = with_moments(gaussian(0, 100, 5), zero, torch.diag(stds))
    projection = PrincipalDirections.fit(reference, 2).projection
    expected = torch.zeros(5, 2, dtype=torch.float64)
    expected[3, 0], expected[1, 1] = 1 / 20, 1 / 5  # the direction, divided by its standard deviation
    torch.testing.assert_close(projection.abs(), expected, atol=1e-9, rtol=0)


def test_whitened_distance_does_not_depend_on_the_units_of_features() -> None:
    def whitened(x: Tensor, y: Tensor) -> float:
        directions = PrincipalDirections.fit(x, 5)
        return frechet(directions.project(x), directions.project(y))

    x, y = gaussian(0, 200, 20), gaussian(1, 100, 20)
    assert whitened(x * 7 + 3, y * 7 + 3) == pytest.approx(whitened(x, y), rel=1e-7)


def test_too_many_principal_directions_are_errors() -> None:
    with pytest.raises(ValueError, match="1 to 4"):
        PrincipalDirections.fit(gaussian(0, 20, 4), 5)
    with pytest.raises(ValueError, match="12 dimensions"):
        PrincipalDirections.fit(gaussian(0, 12, 20), 12)
    flat = gaussian(0, 50, 6)
    flat[:, 2:] = flat[:, :1]
    with pytest.raises(ValueError, match="varies in 2 directions, 3 were asked for"):
        PrincipalDirections.fit(flat, 3)


def test_identical_reference_images_are_an_error_not_a_division_by_zero() -> None:
    with pytest.raises(ValueError, match="varies in 0 directions"):
        PrincipalDirections.fit(torch.ones(50, 6, dtype=torch.float64), 2)


def test_keeps_no_graph() -> None:
    x = gaussian(0, 30, 4).requires_grad_()
    moments = ReferenceMoments.fit(x)
    assert not moments.mean.requires_grad
    assert not moments.covariance.requires_grad
    assert not PrincipalDirections.fit(x, 2).projection.requires_grad
