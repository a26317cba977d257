"""What trials share is made before they start: encoded data, teachers' tokens, features of the reference images.

On this machine, or on a GPU of the cluster where this machine has none and the data set is a large one: networks that
look at ten thousand images take hours on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prx_model.experiment import ExperimentConfig, prepare
from prx_model.kept import Kept
from sweeps.config import load_config, to_plain
from sweeps.space import Resources, SearchSpace, SpaceError

if TYPE_CHECKING:
    from sweeps.sweep import Sweep

Progress = Callable[[str, int, int], None]  # stage, done, total
POLL_S = 1.0


def belongs_on_a_gpu_node(space: SearchSpace) -> bool:
    """Whether the reference images are looked at by a node of the cluster instead of by this machine."""
    import torch

    is_large = space.baseline_config(space.first_seed).data.source == "store"
    return is_large and space.resources.gpus_per_worker > 0 and not torch.cuda.is_available()


def prepare_here(sweep: Sweep, progress: Progress) -> None:
    """Make every cache that the sweep's trials read. A second call finds them. Raises SpaceError in one line."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        sweep.cache.mkdir(parents=True, exist_ok=True)
        _prepare_all(distinct_setups(sweep.space), sweep.cache, progress, device)
    except (ValueError, OSError) as error:  # a package or a file that is missing, altered or cannot be written
        raise _failed(sweep, error) from error


def prepare_on_a_node(sweep: Sweep, resources: Resources, progress: Progress) -> None:
    """The same, on a node that has what a trial's worker takes. The cache is a folder that all nodes share."""
    import ray
    from ray.exceptions import RayError, RayTaskError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Beside the driver: the relay is no reason to fail where a node is lost.
    beside = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    relay: Any = ray.remote(_Relay).options(num_cpus=0, scheduling_strategy=beside).remote()
    task = ray.remote(num_cpus=resources.cpus_per_worker, num_gpus=resources.gpus_per_worker, max_retries=2)(_on_node)
    configs = [to_plain(config) for config in distinct_setups(sweep.space)]
    pending = [task.remote(configs, str(sweep.cache), relay)]
    try:
        while pending:
            done, pending = ray.wait(pending, timeout=POLL_S)
            told: Any = ray.get(relay.last.remote())
            if told is not None:
                progress(*told)
        ray.get(done)
    except RayTaskError as error:
        raise _failed(sweep, error.cause if isinstance(error.cause, Exception) else error) from error
    except RayError as error:
        raise _failed(sweep, error) from error


def distinct_setups(space: SearchSpace) -> list[ExperimentConfig]:
    """The baseline, and one candidate for every teacher that the space can choose."""
    setups = {"": space.baseline_config(space.first_seed)}
    for config in space.end_candidates():
        if config.repa is not None:
            setups.setdefault(config.repa.teacher, config)
    return list(setups.values())


def _prepare_all(configs: Sequence[ExperimentConfig], cache: Path, progress: Progress, device: str) -> None:
    kept = Kept()
    for config in configs:
        prepare(config, cache, progress, kept, device=device)


def _on_node(configs: Sequence[dict[str, Any]], cache: str, relay: Any) -> None:
    import torch

    Path(cache).mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    _prepare_all([load_config(config) for config in configs], Path(cache), relay.tell.remote, device)


class _Relay:
    """What the node says last of its progress, for the driver to ask."""

    def __init__(self) -> None:
        self._told: tuple[str, int, int] | None = None

    def tell(self, stage: str, done: int, total: int) -> None:
        self._told = (stage, done, total)

    def last(self) -> tuple[str, int, int] | None:
        return self._told


def _failed(sweep: Sweep, error: BaseException) -> SpaceError:
    return SpaceError(f"preparing data and teachers in {sweep.cache}: {' '.join(str(error).split())}")
