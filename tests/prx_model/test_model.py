from __future__ import annotations

import json

import pytest
import torch
from diffusers.models.transformers.transformer_prx import PRXTransformer2DModel

from prx_model.model import MODELS, PRX, PRXConfig, count_parameters
from tests.models import random_batch, randomised, untouched


def _forward_both(model: PRX, side: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    batch = random_batch(model.config, side=side)
    t = torch.tensor([0.0, 0.3, 0.7, 1.0])
    with torch.no_grad():
        ours = model(batch.clean, t, batch.text, batch.text_mask).velocity
        theirs = untouched(model)(batch.clean, t, batch.text, batch.text_mask, return_dict=False)[0]
    return ours, theirs


@pytest.mark.parametrize("side", [8, 16, 24])
def test_forward_equals_diffusers_on_random_weights(tiny, side):
    ours, theirs = _forward_both(randomised(PRX(tiny)), side)
    assert theirs.std() > 0.01
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_the_tap_leaves_the_forward_as_it_is(tiny):
    model = randomised(PRX(tiny))
    batch = random_batch(tiny)
    t = torch.rand(4)
    with torch.no_grad():
        expected = untouched(model)(batch.clean, t, batch.text, batch.text_mask).sample
        got = model(batch.clean, t, batch.text, batch.text_mask, tap_depth=1).velocity
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_one_model_serves_several_resolutions_in_turn(tiny):
    model = randomised(PRX(tiny))
    for side in (16, 8, 16):
        ours, theirs = _forward_both(model, side)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_untrained_model_predicts_zero_velocity(tiny):
    ours, _ = _forward_both(PRX(tiny))
    assert torch.equal(ours, torch.zeros_like(ours))


@pytest.mark.parametrize("depth", [1, 2])
def test_hidden_is_the_output_of_the_block_at_that_depth(tiny, depth):
    model = randomised(PRX(tiny))
    seen = []
    model.transformer.blocks[depth - 1].register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    batch = random_batch(tiny)
    with torch.no_grad():
        output = model(batch.clean, torch.rand(4), batch.text, batch.text_mask, tap_depth=depth)
    assert output.hidden.shape == (4, 16, 32)
    assert torch.equal(output.hidden, seen[0])


@pytest.mark.parametrize("depth", [0, 3, -1])
def test_depth_outside_the_blocks_is_refused(tiny, depth):
    batch = random_batch(tiny)
    with pytest.raises(ValueError, match="allowed is 1 to 2"):
        PRX(tiny)(batch.clean, torch.rand(4), batch.text, batch.text_mask, tap_depth=depth)


def test_padding_does_not_reach_the_output(tiny):
    model = randomised(PRX(tiny))
    batch = random_batch(tiny)
    other = torch.where(batch.text_mask[..., None], batch.text, torch.full_like(batch.text, 7.0))
    t = torch.rand(4)
    with torch.no_grad():
        expected = model(batch.clean, t, batch.text, batch.text_mask).velocity
        got = model(batch.clean, t, other, batch.text_mask).velocity
    torch.testing.assert_close(got, expected)


def test_saved_model_loads_with_diffusers_and_with_us(tiny, tmp_path):
    model = randomised(PRX(tiny))
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["_class_name"] == "PRXTransformer2DModel"
    theirs = PRXTransformer2DModel.from_pretrained(tmp_path)
    ours = PRX.from_pretrained(tmp_path)
    assert ours.config == tiny
    for name, weight in model.transformer.state_dict().items():
        assert torch.equal(theirs.state_dict()[name], weight), name
        assert torch.equal(ours.transformer.state_dict()[name], weight), name
    got, expected = _forward_both(ours)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_the_published_size():
    assert count_parameters(MODELS["prx_1b"]) == 1_170_691_648


@pytest.mark.parametrize("name", list(MODELS))
def test_every_named_model_can_be_built(name):
    assert count_parameters(MODELS[name]) > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 0}, "depth: got 0"),
        ({"depth": 10**400}, "depth: got more than 10000"),
        ({"hidden_size": 100, "num_heads": 3}, "multiple of 12"),
        ({"mlp_ratio": 0}, "mlp_ratio: got 0"),
    ],
)
def test_impossible_architectures_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        PRXConfig(**change)
