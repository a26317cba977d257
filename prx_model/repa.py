"""REPA: pull a hidden state of the model towards the tokens of a frozen vision encoder (Yu et al., arXiv 2410.06940).

L = L_velocity + weight * L_repa
L_repa = -mean over tokens and images of cos(teacher(clean), projector(hidden_depth))
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

PROJECTORS = ("mlp", "conv3x3")
SCHEDULES = ("constant", "stop", "linear", "cosine")
TEACHER_PRECISIONS = ("bf16", "fp32")
SPATIAL_NORM_EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class RepaConfig:
    """REPA's settings. Plain flow matching has none: no RepaConfig, `repa: null`.

    teacher: a name of `prx_model.teachers.table.TEACHERS`.
    depth: the block whose output is aligned, 1-based (1 is the first block's output).
    weight: factor of the alignment loss, above 0. Published: 0.5 (REPA, PRX).
    projector: 'mlp' (three linear layers with SiLU: REPA) or 'conv3x3' (one 3x3 convolution: iREPA, arXiv 2512.10794).
    projector_width: hidden width of the mlp. REPA 2048, PRX 1024. The convolution has none.
    schedule: 'constant', or one whose weight is 0 from step stop_at * steps on: 'stop' falls there from the full weight
        (HASTE, arXiv 2505.16792), 'linear' and 'cosine' come down to it from the first step.
    stop_at: fraction of the run, in (0, 1]; 'constant' does not read it.
    spatial_norm: gamma in [0, 1] of iREPA's spatial normalisation of the teacher's tokens (published: 0.6), see
        `spatially_normalised`; None leaves them as they are (REPA).
    teacher_precision: of a teacher that runs beside the training: 'bf16' is autocast over its fp32 weights. Tokens that
        were stored or cached beforehand are fp32's, rounded to float16, with either.
    """

    teacher: str
    depth: int
    weight: float
    projector: str = "mlp"
    projector_width: int = 1024
    schedule: str = "constant"
    stop_at: float = 1.0
    spatial_norm: float | None = None
    teacher_precision: str = "bf16"

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ValueError(f"depth: got {self.depth}, allowed is 1 (the first block) to the number of blocks")
        if not 0 < self.weight < float("inf"):
            raise ValueError(
                f"weight: got {self.weight}, allowed is a finite number above 0 (`repa: null` turns REPA off)"
            )
        if self.projector_width < 1:
            raise ValueError(f"projector_width: got {self.projector_width}, allowed is an integer of at least 1")
        if not 0 < self.stop_at <= 1:
            raise ValueError(f"stop_at: got {self.stop_at}, allowed is a fraction of the run above 0, at most 1")
        if self.spatial_norm is not None and not 0 <= self.spatial_norm <= 1:
            raise ValueError(f"spatial_norm: got {self.spatial_norm}, allowed is null or a number from 0 to 1")
        self._check_choices()

    def _check_choices(self) -> None:
        choices = {"projector": PROJECTORS, "schedule": SCHEDULES, "teacher_precision": TEACHER_PRECISIONS}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: got {getattr(self, name)!r}, allowed is one of {', '.join(allowed)}")

    @property
    def ends_early(self) -> bool:
        """Whether the weight may be 0 before the run ends: from there on the projector gets no gradient."""
        return self.schedule != "constant" and self.stop_at < 1

    def weight_at(self, step: int, num_steps: int) -> float:
        """The weight that step `step` (0-based) of a run of num_steps trains with: at most `weight`, never rising."""
        if self.schedule == "constant":
            return self.weight
        passed = step / (self.stop_at * num_steps)
        if passed >= 1:
            return 0.0
        if self.schedule == "linear":
            return self.weight * (1 - passed)
        if self.schedule == "cosine":
            return self.weight * (1 + math.cos(math.pi * passed)) / 2
        return self.weight


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
    """Minus the mean cosine over tokens and images, in fp32 (arXiv 2410.06940, eq. 8). Range [-1, 1].

    No gradient goes to the teacher's tokens.
    """
    with torch.autocast(projected.device.type, enabled=False):
        return -functional.cosine_similarity(projected.float(), teacher_tokens.detach().float(), dim=-1).mean()


def spatially_normalised(tokens: Float[Tensor, "B N Z"], gamma: float) -> Float[Tensor, "B N Z"]:
    """(x - gamma * mean) / (std + 1e-6) with mean and std over an image's tokens, channel by channel, in fp32.

    It takes out a part of what all places of an image share, so that what is left tells the places apart (iREPA, arXiv
    2512.10794). std divides by N - 1, as in the authors' code (github.com/End2End-Diffusion/iREPA, `spatial_zscore`).
    Raises ValueError for a single token, which has no spread.
    """
    if tokens.shape[1] < 2:
        raise ValueError("spatial_norm: got a grid of one token, allowed are two or more: one has no spread")
    with torch.autocast(tokens.device.type, enabled=False):
        tokens = tokens.float()
        std, mean = torch.std_mean(tokens, dim=1, keepdim=True)
        return (tokens - gamma * mean) / (std + SPATIAL_NORM_EPS)
