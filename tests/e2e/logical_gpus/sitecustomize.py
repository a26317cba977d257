"""On the hosts only: GPUs that a node type merely declares have no NCCL, so Ray Train's choice for them becomes gloo.

The product asks for GPUs as ever, and Ray counts and places them; torch sees none and computes on the CPU.
"""

from __future__ import annotations

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

MODULE = "ray.train.torch.config"


class _WithGloo(Loader):
    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        start = module._TorchBackend.on_start

        def with_gloo(self: Any, worker_group: Any, backend_config: Any) -> None:
            backend_config.backend = backend_config.backend or "gloo"
            start(self, worker_group, backend_config)

        module._TorchBackend.on_start = with_gloo


class _Finder(MetaPathFinder):
    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        if name != MODULE:
            return None
        spec = PathFinder.find_spec(name, path)  # type: ignore[arg-type]
        assert spec is not None
        assert spec.loader is not None
        spec.loader = _WithGloo(spec.loader)
        return spec


sys.meta_path.insert(0, _Finder())
