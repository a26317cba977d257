"""The audit of the stopping rule: a random share of the candidates that it would stop goes on to the end. Pure.

What is stopped has no end, so nothing but such an audit can tell how many of the stopped would have recovered. Who is
audited is drawn from the trial's name and fingerprint, which the ledger has: before the first step, whatever the curve
is, the same after every resume, and in whoever reads the ledger. A larger share audits all that a smaller one does.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from sweeps.costs import working_s
from sweeps.ledger import TrialRecord, recorded_verdict
from sweeps.readings import CONCLUSIVE
from sweeps.rule import Verdict

WORSE, LEVEL, BETTER = "worse", "level", "better"  # than the baseline, where the audited candidate ended


def is_chosen(trial: str, fingerprint: str, share: float) -> bool:
    """Whether the trial goes on where the rule would stop it; `share` of all names and fingerprints do."""
    draw = int.from_bytes(hashlib.sha256(f"audit {fingerprint} {trial}".encode()).digest()[:8], "big")
    return draw < share * 2**64


def audited(verdict: Verdict, trial: str, fingerprint: str, share: float) -> Verdict:
    """The verdict, with a stop taken back where the trial is chosen for the audit."""
    if not verdict.stop or not is_chosen(trial, fingerprint, share):
        return verdict
    reason = f"{verdict.reason}; it goes on to the end as an audit of the rule"
    return replace(verdict, stop=False, audited=True, reason=reason)


@dataclass(frozen=True, kw_only=True)
class Audited:
    """A candidate that the rule would have stopped, and that went on.

    step: the first evaluation at which it would have ended, with the verdict of that time. cost_s: what it has spent
    since, which stopping would have saved.
    """

    step: int
    verdict: Verdict
    cost_s: float


def audit_of(record: TrialRecord) -> Audited | None:
    """What the ledger says; None for a candidate that was stopped, or that nobody wanted to stop."""
    verdicts = {row.step: recorded_verdict(row) for row in record.evaluations}
    for step, verdict in verdicts.items():
        if verdict is not None and verdict.audited:
            since = [row for row in record.evaluations if row.step > step]
            cost_s = working_s([*since, *([record.end] if record.end is not None else [])])
            return Audited(step=step, verdict=verdict, cost_s=cost_s)
    return None


def standing(gap: float) -> str:
    """WORSE or BETTER where the gap to the baseline is conclusive, else LEVEL."""
    if gap >= CONCLUSIVE:
        return WORSE
    return BETTER if gap <= -CONCLUSIVE else LEVEL
