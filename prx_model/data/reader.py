"""An endless, deterministic sequence of batches that can start at any step."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from prx_model.batch import Batch
from prx_model.data.store import Split


class BatchReader:
    """Batches of a split, in an order that depends on the seed alone.

    The reader walks the endless concatenation of one permutation per epoch; the batch of step s (from 0) holds the
    positions s * batch_size up to (s + 1) * batch_size of it. Nothing has to be saved to resume at a step, every image
    comes once per epoch, and a batch may span the end of one.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        seed: int,
        *,
        share: tuple[int, int] | None = None,
        teacher_tokens: np.ndarray | Float[Tensor, "n N Z"] | None = None,
    ) -> None:
        """share: the rows [start, stop) of each global batch that this worker trains on; all of them if None."""
        if not 1 <= batch_size <= len(split):
            raise ValueError(
                f"batch_size is {batch_size}, must be 1 to {len(split)}, the images in split {split.name!r}"
            )
        if seed < 0:
            raise ValueError(f"seed is {seed}, must be 0 or more")
        if teacher_tokens is not None and (teacher_tokens.ndim != 3 or len(teacher_tokens) != len(split)):
            raise ValueError(
                f"teacher_tokens has shape {tuple(teacher_tokens.shape)}, must be [{len(split)}, N, Z], a row per image"
            )
        self.split = split
        self.batch_size = batch_size
        self.seed = seed
        self.share = share or (0, batch_size)
        self._teacher_tokens = teacher_tokens
        self._orders: dict[int, Int64[np.ndarray, " n"]] = {}

    def batches(self, from_step: int = 0) -> Iterator[Batch]:
        """The batches of `from_step`, `from_step` + 1, ... without end."""
        if from_step < 0:
            raise ValueError(f"from_step is {from_step}, must be 0 or more")

        def endless() -> Iterator[Batch]:
            step = from_step
            while True:
                yield self.batch(step)
                step += 1

        return endless()

    def batch(self, step: int) -> Batch:
        """This worker's share of one step's batch. clean: pixels / 127.5 - 1. index: positions in the split."""
        index = self._index(step)[slice(*self.share)]
        rows = torch.from_numpy(index)
        return Batch(
            clean=self.split.images[rows].float() / 127.5 - 1,
            text=self.split.text[rows],
            text_mask=self.split.text_mask[rows],
            index=rows,
            teacher_tokens=self._teacher_rows(index),
        )

    def _index(self, step: int) -> Int64[np.ndarray, " B"]:
        first_epoch, start = divmod(step * self.batch_size, len(self.split))
        self._orders = {epoch: order for epoch, order in self._orders.items() if epoch >= first_epoch}
        index = self._order(first_epoch)[start : start + self.batch_size]
        if len(index) < self.batch_size:
            index = np.concatenate([index, self._order(first_epoch + 1)[: self.batch_size - len(index)]])
        return index.copy()

    def _order(self, epoch: int) -> Int64[np.ndarray, " n"]:
        if epoch not in self._orders:
            generator = np.random.Generator(np.random.PCG64([self.seed, epoch]))
            self._orders[epoch] = generator.permutation(len(self.split)).astype(np.int64)
        return self._orders[epoch]

    def _teacher_rows(self, index: Int64[np.ndarray, " B"]) -> Float[Tensor, "B N Z"] | None:
        if self._teacher_tokens is None:
            return None
        if isinstance(self._teacher_tokens, Tensor):
            return self._teacher_tokens[torch.from_numpy(index)].float()
        return torch.from_numpy(self._teacher_tokens[index].astype(np.float32))
