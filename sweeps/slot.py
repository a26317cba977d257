"""A warm slot: one long Ray Train run whose workers take one trial after another.

Processes, imports, the process group, compiled blocks, encoded data, teachers and scoring networks stay; weights,
optimizer, average, chance and torch's settings are new for every trial, so that a trial's numbers do not depend on what
the slot ran before.
"""

from __future__ import annotations

import gc
import logging
import os
import random
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sweeps.task import Task
from sweeps.usage import Rate, rate_on

if TYPE_CHECKING:
    from sweeps.space import Resources

logger = logging.getLogger("sweeps.worker")


class SlotBrokenError(RuntimeError):
    """The worker cannot take another trial: its fellows hang, or its device answers no more."""


@dataclass(frozen=True, kw_only=True)
class SlotSettings:
    """What every slot of a sweep is made of.

    desk: name of the desk's actor. storage: folder of Ray Train's own state. cache: of the sweep, where compiled blocks
    are kept too. address: of the Ray cluster.
    """

    desk: str
    resources: Resources
    storage: str
    cache: str
    address: str


def run_slot(name: str, settings: SlotSettings) -> None:
    """Start a slot and stay until it goes home. Raises Ray Train's error where it is lost."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    resources = settings.resources
    trainer = TorchTrainer(
        serve,
        train_loop_config={
            "slot": name,
            "desk": settings.desk,
            "trials": resources.trials_per_slot,
            "held": _per_worker(resources),
        },
        scaling_config=ScalingConfig(
            num_workers=resources.workers,
            use_gpu=resources.gpus_per_worker > 0,
            resources_per_worker=_per_worker(resources),
            placement_strategy=resources.placement.upper(),
        ),
        run_config=RunConfig(
            name=name,
            storage_path=settings.storage,
            # A lost slot is replaced by a new one; a spot node's notice is another matter, which Ray does not count.
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=0),
            worker_runtime_env={
                "env_vars": {"RAY_ADDRESS": settings.address, "TORCHINDUCTOR_CACHE_DIR": f"{settings.cache}/compiled"}
            },
        ),
    )
    trainer.fit()


def _per_worker(resources: Resources) -> dict[str, float]:
    """Ray's names for what a worker reserves."""
    reserved = {"CPU": float(resources.cpus_per_worker)}
    if resources.gpus_per_worker > 0:
        reserved["GPU"] = float(resources.gpus_per_worker)
    return reserved


def serve(settings: dict[str, Any]) -> None:
    """Ray Train's loop function: trial after trial, until there is none or this worker has served its number."""
    import ray
    from ray import train

    from prx_model.kept import Kept
    from sweeps.worker import LeavingError, Place

    context = train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    held = settings["held"]
    place = Place(
        device=_device(held.get("GPU", 0.0)),
        rank=rank,
        world_size=world_size,
        rate=_rate_here(held, world_size),
        is_leaving=_notice(),
        told=_told_of_this_process(),
    )
    desk: Any = ray.get_actor(settings["desk"])
    kept = Kept()
    attempt = _attempt(place.world_size)
    for number in range(settings["trials"]):
        task: Any = ray.get(desk.take.remote(settings["slot"], attempt, number))
        if task is None:
            return
        try:
            with as_new(task["num_threads"]):
                _serve_one(desk, settings["slot"], number, Task(**task), place, kept)
        except LeavingError:
            if rank == 0:
                ray.get(desk.handed_back.remote(settings["slot"]))
            return


def _serve_one(desk: Any, slot: str, number: int, task: Task, place: Any, kept: Any) -> None:
    """One trial. Its own failure is recorded as its end and stays here; what breaks the slot leaves it."""
    import ray

    from sweeps.leases import LeaseLostError
    from sweeps.obstacles import obstacle
    from sweeps.worker import TrialFailedError, record_failure, train_trial

    # Ray keeps what a worker prints in one file for all of its trials.
    print(f"{task.shown} starts, rank {place.rank}", flush=True)
    try:
        for row in train_trial(task, place, kept):
            told = {**row.metrics, "step": row.step, "num_samples": row.num_samples, "trial": task.trial}
            desk.evaluated.remote(task.trial, told)
    except TrialFailedError as failure:
        if isinstance(failure.cause, LeaseLostError):  # the trial is another worker's now: nothing to say of it
            raise SlotBrokenError(f"{task.trial}: {failure.cause}") from failure
        in_the_way = obstacle(failure.cause, task.root)
        if in_the_way is not None:
            ray.get(desk.halt.remote(in_the_way))
            return
        check_device(place.device)
        answer: Any = ray.get(desk.failed.remote(slot, number, place.rank, place.world_size, failure.orderly))
        to_record, goes_on = answer
        if to_record:
            record_failure(task, failure)
            ray.get(desk.finished.remote(slot))
        if not goes_on:
            raise SlotBrokenError(f"{task.trial} failed on rank {place.rank} and left its fellows waiting") from failure
        return
    if place.rank == 0:
        ray.get(desk.finished.remote(slot))


def _rate_here(held: Mapping[str, float], workers: int) -> Rate:
    """What a trial holds, by what its first worker holds and by the price of this node."""
    import ray

    from sweeps.node_types import price_of  # knows the space, which imports torch: this module is a light driver's too

    context = ray.get_runtime_context()
    price = price_of(context.get_node_labels())
    node = {}
    if price is not None:
        node = next(node["Resources"] for node in ray.nodes() if node["NodeID"] == context.get_node_id())
    return rate_on(node, price, cpus=held["CPU"], gpus=held.get("GPU", 0.0), workers=workers)


def _notice() -> Callable[[], bool] | None:
    """Says whether a machine of this slot will be taken away (spot); None where Ray is told not to look."""
    from ray.train.v2._internal.execution.context import get_train_context

    if os.environ.get("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER") == "0":
        return None
    # ray.train.get_preemption_info is a barrier of all workers, in which they stand still; they agree by themselves.
    told = get_train_context().preemption_context
    return lambda: told.preemption_info is not None


def _told_of_this_process() -> str:
    """Where to find this worker in Ray's dashboard, and what it prints on the disk of its node."""
    import ray

    context = ray.get_runtime_context()
    own = f"actor {context.get_actor_id()} on node {ray.util.get_node_ip_address()}"
    return f"{own}, which prints to {os.path.realpath('/proc/self/fd/1')}"


def check_device(device: Any) -> None:
    """Raise SlotBrokenError where the device computes no more, as CUDA's context does not after some errors."""
    import torch

    try:
        torch.ones(1, device=device).add_(1).item()
    except Exception as error:
        raise SlotBrokenError(f"{device} answers no more: {' '.join(str(error).split())}") from error


def unseen_gpus() -> str | None:
    """What is wrong on a node that has GPUs by Ray's count: None where torch sees them too."""
    import torch

    if torch.cuda.is_available():
        return None
    return "Ray counts GPUs here and torch sees none; see to `nvidia-smi`, and to a torch that is built for CUDA"


def _device(gpus: float) -> Any:
    """Of a worker that holds so many GPUs. Raises SlotBrokenError where it holds some and torch sees none."""
    import ray
    import torch

    if gpus and (problem := unseen_gpus()):
        raise SlotBrokenError(f"node {ray.util.get_node_ip_address()}: {problem}")
    if not torch.cuda.is_available():
        return torch.device("cpu")
    from ray.train.torch import get_device

    return get_device()


def _attempt(world_size: int) -> str:
    """A word that all workers of this start of the slot share, and no other start has."""
    word = uuid.uuid4().hex
    if world_size == 1:
        return word
    from ray.train.collective import broadcast_from_rank_zero

    return broadcast_from_rank_zero(word)


@contextmanager
def as_new(num_threads: int) -> Iterator[None]:
    """What a trial may find and leave of the process: torch's settings and generators as they are at a start, and no
    memory of its own afterwards.
    """
    import numpy as np
    import torch

    from sweeps.peak_memory import forget_peak_memory

    settings = _torch_settings()
    torch.set_num_threads(num_threads)
    # No trial draws from these: chance comes from (seed, step). What a library draws is to be the same every time.
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    forget_peak_memory()
    try:
        yield
    finally:
        _restore(settings)
        give_memory_back()


def _torch_settings() -> dict[str, Any]:
    import torch

    return {
        "dtype": torch.get_default_dtype(),
        "grad": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "autocast": {device: torch.is_autocast_enabled(device) for device in ("cpu", "cuda")},
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32),
        "matmul": torch.backends.cuda.matmul.allow_tf32,
    }


def _restore(settings: dict[str, Any]) -> None:
    import torch

    torch.set_default_dtype(settings["dtype"])
    torch.set_grad_enabled(settings["grad"])
    torch.use_deterministic_algorithms(settings["deterministic"])
    torch.set_float32_matmul_precision(settings["precision"])
    for device, enabled in settings["autocast"].items():
        torch.set_autocast_enabled(device, enabled)
    torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = settings["cudnn"]
    torch.backends.cuda.matmul.allow_tf32 = settings["matmul"]


def give_memory_back() -> None:
    """Free what the trial has left: cycles, CUDA's cached blocks, and the C heap's free pages."""
    import ctypes

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):  # another C library than glibc
        logger.debug("no malloc_trim: freed pages go back when the C library likes")
