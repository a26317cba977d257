"""What `make e2e` lays over cluster.yaml, as far as no host is needed for it."""

from __future__ import annotations

import copy
from typing import Any

import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.e2e.launcher import OVERLAY, container_environment, laid_over, shipped

LAID_OVER = yaml.safe_load(OVERLAY.read_text())


def keys(tree: Any, *above: str) -> set[tuple[str, ...]]:
    """The path of every key. Resources are names of their own, not settings."""
    if not isinstance(tree, dict) or "resources" in above:
        return set()
    return {(*above, key) for key in tree} | set().union(*(keys(it, *above, key) for key, it in tree.items()), set())


def test_overlay_changes_only_what_the_shipped_file_has() -> None:
    assert keys(LAID_OVER) <= keys(shipped())


def test_laid_over_file_is_one_that_ray_takes() -> None:
    merged = laid_over(shipped(), LAID_OVER)
    validate_config(prepare_config(copy.deepcopy(merged)))
    assert "docker" not in merged
    # What the sweep rests on is the shipped file's own.
    for key in ("file_mounts", "head_start_ray_commands", "worker_start_ray_commands", "provider"):
        assert merged[key] == shipped()[key]


def test_null_takes_a_key_out_and_leaves_the_rest() -> None:
    below = {"a": {"b": 1, "c": 2}, "d": [1]}
    assert laid_over(below, {"a": {"b": None, "e": 3}, "d": [2]}) == {"a": {"c": 2, "e": 3}, "d": [2]}
    assert below == {"a": {"b": 1, "c": 2}, "d": [1]}


def test_environment_of_the_container_reaches_the_hosts() -> None:
    assert container_environment(shipped())["RAY_AUTH_MODE"] == "token"
