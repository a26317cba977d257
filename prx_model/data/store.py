"""A data set on disk, opened: manifest, Parquet shards of encoded image-caption pairs, the encoded empty caption.

What a shard holds is told in prx_model/data/shards.py, what the manifest says in prx_model/data/manifest.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from prx_model.data.groups import ShardFiles
from prx_model.data.heldout import HeldOut, StreamedSplit
from prx_model.data.manifest import FileCard, Manifest, json_sha256
from prx_model.data.places import Bucket, Folder, Place, place_at
from prx_model.data.ranges import ADVICE, CachedRanges, LocalRanges, Ranges
from prx_model.data.shards import SplitName, decode_image, stored_tensor

if TYPE_CHECKING:
    import pyarrow as pa

VERIFIED_BYTES = 64 << 20  # read at a time


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """The train or held-out half of a data set, in memory.

    images: uint8 in [0, 255]. text: float32, zeros where `text_mask` is False. fingerprint: of the data set and the
    split's name, the key for whatever is computed from these images.
    """

    name: SplitName
    fingerprint: str
    keys: tuple[str, ...]
    captions: tuple[str, ...]
    families: tuple[str, ...]
    images: UInt8[Tensor, "n 3 R R"]
    text: Float[Tensor, "n L E"]
    text_mask: Bool[Tensor, "n L"]

    def __len__(self) -> int:
        return len(self.keys)

    def texts_of(self, rows: Sequence[int]) -> tuple[Float[Tensor, "k L E"], Bool[Tensor, "k L"]]:
        """Token states of the rows' captions and where they are real."""
        chosen = torch.as_tensor(rows, dtype=torch.int64)
        return self.text[chosen], self.text_mask[chosen]

    def images_of(self, rows: Sequence[int]) -> UInt8[Tensor, "k 3 R R"]:
        """The rows' images in RGB."""
        return self.images[torch.as_tensor(rows, dtype=torch.int64)]


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageCaptionStore:
    """A data set opened for training: both splits, the encoding of the empty caption, and the manifest.

    Everything is held in memory, which suits the few thousand small images of the laptop profile (64 px images with 16
    text tokens take 37 kB each). Latents and teachers that the data set may hold are left on the disk.
    """

    manifest: Manifest
    train: Split
    heldout: Split
    null_text: Float[Tensor, "L0 E"]

    @property
    def fingerprint(self) -> str:
        return self.manifest.fingerprint

    @classmethod
    def open(cls, folder: Path) -> ImageCaptionStore:
        """Reads the data set in `folder`. ValueError where it is missing, or a file differs from its checksum."""
        manifest = Manifest.read(folder)
        place, advice = Folder(folder), f"delete {folder} and run again"
        return cls(
            manifest=manifest,
            null_text=_null_text(place, manifest, advice),
            train=_read_split(place, "train", manifest, advice),
            heldout=_read_split(place, "heldout", manifest, advice),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedStore:
    """A data set of any size, opened for streaming: in memory are its manifest and the empty caption.

    train: the row groups of the train split, for StreamReader. null_text: float32.
    """

    manifest: Manifest
    place: Folder | Bucket
    train: ShardFiles
    heldout: HeldOut
    null_text: Float[Tensor, "L0 E"]

    @property
    def fingerprint(self) -> str:
        return self.manifest.fingerprint

    @property
    def num_train(self) -> int:
        return self.manifest.counts["train"]

    @classmethod
    def open(cls, location: str | Path, *, cache: Path, cache_bytes: int) -> EncodedStore:
        """Opens the data set in a folder or at an s3:// prefix.

        cache, cache_bytes: the folder for what is fetched from S3, and its bound; a local data set is read where it
        lies. ValueError, in one line, where the data set or one of its files is missing, or a file has another size
        than the manifest says. What is in the files is checked when it is first read.
        """
        manifest = Manifest.read(location)
        place = place_at(location)
        _check_sizes(manifest, place)
        if isinstance(place, Bucket):
            _check_cache(manifest, cache_bytes)
            ranges: Ranges = CachedRanges(place, cache, cache_bytes)
        else:
            ranges = LocalRanges(place)
        return cls(
            manifest=manifest,
            place=place,
            train=ShardFiles(manifest.shards_of("train"), ranges),
            heldout=StreamedSplit(manifest, ShardFiles(manifest.shards_of("heldout"), ranges)),
            null_text=_null_text(place, manifest, ADVICE),
        )

    def verify(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Reads every byte of the data set; `progress(done, total)` in bytes.

        ValueError with the name of the first file that is corrupt, or no longer there.
        """
        cards = (*self.manifest.shards, self.manifest.null_text)
        total = sum(card.bytes for card in cards)
        done = 0
        for card in cards:
            digest = hashlib.sha256()
            for start in range(0, card.bytes, VERIFIED_BYTES):
                part = _read(self.place, card, start, min(start + VERIFIED_BYTES, card.bytes))
                digest.update(part)
                done += len(part)
                if progress is not None:
                    progress(done, total)
            _check_sha256(self.place, card, digest.hexdigest(), ADVICE)


def _check_sizes(manifest: Manifest, place: Place) -> None:
    sizes = place.sizes()
    for card in (*manifest.shards, manifest.null_text):
        got = sizes.get(card.file)
        if got is None:
            raise ValueError(f"{place.name_of(card.file)} is missing; {ADVICE}")
        if got != card.bytes:
            name = place.name_of(card.file)
            raise ValueError(f"{name} is truncated or foreign: {got} bytes, the manifest says {card.bytes}; {ADVICE}")


def _check_cache(manifest: Manifest, cache_bytes: int) -> None:
    largest = max(group.bytes for card in manifest.shards for group in card.groups)
    if cache_bytes < largest:
        raise ValueError(f"cache_bytes: got {cache_bytes}, allowed is at least {largest}, the largest row group")


def _null_text(place: Place, manifest: Manifest, advice: str) -> Float[Tensor, "L0 E"]:
    table = _verified_table(place, manifest.null_text, advice)
    shape = (int(table["num_text_tokens"][0].as_py()), manifest.text_encoder.width)
    return stored_tensor(table["text"][0].as_py(), shape, manifest.text_dtype).float()


def _verified_table(place: Place, card: FileCard, advice: str) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = _read(place, card, 0, None, advice)
    _check_sha256(place, card, hashlib.sha256(data).hexdigest(), advice)
    return pq.read_table(pa.BufferReader(data))


def _read(place: Place, card: FileCard, start: int, stop: int | None, advice: str = ADVICE) -> bytes:
    try:
        return place.read(card.file, start, stop)
    except FileNotFoundError as error:
        raise ValueError(f"{place.name_of(card.file)} is missing; {advice}") from error


def _check_sha256(place: Place, card: FileCard, got: str, advice: str) -> None:
    if got != card.sha256:
        name = place.name_of(card.file)
        raise ValueError(f"{name} is corrupt: sha256 is {got}, the manifest says {card.sha256}; {advice}")


def _read_split(place: Place, name: SplitName, manifest: Manifest, advice: str) -> Split:
    rows = [row for card in manifest.shards_of(name) for row in _verified_table(place, card, advice).to_pylist()]
    side = manifest.resolution
    images = torch.empty(len(rows), 3, side, side, dtype=torch.uint8)
    text = torch.zeros(len(rows), manifest.max_text_tokens, manifest.text_encoder.width)
    for index, row in enumerate(rows):
        images[index] = decode_image(row["image"])
        length = row["num_text_tokens"]
        text[index, :length] = stored_tensor(row["text"], (length, text.shape[2]), manifest.text_dtype)
    lengths = torch.from_numpy(np.array([row["num_text_tokens"] for row in rows], dtype=np.int64))
    return Split(
        name=name,
        fingerprint=json_sha256([manifest.fingerprint, name]),
        keys=tuple(row["key"] for row in rows),
        captions=tuple(row["caption"] for row in rows),
        families=tuple(row["family"] for row in rows),
        images=images,
        text=text,
        text_mask=torch.arange(manifest.max_text_tokens)[None, :] < lengths[:, None],
    )
