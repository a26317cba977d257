"""AdamW for all, or Muon for the matrices; the learning rate over the run."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prx_model.repa import RepaConfig
from prx_model.training.config import TrainingConfig
from prx_model.training.optimizers import build_optimizer
from prx_model.training.state import TrainState
from tests.prx_model.training_runs import FAST, REPA, everything, objective_of, run, same

MUON = replace(FAST, optimizer="muon", warmup_steps=0, learning_rate=0.1, weight_decay=0.1, momentum=0.9, eps=1e-8)
CONV = RepaConfig(teacher="any", depth=1, weight=0.5, projector="conv3x3")


def _gradients(module: nn.Module, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def _orthogonalised(matrix: Tensor) -> Tensor:
    """Five of Muon's Newton-Schulz steps (Jordan et al., 2024), exact; torch takes them in bfloat16, as he does."""
    x = matrix.double()
    if wide := x.shape[0] > x.shape[1]:
        x = x.T
    x = x / x.norm()
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x.T if wide else x).float()


def _is_matrix(name: str, parameter: Tensor) -> bool:
    return parameter.ndim == 2 and name.startswith(("model.transformer.blocks.", "projector."))


def test_muon_takes_the_matrices_of_blocks_and_projector_and_adamw_the_rest():
    objective = objective_of()
    names = {id(parameter): name for name, parameter in objective.named_parameters()}
    optimizer = build_optimizer(objective, MUON)
    muon, adamw = ({names[id(parameter)] for parameter in group["params"]} for group in optimizer.param_groups)
    assert muon == {name for name, parameter in objective.named_parameters() if _is_matrix(name, parameter)}
    assert muon | adamw == set(names.values())
    assert not muon & adamw
    assert "model.transformer.blocks.1.attention.img_qkv_proj.weight" in muon
    assert "projector.layers.2.weight" in muon
    assert {"model.transformer.txt_in.weight", "model.transformer.final_layer.linear.weight"} <= adamw


def test_a_convolution_has_no_matrix_to_orthogonalise():
    objective = objective_of(CONV)
    assert objective.projector is not None
    adamw = build_optimizer(objective, MUON).param_groups[1]["params"]
    assert {id(parameter) for parameter in objective.projector.parameters()} <= set(map(id, adamw))


def test_two_steps_of_muon_are_its_definition():
    objective = objective_of()
    optimizer = build_optimizer(objective, MUON)
    before = {name: parameter.detach().clone() for name, parameter in objective.named_parameters()}
    expected, momentum = dict(before), dict.fromkeys(before, torch.zeros(()))
    for seed in range(2):
        _gradients(objective, seed)
        for name, parameter in objective.named_parameters():
            if not _is_matrix(name, parameter):
                continue
            assert parameter.grad is not None
            momentum[name] = 0.9 * momentum[name] + 0.1 * parameter.grad
            update = _orthogonalised(0.1 * parameter.grad + 0.9 * momentum[name])
            scale = 0.1 * 0.2 * math.sqrt(max(parameter.shape))
            expected[name] = expected[name] * (1 - 0.1 * 0.1) - scale * update
        optimizer.step()
    for name, parameter in objective.named_parameters():
        if _is_matrix(name, parameter):
            error = (parameter.detach() - expected[name]).norm() / (expected[name] - before[name]).norm()
            assert error < 0.03, name


def test_what_is_no_matrix_moves_as_adamw_moves_it():
    ours, theirs = objective_of(), objective_of()
    optimizer = build_optimizer(ours, MUON)
    plain = build_optimizer(theirs, replace(MUON, optimizer="adamw"))
    for seed in range(2):
        for objective, one in ((ours, optimizer), (theirs, plain)):
            _gradients(objective, seed)
            one.step()
    for (name, parameter), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(parameter, other) == (not _is_matrix(name, parameter)), name


def test_a_rate_moves_matrices_as_far_with_muon_as_with_adamw():
    """To a factor: 0.2 is what AdamW's updates have in long runs, 1 is what they have in the first step."""
    objective = objective_of()
    before = {name: parameter.detach().clone() for name, parameter in objective.named_parameters()}
    _gradients(objective)
    build_optimizer(objective, replace(MUON, weight_decay=0.0)).step()
    for name, parameter in objective.named_parameters():
        if _is_matrix(name, parameter):
            moved = (parameter.detach() - before[name]).square().mean().sqrt() / 0.1
            assert 0.1 < moved < 0.35, name


def test_muon_trains():
    config = replace(FAST, optimizer="muon", steps=60, eval_every_steps=20, learning_rate=3e-3)
    first, _, last = (evaluation.flow_loss for evaluation in run(TrainState(objective_of(fresh=True), config), config))
    assert last < first


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_loaded_optimizer_steps_as_the_saved_one(optimizer: str):
    config = replace(MUON, optimizer=optimizer)
    one, other = objective_of(), objective_of()
    saved, loaded = build_optimizer(one, config), build_optimizer(other, config)
    _gradients(one)
    saved.step()
    other.load_state_dict(one.state_dict())
    loaded.load_state_dict(copy.deepcopy(saved.state_dict()))
    assert same(loaded.state_dict(), saved.state_dict())
    for objective, stepped in ((one, saved), (other, loaded)):
        for group in stepped.param_groups:
            group["lr"] = 0.03
        _gradients(objective, seed=1)
        stepped.step()
    assert same(dict(other.state_dict()), dict(one.state_dict()))
    assert same(loaded.state_dict(), saved.state_dict())


def test_the_loop_sets_the_rate_of_both():
    config = replace(MUON, warmup_steps=3, eval_every_steps=1)
    state = TrainState(objective_of(), config)
    rates = [[group["lr"] for group in state.optimizer.param_groups] for _ in run(state, config)]
    assert rates[0] == [pytest.approx(0.1 / 3)] * 2
    assert rates[-1] == [pytest.approx(0.1)] * 2
    assert everything(state)["optimizer"]["state"]


# -- the rate over the run


def test_cosine_falls_from_the_end_of_the_warm_up_to_its_last_value_at_the_last_step():
    config = TrainingConfig(
        steps=14, eval_every_steps=14, warmup_steps=4, learning_rate=2.0, schedule="cosine", final_learning_rate=0.1
    )
    rates = [config.learning_rate_at(step) for step in range(14)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    assert rates[8] == pytest.approx(2.0 * 0.55)  # half of the way
    assert rates[13] == pytest.approx(0.2)
    assert all(late < early for early, late in pairwise(rates[3:]))
    fallen = [(2.0 - rate) / 1.8 for rate in rates[3:]]
    assert fallen == pytest.approx([math.sin(math.pi * k / 20) ** 2 for k in range(11)])


@pytest.mark.parametrize("warmup", [0, 1])
def test_cosine_without_a_warm_up_begins_at_the_full_rate(warmup: int):
    config = TrainingConfig(steps=11, eval_every_steps=11, warmup_steps=warmup, learning_rate=2.0, schedule="cosine")
    rates = [config.learning_rate_at(step) for step in range(11)]
    assert (rates[0], rates[5], rates[10]) == (2.0, pytest.approx(1.0), 0.0)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_run_shorter_than_its_warm_up_is_all_warm_up(schedule: str):
    config = TrainingConfig(steps=2, eval_every_steps=2, warmup_steps=4, learning_rate=2.0, schedule=schedule)
    assert [config.learning_rate_at(step) for step in range(2)] == [0.5, 1.0]


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": "sgd"},
        {"schedule": "linear"},
        {"parallel": "dp"},
        {"momentum": 1.0},
        {"final_learning_rate": 1.5},
        {"micro_batch_size": 0},
        {"checkpoint_every_min": 0.0},
        {"checkpoint_every_min": math.inf},
    ],
)
def test_impossible_settings_are_refused(change: dict[str, Any]):
    name = next(iter(change))
    with pytest.raises(ValueError, match=rf"^{name}: got .*allowed is"):
        TrainingConfig(**change)


def test_the_published_settings_are_the_defaults():
    config, repa = TrainingConfig(), REPA
    assert (config.optimizer, config.schedule, config.micro_batch_size, repa.weight) == ("adamw", "constant", None, 0.5)
    assert (config.learning_rate, config.betas, config.eps, config.weight_decay) == (1e-4, (0.9, 0.95), 1e-15, 0.0)
    assert (config.warmup_steps, config.grad_clip, config.precision) == (1000, 0.2, "bf16")
