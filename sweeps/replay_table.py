"""A replay for people: a table of its candidates that fits 100 columns, and the lines below it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sweeps.audit import BETTER, LEVEL, WORSE, standing
from sweeps.ledger import FAILED, FINISHED, STOPPED
from sweeps.replay import Course, Replay
from sweeps.rule import StopConfig
from sweeps.wording import FAR, count, duration, share

if TYPE_CHECKING:
    from rich.table import Table


WIDTH = 100
MOST_NAMES = 4  # of trials, in one line
MOMENT_S = 0.5  # less is told as nothing
SPOKEN = {WORSE: "worse", LEVEL: "within noise", BETTER: "better"}


def settings_line(config: StopConfig) -> str:
    """'margin 2, patience 2, grace 0.2, min_seeds 2, evaluation adaptive'."""
    halving = config.halving
    thinned = "" if halving is None else f", halving {halving.start:g} / {halving.keep:g} / {halving.apart:g}"
    return (
        f"margin {config.margin:g}, patience {config.patience}, grace {config.grace:g}, min_seeds {config.min_seeds}, "
        f"evaluation {config.evaluation}{thinned}"
    )


def table(replay: Replay) -> Table:
    """One row for each candidate, in the order of their start. Fits 100 columns, terminal or not."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    whole = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    whole.add_column("candidate", no_wrap=True)
    whole.add_column("as recorded", overflow="fold")
    for name in ("would stop", "gap", "n", "saved", "end gap"):
        whole.add_column(name, justify="right", no_wrap=True)
    whole.add_column("its end", no_wrap=True)
    for course in replay.courses:
        name = f"{course.trial} *" if course is replay.best else course.trial
        gap_at_end = course.ending.gap if course.ending else None
        cells = [name, _recorded(course), *_stop(course), _saved(course), _signed(gap_at_end), _end(course)]
        whole.add_row(*map(Text, cells))
    return whole


def _recorded(course: Course) -> str:
    if course.audited:
        return f"audited at {course.recorded_stop}"
    if course.outcome == STOPPED:
        return f"by hand at {course.last_step}" if course.by_hand else f"stopped at {course.recorded_stop}"
    return "to the end" if course.outcome == FINISHED else f"{course.outcome or 'unfinished'} at {course.last_step}"


def _stop(course: Course) -> tuple[str, str, str]:
    """Step, gap and number of samples; '~ 60' where it rests on fewer samples than the rule takes to stop."""
    if course.stop is None:
        return f"beyond {course.last_step}" if course.unknown else "-", "", ""
    step, samples = course.stop.step, course.stop.num_samples
    return (
        f"{step}" if course.stop.whole else f"~ {step}",
        _signed(course.stop.gap),
        f"{samples}" if samples is not None else "-",
    )


def _signed(gap: float | None) -> str:
    return "-" if gap is None else f"{gap:+.1f}" if abs(gap) < FAR else ("far worse" if gap > 0 else "far better")


def _saved(course: Course) -> str:
    if course.saved_s < MOMENT_S:
        return "-"
    estimated = "≈ " if course.whole_s > course.recorded_s else ""
    return f"{estimated}{duration(course.saved_s)}"


def _end(course: Course) -> str:
    if course.ending is None:
        return "failed" if course.outcome == FAILED else "unknown"
    if course.ending.gap is None:
        return "no baseline there"
    side = SPOKEN[standing(course.ending.gap)]
    return f"{side}: LOST" if course.lost else side


def lines(replay: Replay) -> list[str]:
    """What would have been stopped, saved and lost, what the sweep itself did, and what cannot be told."""
    named = [
        ("stopped", _stopped_line(replay)),
        ("saved", _saved_line(replay)),
        ("lost", _lost_line(replay)),
        ("best", _best_line(replay)),
        ("unknown", _unknown_line(replay)),
    ]
    return [
        line
        for name, text in named
        if text
        for line in textwrap.wrap(f"{name:<10}{text}", WIDTH, subsequent_indent=" " * 10, break_on_hyphens=False)
    ]


def _stopped_line(replay: Replay) -> str:
    courses = replay.courses
    now = {course.trial: course.stop.step for course in replay.stopped if course.stop is not None}
    then = {course.trial: course.recorded_stop for course in courses if course.recorded_stop is not None}
    same = sum(now.get(trial) == step for trial, step in then.items())
    audited = sum(course.audited for course in courses)
    told = f"{len(now)} of {count(len(courses), 'candidate')}; the sweep's own rule stopped {len(then)}"
    told += f" ({audited} of them audited)" if audited else ""
    told += f", {same} of these at the same step" if then else ""
    rough = sum(course.stop is not None and not course.stop.whole for course in courses)
    return told + (f"; {rough} on fewer samples than the rule takes" if rough else "")


def _saved_line(replay: Replay) -> str:
    whole = sum(course.whole_s for course in replay.courses)
    if not whole:
        return "nothing: no candidate has an evaluation"
    now, then = (
        "nothing" if part < MOMENT_S else f"about {duration(part)} of {duration(whole)} ({share(100 * part / whole)})"
        for part in (
            sum(course.saved_s for course in replay.courses),
            sum(course.whole_s - course.recorded_s for course in replay.courses),
        )
    )
    short = sum(course.num_short for course in replay.courses)
    known = ", as far as the courses are known" if replay.unknown else ""
    told = f"{now} against no stopping{known}; the sweep itself saved {then}"
    return told + (f"; {count(short, 'evaluation')} would have taken more samples than it did" if short else "")


def _lost_line(replay: Replay) -> str:
    if not replay.stopped:
        return "nothing: none would be stopped"
    gaps = [course.ending.gap for course in replay.stopped if course.ending is not None]
    standings = [standing(gap) for gap in gaps if gap is not None]
    if not standings:
        return "not known: how the stopped ones would have ended is recorded of none of them"
    return (
        f"{len(replay.lost)} of the {len(standings)} stopped ones whose end is known ended better than the baseline, "
        f"{standings.count(BETTER)} of them clearly; {standings.count(LEVEL)} within its noise on either side"
    )


def _best_line(replay: Replay) -> str:
    best, left = replay.best, replay.best_left
    if best is None or best.stop is None:
        return ""
    place = f"{best.trial}, the best (*), would be stopped at step {best.stop.step}"
    if left is None:
        return f"{place}; no other is known to finish"
    assert best.ending is not None
    assert left.ending is not None
    if best.ending.value <= 0:
        return f"{place}; the best left is {left.trial}"
    percent = abs(100 * (left.ending.value / best.ending.value - 1))
    return f"{place}; the best left, {left.trial}, is {percent:.1f} % worse in {replay.metric}"


def _unknown_line(replay: Replay) -> str:
    told = []
    by_rule = [course for course in replay.courses if course.outcome == STOPPED and not course.by_hand]
    cut = [course for course in by_rule if course.stop is not None and course.ending is None]
    beyond = [course for course in by_rule if course.unknown]
    by_hand = [course for course in replay.courses if course.by_hand]
    running = [course for course in replay.courses if course.outcome is None]
    if cut:
        told.append(f"how {_names(cut)} would have ended: the sweep stopped {_them(cut)} too")
    if beyond:
        most = duration(sum(course.whole_s - course.recorded_s for course in beyond))
        told.append(f"{_names(beyond)}: the sweep stopped {_them(beyond)} sooner, up to about {most} would be added")
    if running:
        told.append(f"{_names(running)}: not ended yet")
    if by_hand:
        told.append(f"{_names(by_hand)}: stopped by hand")
    if (cut or beyond) and not any(course.audited for course in replay.courses):
        told.append("none was audited, so of such ends nothing is known at all")
    return "; ".join(told)


def _them(courses: Sequence[Course]) -> str:
    return "it" if len(courses) == 1 else "them"


def _names(courses: Sequence[Course]) -> str:
    names = [course.trial for course in courses]
    shown = names if len(names) <= MOST_NAMES else [*names[: MOST_NAMES - 1], f"{len(names) - MOST_NAMES + 1} more"]
    return ", ".join(shown)
