"""Shared by all tests: shape annotations are checked, torch runs on one thread, nothing reaches a model hub."""

from __future__ import annotations

import inspect
import os
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray lets its workers wait for whatever else the machine does; here that is the other half of the tests.
os.environ.setdefault("RAY_worker_niceness", "0")

from jaxtyping import install_import_hook

import tests.typechecker  # noqa: F401  (found by name in the next line)

# jaxtyping's annotations become checks at every call, for the whole package, in tests only.
install_import_hook("prx_model", "tests.typechecker.checked")

import pytest
import torch
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

from prx_model.model import MODELS, PRXConfig
from tests.s3_server import s3_bucket, s3_server  # noqa: F401  (fixtures for all tests)

torch.set_num_threads(1)

# A busy machine is no reason to fail; and the same commit always runs the same examples.
settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")


def starts_ray(path: str) -> bool:
    return "/on_ray/" in path or path.endswith("/test_smoke_sweep.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first: of two processes, none is left with it at the end."""
    items.sort(key=lambda item: not starts_ray(str(item.path)))


class _OneRayAtATime(LoadFileScheduling):
    """A file's tests stay in one process; all that start Ray share one, because two Rays at once starve each other, and
    all of the worker, because its data and teachers are made once for a process.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        name = file.rpartition("/")[2]
        return "Ray" if starts_ray(file) else "worker" if name in ("test_worker.py", "test_worker_in_s3.py") else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _OneRayAtATime:
    return _OneRayAtATime(config, log)


@pytest.fixture
def tiny() -> PRXConfig:
    return MODELS["prx_tiny"]


@pytest.fixture
def compilable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take off the checks that are put around every function of the blocks: no compiler can see through them."""
    from prx_model import attention

    for name, function in inspect.getmembers(attention, inspect.isfunction):
        monkeypatch.setattr(attention, name, inspect.unwrap(function))
    call = inspect.unwrap(attention.JointAttention.__call__)
    monkeypatch.setattr(attention.JointAttention, "__call__", call)
