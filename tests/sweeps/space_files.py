"""A search-space file that resolves, and ways to change it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from sweeps.space import SearchSpace, SpaceError
from sweeps.space_file import resolve

FILE = Path("search_spaces/x.yaml")

TEXT = """
question: Which teacher?
objective: {metric: mmd_opennsfw, mode: min}
baseline: {repa: null}
space:
  repa.teacher: {choice: [dinov2s_saliency, efficientnet_lite0]}
  repa.depth: {fraction: [0.15, 0.75]}
  repa.weight: {log_uniform: [0.05, 2.0]}
points:
  - {repa.teacher: dinov2s_saliency, repa.depth: 0.34, repa.weight: 0.5}
stop: {margin: 1.5, patience: 3}
budget: {candidates: 6, baseline_seeds: 2}
confirm: {best: 0}
profiles:
  laptop:
    model: prx_emoji
    data: {source: openmoji, resolution: 32, num_heldout: 512}
    training: {steps: 240, batch_size: 32, eval_every_steps: 60, learning_rate: 5.0e-4}
    evaluation: {metrics: [mmd_opennsfw, frechet_opennsfw_pc32], num_samples: 256}
    repa: {projector: mlp, projector_width: 256}
    resources: {workers: 1, cpus_per_worker: 1, concurrent_trials: 2}
    seed: 4
"""
Change = Callable[[dict[str, Any]], object]
CONTENT = yaml.safe_load(TEXT)


def space_of(change: Change | None = None, profile: str = "laptop") -> SearchSpace:
    content = copy.deepcopy(CONTENT)
    if change:
        change(content)
    return resolve(content, file=FILE, profile=profile)


def laptop(entries: dict[str, Any]) -> Change:
    """Entries added to the laptop profile."""
    return lambda content: content["profiles"]["laptop"].update(entries)


def message_of(change: Change | None, profile: str = "laptop") -> str:
    """What is wrong with the changed file, without its name; checked to be one line."""
    with pytest.raises(SpaceError) as caught:
        space_of(change, profile)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{FILE}: ")
    return message.removeprefix(f"{FILE}: ")


def put(*keys: Any, value: Any) -> Change:
    """A value at a place in the file."""

    def change(content: dict[str, Any]) -> None:
        place = content
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value

    return change


P = ("profiles", "laptop")
