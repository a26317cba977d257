"""What evaluations read of a data set: captions as prompts, images as reference, a few rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, overload, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from prx_model.data.decoding import Place, images_at, texts_at
from prx_model.data.groups import OpenGroup, ShardFiles
from prx_model.data.manifest import Manifest, json_sha256

GROUPS_KEPT = 4  # open at a time: rows are mostly asked for in their order


@runtime_checkable
class HeldOut(Protocol):
    """Random access to the rows of a split, in memory or not. Rows count from 0, in the order of the data set.

    fingerprint: of the data set and the split, the key for whatever is computed from these rows.
    """

    @property
    def fingerprint(self) -> str: ...

    @property
    def captions(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...

    def texts_of(self, rows: Sequence[int]) -> tuple[Float[Tensor, "k L E"], Bool[Tensor, "k L"]]:
        """Token states of the rows' captions, zeros past their ends, and where they are real. One L for all calls."""
        ...

    def images_of(self, rows: Sequence[int]) -> UInt8[Tensor, "k 3 R R"]:
        """The rows' images in RGB."""
        ...


class StreamedSplit:
    """The held-out rows of a data set on disk or on S3. What is in memory are the rows of one call."""

    def __init__(self, manifest: Manifest, files: ShardFiles) -> None:
        self._manifest = manifest
        self._files = files
        self._ends = np.cumsum(files.group_rows, dtype=np.int64)
        self._groups: dict[int, OpenGroup] = {}

    @property
    def fingerprint(self) -> str:
        return json_sha256([self._manifest.fingerprint, "heldout"])

    @property
    def captions(self) -> Captions:
        return Captions(len(self), self.captions_of)

    def __len__(self) -> int:
        return self._manifest.counts["heldout"]

    def texts_of(self, rows: Sequence[int]) -> tuple[Float[Tensor, "k L E"], Bool[Tensor, "k L"]]:
        """float32, padded to the longest text of the whole data set."""
        text, mask = texts_at(self._places(rows), self._manifest)
        return text.float(), mask

    def images_of(self, rows: Sequence[int]) -> UInt8[Tensor, "k 3 R R"]:
        return images_at(self._places(rows), self._manifest.resolution)

    def captions_of(self, rows: Sequence[int]) -> list[str]:
        return [group.captions[row] for group, row in self._places(rows)]

    def _places(self, rows: Sequence[int]) -> list[Place]:
        places: list[Place] = []
        for row in rows:
            if not 0 <= row < len(self):
                raise IndexError(f"row: got {row}, allowed is 0 to {len(self) - 1}")
            number = int(np.searchsorted(self._ends, row, side="right"))
            places.append((self._group(number), row - int(self._ends[number]) + self._files.group_rows[number]))
        return places

    def _group(self, number: int) -> OpenGroup:
        group = self._groups.pop(number, None) or self._files.open(number)
        self._groups[number] = group  # the last one used stands last
        while len(self._groups) > GROUPS_KEPT:
            del self._groups[next(iter(self._groups))]
        return group


class Captions(Sequence[str]):
    """Captions that are read when they are looked at."""

    def __init__(self, count: int, captions_of: Callable[[Sequence[int]], list[str]]) -> None:
        self._count = count
        self._captions_of = captions_of

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        chosen = range(self._count)[index]
        return self._captions_of(chosen) if isinstance(chosen, range) else self._captions_of([chosen])[0]
