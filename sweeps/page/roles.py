"""What a trial is on the page, and how that looks: the same in every figure, table and picture.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart. Every role also has a line style or a
marker of its own, so that nothing hangs on colour alone. What is not a trial (a share, an importance) is SHARES.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sweeps.ledger import FAILED, FINISHED, STOPPED
from sweeps.readings import Estimate
from sweeps.summary import UNFINISHED, Summary, TrialSummary
from sweeps.wording import either

BASELINE, BEST = "baseline", "best"
# Where several sweeps stand on one page, a colour is a sweep's; the same colours, and line styles where those run out.
SWEEPS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
SHARES = "#CC79A7"


@dataclass(frozen=True, kw_only=True)
class Style:
    """How one role looks, everywhere on the page, and what the legend calls it."""

    colour: str
    marker: str
    line: Any
    width: float
    label: str


# In the order of the legend.
STYLES: Mapping[str, Style] = {
    BASELINE: Style(colour="#555555", marker="", line="-", width=0.8, label="baseline, each seed"),
    BEST: Style(colour="#009E73", marker="*", line="-", width=2.6, label="best candidate"),
    FINISHED: Style(colour="#0072B2", marker="o", line="-", width=1.4, label="finished"),
    STOPPED: Style(colour="#E69F00", marker="s", line="-", width=1.4, label="stopped early"),
    FAILED: Style(colour="#D55E00", marker="X", line=(0, (4, 1.5)), width=1.4, label="failed"),
    UNFINISHED: Style(colour="#56B4E9", marker=">", line=(0, (1, 1)), width=1.6, label="running or open"),
}


def role(summary: Summary, trial: TrialSummary) -> str:
    """The key of STYLES that a trial is drawn with."""
    if trial.is_baseline:
        return FAILED if trial.outcome == FAILED else BASELINE
    best = summary.best is not None and summary.best.trial in (trial.name, trial.confirms)
    # A confirmation that failed is seen to have failed.
    return BEST if best and trial.outcome in (FINISHED, UNFINISHED) else trial.outcome


def best_trial(summary: Summary) -> TrialSummary | None:
    return next((trial for trial in summary.trials if summary.best and trial.name == summary.best.trial), None)


def short_name(trial: TrialSummary) -> str:
    """'3' for candidate-003: what stands at the end of a curve."""
    return trial.name.rsplit("-", 1)[-1].lstrip("0") or "0"


def provenance_line(summary: Summary) -> str:
    """On how many samples and seeds the curves rest."""
    seeds = [str(trial.seed) for trial in summary.baselines if trial.outcome != FAILED and trial.curves]
    candidate_seeds = sorted({trial.seed for trial in summary.candidates})
    samples = summary.sample_counts
    parts = [f"n = {either(samples)} samples per evaluation" if samples else "no evaluation yet"]
    parts.append(f"baseline: seed{'s' * (len(seeds) != 1)} {', '.join(seeds)}" if seeds else "baseline: no seed yet")
    if candidate_seeds:
        parts.append(f"candidates: seed {', '.join(map(str, candidate_seeds))}")
    if fresh := sorted({trial.seed for trial in summary.confirmations}):
        parts.append(f"confirmed (thin): seed{'s' * (len(fresh) != 1)} {', '.join(map(str, fresh))}")
    return "; ".join(parts)


def hollow_note(points: Iterable[Estimate]) -> str:
    """What stands under a figure with these points, where some of them rest on fewer samples than the others."""
    fewer = [point for point in points if not point.full]
    if not fewer:
        return ""
    unscaled = "" if all(point.scaled for point in fewer) else ", as measured where the baseline has none"
    return f"hollow: from fewer samples, scaled by the baseline's ratio{unscaled}"
