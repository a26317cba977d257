"""What trials have used, by the rows of the ledger: CPU-hours, GPU-hours and, where nodes have a price, dollars.

Every evaluation's row says what the trial held while it was made, so that a sweep that moves to other machines, or to
other prices, keeps its books. Not in them: work that a killed worker had no row for yet, idle nodes, the head, disks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from sweeps.costs import Costs

if TYPE_CHECKING:
    from sweeps.ledger import TrialRecord
    from sweeps.space import Budget

HOUR_S = 3600.0


@dataclass(frozen=True, kw_only=True)
class Rate:
    """What a trial holds while it runs, all workers together. usd_per_hour: None where its nodes have no price."""

    cpus: float | None = None
    gpus: float | None = None
    usd_per_hour: float | None = None


def rate_on(node: Mapping[str, Any], usd_per_hour: float | None, *, cpus: float, gpus: float, workers: int) -> Rate:
    """Of a trial whose workers hold so much each, all on nodes like this one. node: its resources.

    A worker's share of a node's price is its share of the node's GPUs; of its CPUs where it holds no GPU.
    """
    of, held = ("GPU", gpus) if gpus else ("CPU", cpus)
    price = None
    if usd_per_hour is not None and node.get(of):
        price = usd_per_hour * workers * held / float(node[of])
    return Rate(cpus=cpus * workers, gpus=gpus * workers, usd_per_hour=price)


@dataclass(frozen=True, kw_only=True)
class Usage:
    """unpriced_s: seconds of trials on nodes without a price."""

    cpu_s: float = 0.0
    gpu_s: float = 0.0
    usd: float = 0.0
    unpriced_s: float = 0.0

    @classmethod
    def of(cls, rows: Iterable[Any]) -> Usage:
        """Of a trial's rows in their order, repeated ones too. Rows of older ledgers do not tell, and count nothing."""
        total, held = cls(), Rate()
        for row in rows:
            if getattr(row, "cpus", None) is not None:
                held = Rate(cpus=row.cpus, gpus=row.gpus, usd_per_hour=row.usd_per_hour)
            total += cls._while_held(held, Costs.of([row]).total_s)
        return total

    @classmethod
    def _while_held(cls, held: Rate, seconds: float) -> Usage:
        if held.cpus is None:
            return cls()
        price = held.usd_per_hour
        return cls(
            cpu_s=held.cpus * seconds,
            gpu_s=(held.gpus or 0.0) * seconds,
            usd=(price or 0.0) * seconds / HOUR_S,
            unpriced_s=seconds if price is None else 0.0,
        )

    def __add__(self, other: Usage) -> Usage:
        return Usage(**{one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(self)})

    def __str__(self) -> str:
        """'12.3 GPU-hours, $27.68'; CPU-hours where there was no GPU; '' where nothing is known."""
        if not self.cpu_s:
            return ""
        hours = f"{_few(self.gpu_s / HOUR_S)} GPU-hours" if self.gpu_s else f"{_few(self.cpu_s / HOUR_S)} CPU-hours"
        if not self.usd:
            return hours
        partly = " and what nodes without a price cost" if self.unpriced_s else ""
        return f"{hours}, ${self.usd:,.2f}{partly}"


def _few(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"


def usage_of(records: Iterable[TrialRecord]) -> Usage:
    """Of all trials but those that another sweep has paid for."""
    total = Usage()
    for record in records:
        if not record.start.reused_from:
            total += record.usage
    return total


def limits(budget: Budget, usage: Usage) -> list[tuple[str, float, float, str]]:
    """Every limit that the budget sets: (its name, used, allowed, unit)."""
    known = [
        ("max_gpu_hours", usage.gpu_s / HOUR_S, budget.max_gpu_hours, "GPU-hours"),
        ("max_cpu_hours", usage.cpu_s / HOUR_S, budget.max_cpu_hours, "CPU-hours"),
        ("max_cost", usage.usd, budget.max_cost, "dollars"),
    ]
    return [(name, used, most, unit) for name, used, most, unit in known if most is not None]


def used_up(budget: Budget, usage: Usage) -> str:
    """Which limit is reached, and what to do; '' while none is."""
    for name, used, most, unit in limits(budget, usage):
        if used >= most:
            told = f"budget.{name} is used up: {_few(used)} of {most:g} {unit}"
            return f"{told}; no trial is started any more; raise it and give the same command to go on"
    return ""
