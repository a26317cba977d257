"""One Tune trial = one configuration: a light driver that runs a Ray Train run of its own and waits for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sweeps.ledger import FAILED, End, Ledger
from sweeps.storage import SweepPaths
from sweeps.worker import Task, train_trial

WORKER_DEATHS = 2  # restarts of a trial whose worker died, each from its latest checkpoint
CONTROLLER_DEATHS = 2  # Ray's default is to try for ever


def run_trial(settings: dict[str, Any]) -> None:
    """Tune's trainable. `settings` holds the `task` and the `resources` of one trial.

    The run is named after the trial, in a folder of its own: started again, it goes on from its checkpoint.
    """
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    task, resources = Task(**settings["task"]), settings["resources"]
    paths = SweepPaths(Path(task.root))
    trainer = TorchTrainer(
        train_trial,
        train_loop_config=task.plain(),
        scaling_config=ScalingConfig(
            num_workers=resources["workers"],
            use_gpu=resources["gpus_per_worker"] > 0,
            resources_per_worker=_per_worker(resources),
        ),
        run_config=RunConfig(
            name=task.trial,
            storage_path=str(paths.trials),
            callbacks=[TuneReportCallback()],
            failure_config=FailureConfig(max_failures=WORKER_DEATHS, controller_failure_limit=CONTROLLER_DEATHS),
            checkpoint_config=CheckpointConfig(
                num_to_keep=1, checkpoint_score_attribute=task.metric, checkpoint_score_order=task.mode
            ),
            worker_runtime_env={"env_vars": {"RAY_ADDRESS": settings["address"]}},
        ),
    )
    try:
        trainer.fit()
    except Exception as error:
        _record_lost(task, paths, error)


def _per_worker(resources: dict[str, Any]) -> dict[str, float]:
    """Ray's names for what a worker reserves."""
    reserved = {"CPU": float(resources["cpus_per_worker"])}
    if resources["gpus_per_worker"] > 0:
        reserved["GPU"] = float(resources["gpus_per_worker"])
    return reserved


def _record_lost(task: Task, paths: SweepPaths, error: Exception) -> None:
    """The workers died and could not be restarted, so nobody else has recorded it."""
    ledger = Ledger(paths)
    record = ledger.record(task.trial)
    if record is not None and record.end is not None:
        return
    reason = f"workers lost: {type(error).__name__}: {' '.join(str(error).split())[:400]}"
    step = record.last_step if record else 0
    ledger.append(End(trial=task.trial, outcome=FAILED, step=step, reason=reason, log=str(paths.trial_log(task.trial))))
