"""The part of the page on confirmation: the best candidates over fresh seeds, and how lucky the first one was."""

from __future__ import annotations

from sweeps.confirmed import Confirmed
from sweeps.findings import interval
from sweeps.intervals import Difference
from sweeps.ledger import FINISHED
from sweeps.page.elements import dot, one_value, paragraph, row, table_of, two_lines
from sweeps.page.figure_confirmation import confirmation_figure
from sweeps.page.inline import Album
from sweeps.page.roles import BEST
from sweeps.space import SearchSpace
from sweeps.summary import Summary
from sweeps.wording import count, number, signed_percent

WIDE_IN, NARROW_IN = 10.5, 4.6
TITLE = "Does the winner hold on other seeds?"


def confirmation_part(space: SearchSpace, summary: Summary, album: Album) -> str:
    head = f"<h3>{TITLE}</h3>"
    if not summary.confirmed:
        return head + paragraph(nothing(space, summary))
    wide, narrow = (confirmation_figure(summary, width_in=width) for width in (WIDE_IN, NARROW_IN))
    figure = ""
    if wide is not None and narrow is not None:
        alt = f"Differences to the baseline in {summary.metric}, with intervals: the table below has the numbers."
        figure = album.card("confirmation", wide, narrow, alt=alt)
    heads = ["candidate", "seeds", f"{summary.metric}, mean over seeds", "difference, fresh seeds", "on the first seed"]
    heads += summary.metrics[1:]
    table = table_of(heads, (_row(summary, one, heads) for one in summary.confirmed))
    return head + figure + table + paragraph(_note(space, summary), "small")


def nothing(space: SearchSpace, summary: Summary) -> str:
    if not space.confirm.best:
        return "Confirmation is off (confirm.best is 0): the best candidate was chosen on one seed and judged by it."
    if summary.complete:
        return "There was no finished candidate to confirm."
    return "Not begun yet: when all candidates have ended, the best are trained again with the baseline's other seeds."


def _note(space: SearchSpace, summary: Summary) -> str:
    found = [one.objective for one in summary.confirmed if one.objective is not None]
    freedom = f" (here {count(found[0].freedom, 'degree')} of freedom)" if found else ""
    several = len(summary.confirmed) > 1
    return (
        f"The candidates were chosen for seed {space.first_seed}, where the best of many is lucky as a rule; fresh "
        "seeds were chosen by nobody, and decide. Differences are means over them of log(candidate / baseline with the "
        "same seed), in percent. The interval is Student's t on the spread that is left between runs when what a seed "
        f"does to all of them is taken off, all seeds and all confirmed runs together{freedom}. "
        + ("The winner has the best mean over all of its seeds. " if several else "")
        + "An interval that holds 0 is inconclusive."
    )


def _row(summary: Summary, one: Confirmed, heads: list[str]) -> str:
    best = summary.best is not None and one.trial == summary.best.trial
    failed = f"{count(one.num_failed, 'run')} failed" if one.num_failed else ""
    objective = one.differences.get(summary.metric)
    first = "-"
    if objective is not None and objective.first_percent is not None and objective.shift_percent is not None:
        shift = f"{signed_percent(objective.shift_percent)} off its fresh seeds"
        first = one_value(signed_percent(objective.first_percent), shift)
    cells = [
        dot(BEST if best else FINISHED) + two_lines(f"{one.trial}{' (best)' * best}", one.config),
        two_lines(", ".join(map(str, one.seeds)), failed),
        one_value(number(one.means[summary.metric]), f"mean of {len(one.seeds)}"),
        difference_cell(objective),
        first,
        *(difference_cell(one.differences.get(metric)) for metric in summary.metrics[1:]),
    ]
    return row(heads, cells)


def difference_cell(difference: Difference | None) -> str:
    """'-18.2 %' over its interval."""
    if difference is None:
        return "-"
    return one_value(signed_percent(difference.percent), interval(difference) or "no interval yet")
