"""Summary -> the logbook page: one HTML file, without a network, at any time: also while trials run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from prx_model.metrics.table import METRICS
from sweeps.findings import caution
from sweeps.ledger import FAILED, FINISHED, STOPPED
from sweeps.locations import Location, write_whole
from sweeps.page import figures
from sweeps.page.confirmation import confirmation_section
from sweeps.page.costs import costs_section
from sweeps.page.elements import dot, one_value, paragraph, picture, row, section, svg_uri, two_lines
from sweeps.page.importance import importance_part
from sweeps.page.record import record_section
from sweeps.page.samples import samples_section
from sweeps.page.stopping import stopping_section
from sweeps.page.style import SECURITY, STYLE
from sweeps.scoreboard import BASELINE, MARK
from sweeps.space import SearchSpace, flattered_metrics
from sweeps.storage import SweepPaths
from sweeps.summary import UNFINISHED, Summary, TrialSummary
from sweeps.wording import audit_note, count, difference, duration, number, reused, steps

WIDE_IN, NARROW_IN = 10.5, 4.6  # the main figure on a screen and on a phone
PANEL_IN = (4.5, 3.2)


def write_page(
    space: SearchSpace, paths: SweepPaths, summary: Summary, starts: Sequence[Mapping[str, Any]]
) -> Location:
    """Write paths.page as a whole or not at all, and return it. `starts` is what sweeps.provenance has recorded."""
    sections = [
        _head(space, summary),
        confirmation_section(space, summary),
        _curves(space, summary),
        _other_metrics(summary),
        samples_section(space, paths, summary),
        _trials(summary),
        stopping_section(summary),
        _settings(space, paths, summary),
        costs_section(summary),
        _failures(paths, summary),
        record_section(space, paths, summary, starts),
    ]
    title = escape(f"{space.name}: {space.question}" if space.question else space.name)
    page = (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{SECURITY}\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(sections)
        + "\n</main>\n</body>\n</html>\n"
    )
    write_whole(paths.page, page.encode())
    return paths.page


def _head(space: SearchSpace, summary: Summary) -> str:
    state = "" if summary.complete else paragraph("This sweep is not complete: this is how it stands.", "state")
    if summary.used_up:
        state += paragraph(f"{summary.used_up[0].upper()}{summary.used_up[1:]}.", "state")
    warning = caution(summary.best) if summary.best else ""
    return (
        f'<header id="answer">\n<p class="kicker">{escape(space.name)}, profile {escape(space.profile)}, '
        f"made {time.strftime('%Y-%m-%d %H:%M %Z')}</p>\n<h1>{escape(space.question or space.name)}</h1>\n"
        f'<p class="answer">{escape(summary.answer)}</p>\n{paragraph(warning) if warning else ""}\n{state}\n'
        f"{_tiles(summary)}\n</header>"
    )


def _tiles(summary: Summary) -> str:
    outcomes = [trial.outcome for trial in summary.candidates]
    present = [name for name in (FINISHED, STOPPED, FAILED, UNFINISHED) if name in outcomes]
    counts = ", ".join(f"{outcomes.count(name)} {name}" for name in present)
    done = sum(trial.outcome == FINISHED for trial in summary.baselines)
    compute, stopped = summary.compute, count(summary.compute.num_stopped, "trial")
    repeated = f", {duration(compute.repeated_s)} of it repeated after resumes" if compute.num_repeated else ""
    used = f": {compute.usage}" if compute.usage is not None and str(compute.usage) else ""
    tiles = [
        ("Candidates", f"{len(outcomes)} of {max(summary.num_planned, len(outcomes))}", counts or "none started"),
        (
            "Baseline",
            f"{done} of {max(summary.num_planned_seeds, len(summary.baselines))}",
            f"seeds finished{reused(summary)}",
        ),
        ("Compute", duration(compute.spent_s), f"summed over trials{repeated}{used}"),
        ("Saved by stopping", f"≈ {duration(compute.saved_s)}", f"estimate: {stopped} stopped early"),
    ]
    cells = "".join(
        f'<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd><dd class="small">{escape(note)}</dd></div>'
        for name, value, note in tiles
    )
    return f'<dl class="tiles">{cells}</dl>'


def _curves(space: SearchSpace, summary: Summary) -> str:
    metric, rests_on = summary.metric, figures.provenance_line(summary)
    wide = figures.curve_figure(summary, metric, width_in=WIDE_IN, height_in=5.2, legend=True)
    narrow = figures.curve_figure(summary, metric, width_in=NARROW_IN, height_in=5.2, legend=True)
    alt = f"Curves of {metric} over the steps: the baseline's band and every candidate. {rests_on}."
    caption = (
        f"{metric} at every evaluation. The band is the baseline's mean ± its spread between seeds. A stopped or "
        "failed candidate's curve ends where the trial did. Numbers are those of the candidates."
    )
    figure = picture(svg_uri(wide), svg_uri(narrow), alt)
    parts = [f'<figure class="card">{figure}<figcaption>{escape(caption)}</figcaption></figure>', _differences(summary)]
    return section("curves", f"{metric} over the run", *parts, _what_metrics_are(space, summary))


def _differences(summary: Summary) -> str:
    wide = figures.difference_figure(summary, width_in=WIDE_IN, height_in=3.6)
    narrow = figures.difference_figure(summary, width_in=NARROW_IN, height_in=3.8)
    if wide is None or narrow is None:
        return ""
    alt = f"The same curves in percent of the baseline's mean at the same step. {figures.provenance_line(summary)}."
    caption = "The same curves in percent of the baseline's mean at the same step."
    figure = picture(svg_uri(wide), svg_uri(narrow), alt)
    return f'<figure class="card">{figure}<figcaption>{escape(caption)}</figcaption></figure>'


def _what_metrics_are(space: SearchSpace, summary: Summary) -> str:
    """A line for each metric: what it is. A metric that is not FID is never left to be taken for it."""
    lines = "".join(f"<li><code>{escape(m)}</code>: {escape(_description(m))}</li>" for m in summary.metrics)
    others = [metric for metric in summary.metrics if metric != "fid"]
    if others:
        are = "is NOT FID and cannot" if len(others) == 1 else "are NOT FID and cannot"
        lines += f"<li>{escape(' and '.join(others))} {are} be compared with published FIDs.</li>"
    for metric, teacher in flattered_metrics(space):
        lines += (
            f"<li>{escape(metric)} is scored by the network that {escape(teacher)} is: it flatters that teacher.</li>"
        )
    lines += "<li>Values compare only at the same step and the same number of samples n.</li>"
    return f'<ul class="small">{lines}</ul>'


def _description(metric: str) -> str:
    spec = METRICS.get(metric)
    return spec.description if spec is not None else "no description; it is not in the table of metrics"


def _other_metrics(summary: Summary) -> str:
    panels = []
    for metric in summary.metrics[1:]:
        figure = figures.curve_figure(summary, metric, width_in=PANEL_IN[0], height_in=PANEL_IN[1], legend=False)
        alt = f"Curves of {metric} over the steps, baseline and candidates. {figures.provenance_line(summary)}."
        panels.append(f'<figure class="card"><img src="{svg_uri(figure)}" alt="{escape(alt)}"></figure>')
    body = f'<div class="panels">{"".join(panels)}</div>' if panels else paragraph("No other metric was asked for.")
    note = paragraph("Colours, bands and numbers as above.", "small") if panels else ""
    return section("metrics", "The other metrics", body, note, _scores(summary))


def _scores(summary: Summary) -> str:
    """Whom nobody beats, and who wins the objective at the price of another metric."""
    board, configs = summary.scoreboard, {trial.name: f"{trial.name} ({trial.config})" for trial in summary.candidates}
    items = []
    if board.pareto:
        names = [configs.get(name, name) for name in (BASELINE, *configs) if name in board.pareto]
        items.append(f"{MARK} Nobody is as good in every metric and better in one (Pareto set): {'; '.join(names)}.")
    items += [f"{configs[name]} wins {summary.metric} and {board.flag(name)}." for name in board.losses]
    return f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>" if items else ""


def _trials(summary: Summary) -> str:
    heads = ["trial", summary.metric, *summary.metrics[1:], "steps", "time", "outcome and reason"]
    rows = [_baseline_mean_row(summary, heads)] if summary.baseline[summary.metric] else []
    rows += [_trial_row(summary, trial, heads) for trial in summary.in_order()]
    if not rows:
        return section("trials", "All trials", paragraph("No trial has started yet."))
    head = "".join(f'<th scope="col">{escape(name).replace("_", "_<wbr>")}</th>' for name in heads)
    unit = (
        "Differences are to the baseline's mean at the same step. They are counted in spreads: the baseline's relative "
        "standard deviation between seeds, times the root of 1 + 1/seeds. That is what one run differs by through "
        "chance alone. Below 2 spreads a difference is inconclusive."
    )
    readings = [reading for trial in summary.trials for reading in trial.readings.values()]
    if any(not reading.estimate.full for reading in readings):
        unit += " ≈: from n samples only, scaled by the baseline's ratio between all samples and n at that step."
    return section(
        "trials",
        "All trials",
        f'<table class="trials"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>',
        paragraph(unit, "small"),
    )


def _baseline_mean_row(summary: Summary, heads: Sequence[str]) -> str:
    last = {metric: points[-1] for metric, points in summary.baseline.items() if points}
    point = last[summary.metric]
    values = []
    for metric in summary.metrics:
        spread = last[metric].spread if metric in last else None
        spoken = "" if spread is None else f"spread {100 * spread:.1f} %"
        values.append(one_value(number(last[metric].mean), spoken) if metric in last else "-")
    name = dot(figures.BASELINE) + two_lines(
        f"baseline{summary.scoreboard.mark(BASELINE)}", f"mean of {count(point.seeds, 'seed')}"
    )
    return row(heads, [name, *values, str(point.step), "", ""])


def _trial_row(summary: Summary, trial: TrialSummary, heads: Sequence[str]) -> str:
    role = figures.role(summary, trial)
    values = []
    for metric in summary.metrics:
        reading = trial.readings.get(metric)
        values.append("-" if reading is None else one_value(*difference(reading)))
    repeated = f"{count(trial.num_repeated, 'evaluation')} repeated" if trial.num_repeated else ""
    saved = f"≈ {duration(trial.saved_s)} saved" if trial.saved_s else ""
    name = dot(role if role == figures.BEST or not trial.is_baseline else figures.BASELINE)
    best = " (best)" if summary.best is not None and trial.name == summary.best.trial else ""
    name += two_lines(f"{trial.name}{best}{summary.scoreboard.mark(trial.name)}", trial.config)
    time_cell = two_lines(duration(trial.spent_s), ", ".join(filter(None, [saved, repeated])))
    notes = [trial.reason, audit_note(trial) if trial.ended else "", summary.scoreboard.flag(trial.name)]
    reason = "; ".join(filter(None, notes))
    return row(heads, [name, *values, steps(trial), time_cell, two_lines(trial.outcome, reason)])


def _settings(space: SearchSpace, paths: SweepPaths, summary: Summary) -> str:
    panels = []
    for dimension in space.dimensions:
        figure = figures.setting_figure(summary, dimension, width_in=PANEL_IN[0], height_in=PANEL_IN[1])
        if figure is not None:
            alt = f"{summary.metric} against the baseline over {dimension.path}, one point per candidate."
            panels.append(f'<figure class="card"><img src="{svg_uri(figure)}" alt="{escape(alt)}"></figure>')
    if not panels:
        return section(
            "settings", "What each setting does", paragraph("No candidate can be compared with the baseline yet.")
        )
    note = (
        "Each candidate's difference to the baseline's mean at its own last step: stopped ones (squares) are seen at "
        "an earlier step than finished ones. The band is the baseline's spread between seeds. Candidates vary in all "
        "settings at once. "
        f"{figures.provenance_line(summary)}."
    )
    readings = [trial.readings[summary.metric] for trial in summary.candidates if summary.metric in trial.readings]
    hollow = figures.hollow_note(reading.estimate for reading in readings if reading.percent is not None)
    note += f" {hollow.capitalize()}." if hollow else ""
    return section(
        "settings",
        "What each setting does",
        f'<div class="panels">{"".join(panels)}</div>',
        paragraph(note, "small"),
        importance_part(space, paths),
    )


def _failures(paths: SweepPaths, summary: Summary) -> str:
    if not summary.failed:
        return section("failures", "What failed", paragraph("Nothing has failed."))
    items = []
    for trial in summary.failed:
        where = f"{trial.name} ({trial.config}) failed at step {trial.step} of {trial.num_steps}: {trial.reason}"
        items.append(f'<li>{escape(where)}<span class="small">log: {_log_link(paths, trial.log)}</span></li>')
    return section("failures", "What failed", f"<ul>{''.join(items)}</ul>")


def _log_link(paths: SweepPaths, log: str) -> str:
    """The log's path; a link where it lies in the sweep's folder, beside the page."""
    beside = log.removeprefix(f"{paths.root}/")
    return escape(log or "none") if beside == log else f'<a href="{escape(beside)}">{escape(log)}</a>'
