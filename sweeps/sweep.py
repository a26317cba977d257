"""One sweep: baseline seeds and candidates under Ray Tune. The same call starts it and resumes it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prx_model.experiment import export_model
from prx_model.training.distributed import Workers
from sweeps import cluster
from sweeps.agenda import num_open, unfinished
from sweeps.config import to_plain
from sweeps.confirmation import contenders
from sweeps.ledger import Ledger, TrialRecord
from sweeps.locations import Location, publish
from sweeps.model_origin import origin_of
from sweeps.node_types import Room
from sweeps.obstacles import HaltedError
from sweeps.search import SweepSearch, is_used_up
from sweeps.slots import WhenHalted, halted_by, open_slots
from sweeps.space import Resources, SearchSpace
from sweeps.storage import SweepPaths
from sweeps.trial_folder import FETCHED, checkpoints_of, latest_checkpoint

MODEL_INDEX = "model_index.json"  # without which diffusers finds no pipeline in a folder
STATE_SNAPSHOT_S = 600  # Tune's own state is never read back
MOST_DRIVER_LOSSES = 3  # drivers that one trial may lose; its next driver finds it at the desk, in its slot


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A search space, the folder of its results, and the cache that its trials share."""

    space: SearchSpace
    paths: SweepPaths
    cache: Path

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.paths)


def run(sweep: Sweep, connection: cluster.Connection) -> list[TrialRecord]:
    """Run all trials that are still open, and return every record of the sweep. Raises nothing for a failed trial.

    Raises HaltedError where trials are left open by what is no fault of theirs.
    """
    from ray import tune

    records = sweep.ledger.records()
    remaining = len(unfinished(records)) if is_used_up(sweep.space, sweep.ledger) else num_open(sweep.space, records)
    resources = cluster.with_gpus_there_are(sweep.space.resources, grows=connection.grows)
    if not remaining:
        return records
    room = Room(wanted=resources, grows=connection.grows)
    search = SweepSearch(sweep.space, sweep.ledger, room)
    os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = str(STATE_SNAPSHOT_S)
    slots = open_slots(sweep.paths, sweep.cache, resources, connection.address, most=room, waiting=remaining)
    with slots as desk:
        tuner = tune.Tuner(
            tune.with_resources(_trainable(sweep, resources, desk), cluster.driver_resources()),
            tune_config=tune.TuneConfig(
                search_alg=search,
                num_samples=remaining,
                reuse_actors=True,  # the driver of a trial is a process: one serves several
                max_concurrent_trials=resources.concurrent_trials,  # of them, as many as there is room for
                trial_name_creator=lambda trial: trial.config.get("planned", {}).get("trial", trial.trial_id),
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name=f"start-{os.getpid()}",
                storage_path=str(sweep.paths.tune),
                verbose=0,
                callbacks=[],
                stop=WhenHalted(desk),
                failure_config=tune.FailureConfig(max_failures=MOST_DRIVER_LOSSES),
            ),
        )
        results = tuner.fit()
        _check_all_have_ended(sweep, halted_by(desk), [str(error) for error in results.errors])
    return sweep.ledger.records()


def _trainable(sweep: Sweep, resources: Resources, desk: str) -> Any:
    """What Tune runs for each trial. It carries plain values only, so that nothing of this process is pickled."""
    shared = {
        "root": str(sweep.paths.root),
        "cache": str(sweep.cache),
        "metric": sweep.space.objective.metric,
        "mode": sweep.space.objective.mode,
        "stop": to_plain(sweep.space.stop),
        "num_threads": max(1, int(resources.cpus_per_worker)),
    }

    def trial(config: Mapping[str, Any]) -> None:
        from sweeps.trial import run_trial

        run_trial({"task": {**config["planned"], **shared}, "desk": desk})

    return trial


def _check_all_have_ended(sweep: Sweep, halted: str, errors: Sequence[str]) -> None:
    """Raise HaltedError where a trial has no end. None is made up for it: the same command finds it and goes on."""
    if halted:
        raise HaltedError(halted)
    unfinished = [record.trial for record in sweep.ledger.records() if record.end is None]
    if unfinished:
        reason = " ".join(errors[0].split())[:400] if errors else "their drivers ended without a result"
        raise HaltedError(f"{', '.join(unfinished)} did not end: {reason}; the same command goes on")


def keep_best_model(sweep: Sweep, best: TrialRecord | None) -> Location | None:
    """Write the best candidate's weights as a diffusers folder; None where there is no finished candidate."""
    checkpoint = latest_checkpoint(sweep.paths, best.trial) if best else None
    if best is None or checkpoint is None:
        return None
    config = sweep.space.candidate_config(best.start.overrides)
    unfinished = sweep.paths.here / "best_model.tmp"
    shutil.rmtree(unfinished, ignore_errors=True)
    export_model(config, sweep.cache, checkpoint, unfinished, origin=origin_of(sweep.space, sweep.paths, best.trial))
    publish(unfinished, sweep.paths.best_model, last=MODEL_INDEX)
    shutil.rmtree(sweep.paths.here / FETCHED, ignore_errors=True)
    return sweep.paths.best_model


def collect_checkpoints(sweep: Sweep, best: TrialRecord | None) -> int:
    """Delete the checkpoints of ended trials. Returns the bytes freed.

    The last ones of the best candidate, and of those that are confirmed beside it, stay: with more seeds or candidates
    another of them may be the best.
    """
    records = sweep.ledger.records()
    names = {record.trial for record in [*contenders(sweep.space, records), *([best] if best else [])]}
    # Of those trials too: a checkpoint that a kill left behind is in nobody's books.
    return sum(
        checkpoints_of(sweep.paths, record.trial, Workers()).collect(keep=record.trial in names)
        for record in records
        if record.end is not None
    )
