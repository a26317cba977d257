"""WebDataset's layout: tar files whose members `0001.jpg` and `0001.txt` (or `0001.json`) make one item.

Source of the convention: github.com/webdataset/webdataset. A member's key ends at the first dot of its file name.
"""

from __future__ import annotations

import json
import posixpath
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, ClassVar

from prx_model.encoding.image_list import USUAL_CAPTION_COLUMNS
from prx_model.encoding.listing import (
    IMAGE_SUFFIXES,
    MISSING_CAPTION,
    MISSING_IMAGE,
    SEVERAL_IMAGES,
    TRUNCATED_FILE,
    UNREADABLE_CAPTION,
    Listed,
    Source,
    SourceItem,
    caption_item,
    fetch_groups,
    file_system,
    present,
    side_by_side,
    stem,
)

TARS_AT_A_TIME = 16
BLOCK_BYTES = 8 << 20
TEXT, JSON = "txt", "json"


@dataclass(frozen=True, kw_only=True)
class Member:
    """Where a member's content lies in its tar."""

    start: int
    size: int


@dataclass(kw_only=True)
class Sample:
    """Consecutive members of one key, by extension."""

    key: str
    members: dict[str, Member] = field(default_factory=dict)


class TarMembers:
    """Key: the tar's path without its suffix, and the members' key.

    The captions are taken from the .txt member, else from the .json member's field; `caption_column` names the field
    and makes the .json member the only one that counts. `image_column` names the extension of the images where an item
    has several.
    """

    name: ClassVar[str] = "tar"

    def __init__(self, source: Source) -> None:
        self._fs, self._root = file_system(source.location)
        self._source = source

    def listed(self) -> Iterator[Listed]:
        for listed in side_by_side(self._scan, self._source.files, TARS_AT_A_TIME):
            yield from listed

    def read(self, listed: Sequence[Listed]) -> Iterator[SourceItem]:
        for file, of_file in groupby(listed, key=lambda one: one.file):
            for group in fetch_groups(list(of_file)):
                yield from self._read_group(f"{self._root}/{file}", group)

    def _scan(self, file: str) -> list[Listed]:
        """The items of one tar, by its headers alone. A tar that ends too early gives what it has."""
        path = f"{self._root}/{file}"
        size = int(self._fs.info(path)["size"])
        with self._fs.open(path, "rb", block_size=BLOCK_BYTES) as raw:
            members = Members(raw, path)
            listed = [self._listed(file, sample, size) for sample in samples_of(members)]
        if members.cut_off and listed and listed[-1].problem:
            listed[-1] = replace(listed[-1], problem=TRUNCATED_FILE)  # what it lacks lay beyond the end
        return listed

    def _listed(self, file: str, sample: Sample, tar_bytes: int) -> Listed:
        key = f"{stem(file)}/{sample.key}"
        image, problem = self._image(sample)
        if image is None:
            return Listed(key=key, file=file, problem=problem)
        extension = self._caption_extension(sample)
        if extension is None:
            return Listed(key=key, file=file, problem=MISSING_CAPTION)
        caption = sample.members[extension]
        whole = max(part.start + part.size for part in (image, caption)) <= tar_bytes
        return Listed(
            key=key,
            file=file,
            start=image.start,
            size=image.size,
            caption_file=extension,
            caption_start=caption.start,
            caption_size=caption.size,
            problem="" if whole else TRUNCATED_FILE,
        )

    def _image(self, sample: Sample) -> tuple[Member | None, str]:
        asked = self._source.image_column
        if asked is not None:
            return sample.members.get(asked), MISSING_IMAGE
        images = [member for extension, member in sample.members.items() if f".{extension}" in IMAGE_SUFFIXES]
        if len(images) == 1:
            return images[0], ""
        return None, SEVERAL_IMAGES if images else MISSING_IMAGE

    def _caption_extension(self, sample: Sample) -> str | None:
        known = (JSON,) if self._source.caption_column is not None else (TEXT, JSON)
        return next((extension for extension in known if extension in sample.members), None)

    def _read_group(self, path: str, group: Sequence[Listed]) -> Iterator[SourceItem]:
        sound = [one for one in group if not one.problem]
        spans = [
            (s or 0, (s or 0) + (n or 0))
            for o in sound
            for s, n in ((o.start, o.size), (o.caption_start, o.caption_size))
        ]
        # One request for the whole stretch of the tar: members of consecutive items lie side by side.
        base = min((start for start, _ in spans), default=0)
        data = self._fs.cat_ranges([path], [base], [max(stop for _, stop in spans)]) if spans else [b""]
        stretch = present(data[0])
        parts = iter(stretch[start - base : stop - base] for start, stop in spans)
        for one in group:
            if one.problem:
                yield SourceItem(key=one.key, problem=one.problem)
            else:
                yield self._item(one, next(parts), next(parts))

    def _item(self, listed: Listed, image: bytes, caption: bytes) -> SourceItem:
        if len(image) != listed.size or len(caption) != listed.caption_size:
            return SourceItem(key=listed.key, problem=TRUNCATED_FILE)
        if listed.caption_file == TEXT:
            return caption_item(listed, image, caption)
        text, problem = json_caption(caption, self._source.caption_column)
        if problem:
            return SourceItem(key=listed.key, problem=UNREADABLE_CAPTION, detail=problem)
        return caption_item(listed, image, text)


class Members:
    """Name and place of every file in a tar, read once. cut_off: whether it ended before its end marker.

    ValueError where the file is no tar at all.
    """

    def __init__(self, raw: Any, path: str) -> None:
        self._raw = raw
        self.cut_off = False
        try:
            self._tar: Any = tarfile.TarFile(fileobj=raw)
        except tarfile.ReadError as error:
            raise ValueError(f"{path} is no tar: {error}") from error

    def __iter__(self) -> Iterator[tuple[str, Member]]:
        with self._tar as tar:
            while (info := self._next()) is not None:
                tar.members = []  # it would keep every header that it has seen
                if info.isfile() and not posixpath.basename(info.name).startswith("."):
                    yield info.name, Member(start=info.offset_data, size=info.size)
            self._raw.seek(tar.offset)
            self.cut_off |= self._raw.read(1) != b"\0"

    def _next(self) -> tarfile.TarInfo | None:
        try:
            return self._tar.next()
        except tarfile.ReadError:  # the content of the last member is shorter than its header says
            self.cut_off = True
            return None


def samples_of(members: Iterable[tuple[str, Member]]) -> Iterator[Sample]:
    """Consecutive members of one key."""
    sample: Sample | None = None
    for name, member in members:
        folder, base = posixpath.split(name)
        head, _, extension = base.partition(".")
        key = posixpath.join(folder, head)
        if sample is None or key != sample.key:
            if sample is not None:
                yield sample
            sample = Sample(key=key)
        sample.members[extension.lower()] = member
    if sample is not None:
        yield sample


def json_caption(content: bytes, column: str | None) -> tuple[str | None, str]:
    """The caption in a .json member, and what is wrong with it ('': nothing). Without a column: the first usual one."""
    try:
        fields = json.loads(content)
    except ValueError as error:
        return None, f"not JSON: {error}"
    if not isinstance(fields, dict):
        return None, f"a {type(fields).__name__}, not an object"
    names = USUAL_CAPTION_COLUMNS if column is None else (column,)
    found = next((fields[name] for name in names if fields.get(name) is not None), None)
    if found is not None and not isinstance(found, str):
        return None, f"a {type(found).__name__}, not a text"
    return found, ""
