"""Where the time went, as bars: one for all trials, one for the baseline's, one for the candidates'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sweeps.costs import Costs
from sweeps.page.axes import figure_style, finished_svg, new_figure
from sweeps.summary import Summary
from sweeps.wording import count, share

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Of Okabe and Ito, as in sweeps.page.figures: light and dark in turn, so that neighbours part in grey too.
COLOURS: Mapping[str, str] = {
    "start-up": "#CC79A7",
    "data": "#F0E442",
    "training": "#0072B2",
    "evaluation": "#E69F00",
    "checkpoints": "#555555",
}
DARK = ("training", "checkpoints")
LABELS_IN, NUMBER_IN = 1.6, 0.45  # width of what stands left of the bars, and of a number


def costs_figure(summary: Summary, *, width_in: float) -> str | None:
    """Percent of the time by what it was spent on; None before anything was spent."""
    groups = [("all", summary.trials)]
    if summary.baselines and summary.candidates:
        groups += [("baseline", summary.baselines), ("candidates", summary.candidates)]
    shares = {
        f"{name}, {count(len(trials), 'trial')}": Costs.of(trial.costs for trial in trials).shares()
        for name, trials in groups
    }
    if not any(shares.values()):
        return None
    with figure_style():
        figure, axes = new_figure(width_in, 1.1 + 0.4 * len(shares))
        axes.grid(visible=False)
        _draw_parts(axes, list(shares.values()), NUMBER_IN / (width_in - LABELS_IN))
        axes.set_yticks(range(len(shares)), list(shares))
        axes.tick_params(axis="y", length=0)
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_xlabel("% of the time")
        figure.legend(loc="outside upper left", ncols=5 if width_in > 6 else 3, frameon=False, fontsize=9.5)
        return finished_svg(figure, axes, [])


def _draw_parts(axes: Axes, shares: Sequence[Mapping[str, float]], number_width: float) -> None:
    """The bars' parts, with their percent where it fits: `number_width` is a number's, of the axes' width."""
    left = [0.0] * len(shares)
    for name, colour in COLOURS.items():
        widths = [part.get(name, 0.0) for part in shares]
        if not any(widths):
            continue
        bars = axes.barh(range(len(shares)), widths, left=left, height=0.66, color=colour, label=name)
        numbers = [share(width) if width > 100 * number_width else "" for width in widths]
        axes.bar_label(bars, numbers, label_type="center", color="white" if name in DARK else "#1b1f24", fontsize=9.5)
        left = [start + width for start, width in zip(left, widths, strict=True)]
