"""A data set on disk, opened: manifest, Parquet shards of encoded image-caption pairs, the encoded empty caption.

What a shard holds is told in prx_model/data/shards.py, what the manifest says in prx_model/data/manifest.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from prx_model.data.manifest import FileCard, Manifest, json_sha256
from prx_model.data.shards import SplitName, decode_image, stored_tensor

if TYPE_CHECKING:
    import pyarrow as pa


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
        null = _verified_table(folder, manifest.null_text)
        num_tokens = int(null["num_text_tokens"][0].as_py())
        width = manifest.text_encoder.width
        return cls(
            manifest=manifest,
            train=_read_split(folder, "train", manifest),
            heldout=_read_split(folder, "heldout", manifest),
            null_text=stored_tensor(null["text"][0].as_py(), (num_tokens, width), manifest.text_dtype).float(),
        )


def _verified_table(folder: Path, card: FileCard) -> pa.Table:
    import pyarrow.parquet as pq

    path = folder / card.file
    advice = f"delete {folder} and run again"
    if not path.is_file():
        raise ValueError(f"{path} is missing; {advice}")
    got = _file_sha256(path)
    if got != card.sha256:
        raise ValueError(f"{path} is corrupt: sha256 is {got}, the manifest says {card.sha256}; {advice}")
    return pq.read_table(path)


def _read_split(folder: Path, name: SplitName, manifest: Manifest) -> Split:
    rows = [row for card in manifest.shards_of(name) for row in _verified_table(folder, card).to_pylist()]
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


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
