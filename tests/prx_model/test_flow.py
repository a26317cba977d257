from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prx_model.flow import TimestepLaw, clean_from_velocity, draw, noised_at, velocity_of


def test_velocity_round_trip_in_float64():
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 8, 3, 4, 4, generator=generator, dtype=torch.float64)
    t = torch.rand(8, generator=generator, dtype=torch.float64)
    noised, velocity = noised_at(clean, noise, t), velocity_of(clean, noise)
    torch.testing.assert_close(clean_from_velocity(noised, velocity, t), clean, rtol=0, atol=1e-14)
    torch.testing.assert_close(noised + (1 - t).reshape(-1, 1, 1, 1) * velocity, noise, rtol=0, atol=1e-14)


def test_velocity_is_the_derivative_of_the_path():
    clean, noise = torch.randn(2, 1, 3, 2, 2, dtype=torch.float64)
    t, h = torch.tensor([0.4], dtype=torch.float64), 1e-6
    slope = (noised_at(clean, noise, t + h) - noised_at(clean, noise, t - h)) / (2 * h)
    torch.testing.assert_close(slope, velocity_of(clean, noise), rtol=1e-6, atol=1e-8)


def test_the_ends_of_the_path():
    clean, noise = torch.randn(2, 2, 3, 2, 2)
    assert torch.equal(noised_at(clean, noise, torch.zeros(2)), clean)
    assert torch.equal(noised_at(clean, noise, torch.ones(2)), noise)


def _by_rejection(law: TimestepLaw, count: int) -> torch.Tensor:
    """The law as its source states it: draw, shift, throw away what falls outside, mix with uniform."""
    generator = torch.Generator().manual_seed(1)
    u = torch.sigmoid(law.mean + law.std * torch.randn(count * 20, generator=generator, dtype=torch.float64))
    t = law.shift * u / (1 + (law.shift - 1) * u)
    t = t[(t >= law.min_t) & (t < law.max_t)][:count]
    assert len(t) == count
    uniform = law.min_t + torch.rand(count, generator=generator, dtype=torch.float64) * (law.max_t - law.min_t)
    return torch.where(torch.rand(count, generator=generator) < law.uniform_probability, uniform, t)


@pytest.mark.parametrize(
    "law",
    [
        TimestepLaw(),
        TimestepLaw(shift=3.0),
        TimestepLaw(mean=-0.5, std=2.0, min_t=0.1, max_t=0.8),
        TimestepLaw(uniform_probability=1.0),
        TimestepLaw(uniform_probability=0.0, min_t=0.0),
    ],
)
def test_timesteps_follow_the_law(law):
    count = 40_000
    ours = law.sample(count, torch.Generator().manual_seed(0)).double().sort().values
    expected = _by_rejection(law, count).sort().values
    # Two-sample Kolmogorov-Smirnov distance: above 0.0137 would happen by chance once in a thousand.
    both = torch.cat([ours, expected]).sort().values
    gap = torch.searchsorted(ours, both, right=True) - torch.searchsorted(expected, both, right=True)
    assert gap.abs().max() / count < 0.0137


@settings(max_examples=60, deadline=None)
@given(
    mean=st.floats(-3, 3),
    std=st.floats(0.1, 4),
    shift=st.floats(0.2, 8),
    low=st.floats(0, 0.45),
    high=st.floats(0.55, 1),
    seed=st.integers(0, 2**31),
)
def test_timesteps_stay_inside(mean, std, shift, low, high, seed):
    law = TimestepLaw(mean=mean, std=std, shift=shift, min_t=low, max_t=high)
    t = law.sample(256, torch.Generator().manual_seed(seed))
    assert torch.isfinite(t).all()
    assert (t >= torch.tensor(low)).all()
    assert (t < torch.tensor(high)).all()


@pytest.mark.parametrize(
    "change", [{"std": 0}, {"shift": -1}, {"min_t": 0.9, "max_t": 0.1}, {"max_t": 1.1}, {"uniform_probability": 1.5}]
)
def test_impossible_laws_are_refused(change):
    with pytest.raises(ValueError, match="allowed"):
        TimestepLaw(**change)


SHAPE = (16, 3, 16, 16)


def test_draws_are_a_function_of_seed_and_step_alone():
    kwargs = {"caption_dropout": 0.5, "seed": 3}
    first, again = (draw(SHAPE, TimestepLaw(), step=5, **kwargs) for _ in range(2))
    assert torch.equal(first.noise, again.noise)
    assert torch.equal(first.t, again.t)
    assert torch.equal(first.drop_caption, again.drop_caption)
    for changed in ({"seed": 3, "step": 6}, {"seed": 4, "step": 5}):
        other = draw(SHAPE, TimestepLaw(), caption_dropout=0.5, **changed)
        assert not torch.equal(first.noise, other.noise)
        assert not torch.equal(first.t, other.t)


def test_captions_are_dropped_at_the_stated_rate():
    dropped = [draw(SHAPE, TimestepLaw(), caption_dropout=0.1, seed=0, step=s).drop_caption for s in range(400)]
    share = torch.stack(dropped).float().mean().item()
    assert abs(share - 0.1) < 4 * (0.09 / 6400) ** 0.5
    assert not draw(SHAPE, TimestepLaw(), caption_dropout=0.0, seed=0, step=0).drop_caption.any()
    assert draw(SHAPE, TimestepLaw(), caption_dropout=1.0, seed=0, step=0).drop_caption.all()
