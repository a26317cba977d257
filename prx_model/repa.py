"""REPA: pull a hidden state of the model towards the tokens of a frozen vision encoder (Yu et al., arXiv 2410.06940).

L = L_velocity + weight * L_repa
L_repa = -mean over tokens and images of cos(teacher(clean), projector(hidden_depth))
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

PROJECTORS = ("mlp", "conv3x3")
SCHEDULES = ("constant", "stop")


@dataclass(frozen=True, kw_only=True)
class RepaConfig:
    """REPA's settings. The baseline is no RepaConfig at all.

    teacher: a name of `prx_model.teachers.TEACHERS`.
    depth: the block whose output is aligned, 1-based (1 is the first block's output).
    weight: factor of the alignment loss, above 0. Published: 0.5 (REPA, PRX).
    projector: 'mlp' (three linear layers with SiLU: REPA) or 'conv3x3' (one 3x3 convolution: iREPA, arXiv 2512.10794).
    projector_width: hidden width of the mlp. REPA 2048, PRX 1024. The convolution has none.
    schedule: 'constant', or 'stop': weight 0 from step stop_at * steps on (HASTE, arXiv 2505.16792).
    stop_at: fraction of the run, in (0, 1]; read only by 'stop'.
    """

    teacher: str
    depth: int
    weight: float
    projector: str = "mlp"
    projector_width: int = 1024
    schedule: str = "constant"
    stop_at: float = 1.0

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ValueError(f"depth: got {self.depth}, allowed is 1 (the first block) to the number of blocks")
        if not 0 < self.weight < float("inf"):
            raise ValueError(
                f"weight: got {self.weight}, allowed is a finite number above 0 (`repa: null` turns REPA off)"
            )
        if self.projector not in PROJECTORS:
            raise ValueError(f"projector: got {self.projector!r}, allowed is one of {', '.join(PROJECTORS)}")
        if self.projector_width < 1:
            raise ValueError(f"projector_width: got {self.projector_width}, allowed is an integer of at least 1")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule: got {self.schedule!r}, allowed is one of {', '.join(SCHEDULES)}")
        if not 0 < self.stop_at <= 1:
            raise ValueError(f"stop_at: got {self.stop_at}, allowed is a fraction of the run above 0, at most 1")

    def weight_at(self, step: int, num_steps: int) -> float:
        """The weight that step `step` (0-based) of a run of num_steps trains with."""
        stopped = self.schedule == "stop" and step >= self.stop_at * num_steps
        return 0.0 if stopped else self.weight


class MlpProjector(nn.Module):
    """Linear, SiLU, Linear, SiLU, Linear: [B, N, D] -> [B, N, Z] (arXiv 2410.06940)."""

    def __init__(self, hidden_size: int, projector_width: int, teacher_width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(hidden_size, projector_width),
            nn.SiLU(),
            nn.Linear(projector_width, projector_width),
            nn.SiLU(),
            nn.Linear(projector_width, teacher_width),
        )

    def forward(self, hidden: Float[Tensor, "B N D"], grid: tuple[int, int]) -> Float[Tensor, "B N Z"]:
        return self.layers(hidden)


class ConvProjector(nn.Module):
    """One 3x3 convolution over the token grid, zero padding: [B, N, D] -> [B, N, Z] (iREPA, arXiv 2512.10794)."""

    def __init__(self, hidden_size: int, teacher_width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(hidden_size, teacher_width, kernel_size=3, padding=1)

    def forward(self, hidden: Float[Tensor, "B N D"], grid: tuple[int, int]) -> Float[Tensor, "B N Z"]:
        batch, num_tokens, width = hidden.shape
        assert num_tokens == grid[0] * grid[1], (hidden.shape, grid)
        image = hidden.transpose(1, 2).reshape(batch, width, *grid)
        return self.conv(image).flatten(2).transpose(1, 2)


def build_projector(config: RepaConfig, hidden_size: int, teacher_width: int) -> MlpProjector | ConvProjector:
    if config.projector == "conv3x3":
        return ConvProjector(hidden_size, teacher_width)
    return MlpProjector(hidden_size, config.projector_width, teacher_width)


def alignment_loss(projected: Float[Tensor, "B N Z"], teacher_tokens: Float[Tensor, "B N Z"]) -> Float[Tensor, ""]:
    """Minus the mean cosine over tokens and images, in fp32 (arXiv 2410.06940, eq. 8). Range [-1, 1]."""
    with torch.autocast(projected.device.type, enabled=False):
        return -functional.cosine_similarity(projected.float(), teacher_tokens.float(), dim=-1).mean()
