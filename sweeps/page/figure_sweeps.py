"""The curves of several sweeps against their common baseline: a colour for each sweep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sweeps.comparison import Comparison, Sweep
from sweeps.page.axes import figure_style, finished_svg, new_figure, set_value_scale
from sweeps.page.figure_curves import MOST_TOLD, draw_band, in_percent, reach
from sweeps.page.inline import with_hints
from sweeps.page.roles import SWEEPS
from sweeps.trial_summary import TrialSummary
from sweeps.wording import signed_percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINES = ("-", (0, (4, 1.5)), (0, (1, 1)))


def colour_of(comparison: Comparison, sweep: Sweep) -> int:
    return comparison.sweeps.index(sweep) % len(SWEEPS)


def sweeps_figure(comparison: Comparison, *, relative: bool, width_in: float, height_in: float) -> str | None:
    """The objective, or (relative) its percent of the baseline's mean; None where there is no such mean."""
    points, metric = comparison.points[comparison.metric], comparison.metric
    means = {point.step: point.mean for point in points if point.mean > 0}
    if relative and not means:
        return None
    hints: dict[str, str] = {}
    with figure_style():
        figure, axes = new_figure(width_in, height_in)
        draw_band(axes, points, relative=relative)
        values = _draw_all(axes, comparison, means if relative else {}, hints)
        if not relative:
            set_value_scale(axes, values)
        better = "lower" if comparison.mode == "min" else "higher"
        axes.set_ylabel(f"{metric}\nagainst baseline, %" if relative else f"{metric} ({better} is better)")
        axes.set_xlabel("optimizer steps")
        axes.set_xlim(left=0)
        if not relative:
            handles, labels = axes.get_legend_handles_labels()
            once = dict(sorted(zip(labels, handles, strict=True), key=lambda pair: pair[0]))
            look = {"ncols": 2 if width_in > 6 else 1, "frameon": False, "fontsize": 9.5}
            figure.legend(once.values(), once.keys(), loc="outside upper left", **look)
        return with_hints(finished_svg(figure, {}), hints)


def _draw_all(axes: Axes, comparison: Comparison, means: Mapping[int, float], hints: dict[str, str]) -> list[float]:
    """Every candidate, the best last, in percent of `means` where there are some. Returns all values drawn."""
    values: list[float] = []
    for place, (sweep, trial) in reversed(list(enumerate(comparison.candidates))):
        curve = trial.curves.get(comparison.metric, {})
        shown = in_percent(curve, means) if means else curve
        if shown:
            drawn = {step: point.value for step, point in shown.items()}
            values += drawn.values()
            _draw(axes, comparison, sweep, drawn, leads=trial is comparison.best_of(sweep))
            if place < MOST_TOLD:
                told, early = hint_of(comparison, sweep, trial), trial.step < trial.num_steps
                reach(axes, list(drawn), list(drawn.values()), told, hints, ended_early=early)
    return values


def _draw(axes: Axes, comparison: Comparison, sweep: Sweep, shown: dict[int, float], *, leads: bool) -> None:
    """leads: whether it is the sweep's best."""
    number = comparison.sweeps.index(sweep)
    axes.plot(
        list(shown),
        list(shown.values()),
        color=SWEEPS[number % len(SWEEPS)],
        ls=LINES[number // len(SWEEPS) % len(LINES)],
        lw=2.6 if leads else 0.9,
        marker="*" if leads else ".",
        markevery=[len(shown) - 1],
        ms=12 if leads else 5,
        mew=0,
        alpha=1 if leads else 0.7,
        label=f"{sweep.name}, its best" if leads else f"{sweep.name}, other candidates",
        zorder=4 if leads else 3,
    )


def hint_of(comparison: Comparison, sweep: Sweep, trial: TrialSummary) -> str:
    reading = trial.readings.get(comparison.metric)
    percent = "" if reading is None or reading.percent is None else f", {signed_percent(reading.percent)}"
    place = f"step {trial.step} of {trial.num_steps}{percent}; {trial.outcome}"
    return f"{trial.name} of {sweep.name}: {trial.config}\\n{place}"
