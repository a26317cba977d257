"""What a data set on disk says about itself: `manifest.json`."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from prx_model.data.places import place_at

FORMAT_VERSION = 2
MANIFEST_FILE = "manifest.json"
IMAGE_FORMATS = ("png", "jpeg", "webp")
STORED_DTYPES = ("float16", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class SourceCard:
    """Where the images and captions come from."""

    name: str
    package: str
    package_version: str
    licence: str
    attribution: str


@dataclass(frozen=True, kw_only=True)
class TextEncoderCard:
    """What turned captions into token states of width `width`.

    package, package_version: of an encoder that installs as a package, else empty. revision: of one from a model hub.
    """

    name: str
    package: str
    package_version: str
    weight_sha256: str
    width: int
    revision: str = ""
    kind: str = ""  # how a hub's checkpoint is loaded: HubTextEncoder.kind


@dataclass(frozen=True, kw_only=True)
class ImageCard:
    """How image files are packed, by split. quality: 1 to 100 of a lossy train format; None is lossless.

    Held-out images are always lossless: statistics of reference images must not be those of compression artefacts.
    """

    train_format: str
    heldout_format: str
    quality: int | None

    def __post_init__(self) -> None:
        if self.train_format not in IMAGE_FORMATS:
            raise ValueError(f"train_format: got {self.train_format!r}, allowed is one of {', '.join(IMAGE_FORMATS)}")
        if self.heldout_format not in ("png", "webp"):
            raise ValueError(f"heldout_format: got {self.heldout_format!r}, allowed is png or webp, which lose nothing")
        lossy = {"png": (False,), "jpeg": (True,), "webp": (False, True)}[self.train_format]
        if (self.quality is not None) not in lossy:
            rule = "an integer of 1 to 100" if lossy[0] else "null, as png loses nothing"
            raise ValueError(f"quality: got {self.quality}, allowed for {self.train_format} is {rule}")
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise ValueError(f"quality: got {self.quality}, allowed is an integer of 1 to 100")


@dataclass(frozen=True, kw_only=True)
class LatentCard:
    """What turned images into latents: (z - shift) * scale of its z, `channels` at 1/`downsampling` of the side.

    kind: diffusers' class name. dtype: as stored, 'float16' or 'bfloat16'.
    """

    autoencoder: str
    kind: str
    revision: str
    weight_sha256: str
    channels: int
    downsampling: int
    scale: float
    shift: float
    dtype: str

    def __post_init__(self) -> None:
        _check_dtype("dtype", self.dtype)


@dataclass(frozen=True, kw_only=True)
class TeacherCard:
    """A vision encoder whose tokens are stored: `width` numbers at each place of `grid` (rows, columns), float16."""

    name: str
    fingerprint: str
    grid: tuple[int, int]
    width: int


@dataclass(frozen=True, kw_only=True)
class GroupCard:
    """One row group of a Parquet file: the range of bytes in which all of its columns lie, and their sha256."""

    rows: int
    offset: int
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class FileCard:
    """One Parquet file of the data set. split: 'train' or 'heldout', empty for the file of the empty caption.

    sha256: of the file. content_sha256: of the rows in it, which other versions of Parquet and PNG pack differently.
    groups: in the order of the file. footer_offset: where the last group ends and Parquet's own description begins.
    footer_sha256: of that description.
    """

    file: str
    split: str
    sha256: str
    content_sha256: str
    rows: int
    bytes: int
    groups: tuple[GroupCard, ...]
    footer_offset: int
    footer_sha256: str


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A source item that is not in the data set. `reason` is one of a few kinds, `detail` what is special about it."""

    key: str
    reason: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A data set's description, provenance and checksums.

    settings: how it was made (JSON values). counts: images per split. cut_captions: captions longer than
    `max_text_tokens`. longest_text: tokens of the longest caption. text_dtype: of the stored token states, 'float16' or
    'bfloat16'. latents: None for a data set of pixels. null_text: the file with the encoding of the empty caption.
    fingerprint: sha256 over all of it but the skip list and how the files are packed: it changes whenever a caption, a
    pixel, a latent or a text state does, and not with the version of the software that packed them.
    """

    source: SourceCard
    settings: dict[str, Any]
    resolution: int
    max_text_tokens: int
    longest_text: int
    text_encoder: TextEncoderCard
    text_dtype: str
    image: ImageCard
    latents: LatentCard | None
    teachers: tuple[TeacherCard, ...]
    counts: dict[str, int]
    cut_captions: int
    skipped_by_reason: dict[str, int]
    skipped: tuple[Skipped, ...]
    shards: tuple[FileCard, ...]
    null_text: FileCard
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        _check_dtype("text_dtype", self.text_dtype)
        if not 1 <= self.longest_text <= self.max_text_tokens:
            raise ValueError(f"longest_text: got {self.longest_text}, allowed is 1 to {self.max_text_tokens}")
        for split, count in self.counts.items():
            rows = sum(card.rows for card in self.shards_of(split))
            if rows != count:
                raise ValueError(f"counts: got {count} for split {split!r}, but its files have {rows} rows")

    def shards_of(self, split: str) -> tuple[FileCard, ...]:
        """The files of one split; row i of the split is row i of these files, one after the other."""
        return tuple(card for card in self.shards if card.split == split)

    @cached_property
    def fingerprint(self) -> str:
        fields = {name: value for name, value in asdict(self).items() if not name.startswith("skipped")}
        fields["shards"] = [_content(card) for card in self.shards]
        fields["null_text"] = _content(self.null_text)
        return json_sha256(fields)

    def to_json(self) -> str:
        fields = {**asdict(self), "fingerprint": self.fingerprint}
        # The fingerprint leaves out how things are packed, where readers are to look for them, and their checksums.
        return json.dumps({**fields, "checksum": json_sha256(fields)}, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def read(cls, location: Path | str) -> Manifest:
        """The manifest in a folder or at an s3:// prefix.

        ValueError where there is none, or one of another format, or a damaged one.
        """
        place = place_at(location)
        path = place.name_of(MANIFEST_FILE)
        try:
            content = place.read(MANIFEST_FILE)
        except FileNotFoundError as error:
            raise ValueError(f"{location} holds no data set ({MANIFEST_FILE} is missing); prepare one first") from error
        try:
            fields = json.loads(content.decode())
            got = fields.pop("format_version")
            if got != FORMAT_VERSION:
                raise ValueError(f"format version is {got}, this code reads {FORMAT_VERSION}")
            checksum = fields.pop("checksum")
            found = json_sha256(fields | {"format_version": got})
            recorded = fields.pop("fingerprint")
            fields["source"] = SourceCard(**fields["source"])
            fields["text_encoder"] = TextEncoderCard(**fields["text_encoder"])
            fields["image"] = ImageCard(**fields["image"])
            fields["latents"] = None if fields["latents"] is None else LatentCard(**fields["latents"])
            fields["teachers"] = tuple(
                TeacherCard(**{**card, "grid": tuple(card["grid"])}) for card in fields["teachers"]
            )
            fields["null_text"] = _file_card(fields["null_text"])
            fields["shards"] = tuple(_file_card(card) for card in fields["shards"])
            fields["skipped"] = tuple(Skipped(**item) for item in fields["skipped"])
            manifest = cls(**fields)
            if recorded != manifest.fingerprint:
                raise ValueError(f"fingerprint is {manifest.fingerprint}, recorded {recorded}")
            if checksum != found:
                raise ValueError(f"its checksum is {found}, recorded {checksum}")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is damaged or foreign ({error}); delete {location} and run again") from error
        return manifest


def _content(card: FileCard) -> dict[str, Any]:
    """What a file holds, however it is packed."""
    return {"file": card.file, "split": card.split, "content_sha256": card.content_sha256, "rows": card.rows}


def _file_card(fields: dict[str, Any]) -> FileCard:
    return FileCard(**{**fields, "groups": tuple(GroupCard(**group) for group in fields["groups"])})


def _check_dtype(field: str, name: str) -> None:
    if name not in STORED_DTYPES:
        raise ValueError(f"{field}: got {name!r}, allowed is one of {', '.join(STORED_DTYPES)}")


def count_reasons(skipped: tuple[Skipped, ...]) -> dict[str, int]:
    """How many items were left out for each reason, most frequent first."""
    return dict(Counter(item.reason for item in skipped).most_common())


def json_sha256(value: Any) -> str:
    """sha256 of a JSON value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
