"""The objective over each searched setting, side by side and on one scale, with the noise of one run."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sweeps.page.axes import Mark, figure_style, finished_svg, new_figures, set_setting_scale
from sweeps.page.figure_curves import MOST_NUMBERED, band, hint
from sweeps.page.inline import HINT, with_point_hints
from sweeps.page.roles import BASELINE, BEST, STYLES, Style, role, short_name
from sweeps.readings import Reading
from sweeps.space import Dimension
from sweeps.summary import Summary, TrialSummary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANEL_IN = 3.1  # height of a row of panels
CROWD = 150  # candidates; above, their noise bars would cover them


@dataclass(frozen=True, kw_only=True)
class _Point:
    """One candidate: percent of the baseline's mean at its own last step, and how far chance alone moves it.

    told: under the mouse.
    """

    trial: TrialSummary
    style: Style
    percent: float
    low: float
    high: float
    full: bool
    told: str


def settings_figure(summary: Summary, dimensions: Sequence[Dimension], *, width_in: float, columns: int) -> str | None:
    """A panel for each setting; None where no candidate can be compared with the baseline."""
    points = _points(summary)
    if not points or not dimensions:
        return None
    rows = -(-len(dimensions) // columns)
    hints: dict[str, list[str]] = {}
    with figure_style():
        figure, panels = new_figures(width_in, PANEL_IN * rows, rows, min(columns, len(dimensions)))
        marks = {}
        for place, (axes, dimension) in enumerate(zip(panels, dimensions, strict=False)):
            _draw_baseline(axes, summary)
            marks[axes] = _draw(axes, dimension, points, hints)
            set_setting_scale(axes, dimension, width_in / columns)
            if place % columns == 0:
                axes.set_ylabel(f"{summary.metric}\nagainst baseline, %")
            axes.margins(y=0.12)
        for axes in panels[len(dimensions) :]:
            axes.set_visible(False)
        many = len(points) > MOST_NUMBERED
        numbers = {axes: [m for m in of if not many or m.colour == STYLES[BEST].colour] for axes, of in marks.items()}
        return with_point_hints(finished_svg(figure, numbers), hints)


def _points(summary: Summary) -> list[_Point]:
    found = []
    for trial in summary.candidates:
        reading = trial.readings.get(summary.metric)
        if reading is not None and reading.percent is not None:
            low, high = _noise(summary, reading)
            found.append(
                _Point(
                    trial=trial,
                    style=STYLES[role(summary, trial)],
                    percent=reading.percent,
                    low=low,
                    high=high,
                    full=reading.estimate.full,
                    told=hint(summary, trial),
                )
            )
    return found


def _noise(summary: Summary, reading: Reading) -> tuple[float, float]:
    """The value times exp(-spread) and exp(spread), in percent of the baseline; twice the value without a spread."""
    assert reading.percent is not None
    ratio = 1 + reading.percent / 100
    spread = summary.baseline[summary.metric][-1].spread or 0.0
    return 100 * (ratio * math.exp(-spread) - 1), 100 * (ratio * math.exp(spread) - 1)


def _draw_baseline(axes: Axes, summary: Summary) -> None:
    points, colour = summary.baseline[summary.metric], STYLES[BASELINE].colour
    axes.axhline(0, color=colour, lw=1.6)
    if points and points[-1].spread is not None:
        low, high = band(points[-1], 100 / points[-1].mean, -100)
        axes.axhspan(low, high, color=colour, alpha=0.18, lw=0)


def _draw(axes: Axes, dimension: Dimension, points: Sequence[_Point], hints: dict[str, list[str]]) -> list[Mark]:
    """Every candidate in its place. What looks alike is drawn at once: one by one, a thousand would take minutes."""
    marks, alike = [], defaultdict[tuple[Style, bool], list[tuple[_Point, Mark]]](list)
    for point in points:
        if dimension.path in point.trial.overrides:
            value = point.trial.overrides[dimension.path]
            x = dimension.values.index(value) if dimension.kind == "choice" else value
            mark = Mark(x=x, y=point.percent, text=short_name(point.trial), colour=point.style.colour)
            marks.append(mark)
            alike[point.style, point.full].append((point, mark))
    for (style, full), drawn in alike.items():
        xs = [mark.x for _, mark in drawn]
        size, face = 140 if style.marker == "*" else 50, style.colour if full else "white"
        look = {"s": size, "marker": style.marker, "facecolors": face, "edgecolors": style.colour}
        name = f"{HINT}{len(hints)}"
        axes.scatter(xs, [mark.y for _, mark in drawn], **look, linewidths=0 if full else 1.3, zorder=3).set_gid(name)
        hints[name] = [point.told for point, _ in drawn]
        if len(points) <= CROWD:
            lows, highs = [point.low for point, _ in drawn], [point.high for point, _ in drawn]
            axes.vlines(xs, lows, highs, colors=style.colour, lw=1, alpha=0.6, zorder=2)
    return marks
