"""What every figure shares: a bare pair of axes, scales, and numbers beside points that do not lie on each other."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sweeps.space import Dimension

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOG_FROM_RATIO = 2.0  # of the largest to the smallest value; the spread is relative, so a logarithmic axis suits it
LABEL_PT = 9.5  # height that a number takes
RC: Any = {
    "svg.fonttype": "path",
    "svg.hashsalt": "prx-sweeps",
    "font.size": 10.5,
    "font.family": "DejaVu Sans",
    # A figure is laid out once, by `finished_svg`, whatever the user's own settings ask for at saving.
    "figure.autolayout": False,
    "figure.constrained_layout.use": False,
}


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A point in data units, and the number to write beside it."""

    x: float
    y: float
    text: str
    colour: str


def figure_style() -> Any:
    """The context in which a figure is made and saved; the caller's own matplotlib settings stay as they are."""
    import matplotlib

    return matplotlib.rc_context(RC)


def new_figure(width_in: float, height_in: float) -> tuple[Figure, Axes]:
    """One pair of axes."""
    figure, (axes,) = new_figures(width_in, height_in, 1, 1)
    return figure, axes


def new_figures(width_in: float, height_in: float, rows: int, columns: int) -> tuple[Figure, list[Axes]]:
    """Axes in rows, on one y-axis. Not from pyplot, which keeps every figure in a global list."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout="constrained", facecolor="white", dpi=72)
    panels = [axes for row in figure.subplots(rows, columns, sharey=True, squeeze=False) for axes in row]
    for axes in panels:
        axes.grid(color="#DDDDDD", linewidth=0.6)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    return figure, panels


def finished_svg(figure: Figure, marks: Mapping[Axes, Iterable[Mark]]) -> str:
    """Lay the figure out, number the marks of its axes and return it as SVG text."""
    layout = figure.get_layout_engine()
    assert layout is not None
    layout.execute(figure)
    figure.set_layout_engine(None)  # else saving would draw the whole figure once more, for it to settle
    for axes, own in marks.items():
        _write_numbers(axes, own)
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def set_value_scale(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic y-axis where all values are positive and differ enough, with ticks that people read."""
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator, StrMethodFormatter

    if not values:
        axes.set_ylim(0, 1)
        axes.text(0.5, 0.5, "no evaluation yet", transform=axes.transAxes, ha="center", color="#666666")
        return
    low, high = min(values), max(values)
    if low <= 0 or high < LOG_FROM_RATIO * low:
        return
    axes.set_yscale("log")
    ratio = high / low
    subs = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0) if ratio < 10 else (1.0, 2.0, 5.0) if ratio < 100 else (1.0,)
    axes.yaxis.set_major_locator(LogLocator(subs=subs))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_formatter(NullFormatter())


def set_setting_scale(axes: Axes, dimension: Dimension, width_in: float) -> None:
    """The x-axis of one searched setting, over its whole range."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

    axes.set_xlabel(dimension.path)
    if dimension.kind == "choice":
        room = max(6, int(width_in * 11 / len(dimension.values)))
        names = ["\n".join(textwrap.wrap(str(value).replace("_", "_ "), room)) for value in dimension.values]
        axes.set_xticks(range(len(names)), [name.replace("_ ", "_") for name in names], fontsize=9.5)
        axes.set_xlim(-0.6, len(names) - 0.4)
    elif dimension.log:
        axes.set_xscale("log")
        axes.set_xlim(dimension.low / 1.15, dimension.high * 1.25)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        room_left = 0.06 * (dimension.high - dimension.low) or 0.5
        axes.set_xlim(dimension.low - room_left, dimension.high + 1.5 * room_left)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=dimension.kind == "int"))


def _write_numbers(axes: Axes, marks: Iterable[Mark]) -> None:
    """Right of each mark, moved up or down where two would lie on each other."""
    from matplotlib.patheffects import withStroke

    box = axes.get_window_extent()
    for column in _columns([(mark, *axes.transData.transform((mark.x, mark.y))) for mark in marks]):
        column.sort(key=lambda placed: placed[2])
        wanted = [height for _, _, height in column]
        for (mark, _, height), place in zip(column, apart(wanted, box.y0 + LABEL_PT / 2, box.y1), strict=True):
            moved = abs(place - height) > LABEL_PT
            label = axes.annotate(
                mark.text,
                (mark.x, mark.y),
                xytext=(18 if moved else 9, place - height),
                textcoords="offset points",
                fontsize=9,
                va="center",
                color="#222222",
                path_effects=[withStroke(linewidth=2.5, foreground="white")],
                arrowprops={"arrowstyle": "-", "lw": 0.6, "color": mark.colour} if moved else None,
                zorder=6,
            )
            label.set_in_layout(False)


def apart(wanted: Sequence[float], low: float, high: float) -> list[float]:
    """Places at least LABEL_PT apart, as near to the ascending `wanted` as can be, inside low and high where they fit.

    With the distances taken off, that is least squares under "never falls": neighbours that clash share their mean.
    """
    blocks: list[tuple[float, int]] = []  # mean, size
    for i, place in enumerate(wanted):
        mean, size = place - i * LABEL_PT, 1
        while blocks and blocks[-1][0] > mean:
            before, count = blocks.pop()
            mean, size = (before * count + mean * size) / (count + size), count + size
        blocks.append((mean, size))
    means = [mean for mean, size in blocks for _ in range(size)]
    highest = high - (len(means) - 1) * LABEL_PT
    return [max(low, min(mean, highest)) + i * LABEL_PT for i, mean in enumerate(means)]


def _columns(placed: list[tuple[Mark, float, float]]) -> list[list[tuple[Mark, float, float]]]:
    """Marks with their place in points, grouped by where they lie across: only neighbours can lie on each other."""
    columns: list[list[tuple[Mark, float, float]]] = []
    for item in sorted(placed, key=lambda item: item[1]):
        if columns and item[1] - columns[-1][-1][1] < 2 * LABEL_PT:
            columns[-1].append(item)
        else:
            columns.append([item])
    return columns
