"""What a training run carries from step to step: weights, optimizer, average."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prx_model.compiled import compile_blocks, is_compiled
from prx_model.model import PRX
from prx_model.objective import TrainingObjective
from prx_model.training import saved_state
from prx_model.training.config import TrainingConfig
from prx_model.training.distributed import Workers, local_part
from prx_model.training.optimizers import build_optimizer
from prx_model.training.window import Window

TENSORS = ("objective/", "optimizer/", "averaged/")


class TrainState:
    """All that a run carries from step to step. Chance is no part of it: see flow.draw.

    module: what the loop calls for the loss: `objective`, or what makes it one of several workers'.
    With sharded workers, weights, average and optimizer state lie in parts on all of them.
    """

    def __init__(self, objective: TrainingObjective, config: TrainingConfig, workers: Workers | None = None) -> None:
        self.workers = workers or Workers()
        self.objective = objective
        self.step = 0
        self.window = Window()
        objective.model.gradient_checkpointing = config.gradient_checkpointing
        self.ema_decay = config.ema_decay
        self.averaged = None if config.ema_decay is None else _frozen_copy(objective.model)
        if is_compiled(config.compile, next(objective.parameters()).device):
            for model in filter(None, (objective.model, self.averaged)):
                compile_blocks(model)
        self.module = self.workers.prepare(objective, self.averaged)
        self.optimizer = build_optimizer(objective, config)

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
        averaged: list[Tensor] = [local_part(weight) for weight in self.averaged.parameters()]
        current: list[Tensor] = [local_part(weight) for weight in self.objective.model.parameters()]
        torch._foreach_lerp_(averaged, current, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]

    def save(self, folder: Path) -> None:
        """Write the state to `folder`, which the caller makes visible as a whole. All workers call it together.

        Rank 0 writes everything, or every worker its part: see saved_state.
        """
        tensors = self._tensors()
        if self.workers.is_sharded:
            groups = {"param_groups": tensors["optimizer"]["param_groups"]}
            rest = {"step": self.step, "window": self.window.state_dict(), "optimizer": groups}
            saved_state.write_parts(tensors, rest, folder, rank=self.workers.rank)
        elif self.workers.rank == 0:
            saved_state.write_whole({"step": self.step, "window": self.window.state_dict(), **tensors}, folder)

    def load(self, folder: Path) -> None:
        """Go on from what `save` wrote, with these or any other workers, sharded or not.

        Raises ValueError, in one line, where the checkpoint is of a run with other settings.
        """
        self._fill_optimizer()
        targets, saved = saved_state.leaves(self._tensors()), saved_state.names_of(folder)
        surplus = next((name for name in saved if name.startswith(TENSORS) and name not in targets), None)
        if surplus is not None:
            raise ValueError(f"checkpoint {folder}: it has {surplus}, this run has not; their settings differ")
        # A weight that never had a gradient has no optimizer state: its zeros are where it begins.
        known = {name: it for name, it in targets.items() if name in saved or not name.startswith("optimizer/")}
        saved_state.read_into(known, folder)
        rest = saved_state.read_rest(folder)
        self.step = rest["step"]
        if "window" in rest:  # earlier versions saved at evaluations alone, where it is empty
            self.window.load_state_dict(rest["window"])
        for group, saved_group in zip(self.optimizer.param_groups, rest["optimizer"]["param_groups"], strict=True):
            group.update({name: value for name, value in saved_group.items() if name != "params"})

    def _tensors(self) -> dict[str, Any]:
        """Everything with tensors in it, as live references: what is copied into them is loaded."""
        return {
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "averaged": None if self.averaged is None else self.averaged.state_dict(),
        }

    def _fill_optimizer(self) -> None:
        """Give the optimizer the state that it has after a step, all zeros: something to load into."""
        rates = [group["lr"] for group in self.optimizer.param_groups]
        for parameter in self.objective.parameters():
            parameter.grad = torch.zeros_like(parameter)
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        for tensor in saved_state.leaves(self.optimizer.state_dict()).values():
            tensor.zero_()


def evaluated_weights(folder: Path) -> dict[str, Tensor]:
    """The weights that evaluations scored, as PRX.load_state_dict takes them: whole, on the CPU, in one process.

    folder: of any checkpoint, whole or in parts.
    """
    names = saved_state.names_of(folder)
    chosen = "averaged/" if any(name.startswith("averaged/") for name in names) else "objective/model."
    weights = {name: torch.empty(shape) for name, shape in names.items() if name.startswith(chosen)}
    saved_state.read_into(weights, folder)
    return {name.removeprefix(chosen): weight for name, weight in weights.items()}


def _frozen_copy(model: PRX) -> PRX:
    duplicate = copy.deepcopy(model)
    duplicate.requires_grad_(False)
    return duplicate.eval()
