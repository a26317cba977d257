"""Small pieces of the page's HTML, and photographs as data URIs. Texts are escaped here; HTML is named so."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

from sweeps.locations import Location
from sweeps.prompts import shortened

JPEG_QUALITY = 88


def section(name: str, title: str, *parts: str) -> str:
    """One section; `parts` are HTML."""
    body = "\n".join(part for part in parts if part)
    return f'<section id="{name}">\n<h2>{escape(title)}</h2>\n{body}\n</section>'


def paragraph(text: str, css: str = "") -> str:
    return f'<p class="{css}">{escape(text)}</p>' if css else f"<p>{escape(text)}</p>"


def folded(title: str, body: str) -> str:
    """body: HTML."""
    return f"<details><summary>{escape(title)}</summary>{body}</details>"


def details(title: str, text: str) -> str:
    """A text of many lines, folded."""
    return folded(title, f"<pre>{escape(text)}</pre>")


def definitions(pairs: Iterable[tuple[str, str]]) -> str:
    cells = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in pairs)
    return f'<dl class="record">{cells}</dl>'


def row(heads: Sequence[str], cells: Iterable[str]) -> str:
    """A table row. Cells, which are HTML, repeat their column's name for phones, where each row is shown as a card."""
    shown = []
    for head, cell in zip(heads, cells, strict=True):
        shown.append(f'<td data-name="{escape(head)}"><div>{cell}</div></td>' if cell else '<td class="empty"></td>')
    return f"<tr>{''.join(shown)}</tr>"


def table_of(heads: Sequence[str], rows: Iterable[str]) -> str:
    """A table that may be wider than a screen. rows: HTML."""
    head = "".join(f'<th scope="col">{escape(name).replace("_", "_<wbr>")}</th>' for name in heads)
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<div class="scroll"><table class="trials">{body}</table></div>'


def two_lines(first: str, second: str) -> str:
    return escape(first) + (f'<span class="small">{escape(second)}</span>' if second else "")


def one_value(first: str, second: str) -> str:
    """Two lines that are not broken."""
    return f'<span class="value">{two_lines(first, second)}</span>'


def heads_of(prompts: Iterable[str], longest: int) -> str:
    """Prompts shortened to so many characters, with all of each under the mouse."""
    return "".join(f'<span title="{escape(one)}">{escape(shortened(one, longest))}</span>' for one in prompts)


def dot(role: str) -> str:
    """The colour of a role (sweeps.page.roles.STYLES)."""
    return f'<i class="dot {role}"></i>'


def image_uri(path: Location, side_px: int) -> str | None:
    """A picture: as it is up to `side_px` wide and high, else scaled down as JPEG. None if unreadable."""
    from PIL import Image

    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            if max(image.size) <= side_px and image.format == "PNG":
                return "data:image/png;base64," + base64.b64encode(content).decode()
            small = image.convert("RGB")
            small.thumbnail((side_px, side_px))
    except (OSError, SyntaxError):  # SyntaxError is what Pillow raises for a broken PNG
        return None
    file = io.BytesIO()
    small.save(file, format="jpeg", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
