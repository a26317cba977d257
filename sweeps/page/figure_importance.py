"""Each setting's share of the importance, as bars, with what chance would do."""

from __future__ import annotations

from sweeps.importance import SHUFFLES, Importance
from sweeps.page.axes import figure_style, finished_svg, new_figure
from sweeps.page.roles import SHARES

UNSURE = 0.05  # of the shuffles; a setting that chance makes as important more often is drawn pale


def importance_figure(importance: Importance, *, width_in: float) -> str:
    shares = {path: 100 * share for path, share in importance.shares.items()}
    with figure_style():
        figure, axes = new_figure(width_in, 0.8 + 0.42 * len(shares))
        axes.grid(visible=False)
        alphas = [0.3 if importance.by_chance[path] > UNSURE * SHUFFLES else 1.0 for path in shares]
        bars = axes.barh(range(len(shares)), list(shares.values()), height=0.66, color=SHARES)
        for bar, alpha in zip(bars, alphas, strict=True):
            bar.set_alpha(alpha)
        texts = [f"{share:.0f} %, chance: {importance.by_chance[path]} of {SHUFFLES}" for path, share in shares.items()]
        axes.bar_label(bars, texts, padding=5, fontsize=9.5)
        axes.set_yticks(range(len(shares)), list(shares))
        axes.tick_params(axis="y", length=0)
        axes.invert_yaxis()
        axes.set_xlim(0, 160)  # room for the text beside the longest bar
        axes.set_xticks([0, 25, 50, 75, 100])
        axes.set_xlabel("% of the importance")
        return finished_svg(figure, {})
