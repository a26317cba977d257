"""One trial on its worker: for each evaluation judge, record, save, and end where the verdict says so."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from prx_model.evaluation import Evaluation, Pause
from prx_model.experiment import Experiment, ExperimentConfig, open_experiment
from prx_model.kept import Kept
from prx_model.metrics.suite import SuiteResult
from prx_model.training.checkpoints import CheckpointError, Checkpoints
from prx_model.training.distributed import Workers, joined_workers
from prx_model.training.window import DivergedError, Window
from sweeps.config import load_config
from sweeps.failures import reason_of
from sweeps.heartbeats import heartbeat, period_s
from sweeps.judging import Judge
from sweeps.ledger import FAILED, FINISHED, STOPPED, End, EvaluationRow, Interruption, Ledger, verdict_row
from sweeps.locks import only_writer
from sweeps.meanwhile import meanwhile
from sweeps.peak_memory import peak_memory_bytes
from sweeps.prompts import keep_prompts
from sweeps.resumption import is_over, resumed, stopped_by
from sweeps.rule import Verdict
from sweeps.stop_requests import StopRequest
from sweeps.storage import SweepPaths
from sweeps.task import Task
from sweeps.trial_folder import checkpoints_of, log_to, save_samples
from sweeps.usage import Rate

logger = logging.getLogger("sweeps.worker")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a trial runs: one of so many workers, on a device. rate: what the trial holds.

    is_leaving: whether this machine will be taken away; None where nobody would say so.
    told: of this process, for people who look for its other logs.
    """

    device: torch.device
    rank: int = 0
    world_size: int = 1
    rate: Rate = field(default_factory=Rate)
    is_leaving: Callable[[], bool] | None = None
    told: str = "a process without Ray"

    def workers(self, config: ExperimentConfig) -> Workers:
        """All workers of the trial, in the process group that Ray Train has made."""
        ends_early = config.repa is not None and config.repa.ends_early
        workers = joined_workers(config.training.parallel, find_unused=ends_early)
        assert (workers.rank, workers.world_size) == (self.rank, self.world_size), (workers, self)
        return workers


class LeavingError(Exception):
    """A machine of the trial will be taken away; the trial is saved, and goes on elsewhere."""


class TrialFailedError(Exception):
    """An error of the trial itself, its cause, after `step` steps.

    orderly: every worker of the trial fails at the same place, and none is left waiting for another.
    """

    def __init__(self, step: int, cause: Exception, *, orderly: bool) -> None:
        super().__init__(str(cause))
        self.step, self.cause, self.orderly = step, cause, orderly


def train_trial(task: Task, place: Place, kept: Kept) -> Iterator[EvaluationRow]:
    """Run one trial from its latest checkpoint, where there is one, to its end.

    On rank 0 every evaluation is yielded when its row is in the ledger and its checkpoint on disk; on other ranks
    nothing is. Raises TrialFailedError, with the log written; its end is not recorded yet. Raises LeavingError on all
    workers where one of their machines will be taken away.
    """
    paths = SweepPaths.at(task.root, task.cache)
    trial = _Trial(task, place, Ledger(paths))
    with ExitStack() as stack:
        trial.send_log = stack.enter_context(log_to(paths, task.trial, place.rank, logger))
        logger.info("%s: rank %d of %d is %s", task.shown, place.rank, place.world_size, place.told)
        try:
            if place.rank == 0:
                trial.check_ours = stack.enter_context(only_writer(paths, task.trial))
            yield from trial.run(kept)
        except LeavingError as notice:
            logger.info("%s", notice)
            raise
        except Exception as error:
            logger.exception("trial %s failed on rank %d", task.trial, place.rank)
            # A gradient that is not finite is so on every worker, a checkpoint fails for all, and a run that cannot be
            # opened has exchanged nothing.
            orderly = trial.experiment is None or isinstance(error, DivergedError | CheckpointError)
            raise TrialFailedError(trial.step, error, orderly=orderly) from error


def record_failure(task: Task, failure: TrialFailedError) -> None:
    """Write the end of a trial that has failed."""
    step = failure.cause.step if isinstance(failure.cause, DivergedError) else failure.step
    ledger = Ledger(SweepPaths.at(task.root, task.cache))
    log = str(ledger.paths.trial_log(task.trial))
    ledger.append(End(trial=task.trial, outcome=FAILED, step=step, reason=reason_of(failure.cause), log=log))


@dataclass
class _Trial:
    """The trial under way."""

    task: Task
    place: Place
    ledger: Ledger
    started: float = field(default_factory=time.perf_counter)
    experiment: Experiment | None = None
    checkpoint_s: float = 0.0  # not yet told in a row
    send_log: Callable[[], None] = lambda: None
    check_ours: Callable[[], None] = lambda: None  # before the ledger is written to
    request: StopRequest = field(init=False)  # rank 0 looks for it

    def __post_init__(self) -> None:
        self.request = StopRequest(self.ledger.paths.stop_request(self.task.trial))

    @property
    def step(self) -> int:
        return self.experiment.state.step if self.experiment else 0

    def run(self, kept: Kept) -> Iterator[EvaluationRow]:
        """The body of a trial: both lines of the design meet here."""
        config = load_config(self.task.config)
        workers, num_steps, verdict = self.place.workers(config), config.training.steps, None
        judge = Judge(self.task, self.ledger, num_steps, config.evaluation.num_samples)
        if self._agreed(self._is_decided(), workers):
            return
        experiment = self.experiment = self._open(config, workers, kept)
        start_s: float = time.perf_counter() - self.started
        with ExitStack() as stack:
            if self.place.rank == 0:
                self._beside(stack)
                self._record_interruptions()
                keep_prompts(self.ledger.paths, experiment.suite.kept_prompts)
            resumed_from = experiment.state.step
            for moment in experiment.evaluations(self._pause_asked):
                if isinstance(moment, Pause):
                    if self._agreed(bool(self.request.told), experiment.workers):
                        break
                    self._pause(experiment)
                    continue
                looks, eval_s = self._look(moment, experiment, judge)
                row = None
                if self.place.rank == 0:
                    verdict = judge.verdict(moment.step, looks)
                    row = self._row(moment, looks, verdict, resumed_from, start_s=start_s, eval_s=eval_s)
                    self._record(row, looks[-1].images, verdict)
                start_s = self.checkpoint_s = 0.0
                self._save(experiment)
                if row is not None:
                    yield row
                if self._agreed(self._is_stopped(verdict), experiment.workers):
                    break
        if self.place.rank == 0:
            by_rule = verdict.reason if verdict is not None and verdict.stop else ""
            by_hand = self.request.told if not by_rule and self.step < num_steps else ""
            self._end(self.step, by_rule=by_rule, by_hand=by_hand)

    def _beside(self, stack: ExitStack) -> None:
        """What rank 0 does beside the training: tell the step now and then, and look for a person's request."""
        paths, trial = self.ledger.paths, self.task.trial
        stack.enter_context(heartbeat(paths, trial, lambda: self.step))
        stack.enter_context(meanwhile(period_s(self.request.place), self.request.look))

    def _pause_asked(self) -> bool:
        """Whether this worker wants a pause soon."""
        return bool(self.request.told) or (self.place.is_leaving is not None and self.place.is_leaving())

    def _pause(self, experiment: Experiment) -> None:
        self._save(experiment)
        logger.info("checkpoint at step %d", self.step)
        self._leave_if_told(experiment.workers)

    def _is_stopped(self, verdict: Verdict | None) -> bool:
        """On rank 0, after an evaluation: by the rule, or by hand."""
        return self.place.rank == 0 and ((verdict is not None and verdict.stop) or bool(self.request.look()))

    def _leave_if_told(self, workers: Workers) -> None:
        """After a checkpoint. Raises LeavingError on all workers alike."""
        if self.place.is_leaving is not None and self._agreed(self.place.is_leaving(), workers):
            raise LeavingError(f"a machine of {self.task.trial} will be taken away; it is saved at step {self.step}")

    def _is_decided(self) -> bool:
        """On rank 0, whether the ledger has the trial's end already; or its stop, by the rule or a person's request,
        which is then made its end.
        """
        if self.place.rank != 0:
            return False
        record = self.ledger.record(self.task.trial)
        if is_over(record):
            logger.info("trial %s has ended already", self.task.trial)
            return True
        by_rule = stopped_by(record) or ""
        by_hand = "" if by_rule else self.request.look()
        if record is None or not (by_rule or by_hand):
            return False
        self._end(record.last_step, by_rule=by_rule, by_hand=by_hand)
        return True

    def _open(self, config: ExperimentConfig, workers: Workers, kept: Kept) -> Experiment:
        experiment = resumed(
            lambda: open_experiment(
                config, Path(self.task.cache), device=self.place.device, workers=workers, kept=kept
            ),
            self._checkpoints(workers),
            self.ledger.record(self.task.trial) if self.place.rank == 0 else None,
            lambda mine: self._agreed(mine, workers),
        )
        step, steps, rank = experiment.state.step, config.training.steps, self.place.rank
        logger.info(
            "trial %s starts at step %d of %d, rank %d in process %d", self.task.trial, step, steps, rank, os.getpid()
        )
        return experiment

    def _look(self, evaluation: Evaluation, experiment: Experiment, judge: Judge) -> tuple[list[SuiteResult], float]:
        """The evaluation on more and more samples, until the verdict needs no more; and the seconds it took."""
        started, looks = time.perf_counter(), []
        for scores in evaluation.looks:
            looks.append(scores)
            more = self.place.rank == 0 and judge.is_open(evaluation.step, looks)
            if not self._agreed(more, experiment.workers):
                break
        return looks, time.perf_counter() - started

    def _row(
        self,
        evaluation: Evaluation,
        looks: list[SuiteResult],
        verdict: Verdict | None,
        resumed_from: int,
        *,
        start_s: float,
        eval_s: float,
    ) -> EvaluationRow:
        return EvaluationRow(
            trial=self.task.trial,
            step=evaluation.step,
            metrics=looks[-1].values,
            num_samples=looks[-1].num_samples,
            nested={str(look.num_samples): look.values for look in looks},
            flow_loss=evaluation.flow_loss,
            repa_loss=evaluation.repa_loss,
            grad_norm=evaluation.grad_norm,
            images_per_s=evaluation.images_per_s,
            start_s=start_s,
            data_s=evaluation.data_s,
            train_s=evaluation.train_s,
            eval_s=eval_s,
            checkpoint_s=self.checkpoint_s,
            peak_memory_bytes=peak_memory_bytes(),
            resumed_from=resumed_from,
            verdict=verdict_row(verdict),
            **asdict(self.place.rate),
        )

    def _record(self, row: EvaluationRow, images: Tensor, verdict: Verdict | None) -> None:
        """Row first, then picture and checkpoint: a kill in between repeats an evaluation and loses none."""
        self.check_ours()
        self.ledger.append(row)
        save_samples(images, self.ledger.paths.sample_grid(self.task.trial, row.step))
        values = ", ".join(f"{name} {value:.4g}" for name, value in row.metrics.items())
        logger.info("step %d: %s (n = %d); loss %.4f", row.step, values, row.num_samples, row.flow_loss)
        if verdict is not None:
            logger.info("verdict: %s", verdict.reason)
        self.send_log()

    def _record_interruptions(self) -> None:
        """Those of this driver's time that the ledger does not have yet."""
        if not self.task.interruptions:
            return
        record = self.ledger.record(self.task.trial)
        known = {row.time for row in record.interruptions} if record else set()
        for one in self.task.interruptions:
            if one["time"] not in known:
                self.check_ours()
                self.ledger.append(Interruption(trial=self.task.trial, step=self.step, **one))

    def _checkpoints(self, workers: Workers) -> Checkpoints:
        return checkpoints_of(self.ledger.paths, self.task.trial, workers)

    def _save(self, experiment: Experiment) -> None:
        """A checkpoint of this step, by all workers together."""
        started = time.perf_counter()
        self._checkpoints(experiment.workers).save(experiment.state.step, experiment.state.save)
        self.checkpoint_s += time.perf_counter() - started

    def _end(self, step: int, *, by_rule: str, by_hand: str) -> None:
        """by_rule, by_hand: why the trial was stopped; both are '' where it was not."""
        self.check_ours()
        since = self.experiment.state.window if self.experiment is not None else Window()
        stopped = by_rule or by_hand
        self.ledger.append(
            End(
                trial=self.task.trial,
                outcome=STOPPED if stopped else FINISHED,
                step=step,
                reason=stopped or f"trained all {step} steps",
                log=str(self.ledger.paths.trial_log(self.task.trial)),
                data_s=since.data_s,
                train_s=since.wall_s - since.data_s,
                checkpoint_s=self.checkpoint_s,
                by_hand=bool(by_hand),
            )
        )

    def _agreed(self, mine: bool, workers: Workers) -> bool:
        """Whether one of the workers says so, known to all: every one leaves a loop at the same turn.

        What is rank 0's to decide, the others answer with False.
        """
        return bool(workers.gather(torch.tensor([float(mine)], device=self.place.device)).sum() > 0)
