from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.models.transformers.transformer_prx import apply_rope, get_image_ids
from torch import Tensor, nn

from prx_model.attention import _turned_as_reals, phases_of, turned
from prx_model.model import PRX, PRXConfig
from prx_model.sampling import SamplerConfig, sample
from tests.models import random_batch, randomised, untouched


def _gradients(module: nn.Module, velocity: Tensor) -> dict[str, Tensor]:
    module.zero_grad()
    velocity.square().sum().backward()
    return {name: parameter.grad for name, parameter in module.named_parameters() if parameter.grad is not None}


def test_gradients_equal_those_of_diffusers(tiny: PRXConfig):
    model = randomised(PRX(tiny))
    theirs = untouched(model)
    batch, t = random_batch(tiny), torch.rand(4)
    expected = _gradients(theirs, theirs(batch.clean, t, batch.text, batch.text_mask).sample)
    got = _gradients(model.transformer, model(batch.clean, t, batch.text, batch.text_mask).velocity)
    assert got.keys() == expected.keys() == dict(theirs.named_parameters()).keys()
    for name in expected:
        assert expected[name].abs().max() > 0, name
        torch.testing.assert_close(got[name], expected[name], rtol=1e-4, atol=1e-5 * expected[name].abs().max().item())


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_forward_equals_diffusers_in_bf16(tiny: PRXConfig, weights: torch.dtype, autocast: bool):
    model = randomised(PRX(tiny))
    theirs = untouched(model).to(weights)
    model.to(weights)
    batch, t = random_batch(tiny), torch.rand(4)
    clean, text = batch.clean.to(weights), batch.text.to(weights)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        expected = theirs(clean, t, text, batch.text_mask).sample
        got = model(clean, t, text, batch.text_mask).velocity
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


@pytest.mark.parametrize("masked", [True, False])
def test_diffusers_own_forward_runs_on_our_attention(tiny: PRXConfig, masked: bool):
    model = randomised(PRX(tiny))
    batch, t = random_batch(tiny), torch.rand(4)
    inputs: tuple[Any, ...] = (batch.clean, t, batch.text, batch.text_mask if masked else None)
    with torch.no_grad():
        expected, got = untouched(model)(*inputs).sample, model.transformer(*inputs).sample
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_pairs_are_turned_as_diffusers_turns_them(tiny: PRXConfig):
    table = PRX(tiny).transformer.pe_embedder(get_image_ids(1, 8, 12, 4, torch.device("cpu")))
    tokens = torch.randn(2, 6, tiny.num_heads, 16)
    expected = apply_rope(tokens.transpose(1, 2), table).transpose(1, 2)
    phases = phases_of(table)
    got, as_reals = turned(tokens, phases), _turned_as_reals(tokens.unflatten(-1, (-1, 2)), phases)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(as_reals, expected)
    assert not torch.equal(got, tokens)


def test_projected_text_serves_every_image_and_time(tiny: PRXConfig):
    model = randomised(PRX(tiny))
    batch = random_batch(tiny)
    with torch.no_grad():
        keys = model.project_text(batch.text)
        for seed in range(3):
            noised, t = torch.randn(batch.clean.shape), torch.full((4,), seed / 3)
            expected = model(noised, t, batch.text, batch.text_mask, tap_depth=1)
            got = model(noised, t, keys, batch.text_mask, tap_depth=1)
            torch.testing.assert_close(got.velocity, expected.velocity, rtol=0, atol=0)
            torch.testing.assert_close(got.hidden, expected.hidden, rtol=0, atol=0)


def test_the_sampler_projects_the_text_once(tiny: PRXConfig):
    model = randomised(PRX(tiny))
    calls = []
    for module in (model.transformer.txt_in, *(block.attention.txt_kv_proj for block in model.transformer.blocks)):
        module.register_forward_hook(lambda *_: calls.append(1))
    batch = random_batch(tiny)
    for guidance in (1.0, 2.0):
        calls.clear()
        config = SamplerConfig(steps=5, guidance=guidance)
        sample(model, batch.clean, batch.text, batch.text_mask, null_text=batch.text[0, :1], config=config)
        assert len(calls) == 1 + tiny.depth


def test_a_model_made_around_a_diffusers_module_attends_alike(tiny: PRXConfig):
    theirs = untouched(randomised(PRX(tiny)))
    batch, t = random_batch(tiny), torch.rand(4)
    with torch.no_grad():
        expected = theirs(batch.clean, t, batch.text, batch.text_mask).sample
        got = PRX.around(theirs)(batch.clean, t, batch.text, batch.text_mask).velocity
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
