from __future__ import annotations

import pytest
import torch

from prx_model.flow import TimestepLaw, draw, noised_at
from prx_model.model import PRX
from prx_model.objective import TrainingObjective
from prx_model.repa import RepaConfig, alignment_loss, build_projector
from tests.models import random_batch, randomised

TEACHER_WIDTH = 6


def _objective(config, *, depth=1, projector="mlp", weight=0.5) -> TrainingObjective:
    repa = RepaConfig(teacher="any", depth=depth, weight=weight, projector=projector, projector_width=16)
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


def test_schedule():
    constant = RepaConfig(teacher="any", depth=1, weight=0.7)
    stop = RepaConfig(teacher="any", depth=1, weight=0.7, schedule="stop", stop_at=0.4)
    assert [constant.weight_at(s, 10) for s in (0, 9)] == [0.7, 0.7]
    assert [stop.weight_at(s, 10) for s in (0, 3, 4, 9)] == [0.7, 0.7, 0.0, 0.0]


@pytest.mark.parametrize(
    "change",
    [
        {"depth": 0},
        {"weight": 0.0},
        {"weight": -1.0},
        {"weight": float("nan")},
        {"weight": float("inf")},
        {"projector": "linear"},
        {"schedule": "cosine"},
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
