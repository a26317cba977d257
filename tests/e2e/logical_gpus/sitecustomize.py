"""On the hosts only: of GPUs that a node type merely declares Ray keeps count as ever, and the CPU does their work.

Such a host has no NCCL, so Ray Train's choice for GPUs becomes gloo; and what the product says of GPUs that torch does
not see is not said.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


def _with_gloo(module: ModuleType) -> None:
    start = module.init_process_group

    def with_gloo(backend: str | None = None, *arguments: Any, **options: Any) -> None:
        start("gloo" if backend == "nccl" else backend, *arguments, **options)

    module.init_process_group = with_gloo


def _without_a_look(module: ModuleType) -> None:
    assert callable(module.unseen_gpus)
    module.unseen_gpus = lambda: None


CHANGED: dict[str, Callable[[ModuleType], None]] = {
    "torch.distributed.distributed_c10d": _with_gloo,
    "sweeps.slot": _without_a_look,
}


class _Changing(Loader):
    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        CHANGED[module.__name__](module)


class _Finder(MetaPathFinder):
    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        if name not in CHANGED:
            return None
        spec = PathFinder.find_spec(name, path)  # type: ignore[arg-type]
        assert spec is not None
        assert spec.loader is not None
        spec.loader = _Changing(spec.loader)
        return spec


sys.meta_path.insert(0, _Finder())
