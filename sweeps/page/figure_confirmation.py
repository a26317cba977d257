"""The confirmed candidates against the baseline: what their fresh seeds say, and what they were chosen for."""

from __future__ import annotations

from sweeps.ledger import FINISHED
from sweeps.page.axes import figure_style, finished_svg, new_figure
from sweeps.page.roles import BASELINE, BEST, STYLES, short_name
from sweeps.summary import Summary


def confirmation_figure(summary: Summary, *, width_in: float) -> str | None:
    """An interval for every confirmed candidate; None where there is none."""
    shown = [(one, one.objective) for one in summary.confirmed if one.objective is not None]
    if not shown:
        return None
    trials = {trial.name: trial for trial in summary.candidates}
    with figure_style():
        figure, axes = new_figure(width_in, 1.3 + 0.5 * len(shown))
        axes.axvline(0, color=STYLES[BASELINE].colour, lw=1.6)
        for place, (one, difference) in enumerate(shown):
            best = summary.best is not None and one.trial == summary.best.trial
            style = STYLES[BEST if best else FINISHED]
            assert difference.low is not None
            assert difference.high is not None
            axes.plot(
                [difference.low, difference.high], [place, place], color=style.colour, lw=3, solid_capstyle="butt"
            )
            axes.plot(
                [difference.percent],
                [place],
                "o",
                color=style.colour,
                ms=9,
                label="" if place else "fresh seeds, interval",
            )
            if difference.first_percent is not None:
                axes.plot(
                    [difference.first_percent],
                    [place],
                    "D",
                    mfc="white",
                    mec="#444444",
                    ms=7,
                    ls="None",
                    label="" if place else "first seed, for which it was chosen",
                )
        axes.set_yticks(range(len(shown)), [short_name(trials[one.trial]) for one, _ in shown])
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.set_ylabel("candidate")
        axes.set_xlabel(f"{summary.metric} against baseline, %")
        figure.legend(loc="outside upper left", ncols=2 if width_in > 6 else 1, frameon=False, fontsize=9.5)
        return finished_svg(figure, {})
