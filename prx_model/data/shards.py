"""One Parquet file of a data set: rows of one split, laid out so that a reader needs one copy per row.

Columns: key, caption, family (strings), image (binary: a PNG, JPEG or WebP file), text (binary: states of the real
tokens, row-major [L, E]), num_text_tokens (int32), latent (fixed-size binary, [C, h, w]; not in data sets of pixels),
teacher_<name> (fixed-size binary [N, Z] float16, one column per stored teacher). Numbers are little-endian, padding is
never stored. Row groups of ROWS_PER_GROUP rows; every column of a group is one uncompressed plain page, so that each
value lies in the file as it is (prx_model/data/groups.py reads it from there; any other Parquet reader works as well).
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from prx_model.data.durable import write_file
from prx_model.data.groups import group_ranges
from prx_model.data.manifest import IMAGE_FORMATS, FileCard, GroupCard, json_sha256

if TYPE_CHECKING:
    import pyarrow as pa

SplitName = Literal["train", "heldout"]
ROWS_PER_GROUP = 64
ROWS_PER_SHARD = 1024
NULL_TEXT_FILE = "null_text.parquet"
TORCH_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
PAGE_BYTES = 1 << 30  # more than a group's column can hold: one page each


@dataclass(frozen=True, kw_only=True)
class Row:
    """One image-caption pair as it is stored.

    image: an encoded file, lossless for the held-out split. text: states of the real tokens, at least one, float16 or
    bfloat16. latent: [C, h, w] of the same two types, None in a data set of pixels. teachers: by name, float16 [N, Z].
    """

    key: str
    caption: str
    split: SplitName
    family: str = ""
    image: bytes = field(repr=False)
    text: Float[np.ndarray, "L E"] | Float[Tensor, "L E"]
    latent: Float[Tensor, "C h w"] | None = None
    teachers: Mapping[str, Float[Tensor, "N Z"]] = field(default_factory=dict)


def write_shard(folder: Path, file: str, rows: Sequence[Row]) -> FileCard:
    """Writes `rows`, all of one split, as `folder`/`file`; it is there whole or not at all.

    Returns what the manifest says of it. ValueError where rows differ in split, types or shapes, or a held-out image is
    not lossless.
    """
    import pyarrow.parquet as pq

    _check_rows(file, rows)
    schema = _schema(rows[0])

    def write(handle: BinaryIO) -> None:
        with pq.ParquetWriter(handle, schema, **_PLAIN) as writer:
            for start in range(0, len(rows), ROWS_PER_GROUP):
                writer.write_table(_table(schema, rows[start : start + ROWS_PER_GROUP]), ROWS_PER_GROUP)

    write_file(folder / file, write)
    return _file_card(folder / file, rows[0].split, _content_sha256(rows))


def write_shards(folder: Path, rows: Sequence[Row], *, rows_per_shard: int = ROWS_PER_SHARD) -> tuple[FileCard, ...]:
    """Writes `rows` as `train-00000.parquet`, `heldout-00000.parquet` and on, each split in the order of `rows`."""
    cards: list[FileCard] = []
    for split in ("train", "heldout"):
        chosen = [row for row in rows if row.split == split]
        for number, start in enumerate(range(0, len(chosen), rows_per_shard)):
            cards.append(write_shard(folder, shard_name(split, number), chosen[start : start + rows_per_shard]))
    return tuple(cards)


def shard_name(split: str, number: int) -> str:
    """The file name of a split's shard, counted from 0."""
    return f"{split}-{number:05d}.parquet"


def write_null_text(folder: Path, text: Float[np.ndarray, "L0 E"] | Float[Tensor, "L0 E"]) -> FileCard:
    """Writes the encoding of the empty caption, in the dtype of the data set, for caption dropout and guidance."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    _dtype_name(text)
    schema = pa.schema(
        [_field("caption", pa.string()), _field("text", pa.binary()), _field("num_text_tokens", pa.int32())]
    )
    columns = {"caption": [""], "text": [_raw(text)], "num_text_tokens": [len(text)]}
    path = folder / NULL_TEXT_FILE
    write_file(path, lambda handle: pq.write_table(pa.table(columns, schema), handle, **_PLAIN))
    return _file_card(path, "", hashlib.sha256(_raw(text)).hexdigest())


def encode_image(
    image: UInt8[np.ndarray, "R R 3"] | UInt8[Tensor, "3 R R"], format: str, quality: int | None = None
) -> bytes:
    """The image as a file. format: 'png', 'jpeg' or 'webp'. quality: 1 to 100; None is lossless (png and webp)."""
    from PIL import Image

    if format not in IMAGE_FORMATS:
        raise ValueError(f"format: got {format!r}, allowed is one of {', '.join(IMAGE_FORMATS)}")
    if format == "jpeg" and quality is None:
        raise ValueError("quality: got None, allowed for jpeg is an integer of 1 to 100")
    pixels = image.permute(1, 2, 0).cpu().numpy() if isinstance(image, Tensor) else image
    options: dict[str, int] = {"lossless": 1} if format == "webp" and quality is None else {}
    if quality is not None:
        options["quality"] = quality
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format=format.upper(), **options)
    return buffer.getvalue()


def decode_image(data: bytes | bytearray) -> UInt8[Tensor, "3 R R"]:
    """The pixels of an encoded file, RGB. ValueError where it is corrupt."""
    return torch.from_numpy(_pixels(data)).permute(2, 0, 1).contiguous()


def stored_tensor(data: bytes, shape: tuple[int, ...], dtype: str) -> Tensor:
    """Numbers as they lie in a column, as a tensor of its own. dtype: 'float16' or 'bfloat16'."""
    return torch.from_numpy(np.frombuffer(data, np.uint8).copy()).view(TORCH_DTYPES[dtype]).reshape(shape)


def _pixels(data: bytes | bytearray) -> UInt8[np.ndarray, "R R 3"]:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.array(image.convert("RGB"))
    except (OSError, SyntaxError) as error:  # what Pillow raises for foreign and for broken files
        raise ValueError(f"image is corrupt ({error})") from error


def _check_rows(file: str, rows: Sequence[Row]) -> None:
    if not rows:
        raise ValueError(f"{file}: got no rows, allowed is at least one")
    first = _shape(rows[0])
    for row in rows:
        if _shape(row) != first:
            raise ValueError(
                f"{file}: row {row.key!r} has {_shape(row)}, row {rows[0].key!r} has {first}; all must agree"
            )
        if len(row.text) < 1:
            raise ValueError(f"{file}: row {row.key!r} has no text tokens, allowed is at least one")
        if row.split == "heldout" and not _is_lossless(row.image):
            raise ValueError(
                f"{file}: row {row.key!r} is held out and neither PNG nor lossless WebP; encode it as such"
            )


def _shape(row: Row) -> dict[str, object]:
    """What all rows of a file have in common."""
    latent = None if row.latent is None else (_dtype_name(row.latent), *row.latent.shape)
    teachers = {name: (_dtype_name(tokens), *tokens.shape) for name, tokens in sorted(row.teachers.items())}
    text = (_dtype_name(row.text), row.text.shape[1])
    return {"split": row.split, "text": text, "latent": latent, "teachers": teachers}


def _is_lossless(image: bytes) -> bool:
    return image.startswith(b"\x89PNG\r\n") or (image[:4] == b"RIFF" and image[12:16] == b"VP8L")


def _dtype_name(numbers: np.ndarray | Tensor) -> str:
    name = str(numbers.dtype).removeprefix("torch.")
    if name not in TORCH_DTYPES:
        raise ValueError(f"dtype: got {name}, allowed is one of {', '.join(TORCH_DTYPES)}")
    return name


_PLAIN = {
    "compression": "none",
    "use_dictionary": False,
    "write_statistics": False,
    "data_page_size": PAGE_BYTES,
    "data_page_version": "1.0",
}


def _field(name: str, kind: pa.DataType) -> pa.Field:
    import pyarrow as pa

    return pa.field(name, kind, nullable=False)


def _schema(row: Row) -> pa.Schema:
    import pyarrow as pa

    fields = [_field(name, pa.string()) for name in ("key", "caption", "family")]
    fields += [_field("image", pa.binary()), _field("text", pa.binary()), _field("num_text_tokens", pa.int32())]
    if row.latent is not None:
        fields.append(_field("latent", pa.binary(len(_raw(row.latent)))))
    for name, tokens in sorted(row.teachers.items()):
        fields.append(_field(f"teacher_{name}", pa.binary(len(_raw(tokens)))))
    return pa.schema(fields)


def _table(schema: pa.Schema, rows: Sequence[Row]) -> pa.Table:
    import pyarrow as pa

    columns: dict[str, list[object]] = {
        name: [getattr(row, name) for row in rows] for name in ("key", "caption", "family")
    }
    columns["image"] = [row.image for row in rows]
    columns["text"] = [_raw(row.text) for row in rows]
    columns["num_text_tokens"] = [len(row.text) for row in rows]
    if "latent" in schema.names:
        columns["latent"] = [_raw(row.latent) for row in rows if row.latent is not None]
    for name in rows[0].teachers:
        columns[f"teacher_{name}"] = [_raw(row.teachers[name]) for row in rows]
    return pa.table(columns, schema)


def _raw(numbers: np.ndarray | Tensor) -> bytes:
    if isinstance(numbers, Tensor):
        return numbers.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
    return numbers.astype(numbers.dtype.newbyteorder("<"), copy=False).tobytes()


def _content_sha256(rows: Sequence[Row]) -> str:
    content = hashlib.sha256()
    for row in rows:
        shape = {**_shape(row), "num_text_tokens": len(row.text)}
        content.update(json_sha256([row.key, row.caption, row.family, shape]).encode())
        # Packed by another version of the library, a lossless file has the same pixels and other bytes.
        content.update(_pixels(row.image).tobytes() if _is_lossless(row.image) else row.image)
        content.update(_raw(row.text))
        for numbers in (
            *([] if row.latent is None else [row.latent]),
            *(row.teachers[n] for n in sorted(row.teachers)),
        ):
            content.update(_raw(numbers))
    return content.hexdigest()


def _file_card(path: Path, split: str, content_sha256: str) -> FileCard:
    import pyarrow.parquet as pq

    metadata = pq.read_metadata(path)
    ranges = group_ranges(metadata)
    whole = hashlib.sha256()
    groups: list[GroupCard] = []
    with path.open("rb") as handle:
        whole.update(handle.read(ranges[0].offset))
        for index, (offset, size) in enumerate((place.offset, place.bytes) for place in ranges):
            data = handle.read(size)
            whole.update(data)
            rows = metadata.row_group(index).num_rows
            groups.append(GroupCard(rows=rows, offset=offset, bytes=size, sha256=hashlib.sha256(data).hexdigest()))
        footer = handle.read()
        whole.update(footer)
    last = groups[-1]
    return FileCard(
        file=path.name,
        split=split,
        sha256=whole.hexdigest(),
        content_sha256=content_sha256,
        rows=metadata.num_rows,
        bytes=path.stat().st_size,
        groups=tuple(groups),
        footer_offset=last.offset + last.bytes,
        footer_sha256=hashlib.sha256(footer).hexdigest(),
    )
