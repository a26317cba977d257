"""The curves of a metric over the steps: the baseline's band, and every candidate as far as it came."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from sweeps.ledger import FAILED, STOPPED
from sweeps.page.axes import Mark, figure_style, finished_svg, new_figure, set_value_scale
from sweeps.page.inline import HINT, with_hints
from sweeps.page.roles import BASELINE, BEST, STYLES, hollow_note, provenance_line, role, short_name
from sweeps.readings import BaselinePoint, Estimate
from sweeps.summary import Summary, TrialSummary
from sweeps.wording import difference, outcome

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MANY_CURVES = 12  # above this many candidates curves are drawn thinner, and small figures number the best only
MOST_NUMBERED = 40  # likewise, and the large ones number so many of the best
MOST_TOLD = 100  # candidates, the best first, of which the mouse tells more; those behind are drawn as a crowd
ROOM_FOR_NUMBERS_IN = 0.5
HOLLOW_PT = 5.0
REACH_PT = 9.0  # how near the mouse must come to a curve
MEAN_LABEL, BAND_LABEL = "baseline, mean over seeds", "baseline, mean ± spread"

Shown = Mapping[int, Estimate]


def curve_figure(summary: Summary, metric: str, *, width_in: float, height_in: float, legend: bool) -> str:
    """A metric over the steps: the baseline's mean, band and seeds, and every candidate as far as it came."""
    better = "lower" if summary.mode == "min" else "higher"
    label = f"{metric} ({better} is better)" if metric == summary.metric else metric
    plot = _Plot(summary, {trial.name: trial.curves.get(metric, {}) for trial in summary.trials}, legend=legend)
    return plot.drawn(metric, label, (width_in, height_in))


def difference_figure(summary: Summary, *, width_in: float, height_in: float) -> str | None:
    """The objective's curves in percent of the baseline's mean at the same step; None without such a mean.

    Differences of a few percent, which decide a sweep, are too small to be seen on curves that fall by factors.
    """
    means = {point.step: point.mean for point in summary.baseline[summary.metric] if point.mean > 0}
    if not means:
        return None
    curves = {trial.name: in_percent(trial.curves.get(summary.metric, {}), means) for trial in summary.trials}
    label = f"{summary.metric}\nagainst baseline, %"
    return _Plot(summary, curves, relative=True).drawn(summary.metric, label, (width_in, height_in))


def in_percent(curve: Shown, means: Mapping[int, float]) -> Shown:
    return {
        step: replace(point, value=100 * (point.value / means[step] - 1))
        for step, point in curve.items()
        if step in means and point.comparable
    }


def hint(summary: Summary, trial: TrialSummary) -> str:
    """What the mouse is told of a curve: whose it is, how far it came, and why it ended there."""
    reading = trial.readings.get(summary.metric)
    value = "" if reading is None else f"{summary.metric} {' '.join(difference(reading)).rstrip()}"
    place = f"step {trial.step} of {trial.num_steps}"
    config = "" if trial.is_baseline else f": {trial.config}"
    return "\n".join(filter(None, [f"{trial.name}{config}", value, f"{place}, {outcome(trial)}"]))


@dataclass
class _Plot:
    """One figure on its way. curves: by trial, as they are, or (relative) in percent of the baseline's means."""

    summary: Summary
    curves: Mapping[str, Shown]
    relative: bool = False
    legend: bool = False
    hints: dict[str, str] = field(default_factory=dict)

    def drawn(self, metric: str, label: str, size_in: tuple[float, float]) -> str:
        summary = self.summary
        with figure_style():
            figure, axes = new_figure(*size_in)
            marks = self._draw_all(axes, metric)
            most_steps = max((trial.num_steps for trial in summary.trials), default=1)
            axes.set_xlim(0, most_steps * (1 + ROOM_FOR_NUMBERS_IN / size_in[0]))
            if not self.relative:
                set_value_scale(axes, [point.value for curve in self.curves.values() for point in curve.values()])
            axes.set_ylabel(label)
            axes.set_xlabel("optimizer steps")
            footer = textwrap.wrap(self._footer(), int(size_in[0] * 14))
            figure.supxlabel("\n".join(footer), fontsize=8.5, color="#444444")
            if self.legend and axes.get_legend_handles_labels()[1]:
                columns = max(1, int(size_in[0] / 2.1))
                figure.legend(*_legend(axes), loc="outside upper left", ncols=columns, frameon=False, fontsize=9.5)
            return with_hints(finished_svg(figure, {axes: self._numbered(marks)}), self.hints)

    def _draw_all(self, axes: Axes, metric: str) -> list[Mark]:
        """Returns the ends of the candidates' curves, the best first."""
        summary = self.summary
        ranked = summary.ranked()
        self._draw_crowd(axes, ranked[MOST_TOLD:])
        for trial in [*summary.baselines, *summary.confirmations]:
            self._draw_curve(axes, trial)
        draw_band(axes, summary.baseline[metric], relative=self.relative)
        told = [(trial, self._draw_curve(axes, trial)) for trial in reversed(ranked[:MOST_TOLD])]
        return [mark for _, mark in reversed(told) if mark is not None]

    def _footer(self) -> str:
        hollow = hollow_note(point for curve in self.curves.values() for point in curve.values())
        return f"{provenance_line(self.summary)}; {hollow}" if hollow else provenance_line(self.summary)

    def _numbered(self, marks: Sequence[Mark]) -> Sequence[Mark]:
        large = self.legend or self.relative
        if len(marks) <= (MOST_NUMBERED if large else MANY_CURVES):
            return marks
        return marks[:MANY_CURVES] if large else [mark for mark in marks if mark.colour == STYLES[BEST].colour]

    def _draw_crowd(self, axes: Axes, trials: Sequence[TrialSummary]) -> None:
        from matplotlib.collections import LineCollection

        for name, style in STYLES.items():
            lines = [self._line(trial) for trial in trials if role(self.summary, trial) == name]
            lines = [line for line in lines if len(line) > 1]
            if lines:
                look = {"linewidths": 0.5, "alpha": 0.35, "label": style.label}
                axes.add_collection(LineCollection(lines, colors=style.colour, **look))
                axes.autoscale_view()

    def _line(self, trial: TrialSummary) -> list[tuple[float, float]]:
        return [(step, point.value) for step, point in self.curves[trial.name].items()]

    def _draw_curve(self, axes: Axes, trial: TrialSummary) -> Mark | None:
        """Draw one trial, with a marker where it ends and hollow ones at estimates. Returns that end for a number."""
        curve = self.curves[trial.name]
        if not curve:
            return None
        name = role(self.summary, trial)
        style, last = STYLES[name], max(curve)
        thin = bool(trial.confirms) or (len(self.summary.candidates) > MANY_CURVES and name != BEST)
        size = 12 if name == BEST and not thin else 7
        steps, values = list(curve), [point.value for point in curve.values()]
        axes.plot(
            steps,
            values,
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
        ended_early = trial.outcome in (STOPPED, FAILED)
        reach(axes, steps, values, hint(self.summary, trial), self.hints, ended_early=ended_early)
        return Mark(x=last, y=curve[last].value, text=short_name(trial), colour=style.colour)


def reach(
    axes: Axes,
    steps: Sequence[float],
    values: Sequence[float],
    told: str,
    hints: dict[str, str],
    *,
    ended_early: bool,
) -> None:
    """A broad curve that nobody sees, and the mouse finds; one that was stopped or failed is found first."""
    look = {"marker": "o", "markevery": [len(steps) - 1], "ms": 2 * REACH_PT}
    (line,) = axes.plot(steps, values, lw=REACH_PT, alpha=0, zorder=7 if ended_early else 6.5, **look)
    name = f"{HINT}{len(hints)}"
    line.set_gid(name)
    hints[name] = told


def draw_band(axes: Axes, points: Sequence[BaselinePoint], *, relative: bool) -> None:
    """The baseline's mean over at least two seeds, and its spread."""
    shared = [point for point in points if point.spread is not None]
    if not shared:
        return
    colour, steps = STYLES[BASELINE].colour, [point.step for point in shared]
    factors = [100 / point.mean if relative else 1.0 for point in shared]
    shift = -100 if relative else 0
    means = [point.mean * factor + shift for point, factor in zip(shared, factors, strict=True)]
    axes.plot(steps, means, color=colour, lw=2.2, label=MEAN_LABEL, zorder=3.5)
    bands = [band(point, factor, shift) for point, factor in zip(shared, factors, strict=True)]
    low, high = [ends[0] for ends in bands], [ends[1] for ends in bands]
    axes.fill_between(steps, low, high, color=colour, alpha=0.18, lw=0, label=BAND_LABEL)


def band(point: BaselinePoint, factor: float, shift: float) -> tuple[float, float]:
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
