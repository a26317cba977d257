"""What the steps since the last evaluation have shown: part of a run's state, so that no kill loses it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from prx_model.training.distributed import Workers


class DivergedError(ArithmeticError):
    """The loss, or its gradient, is not finite. `step` is the 1-based optimizer step at which it was first seen."""

    def __init__(self, step: int, what: str, value: float) -> None:
        super().__init__(f"{what} is {value} at step {step}")
        self.step = step


class Readings(NamedTuple):
    """What one step shows, as scalars on the device: losses over this worker's share, the gradient's norm over all."""

    flow: Tensor
    repa: Tensor | None
    norm: Tensor


class Window:
    """The steps since the last evaluation.

    flow, repa, norms: of each step that has been read, over all workers; `repa` only of the steps that had it.
    num_images: over all workers. wall_s: seconds of training. data_s: those of them spent waiting for batches.
    """

    def __init__(self) -> None:
        self.flow: list[float] = []
        self.repa: list[float] = []
        self.norms: list[float] = []
        self.num_images = 0
        self.wall_s = 0.0
        self.data_s = 0.0
        self._unread: list[Readings] = []

    def add(self, readings: Readings, *, num_images: int) -> None:
        self._unread.append(readings)
        self.num_images += num_images

    def read(self, workers: Workers, *, step: int) -> None:
        """Bring the latest readings to the host, averaged over the workers, who all call it after `step` steps.

        It waits for the device. What is read, and how often, does not depend on it: nor does any mean.
        Raises DivergedError, on every worker alike, with the first step that was not finite on one of them.
        """
        unread, self._unread = self._unread, []
        if not unread:
            return
        flow, norms = [one.flow for one in unread], [one.norm for one in unread]
        repa = [one.repa for one in unread if one.repa is not None]
        mine = torch.stack([value.detach().float() for value in (*flow, *norms, *repa)])
        everyone = workers.gather(mine[None]).double().cpu()
        _check_finite(everyone[:, : 2 * len(unread)].unflatten(1, (2, -1)), first_step=step - len(unread) + 1)
        # One sum per step, worker by worker: the same to the bit however many steps are read at once.
        means = (sum(everyone.unbind(), torch.zeros(())) / len(everyone)).tolist()
        self.flow += means[: len(unread)]
        self.norms += means[len(unread) : 2 * len(unread)]
        self.repa += means[2 * len(unread) :]

    def state_dict(self) -> dict[str, Any]:
        """Plain tensors and numbers, the same on every worker but for its times. Only after `read`."""
        assert not self._unread, "a window is saved when its readings have been read"
        return {
            "flow": torch.tensor(self.flow, dtype=torch.float64),
            "repa": torch.tensor(self.repa, dtype=torch.float64),
            "norms": torch.tensor(self.norms, dtype=torch.float64),
            "num_images": self.num_images,
            "wall_s": self.wall_s,
            "data_s": self.data_s,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._unread = []
        self.flow, self.repa, self.norms = (state[name].tolist() for name in ("flow", "repa", "norms"))
        self.num_images, self.wall_s, self.data_s = state["num_images"], state["wall_s"], state["data_s"]


def mean(values: Sequence[float]) -> float:
    """Exact but for one rounding."""
    return math.fsum(values) / len(values)


def _check_finite(values: Tensor, *, first_step: int) -> None:
    """values: [workers, (loss, gradient norm), steps]."""
    # The gradient's norm is looked at too: it is where an overflow in the backward pass shows first, and a step before
    # the loss does.
    bad = (~torch.isfinite(values)).permute(2, 1, 0).nonzero()
    if len(bad):
        at, which, worker = bad[0].tolist()
        raise DivergedError(first_step + at, ("loss", "gradient norm")[which], float(values[worker, which, at]))
