"""Several sweeps -> one page: the best of all, one scoreboard and one figure; or why they do not compare."""

from __future__ import annotations

import time
from collections.abc import Sequence
from html import escape

from sweeps.best import luck_of_best
from sweeps.comparison import Comparison, Sweep
from sweeps.findings import confirmed_sentence, interval
from sweeps.ledger import FINISHED
from sweeps.page.board import NOTHING, Board, BoardRow, Cell, difference_cell, value_cell, with_percent_cell
from sweeps.page.document import whole_page
from sweeps.page.elements import definitions, folded, paragraph, section
from sweeps.page.figure_sweeps import colour_of, sweeps_figure
from sweeps.page.inline import Album
from sweeps.page.roles import BASELINE
from sweeps.page.scores import MOST_ROWS, table
from sweeps.trial_summary import TrialSummary
from sweeps.wording import count, number, signed_percent, spoken_difference, steps

WIDE_IN, NARROW_IN = 10.5, 4.6


def comparison_page(comparison: Comparison) -> str:
    """The page's HTML."""
    return whole_page(f"{len(comparison.sweeps)} sweeps side by side", sections(comparison))


def sections(comparison: Comparison) -> list[str]:
    if comparison.obstacles:
        items = "".join(f"<li>{escape(line)}</li>" for line in comparison.obstacles)
        why = section("obstacles", "Why they do not compare", f"<ul>{items}</ul>")
        return [_head(comparison), why, _each(comparison)]
    return [part(comparison) for part in (_head, _scoreboard, _curves, _each, _differences)]


def headline(comparison: Comparison) -> str:
    """One sentence; on fresh seeds where a candidate of any of them has been confirmed, as a sweep's own answer is."""
    names = " and ".join(sweep.name for sweep in comparison.sweeps)
    if comparison.obstacles:
        return f"{names} do not compare: their baselines are not the same trial, or one lacks the metric."
    finished = [(s, t) for s, t in comparison.candidates if t.outcome == FINISHED and comparison.metric in t.readings]
    if not finished:
        return f"{names} compare, but none of their candidates has finished yet."
    if comparison.confirmed is not None:
        sweep, trial, difference = comparison.confirmed
        who = f"{trial.name} of {sweep.name} ({trial.config})"
        step, among = trial.readings[comparison.metric].step, len(comparison.candidates)
        return confirmed_sentence(who, difference, comparison.metric, comparison.mode, step, among)
    sweep, trial = finished[0]
    reading = trial.readings[comparison.metric]
    if reading.gap is None:
        return f"{names} compare, but there are not two baseline seeds at step {reading.step}."
    told = f"{trial.name} of {sweep.name} ({trial.config}) {spoken_difference(reading, comparison.metric)}"
    seeds = len(comparison.baselines)
    among = len(comparison.candidates)
    luck = f"if none differed from the baseline, the best would still lead by about {luck_of_best(among, seeds):.1f}"
    return f"On one seed, {told}. Of {among} candidates, {luck} spreads; the baseline has {count(seeds, 'seed')}."


def _head(comparison: Comparison) -> str:
    made = f"{count(len(comparison.sweeps), 'sweep')}; made {time.strftime('%Y-%m-%d %H:%M:%S %Z')}"
    question = comparison.first.space.question or comparison.first.space.name
    return (
        f'<header id="answer"><p class="kicker">{escape(made)}</p><h1>{escape(question)}</h1>'
        f'<p class="answer">{escape(headline(comparison))}</p></header>'
    )


def board_of(comparison: Comparison) -> Board:
    heads = ["trial", comparison.metric, "difference", *comparison.metrics[1:]]
    heads += ["on fresh seeds", "seeds", "n", "steps", "outcome"]
    rows = [_baseline_row(comparison), *(_row(comparison, s, t) for s, t in comparison.candidates)]
    return Board(heads=tuple(heads), candidates=tuple(rows), runs=())


def _baseline_row(comparison: Comparison) -> BoardRow:
    last = {metric: points[-1] for metric, points in comparison.points.items() if points}
    values: list[Cell] = []
    for metric in comparison.metrics:
        point = last.get(metric)
        spread = "" if point is None or point.spread is None else f"spread {100 * point.spread:.1f} %"
        values.append(NOTHING if point is None else (number(point.mean), spread))
    seeds = ", ".join(str(record.start.seed) for record in comparison.baselines)
    point = last.get(comparison.metric)
    cells = [
        ("baseline", f"mean of {count(point.seeds, 'seed')}, of all sweeps" if point else ""),
        values[0],
        ("reference", ""),
        *values[1:],
        NOTHING,
        (seeds or "-", ""),
        NOTHING,
        (str(point.step) if point else "-", ""),
        NOTHING,
    ]
    return BoardRow(role=BASELINE, cells=tuple(cells))


def _row(comparison: Comparison, sweep: Sweep, trial: TrialSummary) -> BoardRow:
    readings = [trial.readings.get(metric) for metric in comparison.metrics]
    first = readings[0]
    cells = [
        (trial.name, f"{sweep.name}: {trial.config}"),
        value_cell(first),
        difference_cell(first),
        *(with_percent_cell(reading) for reading in readings[1:]),
        _confirmed(comparison, sweep, trial),
        (str(trial.seed), ""),
        (str(first.estimate.num_samples), "") if first else NOTHING,
        (steps(trial), ""),
        (trial.outcome, "" if trial.outcome == FINISHED else trial.reason),
    ]
    return BoardRow(role=f"sweep-{colour_of(comparison, sweep)}", cells=tuple(cells))


def _confirmed(comparison: Comparison, sweep: Sweep, trial: TrialSummary) -> Cell:
    found = comparison.on_fresh_seeds.get((sweep.name, trial.name))
    return NOTHING if found is None else (signed_percent(found.percent), interval(found))


def _scoreboard(comparison: Comparison) -> str:
    whole = board_of(comparison)
    first, rest = whole.candidates[:MOST_ROWS], whole.candidates[MOST_ROWS:]
    more = folded(f"The other {count(len(rest), 'candidate')}", table(whole, rest)) if rest else ""
    note = (
        "The baseline seeds of all sweeps are one baseline, because it is the same trial in all of them; a seed that "
        "several have counts once. Every candidate is told by its first seed, against that baseline, at the same step; "
        "confirmed ones also by the seeds that have not chosen them, which decide. Finished ones come first, and the "
        "better ones first. A dot's colour is the sweep's."
    )
    return section("scoreboard", "Scoreboard of all sweeps", table(whole, first), more, paragraph(note, "small"))


def _curves(comparison: Comparison) -> str:
    album, parts = Album(), []
    for name, relative, caption in (
        ("curves", False, f"{comparison.metric} at every evaluation. The band is the baseline's mean ± its spread."),
        ("differences", True, "The same curves in percent of the baseline's mean at the same step."),
    ):
        sizes = ((WIDE_IN, 5.2), (NARROW_IN, 5.2))
        wide, narrow = (
            sweeps_figure(comparison, relative=relative, width_in=width, height_in=height) for width, height in sizes
        )
        if wide is not None:
            parts.append(album.card(name, wide, narrow, alt=caption, caption=caption))
    return section("curves", f"{comparison.metric} over the run", *parts)


def _each(comparison: Comparison) -> str:
    """What every sweep says itself."""
    parts = []
    for sweep in comparison.sweeps:
        parts.append(f"<h3>{escape(sweep.name)}</h3>")
        parts.append(definitions(_facts(sweep)))
    return section("sweeps", "What each sweep says itself", *parts)


def _facts(sweep: Sweep) -> Sequence[tuple[str, str]]:
    summary = sweep.summary
    return [
        ("question", summary.question or "-"),
        ("answer", summary.answer),
        ("objective", f"{summary.metric} ({summary.mode})"),
        ("searched", "; ".join(f"{dimension.path}: {dimension}" for dimension in sweep.space.dimensions)),
        ("results", str(sweep.paths.root)),
    ]


def _differences(comparison: Comparison) -> str:
    lines = "".join(f"<li>{escape(line)}</li>" for line in comparison.differences)
    body = f"<ul>{lines}</ul>" if lines else paragraph("Nothing that is recorded.")
    note = paragraph("Their baselines' settings are the same. Beside them, these differ:")
    return section("made", "What else differs", note, body)
