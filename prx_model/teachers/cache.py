"""A teacher's tokens for every image of a split, computed once and read from the disk ever after."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float16, UInt8
from torch import Tensor

from prx_model.data.durable import exclusive, sweep_partials, write_file
from prx_model.data.manifest import json_sha256
from prx_model.data.store import Split

IMAGES_PER_BATCH = 64


@runtime_checkable
class ImageTeacher(Protocol):
    """What the cache asks of a frozen vision encoder. fingerprint: changes whenever its outputs do."""

    @property
    def name(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def width(self) -> int: ...

    def __call__(self, images: UInt8[Tensor, "B 3 R R"], grid: tuple[int, int], /) -> Float[Tensor, "B N Z"]: ...


def cached_teacher_tokens(
    teacher: ImageTeacher,
    split: Split,
    *,
    grid: tuple[int, int],
    cache: Path,
    split_fingerprint: str,
    progress: Callable[[int, int], None] | None = None,
) -> np.memmap:
    """The tokens of all images of `split` on `grid` (rows, columns): float16 [n, N, Z], memory-mapped, read only.

    Row i belongs to image i of the split, N = rows * columns, Z = teacher.width. Computed where the cache has none of
    the same identity (teacher, its fingerprint, grid, split fingerprint, shape); `progress(done, total)` in images.
    Killed while computing, it leaves nothing that would be taken for a finished cache.
    Raises ValueError where the teacher returns another shape, or values that float16 cannot hold.
    """
    shape = (len(split), grid[0] * grid[1], teacher.width)
    identity = {
        "teacher": teacher.name,
        "teacher_fingerprint": teacher.fingerprint,
        "grid": list(grid),
        "split_fingerprint": split_fingerprint,
        "shape": list(shape),
        "dtype": "float16",
    }
    path = cache / f"teacher-{teacher.name}-{json_sha256(identity)[:12]}.npy"
    if not _is_finished(path, identity):
        with exclusive(path):
            if not _is_finished(path, identity):
                sweep_partials(path)
                write_file(path, lambda file: _write_tokens(file, teacher, split, grid, shape, progress))
                # The description comes last: it says that the numbers beside it are whole.
                write_file(_card(path), lambda file: file.write(json.dumps(identity, indent=1).encode()))
    return _open(path, shape)


def _write_tokens(
    file: BinaryIO,
    teacher: ImageTeacher,
    split: Split,
    grid: tuple[int, int],
    shape: tuple[int, int, int],
    progress: Callable[[int, int], None] | None,
) -> None:
    # Written as a stream, not through a memory map: a full disk is then an error with a name, not a bus error.
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float16)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    done = 0
    for tokens in _token_batches(teacher, split, grid, shape):
        file.write(tokens.tobytes())
        done += len(tokens)
        if progress is not None:
            progress(done, shape[0])


def _token_batches(
    teacher: ImageTeacher, split: Split, grid: tuple[int, int], shape: tuple[int, int, int]
) -> Iterator[Float16[np.ndarray, "B N Z"]]:
    for start in range(0, len(split), IMAGES_PER_BATCH):
        images = split.images[start : start + IMAGES_PER_BATCH]
        with torch.no_grad():
            tokens = teacher(images, grid)
        expected = (len(images), *shape[1:])
        if tuple(tokens.shape) != expected:
            raise ValueError(f"teacher {teacher.name!r} returned shape {tuple(tokens.shape)}, expected {expected}")
        half = tokens.to(device="cpu", dtype=torch.float16)
        if not bool(torch.isfinite(half).all()):
            raise ValueError(
                f"teacher {teacher.name!r} returned NaN, infinity or a magnitude above float16's 65504 "
                f"for images {start} to {start + len(images) - 1}"
            )
        yield half.numpy()


def _card(path: Path) -> Path:
    return path.with_suffix(".json")


def _is_finished(path: Path, identity: dict[str, Any]) -> bool:
    if not (path.is_file() and _card(path).is_file()):
        return False
    try:
        return json.loads(_card(path).read_text(encoding="utf-8")) == identity
    except ValueError:
        return False


def _open(path: Path, shape: tuple[int, int, int]) -> np.memmap:
    try:
        tokens = np.load(path, mmap_mode="r")
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} is corrupt ({error}); delete it and run again") from error
    if tokens.shape != shape or tokens.dtype != np.float16:
        raise ValueError(
            f"{path} holds {tokens.dtype} {tokens.shape}, expected float16 {shape}; delete it and run again"
        )
    return tokens
