"""A search-space file -> SearchSpace. Every path and both ends of every range are checked here, before anything starts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prx_model.experiment import ExperimentConfig
from prx_model.metrics.table import metric_spec, network_of
from prx_model.model import MODELS
from prx_model.teachers import teacher_spec
from sweeps.config import (
    ConfigError,
    build,
    fingerprint,
    listing,
    load_config,
    nearest,
    override,
    setting_paths,
    to_plain,
)
from sweeps.rule import StopConfig

SECTIONS = ("model", "data", "training", "evaluation", "repa", "seed")  # of one trial
SWEEP_KEYS = ("question", "objective", "baseline", "space", "points", "stop", "budget", "resources", "profiles")
KINDS = ("choice", "uniform", "log_uniform", "int", "fraction")
FRACTION_OF = {"repa.depth": "model.depth"}  # what a fraction is a fraction of


class SpaceError(ValueError):
    """A search-space file that cannot be run: one line with file, dotted path, what came, what is allowed."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What is minimised or maximised: a metric of the trial's evaluation."""

    metric: str
    mode: str = "min"

    def __post_init__(self) -> None:
        if self.mode not in ("min", "max"):
            raise ValueError(f"mode: got {self.mode!r}, allowed is min or max")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How many trials: candidates that Optuna may choose, and seeds of the baseline."""

    candidates: int = 24
    baseline_seeds: int = 3

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise ValueError(f"candidates: got {self.candidates}, allowed is an integer of at least 1")
        if self.baseline_seeds < 2:
            raise ValueError(
                f"baseline_seeds: got {self.baseline_seeds}, allowed is at least 2: one seed has no spread"
            )


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one trial takes. None of it changes a result, so none of it is part of a fingerprint."""

    workers: int = 1
    cpus_per_worker: float = 1
    gpus_per_worker: float = 0
    concurrent_trials: int = 2

    def __post_init__(self) -> None:
        if self.workers < 1 or self.concurrent_trials < 1:
            raise ValueError(
                f"workers, concurrent_trials: got {self.workers}, {self.concurrent_trials}, allowed is at least 1"
            )
        if self.cpus_per_worker <= 0 or self.gpus_per_worker < 0:
            raise ValueError(
                f"cpus_per_worker, gpus_per_worker: got {self.cpus_per_worker}, {self.gpus_per_worker}, "
                "allowed is above 0, and 0 or more"
            )


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """One searched setting. `values` for a choice, else low and high (included); log: sampled in the logarithm."""

    path: str
    kind: str  # 'choice' | 'float' | 'int'
    values: tuple[Any, ...] = ()
    low: float = 0
    high: float = 0
    log: bool = False

    def ends(self) -> list[Any]:
        """Values that show whether the whole dimension is possible."""
        if self.kind == "choice":
            return list(self.values)
        return [int(self.low), int(self.high)] if self.kind == "int" else [self.low, self.high]

    def holds(self, value: Any) -> bool:
        if self.kind == "choice":
            return value in self.values
        return isinstance(value, int | float) and self.low <= value <= self.high

    def __str__(self) -> str:
        if self.kind == "choice":
            return listing(str(value) for value in self.values)
        return f"{self.low:g} to {self.high:g}" + (" (log)" if self.log else "")


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """The question, resolved for one profile.

    base: a trial's settings before overrides, plain. baseline: the overrides that make it the baseline.
    points: overrides to try first, fractions already resolved.
    """

    file: str
    name: str
    profile: str
    question: str
    objective: Objective
    base: Mapping[str, Any]
    baseline: Mapping[str, Any]
    dimensions: tuple[Dimension, ...]
    points: tuple[Mapping[str, Any], ...]
    stop: StopConfig
    budget: Budget
    resources: Resources

    def baseline_config(self, seed: int) -> ExperimentConfig:
        return load_config(override(self.base, {**self.baseline, "seed": seed}))

    def candidate_config(self, overrides: Mapping[str, Any]) -> ExperimentConfig:
        """Candidates take the first baseline's seed: same weights to start from, same data order, same noise."""
        return load_config(override(self.base, {**overrides, "seed": self.first_seed}))

    @property
    def first_seed(self) -> int:
        return int(self.base.get("seed", 0))

    @property
    def baseline_seeds(self) -> list[int]:
        return [self.first_seed + i for i in range(self.budget.baseline_seeds)]

    @property
    def fingerprint(self) -> str:
        """Of all that decides a result. More candidates, or other resources, continue the same sweep."""
        return fingerprint(
            {
                "base": to_plain(self.baseline_config(self.first_seed)),
                "candidates": self.base.get("repa"),
                "baseline": self.baseline,
                "space": [[d.path, d.kind, list(d.values), d.low, d.high, d.log] for d in self.dimensions],
                "points": self.points,
                "objective": to_plain(self.objective),
                "stop": to_plain(self.stop),
            }
        )


def load_space(file: Path, profile: str) -> SearchSpace:
    """Read and check a search-space file under one of its profiles. Raises SpaceError."""
    return resolve(read_space(file), file=file, profile=profile)


def read_space(file: Path) -> dict[str, Any]:
    """The file as a plain mapping. Raises SpaceError where it is missing, empty or no YAML mapping."""
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if not file.is_file():
        there = "a folder" if file.is_dir() else "no such file"
        raise SpaceError(f"{file}: {there}; allowed is a search-space file, such as search_spaces/repa.yaml")
    try:
        content = OmegaConf.to_container(OmegaConf.load(file), resolve=True)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise SpaceError(f"{file}: {where}not YAML: {getattr(error, 'problem', None) or error}") from error
    except (OmegaConfBaseException, OSError, UnicodeDecodeError) as error:
        raise SpaceError(f"{file}: {' '.join(str(error).split())}") from error
    if not content:
        raise SpaceError(f"{file}: the file is empty; needed are at least objective, space and profiles")
    if not isinstance(content, dict):
        raise SpaceError(f"{file}: got a {type(content).__name__}, allowed is a mapping with {listing(SWEEP_KEYS)}")
    return {str(key): value for key, value in content.items()}


def profiles_of(content: Mapping[str, Any]) -> list[str]:
    profiles = content.get("profiles")
    return list(profiles) if isinstance(profiles, Mapping) else []


def resolve(content: Mapping[str, Any], *, file: Path, profile: str) -> SearchSpace:
    """Apply the profile and check everything. Raises SpaceError."""
    try:
        space = _Resolver(_with_profile(content, profile), file, profile).space()
        _check_trials(space)
    except ConfigError as error:
        raise SpaceError(f"{file}: {error}") from error
    return space


def _with_profile(content: Mapping[str, Any], profile: str) -> dict[str, Any]:
    """The file's content with the profile's settings laid over it."""
    allowed = (*SWEEP_KEYS, *SECTIONS)
    for key in content:
        if key not in allowed:
            raise ConfigError(key, f"no such setting{nearest(key, allowed)}")
    names = profiles_of(content)
    if profile not in names:
        raise ConfigError("profiles", f"got {profile!r}, allowed is {listing(names) or 'nothing: the file has none'}")
    merged = override({key: value for key, value in content.items() if key != "profiles"}, {})
    settings = content["profiles"][profile]
    if not isinstance(settings, Mapping):
        raise ConfigError(f"profiles.{profile}", f"got {settings!r}, allowed is a section")
    for key, value in settings.items():
        _lay_over(merged, str(key), value, f"profiles.{profile}.{key}", allowed)
    return merged


def _lay_over(merged: dict[str, Any], key: str, value: Any, path: str, allowed: tuple[str, ...]) -> None:
    """Set one entry of a profile. A dotted key sets one value below a section ('space.repa.teacher', 'stop.margin')."""
    section, _, rest = key.partition(".")
    if section not in allowed or section == "profiles":
        raise ConfigError(path, f"no such setting{nearest(section, allowed)}")
    if not rest:
        merged[section] = value
        return
    holder = merged.setdefault(section, {})
    if not isinstance(holder, dict):
        raise ConfigError(path, f"{section} is a value, not a section")
    if section == "space":
        holder[rest] = value  # the keys of `space` are themselves dotted paths
    else:
        merged[section] = override(holder, {rest: value})


class _Resolver:
    """One merged file on its way to a SearchSpace; each method checks one section."""

    def __init__(self, merged: dict[str, Any], file: Path, profile: str) -> None:
        self.merged, self.file, self.profile = merged, file, profile
        self.base = self._base()
        self.paths = setting_paths()

    def space(self) -> SearchSpace:
        merged = self.merged
        dimensions = self._dimensions()
        return SearchSpace(
            file=str(self.file),
            name=self.file.stem,
            profile=self.profile,
            question=str(merged.get("question") or "").strip(),
            objective=self._required(Objective, "objective"),
            base=self.base,
            baseline=self._baseline(),
            dimensions=dimensions,
            points=self._points(dimensions),
            stop=build(StopConfig, merged.get("stop") or {}, "stop"),
            budget=build(Budget, merged.get("budget") or {}, "budget"),
            resources=build(Resources, merged.get("resources") or {}, "resources"),
        )

    def _required(self, cls: type, section: str) -> Any:
        if section not in self.merged:
            raise ConfigError(section, "missing")
        return build(cls, self.merged[section], section)

    def _base(self) -> dict[str, Any]:
        """A trial's settings, with a model's name replaced by its configuration."""
        base = {key: self.merged[key] for key in SECTIONS if key in self.merged}
        model = base.get("model")
        if isinstance(model, str):
            if model not in MODELS:
                raise ConfigError("model", f"got {model!r}{nearest(model, MODELS)}")
            base["model"] = to_plain(MODELS[model])
        plain = override(base, {"repa": None})
        load_config(plain)
        return override(base, {})

    def _baseline(self) -> dict[str, Any]:
        overrides = self.merged.get("baseline")
        if not isinstance(overrides, Mapping) or not overrides:
            raise ConfigError("baseline", f"got {overrides!r}, allowed is a section such as {{repa: null}}")
        for path in overrides:
            self._check_path(str(path), f"baseline.{path}")
        return {str(path): value for path, value in overrides.items()}

    def _check_path(self, path: str, where: str) -> None:
        if path not in self.paths:
            raise ConfigError(where, f"no such setting{nearest(path, self.paths)}")

    def _dimensions(self) -> tuple[Dimension, ...]:
        searched = self.merged.get("space")
        if not isinstance(searched, Mapping) or not searched:
            raise ConfigError(
                "space", f"got {searched!r}, allowed is a section of settings, each with one of {listing(KINDS)}"
            )
        for path in searched:
            self._check_path(str(path), f"space.{path}")
        return tuple(self._dimension(str(path), spec, f"space.{path}") for path, spec in searched.items())

    def _dimension(self, path: str, spec: Any, where: str) -> Dimension:
        if not isinstance(spec, Mapping) or len(spec) != 1:
            raise ConfigError(
                where, f"got {spec!r}, allowed is one of {listing(KINDS)}, as in {{log_uniform: [0.05, 2.0]}}"
            )
        kind, value = next(iter(spec.items()))
        if kind not in KINDS:
            raise ConfigError(f"{where}.{kind}", f"no such range{nearest(str(kind), KINDS)}")
        if kind == "choice":
            if not isinstance(value, list) or not value:
                raise ConfigError(f"{where}.choice", f"got {value!r}, allowed is a list of at least one value")
            return Dimension(path=path, kind="choice", values=tuple(value))
        low, high = _range(value, f"{where}.{kind}", kind)
        if kind == "fraction":
            low, high = (self._of_fraction(path, end, f"{where}.fraction") for end in (low, high))
        as_int = kind in ("int", "fraction")
        return Dimension(path=path, kind="int" if as_int else "float", low=low, high=high, log=kind == "log_uniform")

    def _of_fraction(self, path: str, fraction: float, where: str) -> int:
        """The whole number, at least 1, that is nearest to the fraction of its reference (halves go up)."""
        if path not in FRACTION_OF:
            raise ConfigError(where, f"a fraction is understood for {listing(FRACTION_OF)} only")
        if not 0 < fraction <= 1:
            raise ConfigError(where, f"got {fraction:g}, allowed is above 0, at most 1")
        return max(1, math.floor(fraction * load_config(override(self.base, {"repa": None})).model.depth + 0.5))

    def _points(self, dimensions: tuple[Dimension, ...]) -> tuple[dict[str, Any], ...]:
        points = self.merged.get("points") or []
        if not isinstance(points, list):
            raise ConfigError("points", f"got {points!r}, allowed is a list of settings to try first")
        return tuple(self._point(point, dimensions, f"points[{i}]") for i, point in enumerate(points))

    def _point(self, point: Any, dimensions: tuple[Dimension, ...], where: str) -> dict[str, Any]:
        names = [dimension.path for dimension in dimensions]
        if not isinstance(point, Mapping) or sorted(map(str, point)) != sorted(names):
            raise ConfigError(where, f"got {point!r}, allowed is one value for each of {listing(names)}")
        resolved = {}
        for dimension in dimensions:
            value, path = point[dimension.path], f"{where}.{dimension.path}"
            if dimension.path in FRACTION_OF and isinstance(value, float):
                value = self._of_fraction(dimension.path, value, path)
            if not dimension.holds(value):
                raise ConfigError(path, f"got {value!r}, allowed is {dimension}")
            resolved[dimension.path] = value
        return resolved


def _range(value: Any, where: str, kind: str) -> tuple[float, float]:
    numbers = isinstance(value, list) and len(value) == 2 and all(type(end) in (int, float) for end in value)
    if not numbers or not all(math.isfinite(end) for end in value):
        raise ConfigError(where, f"got {value!r}, allowed is [low, high], two finite numbers")
    low, high = value
    if not low < high:
        raise ConfigError(where, f"got low {low:g} and high {high:g}, allowed is low below high")
    if kind == "log_uniform" and low <= 0:
        raise ConfigError(where, f"got low {low:g}, allowed is above 0 for a logarithmic range")
    if kind == "int" and not all(isinstance(end, int) for end in value):
        raise ConfigError(where, f"got {value!r}, allowed are two integers")
    return low, high


def _check_trials(space: SearchSpace) -> None:
    """Build the baseline and a candidate at every end of every range, and check what spans several settings."""
    metrics = space.baseline_config(space.first_seed).evaluation.metrics
    for metric in metrics:
        _checked("evaluation.metrics", metric_spec, metric)
    objective = space.objective.metric
    if objective not in metrics:
        raise ConfigError("objective.metric", f"got {objective!r}{nearest(objective, metrics)}")
    teacher_path = "space.repa.teacher" if "repa.teacher" in {d.path for d in space.dimensions} else "repa.teacher"
    for dimension, candidate in _extreme_candidates(space):
        if candidate.repa is not None:
            _checked(teacher_path, teacher_spec, candidate.repa.teacher)
            _checked("objective.metric", _check_yardstick, objective, candidate.repa.teacher)


def _extreme_candidates(space: SearchSpace) -> Iterator[tuple[Dimension, ExperimentConfig]]:
    """A candidate at each end of each dimension, the others at their first value."""
    first = {dimension.path: dimension.ends()[0] for dimension in space.dimensions}
    for dimension in space.dimensions:
        for end in dimension.ends():
            try:
                yield dimension, space.candidate_config({**first, dimension.path: end})
            except ConfigError as error:
                raise ConfigError(f"space.{dimension.path}", f"{end!r} is not possible: {error}") from error


def _checked(path: str, check: Callable[..., object], *arguments: object) -> None:
    try:
        check(*arguments)
    except ValueError as error:
        raise ConfigError(path, str(error)) from error


def _check_yardstick(metric: str, teacher: str) -> None:
    """The objective's network is never a teacher: a sweep over teachers must not please, or change, its own yardstick."""
    if network_of(metric) == teacher:
        raise ValueError(
            f"{metric} is scored by {network_of(metric)}, which is also a teacher of the space; use another"
        )


def flattered_metrics(space: SearchSpace) -> list[tuple[str, str]]:
    """(metric, teacher) pairs where a metric beside the objective is scored by a network that also teaches."""
    metrics = space.baseline_config(space.first_seed).evaluation.metrics
    teachers = {c.repa.teacher for _, c in _extreme_candidates(space) if c.repa is not None}
    return [(metric, teacher) for metric in metrics for teacher in sorted(teachers) if network_of(metric) == teacher]


def with_budget(space: SearchSpace, *, candidates: int | None) -> SearchSpace:
    """The same sweep with another number of candidates."""
    if candidates is None:
        return space
    try:
        return replace(space, budget=replace(space.budget, candidates=candidates))
    except ValueError as error:
        raise SpaceError(f"--candidates: {error}") from error
