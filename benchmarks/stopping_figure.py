"""The picture of benchmarks/stopping.py: what each rule trains, and how good its winner is. Lower left is better."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

FAMILIES = {  # in the order of the legend
    "no stopping": ("black", "*"),
    "first": ("tab:brown", "v"),
    "median": ("tab:purple", "s"),
    "bandit": ("tab:olive", "D"),
    "Hyperband": ("tab:cyan", "P"),
    "ASHA": ("tab:blue", "o"),
    "baseline rule": ("tab:orange", "^"),
    "baseline rule + halving": ("tab:red", "X"),
}


def draw(rows: Sequence[dict], path: Path) -> None:
    """One panel for each set of curves; each family's settings as points, its front as a line."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    sets = list(dict.fromkeys(row["curves"] for row in rows))
    figure, axes = plt.subplots(1, len(sets), figsize=(5.2 * len(sets), 4.6), squeeze=False, layout="constrained")
    for axis, name in zip(axes[0], sets, strict=True):
        for family, (colour, marker) in FAMILIES.items():
            points = [
                (row["compute"][0], row["regret"][0])
                for row in rows
                if row["curves"] == name and row["family"] == family
            ]
            if points:
                axis.plot(*zip(*points, strict=True), marker, color=colour, alpha=0.35, markersize=5, linestyle="")
                front = _front(points)
                axis.plot(*zip(*front, strict=True), marker=marker, color=colour, label=family, linewidth=1.4)
        axis.set(title=name, xlabel="compute, % of no stopping", yscale="log", xlim=(0, 105))
        axis.grid(alpha=0.3, which="both", linewidth=0.5)
    axes[0][0].set_ylabel("regret of the winner, % of the metric (log)")
    axes[0][-1].legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other of the family beats in both."""
    front: list[tuple[float, float]] = []
    for compute, regret in sorted(points):
        if not front or regret < front[-1][1]:
            front.append((compute, regret))
    return front
