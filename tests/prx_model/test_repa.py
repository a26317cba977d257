from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prx_model.flow import TimestepLaw, draw, noised_at
from prx_model.model import PRX
from prx_model.objective import TrainingObjective
from prx_model.repa import SCHEDULES, RepaConfig, alignment_loss, build_projector, spatially_normalised
from tests.models import random_batch, randomised

TEACHER_WIDTH = 6


def _objective(config, *, depth=1, projector="mlp", weight=0.5, spatial_norm=None) -> TrainingObjective:
    repa = RepaConfig(
        teacher="any",
        depth=depth,
        weight=weight,
        projector=projector,
        projector_width=16,
        spatial_norm=spatial_norm,
    )
    model = randomised(PRX(config))
    torch.manual_seed(0)
    return TrainingObjective(model, torch.randn(2, config.context_in_dim), repa=repa, teacher_width=TEACHER_WIDTH)


def _draws(batch, dropout=0.0):
    return draw(batch.clean.shape, TimestepLaw(), caption_dropout=dropout, seed=1, step=2)


def test_alignment_is_minus_the_mean_cosine():
    projected, tokens = torch.randn(2, 3, 5, 4, dtype=torch.float64).float()
    total = 0.0
    for image in range(3):
        for token in range(5):
            a, b = projected[image, token].double(), tokens[image, token].double()
            total += (a @ b / (a.norm() * b.norm())).item()
    assert alignment_loss(projected, tokens).item() == pytest.approx(-total / 15, abs=1e-6)
    assert alignment_loss(tokens * 3, tokens).item() == pytest.approx(-1, abs=1e-6)
    assert alignment_loss(-tokens, tokens).item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("projector", ["mlp", "conv3x3"])
def test_loss_equals_its_definition(tiny, projector):
    objective = _objective(tiny, projector=projector)
    batch = random_batch(tiny, teacher_width=TEACHER_WIDTH)
    draws = _draws(batch)
    terms = objective(batch, draws, 0.5)
    noised = noised_at(batch.clean, draws.noise, draws.t)
    output = objective.model(noised, draws.t, batch.text, batch.text_mask, tap_depth=1)
    flow = ((output.velocity - (draws.noise - batch.clean)) ** 2).mean()
    projected = objective.projector(output.hidden, (4, 4))
    cosine = (projected * batch.teacher_tokens).sum(-1) / (projected.norm(dim=-1) * batch.teacher_tokens.norm(dim=-1))
    torch.testing.assert_close(terms.flow, flow)
    torch.testing.assert_close(terms.repa, -cosine.mean())
    torch.testing.assert_close(terms.total, flow - 0.5 * cosine.mean())


@pytest.mark.parametrize("depth", [1, 2])
def test_alignment_reaches_blocks_up_to_its_depth_only(tiny, depth):
    objective = _objective(tiny, depth=depth)
    batch = random_batch(tiny, teacher_width=TEACHER_WIDTH)
    objective(batch, _draws(batch), 1.0).repa.backward()
    for number, block in enumerate(objective.model.transformer.blocks, start=1):
        moved = any(p.grad is not None and p.grad.abs().sum() > 0 for p in block.parameters())
        assert moved == (number <= depth), number
    assert all(p.grad is None for p in objective.model.transformer.final_layer.parameters())
    assert all(p.grad is not None for p in objective.projector.parameters())


def test_weight_zero_costs_nothing_and_equals_the_baseline(tiny):
    objective = _objective(tiny)
    baseline = TrainingObjective(objective.model, objective.null_text)
    batch = random_batch(tiny, teacher_width=TEACHER_WIDTH)
    stopped, plain = objective(batch, _draws(batch), 0.0), baseline(batch, _draws(batch))
    assert stopped.repa is None
    assert torch.equal(stopped.total, plain.total)


def test_projector_computes_in_fp32_under_autocast(tiny):
    objective = _objective(tiny)
    batch = random_batch(tiny, teacher_width=TEACHER_WIDTH)
    seen = []
    objective.projector.register_forward_hook(lambda _m, _i, output: seen.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        terms = objective(batch, _draws(batch), 0.5)
    assert seen == [torch.float32]
    assert terms.repa.dtype == torch.float32
    assert {p.dtype for p in objective.parameters()} == {torch.float32}


def test_conv_projector_sees_its_neighbours_and_mlp_does_not():
    hidden = torch.zeros(1, 16, 4)
    hidden[0, 5] = 1.0  # row 1, column 1 of a 4 x 4 grid
    torch.manual_seed(0)
    for name, reached in (("conv3x3", {0, 1, 2, 4, 5, 6, 8, 9, 10}), ("mlp", {5})):
        config = RepaConfig(teacher="any", depth=1, weight=1.0, projector=name, projector_width=8)
        projector = build_projector(config, hidden_size=4, teacher_width=3)
        change = projector(hidden, (4, 4)) - projector(torch.zeros_like(hidden), (4, 4))
        assert {i for i in range(16) if change[0, i].abs().sum() > 1e-7} == reached


def _scheduled(schedule: str, stop_at: float = 1.0) -> RepaConfig:
    return RepaConfig(teacher="any", depth=1, weight=0.7, schedule=schedule, stop_at=stop_at)


def test_schedules_are_what_they_are_called():
    def weights(schedule: str, stop_at: float) -> list[float]:
        return [_scheduled(schedule, stop_at).weight_at(step, 10) / 0.7 for step in range(10)]

    assert weights("constant", 0.4) == [1.0] * 10
    assert weights("stop", 0.4) == [1.0] * 4 + [0.0] * 6
    assert weights("linear", 0.4) == pytest.approx([1, 0.75, 0.5, 0.25] + [0.0] * 6)
    half = math.sqrt(2) / 4
    assert weights("cosine", 0.4) == pytest.approx([1, 0.5 + half, 0.5, 0.5 - half] + [0.0] * 6)
    assert weights("stop", 1.0) == [1.0] * 10


@given(
    schedule=st.sampled_from(SCHEDULES),
    stop_at=st.floats(0.001, 1),
    num_steps=st.integers(1, 300),
)
def test_weights_begin_in_full_never_rise_and_are_zero_from_the_stop_on(schedule, stop_at, num_steps):
    config = _scheduled(schedule, stop_at)
    weights = [config.weight_at(step, num_steps) for step in range(num_steps)]
    assert weights[0] == config.weight
    assert all(later <= earlier for earlier, later in pairwise(weights))
    for step, weight in enumerate(weights):
        assert (weight == 0) == (schedule != "constant" and step >= stop_at * num_steps), step
    if not config.ends_early:
        assert weights[-1] > 0


def test_weights_do_not_depend_on_the_length_of_the_run_but_for_its_scale():
    for schedule in SCHEDULES:
        config = _scheduled(schedule, 0.5)
        assert config.weight_at(250, 1000) == config.weight_at(25_000, 100_000)


@pytest.mark.parametrize("gamma", [0.0, 0.6, 1.0])
def test_spatial_norm_equals_its_definition(gamma):
    """By loops in float64; the spread is over an image's own tokens, N - 1 below, as in iREPA's code."""
    tokens = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0)) * 3 + 7
    normalised = spatially_normalised(tokens, gamma)
    assert normalised.dtype == torch.float32
    for image in range(3):
        for channel in range(4):
            values = tokens[image, :, channel].double().tolist()
            mean = sum(values) / 5
            std = math.sqrt(sum((value - mean) ** 2 for value in values) / 4)
            expected = [(value - gamma * mean) / (std + 1e-6) for value in values]
            assert normalised[image, :, channel].tolist() == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_spatial_norm_takes_out_what_all_places_share():
    tokens = torch.randn(2, 6, 4)
    shifted = tokens + 100 * torch.randn(2, 1, 4)
    torch.testing.assert_close(spatially_normalised(shifted, 1.0), spatially_normalised(tokens, 1.0), atol=1e-4, rtol=0)
    assert (spatially_normalised(shifted, 0.6) - spatially_normalised(tokens, 0.6)).abs().max() > 1
    # A channel that is the same everywhere has no spread, and no infinity comes of it.
    flat = torch.cat([tokens, torch.full((2, 6, 1), 3.0)], dim=-1)
    assert torch.equal(spatially_normalised(flat, 1.0)[..., -1], torch.zeros(2, 6))


def test_spatial_norm_needs_more_than_one_place():
    with pytest.raises(ValueError, match=r"^spatial_norm: got a grid of one token, allowed are two or more"):
        spatially_normalised(torch.randn(2, 1, 4), 0.6)


def test_spatial_norm_is_of_the_teachers_tokens_alone(tiny):
    plain, normed = _objective(tiny), _objective(tiny, spatial_norm=0.6)
    batch = random_batch(tiny, teacher_width=TEACHER_WIDTH)
    assert batch.teacher_tokens is not None
    by_hand = batch.with_teacher_tokens(spatially_normalised(batch.teacher_tokens, 0.6))
    draws = _draws(batch)
    assert torch.equal(normed(batch, draws, 0.5).total, plain(by_hand, draws, 0.5).total)
    assert not torch.equal(normed(batch, draws, 0.5).total, plain(batch, draws, 0.5).total)


@pytest.mark.parametrize("spatial_norm", [None, 0.6])
def test_no_gradient_goes_to_the_teacher(tiny, spatial_norm):
    """The model's gradient is the same whether or not the tokens could take one, and they are given none."""
    gradients = []
    for asks in (False, True):
        objective = _objective(tiny, spatial_norm=spatial_norm)
        batch = random_batch(tiny, teacher_width=TEACHER_WIDTH)
        assert batch.teacher_tokens is not None
        tokens = batch.teacher_tokens.requires_grad_(asks)
        objective(batch.with_teacher_tokens(tokens), _draws(batch), 1.0).total.backward()
        assert tokens.grad is None
        gradients.append([p.grad for p in objective.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert one is other is None or torch.equal(one, other)


@pytest.mark.parametrize(
    "change",
    [
        {"depth": 0},
        {"weight": 0.0},
        {"weight": -1.0},
        {"weight": float("nan")},
        {"weight": float("inf")},
        {"projector": "linear"},
        {"schedule": "exponential"},
        {"spatial_norm": -0.1},
        {"spatial_norm": 1.5},
        {"spatial_norm": float("nan")},
        {"teacher_precision": "fp16"},
        {"stop_at": 0.0},
        {"stop_at": 1.5},
        {"projector_width": 0},
    ],
)
def test_impossible_settings_are_refused(change):
    with pytest.raises(ValueError, match="allowed"):
        RepaConfig(**{"teacher": "any", "depth": 1, "weight": 0.5, **change})


def test_repa_without_teacher_tokens_says_what_is_missing(tiny):
    objective = _objective(tiny)
    batch = random_batch(tiny)
    with pytest.raises(ValueError, match="teacher_tokens"):
        objective(batch, _draws(batch), 0.5)


def test_dropped_captions_become_the_empty_caption(tiny):
    objective = _objective(tiny)
    batch = random_batch(tiny)
    draws = _draws(batch, dropout=0.5)
    assert 0 < draws.drop_caption.sum() < len(batch)
    text, mask = objective.drop_captions(batch, draws)
    for row, dropped in enumerate(draws.drop_caption):
        if dropped:
            assert torch.equal(text[row, :2], objective.null_text)
            assert not text[row, 2:].any()
            assert mask[row].tolist() == [True, True, False, False, False]
        else:
            assert torch.equal(text[row], batch.text[row])
            assert torch.equal(mask[row], batch.text_mask[row])
