"""Figures inside the page's own HTML: their colours follow light and dark mode, and the mouse is answered."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html import escape

# What matplotlib has written -> the page's colours of the same meaning (sweeps.page.style).
INKS = {
    "#000000": "ink",
    "#222222": "ink",
    "#1b1f24": "ink",
    "#444444": "soft",
    "#666666": "soft",
    "#dddddd": "grid",
    "#ffffff": "card",
    "#555555": "baseline",
    "#009e73": "best",
    "#0072b2": "finished",
    "#e69f00": "stopped",
    "#d55e00": "failed",
    "#56b4e9": "unfinished",
}


HINT = "hint-"  # how ids of what tells more under the mouse begin


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure as SVG text: for a screen, and, where it would shrink until nobody can read it, for a phone."""

    name: str
    wide: str
    narrow: str | None
    alt: str


@dataclass
class Album:
    """The figures of a page in their order. Their names are those of the files that its Markdown twin shows."""

    figures: list[Figure] = field(default_factory=list)

    def add(self, name: str, wide: str, narrow: str | None, alt: str) -> str:
        """Keep a figure; HTML of it."""
        self.figures.append(Figure(name=name, wide=wide, narrow=narrow, alt=alt))
        if narrow is None:
            return inline(wide, f"{name}-", alt)
        return (
            f'<div class="wide">{inline(wide, f"{name}-", alt)}</div>'
            f'<div class="narrow">{inline(narrow, f"{name}-narrow-", alt)}</div>'
        )

    def card(self, name: str, wide: str, narrow: str | None, *, alt: str, caption: str = "") -> str:
        """The same, framed."""
        below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
        return f'<figure class="card">{self.add(name, wide, narrow, alt)}{below}</figure>'


def inline(svg: str, prefix: str, alt: str) -> str:
    """SVG as a part of HTML. prefix: of its ids, which must be unique in the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(rf'<g id="{HINT}\d+">', '<g class="hint">', svg)
    svg = re.sub(r"\s+", " ", svg).replace("> <", "><")
    meant = set(re.findall(r'(?:href="|url\()#([^")]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: f' id="{prefix}{found[1]}"' if found[1] in meant else "", svg)
    svg = svg.replace('xlink:href="#', f'href="#{prefix}').replace("url(#", f"url(#{prefix}")
    head = f'<svg class="figure" role="img" aria-label="{escape(alt)}" '
    svg = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*', lambda found: head + found[1], svg, count=1)
    return re.sub(f"(?<=[le]: )(?:{'|'.join(INKS)})", lambda found: f"var(--{INKS[found[0]]})", svg)


def with_hints(svg: str, hints: dict[str, str]) -> str:
    """SVG with a text for each group of these ids, that shows where the mouse rests on it."""
    for name, text in hints.items():
        mark = f'<g id="{name}">'
        assert mark in svg, name
        svg = svg.replace(mark, f"{mark}<title>{_in_title(text)}</title>", 1)
    return svg


def with_point_hints(svg: str, hints: dict[str, list[str]]) -> str:
    """SVG with a text for each point of these scatters, in the order in which they were given."""
    parts = [svg]
    for name, texts in hints.items():
        before, mark, after = parts.pop().partition(f'<g id="{name}">')
        points = re.split(r"(<use [^>]*/>)", after, maxsplit=len(texts))
        assert len(points) == 2 * len(texts) + 1, f"{name}: {len(points) // 2} of {len(texts)} points"
        drawn = [
            f'{between}<g class="hint"><title>{_in_title(text)}</title>{point}</g>'
            for between, point, text in zip(points[:-1:2], points[1::2], texts, strict=True)
        ]
        parts += [before, mark, *drawn, points[-1]]
    return "".join(parts)


def _in_title(text: str) -> str:
    return escape(text).replace("\n", "&#10;")
