from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from prx_model.data.drawings import Drawing, caption_of, drawings_in, family_of, openmoji_drawings, render

SQUARE = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 72 72"><rect x="18" y="18" width="36" height="36"/></svg>'
)


def drawing(name: str) -> Drawing:
    return Drawing(path=Path(f"{name}.svg"), code_points=tuple(name.lower().split("-")))


@pytest.fixture(scope="module")
def by_key() -> dict[str, Drawing]:
    return {drawing.key: drawing for drawing in openmoji_drawings()}


@pytest.mark.parametrize(
    ("name", "caption"),
    [
        ("1F600", "grinning face"),
        ("1F468-200D-1F9B0", "man red hair"),
        ("2764-FE0F", "red heart"),
        ("0023-FE0F-20E3", "keycap #"),
        ("1F1EB-1F1F7", "flag: France"),
        ("1F3F4-E0067-E0062-E0065-E006E-E0067-E007F", "flag: England"),
        ("1F44B-1F3FD", "waving hand medium skin tone"),
        ("2654", "white chess king"),  # Unicode's name: CLDR has none
        ("1FAD9-200D-1F7E5", "jar, red square"),  # neither lists the sequence
    ],
)
def test_caption_of_known_emoji(name: str, caption: str) -> None:
    assert caption_of(drawing(name)) == caption


@pytest.mark.parametrize("name", ["1F3F4-E0075-E0073-E0063-E0061-E007F", "E000", "0378", "1F3F3-200D-E000"])
def test_what_has_no_english_name_has_no_caption(name: str) -> None:
    assert caption_of(drawing(name)) is None


def test_package_lays_out_one_svg_per_drawing(by_key: dict[str, Drawing]) -> None:
    assert len(by_key) == 4495
    assert by_key["1f468-1f9b0"].path.read_text(encoding="utf-8").startswith("<svg")
    assert sum(drawing.is_private for drawing in by_key.values()) == 367


def test_skin_tone_is_a_property_of_toned_drawings_not_of_the_swatches(by_key: dict[str, Drawing]) -> None:
    assert by_key["1f44b-1f3fd"].has_skin_tone
    assert not by_key["1f3fd"].has_skin_tone
    assert not by_key["1f44b"].has_skin_tone


@pytest.mark.parametrize(
    ("key", "family"),
    [
        ("1f44b-1f3fd", "1f44b"),
        ("1f3fd", "1f3fd"),  # the swatch itself
        ("2640", "2640"),  # the sign itself
        ("1f3c3-1f3fb-2640-27a1", "1f3c3"),
        ("1f469-1f33e", "1f9d1-1f33e"),
        ("1faf1-1f3fb-1faf2-1f3ff", "1f91d"),
        ("1f468-1f3fb-2764-1f468-1f3ff", "1f491"),
        ("1f600", "1f600"),
    ],
)
def test_family_is_the_concept(key: str, family: str) -> None:
    assert family_of(key) == family
    assert family_of(family) == family


def test_captions_that_differ_in_skin_tone_alone_name_one_family(by_key: dict[str, Drawing]) -> None:
    families: defaultdict[str, set[str]] = defaultdict(set)
    for key, drawing in by_key.items():
        caption = None if drawing.is_private or key.startswith("1f3f") else caption_of(drawing)
        if caption is not None:
            families[re.sub(r"( (light|medium|medium-light|medium-dark|dark) skin tone)+$", "", caption)].add(
                family_of(key)
            )
    torn = {caption: members for caption, members in families.items() if len(members) > 1}
    assert torn == {}


def test_render_puts_the_drawing_on_white() -> None:
    pixels = render(SQUARE, 32)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (32, 32, 3)
    assert (pixels[:8] == 255).all()
    assert (pixels[8:24, 8:24] == 0).all()


def test_real_drawing_has_white_corners_and_the_yellow_of_its_file(by_key: dict[str, Drawing]) -> None:
    svg = by_key["1f600"].path.read_text(encoding="utf-8")
    pixels = render(svg, 64)
    assert (pixels[[0, 0, -1, -1], [0, -1, 0, -1]] == 255).all()
    assert "#FCEA2B" in svg
    assert (pixels == np.array([0xFC, 0xEA, 0x2B])).all(axis=-1).sum() > 400


@pytest.mark.parametrize("svg", ["", "<svg", "no drawing", '<svg xmlns="http://www.w3.org/2000/svg"/>'])
def test_what_does_not_render_is_a_value_error(svg: str) -> None:
    with pytest.raises(ValueError, match=r"cannot render|nothing to see"):
        render(svg, 32)


def test_drawings_are_listed_in_order_of_their_names(tmp_path: Path) -> None:
    for name in ("1F601", "1F468-200D-1F9B0", "1F600"):
        (tmp_path / f"{name}.svg").write_text(SQUARE)
    (tmp_path / "1F600.svg.gz").write_bytes(b"")
    assert [drawing.key for drawing in drawings_in(tmp_path)] == ["1f468-1f9b0", "1f600", "1f601"]
