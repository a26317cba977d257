"""The sweep's answer in a sentence, and what it is worth in a few more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sweeps.wording import count, signed_percent, spoken_difference

if TYPE_CHECKING:
    from sweeps.best import Best
    from sweeps.confirmed import Confirmed
    from sweeps.intervals import Difference
    from sweeps.space import SearchSpace
    from sweeps.trial_summary import TrialSummary

FEW = 2  # degrees of freedom, up to which an interval is wide for want of seeds


def answer(
    space: SearchSpace, candidates: Sequence[TrialSummary], best: Best | None, *, complete: bool, flag: str = ""
) -> str:
    """One sentence. It says yes or no only where everything has ended and the difference is more than noise.

    Where the best have been confirmed it rests on their fresh seeds, else it says that it is one seed. flag: what is to
    be said against the best for its other metrics.
    """
    told = _answer(space, candidates, best, complete)
    return f"{told.removesuffix('.')}; but it {flag}." if flag else told


def _answer(space: SearchSpace, candidates: Sequence[TrialSummary], best: Best | None, complete: bool) -> str:
    ended = sum(trial.ended for trial in candidates)
    progress = f"{ended} of {max(space.budget.candidates, len(candidates))} candidates have ended"
    if best is None:
        return _answer_without_best(candidates, progress, complete)
    if best.confirmed is not None and complete:
        return _confirmed_answer(best, best.confirmed, space.objective.mode)
    if best.reading.gap is None:
        missing = f"there are not two baseline seeds at step {best.reading.step} to compare with"
        return f"Not answered yet: {progress}, and {missing}."
    found = f"{best.trial} ({best.config}) {spoken_difference(best.reading, space.objective.metric)}"
    if not complete:
        confirming = f", {best.unconfirmed}" if best.unconfirmed else ""
        return f"Not answered yet: {progress}{confirming}; so far, on one seed, {found}."
    if best.unconfirmed:
        return f"Inconclusive: on one seed, {found}; {best.unconfirmed}."
    if not best.conclusive:
        return f"Inconclusive: on one seed, {found}; that{_among(best.chosen_from)} is within the noise."
    return f"{'No: the best that finished,' if best.reading.gap > 0 else 'Yes, on one seed:'} {found}."


def _confirmed_answer(best: Best, confirmed: Confirmed, mode: str) -> str:
    difference = confirmed.objective
    assert difference is not None
    who = f"{best.trial} ({best.config})"
    return confirmed_sentence(who, difference, confirmed.metric, mode, best.reading.step, best.chosen_from)


def confirmed_sentence(who: str, difference: Difference, metric: str, mode: str, step: int, chosen_from: int) -> str:
    """'Yes: candidate-004 (weight 3.48) beats the baseline by 17.5 % in mmd at step 200 (interval, 2 fresh seeds).'

    chosen_from: candidates among which it is the best.
    """
    verb = "equals" if not difference.percent else _verb((difference.percent < 0) == (mode == "min"))
    found = (
        f"{who} {verb} the baseline by {abs(difference.percent):.1f} % in {metric} at "
        f"step {step} ({interval(difference)}, {count(difference.fresh, 'fresh seed')})"
    )
    if difference.better(mode):
        return f"Yes: {found}."
    if difference.worse(mode):
        return f"No: the best that finished, {found}."
    return f"Inconclusive: {found}; that{_among(chosen_from)} is within the noise."


def _verb(better: bool) -> str:
    return "beats" if better else "falls short of"


def _among(chosen_from: int) -> str:
    return f", the best of {chosen_from} candidates," if chosen_from > 1 else ""


def _answer_without_best(candidates: Sequence[TrialSummary], progress: str, complete: bool) -> str:
    if not complete:
        return f"Not answered yet: {progress}, none of them at the last step."
    stopped = sum(trial.stopped_by_rule for trial in candidates)
    by_hand = sum(trial.by_hand for trial in candidates)
    failed = len(candidates) - stopped - by_hand
    others = [f"{failed} failed"] * bool(failed) + [f"{by_hand} stopped by hand"] * bool(by_hand)
    if stopped:
        return f"No: no candidate kept up with the baseline ({', '.join([f'{stopped} stopped', *others])})."
    if not by_hand:
        return f"Not answered yet: {'the only candidate' if failed == 1 else f'all {failed} candidates'} failed."
    return f"Not answered yet: no candidate came to its end ({', '.join(others)})."


def interval(difference: Difference) -> str:
    """'95 % interval -12.1 to -4.3 %'; '' without one."""
    if difference.low is None or difference.high is None:
        return ""
    level = f"{100 * difference.level:.3g}"
    return f"{level} % interval {difference.low:+.1f} to {signed_percent(difference.high)}"


def caution(best: Best) -> str:
    """What the best candidate's difference is worth."""
    if best.confirmed is not None:
        return _confirmed_caution(best, best.confirmed)
    if best.reading.gap is None:
        return "There is no spread to measure the difference with."
    verdict = "" if best.conclusive else "Inconclusive: the difference is within the noise. "
    if best.unconfirmed:
        verdict = f"Not confirmed: {best.unconfirmed}. "
    if best.chosen_from < 2:
        return f"{verdict}It is one candidate with one seed."
    return (
        f"{verdict}It is the best of {best.chosen_from} candidates, one seed each, so its lead is flattered: "
        f"if none differed from the baseline, the best of {best.chosen_from} would still lead by about "
        f"{best.luck:.1f} spreads."
    )


def _confirmed_caution(best: Best, confirmed: Confirmed) -> str:
    difference = confirmed.objective
    assert difference is not None
    told = [] if best.conclusive else ["Inconclusive: the interval holds 0."]
    told.append(selection(best, difference))
    if confirmed.num_failed:
        told.append(f"{count(confirmed.num_failed, 'confirmation')} of it failed.")
    if difference.freedom <= FEW:
        told.append(
            f"The spread is known from {count(difference.freedom, 'degree')} of freedom only, which makes the interval "
            "wide: one more baseline seed would narrow it most."
        )
    return " ".join(told)


def selection(best: Best, difference: Difference) -> str:
    """What choosing the best of many on one seed has flattered it by, as measured, and as luck alone would."""
    chosen = (
        f"It was chosen as the best of {best.chosen_from} on one seed" if best.chosen_from > 1 else "On its first seed"
    )
    if difference.first_percent is None or difference.shift_percent is None:
        return f"{chosen}; fresh seeds decide."
    at = (
        f" ({signed_percent(difference.first_percent)})"
        if best.chosen_from > 1
        else f" it had {signed_percent(difference.first_percent)}"
    )
    luck = (
        f" If none differed from the baseline, the best of {best.chosen_from} would still have led there by about "
        f"{best.luck:.1f} spreads."
        if best.chosen_from > 1
        else ""
    )
    return (
        f"{chosen}{at}; fresh seeds decide, because nobody has chosen them: {signed_percent(difference.percent)}. "
        f"The first seed differs from them by {signed_percent(difference.shift_percent)}.{luck}"
    )
