"""From noise to images: Euler steps along the velocity, with classifier-free guidance. Free functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from prx_model.model import PRX
from prx_model.training.distributed import whole_weights

Velocity = Callable[[Tensor, float], Tensor]
PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """Euler's method from t = 1 to t = 0.

    steps: evaluations of the velocity field. The PRX ablations use 50.
    guidance: scale w of classifier-free guidance, v = v_null + w (v_text - v_null) (arXiv 2207.12598);
        1 means none and costs half. The PRX ablations use 3.5.
    shift: t -> shift t / (1 + (shift - 1) t) of the time grid; 1 in the 256 px ablations.
    precision: of the model: 'bf16' is autocast over fp32 weights, several times as quick on a GPU. Guidance and the sum
        of the steps are fp32's with either.
    """

    steps: int = 50
    guidance: float = 3.5
    shift: float = 1.0
    precision: str = "fp32"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps: got {self.steps}, allowed is an integer of at least 1")
        if self.guidance < 1:
            raise ValueError(f"guidance: got {self.guidance}, allowed is a number of at least 1 (1 is no guidance)")
        if self.shift <= 0:
            raise ValueError(f"shift: got {self.shift}, allowed is a number above 0")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision: got {self.precision!r}, allowed is one of {', '.join(PRECISIONS)}")

    def times(self) -> list[float]:
        """steps + 1 times from 1 to 0."""
        grid = [1 - i / self.steps for i in range(self.steps + 1)]
        return [self.shift * t / (1 + (self.shift - 1) * t) for t in grid]


def euler(velocity: Velocity, noise: Tensor, times: list[float]) -> Tensor:
    """Integrate dx/dt = velocity(x, t) from times[0] to times[-1], starting at noise [B, ...]."""
    x = noise
    for t, t_next in pairwise(times):
        x = x + (t_next - t) * velocity(x, t)
    return x


@torch.no_grad()
def sample(
    model: PRX,
    noise: Float[Tensor, "B C H W"],
    text: Float[Tensor, "B L E"],
    text_mask: Bool[Tensor, "B L"],
    *,
    null_text: Float[Tensor, "L0 E"],
    config: SamplerConfig,
) -> Float[Tensor, "B C H W"]:
    """One sample per row of noise, in the model's space (pixels in about [-1, 1], or scaled latents).

    A model that lies in parts on all workers is gathered once for all steps: every worker calls this equally often.
    """
    autocast = torch.autocast(noise.device.type, torch.bfloat16, enabled=config.precision == "bf16")
    with whole_weights(model), autocast:
        return _sample(model, noise, (text, text_mask), null_text, config)


def _sample(
    model: PRX, noise: Tensor, prompt: tuple[Tensor, Tensor], null_text: Tensor, config: SamplerConfig
) -> Tensor:
    text, text_mask = prompt
    if config.guidance == 1:
        keys = model.project_text(text)
        return euler(lambda x, t: model(x, _full(t, x), keys, text_mask).velocity.float(), noise, config.times())
    both_text, both_mask = _with_null(text, text_mask, null_text)
    both_keys = model.project_text(both_text)

    def guided(x: Tensor, t: float) -> Tensor:
        doubled = torch.cat([x, x])
        conditional, null = model(doubled, _full(t, doubled), both_keys, both_mask).velocity.float().chunk(2)
        return null + config.guidance * (conditional - null)

    return euler(guided, noise, config.times())


def pixels_to_images(pixels: Float[Tensor, "B 3 R R"]) -> UInt8[Tensor, "B 3 R R"]:
    """[-1, 1] float to [0, 255] uint8, rounded, clipped: the one place where samples become images."""
    return ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def _full(t: float, x: Tensor) -> Float[Tensor, " B"]:
    return torch.full((x.shape[0],), t, device=x.device)


def _with_null(text: Tensor, text_mask: Tensor, null_text: Tensor) -> tuple[Tensor, Tensor]:
    """Captions, then as many empty captions: guidance in one batch."""
    count, length, _ = text.shape
    null_states = torch.zeros_like(text)
    null_states[:, : null_text.shape[0]] = null_text.to(text)
    null_mask = (torch.arange(length, device=text.device) < null_text.shape[0]).expand(count, length)
    return torch.cat([text, null_states]), torch.cat([text_mask, null_mask])
