"""The training loop: a generator of evaluations. The caller breaks out of it to stop."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from prx_model.batch import Batch
from prx_model.compiled import CHOICES, NEVER, compile_blocks, is_compiled
from prx_model.distributed import Workers
from prx_model.evaluation import Evaluation, Looks
from prx_model.flow import TimestepLaw, draw
from prx_model.metrics.suite import SuiteResult
from prx_model.model import PRX
from prx_model.objective import LossTerms, TrainingObjective

PRECISIONS = ("fp32", "bf16")
FINITE_CHECK_STEPS = 20  # how often losses are read back: a read stalls a GPU, and the exact step is found all the same


class DivergedError(ArithmeticError):
    """The loss, or its gradient, is not finite. `step` is the 1-based optimizer step at which it was first seen."""

    def __init__(self, step: int, what: str, value: float) -> None:
        super().__init__(f"{what} is {value} at step {step}")
        self.step = step


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Optimisation. The defaults are those of the PRX ablations (Photoroom, 2026); EMA is ours, off by default.

    batch_size: images per optimizer step, over all workers.
    warmup_steps: linear from 0; constant afterwards.
    grad_clip: largest norm of the gradient.
    ema_decay: decay of the averaged weights that evaluations use, in (0, 1), warmed up as min(decay, (1+n)/(10+n));
        None evaluates the raw weights.
    caption_dropout: probability that a caption is replaced by the empty one, for classifier-free guidance.
    precision: 'bf16' is autocast over fp32 weights.
    compile: 'never', 'where_possible' or 'always': the model's blocks through torch.compile (prx_model.compiled). A
        quicker step for a slower start, worth it in runs of more than a minute, or where the compilation is on the disk
        already. Needs a C++ compiler, or Triton on a GPU; without one 'where_possible' does not compile and 'always' is
        an error. Values change by rounding.
    """

    steps: int = 100_000
    batch_size: int = 256
    eval_every_steps: int = 10_000
    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-15
    weight_decay: float = 0.0
    warmup_steps: int = 1_000
    grad_clip: float = 0.2
    ema_decay: float | None = None
    caption_dropout: float = 0.1
    precision: str = "bf16"
    compile: str = NEVER
    timesteps: TimestepLaw = field(default_factory=TimestepLaw)

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "eval_every_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, allowed is an integer of at least 1")
        for name in ("learning_rate", "eps", "grad_clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}: got {getattr(self, name)}, allowed is a finite number above 0")
        if self.eval_every_steps > self.steps:
            raise ValueError(f"eval_every_steps: got {self.eval_every_steps}, allowed is at most steps {self.steps}")
        self._check_ranges()

    def _check_ranges(self) -> None:
        if self.warmup_steps < 0 or self.weight_decay < 0:
            raise ValueError(
                f"warmup_steps, weight_decay: got {self.warmup_steps}, {self.weight_decay}, allowed is 0 or more"
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas: got {self.betas}, allowed are numbers from 0 to below 1")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay: got {self.ema_decay}, allowed is null or a number between 0 and 1")
        if not 0 <= self.caption_dropout <= 1:
            raise ValueError(f"caption_dropout: got {self.caption_dropout}, allowed is 0 to 1")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision: got {self.precision!r}, allowed is one of {', '.join(PRECISIONS)}")
        if self.compile not in CHOICES:
            raise ValueError(f"compile: got {self.compile!r}, allowed is one of {', '.join(CHOICES)}")

    def learning_rate_at(self, step: int) -> float:
        """The rate of the 0-based step: the first step already moves."""
        return self.learning_rate * min(1.0, (step + 1) / max(1, self.warmup_steps))

    def evaluation_steps(self) -> list[int]:
        """The steps after which an evaluation is made; the last one is always among them."""
        steps = list(range(self.eval_every_steps, self.steps + 1, self.eval_every_steps))
        return steps if steps[-1] == self.steps else [*steps, self.steps]


@runtime_checkable
class Batches(Protocol):
    """An endless, resumable source of global batches."""

    def batches(self, from_step: int = 0) -> Iterator[Batch]: ...


class TrainState:
    """All that a run carries from step to step. Chance is no part of it: see flow.draw."""

    def __init__(self, objective: TrainingObjective, config: TrainingConfig) -> None:
        self.objective = objective
        self.step = 0
        self.optimizer = torch.optim.AdamW(
            objective.parameters(),
            lr=config.learning_rate,
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.ema_decay = config.ema_decay
        self.averaged = None if config.ema_decay is None else _frozen_copy(objective.model)
        if is_compiled(config.compile, next(objective.parameters()).device):
            for model in filter(None, (objective.model, self.averaged)):
                compile_blocks(model)

    @property
    def evaluated_model(self) -> PRX:
        """The averaged weights where there are any, else the raw ones."""
        return self.objective.model if self.averaged is None else self.averaged

    @torch.no_grad()
    def update_average(self) -> None:
        """One step of the exponential moving average, after `self.step` optimizer steps."""
        if self.averaged is None:
            return
        assert self.ema_decay is not None
        decay = min(self.ema_decay, (1 + self.step) / (10 + self.step))
        averaged: list[Tensor] = [*self.averaged.parameters()]
        current: list[Tensor] = [*self.objective.model.parameters()]
        torch._foreach_lerp_(averaged, current, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]

    def save(self, folder: Path) -> None:
        """Write state.pt. The caller makes the folder visible as a whole."""
        state = {
            "step": self.step,
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "averaged": None if self.averaged is None else self.averaged.state_dict(),
        }
        torch.save(state, folder / "state.pt")

    def load(self, folder: Path) -> None:
        """Go on from what `save` wrote. Nothing but tensors and numbers is unpickled."""
        device = next(self.objective.parameters()).device
        state = torch.load(folder / "state.pt", map_location=device, weights_only=True)
        self.step = state["step"]
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.averaged is not None:
            self.averaged.load_state_dict(state["averaged"])


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
    evaluate: starts an evaluation of these weights, and makes each look when it is asked for.
    Raises DivergedError where the loss or the gradient is not finite.
    """
    workers = workers or Workers()
    module = workers.wrap(state.objective)
    device = next(state.objective.parameters()).device
    evaluation_steps = frozenset(config.evaluation_steps())
    batches = source.batches(from_step=state.step)
    window = _Window(first_step=state.step)
    while state.step < config.steps:
        batch = window.next_of(batches)
        draws = draw(batch, config.timesteps, caption_dropout=config.caption_dropout, seed=seed, step=state.step)
        share = workers.share(len(batch))
        local, local_draws = batch.rows(*share).to(device), draws.rows(*share).to(device)
        repa = state.objective.repa
        repa_weight = 0.0 if repa is None else repa.weight_at(state.step, config.steps)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            terms = module(local, local_draws, repa_weight)
        window.add(terms, optimizer_step(state, terms.total, config), num_images=len(batch))
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
    return norm


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


def _frozen_copy(model: PRX) -> PRX:
    duplicate = copy.deepcopy(model)
    duplicate.requires_grad_(False)
    return duplicate.eval()
