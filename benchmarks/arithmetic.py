"""How many multiplications a training step takes, by formula: what its speed is measured against.

Counted in multiply-accumulates (MACs), each of which is two floating-point operations. What is no matrix product
(norms, activations, the optimizer, resized images) is left out, as is usual (Chowdhery et al., arXiv 2204.02311).
"""

from __future__ import annotations

from dataclasses import dataclass

from prx_model.model import PRXConfig
from prx_model.repa import RepaConfig

# Forward, gradient of the inputs, gradient of the weights. The first layers' inputs need no gradient; less than 0.5 %
# of PRX-1.2B.
PASSES_IN_TRAINING = 3
TIME_FEATURES = 256  # sines and cosines that the time is embedded with


@dataclass(frozen=True, kw_only=True)
class VisionTransformer:
    """A teacher's shape. num_prefix_tokens: class and register tokens, which attend and are looked at."""

    width: int
    layers: int
    heads: int
    mlp_width: int
    patch: int
    num_prefix_tokens: int

    def macs(self, num_tokens: int) -> int:
        """Of one image that is cut into so many patches, forward."""
        length, width = num_tokens + self.num_prefix_tokens, self.width
        projections = length * (4 * width**2 + 2 * width * self.mlp_width)
        attention = 2 * length**2 * width
        return num_tokens * 3 * self.patch**2 * width + self.layers * (projections + attention)


def prx_macs(config: PRXConfig, *, side: int, text_tokens: int) -> int:
    """Of one image of side x side in the model's space, forward."""
    rows, columns = config.token_grid(side, side)
    num, width = rows * columns, config.hidden_size
    patch = config.in_channels * config.patch_size**2
    mlp_width = int(width * config.mlp_ratio)
    ends = num * patch * width * 2 + text_tokens * config.context_in_dim * width
    time = TIME_FEATURES * width + width**2 + 2 * width**2  # its embedding, and what it does to the last layer
    projections = num * 4 * width**2 + text_tokens * 2 * width**2 + num * 3 * width * mlp_width
    attention = 2 * num * (text_tokens + num) * width
    return ends + time + config.depth * (projections + attention + 6 * width**2)


def projector_macs(repa: RepaConfig, config: PRXConfig, *, num_tokens: int, teacher_width: int) -> int:
    """Of one image's tokens, forward."""
    width, inner = config.hidden_size, repa.projector_width
    if repa.projector == "conv3x3":
        return num_tokens * 9 * width * teacher_width
    return num_tokens * (width * inner + inner**2 + inner * teacher_width)
