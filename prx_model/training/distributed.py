"""The workers of one run: how they share a batch, a model and its gradients, and what they tell each other."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

    from prx_model.model import PRX
    from prx_model.objective import TrainingObjective

DDP, FSDP = "ddp", "fsdp"
PARALLEL = (DDP, FSDP)


def _alone(tensor: Tensor) -> Tensor:
    return tensor


@dataclass(frozen=True, kw_only=True)
class Workers:
    """The workers of one run. The default is one worker that needs nobody.

    gather: [k, ...] on every worker -> [world_size * k, ...] on every worker, in the order of the ranks.
    parallel: 'ddp' (every worker holds all weights; gradients are averaged) or 'fsdp' (every worker holds a part of
        weights, gradients, optimizer state and average). Without fellows it says nothing.
    find_unused: some weights get no gradient in some steps. It costs time; only 'ddp' has to know.
    """

    rank: int = 0
    world_size: int = 1
    gather: Callable[[Tensor], Tensor] = _alone
    parallel: str = DDP
    find_unused: bool = False

    def __post_init__(self) -> None:
        assert 0 <= self.rank < self.world_size, self
        if self.parallel not in PARALLEL:
            raise ValueError(f"parallel: got {self.parallel!r}, allowed is one of {', '.join(PARALLEL)}")

    @property
    def is_sharded(self) -> bool:
        """Whether each worker holds a part of the weights only."""
        return self.parallel == FSDP and self.world_size > 1

    def share(self, count: int) -> tuple[int, int]:
        """This worker's rows of a global batch: start (included), stop (excluded)."""
        if count % self.world_size:
            raise ValueError(f"batch_size: got {count}, allowed are multiples of {self.world_size}, one per worker")
        size = count // self.world_size
        return self.rank * size, (self.rank + 1) * size

    def prepare(self, objective: TrainingObjective, averaged: PRX | None = None) -> nn.Module:
        """The module to call for the loss; with 'fsdp', `objective` and `averaged` are sharded in place.

        Called once, after the blocks are compiled and before an optimizer takes the parameters. Every worker brings
        equal weights.
        """
        if self.world_size == 1:
            return objective
        if self.is_sharded:
            for model in filter(None, (objective.model, averaged)):
                _shard(model, *model.transformer.blocks)
            if objective.projector is not None:
                _shard(objective.projector)
            return objective
        return nn.parallel.DistributedDataParallel(
            objective, find_unused_parameters=self.find_unused, gradient_as_bucket_view=True
        )

    def accumulating(self, module: nn.Module, last: bool) -> AbstractContextManager[object]:
        """Around forward and backward of one of several micro-batches: workers exchange gradients in the last alone."""
        if isinstance(module, nn.parallel.DistributedDataParallel):
            return nullcontext() if last else module.no_sync()
        for part in _sharded_parts(module) if self.is_sharded else ():
            part.set_requires_gradient_sync(last, recurse=False)
        return nullcontext()

    def messages(self, mine: bytes) -> list[bytes]:
        """What every worker says, in the order of the ranks, on every worker."""
        sizes = self.gather(torch.tensor([len(mine)])).tolist()
        padded = torch.zeros(1, max(sizes), dtype=torch.uint8)
        padded[0, : len(mine)] = torch.frombuffer(bytearray(mine), dtype=torch.uint8) if mine else padded[0, :0]
        rows = self.gather(padded)
        return [bytes(row[:size].numpy()) for row, size in zip(rows, sizes, strict=True)]


def joined_workers(parallel: str = DDP, *, find_unused: bool = False) -> Workers:
    """The workers of torch.distributed's default group, which whoever started the processes has made.

    Workers() where there is no group, or a group of one.
    """
    distributed = torch.distributed
    if not distributed.is_available() or not distributed.is_initialized() or distributed.get_world_size() == 1:
        return Workers()
    return Workers(
        rank=distributed.get_rank(),
        world_size=distributed.get_world_size(),
        gather=_all_gather,
        parallel=parallel,
        find_unused=find_unused,
    )


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may lie in parts on all workers, as a plain one on each of them. All of them call it."""
    return tensor.full_tensor() if is_part(tensor) else tensor


def local_part(tensor: Tensor) -> Tensor:
    """This worker's part of a tensor, with the same memory under it; all of it where it lies on every worker."""
    return tensor.to_local() if is_part(tensor) else tensor


@contextmanager
def whole_weights(model: nn.Module) -> Iterator[None]:
    """Every worker holds all weights of `model` inside: for many forwards in a row, and for calls of its parts.

    All workers enter together; inside they owe each other nothing. Without shards nothing happens. No gradients.
    """
    parts = _sharded_parts(model)
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(True, recurse=False)
            part.reshard()


def _shard(module: nn.Module, *inner: nn.Module) -> None:
    """Each of `inner`, then what is left of `module`, is gathered when it runs and let go of afterwards.

    Without a policy for mixed precision: under the loop's autocast over fp32 weights, the same values come out as
    without shards. A policy that gathers bf16 would send half as much, and would round scales and biases of the norms,
    which autocast leaves in fp32, and the projector's weights.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    # We know: nobody writes into the projector's output.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    device = next(module.parameters()).device.type
    mesh = init_device_mesh(device, (torch.distributed.get_world_size(),))
    for part in (*inner, module):
        # Always let go, the outermost too: a module's parameters are the shards whenever it is at rest.
        fully_shard(part, mesh=mesh, reshard_after_forward=True)


def _sharded_parts(module: nn.Module) -> list[Any]:
    if not any(is_part(parameter) for parameter in module.parameters()):
        return []
    from torch.distributed.fsdp import FSDPModule

    return [part for part in module.modules() if isinstance(part, FSDPModule)]


def is_part(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether a tensor lies in parts on all workers."""
    if type(tensor) in (Tensor, nn.Parameter):
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def _all_gather(tensor: Tensor) -> Tensor:
    backend = torch.distributed.get_backend()
    away = {"nccl": "cuda", "gloo": "cpu"}.get(backend, tensor.device.type)  # NCCL has no CPUs, gloo is poor on GPUs
    mine = tensor.contiguous() if tensor.device.type == away else tensor.to(away)
    parts = [torch.empty_like(mine) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, mine)
    return torch.cat(parts).to(tensor.device)
