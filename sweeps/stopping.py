"""What stopping did in a sweep, and what its audit says: in sentences, for the terminal and the page alike."""

from __future__ import annotations

from collections.abc import Sequence

from sweeps.audit import BETTER, LEVEL, WORSE, standing
from sweeps.ledger import FAILED, FINISHED
from sweeps.readings import CONCLUSIVE
from sweeps.rule import Verdict
from sweeps.summary import Summary, TrialSummary
from sweeps.wording import count, duration, gap_in_words, share

CONFIDENCE = 0.95  # of the interval of a share
SPOKEN = {
    WORSE: "clearly worse: it would have been stopped rightly",
    LEVEL: "within the noise: it recovered",
    BETTER: "clearly better: the rule would have lost it",
}


def end_standing(summary: Summary, trial: TrialSummary) -> str | None:
    """WORSE, LEVEL or BETTER than the baseline at the last step; None where the trial has no such end."""
    reading = trial.readings.get(summary.metric)
    if trial.outcome != FINISHED or reading is None or reading.gap is None:
        return None
    return standing(reading.gap)


def recovered(summary: Summary) -> list[TrialSummary]:
    """Audited candidates that ended within the noise of the baseline, or better, which the rule took for worse."""
    return [trial for trial in _taken_for_worse(summary) if end_standing(summary, trial) in (LEVEL, BETTER)]


def _taken_for_worse(summary: Summary) -> list[TrialSummary]:
    return [trial for trial in summary.audited if not left_behind(summary, trial)]


def left_behind(summary: Summary, trial: TrialSummary) -> bool:
    """Whether an audited candidate would have ended without enough strikes: for being behind the other candidates."""
    return trial.audit is not None and trial.audit.verdict.strikes < summary.stop.patience


def stopping_line(summary: Summary) -> str:
    """One line for the terminal."""
    stopped, audited = summary.stopped, summary.audited
    if not stopped and not audited:
        return "no candidate was stopped"
    place = f", {_at_steps([trial.step for trial in stopped])}" if stopped else ""
    told = f"{len(stopped)} of {count(len(summary.candidates), 'candidate')} stopped{place}; audit: "
    if not audited:
        drawn = "none was drawn, so whether they would have recovered is not known"
        return told + ("off" if summary.stop.audit == 0 else drawn)
    told += f"{len(audited)} went on to the end, {len(recovered(summary))} recovered"
    best = _best_against_the_rule(summary)
    return f"{told}; {best}" if best else told


def stopped_sentence(summary: Summary) -> str:
    """How many, at which step and gap, and what it has saved."""
    stopped = summary.stopped
    if not stopped:
        return "No candidate was stopped."
    saved, spent = summary.compute.saved_s, summary.compute.spent_s
    told = f"{len(stopped)} of {count(len(summary.candidates), 'candidate')} stopped early, {_where(stopped)}."
    return (
        f"{told} That saved about {duration(saved)} of training and evaluation, {share(100 * saved / (saved + spent))} "
        "of what all trials would have taken (an estimate from each one's own seconds per step)."
    )


def _where(stopped: Sequence[TrialSummary]) -> str:
    gaps = [gap for trial in stopped if (gap := _last_gap(trial)) is not None]
    steps = f"{_at_steps([trial.step for trial in stopped])} of {max(trial.num_steps for trial in stopped)}"
    if not gaps:
        return steps
    least = "" if min(gaps) == max(gaps) else f"{gap_in_words(min(gaps))} to "
    return f"{steps}, {least}{gap_in_words(max(gaps))} than the baseline there"


def _last_gap(trial: TrialSummary) -> float | None:
    return trial.verdicts[max(trial.verdicts)].gap if trial.verdicts else None


def _at_steps(steps: Sequence[int]) -> str:
    return f"at step {min(steps)}" if min(steps) == max(steps) else f"at steps {min(steps)} to {max(steps)}"


def audit_sentences(summary: Summary) -> list[str]:
    """Whether the stopped ones would have recovered, as far as anybody can know."""
    stopped, audited, chance = summary.stopped, summary.audited, share(100 * summary.stop.audit)
    if not stopped and not audited:
        return []
    if not audited and summary.stop.audit == 0:
        return ["The audit is off (stop.audit: 0): what would have become of the stopped candidates is not known."]
    if not audited:
        return [
            f"None was audited. A candidate that the rule would stop goes on to the end with a chance of {chance}, and "
            f"none of these {len(stopped)} was drawn: what would have become of them is not known."
        ]
    whole = len(stopped) + len(audited)
    cost = sum(trial.audit.cost_s for trial in audited if trial.audit is not None)
    best = _best_against_the_rule(summary)
    return [
        f"To audit the rule, a candidate that it would stop goes on to the end with a chance of {chance}: "
        f"{len(audited)} of {whole} did, which took {duration(cost)} that stopping would have saved.",
        *([_recovery(summary)] if _taken_for_worse(summary) else []),
        *([_of_the_left_behind(summary)] if len(_taken_for_worse(summary)) < len(audited) else []),
        *([f"{best}."] if best else []),
    ]


def _recovery(summary: Summary) -> str:
    audited = _taken_for_worse(summary)
    standings = [end for trial in audited if (end := end_standing(summary, trial)) is not None]
    ended, back = len(standings), len(recovered(summary))
    failed = sum(trial.outcome == FAILED for trial in audited)
    running = len(audited) - ended - failed
    others = [count(failed, "audited one") + " failed on the way"] * bool(failed)
    others += [f"of {running} the end is not known yet"] * bool(running)
    told = f"; {', '.join(others)}" if others else ""
    if not ended:
        return f"None of them can be compared with the baseline at its end{told}."
    low, high = _interval(back, ended)
    return (
        f"{back} of {ended} recovered, that is, ended less than {CONCLUSIVE:g} spreads worse than the baseline; "
        f"{standings.count(BETTER)} ended clearly better than it{told}. All that {count(ended, 'end')} can tell: "
        f"{100 * low:.0f} to {100 * high:.0f} % of those that this rule stops here would recover "
        f"({100 * CONFIDENCE:.0f} % interval)."
    )


def _of_the_left_behind(summary: Summary) -> str:
    """They may well beat the baseline: what halving can lose is the best."""
    behind = [trial for trial in summary.audited if left_behind(summary, trial)]
    best = sum(_is_best(summary, trial) for trial in behind)
    ended = sum(trial.outcome == FINISHED for trial in behind)
    return (
        f"{len(behind)} of them would have been left behind by halving, for others that were ahead: {ended} of those "
        f"have ended, and {'one is' if best else 'none is'} the best candidate."
    )


def _is_best(summary: Summary, trial: TrialSummary) -> bool:
    return summary.best is not None and trial.name == summary.best.trial


def _interval(amount: int, among: int) -> tuple[float, float]:
    """Clopper and Pearson's interval of a share."""
    from scipy.stats import binomtest

    interval = binomtest(amount, among).proportion_ci(CONFIDENCE, method="exact")
    return float(interval.low), float(interval.high)


def _best_against_the_rule(summary: Summary) -> str:
    best = next((trial for trial in summary.audited if _is_best(summary, trial)), None)
    if best is None or best.audit is None:
        return ""
    place = f"would have been stopped at step {best.audit.step}"
    return f"{best.name}, the best candidate, {place}: a finding against the rule"


def audited_end(summary: Summary, trial: TrialSummary) -> str:
    """'3.4 spreads worse, clearly worse: ...' of an audited candidate."""
    end, reading = end_standing(summary, trial), trial.readings.get(summary.metric)
    if end is None or reading is None or reading.gap is None:
        return "no end to compare with the baseline" if trial.ended else "still on its way"
    if left_behind(summary, trial):
        verdict = (
            "the best: halving would have lost it" if _is_best(summary, trial) else "not the best: left behind rightly"
        )
        return f"{gap_in_words(reading.gap)}, {verdict}"
    return f"{gap_in_words(reading.gap)}, {SPOKEN[end]}"


def forecast_in_words(verdict: Verdict) -> str:
    """'on its trend 5.2 spreads worse at the end'; '' where there were too few evaluations for a trend."""
    return "" if verdict.forecast is None else f"on its trend {gap_in_words(verdict.forecast)} at the end"


def verdict_in_words(verdict: Verdict) -> tuple[str, str]:
    """('3.4 spreads worse', 'n=40, 3 seeds')."""
    if verdict.gap is None:
        return "-", ""
    return gap_in_words(verdict.gap), f"n={verdict.num_samples}, {count(verdict.seeds, 'seed')}"
