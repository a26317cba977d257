"""Plain mappings <-> ExperimentConfig: strict loading, overrides by dotted path, a stable fingerprint."""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass
from typing import Any

from prx_model.experiment import ExperimentConfig

LONGEST_LIST = 40  # names that one message lists
WITHOUT_EFFECT = ("data.cache_gb", "training.checkpoint_every_min")
LONGEST_VALUE = 120  # characters of a value that one message shows


class ConfigError(ValueError):
    """A setting that cannot be. `path` is the dotted path, `problem` what came and what is allowed."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}" if path else problem)
        self.path, self.problem = path, problem


def load_config(settings: Mapping[str, Any]) -> ExperimentConfig:
    """Build the config from nested mappings. Raises ConfigError with the dotted path of the first thing that is off."""
    return build(ExperimentConfig, settings, "")


def build(cls: type, settings: Any, path: str) -> Any:
    """One dataclass from one mapping, strictly: unknown keys, wrong types and impossible values are refused."""
    if not isinstance(settings, Mapping):
        raise ConfigError(path, f"got {shown(settings)}, allowed is a section with {listing(_names(cls))}")
    hints = _hints(cls)
    for key in settings:
        if key not in hints:
            raise ConfigError(_join(path, str(key)), f"no such setting{nearest(str(key), _names(cls))}")
    required = [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]
    missing = [name for name in required if name not in settings]
    if missing:
        raise ConfigError(path, f"missing {listing(missing)}")
    values = {key: _convert(hints[key], value, _join(path, key)) for key, value in settings.items()}
    try:
        return cls(**values)
    except ValueError as error:
        raise _placed(error, cls, path) from error


def _convert(hint: Any, value: Any, path: str) -> Any:
    """The value as the annotation asks for it, or a ConfigError."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    kind = next(option for option in options if option is not type(None))
    if value is None and type(None) in options:
        return None
    if is_dataclass(kind) and value is not None:
        return build(typing.cast(type, kind), value, path)
    if typing.get_origin(kind) is tuple and isinstance(value, list | tuple):
        return _convert_tuple(kind, value, path)
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return _finite(value, path)
    if type(value) is not kind:
        or_null = " or null" if type(None) in options else ""
        raise ConfigError(path, f"got {shown(value)}, allowed is {_spoken(kind)}{or_null}")
    return value


def _convert_tuple(kind: Any, value: Sequence[Any], path: str) -> tuple[Any, ...]:
    hints = typing.get_args(kind)
    if hints[-1] is Ellipsis:
        hints = (hints[0],) * len(value)
    if len(hints) != len(value):
        raise ConfigError(path, f"got {shown(value)} of length {len(value)}, allowed is a list of length {len(hints)}")
    return tuple(_convert(hint, item, f"{path}[{i}]") for i, (hint, item) in enumerate(zip(hints, value, strict=True)))


def _finite(value: float, path: str) -> float:
    if not is_finite(value):
        raise ConfigError(path, f"got {shown(value)}, allowed is a finite number")
    return float(value)


def is_finite(value: float) -> bool:
    """Whether a number, of any size, is one that a float can hold."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _placed(error: ValueError, cls: type, path: str) -> ConfigError:
    """The dataclass's own message, which opens with the field's name, under its dotted path."""
    name, _, problem = str(error).partition(": ")
    if problem and all(part.split(".")[0] in _names(cls) for part in name.split(", ")):
        return ConfigError(_join(path, name), problem)
    return ConfigError(path, str(error))


def override(settings: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of nested `settings` with dotted paths set, in order: {'repa.weight': 0.5}, or {'repa': None}."""
    result = copied(settings)
    for path, value in overrides.items():
        *parents, leaf = path.split(".")
        section = result
        for parent in parents:
            if section.get(parent) is None:
                section[parent] = {}
            section = section[parent]
            if not isinstance(section, dict):
                raise ConfigError(path, f"{parent} is {shown(section)}, not a section")
        section[leaf] = copied(value)
    return result


def copied(value: Any) -> Any:
    """A deep copy as dicts with text keys and lists; nothing is shared with the original but immutable values."""
    if isinstance(value, Mapping):
        return {str(key): copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [copied(item) for item in value]
    return value


def setting_paths(cls: type = ExperimentConfig, prefix: str = "") -> list[str]:
    """Every dotted path that can be set, sections included."""
    paths = []
    for name, hint in _hints(cls).items():
        path = _join(prefix, name)
        paths.append(path)
        for option in typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,):
            if is_dataclass(option):
                paths += setting_paths(typing.cast(type, option), path)
    return paths


def to_plain(config: Any) -> dict[str, Any]:
    """Nested dicts and lists of JSON values: what travels to workers and into the ledger."""
    return json.loads(json.dumps(asdict(config)))


def deciding(plain: Mapping[str, Any]) -> dict[str, Any]:
    """A config's settings without those that change no result: they may change while a sweep is under way."""
    return {
        name: {key: item for key, item in value.items() if f"{name}.{key}" not in WITHOUT_EFFECT}
        if isinstance(value, Mapping)
        else value
        for name, value in plain.items()
    }


def fingerprint(plain: Mapping[str, Any]) -> str:
    """12 hex digits that change with any value and with nothing else: not with order, spacing or 1 against 1.0."""
    canonical = json.dumps(_numbers_alike(plain), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def _numbers_alike(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _numbers_alike(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_numbers_alike(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def nearest(name: str, known: Iterable[str]) -> str:
    """What is allowed and what may be meant: '; allowed is A, B; nearest is A'. Of a long list, the nearest only."""
    known = list(known)
    few = len(known) <= LONGEST_LIST
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6 if few else 0)
    return (f"; allowed is {listing(known)}" if few else "") + (f"; nearest is {close[0]}" if close else "")


def listing(names: Iterable[Any]) -> str:
    return ", ".join(map(str, names))


def shown(value: Any) -> str:
    """A value as it was given, short enough for one line."""
    text = {None: "null", True: "true", False: "false"}[value] if value is None or type(value) is bool else repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _names(cls: type) -> list[str]:
    return [field.name for field in fields(cls)]


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


_SPOKEN = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}


def _spoken(kind: Any) -> str:
    return _SPOKEN.get(kind, "a section" if is_dataclass(kind) else "a list")
