from __future__ import annotations

import math

import pytest
import torch

from prx_model.model import PRX
from prx_model.sampling import SamplerConfig, euler, pixels_to_images, sample
from tests.models import random_batch, randomised


def test_euler_follows_an_analytic_field():
    # dx/dt = x has the solution x(0) = x(1) / e; n Euler steps give exactly x(1) (1 - 1/n)^n.
    start = torch.tensor([[2.0]], dtype=torch.float64)
    for steps in (1, 8, 1000):
        got = euler(lambda x, _t: x, start, SamplerConfig(steps=steps).times())
        assert got.item() == pytest.approx(2 * (1 - 1 / steps) ** steps, rel=1e-12)
    assert got.item() == pytest.approx(2 / math.e, rel=1e-3)


def test_euler_is_exact_on_a_straight_line():
    clean, noise = torch.randn(2, 4, 3, 2, 2, dtype=torch.float64)
    for shift in (1.0, 3.0):
        got = euler(lambda _x, _t: noise - clean, noise, SamplerConfig(steps=7, shift=shift).times())
        torch.testing.assert_close(got, clean, rtol=0, atol=1e-14)


def test_euler_integrates_time_in_the_right_direction():
    # dx/dt = 2t integrates from 1 to 0 to x - 1.
    got = euler(lambda x, t: torch.full_like(x, 2 * t), torch.zeros(1, 1), SamplerConfig(steps=2000).times())
    assert got.item() == pytest.approx(-1, abs=1e-3)


def test_times_run_from_noise_to_data():
    times = SamplerConfig(steps=4, shift=3.0).times()
    assert (times[0], times[-1]) == (1.0, 0.0)
    assert times == sorted(times, reverse=True)
    assert times[2] == pytest.approx(0.75)


@pytest.mark.parametrize("change", [{"steps": 0}, {"guidance": 0.5}, {"shift": 0}, {"precision": "fp16"}])
def test_impossible_samplers_are_refused(change):
    with pytest.raises(ValueError, match="allowed"):
        SamplerConfig(**change)


def test_guidance_in_one_batch_equals_two_forwards(tiny):
    model = randomised(PRX(tiny))
    batch = random_batch(tiny)
    null_text = torch.randn(2, tiny.context_in_dim)
    config = SamplerConfig(steps=3, guidance=3.5)
    got = sample(model, batch.clean, batch.text, batch.text_mask, null_text=null_text, config=config)
    null = null_text.expand(4, 2, -1)
    mask = torch.ones(4, 2, dtype=torch.bool)

    def guided(x, t):
        time = torch.full((4,), t)
        empty = model(x, time, null, mask).velocity
        return empty + 3.5 * (model(x, time, batch.text, batch.text_mask).velocity - empty)

    with torch.no_grad():
        expected = euler(guided, batch.clean, config.times())
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("guidance", [1.0, 3.5])
def test_in_bf16_the_model_alone_is_rounded(tiny, guidance):
    model = randomised(PRX(tiny))
    batch = random_batch(tiny)
    null_text = torch.randn(2, tiny.context_in_dim)

    def sampled(precision):
        config = SamplerConfig(steps=3, guidance=guidance, precision=precision)
        return sample(model, batch.clean, batch.text, batch.text_mask, null_text=null_text, config=config)

    padded_null = torch.zeros_like(batch.text)
    padded_null[:, :2] = null_text
    texts = torch.cat([batch.text, padded_null])
    masks = torch.cat([batch.text_mask, torch.arange(5).expand(4, 5) < 2])

    def guided(x, t):
        with torch.autocast("cpu", torch.bfloat16):
            both = model(torch.cat([x, x]), torch.full((8,), t), texts, masks).velocity.float()
        conditional, null = both.chunk(2)
        return null + guidance * (conditional - null)

    exact, rounded = sampled("fp32"), sampled("bf16")
    assert rounded.dtype == torch.float32
    with torch.no_grad():
        by_hand = euler(guided, batch.clean, SamplerConfig(steps=3).times())
    lost = (exact - rounded).abs().max()
    assert 0 < lost < 0.1 * exact.abs().max()
    assert (rounded - by_hand).abs().max() < 1e-3 * lost


def test_without_guidance_the_empty_caption_plays_no_part(tiny):
    model = randomised(PRX(tiny))
    batch = random_batch(tiny)
    results = [
        sample(
            model,
            batch.clean,
            batch.text,
            batch.text_mask,
            null_text=torch.randn(2, tiny.context_in_dim),
            config=SamplerConfig(steps=2, guidance=1.0),
        )
        for _ in range(2)
    ]
    assert torch.equal(*results)
    assert not results[0].requires_grad


def test_pixels_become_images():
    pixels = torch.tensor([-2.0, -1.0, 0.0, 0.5, 1.0, 3.0]).reshape(1, 1, 1, 6).expand(1, 3, 1, 6)
    square = pixels.expand(1, 3, 6, 6)
    assert pixels_to_images(square)[0, 0, 0].tolist() == [0, 0, 128, 191, 255, 255]
