"""What a training run carries from step to step: weights, optimizer, average."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor

from prx_model.compiled import compile_blocks, is_compiled
from prx_model.model import PRX
from prx_model.objective import TrainingObjective
from prx_model.optimizers import build_optimizer
from prx_model.training_config import TrainingConfig
from prx_model.window import Window


class TrainState:
    """All that a run carries from step to step. Chance is no part of it: see flow.draw."""

    def __init__(self, objective: TrainingObjective, config: TrainingConfig) -> None:
        self.objective = objective
        self.step = 0
        self.window = Window()
        objective.model.gradient_checkpointing = config.gradient_checkpointing
        self.optimizer = build_optimizer(objective, config)
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
            "window": self.window.state_dict(),
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
        self.window.load_state_dict(state["window"])
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.averaged is not None:
            self.averaged.load_state_dict(state["averaged"])


def _frozen_copy(model: PRX) -> PRX:
    duplicate = copy.deepcopy(model)
    duplicate.requires_grad_(False)
    return duplicate.eval()
