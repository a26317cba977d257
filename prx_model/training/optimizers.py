"""The optimizers of a run: AdamW for all weights, or Muon for the matrices and AdamW for the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.optim import AdamW, Muon, Optimizer

from prx_model.objective import TrainingObjective
from prx_model.training.config import ADAMW, TrainingConfig


def build_optimizer(objective: TrainingObjective, config: TrainingConfig) -> Optimizer:
    """The optimizer that `config` names, over all weights of `objective`."""
    if config.optimizer == ADAMW:
        return _adamw(objective.parameters(), config)
    return MuonAdamW(objective, config)


class MuonAdamW(Optimizer):
    """Muon (Jordan et al., 2024) for the matrices of the blocks and of the projector, AdamW for all other weights.

    One optimizer over torch's two, whose groups and state it shares: what is saved, loaded, or set in a group reaches
    them. Updates of a matrix [rows, columns] are scaled by 0.2 sqrt(max(rows, columns)), to the size that AdamW's
    usually have (Moonshot, arXiv 2502.16982): the learning rate means the same to both. torch orthogonalises in
    bfloat16; where workers share the weights, each of its products runs on all of them, and rounds in another order.
    """

    def __init__(self, objective: TrainingObjective, config: TrainingConfig) -> None:
        matrices = _matrices(objective)
        chosen = set(map(id, matrices))
        others = [parameter for parameter in objective.parameters() if id(parameter) not in chosen]
        self._muon = Muon(
            matrices,
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            adjust_lr_fn="match_rms_adamw",
        )
        self._adamw = _adamw(others, config)
        super().__init__([*self._muon.param_groups, *self._adamw.param_groups], {})
        self._share()

    def _share(self) -> None:
        self._muon.param_groups, self._adamw.param_groups = self.param_groups[:1], self.param_groups[1:]
        self._muon.state = self._adamw.state = self.state

    def __setstate__(self, state: dict[str, Any]) -> None:
        # load_state_dict ends here, with groups and a state that are new objects.
        super().__setstate__(state)
        self._share()

    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        assert closure is None, "the loop makes the gradients"
        self._muon.step()
        self._adamw.step()


def _adamw(parameters: Iterable[nn.Parameter], config: TrainingConfig) -> AdamW:
    return AdamW(
        parameters,
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=True,
    )


def _matrices(objective: TrainingObjective) -> list[nn.Parameter]:
    """All weights of two axes in the blocks and the projector. Embeddings and the final layer are not hidden layers."""
    parts = filter(None, (objective.model.transformer.blocks, objective.projector))
    return [parameter for part in parts for parameter in part.parameters() if parameter.ndim == 2]
