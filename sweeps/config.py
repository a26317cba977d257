"""Plain mappings <-> ExperimentConfig: strict loading, overrides by dotted path, a stable fingerprint."""

from __future__ import annotations

import difflib
import hashlib
import json
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any

from prx_model.experiment import ExperimentConfig


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
        raise ConfigError(path, f"got {settings!r}, allowed is a section with {listing(_names(cls))}")
    hints = typing.get_type_hints(cls)
    for key in settings:
        if key not in hints:
            raise ConfigError(_join(path, str(key)), f"no such setting{nearest(str(key), _names(cls))}")
    values = {key: _convert(hints[key], value, _join(path, key)) for key, value in settings.items()}
    try:
        return cls(**values)
    except TypeError as error:
        missing = [f.name for f in fields(cls) if f.name not in values and f.default is f.default_factory]
        raise ConfigError(path, f"missing {listing(missing)}") from error
    except ConfigError:
        raise
    except ValueError as error:
        raise _placed(error, cls, path) from error


def _convert(hint: Any, value: Any, path: str) -> Any:
    """The value as the annotation asks for it, or a ConfigError."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None:
        if type(None) in options:
            return None
        raise ConfigError(path, f"got null, allowed is {_spoken(options[0])}")
    kind = next(option for option in options if option is not type(None))
    if is_dataclass(kind):
        return build(typing.cast(type, kind), value, path)
    if typing.get_origin(kind) is tuple:
        return _convert_tuple(kind, value, path)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise ConfigError(path, f"got {value!r}, allowed is {_spoken(kind)}")
    return value


def _convert_tuple(kind: Any, value: Any, path: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ConfigError(path, f"got {value!r}, allowed is a list")
    hints = typing.get_args(kind)
    if hints[-1] is Ellipsis:
        hints = (hints[0],) * len(value)
    if len(hints) != len(value):
        raise ConfigError(path, f"got {len(value)} values, allowed are {len(hints)}")
    return tuple(_convert(hint, item, f"{path}[{i}]") for i, (hint, item) in enumerate(zip(hints, value, strict=True)))


def _placed(error: ValueError, cls: type, path: str) -> ConfigError:
    """The dataclass's own message, which opens with the field's name, under its dotted path."""
    name, _, problem = str(error).partition(": ")
    if problem and all(part.split(".")[0] in _names(cls) for part in name.split(", ")):
        return ConfigError(_join(path, name), problem)
    return ConfigError(path, str(error))


def override(settings: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of nested `settings` with dotted paths set: {'repa.weight': 0.5}, or {'repa': None}."""
    result = json.loads(json.dumps(settings))
    for path, value in overrides.items():
        *parents, leaf = path.split(".")
        section = result
        for parent in parents:
            if section.get(parent) is None:
                section[parent] = {}
            section = section[parent]
            if not isinstance(section, dict):
                raise ConfigError(path, f"{parent} is a value, not a section")
        section[leaf] = value
    return result


def setting_paths(cls: type = ExperimentConfig, prefix: str = "") -> list[str]:
    """Every dotted path that can be set, sections included."""
    paths = []
    for name, hint in typing.get_type_hints(cls).items():
        path = _join(prefix, name)
        paths.append(path)
        for option in typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,):
            if is_dataclass(option):
                paths += setting_paths(typing.cast(type, option), path)
    return paths


def to_plain(config: Any) -> dict[str, Any]:
    """Nested dicts and lists of JSON values: what travels to workers and into the ledger."""
    return json.loads(json.dumps(asdict(config)))


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
    """'; nearest is X', or the list of what is allowed where nothing is near."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; nearest is {close[0]}" if close else f"; allowed is {listing(known)}"


def listing(names: Iterable[str]) -> str:
    return ", ".join(names)


def _names(cls: type) -> list[str]:
    return [field.name for field in fields(cls)]


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


_SPOKEN = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}


def _spoken(kind: Any) -> str:
    return _SPOKEN.get(kind, "a section" if is_dataclass(kind) else "a list")
