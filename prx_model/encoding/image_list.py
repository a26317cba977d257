"""Images named, with their captions, by one JSONL or CSV file: `{"file_name": "a.jpg", "caption": "a red square"}`."""

from __future__ import annotations

import csv
import io
import json
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from prx_model.encoding.listing import (
    EMPTY_CAPTION,
    MISSING_CAPTION,
    MISSING_IMAGE,
    UNREADABLE_CAPTION,
    Listed,
    Source,
    SourceItem,
    caption_item,
    chosen_column,
    fetch_groups,
    file_system,
    present,
    stem,
    suffix,
    whole_files,
)

LIST_SUFFIXES = (".jsonl", ".csv")
USUAL_IMAGE_COLUMNS = ("file_name", "image", "image_path", "path", "file", "filename")
USUAL_CAPTION_COLUMNS = ("caption", "text", "prompt")
FIRST_ROWS = 100


class ImageList:
    """Key: the image's path as the list has it, without its suffix; paths are taken from the list's own folder."""

    name: ClassVar[str] = "list"

    def __init__(self, source: Source) -> None:
        self._fs, self._root = file_system(source.location)
        self._source = source

    def listed(self) -> Iterator[Listed]:
        for number, row in enumerate(rows_of(self._source), start=1):
            yield self._listed(number, row)

    def _listed(self, number: int, row: Mapping[str, Any]) -> Listed:
        assert self._source.image_column is not None
        assert self._source.caption_column is not None
        file, caption = row.get(self._source.image_column), row.get(self._source.caption_column)
        if not isinstance(file, str) or not file.strip():
            return Listed(key=f"row {number}", problem=MISSING_IMAGE)
        path = posixpath.normpath(file.strip())
        if caption is not None and not isinstance(caption, str):
            return Listed(key=stem(path), problem=UNREADABLE_CAPTION)
        if caption is None:
            return Listed(key=stem(path), problem=MISSING_CAPTION)
        return Listed(key=stem(path), file=path, caption=caption, problem="" if caption.strip() else EMPTY_CAPTION)

    def read(self, listed: Sequence[Listed]) -> Iterator[SourceItem]:
        for group in fetch_groups(listed):
            data = iter(
                whole_files(self._fs, [posixpath.join(self._root, str(o.file)) for o in group if not o.problem])
            )
            for one in group:
                image = b"" if one.problem else next(data)
                if one.problem:
                    yield SourceItem(key=one.key, problem=one.problem)
                elif isinstance(image, FileNotFoundError):
                    yield SourceItem(key=one.key, problem=MISSING_IMAGE, detail=str(one.file))
                else:
                    yield caption_item(one, present(image), one.caption)


def with_columns(source: Source) -> Source:
    """The source with its columns chosen by what the first rows have. ValueError names the columns there are."""
    [file] = source.files
    names: dict[str, None] = {}
    for _, row in zip(range(FIRST_ROWS), rows_of(source), strict=False):
        names |= dict.fromkeys(row)
    where = posixpath.join(source.location, file)
    return Source(
        location=source.location,
        layout=source.layout,
        files=source.files,
        image_column=chosen_column("image", list(names), source.image_column, USUAL_IMAGE_COLUMNS, where),
        caption_column=chosen_column("caption", list(names), source.caption_column, USUAL_CAPTION_COLUMNS, where),
    )


def rows_of(source: Source) -> Iterator[Mapping[str, Any]]:
    """The rows of the list. ValueError names the first line that is not one."""
    fs, root = file_system(source.location)
    [file] = source.files
    with fs.open(f"{root}/{file}", "rb") as opened:
        raw: Any = opened
        text = io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")
        try:
            yield from csv.DictReader(text) if suffix(file) == ".csv" else _json_rows(text)
        except (ValueError, csv.Error) as error:
            raise ValueError(f"{root}/{file}: {error}") from error


def _json_rows(lines: io.TextIOWrapper) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"line {number} is not JSON: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"line {number}: got {type(row).__name__}, allowed is an object such as " + EXAMPLE)
            yield row


EXAMPLE = '{"file_name": "a.jpg", "caption": "a red square"}'
