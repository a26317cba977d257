"""What a data set on disk says about itself: `manifest.json`."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"


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
    """What turned captions into token states of width `width`."""

    name: str
    package: str
    package_version: str
    weight_sha256: str
    width: int


@dataclass(frozen=True, kw_only=True)
class FileCard:
    """One Parquet file of the data set.

    sha256: of the file. content_sha256: of the rows in it, which other versions of Parquet and PNG pack differently.
    """

    file: str
    sha256: str
    content_sha256: str
    rows: int


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
    `max_text_tokens`. null_text: the file with the encoding of the empty caption.
    fingerprint: sha256 over all of it but the skip list and the files' own checksums: it changes whenever a caption, a
    pixel or a text state does, and not with the version of the software that packed them.
    """

    source: SourceCard
    settings: dict[str, Any]
    resolution: int
    max_text_tokens: int
    text_encoder: TextEncoderCard
    counts: dict[str, int]
    cut_captions: int
    skipped_by_reason: dict[str, int]
    skipped: tuple[Skipped, ...]
    shards: tuple[FileCard, ...]
    null_text: FileCard
    format_version: int = FORMAT_VERSION

    @property
    def fingerprint(self) -> str:
        fields = {name: value for name, value in asdict(self).items() if not name.startswith("skipped")}
        for card in (*fields["shards"], fields["null_text"]):
            del card["sha256"]
        return json_sha256(fields)

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "fingerprint": self.fingerprint}, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The manifest in `folder`; ValueError where there is none, or one of another format, or a damaged one."""
        path = folder / MANIFEST_FILE
        if not path.is_file():
            raise ValueError(f"{folder} holds no data set ({MANIFEST_FILE} is missing); prepare one first")
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            got = fields.pop("format_version")
            if got != FORMAT_VERSION:
                raise ValueError(f"format version is {got}, this code reads {FORMAT_VERSION}")
            recorded = fields.pop("fingerprint")
            fields["source"] = SourceCard(**fields["source"])
            fields["text_encoder"] = TextEncoderCard(**fields["text_encoder"])
            fields["null_text"] = FileCard(**fields["null_text"])
            fields["shards"] = tuple(FileCard(**card) for card in fields["shards"])
            fields["skipped"] = tuple(Skipped(**item) for item in fields["skipped"])
            manifest = cls(**fields)
            if recorded != manifest.fingerprint:
                raise ValueError(f"fingerprint is {manifest.fingerprint}, recorded {recorded}")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is damaged or foreign ({error}); delete {folder} and run again") from error
        return manifest


def count_reasons(skipped: tuple[Skipped, ...]) -> dict[str, int]:
    """How many items were left out for each reason, most frequent first."""
    return dict(Counter(item.reason for item in skipped).most_common())


def json_sha256(value: Any) -> str:
    """sha256 of a JSON value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
