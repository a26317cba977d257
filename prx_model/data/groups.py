"""Where each value of a row group lies in its file, so that a row is read by one copy from where it lies.

Parquet allows for much; our shards use the plainest part of it (see prx_model/data/shards.py): each column of a group
is one uncompressed page of plainly encoded values that are never null. A page begins with a header in Thrift's compact
protocol, whose first three fields are the page's kind, its size and its compressed size; values fill the rest:
numbers and fixed-size binaries one after the other, strings and binaries each after its length (4 bytes).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow.parquet as pq


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


def payload_offset(header: bytes, chunk_bytes: int) -> int:
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


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
