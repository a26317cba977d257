"""What a trial that is started again may build on: its ledger first, and a checkpoint that agrees with it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import torch

from prx_model.experiment import Experiment
from prx_model.training.checkpoints import Checkpoints
from sweeps.ledger import TrialRecord
from sweeps.obstacles import obstacle

logger = logging.getLogger("sweeps.worker")


def is_over(record: TrialRecord | None) -> bool:
    """Whether the trial has ended: an earlier process of it may have outlived the driver that was killed."""
    return record is not None and record.end is not None


def stopped_by(record: TrialRecord | None) -> str | None:
    """Why the rule has stopped the trial, where its process was killed before it could write the end."""
    last = record.evaluations[-1] if record is not None and record.evaluations else None
    if last is None or not last.verdict or not last.verdict.get("stop"):
        return None
    return str(last.verdict["reason"])


def resumed(
    open_run: Callable[[], Experiment],
    checkpoints: Checkpoints,
    record: TrialRecord | None,
    any_of_us: Callable[[bool], bool],
) -> Experiment:
    """The run at its newest checkpoint; at its beginning where there is none, or none that can be built on.

    A checkpoint that cannot be read, or that is ahead of the ledger, as after a power cut on a disk that had promised
    too much, goes away: the trial starts over, or from the one in reserve, to the same numbers. All workers call it
    together.
    record: of the trial, on rank 0; None on the others, whose view of the ledger may be older.
    any_of_us: whether one worker at least says so, known to all.
    """
    passed_over: set[str] = set()
    while True:
        run, checkpoint = open_run(), checkpoints.latest()
        if checkpoint is None or checkpoint.name in passed_over:  # one that would not go
            return run
        problem = _problem(run, checkpoint, record)
        if not any_of_us(bool(problem)):
            return run
        back = "the one in reserve is looked at" if checkpoints.has_reserve else "the trial starts over"
        logger.warning("%s cannot be built on, %s: %s", checkpoint, back, problem or "another worker says so")
        passed_over.add(checkpoint.name)
        checkpoints.remove(checkpoint)


def _problem(run: Experiment, checkpoint: Path, record: TrialRecord | None) -> str:
    """Load the checkpoint; what is wrong with it, '' for nothing."""
    try:
        run.state.load(checkpoint)
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        if obstacle(error, checkpoint) is not None:
            raise
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    if record is None:
        return ""
    known = {row.step for row in record.evaluations}
    missing = [step for step in run.config.training.evaluation_steps() if step <= run.state.step and step not in known]
    return f"the ledger has no evaluation at step {missing[0]}" if missing else ""
