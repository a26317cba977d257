"""Summary -> figures as SVG text. Colours are those of Okabe and Ito, which colour-blind readers can tell apart.

Every role also has a line style or a marker of its own, so that nothing hangs on colour alone.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sweeps.ledger import FAILED, FINISHED, STOPPED
from sweeps.page.axes import Mark, figure_style, finished_svg, new_figure, set_setting_scale, set_value_scale
from sweeps.readings import BaselinePoint, Estimate
from sweeps.space import Dimension
from sweeps.summary import UNFINISHED, Summary, TrialSummary
from sweeps.wording import either

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BASELINE, BEST = "baseline", "best"
MANY_CURVES = 12  # above this many candidates curves are drawn thinner, and small figures number the best only


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
ROOM_FOR_NUMBERS_IN = 0.5
HOLLOW_PT = 5.0
MEAN_LABEL, BAND_LABEL = "baseline, mean over seeds", "baseline, mean ± spread"


def role(summary: Summary, trial: TrialSummary) -> str:
    """The key of STYLES that a trial is drawn with."""
    if trial.is_baseline:
        return FAILED if trial.outcome == FAILED else BASELINE
    best = summary.best is not None and summary.best.trial in (trial.name, trial.confirms)
    # A confirmation that failed is seen to have failed.
    return BEST if best and trial.outcome in (FINISHED, UNFINISHED) else trial.outcome


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


def curve_figure(summary: Summary, metric: str, *, width_in: float, height_in: float, legend: bool) -> str:
    """A metric over the steps: the baseline's mean, band and seeds, and every candidate as far as it came."""
    better = "lower" if summary.mode == "min" else "higher"
    label = f"{metric} ({better} is better)" if metric == summary.metric else metric
    return _curves(summary, metric, label, (width_in, height_in), means={}, legend=legend)


def difference_figure(summary: Summary, *, width_in: float, height_in: float) -> str | None:
    """The objective's curves in percent of the baseline's mean at the same step; None without such a mean.

    Differences of a few percent, which decide a sweep, are too small to be seen on curves that fall by factors.
    """
    means = {point.step: point.mean for point in summary.baseline[summary.metric] if point.mean > 0}
    if not means:
        return None
    label = f"{summary.metric}\nagainst baseline, %"
    return _curves(summary, summary.metric, label, (width_in, height_in), means=means, legend=False)


def setting_figure(summary: Summary, dimension: Dimension, *, width_in: float, height_in: float) -> str | None:
    """Difference to the baseline at each candidate's last step over one setting; None where nothing is known."""
    marks: list[tuple[Mark, Style, bool]] = []
    for trial in summary.candidates:
        reading = trial.readings.get(summary.metric)
        if reading is None or reading.percent is None or dimension.path not in trial.overrides:
            continue
        value, style = trial.overrides[dimension.path], STYLES[role(summary, trial)]
        x = dimension.values.index(value) if dimension.kind == "choice" else value
        mark = Mark(x=x, y=reading.percent, text=short_name(trial), colour=style.colour)
        marks.append((mark, style, reading.estimate.full))
    if not marks:
        return None
    with figure_style():
        figure, axes = new_figure(width_in, height_in)
        points = summary.baseline[summary.metric]
        axes.axhline(0, color=STYLES[BASELINE].colour, lw=1.6)
        if points and points[-1].spread is not None:
            low, high = _band(points[-1], 100 / points[-1].mean, -100)
            axes.axhspan(low, high, color=STYLES[BASELINE].colour, alpha=0.18, lw=0)
        for mark, style, full in marks:
            size, face = 140 if style.marker == "*" else 50, style.colour if full else "white"
            look = {"s": size, "marker": style.marker, "facecolors": face, "edgecolors": style.colour}
            axes.scatter([mark.x], [mark.y], **look, linewidths=0 if full else 1.3, zorder=3)
        set_setting_scale(axes, dimension, width_in)
        axes.set_ylabel(f"{summary.metric}\nagainst baseline, %")
        axes.margins(y=0.15)
        return finished_svg(figure, axes, [mark for mark, _, _ in marks])


def _curves(
    summary: Summary,
    metric: str,
    label: str,
    size_in: tuple[float, float],
    *,
    means: Mapping[int, float],
    legend: bool,
) -> str:
    """The curves as they are, or, where the baseline's `means` are given, in percent of them."""
    with figure_style():
        figure, axes = new_figure(*size_in)
        curves = {trial.name: _shown(trial.curves.get(metric, {}), means) for trial in summary.trials}
        for trial in [*summary.baselines, *summary.confirmations]:
            _draw_curve(axes, summary, trial, curves[trial.name])
        _draw_band(axes, summary.baseline[metric], relative=bool(means))
        best_last = sorted(summary.candidates, key=lambda trial: role(summary, trial) == BEST)
        marks = [m for trial in best_last if (m := _draw_curve(axes, summary, trial, curves[trial.name])) is not None]
        most_steps = max((trial.num_steps for trial in summary.trials), default=1)
        axes.set_xlim(0, most_steps * (1 + ROOM_FOR_NUMBERS_IN / size_in[0]))
        if not means:
            set_value_scale(axes, [point.value for curve in curves.values() for point in curve.values()])
        axes.set_ylabel(label)
        axes.set_xlabel("optimizer steps")
        hollow = hollow_note(point for curve in curves.values() for point in curve.values())
        footer = f"{provenance_line(summary)}; {hollow}" if hollow else provenance_line(summary)
        footer = "\n".join(textwrap.wrap(footer, int(size_in[0] * 14)))
        figure.supxlabel(footer, fontsize=8.5, color="#444444")
        if legend and axes.get_legend_handles_labels()[1]:
            columns = max(1, int(size_in[0] / 2.1))
            figure.legend(*_legend(axes), loc="outside upper left", ncols=columns, frameon=False, fontsize=9.5)
        if len(marks) > MANY_CURVES and not (legend or means):
            marks = [mark for mark in marks if mark.colour == STYLES[BEST].colour]
        return finished_svg(figure, axes, marks)


def _shown(curve: Mapping[int, Estimate], means: Mapping[int, float]) -> Mapping[int, Estimate]:
    if not means:
        return curve
    return {
        step: replace(point, value=100 * (point.value / means[step] - 1))
        for step, point in curve.items()
        if step in means and point.comparable
    }


def _draw_curve(axes: Axes, summary: Summary, trial: TrialSummary, curve: Mapping[int, Estimate]) -> Mark | None:
    """Draw one trial, with a marker where it ends and hollow ones at estimates. Returns that end for a number."""
    if not curve:
        return None
    name = role(summary, trial)
    style, last = STYLES[name], max(curve)
    thin = bool(trial.confirms) or (len(summary.candidates) > MANY_CURVES and name != BEST)
    size = 12 if name == BEST and not thin else 7
    axes.plot(
        list(curve),
        [point.value for point in curve.values()],
        color=style.colour,
        ls=style.line,
        lw=min(style.width, 1.4) * 0.7 if thin else style.width,
        alpha=1 if name == BEST else 0.85,
        marker=style.marker or "None",
        markevery=[len(curve) - 1],
        markersize=size,
        markeredgewidth=0,
        label=style.label,
        zorder=4 if name == BEST else 3,
    )
    for step, point in curve.items():
        if not point.full:
            width, marker = (HOLLOW_PT, "o") if step < last else (size, style.marker or "o")
            look = {"markersize": width, "marker": marker, "mfc": "white", "mec": style.colour, "mew": 1.2}
            axes.plot([step], [point.value], ls="None", zorder=4.5, **look)
    return Mark(x=last, y=curve[last].value, text=short_name(trial), colour=style.colour)


def _draw_band(axes: Axes, points: Sequence[BaselinePoint], *, relative: bool) -> None:
    """The baseline's mean over at least two seeds, and its spread."""
    shared = [point for point in points if point.spread is not None]
    if not shared:
        return
    colour, steps = STYLES[BASELINE].colour, [point.step for point in shared]
    factors = [100 / point.mean if relative else 1.0 for point in shared]
    shift = -100 if relative else 0
    means = [point.mean * factor + shift for point, factor in zip(shared, factors, strict=True)]
    axes.plot(steps, means, color=colour, lw=2.2, label=MEAN_LABEL)
    bands = [_band(point, factor, shift) for point, factor in zip(shared, factors, strict=True)]
    low, high = [band[0] for band in bands], [band[1] for band in bands]
    axes.fill_between(steps, low, high, color=colour, alpha=0.18, lw=0, label=BAND_LABEL)


def _band(point: BaselinePoint, factor: float, shift: float) -> tuple[float, float]:
    """Mean times exp(-spread) and exp(spread), scaled: the spread is one of logarithms."""
    assert point.spread is not None
    scaled = point.mean * factor
    return scaled * math.exp(-point.spread) + shift, scaled * math.exp(point.spread) + shift


def _legend(axes: Axes) -> tuple[list[Any], list[str]]:
    """Each kind of curve once."""
    handles, labels = axes.get_legend_handles_labels()
    by_label = dict(zip(labels, handles, strict=True))
    order = [MEAN_LABEL, BAND_LABEL, *(style.label for style in STYLES.values())]
    present = [label for label in order if label in by_label]
    return [by_label[label] for label in present], present
