"""What trials cost by how they ended, and what their time was spent on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sweeps.costs import Costs
from sweeps.hours import Hours
from sweeps.ledger import FAILED, FINISHED, STOPPED
from sweeps.page.axes import figure_style, finished_svg, new_figure
from sweeps.page.roles import BASELINE, STYLES
from sweeps.summary import UNFINISHED, Summary, TrialSummary
from sweeps.wording import count, share

# Steps of one hue (sweeps.page.roles.SHARES), told apart by lightness alone, in the order of a trial's life.
PARTS: Mapping[str, str] = {
    "start-up": "#4A2A3D",
    "data": "#7F4A69",
    "training": "#CC79A7",
    "evaluation": "#E2B3CD",
    "checkpoints": "#F5E4ED",
}
DARK, ON_DARK, ON_PALE = ("start-up", "data"), "#FEFEFE", "#1B1F25"  # the same in light and in dark mode
LABELS_IN, NUMBER_IN = 1.9, 0.45  # width of what stands left of the bars, and of a number


def by_outcome(summary: Summary) -> dict[str, tuple[str, list[TrialSummary]]]:
    """What people call it -> its role, and the trials whose costs belong there. Confirmations stand by themselves."""
    groups = {"baseline": (BASELINE, summary.baselines)}
    for outcome in (FINISHED, STOPPED, FAILED, UNFINISHED):
        groups[outcome] = outcome, [trial for trial in summary.candidates if trial.outcome == outcome]
    groups["confirmations"] = FINISHED, summary.confirmations
    return {name: (role, list(trials)) for name, (role, trials) in groups.items() if trials}


def outcome_figure(summary: Summary, *, width_in: float) -> str | None:
    """Hours by how trials ended, and beside them what stopping has saved; None before anything was spent."""
    groups, hours = by_outcome(summary), Hours.of_sweep(summary.trials)
    spent = [sum(map(hours.spent, trials)) for _, trials in groups.values()]
    saved = [sum(map(hours.saved, trials)) for _, trials in groups.values()]
    if not any(spent):
        return None
    with figure_style():
        figure, axes = new_figure(width_in, 0.8 + 0.42 * len(groups))
        axes.grid(visible=False)
        colours = [STYLES[role].colour for role, _ in groups.values()]
        bars = axes.barh(range(len(groups)), spent, height=0.66, color=colours)
        if any(saved):
            look = {"facecolor": "white", "edgecolor": STYLES[STOPPED].colour, "hatch": "///", "height": 0.66}
            there = [place for place, more in enumerate(saved) if more]
            lefts, widths = [spent[place] for place in there], [saved[place] for place in there]
            axes.barh(there, widths, left=lefts, label="saved by stopping (estimate)", **look)
            figure.legend(loc="outside upper left", frameon=False, fontsize=9.5)
        texts = [
            f"{one:.3g}" + (f", ≈ {more:.3g} saved" if more else "") for one, more in zip(spent, saved, strict=True)
        ]
        for bar, text, more in zip(bars, texts, saved, strict=True):
            place = (bar.get_width() + more, bar.get_y() + bar.get_height() / 2)
            axes.annotate(text, place, xytext=(5, 0), textcoords="offset points", va="center", fontsize=9.5)
        names = [f"{name}, {count(len(trials), 'run')}" for name, (_, trials) in groups.items()]
        axes.set_yticks(range(len(groups)), names)
        axes.tick_params(axis="y", length=0)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.3 * max(one + more for one, more in zip(spent, saved, strict=True)))
        axes.set_xlabel(hours.unit)
        return finished_svg(figure, {})


def shares_figure(summary: Summary, *, width_in: float) -> str | None:
    """Percent of the time by what it was spent on; None before anything was spent."""
    groups = [("all", summary.trials)]
    if summary.baselines and summary.candidates:
        groups += [("baseline", summary.baselines), ("candidates", summary.candidates)]
    shares = {
        f"{name}, {count(len(trials), 'run')}": Costs.of(trial.costs for trial in trials).shares()
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
        return finished_svg(figure, {})


def _draw_parts(axes: Any, shares: Sequence[Mapping[str, float]], number_width: float) -> None:
    """The bars' parts, with their percent where it fits: `number_width` is a number's, of the axes' width."""
    left = [0.0] * len(shares)
    for name, colour in PARTS.items():
        widths = [part.get(name, 0.0) for part in shares]
        if not any(widths):
            continue
        bars = axes.barh(range(len(shares)), widths, left=left, height=0.66, color=colour, label=name)
        numbers = [share(width) if width > 100 * number_width else "" for width in widths]
        axes.bar_label(bars, numbers, label_type="center", color=ON_DARK if name in DARK else ON_PALE, fontsize=9.5)
        left = [start + width for start, width in zip(left, widths, strict=True)]
