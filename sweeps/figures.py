"""Summary -> figures as SVG text. Colours are those of Okabe and Ito, which colour-blind readers can tell apart.

Every role also has a line style or a marker of its own, so that nothing hangs on colour alone.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sweeps.ledger import FAILED, FINISHED, STOPPED
from sweeps.rule import Curve
from sweeps.space import Dimension
from sweeps.summary import UNFINISHED, BaselinePoint, Summary, TrialSummary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BASELINE, BEST = "baseline", "best"
LOG_FROM_RATIO = 4.0  # largest to smallest value above which a logarithmic axis shows more
LABEL_PT = 9.0  # height of a trial's number at the end of its curve
MANY_CURVES = 12  # above this many candidates the ordinary curves are drawn thinner
RC: Any = {"svg.fonttype": "path", "svg.hashsalt": "prx-sweeps", "font.size": 10.0, "font.family": "DejaVu Sans"}


@dataclass(frozen=True, kw_only=True)
class Style:
    """How one role looks, everywhere on the page."""

    colour: str
    marker: str
    line: Any
    width: float


STYLES: Mapping[str, Style] = {
    BASELINE: Style(colour="#555555", marker="", line="-", width=1.0),
    FINISHED: Style(colour="#0072B2", marker="o", line="-", width=1.4),
    STOPPED: Style(colour="#E69F00", marker="s", line="-", width=1.4),
    FAILED: Style(colour="#D55E00", marker="X", line=(0, (4, 1.5)), width=1.4),
    UNFINISHED: Style(colour="#56B4E9", marker=">", line=(0, (1, 1)), width=1.6),
    BEST: Style(colour="#009E73", marker="*", line="-", width=2.6),
}


def role(summary: Summary, trial: TrialSummary) -> str:
    """The key of STYLES that a trial is drawn with."""
    if trial.is_baseline:
        return BASELINE
    return BEST if summary.best is not None and trial.name == summary.best.trial else trial.outcome


def short_name(trial: TrialSummary) -> str:
    """'3' for candidate-003: what stands at the end of a curve."""
    return trial.name.rsplit("-", 1)[-1].lstrip("0") or "0"


def provenance_line(summary: Summary) -> str:
    """On how many samples and seeds the curves rest."""
    samples = sorted({trial.num_samples for trial in summary.trials if trial.num_samples is not None})
    seeds = [str(trial.seed) for trial in summary.baselines if trial.outcome != FAILED and trial.curves]
    candidate_seeds = sorted({trial.seed for trial in summary.candidates})
    parts = [f"n = {' or '.join(map(str, samples))} samples per evaluation" if samples else "no evaluation yet"]
    parts.append(f"baseline: seed{'s' * (len(seeds) != 1)} {', '.join(seeds)}" if seeds else "baseline: no seed yet")
    if candidate_seeds:
        parts.append(f"candidates: seed {', '.join(map(str, candidate_seeds))}")
    return "; ".join(parts)


def curve_figure(summary: Summary, metric: str, *, width_in: float, height_in: float, legend: bool) -> str:
    """A metric over the steps: the baseline's mean, band and seeds, and every candidate as far as it came."""
    with _style():
        figure, axes = _new_figure(width_in, height_in)
        _draw_baseline(axes, summary, metric)
        ends = []
        for trial in sorted(summary.candidates, key=lambda trial: role(summary, trial) == BEST):
            if metric in trial.curves:
                ends.append(_draw_curve(axes, summary, trial, trial.curves[metric]))
        _set_scales(axes, summary, metric)
        axes.set_ylabel(f"{metric} ({'lower' if summary.mode == 'min' else 'higher'} is better)")
        if metric != summary.metric:
            axes.set_ylabel(metric)
        axes.set_xlabel("optimizer steps")
        figure.supxlabel(_wrapped(provenance_line(summary), width_in), fontsize=8, color="#444444")
        if legend and axes.get_legend_handles_labels()[1]:
            columns = max(1, int(width_in / 1.9))
            figure.legend(*_distinct(axes), loc="outside upper left", ncols=columns, frameon=False, fontsize=9)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        _label_ends(axes, ends)
        return _svg(figure)


def setting_figure(summary: Summary, dimension: Dimension, *, width_in: float, height_in: float) -> str | None:
    """Difference to the baseline at each candidate's last step over one setting; None where nothing is known."""
    points = [
        (trial, trial.overrides[dimension.path], trial.readings[summary.metric].percent)
        for trial in summary.candidates
        if dimension.path in trial.overrides and summary.metric in trial.readings
    ]
    known = [(trial, value, percent) for trial, value, percent in points if percent is not None]
    if not known:
        return None
    with _style():
        figure, axes = _new_figure(width_in, height_in)
        _draw_noise(axes, summary)
        ends = []
        for trial, value, percent in known:
            style = STYLES[role(summary, trial)]
            x = dimension.values.index(value) if dimension.kind == "choice" else value
            big = 130 if style.marker == "*" else 45
            axes.scatter([x], [percent], s=big, marker=style.marker, color=style.colour, linewidths=0, zorder=3)
            ends.append(_End(x=x, y=percent, text=short_name(trial), colour=style.colour))
        _set_setting_axis(axes, dimension, width_in)
        axes.set_ylabel(f"{summary.metric} against baseline, %")
        axes.margins(y=0.15)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        _label_ends(axes, ends)
        return _svg(figure)


def _style() -> Any:
    import matplotlib

    return matplotlib.rc_context(RC)


def _new_figure(width_in: float, height_in: float) -> tuple[Figure, Axes]:
    """No pyplot: it keeps every figure in a global list."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout="constrained", facecolor="white", dpi=72)
    axes = figure.subplots()
    axes.grid(color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _svg(figure: Figure) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def _draw_baseline(axes: Axes, summary: Summary, metric: str) -> None:
    style = STYLES[BASELINE]
    for trial in summary.baselines:
        curve = trial.curves.get(metric)
        if not curve:
            continue
        failed = trial.outcome == FAILED
        look = STYLES[FAILED] if failed else style
        label = "failed" if failed else "baseline, each seed"
        axes.plot(list(curve), list(curve.values()), color=look.colour, ls=look.line, lw=0.7, alpha=0.8, label=label)
        if failed:
            axes.plot(max(curve), curve[max(curve)], marker=look.marker, color=look.colour, ms=7)
    points = summary.baseline[metric]
    if len(points) == 0 or max(point.seeds for point in points) < 2:
        return
    steps = [point.step for point in points]
    axes.plot(steps, [p.mean for p in points], color=style.colour, lw=2.4, label="baseline, mean over seeds")
    low, high = _band(points)
    axes.fill_between(steps, low, high, color=style.colour, alpha=0.18, lw=0, label="baseline, mean ± spread")


def _band(points: Sequence[BaselinePoint]) -> tuple[list[float], list[float]]:
    """Mean times exp(-spread) and exp(spread): the spread is one of logarithms."""
    low = [p.mean * math.exp(-p.spread) if p.spread is not None else math.nan for p in points]
    high = [p.mean * math.exp(p.spread) if p.spread is not None else math.nan for p in points]
    return low, high


def _draw_curve(axes: Axes, summary: Summary, trial: TrialSummary, curve: Curve) -> _End:
    """Draw one candidate."""
    name = role(summary, trial)
    style, last = STYLES[name], max(curve)
    thin = len(summary.candidates) > MANY_CURVES and name != BEST
    axes.plot(
        list(curve),
        list(curve.values()),
        color=style.colour,
        ls=style.line,
        lw=style.width * (0.7 if thin else 1),
        alpha=0.85 if name != BEST else 1,
        marker=style.marker,
        markevery=[len(curve) - 1],
        markersize=12 if name == BEST else 7,
        markeredgewidth=0,
        label=_LABELS[name],
        zorder=4 if name == BEST else 3,
    )
    return _End(x=last, y=curve[last], text=short_name(trial), colour=style.colour)


_LABELS = {
    FINISHED: "finished",
    STOPPED: "stopped early",
    FAILED: "failed",
    UNFINISHED: "still running or open",
    BEST: "best candidate",
}


def _set_scales(axes: Axes, summary: Summary, metric: str) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    values = [value for trial in summary.trials for value in trial.curves.get(metric, {}).values()]
    most = max((trial.num_steps for trial in summary.trials), default=1)
    axes.set_xlim(0, most * 1.06)
    if not values:
        axes.set_ylim(0, 1)
        axes.text(0.5, 0.5, "no evaluation yet", transform=axes.transAxes, ha="center", color="#666666")
        return
    if min(values) > 0 and max(values) / min(values) > LOG_FROM_RATIO:
        axes.set_yscale("log")
        wide = max(values) / min(values) > 100
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())


@dataclass(frozen=True, kw_only=True)
class _End:
    """Where a curve ends or a point lies, in data units, and the number to write there."""

    x: float
    y: float
    text: str
    colour: str


def _label_ends(axes: Axes, ends: Iterable[_End]) -> None:
    """Write each trial's number right of its point, pushed apart where they would lie on each other."""
    from matplotlib.patheffects import withStroke

    for column in _columns([(end, *axes.transData.transform((end.x, end.y))) for end in ends]):
        height = -math.inf
        for end, _, py in sorted(column, key=lambda placed: placed[2]):
            height = max(py, height + LABEL_PT)
            moved = height - py > LABEL_PT
            label = axes.annotate(
                end.text,
                (end.x, end.y),
                xytext=(14 if moved else 8, height - py),
                textcoords="offset points",
                fontsize=8,
                va="center",
                color="#222222",
                path_effects=[withStroke(linewidth=2.5, foreground="white")],
                arrowprops={"arrowstyle": "-", "lw": 0.6, "color": end.colour} if moved else None,
                zorder=6,
            )
            label.set_in_layout(False)


def _columns(placed: list[tuple[_End, float, float]]) -> list[list[tuple[_End, float, float]]]:
    """Points grouped by where they lie across: only neighbours can lie on each other."""
    columns: list[list[tuple[_End, float, float]]] = []
    for item in sorted(placed, key=lambda item: item[1]):
        if columns and item[1] - columns[-1][-1][1] < 1.5 * LABEL_PT:
            columns[-1].append(item)
        else:
            columns.append([item])
    return columns


def _draw_noise(axes: Axes, summary: Summary) -> None:
    """The baseline as a line at 0 and the band inside which a single run differs by its seed alone."""
    colour = STYLES[BASELINE].colour
    axes.axhline(0, color=colour, lw=1.6)
    points = [point for point in summary.baseline[summary.metric] if point.spread is not None]
    if points:
        spread = points[-1].spread or 0.0
        axes.axhspan(100 * math.expm1(-spread), 100 * math.expm1(spread), color=colour, alpha=0.18, lw=0)


def _set_setting_axis(axes: Axes, dimension: Dimension, width_in: float) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

    axes.set_xlabel(dimension.path)
    if dimension.kind == "choice":
        room = int(width_in * 11 / len(dimension.values))
        names = ["\n".join(textwrap.wrap(str(v).replace("_", "_ "), max(6, room))) for v in dimension.values]
        axes.set_xticks(range(len(names)), [name.replace("_ ", "_") for name in names], fontsize=9)
        axes.set_xlim(-0.6, len(names) - 0.4)
        return
    if dimension.log:
        axes.set_xscale("log")
        axes.set_xlim(dimension.low / 1.15, dimension.high * 1.25)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        return
    room = 0.06 * (dimension.high - dimension.low)
    axes.set_xlim(dimension.low - room, dimension.high + 1.5 * room)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=dimension.kind == "int"))


def _distinct(axes: Axes) -> tuple[list[Any], list[str]]:
    """Each kind of curve once in the legend."""
    handles, labels = axes.get_legend_handles_labels()
    by_label = dict(zip(labels, handles, strict=True))
    order = ["baseline, mean over seeds", "baseline, mean ± spread", "baseline, each seed"]
    order += [_LABELS[name] for name in (BEST, FINISHED, STOPPED, FAILED, UNFINISHED)]
    present = [label for label in order if label in by_label]
    return [by_label[label] for label in present], present


def _wrapped(text: str, width_in: float) -> str:
    return "\n".join(textwrap.wrap(text, int(width_in * 15)))
