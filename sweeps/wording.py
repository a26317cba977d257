"""Numbers and findings in words: what the terminal and the page say alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sweeps.ledger import FINISHED, LOSS, NOTICE

if TYPE_CHECKING:
    from sweeps.costs import Compute, Costs
    from sweeps.ledger import Interruption
    from sweeps.readings import Reading
    from sweeps.summary import Summary, TrialSummary


FAR = 1e6  # spreads; the ledger holds 1e9 for an infinite gap


def number(value: float) -> str:
    """Four significant digits."""
    return f"{value:.4g}"


def signed_percent(percent: float) -> str:
    return f"{percent:+.1f} %"


def duration(seconds: float) -> str:
    """'42 s', '3 min 20 s', '5.3 h', '12.5 days'."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{seconds / 3600:.1f} h" if seconds < 3 * 86400 else f"{seconds / 86400:.1f} days"


def count(amount: int, noun: str, plural: str = "") -> str:
    """'1 trial', '2 trials'; '2 losses' where the plural is given."""
    return f"{amount} {noun if amount == 1 else plural or f'{noun}s'}"


def either(amounts: Sequence[int]) -> str:
    """'160', '40 or 160', '20, 40 or 160'."""
    *first, last = map(str, amounts)
    return f"{', '.join(first)} or {last}" if first else last


def spreads(gap: float) -> str:
    """'3.4 spreads', whichever side; a value of 0 or below, which the logarithm cannot take, is just far away."""
    return f"{abs(gap):.1f} spreads" if abs(gap) < FAR else "far beyond the spread"


def gap_in_words(gap: float) -> str:
    """'3.4 spreads better'."""
    return f"{spreads(gap)} {'worse' if gap > 0 else 'better'}"


def estimated(reading: Reading) -> str:
    """'200.7', or '≈ 200.7' where it is estimated from fewer samples."""
    return f"{'≈ ' if reading.estimate.scaled else ''}{number(reading.value)}"


def difference(reading: Reading) -> tuple[str, str]:
    """('200.7 (-5.1 %)', '3.4 spreads better'): the second part is '' without a spread to compare with.

    From fewer samples than all: ('≈ 200.7 (-5.1 %)', '3.4 spreads better, n=20').
    """
    samples = "" if reading.estimate.full else f"n={reading.estimate.num_samples}"
    percent = "" if reading.percent is None else f" ({signed_percent(reading.percent)})"
    side = "" if reading.gap is None else gap_in_words(reading.gap)
    return f"{estimated(reading)}{percent}", ", ".join(filter(None, [side, samples]))


def spoken_difference(reading: Reading, metric: str) -> str:
    """'beats the baseline by 5.1 % (3.4 spreads) in fid at step 400'."""
    assert reading.gap is not None
    verb = "beats" if reading.gap < 0 else "falls short of" if reading.gap > 0 else "equals"
    percent = "" if reading.percent is None else f"{abs(reading.percent):.1f} % "
    return f"{verb} the baseline by {percent}({spreads(reading.gap)}) in {metric} at step {reading.step}"


def compute_sentence(compute: Compute) -> str:
    used = f": {compute.usage}" if compute.usage is not None and str(compute.usage) else ""
    sentence = f"{duration(compute.spent_s)}, summed over trials{used}"
    if compute.num_stopped:
        saved = f"saved about {duration(compute.saved_s)} (estimate)"
        sentence += f"; stopping {count(compute.num_stopped, 'trial')} {saved}"
    if compute.num_repeated:
        repeated = count(compute.num_repeated, "evaluation")
        sentence += f"; {duration(compute.repeated_s)} ({repeated}) repeated after resumes"
    return sentence


def interruptions_sentence(interruptions: Sequence[Interruption]) -> str:
    """'2 losses of workers and 1 notice, in 2 trials, which went on from their checkpoints'; '' without any."""
    causes = Counter(one.cause for one in interruptions)
    lost, noticed = causes[LOSS], causes[NOTICE]
    told = [count(lost, "loss", "losses") + " of workers"] if lost else []
    told += [count(noticed, "notice")] if noticed else []
    trials = len({one.trial for one in interruptions})
    which = (
        "a trial, which went on from its checkpoint"
        if trials == 1
        else f"{trials} trials, which went on from their checkpoints"
    )
    return f"{' and '.join(told)}, in {which}" if told else ""


def shares(costs: Costs) -> str:
    """'start-up 12 %, training 70 %, ...': every part that was recorded, in the order of a trial's life."""
    return ", ".join(f"{name} {share(percent)}" for name, percent in costs.shares().items())


def share(percent: float) -> str:
    """'12 %', '< 1 %'."""
    return f"{percent:.0f} %" if percent >= 0.5 else "< 1 %"


def sampled(num_sampled: int, num_full: int) -> str:
    """'1,240 of 2,560 samples (48 %)'."""
    part = f" ({share(100 * num_sampled / num_full)})" if num_full else ""
    return f"{num_sampled:,} of {num_full:,} samples{part}"


def time_sentence(compute: Compute) -> str:
    """Where the time went, and how many samples evaluations have taken of those that they could have."""
    return f"{shares(compute.costs)}; evaluations on {sampled(compute.num_sampled, compute.num_full)}"


def outcome(trial: TrialSummary) -> str:
    """'stopped: why'. A finished trial needs no reason; that the rule would have stopped it is told."""
    if trial.outcome == FINISHED:
        return ", ".join(filter(None, [trial.outcome, audit_note(trial)]))
    return f"{trial.outcome}: {trial.reason}"


def audit_note(trial: TrialSummary) -> str:
    """'' for a candidate that the rule has never wanted to stop."""
    return "" if trial.audit is None else f"audited: the rule would have stopped it at step {trial.audit.step}"


def reused(summary: Summary) -> str:
    """', 2 reused from repa-laptop-0123456789ab', or ''."""
    sources = [trial.reused_from for trial in summary.baselines if trial.reused_from]
    return f", {len(sources)} reused from {' and '.join(dict.fromkeys(sources))}" if sources else ""


def steps(trial: TrialSummary) -> str:
    """'400', or '160/400' where the trial has not trained all of its steps."""
    return f"{trial.step}" if trial.step >= trial.num_steps else f"{trial.step}/{trial.num_steps}"
