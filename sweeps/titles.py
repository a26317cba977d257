"""What people see of a trial's settings: in the terminal, on the page, in Ray's dashboard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sweeps.space_file import FRACTION_OF


def bare_config(overrides: Mapping[str, Any], depth: int, longest: int) -> str:
    """'dinov2s_saliency 3/6 0.42': the same without names, for a narrow column. longest: of a word."""
    parts = []
    for path, value in overrides.items():
        if isinstance(value, str):
            parts.append(value if len(value) <= longest else f"{value[: longest - 1]}…")
        elif FRACTION_OF.get(path) == "model.depth":
            parts.append(f"{value}/{depth}")
        else:
            parts.append(f"{value:.3g}" if isinstance(value, float) else str(value))
    return " ".join(parts)


def short_config(overrides: Mapping[str, Any], depth: int) -> str:
    """'dinov2s_saliency, depth 3/6, weight 0.42': what was searched, a name standing for itself.

    depth: of the model.
    """
    parts = []
    for path, value in overrides.items():
        name = path.rsplit(".", 1)[-1]
        if isinstance(value, str):
            parts.append(value)
        elif FRACTION_OF.get(path) == "model.depth":
            parts.append(f"{name} {value}/{depth}")
        else:
            parts.append(f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}")
    return ", ".join(parts)


def title(space: str, trial: str, overrides: Mapping[str, Any], depth: int) -> str:
    """'repa candidate-003: dinov2s_saliency, depth 3/6, weight 0.42': a trial among those of other sweeps.

    overrides: of a baseline, none; its name says all.
    """
    config = short_config(overrides, depth)
    return f"{space} {trial}: {config}" if config else f"{space} {trial}"
