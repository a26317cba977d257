"""A trial as it travels from the driver to the workers that train it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Task:
    """Plain values only, and no import of torch: a trial's driver is a light process.

    trial, role: as in the ledger. config: an ExperimentConfig. root, cache: folders of the sweep and of its caches.
    metric, mode: the objective. stop: a sweeps.rule.StopConfig. num_threads: of a worker, on the CPU.
    title: what people see of the trial in Ray's dashboard.
    interruptions: what has befallen the trial under this driver: cause, reason and time of each, as in the ledger.
    """

    trial: str
    role: str
    config: Mapping[str, Any]
    root: str
    cache: str
    metric: str
    mode: Literal["min", "max"]
    stop: Mapping[str, Any]
    num_threads: int
    title: str = ""
    interruptions: Sequence[Mapping[str, Any]] = ()

    @property
    def shown(self) -> str:
        return self.title or self.trial

    def plain(self) -> dict[str, Any]:
        return asdict(self)
