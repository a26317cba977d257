"""The samples of an evaluation: one ordered list that a seed and the prompts decide, whoever makes which part of it.

Sample i is made from noise that (noise_seed, i) alone decide, and from prompt i (prompts repeat if they run out). So
samples do not depend on the batch size or the number of workers, and the first n are the same for every n.

Workers share whole batches: batch j is made by rank j mod world_size. Every batch then has the same rows in it however
many workers there are, and equal batches give equal bits. Every rank calls `generate` equally often, with equal shapes
(past the last batch, a rank repeats samples, which are dropped), so a model that is sharded over the ranks, or compiled
for one shape, is served too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from prx_model.data.heldout import HeldOut

# (noise [B, C, H, W], text [B, L, E], text_mask [B, L]) -> uint8 images [B, 3, R, R]
Generate = Callable[[Tensor, Tensor, Tensor], Tensor]
# Equal tensors [n, ...] of every rank -> [world_size * n, ...] in the order of ranks, on every rank.
Gather = Callable[[Tensor], Tensor]


def alone(tensor: Tensor) -> Tensor:
    """The gather of a single worker."""
    return tensor


def sample_noise(noise_seed: int, indices: Sequence[int], shape: tuple[int, int, int]) -> Float[Tensor, "B C H W"]:
    """Standard normal noise, float32 on the CPU; row b depends on (noise_seed, indices[b]) and `shape` alone.

    From NumPy's Philox, which takes both numbers as its key. torch's CPU generator keeps 32 bits of a seed: two numbers
    packed into one would lose the first, and hashes of them would collide among some ten thousand samples.
    """
    if noise_seed < 0:
        raise ValueError(f"noise seed {noise_seed}; allowed: 0 or more")
    rows = [
        np.random.Generator(np.random.Philox(key=np.array([noise_seed, i], dtype=np.uint64))).standard_normal(
            shape, dtype=np.float32
        )
        for i in indices
    ]
    return torch.from_numpy(np.stack(rows))


def check_parts(parts: Sequence[float], name: str = "parts") -> None:
    """ValueError, in which they are called `name`, unless each is above 0 and below 1 and above the one before."""
    if not all(0 < part < 1 for part in parts) or list(parts) != sorted(set(parts)):
        raise ValueError(f"{name}: got {list(parts)}, allowed are ascending numbers above 0 and below 1")


def nested_counts(num_samples: int, batch_size: int, parts: Sequence[float]) -> tuple[int, ...]:
    """The n at which an evaluation is looked at: `parts` of num_samples, ascending, then num_samples itself.

    Each part is rounded up to whole batches; what comes to the same n is one look. Raises ValueError as check_parts.
    """
    check_parts(parts)
    # Rounded first: 0.07 * 100 is a little more than 7 in binary, and would become eight batches of one.
    batches = (max(1, math.ceil(round(part * num_samples / batch_size, 9))) for part in parts)
    return tuple(sorted({*(min(count * batch_size, num_samples) for count in batches), num_samples}))


@dataclass(kw_only=True)
class SharedSamples:
    """One evaluation's samples as one of `world_size` workers makes them: its own batches, turn by turn.

    In each turn every rank makes one batch; together they hold the next world_size * batch_size samples.
    prompts: a rank reads the captions of its own batches, when their turn comes.
    made: how many there are so far between all ranks, those that only fill the last batches up included.
    Raises ValueError on a rank that is not among the workers.
    """

    generate: Generate
    prompts: HeldOut
    sample_shape: tuple[int, int, int]
    noise_seed: int
    num_samples: int
    batch_size: int
    device: torch.device
    rank: int = 0
    world_size: int = 1
    gather: Gather = alone
    made: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank {self.rank} of {self.world_size} workers; allowed: 0 to {self.world_size - 1}")

    def next_batch(self) -> Tensor:
        """This rank's batch of the next turn: uint8 images [batch_size, 3, R, R]."""
        first = self.made + self.rank * self.batch_size
        # Past the end the first samples come again, only to fill the batch; nobody looks at them.
        indices = [i % self.num_samples for i in range(first, first + self.batch_size)]
        noise = sample_noise(self.noise_seed, indices, self.sample_shape).to(self.device)
        text, text_mask = self.prompts.texts_of([i % len(self.prompts) for i in indices])
        self.made += self.world_size * self.batch_size
        return self.generate(noise, text.to(self.device).float(), text_mask.to(self.device))

    def in_order(self, batch: Tensor) -> Tensor:
        """Rows of this rank's batch and of every other's of the same turn, in sample order, on the CPU."""
        rows = self.gather(batch).cpu()
        expected = self.world_size * self.batch_size
        if len(rows) != expected:
            raise ValueError(
                f"gather returned {len(rows)} rows, expected {expected}: "
                f"those of all {self.world_size} workers, in the order of ranks, on every worker"
            )
        return rows
