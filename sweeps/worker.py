"""The Ray Train side of one trial: for each evaluation judge, record, report, and end where the verdict says so."""

from __future__ import annotations

import fcntl
import logging
import resource
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from prx_model.distributed import Workers
from prx_model.experiment import Experiment, ExperimentConfig, open_experiment
from prx_model.training import DivergedError, Evaluation
from sweeps.config import load_config
from sweeps.ledger import BASELINE, FAILED, FINISHED, STOPPED, End, EvaluationRow, Ledger, verdict_row
from sweeps.rule import StopConfig, Verdict, judge
from sweeps.storage import SweepPaths

HEARTBEAT_S = 2.0
ORPHAN_WAIT_S = 60

logger = logging.getLogger("sweeps.worker")


@dataclass(frozen=True, kw_only=True)
class Task:
    """A trial as it travels to its workers: plain values only."""

    trial: str
    role: str
    config: Mapping[str, Any]
    root: str
    cache: str
    metric: str
    mode: Literal["min", "max"]
    stop: Mapping[str, Any]
    num_threads: int

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def train_trial(task_settings: dict[str, Any]) -> None:
    """Ray Train's loop function: runs one trial, from its latest checkpoint where there is one.

    An error of the trial itself (divergence, out of memory, an exception) is recorded as its end and does not leave
    this function: Ray would only try the same thing again. A worker that dies is another matter: Ray restarts it.
    """
    task = Task(**task_settings)
    ledger = Ledger(SweepPaths(Path(task.root)))
    with _log_to(ledger.paths.trial_log(task.trial)):
        experiment: Experiment | None = None
        try:
            torch.set_num_threads(task.num_threads)
            experiment = _open(task)
            _run(task, ledger, experiment)
        except Exception as error:
            logger.exception("trial %s failed", task.trial)
            step = experiment.state.step if experiment else 0
            _record_failure(task, ledger, error, step)


def _open(task: Task) -> Experiment:
    from ray import train

    config = load_config(task.config)
    context = train.get_context()
    workers = _workers(context.get_world_rank(), context.get_world_size(), config)
    checkpoint = train.get_checkpoint()
    with checkpoint.as_directory() if checkpoint else nullcontext() as folder:
        experiment = open_experiment(
            config,
            Path(task.cache),
            device=_device(),
            workers=workers,
            checkpoint=None if folder is None else Path(folder),
        )
    logger.info("trial %s starts at step %d of %d", task.trial, experiment.state.step, config.training.steps)
    return experiment


def _run(task: Task, ledger: Ledger, experiment: Experiment) -> None:
    """The body of a trial: both lines of the design meet here."""
    num_steps, resumed_from = experiment.config.training.steps, experiment.state.step
    stop, last = StopConfig(**task.stop), None
    with _only_writer(ledger.paths, task, experiment.workers), _heartbeat(ledger.paths, task, experiment):
        for evaluation in experiment.evaluations():
            if experiment.workers.rank == 0:
                last = _judged(task, ledger, evaluation, stop, num_steps)
                _record(task, ledger, evaluation, last, resumed_from)
            _report(task, evaluation, experiment)
            if _any_stop(last, experiment.workers):
                break
    if experiment.workers.rank == 0:
        stopped = last is not None and last.stop
        reason = last.reason if stopped and last else f"trained all {num_steps} steps"
        _end(task, ledger, STOPPED if stopped else FINISHED, experiment.state.step, reason)


def _judged(task: Task, ledger: Ledger, evaluation: Evaluation, stop: StopConfig, num_steps: int) -> Verdict | None:
    """The verdict on a candidate's curve with this evaluation added. The baseline is not judged."""
    if task.role == BASELINE:
        return None
    record = ledger.record(task.trial)
    curve = dict(record.curve(task.metric)) if record else {}
    curve[evaluation.step] = evaluation.scores.values[task.metric]
    verdict = judge(curve, ledger.baseline_curves(task.metric), stop, num_steps=num_steps, mode=task.mode)
    # The last evaluation ends the trial anyway: there is nothing left to save by stopping it.
    return Verdict(**{**asdict(verdict), "stop": False}) if evaluation.step >= num_steps else verdict


def _record(task: Task, ledger: Ledger, evaluation: Evaluation, verdict: Verdict | None, resumed_from: int) -> None:
    """Row first, then picture and checkpoint: a kill in between repeats an evaluation and loses none."""
    ledger.append(
        EvaluationRow(
            trial=task.trial,
            step=evaluation.step,
            metrics=evaluation.scores.values,
            num_samples=evaluation.scores.num_samples,
            flow_loss=evaluation.flow_loss,
            repa_loss=evaluation.repa_loss,
            grad_norm=evaluation.grad_norm,
            images_per_s=evaluation.images_per_s,
            train_s=evaluation.train_s,
            eval_s=evaluation.eval_s,
            peak_memory_bytes=_peak_memory_bytes(),
            resumed_from=resumed_from,
            verdict=verdict_row(verdict),
        )
    )
    _save_samples(evaluation.scores.images, ledger.paths.sample_grid(task.trial, evaluation.step))
    values = ", ".join(f"{name} {value:.4g}" for name, value in evaluation.scores.values.items())
    logger.info("step %d: %s; loss %.4f", evaluation.step, values, evaluation.flow_loss)
    if verdict is not None:
        logger.info("verdict: %s", verdict.reason)


def _report(task: Task, evaluation: Evaluation, experiment: Experiment) -> None:
    """Hand metrics and checkpoint to Ray, which keeps the latest and the best."""
    from ray import train

    metrics = {**evaluation.scores.values, "step": evaluation.step, "trial": task.trial}
    if experiment.workers.rank != 0:
        train.report(metrics)
        return
    with tempfile.TemporaryDirectory() as folder:
        experiment.state.save(Path(folder))
        train.report(metrics, checkpoint=train.Checkpoint.from_directory(folder))


def _any_stop(verdict: Verdict | None, workers: Workers) -> bool:
    """Rank 0's verdict, known to all: every worker leaves the loop at the same step."""
    stop = verdict is not None and verdict.stop
    return bool(workers.gather(torch.tensor([float(stop)], device=_device()))[0] > 0)


def _record_failure(task: Task, ledger: Ledger, error: Exception, step: int) -> None:
    if isinstance(error, DivergedError):
        step, reason = error.step, f"diverged: {error}"
    elif isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        reason = f"out of memory: {' '.join(str(error).split())}"
    else:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(frame.filename).name}:{frame.lineno}"
        reason = f"{type(error).__name__}: {' '.join(str(error).split())} ({place})"
    _end(task, ledger, FAILED, step, reason)


def _end(task: Task, ledger: Ledger, outcome: str, step: int, reason: str) -> None:
    log = str(ledger.paths.trial_log(task.trial))
    ledger.append(End(trial=task.trial, outcome=outcome, step=step, reason=reason, log=log))


def _device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    from ray.train.torch import get_device

    return get_device()


def _workers(rank: int, world_size: int, config: ExperimentConfig) -> Workers:
    if world_size == 1:
        return Workers()
    stops_repa = config.repa is not None and config.repa.schedule == "stop"

    def wrap(module: nn.Module) -> nn.Module:
        # Where REPA stops in the middle of the run, the projector has no gradient from there on.
        return nn.parallel.DistributedDataParallel(module, find_unused_parameters=stops_repa)

    return Workers(rank=rank, world_size=world_size, wrap=wrap, gather=_all_gather)


def _all_gather(tensor: Tensor) -> Tensor:
    parts = [torch.empty_like(tensor) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def _peak_memory_bytes() -> int:
    """Largest resident size of this process so far, or of the GPU's allocations where there is one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _save_samples(images: Tensor, path: Path) -> None:
    """A square-ish grid of uint8 images [k, 3, R, R] as PNG, made visible as a whole."""
    from PIL import Image

    count, _, side, _ = images.shape
    columns = max(1, round(count**0.5))
    rows = -(-count // columns)
    grid = torch.full((3, rows * (side + 1) - 1, columns * (side + 1) - 1), 255, dtype=torch.uint8)
    for i, image in enumerate(images):
        top, left = (i // columns) * (side + 1), (i % columns) * (side + 1)
        grid[:, top : top + side, left : left + side] = image
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    Image.fromarray(grid.permute(1, 2, 0).cpu().numpy()).save(unfinished, format="png")
    unfinished.replace(path)


@contextmanager
def _only_writer(paths: SweepPaths, task: Task, workers: Workers) -> Iterator[None]:
    """Wait for an earlier process of this trial to go: after its driver is killed, a worker lives on for seconds."""
    if workers.rank != 0:
        yield
        return
    with paths.trial_lock(task.trial).open("w") as file:
        for _ in range(ORPHAN_WAIT_S):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                time.sleep(1)
        else:
            raise RuntimeError(f"another process still runs {task.trial} after {ORPHAN_WAIT_S} s")
        yield


@contextmanager
def _heartbeat(paths: SweepPaths, task: Task, experiment: Experiment) -> Iterator[None]:
    """Write the step every few seconds, so that progress shows between evaluations."""
    if experiment.workers.rank != 0:
        yield
        return
    done = threading.Event()

    def beat() -> None:
        while not done.wait(HEARTBEAT_S):
            paths.heartbeat(task.trial).write_text(str(experiment.state.step))

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Send this package's log, and warnings of others, to the trial's own file."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root, previous = logging.getLogger(), logger.level
    root.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        logger.setLevel(previous)
        handler.close()
