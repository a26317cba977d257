"""A source of images and captions is recognised by what lies in it, local or on S3.

Known are a folder of images with a caption beside each, images named by one JSONL or CSV file, Parquet files with an
image and a caption column, and WebDataset's tars.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Sequence

from prx_model.encoding import image_list, parquet_rows
from prx_model.encoding.image_folder import CAPTION_SUFFIX, ImageFolder
from prx_model.encoding.image_list import LIST_SUFFIXES, ImageList
from prx_model.encoding.listing import (
    IMAGE_SUFFIXES,
    FileEntry,
    Layout,
    Source,
    file_system,
    files_below,
    is_image,
    root_of,
    stem,
    suffix,
)
from prx_model.encoding.parquet_rows import ParquetRows
from prx_model.encoding.tar_members import TarMembers

LAYOUTS: dict[str, Callable[[Source], Layout]] = {
    kind.name: kind for kind in (ImageFolder, ImageList, ParquetRows, TarMembers)
}
PARQUET, TAR = ".parquet", ".tar"
ALLOWED = "a folder of images with .txt captions or with one .jsonl or .csv, Parquet files, or WebDataset .tar files"


def recognise(location: str, *, image_column: str | None = None, caption_column: str | None = None) -> Source:
    """What lies at `location`, a folder or one file, with its columns chosen.

    ValueError in one line where there is nothing to encode, more than one thing it could be, or no such column.
    """
    root, files = _files_at(location)
    names = [file.path for file in files]
    layout, chosen = _layout(location, names)
    if layout == ImageList.name:  # its paths are taken from where it lies
        root, chosen = posixpath.join(root, posixpath.dirname(chosen[0])).rstrip("/"), (posixpath.basename(chosen[0]),)
    source = Source(
        location=root, layout=layout, files=tuple(chosen), image_column=image_column, caption_column=caption_column
    )
    if layout == ImageList.name:
        return image_list.with_columns(source)
    if layout == ParquetRows.name:
        return parquet_rows.with_columns(source)
    _check_no_columns(source)
    return source


def layout_of(source: Source) -> Layout:
    """What reads a recognised source."""
    return LAYOUTS[source.layout](source)


def _files_at(location: str) -> tuple[str, list[FileEntry]]:
    """The root of a source and the files below it; of a single file, its folder and the file."""
    root = root_of(location)
    try:
        fs, path = file_system(root)
        if fs.isfile(path):
            return posixpath.dirname(root), [FileEntry(path=posixpath.basename(path), bytes=int(fs.info(path)["size"]))]
        files = files_below(fs, path)
    except Exception as error:  # the kinds are those of every file system and of the library behind it
        raise ValueError(f"{location}: cannot be listed: {' '.join(str(error).split())}") from error
    if not files:
        raise ValueError(f"{location}: no such folder or file, or nothing in it; allowed is {ALLOWED}")
    return root, files


def _layout(location: str, names: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The layout of the files with these paths, and those of them that hold the list of items."""
    tars = [name for name in names if suffix(name) == TAR]
    beside_tars = {stem(name) for name in tars}  # img2dataset writes a table of what it did beside each tar
    tables = [name for name in names if suffix(name) == PARQUET and stem(name) not in beside_tars]
    lists = [name for name in names if suffix(name) in LIST_SUFFIXES]
    images = {stem(name) for name in names if is_image(name)}
    counts = {TAR: len(tars), PARQUET: len(tables), "images": len(images)}
    there = [f"{count} {kind}" for kind, count in counts.items() if count]
    if len(there) > 1:
        raise ValueError(f"{location}: {' and '.join(there)}: which? name the folder or file of one kind")
    if tars:
        return TarMembers.name, tars
    if tables:
        return ParquetRows.name, tables
    if images:
        return _images_layout(location, names, lists, images)
    if len(lists) == 1:  # a single file was named, or the images lie elsewhere
        return ImageList.name, lists
    seen = ", ".join(sorted({suffix(name) or "no suffix" for name in names})[:6])
    raise ValueError(f"{location}: no images ({', '.join(IMAGE_SUFFIXES)}) found, only {seen}; allowed is {ALLOWED}")


def _images_layout(
    location: str, names: Sequence[str], lists: Sequence[str], images: set[str]
) -> tuple[str, Sequence[str]]:
    beside = sum(suffix(name) == CAPTION_SUFFIX and stem(name) in images for name in names)
    if beside and not lists:
        return ImageFolder.name, ()
    if len(lists) == 1 and not beside:
        return ImageList.name, lists
    if not lists:
        raise ValueError(
            f"{location}: {len(images)} images, but no captions: neither a {CAPTION_SUFFIX} of the same name beside "
            "them nor a .jsonl or .csv that names them"
        )
    others = [*(["the .txt beside the images"] if beside else []), *lists[:3]]
    raise ValueError(
        f"{location}: captions may be in {' or '.join(others)}: name the file that holds them as the source"
    )


def _check_no_columns(source: Source) -> None:
    if source.layout == ImageFolder.name and (source.caption_column or source.image_column):
        column = "caption" if source.caption_column else "image"
        raise ValueError(
            f"--{column}-column: the source is a folder of images with .txt captions, which has no columns"
        )
