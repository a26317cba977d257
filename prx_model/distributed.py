"""What a training run knows of its fellow workers: two plain functions and two numbers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from torch import Tensor, nn


def _unwrapped(module: nn.Module) -> nn.Module:
    return module


def _alone(tensor: Tensor) -> Tensor:
    return tensor


@dataclass(frozen=True, kw_only=True)
class Workers:
    """The workers of one run. The default is one worker that needs nobody.

    wrap: makes the objective a distributed module (DDP), called once.
    gather: [k, ...] on every worker -> [world_size * k, ...] on every worker, in the order of the ranks.
    """

    rank: int = 0
    world_size: int = 1
    wrap: Callable[[nn.Module], nn.Module] = _unwrapped
    gather: Callable[[Tensor], Tensor] = _alone

    def __post_init__(self) -> None:
        assert 0 <= self.rank < self.world_size, self

    def share(self, count: int) -> tuple[int, int]:
        """This worker's rows of a global batch: start (included), stop (excluded)."""
        if count % self.world_size:
            raise ValueError(f"batch_size: got {count}, allowed are multiples of {self.world_size}, one per worker")
        size = count // self.world_size
        return self.rank * size, (self.rank + 1) * size

    def accumulating(self, module: nn.Module, last: bool) -> AbstractContextManager[object]:
        """Around forward and backward of one of several micro-batches: workers exchange gradients in the last alone."""
        if isinstance(module, nn.parallel.DistributedDataParallel) and not last:
            return module.no_sync()
        return nullcontext()
