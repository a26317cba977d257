"""A folder of images with a caption beside each: `a/b.jpg` and `a/b.txt`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import ClassVar

from prx_model.encoding.listing import (
    MISSING_CAPTION,
    SEVERAL_IMAGES,
    FileEntry,
    Listed,
    Source,
    SourceItem,
    caption_item,
    fetch_groups,
    file_system,
    files_below,
    is_image,
    present,
    stem,
    suffix,
    whole_files,
)

CAPTION_SUFFIX = ".txt"


class ImageFolder:
    """Key: the image's path without its suffix. `files`: of the folder, where the caller has listed them already."""

    name: ClassVar[str] = "folder"

    def __init__(self, source: Source, files: Sequence[FileEntry] | None = None) -> None:
        self._fs, self._root = file_system(source.location)
        self._files = files

    def listed(self) -> Iterator[Listed]:
        files = files_below(self._fs, self._root) if self._files is None else self._files
        captions = {file.path for file in files if suffix(file.path) == CAPTION_SUFFIX}
        images: defaultdict[str, list[FileEntry]] = defaultdict(list)
        for file in files:
            if is_image(file.path):
                images[stem(file.path)].append(file)
        for key in sorted(images):
            yield _listed(key, images[key], captions)

    def read(self, listed: Sequence[Listed]) -> Iterator[SourceItem]:
        for group in fetch_groups(listed):
            paths = [path for one in group if not one.problem for path in (one.file, one.caption_file)]
            data = iter(whole_files(self._fs, [f"{self._root}/{path}" for path in paths]))
            for one in group:
                if one.problem:
                    yield SourceItem(key=one.key, problem=one.problem)
                else:
                    yield caption_item(one, present(next(data)), present(next(data)))


def _listed(key: str, images: Sequence[FileEntry], captions: set[str]) -> Listed:
    caption = f"{key}{CAPTION_SUFFIX}"
    if len(images) > 1:
        return Listed(key=key, problem=SEVERAL_IMAGES)
    if caption not in captions:
        return Listed(key=key, problem=MISSING_CAPTION)
    return Listed(key=key, file=images[0].path, size=images[0].bytes, caption_file=caption)
