"""The objective over each searched setting, side by side and on one scale, with the noise of one run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sweeps.page.axes import Mark, figure_style, finished_svg, new_figures, set_setting_scale
from sweeps.page.figure_curves import MOST_NUMBERED, band, hint
from sweeps.page.inline import HINT, with_hints
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
    """One candidate: percent of the baseline's mean at its own last step, and how far chance alone moves it."""

    trial: TrialSummary
    style: Style
    percent: float
    low: float
    high: float
    full: bool


def settings_figure(summary: Summary, dimensions: Sequence[Dimension], *, width_in: float, columns: int) -> str | None:
    """A panel for each setting; None where no candidate can be compared with the baseline."""
    points = _points(summary)
    if not points or not dimensions:
        return None
    rows, hints = -(-len(dimensions) // columns), {}
    with figure_style():
        figure, panels = new_figures(width_in, PANEL_IN * rows, rows, min(columns, len(dimensions)))
        marks = {}
        for place, (axes, dimension) in enumerate(zip(panels, dimensions, strict=False)):
            _draw_baseline(axes, summary)
            marks[axes] = [mark for point in points if (mark := _draw(axes, summary, dimension, point, hints))]
            set_setting_scale(axes, dimension, width_in / columns)
            if place % columns == 0:
                axes.set_ylabel(f"{summary.metric}\nagainst baseline, %")
            axes.margins(y=0.12)
        for axes in panels[len(dimensions) :]:
            axes.set_visible(False)
        many = len(points) > MOST_NUMBERED
        numbers = {axes: [m for m in of if not many or m.colour == STYLES[BEST].colour] for axes, of in marks.items()}
        return with_hints(finished_svg(figure, numbers), hints)


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


def _draw(axes: Axes, summary: Summary, dimension: Dimension, point: _Point, hints: dict[str, str]) -> Mark | None:
    if dimension.path not in point.trial.overrides:
        return None
    value, style = point.trial.overrides[dimension.path], point.style
    x = dimension.values.index(value) if dimension.kind == "choice" else value
    name = f"{HINT}{len(hints)}"
    size, face = 140 if style.marker == "*" else 50, style.colour if point.full else "white"
    look = {"s": size, "marker": style.marker, "facecolors": face, "edgecolors": style.colour}
    axes.scatter([x], [point.percent], **look, linewidths=0 if point.full else 1.3, zorder=3).set_gid(name)
    if len(summary.candidates) <= CROWD:
        axes.vlines([x], point.low, point.high, colors=style.colour, lw=1, alpha=0.6, zorder=2)
    hints[name] = hint(summary, point.trial)
    return Mark(x=x, y=point.percent, text=short_name(point.trial), colour=style.colour)
