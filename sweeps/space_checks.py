"""What only shows once trials are built: both ends of every range, alone and in pairs; points; the yardstick."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from prx_model.experiment import EvaluationConfig, ExperimentConfig
from prx_model.metrics.features import EXTRACTORS
from prx_model.metrics.table import METRICS, network_of
from prx_model.teachers.table import TEACHERS
from prx_model.training.config import COSINE, MUON
from sweeps.config import ConfigError, nearest
from sweeps.space import SearchSpace


def check_trials(space: SearchSpace) -> None:
    """Build the baseline, and the candidates at the corners of the space. Raises ConfigError."""
    baseline = space.baseline_config(space.first_seed)
    _check_metrics(space, baseline)
    _check_workers(space, baseline)
    _check_seeds(space)
    candidates = []
    for varied, overrides in _corners(space):
        try:
            config = space.candidate_config(overrides)
        except ConfigError as error:
            raise _placed(error, varied, overrides) from error
        _check_teacher(space, config)
        candidates.append(config)
    _check_all_are_read(space, candidates)


def check_points(space: SearchSpace) -> None:
    """Build every point. Raises ConfigError."""
    for i, point in enumerate(space.points):
        try:
            space.candidate_config(point)
        except ConfigError as error:
            raise ConfigError(f"points[{i}]", str(error)) from error


def _corners(space: SearchSpace) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """The dimensions that leave their first end, and the overrides: none, then one at a time, then every two."""
    first = space.first_ends()
    yield (), first
    for count in (1, 2):
        for dimensions in itertools.combinations(space.dimensions, count):
            for ends in itertools.product(*(dimension.ends()[1:] for dimension in dimensions)):
                varied = tuple(dimension.path for dimension in dimensions)
                yield varied, {**first, **dict(zip(varied, ends, strict=True))}


def _placed(error: ConfigError, varied: tuple[str, ...], overrides: dict[str, Any]) -> ConfigError:
    """The error under the path in the file: what is searched stands under `space`."""
    searched = [path for path in overrides if error.path == path or error.path.startswith((f"{path}.", f"{path}["))]
    if searched:
        return ConfigError(f"space.{error.path}", error.problem)
    if not varied:
        return error
    values = ", ".join(f"{path} {overrides[path]!r}" for path in varied)
    return ConfigError(f"space.{varied[-1]}", f"got {values}, which is not possible: {error}")


def _check_metrics(space: SearchSpace, config: ExperimentConfig) -> None:
    """Metrics that exist and have enough samples, among them the objective."""
    evaluation, objective = config.evaluation, space.objective
    for metric in evaluation.metrics:
        if metric not in METRICS:
            raise ConfigError("evaluation.metrics", f"got {metric!r}{nearest(metric, METRICS)}")
    if objective.metric not in evaluation.metrics:
        problem = f"got {objective.metric!r}, which is not in evaluation.metrics"
        raise ConfigError("objective.metric", f"{problem}{nearest(objective.metric, evaluation.metrics)}")
    if objective.mode != METRICS[objective.metric].direction:
        direction = METRICS[objective.metric].direction
        raise ConfigError("objective.mode", f"got {objective.mode}, allowed is {direction} for {objective.metric}")
    _check_num_samples(evaluation, config)


READERS = {
    "repa.projector_width": ("repa.projector mlp", lambda c: c.repa is not None and c.repa.projector == "mlp"),
    "repa.stop_at": (
        "repa.schedule stop, linear or cosine",
        lambda c: c.repa is not None and c.repa.schedule != "constant",
    ),
    "training.momentum": ("training.optimizer muon", lambda c: c.training.optimizer == MUON),
    "training.final_learning_rate": ("training.schedule cosine", lambda c: c.training.schedule == COSINE),
}


def _check_all_are_read(space: SearchSpace, candidates: Sequence[ExperimentConfig]) -> None:
    """Nothing is searched that no candidate would read: the sweep's answer about it would be noise."""
    for dimension in space.dimensions:
        reader, reads = READERS.get(dimension.path, ("", None))
        if reads is not None and not any(map(reads, candidates)):
            raise ConfigError(f"space.{dimension.path}", f"got {dimension}, which is read only with {reader}")


def _check_workers(space: SearchSpace, config: ExperimentConfig) -> None:
    """A global batch that the workers of a trial can share."""
    count, workers = config.training.batch_size, space.resources.workers
    if count % workers:
        raise ConfigError("resources.workers", f"got {workers}, allowed is a divisor of training.batch_size {count}")


def _check_seeds(space: SearchSpace) -> None:
    """A baseline that can come to where candidates are judged."""
    needed, there = space.stop.min_seeds, space.budget.baseline_seeds
    if needed > there:
        raise ConfigError("stop.min_seeds", f"got {needed}, allowed is at most budget.baseline_seeds {there}")


def _check_num_samples(evaluation: EvaluationConfig, config: ExperimentConfig) -> None:
    for metric in evaluation.metrics:
        spec = METRICS[metric]
        counts = {
            "evaluation.num_samples": (evaluation.num_samples, "generated"),
            "data.num_heldout": (config.data.num_heldout, "reference"),
        }
        for path, (count, of) in counts.items():
            try:
                spec.check_num_samples(count, EXTRACTORS[spec.extractor].width, of)
            except ValueError as error:
                raise ConfigError(path, f"got {count}; {metric} has {error}") from error


def _check_teacher(space: SearchSpace, config: ExperimentConfig) -> None:
    """A teacher that exists, and that is not the network which the objective is scored by.

    A sweep over teachers must not please its own yardstick. Metrics beside the objective decide nothing and may.
    """
    if config.repa is None:
        return
    teacher, metric = config.repa.teacher, space.objective.metric
    searched = any(dimension.path in ("repa", "repa.teacher") for dimension in space.dimensions)
    path = "space.repa.teacher" if searched else "repa.teacher"
    if teacher not in TEACHERS:
        raise ConfigError(path, f"got {teacher!r}{nearest(teacher, TEACHERS)}")
    if network_of(metric) == teacher:
        raise ConfigError(
            path, f"got {teacher}, which also scores the objective {metric}; allowed is any other teacher or objective"
        )
