"""One Tune trial = one configuration: a light driver that hands its trial to a slot and passes on what it hears."""

from __future__ import annotations

from typing import Any

from sweeps.ledger import FAILED, End, Ledger
from sweeps.slots import TrialLostError, in_a_slot
from sweeps.storage import SweepPaths
from sweeps.task import Task


def run_trial(settings: dict[str, Any]) -> None:
    """Tune's trainable. `settings` holds the `task` of the trial and the name of the `desk`."""
    from ray import tune

    task = Task(**settings["task"])
    print(f"{task.shown} is driven by this process", flush=True)  # Ray keeps it in the process's own file
    try:
        for metrics in in_a_slot(settings["desk"], task):
            tune.report(metrics)
    except TrialLostError as lost:
        _record_lost(task, str(lost))


def _record_lost(task: Task, reason: str) -> None:
    """Its workers died and nobody else could record it."""
    ledger = Ledger(SweepPaths.at(task.root, task.cache))
    record = ledger.record(task.trial)
    if record is not None and record.end is not None:
        return
    log = str(ledger.paths.trial_log(task.trial))
    step = record.last_step if record else 0
    ledger.append(End(trial=task.trial, outcome=FAILED, step=step, reason=f"workers lost: {reason}", log=log))
