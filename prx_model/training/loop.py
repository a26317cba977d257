"""The training loop: a generator of evaluations, and of pauses. The caller breaks out of it to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, nullcontext
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from prx_model.batch import Batch
from prx_model.evaluation import Evaluation, Looks, Pause
from prx_model.float32 import tf32_products
from prx_model.flow import Draws, draw
from prx_model.metrics.suite import SuiteResult
from prx_model.model import PRX
from prx_model.objective import LossTerms
from prx_model.training.config import TrainingConfig
from prx_model.training.device_batches import on_device
from prx_model.training.distributed import Workers, whole
from prx_model.training.state import TrainState
from prx_model.training.window import DivergedError, Readings, Window, mean

__all__ = ["Batches", "DivergedError", "Evaluation", "Pause", "TrainState", "TrainingConfig", "optimizer_step", "train"]

# How often losses are read back, and a pause is asked for: it stalls a GPU. The exact step is found all the same.
FINITE_CHECK_STEPS = 20

TeacherCall = Callable[[Tensor, tuple[int, int]], Tensor]


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
    teacher: TeacherCall | None = None,
    clock: Callable[[], float] = time.perf_counter,
    pause_asked: Callable[[], bool] | None = None,
) -> Iterator[Evaluation | Pause]:
    """Train from state.step to config.steps; yield at every evaluation, and where it is time for a checkpoint.

    `state` holds all of the yielded step while the caller has control: that is the moment to save it, and to drive an
    evaluation's looks as far as is worth while. Saved at any of them, killed and resumed, a run goes on as if nothing
    had been. Several workers yield the same, save together and drive the looks equally far.
    source: gives this worker's share of every batch.
    evaluate: starts an evaluation of these weights, and makes each look when it is asked for.
    teacher: images [B, 3, R, R] uint8 and the (rows, columns) of the token grid -> tokens [B, N, Z], on the device; for
        batches that bring no teacher tokens, in the steps in which REPA has weight.
    clock: seconds, of which the loop takes differences. The first worker's decides on pauses.
    pause_asked: whether there is to be a pause soon, such as before this machine is taken away; any worker may say so.
    Raises DivergedError where the loss or the gradient is not finite.
    """
    workers = workers or state.workers
    step = _Step(state, config, workers, teacher, seed)
    evaluation_steps = frozenset(config.evaluation_steps())
    watch = _Watch(clock, step.device)
    with closing(_timed(source.batches(from_step=state.step), state, clock)) as arriving:
        batches = on_device(arriving, step.device)
        while state.step < config.steps:
            state.window.add(step(next(batches)), num_images=config.batch_size)
            if state.step in evaluation_steps:
                yield _evaluation(state, watch, evaluate, workers)
                watch.restart()
            elif state.step % FINITE_CHECK_STEPS == 0:
                state.window.read(workers, step=state.step)
                if _pause_is_due(watch.is_over(config.checkpoint_every_min), pause_asked, workers, step.device):
                    state.window.wall_s += watch.read()
                    yield Pause(step=state.step)
                    watch.restart()


def _timed(batches: Iterator[Batch], state: TrainState, clock: Callable[[], float]) -> Generator[Batch, None, None]:
    """The batches; what each takes to come counts as waiting for data. Closes their source when it is closed."""
    try:
        asked = clock()
        for batch in batches:
            state.window.data_s += clock() - asked
            yield batch
            asked = clock()
    finally:
        close = getattr(batches, "close", None)
        if close is not None:
            close()


class _Step:
    """One optimizer step on this worker's share of a batch."""

    def __init__(
        self, state: TrainState, config: TrainingConfig, workers: Workers, teacher: TeacherCall | None, seed: int
    ) -> None:
        self.state, self.config, self.workers, self.teacher, self.seed = state, config, workers, teacher, seed
        self.device = next(state.objective.parameters()).device
        self.share = workers.share(config.batch_size)
        # What autocast leaves in float32 is the projector. Its products would take ten times as long as in TF32.
        self.rounded = tf32_products if self.device.type == "cuda" and config.precision == "bf16" else nullcontext

    def __call__(self, batch: Batch) -> Readings:
        start, stop = self.share
        assert len(batch) == stop - start, f"a share of {len(batch)} images, expected {stop - start}"
        draws = self._draws(batch)
        with self.rounded():
            flow, repa = self._backward(batch, draws)
        return Readings(flow, repa, update(self.state, self.config))

    def _draws(self, batch: Batch) -> Draws:
        """This worker's rows of the draws for the global batch."""
        return draw(
            (self.config.batch_size, *batch.clean.shape[1:]),
            self.config.timesteps,
            caption_dropout=self.config.caption_dropout,
            seed=self.seed,
            step=self.state.step,
            device=self.device,
        ).rows(*self.share)

    def _backward(self, batch: Batch, draws: Draws) -> tuple[Tensor, Tensor | None]:
        """Gradients of the mean loss over the batch, micro-batch by micro-batch; its flow and alignment losses."""
        count = len(batch)
        size = min(self.config.micro_batch_size or count, count)
        flow, repa = [], []
        for start in range(0, count, size):
            stop = min(start + size, count)
            part = (stop - start) / count
            with self.workers.accumulating(self.state.module, last=stop == count):
                terms = self._loss(batch.rows(start, stop), draws.rows(start, stop))
                (terms.total * part).backward()
            flow.append(terms.flow.detach() * part)
            if terms.repa is not None:
                repa.append(terms.repa.detach() * part)
        return torch.stack(flow).sum(), torch.stack(repa).sum() if repa else None

    def _loss(self, batch: Batch, draws: Draws) -> LossTerms:
        repa = self.state.objective.repa
        weight = 0.0 if repa is None else repa.weight_at(self.state.step, self.config.steps)
        if weight > 0 and batch.teacher_tokens is None and self.teacher is not None:
            batch = batch.with_teacher_tokens(self._teacher_tokens(batch))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            return self.state.module(batch, draws, weight)

    @torch.no_grad()
    def _teacher_tokens(self, batch: Batch) -> Tensor:
        assert self.teacher is not None
        if batch.image is None:
            raise ValueError("batch.image: got None, an online teacher needs the images; read the data set with images")
        grid = self.state.objective.model.config.token_grid(*batch.clean.shape[-2:])
        return self.teacher(batch.image, grid)


def optimizer_step(state: TrainState, loss: Tensor, config: TrainingConfig) -> Tensor:
    """Backward and `update`, for a batch in one piece. Returns the gradient's norm before clipping, on the device."""
    loss.backward()
    return update(state, config)


def update(state: TrainState, config: TrainingConfig) -> Tensor:
    """Clip, step, average, and forget the gradients. Returns their norm before clipping, on the device."""
    for group in state.optimizer.param_groups:
        group["lr"] = config.learning_rate_at(state.step)
    norm = whole(nn.utils.clip_grad_norm_(state.objective.parameters(), config.grad_clip))
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.step += 1
    state.update_average()
    return norm


class _Watch:
    """Seconds since the loop last got control."""

    def __init__(self, clock: Callable[[], float], device: torch.device) -> None:
        self._clock, self._device = clock, device
        self.restart()

    def restart(self) -> None:
        self._started = self._clock()

    def read(self) -> float:
        """The seconds, once the device has done all that it was given: its steps run behind the host's."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return self._clock() - self._started

    def is_over(self, minutes: float | None) -> bool | None:
        """Whether so many minutes have passed, by the host's clock; None where none are given."""
        return None if minutes is None else self._clock() - self._started >= 60 * minutes


def _pause_is_due(
    is_over: bool | None, asked: Callable[[], bool] | None, workers: Workers, device: torch.device
) -> bool:
    """By the first worker's clock, or because any worker was asked for one; known to all.

    Where there is neither, which all know alike, nothing is exchanged.
    """
    if is_over is None and asked is None:
        return False
    mine = bool(is_over and workers.rank == 0) or (asked is not None and asked())
    return bool(workers.gather(torch.tensor([float(mine)], device=device)).sum() > 0)


def _evaluation(
    state: TrainState, watch: _Watch, evaluate: Callable[[PRX], Iterator[SuiteResult]], workers: Workers
) -> Evaluation:
    """The evaluation of this step. It empties the window: what is saved from here on begins a new one."""
    state.window.read(workers, step=state.step)
    state.window.wall_s += watch.read()
    window, state.window = state.window, Window()
    step = state.step
    return Evaluation(
        step=step,
        looks=Looks(evaluate(state.evaluated_model), step=step, current_step=lambda: state.step),
        flow_loss=mean(window.flow),
        repa_loss=mean(window.repa) if window.repa else None,
        grad_norm=mean(window.norms),
        images_per_s=window.num_images / window.wall_s,
        data_s=window.data_s,
        train_s=window.wall_s - window.data_s,
    )
