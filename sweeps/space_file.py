"""A search-space file -> SearchSpace: the profile laid over the file, every section checked before anything starts."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from prx_model.model import MODELS
from sweeps.config import (
    ConfigError,
    build,
    copied,
    listing,
    load_config,
    nearest,
    override,
    shown,
    to_plain,
)
from sweeps.confirmation import Confirm
from sweeps.locations import Location, location
from sweeps.onlookers.notify import notify_of
from sweeps.onlookers.trackers import trackers_of
from sweeps.rule import StopConfig
from sweeps.space import FRACTION_OF, Budget, Objective, Resources, SearchSpace, SpaceError
from sweeps.space_checks import check_points, check_trials
from sweeps.space_dimensions import KINDS, SHARED, Searched, check_path
from sweeps.study import Sampler

__all__ = [
    "FRACTION_OF",
    "KINDS",
    "SHARED",
    "SpaceError",
    "load_space",
    "profiles_of",
    "read_space",
    "resolve",
    "with_budget",
]

SECTIONS = ("model", "data", "training", "evaluation", "repa", "seed")  # of one trial
SWEEP_KEYS = (
    "question",
    "objective",
    "baseline",
    "space",
    "points",
    "stop",
    "budget",
    "confirm",
    "sampler",
    "warm_start",
    "results",
    "resources",
    "trackers",
    "notify",
    "profiles",
)


def load_space(file: Location, profile: str) -> SearchSpace:
    """Read and check a search-space file under one of its profiles. Raises SpaceError."""
    return resolve(read_space(file), file=file, profile=profile)


def read_space(file: Location) -> dict[str, Any]:
    """The file as a plain mapping. Raises SpaceError where it is missing, empty or no YAML mapping."""
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        if not file.is_file():
            there = "a folder" if file.is_dir() else "no such file"
            raise SpaceError(f"{file}: {there}; allowed is a search-space file, such as search_spaces/repa.yaml")
        content = OmegaConf.to_container(OmegaConf.load(io.StringIO(file.read_text(encoding="utf-8"))), resolve=True)
    except SpaceError:
        raise
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise SpaceError(f"{file}: {where}not YAML: {_one_line(getattr(error, 'problem', None) or error)}") from error
    except RecursionError as error:
        raise SpaceError(f"{file}: sections lie too deep inside each other, or refer to themselves") from error
    except (OmegaConfBaseException, OSError, ValueError) as error:
        raise SpaceError(f"{file}: {_one_line(error)}") from error
    if not content:
        raise SpaceError(f"{file}: the file is empty; needed are at least objective, baseline, space and profiles")
    if not isinstance(content, dict):
        raise SpaceError(f"{file}: got a {type(content).__name__}, allowed is a mapping with {listing(SWEEP_KEYS)}")
    return copied(content)


def profiles_of(content: Mapping[str, Any]) -> list[str]:
    profiles = content.get("profiles")
    return [str(name) for name in profiles] if isinstance(profiles, Mapping) else []


def resolve(content: Mapping[str, Any], *, file: Location, profile: str) -> SearchSpace:
    """Apply the profile and check everything. Raises SpaceError."""
    try:
        resolver = _Resolver(_with_profile(copied(content), profile), file, profile)
        space = resolver.space()
        check_trials(space)
        # Only now: a point is measured by its dimensions, which must be sound themselves.
        space = replace(space, points=resolver.searched.points(resolver.merged.get("points"), space.dimensions))
        check_points(space)
    except ConfigError as error:
        raise SpaceError(f"{file}: {_one_line(error)}") from error
    return space


def with_budget(space: SearchSpace, *, candidates: int | None) -> SearchSpace:
    """The same sweep with another number of candidates."""
    if candidates is None:
        return space
    try:
        return replace(space, budget=replace(space.budget, candidates=candidates))
    except ValueError as error:
        raise SpaceError(f"--candidates: {error}") from error


def _one_line(error: object) -> str:
    return " ".join(str(error).split())


def _with_profile(content: dict[str, Any], profile: str) -> dict[str, Any]:
    """The file's content with the profile's settings laid over it."""
    allowed = (*SWEEP_KEYS, *SECTIONS)
    for key in content:
        if key not in allowed:
            raise ConfigError(key, f"no such setting{nearest(key, allowed)}")
    names = profiles_of(content)
    if profile not in names:
        raise ConfigError("profiles", f"got {profile!r}, allowed is {listing(names) or 'nothing: the file has none'}")
    settings = content.pop("profiles")[profile]
    if not isinstance(settings, Mapping):
        raise ConfigError(f"profiles.{profile}", f"got {shown(settings)}, allowed is a section")
    # A whole section first, then the single values inside it, in whatever order they were written.
    for key in sorted(settings, key=lambda key: "." in key):
        _lay_over(content, key, settings[key], f"profiles.{profile}.{key}", allowed)
    return content


def _lay_over(merged: dict[str, Any], key: str, value: Any, path: str, allowed: tuple[str, ...]) -> None:
    """Set one entry of a profile. A dotted key sets one value below a section ('space.repa.teacher', 'stop.margin')."""
    section, dot, rest = key.partition(".")
    if section not in allowed or section == "profiles" or (dot and not rest):
        raise ConfigError(path, f"no such setting{nearest(section, [name for name in allowed if name != 'profiles'])}")
    if not rest:
        merged[section] = value
        return
    holder = merged.get(section)
    if holder is None:
        holder = {}
    if not isinstance(holder, dict):
        raise ConfigError(path, f"{section} is {shown(holder)}, not a section")
    # The keys of `space` and `baseline` are themselves dotted paths.
    flat = section in ("space", "baseline")
    merged[section] = {**holder, rest: value} if flat else override(holder, {rest: value})


class _Resolver:
    """One merged file on its way to a SearchSpace; each method checks one section."""

    def __init__(self, merged: dict[str, Any], file: Location, profile: str) -> None:
        self.merged, self.file, self.profile = merged, file, profile
        self.base, num_blocks = self._base()
        self.searched = Searched(num_blocks)

    def space(self) -> SearchSpace:
        """Everything but the points."""
        merged = self.merged
        if "objective" not in merged:
            raise ConfigError("objective", "missing, needed is a section such as {metric: fid, mode: min}")
        return SearchSpace(
            file=str(self.file),
            name=self.file.name.rpartition(".")[0] or self.file.name,
            profile=self.profile,
            question=self._question(),
            objective=build(Objective, merged["objective"], "objective"),
            base=self.base,
            baseline=self._baseline(),
            dimensions=self.searched.dimensions(merged.get("space")),
            points=(),
            stop=build(StopConfig, merged.get("stop", {}), "stop"),
            budget=build(Budget, merged.get("budget", {}), "budget"),
            resources=build(Resources, merged.get("resources", {}), "resources"),
            confirm=self._confirm(),
            sampler=build(Sampler, merged.get("sampler", {}), "sampler"),
            warm_start=self._warm_start(),
            results=self._results(),
            trackers=trackers_of(merged.get("trackers")),
            notify=notify_of(merged.get("notify")),
        )

    def _results(self) -> str:
        results = self.merged.get("results")
        try:
            if isinstance(results, str | None):
                return str(location(results)) if results else ""
        except ValueError as error:
            raise ConfigError("results", str(error)) from error
        raise ConfigError("results", f"got {shown(results)}, allowed is a folder or s3://bucket/prefix")

    def _warm_start(self) -> tuple[str, ...]:
        folders = self.merged.get("warm_start") or []
        if not isinstance(folders, list) or not all(isinstance(folder, str) and folder for folder in folders):
            raise ConfigError("warm_start", f"got {shown(folders)}, allowed is a list of folders of earlier sweeps")
        for i, folder in enumerate(folders):
            if folder in folders[:i]:
                raise ConfigError(f"warm_start[{i}]", f"got {shown(folder)} twice, allowed is once")
        return tuple(folders)

    def _confirm(self) -> Confirm:
        confirm = build(Confirm, self.merged.get("confirm", {}), "confirm")
        most = build(Budget, self.merged.get("budget", {}), "budget").baseline_seeds
        if confirm.seeds is not None and confirm.seeds > most:
            problem = f"got {confirm.seeds}, allowed is null or 2 to {most}, the number of budget.baseline_seeds"
            raise ConfigError("confirm.seeds", problem)
        return confirm

    def _base(self) -> tuple[dict[str, Any], int]:
        """A trial's settings, with a model's name replaced by its configuration; and the number of its blocks."""
        base = {key: self.merged[key] for key in SECTIONS if key in self.merged}
        model = base.get("model")
        if isinstance(model, str):
            if model not in MODELS:
                raise ConfigError("model", f"got {shown(model)}{nearest(model, MODELS)}")
            base["model"] = to_plain(MODELS[model])
        if not isinstance(base.get("repa"), Mapping | None):
            raise ConfigError("repa", f"got {shown(base['repa'])}, allowed is a section or null")
        # A candidate's `repa` is whole only with what is searched; check_trials builds those.
        config = load_config(override(base, {"repa": None}))
        return copied(base), config.model.depth

    def _question(self) -> str:
        question = self.merged.get("question")
        if not isinstance(question, str | None):
            raise ConfigError("question", f"got {shown(question)}, allowed is a text")
        return (question or "").strip()

    def _baseline(self) -> dict[str, Any]:
        overrides = self.merged.get("baseline")
        if not isinstance(overrides, Mapping) or not overrides:
            raise ConfigError("baseline", f"got {shown(overrides)}, allowed is a section such as {{repa: null}}")
        for path in overrides:
            check_path(path, f"baseline.{path}")
        return dict(overrides)
