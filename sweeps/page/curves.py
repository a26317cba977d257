"""The page's curves: the objective, its difference to the baseline, the other metrics, and what each of them is."""

from __future__ import annotations

from html import escape

from prx_model.metrics.table import METRICS
from sweeps.page.elements import paragraph, section
from sweeps.page.figure_curves import curve_figure, difference_figure
from sweeps.page.inline import Album
from sweeps.page.roles import provenance_line
from sweeps.space import SearchSpace, flattered_metrics
from sweeps.summary import Summary

WIDE_IN, NARROW_IN = 10.5, 4.6  # the main figure on a screen and on a phone
PANEL_IN = (4.5, 3.2)


def curves_section(space: SearchSpace, summary: Summary, album: Album) -> str:
    metric = summary.metric
    wide = curve_figure(summary, metric, width_in=WIDE_IN, height_in=5.2, legend=True)
    narrow = curve_figure(summary, metric, width_in=NARROW_IN, height_in=5.2, legend=True)
    alt = f"Curves of {metric} over the steps: the baseline's band and every candidate. {provenance_line(summary)}."
    caption = (
        f"{metric} at every evaluation. The band is the baseline's mean ± its spread between seeds. A stopped or "
        "failed candidate's curve ends where the trial did; rest the mouse on a curve to read why. Numbers are those "
        "of the candidates."
    )
    parts = [album.card("curves", wide, narrow, alt=alt, caption=caption), _differences(summary, album)]
    others = [_other(summary, other, album) for other in summary.metrics[1:]]
    if others:
        parts += ["<h3>The other metrics</h3>", f'<div class="panels">{"".join(others)}</div>']
        parts.append(paragraph("Colours, bands and numbers as above.", "small"))
    lines = "".join(f"<li>{escape(line)}</li>" for line in what_metrics_are(space, summary))
    return section("curves", f"{metric} over the run", *parts, f'<ul class="small">{lines}</ul>')


def _differences(summary: Summary, album: Album) -> str:
    wide = difference_figure(summary, width_in=WIDE_IN, height_in=3.6)
    narrow = difference_figure(summary, width_in=NARROW_IN, height_in=3.8)
    if wide is None or narrow is None:
        return ""
    caption = "The same curves in percent of the baseline's mean at the same step."
    alt = f"{caption} {provenance_line(summary)}."
    return album.card("differences", wide, narrow, alt=alt, caption=caption)


def _other(summary: Summary, metric: str, album: Album) -> str:
    figure = curve_figure(summary, metric, width_in=PANEL_IN[0], height_in=PANEL_IN[1], legend=False)
    alt = f"Curves of {metric} over the steps, baseline and candidates. {provenance_line(summary)}."
    return album.card(f"curves-{metric}", figure, None, alt=alt)


def what_metrics_are(space: SearchSpace, summary: Summary) -> list[str]:
    """A line for each metric: what it is. A metric that is not FID is never left to be taken for it."""
    lines = [f"{metric}: {_description(metric)}" for metric in summary.metrics]
    others = [metric for metric in summary.metrics if metric != "fid"]
    if others:
        are = "is NOT FID and cannot" if len(others) == 1 else "are NOT FID and cannot"
        lines.append(f"{' and '.join(others)} {are} be compared with published FIDs.")
    lines += [
        f"{metric} is scored by the network that {teacher} is: it flatters that teacher."
        for metric, teacher in flattered_metrics(space)
    ]
    return lines


def _description(metric: str) -> str:
    spec = METRICS.get(metric)
    return spec.description if spec is not None else "no description; it is not in the table of metrics"
