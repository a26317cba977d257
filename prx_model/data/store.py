"""A data set on disk: `manifest.json`, Parquet shards of encoded image-caption pairs, and the encoded empty caption.

Columns of a shard: key, caption, split ('train' | 'heldout'), family (strings), image (PNG), text (token states as one
flat list of float16, real tokens only), num_text_tokens. Rows keep the order in which they were written.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float16, UInt8
from torch import Tensor

from prx_model.data.durable import write_file
from prx_model.data.manifest import FileCard, Manifest, json_sha256

if TYPE_CHECKING:
    import pyarrow as pa

SplitName = Literal["train", "heldout"]
ROWS_PER_SHARD = 1024
ROWS_PER_GROUP = 256
NULL_TEXT_FILE = "null_text.parquet"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One image-caption pair as it is stored. image: uint8 RGB. text: float16 states of the real tokens."""

    key: str
    caption: str
    split: SplitName
    family: str
    image: UInt8[np.ndarray, "R R 3"]
    text: Float16[np.ndarray, "L E"]


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
    text tokens take 37 kB each); a store too large for that needs a streaming reader instead.
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
        table = _concat([_verified_table(folder, card) for card in manifest.shards])
        null = _verified_table(folder, manifest.null_text)
        width = manifest.text_encoder.width
        null_text, null_mask = _padded_text(null, int(null["num_text_tokens"][0].as_py()), width)
        assert bool(null_mask.all())
        return cls(
            manifest=manifest,
            train=_read_split(table, "train", manifest),
            heldout=_read_split(table, "heldout", manifest),
            null_text=null_text[0],
        )


def write_shards(folder: Path, rows: Sequence[Row], *, rows_per_shard: int = ROWS_PER_SHARD) -> tuple[FileCard, ...]:
    """Writes `rows` as `shard-00000.parquet` and on; returns what the manifest says of each file."""
    cards: list[FileCard] = []
    for number, start in enumerate(range(0, len(rows), rows_per_shard)):
        chosen = rows[start : start + rows_per_shard]
        path = folder / f"shard-{number:05d}.parquet"
        cards.append(_write_table(path, _rows_table(chosen), _content_sha256(chosen)))
    return tuple(cards)


def write_null_text(folder: Path, text: Float16[np.ndarray, "L0 E"]) -> FileCard:
    """Writes the encoding of the empty caption, for caption dropout and guidance."""
    import pyarrow as pa

    num_tokens = pa.array([len(text)], pa.int32())
    table = pa.table({"caption": [""], "text": _text_column([text]), "num_text_tokens": num_tokens})
    return _write_table(folder / NULL_TEXT_FILE, table, hashlib.sha256(text.tobytes()).hexdigest())


def _rows_table(rows: Sequence[Row]) -> pa.Table:
    import pyarrow as pa

    return pa.table(
        {
            "key": pa.array([row.key for row in rows], pa.string()),
            "caption": pa.array([row.caption for row in rows], pa.string()),
            "split": pa.array([row.split for row in rows], pa.string()),
            "family": pa.array([row.family for row in rows], pa.string()),
            "image": pa.array([_png(row.image) for row in rows], pa.binary()),
            "text": _text_column([row.text for row in rows]),
            "num_text_tokens": pa.array([len(row.text) for row in rows], pa.int32()),
        }
    )


def _text_column(texts: Sequence[Float16[np.ndarray, "_ E"]]) -> pa.Array:
    import pyarrow as pa

    offsets = np.cumsum([0, *(text.size for text in texts)], dtype=np.int32)
    values = np.concatenate([text.astype(np.float16, copy=False).reshape(-1) for text in texts])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values, pa.float16()))


def _content_sha256(rows: Sequence[Row]) -> str:
    content = hashlib.sha256()
    for row in rows:
        head = [row.key, row.caption, row.split, row.family, row.image.shape, row.text.shape]
        content.update(json_sha256(head).encode())
        content.update(row.image.tobytes())
        content.update(row.text.tobytes())
    return content.hexdigest()


def _write_table(path: Path, table: pa.Table, content_sha256: str) -> FileCard:
    import pyarrow.parquet as pq

    def write(file: BinaryIO) -> None:
        pq.write_table(table, file, row_group_size=ROWS_PER_GROUP, compression="zstd", use_dictionary=False)

    write_file(path, write)
    return FileCard(file=path.name, sha256=_file_sha256(path), content_sha256=content_sha256, rows=table.num_rows)


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


def _concat(tables: list[pa.Table]) -> pa.Table:
    import pyarrow as pa

    return pa.concat_tables(tables)


def _read_split(table: pa.Table, name: SplitName, manifest: Manifest) -> Split:
    import pyarrow as pa

    belongs = [value == name for value in table["split"].to_pylist()]
    rows = table.filter(pa.array(belongs, pa.bool_())).combine_chunks()
    if rows.num_rows != manifest.counts[name]:
        raise ValueError(f"split {name!r} has {rows.num_rows} images, the manifest says {manifest.counts[name]}")
    side = manifest.resolution
    images = np.empty((rows.num_rows, side, side, 3), dtype=np.uint8)
    for index, png in enumerate(rows["image"].to_pylist()):
        images[index] = _pixels(png)
    text, mask = _padded_text(rows, manifest.max_text_tokens, manifest.text_encoder.width)
    return Split(
        name=name,
        fingerprint=json_sha256([manifest.fingerprint, name]),
        keys=tuple(rows["key"].to_pylist()),
        captions=tuple(rows["caption"].to_pylist()),
        families=tuple(rows["family"].to_pylist()),
        images=torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
        text=text,
        text_mask=mask,
    )


def _padded_text(rows: pa.Table, max_tokens: int, width: int) -> tuple[Float[Tensor, "n L E"], Bool[Tensor, "n L"]]:
    lengths = torch.from_numpy(rows["num_text_tokens"].to_numpy().astype(np.int64))
    mask = torch.arange(max_tokens)[None, :] < lengths[:, None]
    text = torch.zeros(len(lengths), max_tokens, width)
    if len(lengths):
        flat = rows["text"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        # Row-major masking visits the real tokens in the order in which they were flattened.
        text[mask] = torch.from_numpy(flat.astype(np.float32)).reshape(-1, width)
    return text, mask


def _png(image: UInt8[np.ndarray, "R R 3"]) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def _pixels(png: bytes) -> UInt8[np.ndarray, "R R 3"]:
    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"))


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
