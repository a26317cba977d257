"""The training loop: a generator of evaluations. The caller breaks out of it to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from prx_model.batch import Batch
from prx_model.distributed import Workers, whole
from prx_model.evaluation import Evaluation, Looks
from prx_model.flow import draw
from prx_model.metrics.suite import SuiteResult
from prx_model.model import PRX
from prx_model.objective import LossTerms
from prx_model.train_state import TrainState
from prx_model.training_config import TrainingConfig

FINITE_CHECK_STEPS = 20  # how often losses are read back: a read stalls a GPU, and the exact step is found all the same


class DivergedError(ArithmeticError):
    """The loss, or its gradient, is not finite. `step` is the 1-based optimizer step at which it was first seen."""

    def __init__(self, step: int, what: str, value: float) -> None:
        super().__init__(f"{what} is {value} at step {step}")
        self.step = step


@runtime_checkable
class Batches(Protocol):
    """An endless, resumable source of batches: of every global batch, this worker's share."""

    def batches(self, from_step: int = 0) -> Iterator[Batch]: ...


def train(
    state: TrainState,
    source: Batches,
    config: TrainingConfig,
    *,
    seed: int,
    evaluate: Callable[[PRX], Iterator[SuiteResult]],
    workers: Workers | None = None,
) -> Iterator[Evaluation]:
    """Train from state.step to config.steps and yield at every evaluation.

    `state` holds the weights of the yielded step while the caller has control: that is the moment to save it, and to
    drive the evaluation's looks as far as is worth while. Several workers drive them equally far.
    source: gives this worker's share of every batch.
    evaluate: starts an evaluation of these weights, and makes each look when it is asked for.
    Raises DivergedError where the loss or the gradient is not finite.
    """
    workers = workers or state.workers
    module = state.module
    device = next(state.objective.parameters()).device
    evaluation_steps = frozenset(config.evaluation_steps())
    share = workers.share(config.batch_size)
    batches = source.batches(from_step=state.step)
    window = _Window(first_step=state.step)
    while state.step < config.steps:
        batch = window.next_of(batches)
        assert len(batch) == share[1] - share[0], f"a share of {len(batch)} images, expected {share}"
        draws = draw(
            (config.batch_size, *batch.clean.shape[1:]),
            config.timesteps,
            caption_dropout=config.caption_dropout,
            seed=seed,
            step=state.step,
            device=device,
        ).rows(*share)
        repa = state.objective.repa
        repa_weight = 0.0 if repa is None else repa.weight_at(state.step, config.steps)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            terms = module(batch.to(device), draws, repa_weight)
        window.add(terms, optimizer_step(state, terms.total, config), num_images=config.batch_size)
        if state.step in evaluation_steps:
            yield _evaluation(state, window, evaluate, workers)
            window = _Window(first_step=state.step)


def optimizer_step(state: TrainState, loss: Tensor, config: TrainingConfig) -> Tensor:
    """Backward, clip, step, average. Returns the gradient's norm before clipping, on the device."""
    for group in state.optimizer.param_groups:
        group["lr"] = config.learning_rate_at(state.step)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(state.objective.parameters(), config.grad_clip)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.step += 1
    state.update_average()
    return whole(norm)


@dataclass
class _Window:
    """The steps since the last evaluation."""

    first_step: int
    flow: list[Tensor] = field(default_factory=list)
    repa: list[Tensor] = field(default_factory=list)
    norms: list[Tensor] = field(default_factory=list)
    num_images: int = 0
    started: float = field(default_factory=time.perf_counter)
    data_s: float = 0.0
    num_checked: int = 0

    def next_of(self, batches: Iterator[Batch]) -> Batch:
        """The next batch; what it takes counts as waiting for data."""
        started = time.perf_counter()
        batch = next(batches)
        self.data_s += time.perf_counter() - started
        return batch

    def wall_s(self, device: torch.device) -> float:
        """Seconds since it began, after the device has done all that it was given: its steps run behind the host's."""
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - self.started

    def add(self, terms: LossTerms, norm: Tensor, *, num_images: int) -> None:
        self.flow.append(terms.total.detach() if terms.repa is None else terms.flow.detach())
        if terms.repa is not None:
            self.repa.append(terms.repa.detach())
        self.norms.append(norm.detach())
        self.num_images += num_images
        if len(self.norms) - self.num_checked >= FINITE_CHECK_STEPS:
            self.check_finite()

    def check_finite(self) -> None:
        # The gradient's norm is looked at too: it is where an overflow in the backward pass shows first, and a step
        # before the loss does.
        recent = torch.stack([_stacked(values[self.num_checked :]) for values in (self.flow, self.norms)], dim=1)
        bad = (~torch.isfinite(recent)).nonzero()
        if len(bad):
            at, column = bad[0].tolist()
            what = ("loss", "gradient norm")[column]
            raise DivergedError(self.first_step + self.num_checked + at + 1, what, float(recent[at, column]))
        self.num_checked = len(self.norms)


def _evaluation(
    state: TrainState, window: _Window, evaluate: Callable[[PRX], Iterator[SuiteResult]], workers: Workers
) -> Evaluation:
    window.check_finite()
    flow, repa = _mean(window.flow, workers), _mean(window.repa, workers) if window.repa else None
    wall_s = window.wall_s(next(state.objective.parameters()).device)
    step = state.step
    return Evaluation(
        step=step,
        looks=Looks(evaluate(state.evaluated_model), step=step, current_step=lambda: state.step),
        flow_loss=flow,
        repa_loss=repa,
        grad_norm=float(_stacked(window.norms).mean()),
        images_per_s=window.num_images / wall_s,
        data_s=window.data_s,
        train_s=wall_s - window.data_s,
    )


def _stacked(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).float().cpu() if values else torch.zeros(0)


def _mean(values: Sequence[Tensor], workers: Workers) -> float:
    """Mean over the steps and over all workers, whose shares of the batch are equal."""
    return float(workers.gather(torch.stack(list(values)).float().mean().reshape(1)).mean())
