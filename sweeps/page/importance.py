"""The part of the page that says how much each setting matters, and how little few candidates can say of it."""

from __future__ import annotations

from sweeps.importance import FEWEST, SHUFFLES, Importance, importance_of
from sweeps.ledger import FINISHED
from sweeps.page.elements import paragraph
from sweeps.page.figure_importance import importance_figure
from sweeps.page.inline import Album
from sweeps.space import SearchSpace
from sweeps.summary import Summary
from sweeps.wording import count

WIDE_IN, NARROW_IN = 10.5, 4.6
FEW = 50  # finished candidates, of which so few say little
TITLE = "<h3>How much each setting matters</h3>"


def importance_part(space: SearchSpace, summary: Summary, album: Album) -> str:
    """HTML; '' where only one setting is searched."""
    if len(space.dimensions) < 2:
        return ""
    importance = importance_of(space, summary.records)
    if importance is None:
        finished = sum(record.is_candidate and record.outcome == FINISHED for record in summary.records)
        few = f"{count(finished, 'candidate')} finished: the importance of settings is told from {FEWEST} on."
        return TITLE + paragraph(few, "small")
    wide, narrow = (importance_figure(importance, width_in=width) for width in (WIDE_IN, NARROW_IN))
    alt = "; ".join(f"{path} {100 * share:.0f} %" for path, share in importance.shares.items())
    told = f"Importance of settings: {alt}."
    return TITLE + album.card("importance", wide, narrow, alt=told, caption=_caption(importance))


def _caption(importance: Importance) -> str:
    stopped = (
        f" and {count(importance.num_stopped, 'stopped one')}, which count as worse than those"
        if importance.num_stopped
        else ""
    )
    few = "So few say little: shares" if importance.num_finished < FEW else "Shares"
    return (
        f"PED-ANOVA: where the best {importance.num_best} lie, against all; from {importance.num_finished} finished "
        f"candidates{stopped}. {few} add up to 100 % even where nothing matters. Chance: in how "
        f"many of {SHUFFLES} shuffles of the results among the candidates the setting comes out as important; more "
        "than 5 are drawn pale. Settings vary together, and a sampler looks more closely where it was good."
    )
