"""Images and captions as columns of Parquet files, as the hub keeps them: `image` {bytes, path}, and a caption."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import groupby
from typing import TYPE_CHECKING, Any, ClassVar

from prx_model.encoding.image_list import USUAL_CAPTION_COLUMNS
from prx_model.encoding.listing import (
    MISSING_IMAGE,
    UNREADABLE_CAPTION,
    Listed,
    Source,
    SourceItem,
    caption_item,
    chosen_column,
    file_system,
    side_by_side,
    stem,
)

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from fsspec import AbstractFileSystem

FOOTERS_AT_A_TIME = 16
ROWS_AT_A_TIME = 64


class ParquetRows:
    """Key: the file's path without its suffix, and the number of the row in it. Other columns are never read."""

    name: ClassVar[str] = "parquet"

    def __init__(self, source: Source) -> None:
        self._fs, self._root = file_system(source.location)
        self._source = source

    def listed(self) -> Iterator[Listed]:
        counts = side_by_side(self._rows, self._source.files, FOOTERS_AT_A_TIME)
        for file, rows in zip(self._source.files, counts, strict=True):
            for row in range(rows):
                yield Listed(key=f"{stem(file)}/{row:07d}", file=file, start=row)

    def read(self, listed: Sequence[Listed]) -> Iterator[SourceItem]:
        """The listed rows of a file must rise, as `listed` gives them."""
        for file, group in groupby(listed, key=lambda one: one.file):
            assert file is not None
            yield from self._read_file(file, list(group))

    def _rows(self, file: str) -> int:
        with self._open(file) as parquet:
            missing = {self._source.image_column, self._source.caption_column} - set(parquet.schema_arrow.names)
            if missing:
                raise ValueError(
                    f"{self._root}/{file}: no column {sorted(map(str, missing))[0]!r}, as the first file has"
                )
            return parquet.metadata.num_rows

    def _read_file(self, file: str, listed: Sequence[Listed]) -> Iterator[SourceItem]:
        import pyarrow as pa

        wanted = {one.start: one for one in listed}
        try:
            with self._open(file) as parquet:
                for row, image, caption in self._rows_between(parquet, listed[0].start or 0, listed[-1].start or 0):
                    if row in wanted:
                        yield _item(wanted[row], image.as_py(), caption.as_py())
        except (OSError, pa.ArrowException) as error:
            raise OSError(f"{self._root}/{file} cannot be read: {str(error).splitlines()[0]}") from error

    def _rows_between(self, parquet: pq.ParquetFile, first: int, last: int) -> Iterator[tuple[int, Any, Any]]:
        row = 0
        for group in range(parquet.metadata.num_row_groups):
            stop = row + parquet.metadata.row_group(group).num_rows
            if stop > first and row <= last:
                yield from self._rows_of_group(parquet, group, row)
            row = stop

    def _rows_of_group(self, parquet: pq.ParquetFile, group: int, row: int) -> Iterator[tuple[int, Any, Any]]:
        columns = [str(self._source.image_column), str(self._source.caption_column)]
        for batch in parquet.iter_batches(batch_size=ROWS_AT_A_TIME, row_groups=[group], columns=columns):
            for image, caption in zip(*(batch.column(name) for name in columns), strict=True):
                yield row, image, caption
                row += 1

    def _open(self, file: str) -> AbstractContextManager[pq.ParquetFile]:
        return open_parquet(self._fs, f"{self._root}/{file}")


@contextmanager
def open_parquet(fs: AbstractFileSystem, path: str) -> Iterator[pq.ParquetFile]:
    """The open file. ValueError names it where it is no Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with fs.open(path, "rb") as raw:
        try:
            parquet = pq.ParquetFile(raw, pre_buffer=True)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{path} is no whole Parquet file: {str(error).splitlines()[0]}") from error
        with parquet:
            yield parquet


def with_columns(source: Source) -> Source:
    """The source with its columns chosen by the first file's schema. ValueError names the columns there are."""
    fs, root = file_system(source.location)
    path = f"{root}/{source.files[0]}"
    with open_parquet(fs, path) as parquet:
        schema = parquet.schema_arrow
    asked, names = source.image_column, [field.name for field in schema if _holds_images(field.type)]
    if asked is not None or len(names) != 1:
        names = names or schema.names
        image = chosen_column("image", schema.names if asked else names, asked, ("image", "jpg", "png"), path)
    else:
        image = names[0]
    return Source(
        location=source.location,
        layout=source.layout,
        files=source.files,
        image_column=image,
        caption_column=chosen_column("caption", schema.names, source.caption_column, USUAL_CAPTION_COLUMNS, path),
    )


def _holds_images(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _holds_images(field.type) for field in kind)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _item(listed: Listed, image: Any, caption: Any) -> SourceItem:
    if isinstance(image, dict):
        image = image.get("bytes")
    if not isinstance(image, bytes) or not image:
        return SourceItem(key=listed.key, problem=MISSING_IMAGE)
    if caption is not None and not isinstance(caption, str):
        return SourceItem(key=listed.key, problem=UNREADABLE_CAPTION, detail=f"a {type(caption).__name__}, not a text")
    return caption_item(listed, image, caption)
