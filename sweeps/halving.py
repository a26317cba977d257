"""Halving: of the candidates that the baseline rule keeps, fewer and fewer go on. Pure, over the curves of the ledger.

After a fraction `start` of the run, with every doubling of the step the share `keep` of the candidates goes on: at a
step that is a fraction f of the run, the best
    started * (start / f) ^ log2(1 / keep),   at least 1,
of those that have come there, `started` being those that have come to the start. That is successive halving with a
rung at every evaluation. Nothing is remembered but the ledger: a candidate is held against all that have come to its
own last step by now, running, finished or stopped, whenever they did. One that came early, when there was nobody to be
held against, is so again at its next evaluation; a kill or a resume loses nothing.

Candidates are ranked by their gap to the baseline (sweeps.rule), averaged over the last AVERAGED evaluations: at equal
steps, and each at equal n against the baseline, so that few samples are not held against many. One is left behind only
where it is worse than the last that goes on by more than `apart` standard deviations of the difference between two
runs that differ by their seed alone: the order of equals is luck.

It stops nobody whom the baseline rule would not stop while fewer than FEWEST have started, and saves nobody whom that
rule stops. Unlike that rule it leaves behind candidates that truly beat the baseline, for others that beat it by more:
it is for the question which is best, not for the question which are better.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

AVERAGED = 2  # evaluations; less luck than in the last one alone, and later by little
FEWEST = 3  # candidates, below which there is nothing to halve
LARGEST = 1e9  # spreads; what is infinitely far away has no mean

Gaps = Mapping[int, float]  # step -> gap to the baseline, in spreads


@dataclass(frozen=True, kw_only=True)
class Halving:
    """How candidates are thinned out.

    start: fraction of the run where it starts. keep: share that goes on with each doubling of the step from there.
    apart: standard deviations of the difference of two runs by which one must be worse to be left behind.
    """

    start: float = 0.1
    keep: float = 0.5
    apart: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.start < 1:
            raise ValueError(f"start: got {self.start}, allowed is a fraction of the run, above 0 and below 1")
        if not 0 < self.keep < 1:
            raise ValueError(f"keep: got {self.keep}, allowed is a share above 0 and below 1")
        if not 0 <= self.apart < math.inf:
            raise ValueError(f"apart: got {self.apart}, allowed is a finite number of at least 0")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a candidate stands among the `of` that have come to its last step.

    kept: how many of them go on. beyond: how much worse its gap is than what would still go on, in the gap's unit;
    minus infinity where not more have come than go on.
    """

    rank: int
    of: int
    kept: int
    beyond: float

    @property
    def left_behind(self) -> bool:
        return self.beyond > 0


def place_among(own: Gaps, peers: Sequence[Gaps], halving: Halving, *, num_steps: int, seeds: int) -> Place | None:
    """The candidate's place at its last step; None before the start, or where too few have come to it.

    own, peers: gaps at all steps that could be compared. seeds: of the baseline, which the unit of a gap depends on.
    """
    step = max(own, default=0)
    first = min((at for gaps in (own, *peers) for at in gaps if at >= halving.start * num_steps), default=None)
    if first is None or step < first:
        return None
    started = 1 + sum(first in gaps for gaps in peers)
    if first not in own or started < FEWEST:
        return None
    others = sorted(_averaged(gaps, step) for gaps in peers if step in gaps)
    kept = max(1, math.floor(started * (first / step) ** math.log2(1 / halving.keep) + 1e-9))
    mine = _averaged(own, step)
    rank = 1 + sum(other < mine for other in others)
    # The gap's unit is s * sqrt(1 + 1/k); two runs differ by s * sqrt(2).
    unit = math.sqrt(2 / (1 + 1 / seeds))
    beyond = mine - (others[kept - 1] + halving.apart * unit) if len(others) >= kept else -math.inf
    return Place(rank=rank, of=len(others) + 1, kept=kept, beyond=beyond)


def _averaged(gaps: Gaps, step: int) -> float:
    """The mean of the last gaps up to a step."""
    last = sorted((at for at in gaps if at <= step), reverse=True)[:AVERAGED]
    return statistics.fmean(max(-LARGEST, min(LARGEST, gaps[at])) for at in last)
