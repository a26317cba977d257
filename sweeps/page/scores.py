"""The page's scoreboard: the baseline, then the candidates, best first; and the runs that they are made of."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from sweeps.page.board import Board, BoardRow, board
from sweeps.page.elements import dot, folded, one_value, paragraph, row, section, table_of, two_lines
from sweeps.scoreboard import BASELINE, MARK
from sweeps.summary import Summary

MOST_ROWS = 40  # that are not folded
TEXTS = ("trial", "outcome", "seeds")  # heads of columns whose cells may break


def scoreboard_section(summary: Summary) -> str:
    whole = board(summary)
    if not whole.candidates:
        return section("scoreboard", "Scoreboard", paragraph("No trial has started yet."))
    first, rest = whole.candidates[:MOST_ROWS], whole.candidates[MOST_ROWS:]
    parts = [table(whole, first)]
    if rest:
        parts.append(folded(f"The other {len(rest)} candidates", table(whole, rest)))
    if whole.runs:
        parts.append(
            folded(f"Every seed and every confirmation by itself ({len(whole.runs)} runs)", table(whole, whole.runs))
        )
    return section("scoreboard", "Scoreboard", *parts, paragraph(unit(summary), "small"), _scores(summary))


def table(whole: Board, rows: Sequence[BoardRow]) -> str:
    return table_of(whole.heads, (_row(whole, one) for one in rows))


def _row(whole: Board, one: BoardRow) -> str:
    cells = [
        (two_lines if head in TEXTS else one_value)(*cell) if cell[0] else ""
        for head, cell in zip(whole.heads, one.cells, strict=True)
    ]
    return row(whole.heads, [dot(one.role) + cells[0], *cells[1:]])


def unit(summary: Summary) -> str:
    """How the numbers are to be read."""
    told = (
        "Differences are to the baseline's mean at the same step; values compare only at the same step and the same n. "
        "A confirmed candidate is told by the mean over its seeds, and its difference, with interval, by its fresh "
        "seeds. Of others the difference is counted in spreads: the baseline's relative standard deviation between "
        "seeds, times the root of 1 + 1/seeds. That is what one run differs by through chance alone. Below 2 spreads a "
        "difference is inconclusive."
    )
    readings = [reading for trial in summary.trials for reading in trial.readings.values()]
    if any(not reading.estimate.full for reading in readings):
        told += " ≈: from n samples only, scaled by the baseline's ratio between all samples and n at that step."
    return told


def remarks(summary: Summary) -> list[str]:
    """Whom nobody beats, and who wins the objective at the price of another metric."""
    whole, configs = summary.scoreboard, {trial.name: f"{trial.name} ({trial.config})" for trial in summary.candidates}
    items = []
    if whole.pareto:
        names = [configs.get(name, name) for name in (BASELINE, *configs) if name in whole.pareto]
        items.append(f"{MARK} Nobody is as good in every metric and better in one (Pareto set): {'; '.join(names)}.")
    return items + [f"{configs[name]} wins {summary.metric} and {whole.flag(name)}." for name in whole.losses]


def _scores(summary: Summary) -> str:
    items = remarks(summary)
    return f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>" if items else ""
