"""What varies in a search space: `space` and `points` of a file -> Dimensions, and settings to try first."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sweeps.config import ConfigError, is_finite, listing, nearest, setting_paths, shown
from sweeps.space import FRACTION_OF, Dimension

KINDS = ("choice", "uniform", "log_uniform", "int", "fraction")
# Equal for all trials of a sweep: what a trial is compared by, and the seed, which the sweep gives out.
SHARED = ("seed", "data", "evaluation", "training.steps", "training.eval_every_steps")


def check_path(path: str, where: str) -> None:
    """Raise ConfigError where a trial has no such setting, or all trials must share it."""
    paths = setting_paths()
    if path not in paths:
        raise ConfigError(where, f"no such setting{nearest(path, paths)}")
    for shared in SHARED:
        if _inside(path, shared) or _inside(shared, path):
            problem = f"{shared} is the same for all trials of a sweep, so that they compare"
            raise ConfigError(where, f"{problem}; allowed is any setting outside {listing(SHARED)}")


class Searched:
    """num_blocks: of the model, of which fractions are fractions. Raises ConfigError."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks

    def dimensions(self, searched: Any) -> tuple[Dimension, ...]:
        if not isinstance(searched, Mapping) or not searched:
            raise ConfigError(
                "space", f"got {shown(searched)}, allowed is a section of settings, each with one of {listing(KINDS)}"
            )
        for path in searched:
            check_path(path, f"space.{path}")
            for other in searched:
                if path != other and _inside(path, other):
                    raise ConfigError(f"space.{path}", f"lies inside {other}, which is searched too; allowed is one")
        return tuple(self._dimension(path, spec, f"space.{path}") for path, spec in searched.items())

    def _dimension(self, path: str, spec: Any, where: str) -> Dimension:
        if not isinstance(spec, Mapping) or len(spec) != 1:
            raise ConfigError(
                where, f"got {shown(spec)}, allowed is one of {listing(KINDS)}, as in {{log_uniform: [0.05, 2.0]}}"
            )
        kind, value = next(iter(spec.items()))
        where = f"{where}.{kind}"
        if kind not in KINDS:
            raise ConfigError(where, f"no such range{nearest(kind, KINDS)}")
        if kind == "choice":
            return Dimension(path=path, kind="choice", values=_choices(value, where))
        low, high = _range(value, where, kind)
        if kind == "fraction":
            low, high = (self._of_fraction(path, end, where) for end in (low, high))
        whole = kind in ("int", "fraction")
        return Dimension(path=path, kind="int" if whole else "float", low=low, high=high, log=kind == "log_uniform")

    def _of_fraction(self, path: str, fraction: float, where: str) -> int:
        """The whole number, at least 1, that is nearest to the fraction of its reference (halves go up)."""
        if path not in FRACTION_OF:
            raise ConfigError(where, f"got a fraction, which is allowed for {listing(FRACTION_OF)} only")
        if not 0 < fraction <= 1:
            raise ConfigError(where, f"got {fraction:g}, allowed is above 0, at most 1")
        return max(1, math.floor(fraction * self.num_blocks + 0.5))

    def points(self, points: Any, dimensions: tuple[Dimension, ...]) -> tuple[dict[str, Any], ...]:
        points = points or []
        if not isinstance(points, list):
            raise ConfigError("points", f"got {shown(points)}, allowed is a list of settings to try first")
        resolved = [self._point(point, dimensions, f"points[{i}]") for i, point in enumerate(points)]
        for i, point in enumerate(resolved):
            if point in resolved[:i]:
                raise ConfigError(f"points[{i}]", f"the same trial as points[{resolved.index(point)}]; allowed is once")
        return tuple(resolved)

    def _point(self, point: Any, dimensions: tuple[Dimension, ...], where: str) -> dict[str, Any]:
        names = [dimension.path for dimension in dimensions]
        if not isinstance(point, Mapping) or sorted(point) != sorted(names):
            raise ConfigError(where, f"got {shown(point)}, allowed is one value for each of {listing(names)}")
        resolved = {}
        for dimension in dimensions:
            value, path = point[dimension.path], f"{where}.{dimension.path}"
            if dimension.path in FRACTION_OF and dimension.kind == "int" and isinstance(value, float):
                value = self._of_fraction(dimension.path, value, path)
            if not dimension.holds(value):
                raise ConfigError(path, f"got {shown(value)}, allowed is {dimension}")
            resolved[dimension.path] = float(value) if dimension.kind == "float" else value
        return resolved


def _inside(path: str, section: str) -> bool:
    return path == section or path.startswith(f"{section}.")


def _choices(values: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(values, list) or not values:
        raise ConfigError(where, f"got {shown(values)}, allowed is a list of at least one value")
    for i, value in enumerate(values):
        if value in values[:i]:
            raise ConfigError(where, f"got {shown(value)} twice, allowed is once")
    return tuple(values)


def _range(value: Any, where: str, kind: str) -> tuple[float, float]:
    numbers = isinstance(value, list) and len(value) == 2 and all(type(end) in (int, float) for end in value)
    if not numbers or not all(map(is_finite, value)):
        raise ConfigError(where, f"got {shown(value)}, allowed is [low, high], two finite numbers")
    low, high = value
    if kind == "int" and not (type(low) is int and type(high) is int):
        raise ConfigError(where, f"got {shown(value)}, allowed are two integers")
    if not low < high:
        raise ConfigError(where, f"got low {low:g} and high {high:g}, allowed is low below high")
    if kind == "log_uniform" and low <= 0:
        raise ConfigError(where, f"got low {low:g}, allowed is above 0 for a logarithmic range")
    # Optuna's numbers from such a range are floats, and so must be what is checked.
    return (low, high) if kind == "int" else (float(low), float(high))
