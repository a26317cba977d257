"""What people see of a trial's settings, in the same words and the same order everywhere: in the terminal, on the page,
in Ray's dashboard. A trial is told by its name and its role, the searched settings by their values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from sweeps.ledger import BASELINE
from sweeps.space import FRACTION_OF


class Told(Protocol):
    """What a trial is: a ledger's Start, or one that is planned."""

    @property
    def trial(self) -> str: ...
    @property
    def role(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def overrides(self) -> Mapping[str, Any]: ...
    @property
    def confirms(self) -> str: ...


def title(space: str, told: Told, depth: int) -> str:
    """'repa candidate-003: dinov2s_saliency, depth 3/6, weight 0.42': a trial among those of other sweeps."""
    return f"{space} {told.trial}: {config_in_words(told, depth)}"


def config_in_words(told: Told, depth: int) -> str:
    """A trial's settings in short: 'baseline, seed 0', 'dinov2s_saliency, depth 3/6, weight 0.42, seed 1'.

    depth: of the model. A candidate's seed is the first one, and is told of the runs that confirm it.
    """
    if told.role == BASELINE:
        return f"baseline, seed {told.seed}"
    names = ((path.rsplit(".", 1)[-1], value, shown) for path, value, shown in _shown(told.overrides, depth))
    parts = [shown if isinstance(value, str) else f"{name} {shown}" for name, value, shown in names]
    return ", ".join([*parts, *([f"seed {told.seed}"] if told.confirms else [])])


def bare_config(told: Told, depth: int, longest: int) -> str:
    """'dinov2s_saliency 3/6 0.42', 'seed 0': the same without names, for a narrow column beside the trial's name.

    longest: of a word.
    """
    if told.role == BASELINE or told.confirms:
        return f"seed {told.seed}"
    parts = [
        f"{shown[: longest - 1]}…" if isinstance(value, str) and len(value) > longest else shown
        for _, value, shown in _shown(told.overrides, depth)
    ]
    return " ".join(parts)


def _shown(overrides: Mapping[str, Any], depth: int) -> Iterator[tuple[str, Any, str]]:
    """Path, value and the value in words. Names first, then the depth, then numbers: settings that Optuna hands out, a
    file's points and ledgers of any age have orders of their own.
    """
    for path, value in sorted(overrides.items(), key=lambda item: (_rank(*item), item[0])):
        if FRACTION_OF.get(path) == "model.depth":
            yield path, value, f"{value}/{depth}"
        else:
            yield path, value, f"{value:.3g}" if isinstance(value, float) else str(value)


def _rank(path: str, value: Any) -> int:
    return 0 if isinstance(value, str) else 1 if path in FRACTION_OF else 2
