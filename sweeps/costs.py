"""What trials have cost, by what it was spent on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sweeps.usage import Usage


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Seconds of a trial, or of several, by what they were spent on. The names are those of the ledger's rows."""

    start_s: float = 0.0
    data_s: float = 0.0
    train_s: float = 0.0
    eval_s: float = 0.0
    checkpoint_s: float = 0.0

    @classmethod
    def of(cls, rows: Iterable[object]) -> Costs:
        """The sum over rows. What a row, or a kind of row, does not tell is 0."""
        rows = list(rows)
        return cls(**{cost.name: sum(getattr(row, cost.name, 0.0) for row in rows) for cost in fields(cls)})

    @property
    def total_s(self) -> float:
        return sum(asdict(self).values())

    def named(self) -> dict[str, float]:
        """What people call the parts, in the order in which a trial comes to them -> seconds."""
        return {
            "start-up": self.start_s,
            "data": self.data_s,
            "training": self.train_s,
            "evaluation": self.eval_s,
            "checkpoints": self.checkpoint_s,
        }

    def shares(self) -> dict[str, float]:
        """The same in percent of the total, without what was not spent or, in older ledgers, not recorded."""
        return {name: 100 * seconds / self.total_s for name, seconds in self.named().items() if seconds}


def working_s(rows: Iterable[object]) -> float:
    """Seconds of rows without start-up: what grows with the steps of a trial, and what ending it sooner saves."""
    costs = Costs.of(rows)
    return costs.total_s - costs.start_s


@dataclass(frozen=True, kw_only=True)
class Compute:
    """What all trials together have cost and saved.

    saved_s: an estimate; see sweeps.trial_summary.saved_s. num_sampled: images that evaluations have sampled; num_full:
    that they would have, each on all samples.
    """

    costs: Costs = field(default_factory=Costs)
    saved_s: float = 0.0
    num_stopped: int = 0
    num_repeated: int = 0
    repeated_s: float = 0.0
    num_sampled: int = 0
    num_full: int = 0
    usage: Usage | None = None

    @property
    def spent_s(self) -> float:
        return self.costs.total_s
