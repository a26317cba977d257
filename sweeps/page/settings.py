"""The page's section on what matters: the importance of each setting, and the objective over every one of them."""

from __future__ import annotations

from html import escape

from sweeps.page.elements import paragraph, section
from sweeps.page.figure_settings import settings_figure
from sweeps.page.importance import importance_part
from sweeps.page.inline import Album
from sweeps.page.roles import hollow_note, provenance_line
from sweeps.space import SearchSpace
from sweeps.summary import Summary

WIDE_IN, NARROW_IN, COLUMNS = 10.5, 4.6, 3
TITLE = "What matters"


def settings_section(space: SearchSpace, summary: Summary, album: Album) -> str:
    dimensions = space.dimensions
    wide = settings_figure(summary, dimensions, width_in=WIDE_IN, columns=min(COLUMNS, len(dimensions)))
    if wide is None:
        return section("settings", TITLE, paragraph("No candidate can be compared with the baseline yet."))
    narrow = settings_figure(summary, dimensions, width_in=NARROW_IN, columns=1)
    paths_of = ", ".join(dimension.path for dimension in dimensions)
    alt = f"{summary.metric} against the baseline over {paths_of}: one point per candidate."
    importance = importance_part(space, summary, album)
    figure = album.card("settings", wide, narrow, alt=alt)
    return section(
        "settings",
        TITLE,
        importance,
        f"<h3>{escape(summary.metric)} over each setting</h3>",
        figure,
        paragraph(_note(summary), "small"),
    )


def _note(summary: Summary) -> str:
    note = (
        "Each candidate's difference to the baseline's mean at its own last step, on its first seed: stopped ones "
        "(squares) are seen at an earlier step than finished ones. Bars, and the band, are the baseline's spread "
        "between seeds: what one run moves by through chance. Candidates vary in all settings at once. "
        f"{provenance_line(summary)}."
    )
    readings = [trial.readings[summary.metric] for trial in summary.candidates if summary.metric in trial.readings]
    hollow = hollow_note(reading.estimate for reading in readings if reading.percent is not None)
    return f"{note} {hollow.capitalize()}." if hollow else note
