"""Row groups of shards, opened so that a row is read by one copy from where it lies.

Parquet allows for much; our shards use the plainest part of it (see prx_model/data/shards.py): each column of a group
is one uncompressed page of plainly encoded values that are never null. A page begins with a header in Thrift's compact
protocol, whose first three fields are the page's kind, its size and its compressed size; values fill the rest:
numbers and fixed-size binaries one after the other, strings and binaries each after its length (4 bytes).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int64

from prx_model.data.manifest import FileCard
from prx_model.data.ranges import FileRange, RangeCard, Ranges

if TYPE_CHECKING:
    import pyarrow.parquet as pq

HEADER_BYTES = 64  # more than a page header without statistics can have
LENGTH_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class GroupRange:
    """The bytes of a row group in its file, and of each column: (offset from the group's first byte, bytes)."""

    offset: int
    bytes: int
    columns: dict[str, tuple[int, int]]


def group_ranges(metadata: pq.FileMetaData) -> list[GroupRange]:
    """The ranges of all row groups of a file, by Parquet's description at its end.

    ValueError where the file is not laid out as a shard: compressed, encoded, or with gaps.
    """
    return [_group_range(metadata, index) for index in range(metadata.num_row_groups)]


def _group_range(metadata: pq.FileMetaData, index: int) -> GroupRange:
    group = metadata.row_group(index)
    chunks = [group.column(number) for number in range(group.num_columns)]
    start = chunks[0].data_page_offset
    columns: dict[str, tuple[int, int]] = {}
    end = start
    for chunk in chunks:
        plain = set(chunk.encodings) <= {"PLAIN", "RLE"} and not chunk.has_dictionary_page
        if not plain or chunk.compression != "UNCOMPRESSED" or chunk.data_page_offset != end:
            raise ValueError(f"column {chunk.path_in_schema!r} of row group {index} is packed as no shard is")
        columns[chunk.path_in_schema] = (end - start, chunk.total_compressed_size)
        end += chunk.total_compressed_size
    return GroupRange(offset=start, bytes=end - start, columns=columns)


def payload_offset(header: bytes | bytearray, chunk_bytes: int) -> int:
    """Where the values begin in a column of `chunk_bytes`, given its first bytes. ValueError if it is not one page."""
    position, fields = 0, []
    for _ in range(3):
        if header[position : position + 1] != b"\x15":  # the next field, an i32
            raise ValueError("a page header is damaged")
        value, position = _varint(header, position + 1)
        fields.append(value >> 1)  # zigzag: sizes are never negative
    kind, size, compressed_size = fields
    if kind != 0 or size != compressed_size or not 0 < chunk_bytes - size <= len(header):
        raise ValueError("a column of the row group is not one plain page")
    return chunk_bytes - size


def _varint(data: bytes | bytearray, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position


class OpenGroup:
    """The rows of one row group. It holds an open file, not their data."""

    def __init__(self, opened: FileRange, columns: dict[str, tuple[int, int]], num_rows: int) -> None:
        self._range = opened
        self._columns = columns
        self.num_rows = num_rows
        self._payloads: dict[str, tuple[int, int]] = {}

    @property
    def name(self) -> str:
        """Of the file, for messages."""
        return self._range.name

    @cached_property
    def captions(self) -> list[str]:
        return self.strings("caption")

    @cached_property
    def num_text_tokens(self) -> Int64[np.ndarray, " n"]:
        start, size = self._payload("num_text_tokens")
        return np.frombuffer(self._range.read(start, size), np.dtype("<i4")).astype(np.int64)

    def text_into(self, row: int, target: memoryview) -> None:
        """The row's token states as they are stored; `target` is as long as they are."""
        offset, size = (int(values[row]) for values in self._text_places)
        if len(target) != size:
            raise ValueError(f"{self.name}: the text of a row has {size} bytes, not {len(target)}")
        self._range.read_into(target, offset)

    def numbers_into(self, column: str, row: int, target: memoryview) -> None:
        """The row's numbers in a column of fixed size."""
        start, size = self._payload(column)
        if len(target) * self.num_rows != size:
            raise ValueError(f"{self.name}: {column!r} has {size // self.num_rows} bytes a row, not {len(target)}")
        self._range.read_into(target, start + row * len(target))

    def image(self, row: int) -> bytearray:
        """The row's image file."""
        offset, size = (int(values[row]) for values in self._image_places)
        return self._range.read(offset, size)

    def strings(self, column: str) -> list[str]:
        """All rows of 'key', 'caption' or 'family'."""
        offsets, sizes = self._walk(column)
        return [self._range.read(int(at), int(size)).decode() for at, size in zip(offsets, sizes, strict=True)]

    @cached_property
    def _image_places(self) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
        return self._walk("image")

    @cached_property
    def _text_places(self) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
        """Text is long: where each row lies is told by the numbers of tokens, without a look at each length."""
        start, size = self._payload("text")
        token_bytes, rest = divmod(size - LENGTH_BYTES * self.num_rows, int(self.num_text_tokens.sum()))
        if rest:
            raise ValueError(f"{self.name}: column 'text' does not hold whole tokens")
        sizes = self.num_text_tokens * token_bytes
        return start + np.cumsum(sizes + LENGTH_BYTES) - sizes, sizes

    def _walk(self, column: str) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
        """Where each row of a column of strings or binaries lies, and its bytes."""
        start, _ = self._payload(column)
        offsets = np.empty(self.num_rows, np.int64)
        sizes = np.empty(self.num_rows, np.int64)
        for row in range(self.num_rows):
            sizes[row] = int.from_bytes(self._range.read(start, LENGTH_BYTES), "little")
            offsets[row] = start + LENGTH_BYTES
            start = int(offsets[row] + sizes[row])
        return offsets, sizes

    def _payload(self, column: str) -> tuple[int, int]:
        """Where the column's values begin in the group, and their bytes."""
        if column not in self._payloads:
            start, size = self._columns[column]
            header = self._range.read(start, min(HEADER_BYTES, size))
            begin = payload_offset(header, size)
            self._payloads[column] = (start + begin, size - begin)
        return self._payloads[column]


class ShardFiles:
    """The row groups of a split, numbered through its files.

    group_rows: rows of each. num_threads: how many are worth opening at a time.
    """

    def __init__(self, cards: Sequence[FileCard], ranges: Ranges) -> None:
        self.num_threads = ranges.num_threads
        self._ranges = ranges
        self._groups = [(card, index) for card in cards for index in range(len(card.groups))]
        self.group_rows = [card.groups[index].rows for card, index in self._groups]
        self._layouts: dict[str, list[GroupRange]] = {}
        self._locks = {card.file: threading.Lock() for card in cards}

    def open(self, number: int, stopping: threading.Event | None = None) -> OpenGroup:
        """Opens a row group. Errors as of Ranges.open. Threads may call it at the same time."""
        card, index = self._groups[number]
        layout = self._layout(card, stopping)[index]
        group = card.groups[index]
        opened = self._ranges.open(
            RangeCard(file=card.file, offset=group.offset, bytes=group.bytes, sha256=group.sha256), stopping
        )
        if (layout.offset, layout.bytes) != (group.offset, group.bytes):
            raise ValueError(f"{opened.name}: row group {index} is not where the manifest says")
        return OpenGroup(opened, layout.columns, group.rows)

    def _layout(self, card: FileCard, stopping: threading.Event | None) -> list[GroupRange]:
        with self._locks[card.file]:
            if card.file not in self._layouts:
                self._layouts[card.file] = self._read_layout(card, stopping)
            return self._layouts[card.file]

    def _read_layout(self, card: FileCard, stopping: threading.Event | None) -> list[GroupRange]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        size = card.bytes - card.footer_offset
        footer = RangeCard(file=card.file, offset=card.footer_offset, bytes=size, sha256=card.footer_sha256)
        opened = self._ranges.open(footer, stopping)
        try:
            return group_ranges(pq.read_metadata(pa.BufferReader(opened.read(0, size))))
        except (ValueError, OSError) as error:  # pyarrow's own errors are either
            raise ValueError(f"{opened.name} is not a shard: {error}") from error
