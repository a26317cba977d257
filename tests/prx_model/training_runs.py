"""Short real training runs, for the tests of the loop and of its workers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from prx_model.batch import Batch
from prx_model.metrics.suite import SuiteResult
from prx_model.model import MODELS, PRX
from prx_model.objective import TrainingObjective
from prx_model.repa import RepaConfig
from prx_model.training.config import TrainingConfig
from prx_model.training.loop import Evaluation, train
from prx_model.training.state import TrainState
from tests.models import random_batch, randomised

TEACHER_WIDTH = 6
REPA = RepaConfig(teacher="any", depth=1, weight=0.5, projector_width=16)
FAST = TrainingConfig(
    steps=6, batch_size=4, eval_every_steps=2, learning_rate=1e-2, warmup_steps=3, grad_clip=1.0, precision="fp32"
)


@dataclass
class Repeated:
    """A different batch for every step, a pure function of the step: the shape of a resumable reader."""

    count: int = 4
    share: tuple[int, int] | None = None
    poisoned_step: int | None = None  # 0-based; one sample of this step's batch holds a NaN
    only: int | None = None  # always this one

    def batches(self, from_step: int = 0) -> Iterator[Batch]:
        step = from_step
        while True:
            yield self.at(step).rows(*(self.share or (0, self.count)))
            step += 1

    def at(self, step: int) -> Batch:
        seed = self.only if self.only is not None else step
        batch = random_batch(MODELS["prx_tiny"], count=self.count, seed=seed, teacher_width=TEACHER_WIDTH)
        if step == self.poisoned_step:
            clean = batch.clean.clone()
            clean[-1, 0, 0, 0] = math.nan
            batch = replace(batch, clean=clean)
        return batch


def objective_of(repa: RepaConfig | None = REPA, *, fresh: bool = False) -> TrainingObjective:
    torch.manual_seed(0)
    config = MODELS["prx_tiny"]
    model = PRX(config) if fresh else randomised(PRX(config))
    null_text = torch.randn(1, config.context_in_dim)
    return TrainingObjective(model, null_text, repa=repa, teacher_width=TEACHER_WIDTH if repa else None)


def weight_sum(model: PRX) -> float:
    """A score that any difference between two models changes: the sum of the absolute weights."""
    return float(sum(parameter.detach().double().abs().sum() for parameter in model.parameters()))


def weight_sums(model: PRX) -> Iterator[SuiteResult]:
    """Two looks at a model, with its score when each is asked for."""
    images = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    for num_samples in (1, 2):
        values = {"weight_sum": weight_sum(model)}
        yield SuiteResult(values=values, num_samples=num_samples, images=images, sampling_s=0.0, scoring_s=0.0)


def run(
    state: TrainState, config: TrainingConfig = FAST, source: Repeated | None = None, **options: Any
) -> Iterator[Evaluation]:
    return train(state, source or Repeated(), config, seed=1, evaluate=weight_sums, **options)


def finished(
    config: TrainingConfig = FAST, repa: RepaConfig | None = REPA, source: Repeated | None = None
) -> tuple[TrainState, list[Evaluation]]:
    """A whole run, and its evaluations with all of their looks taken."""
    state, evaluations = TrainState(objective_of(repa), config), []
    for evaluation in run(state, config, source):
        evaluation.scores()
        evaluations.append(evaluation)
    return state, evaluations


def told(evaluation: Evaluation) -> tuple[Any, ...]:
    """All of an evaluation but its times. Takes the looks that are left."""
    return (
        evaluation.step,
        evaluation.scores().values,
        evaluation.flow_loss,
        evaluation.repa_loss,
        evaluation.grad_norm,
    )


def same(one: Any, other: Any) -> bool:
    """Equal to the bit, through nested states."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def everything(state: TrainState) -> dict[str, Any]:
    averaged = None if state.averaged is None else state.averaged.state_dict()
    return {
        "step": state.step,
        "objective": state.objective.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "averaged": averaged,
    }
