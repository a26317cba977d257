"""Summary -> the logbook page: one HTML file, without a network, at any time: also while trials run.

Its sections stand in the order in which a reader asks: what is the answer, what does it look like, how do the others
stand, how did it come about, what matters, what did it cost, what went wrong, and how can it be made again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from sweeps.locations import Location, write_whole
from sweeps.page.answer import answer_section
from sweeps.page.confirmation import confirmation_part
from sweeps.page.costs import costs_section
from sweeps.page.curves import curves_section
from sweeps.page.failures import failures_section
from sweeps.page.inline import Album
from sweeps.page.markdown import write_markdown
from sweeps.page.record import record_section
from sweeps.page.samples import samples_section
from sweeps.page.scores import scoreboard_section
from sweeps.page.settings import settings_section
from sweeps.page.stopping import stopping_section
from sweeps.page.style import SECURITY, STYLE
from sweeps.page.winner import winner_section
from sweeps.space import SearchSpace
from sweeps.storage import SweepPaths
from sweeps.summary import Summary


def write_page(
    space: SearchSpace, paths: SweepPaths, summary: Summary, starts: Sequence[Mapping[str, Any]]
) -> Location:
    """Write paths.page as a whole or not at all, and return it; its Markdown twin before it.

    starts: what sweeps.provenance has recorded.
    """
    album = Album()
    sections = [
        answer_section(space, summary),
        winner_section(space, paths, summary, confirmation_part(space, summary, album)),
        scoreboard_section(summary),
        curves_section(space, summary, album),
        samples_section(space, paths, summary),
        settings_section(space, summary, album),
        stopping_section(summary),
        costs_section(summary, album),
        failures_section(paths, summary),
        record_section(space, paths, summary, starts),
    ]
    title = f"{space.name}: {space.question}" if space.question else space.name
    write_markdown(space, paths, summary, starts, album)
    write_whole(paths.page, whole_page(title, sections).encode())
    return paths.page


def whole_page(title: str, sections: Sequence[str]) -> str:
    """title: a text. sections: HTML."""
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{SECURITY}\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(sections)
        + "\n</main>\n</body>\n</html>\n"
    )
