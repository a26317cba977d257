"""The encoding job on Ray Data: units mapped over a pool of actors, each with its own networks, and nothing done twice.

The same command starts a job and goes on with one: what is finished is told by files in the store.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from prx_model.data.manifest import Manifest
from prx_model.data.shards import shard_name
from prx_model.encoding.finish import FinishedJob, finish
from prx_model.encoding.plan import (
    WORK_FOLDER,
    Items,
    Plan,
    num_candidates,
    read_items,
    roles_of,
    rows_per_unit,
    write_plan,
)
from prx_model.encoding.start import PROBED_ITEMS, Start
from prx_model.encoding.store_folder import StoreFolder
from prx_model.encoding.unit import UnitCard, finished_units
from sweeps.encoding.request import RECORD_FILE, EncodeError, EncodeRequest
from sweeps.encoding.worker import Tally, UnitActor, Worker, scratch_folder, start_job
from sweeps.node_types import current_offer

ROUNDS = 2  # a unit that failed is done once more, by fresh processes
CPUS_PER_ACTOR = 2  # without GPUs


@dataclass(kw_only=True)
class Progress:
    """How far a job is. `units` grows as cards come in; `failed` is empty at the end of a job that went well."""

    plan: Plan
    units: dict[int, UnitCard]
    actors: int = 0
    resumed: int = 0
    failed: dict[int, str] = field(default_factory=dict)
    tally: Any = None

    @property
    def todo(self) -> list[int]:
        return [unit for unit in range(self.plan.num_units) if unit not in self.units]


def begin(store: StoreFolder, request: EncodeRequest, items: Items, listing: Path, run: str) -> Plan:
    """Probes the source on a worker and puts the plan into the store."""
    import ray
    from ray.exceptions import RayError

    gpus = _gpus_per_actor(request)
    worker = _worker(store, request, run, gpus, threads=int(ray.cluster_resources().get("CPU", 1)))
    remote = ray.remote(num_gpus=gpus, num_cpus=1, max_retries=1)(start_job)
    try:
        probed = ray.get(remote.remote(worker, request.source, read_items(listing, 0, PROBED_ITEMS)))
    except RayError as error:
        raise EncodeError(reason_of(error)) from error
    candidates = num_candidates(request.num_heldout, items.num_usable, probed.broken_share)
    plan = Plan(
        source=request.source,
        settings=request.identity,
        num_items=len(items),
        num_heldout=request.num_heldout,
        num_candidates=candidates,
        rows_per_unit=request.rows_per_shard or rows_per_unit(probed.row_bytes, len(items)),
    )
    write_plan(store, plan, listing, roles_of(items, candidates))
    return plan


def encode_units(store: StoreFolder, request: EncodeRequest, progress: Progress, run: str) -> None:
    """Does every unit that has no card yet, and once more those that failed. Raises nothing for a failed unit."""
    import ray

    gpus = _gpus_per_actor(request)
    progress.tally = ray.remote(num_cpus=0, max_restarts=-1)(Tally).remote()
    for round_number in range(ROUNDS):
        todo = progress.todo
        if not todo:
            break
        progress.actors = min(_num_actors(request, gpus), len(todo))
        progress.failed = {}
        threads = max(1, int(ray.cluster_resources().get("CPU", 1)) // progress.actors)
        worker = _worker(store, request, f"{run}-{round_number}", gpus, threads=threads)
        for unit, card, error in _outcomes(todo, worker, progress, gpus):
            if card:
                progress.units[unit] = UnitCard.from_json(card.encode())
            else:
                progress.failed[unit] = error


def finish_job(store: StoreFolder, request: EncodeRequest, progress: Progress) -> Manifest:
    """Puts the data set together out of all units, and clears the work folder away."""
    missing = progress.units.keys() - finished_units(store).keys()
    if missing:
        raise EncodeError(
            f"{store.location}: {len(missing)} of {len(progress.units)} finished shards are not there; where Ray has "
            "several nodes, the store must be on S3 or on a disk that all of them share"
        )
    with scratch_folder() as scratch:
        job = FinishedJob(
            plan=progress.plan,
            settings=request.settings,
            start=Start.read(store),
            units=list(progress.units.values()),
            source=request.card,
        )
        try:
            manifest = finish(store, job, scratch)
        except ValueError as error:
            raise EncodeError(str(error)) from error
    store.remove(WORK_FOLDER)
    return manifest


def write_record(store: StoreFolder, request: EncodeRequest, progress: Progress, seconds: float) -> None:
    """How the data set came about: what does not belong to its identity."""
    record = {
        "source": request.source.location,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "rows_per_shard": progress.plan.rows_per_unit,
        "actors": progress.actors,
        "seconds_of_last_start": round(seconds, 1),
        "seconds_of_work": round(sum(card.seconds for card in progress.units.values()), 1),
        "source_card": asdict(request.card),
    }
    store.write(RECORD_FILE, (json.dumps(record, indent=1) + "\n").encode())


def new_run() -> str:
    """A name for one start of the command."""
    return uuid.uuid4().hex[:12]


def failures(progress: Progress) -> list[str]:
    """A line for every unit that could not be done."""
    lines = []
    for unit, error in sorted(progress.failed.items()):
        first = unit * progress.plan.rows_per_unit
        last = min(first + progress.plan.rows_per_unit, progress.plan.num_items) - 1
        lines.append(f"{shard_name('train', unit)} (items {first} to {last}): {error}")
    return lines


def reason_of(error: BaseException) -> str:
    """The innermost cause of an error of Ray, in one line."""
    while True:
        inner = getattr(error, "cause", None) or error.__cause__
        if not isinstance(inner, BaseException) or inner is error:
            break
        error = inner
    text = " ".join(str(error).split())[:600]
    if "out of memory" in text.lower():
        return f"{text}; lower --batch-size"
    return text if text and isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: {text}"


def _outcomes(todo: Sequence[int], worker: Worker, progress: Progress, gpus: float) -> Iterator[tuple[int, str, str]]:
    """Unit, card and error of every unit, as they end."""
    import ray.data
    from ray.exceptions import RayError

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = -1  # nodes may take long to come, and units long to do
    context.max_consecutive_actor_init_deaths = 2
    units = ray.data.from_items([{"unit": unit} for unit in todo], override_num_blocks=len(todo))
    encoded = units.map_batches(
        UnitActor,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=progress.actors, max_tasks_in_flight_per_actor=1),
        fn_constructor_args=(worker, progress.tally),
        num_gpus=gpus or None,
        num_cpus=1,
    )
    try:
        for row in encoded.iter_rows():
            yield int(row["unit"]), str(row["card"]), str(row["error"])
    except (RayError, RuntimeError) as error:
        raise EncodeError(f"the workers cannot go on: {reason_of(error)}") from error


def _worker(store: StoreFolder, request: EncodeRequest, run: str, gpus: float, *, threads: int) -> Worker:
    return Worker(
        store=store.location,
        run=run,
        settings=request.settings,
        batch_size=request.batch_size,
        gpu=gpus > 0,
        threads=threads,
    )


def _gpus_per_actor(request: EncodeRequest) -> float:
    if request.gpus_per_actor is not None:
        return request.gpus_per_actor
    return 1.0 if _gpus() >= 1 else 0.0


def _num_actors(request: EncodeRequest, gpus: float) -> int:
    import ray

    if request.actors is not None:
        return request.actors
    if gpus:
        return max(1, int(_gpus() // gpus))
    return max(1, int(ray.cluster_resources().get("CPU", 1) // CPUS_PER_ACTOR))


def _gpus() -> float:
    """GPUs that the cluster has, or may grow to."""
    return sum(one.most * one.amount("GPU") for one in current_offer(grows=True).types)
