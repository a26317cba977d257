"""What evaluations read of a data set: captions as prompts, images as reference, a few rows at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float, UInt8
from torch import Tensor


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
