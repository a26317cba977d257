"""Flow matching on the straight line from data to noise: the path, its velocity, and the law of the time t.

x_t = (1 - t) clean + t noise,  velocity = dx_t/dt = noise - clean  (Lipman et al. 2210.02747; Liu et al. 2209.03003),
in PRX's direction of time: t = 0 is data, t = 1 is noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def noised_at(clean: Tensor, noise: Tensor, t: Float[Tensor, " B"]) -> Tensor:
    """The point x_t on the line from clean [B, ...] to noise [B, ...]."""
    t = t.to(clean.dtype).reshape(-1, *[1] * (clean.ndim - 1))
    return (1 - t) * clean + t * noise


def velocity_of(clean: Tensor, noise: Tensor) -> Tensor:
    """What the model is trained to predict, the same at every t."""
    return noise - clean


def clean_from_velocity(noised: Tensor, velocity: Tensor, t: Float[Tensor, " B"]) -> Tensor:
    """The data end of the line through x_t with this velocity."""
    return noised - t.to(noised.dtype).reshape(-1, *[1] * (noised.ndim - 1)) * velocity


@dataclass(frozen=True, kw_only=True)
class TimestepLaw:
    """The distribution of t in training.

    With probability 1 - uniform_probability: u = sigmoid(N(mean, std^2)), t = shift u / (1 + (shift - 1) u), drawn anew
    until min_t <= t < max_t; else t is uniform on [min_t, max_t). The defaults are those of the PRX ablations
    (Photoroom/PRX, prx/schedulers/scheduler.py), where the uniform tenth is written into the code.

    mean, std: of the normal distribution; std above 0. shift: above 1 draws more noise, below 1 less; it adds ln shift
    to the mean. min_t, max_t: t lies from min_t to below max_t, inside 0 to 1. uniform_probability: 0 to 1.
    """

    mean: float = 0.0
    std: float = 1.0
    shift: float = 1.0
    min_t: float = 1e-3
    max_t: float = 1.0
    uniform_probability: float = 0.1

    def __post_init__(self) -> None:
        if self.std <= 0 or self.shift <= 0:
            raise ValueError(f"std, shift: got {self.std}, {self.shift}, allowed are numbers above 0")
        if not 0 <= self.min_t < self.max_t <= 1:
            raise ValueError(f"min_t, max_t: got {self.min_t}, {self.max_t}, allowed is 0 <= min_t < max_t <= 1")
        if not 0 <= self.uniform_probability <= 1:
            raise ValueError(f"uniform_probability: got {self.uniform_probability}, allowed is 0 to 1")

    def sample(self, count: int, generator: torch.Generator) -> Float[Tensor, " count"]:
        """`count` times on the generator's device. The number of draws is fixed, so the stream stays aligned."""
        device = generator.device
        uniform = torch.rand(count, generator=generator, device=device)
        chosen = torch.rand(count, generator=generator, device=device) < self.uniform_probability
        quantile = torch.rand(count, generator=generator, device=device, dtype=torch.float64)
        low, high = self._cdf(self.min_t), self._cdf(self.max_t)
        # Drawing anew until t falls inside equals drawing from the quantiles inside: no loop, no wasted draws.
        normal = torch.special.ndtri(low + quantile * (high - low))
        u = torch.sigmoid(self.mean + self.std * normal)
        shifted = (self.shift * u / (1 + (self.shift - 1) * u)).float()
        mixed = torch.where(chosen, self.min_t + uniform * (self.max_t - self.min_t), shifted)
        return mixed.clamp(self.min_t, self._below_max())

    def _cdf(self, t: float) -> float:
        """P(T < t) under the logit-normal part."""
        if t <= 0 or t >= 1:
            return float(t >= 1)
        u = t / (self.shift - (self.shift - 1) * t)
        logit = torch.logit(torch.tensor(u, dtype=torch.float64))
        return torch.special.ndtr((logit - self.mean) / self.std).item()

    def _below_max(self) -> float:
        """The largest float32 below max_t: t = 1 is left out."""
        return torch.nextafter(torch.tensor(self.max_t), torch.tensor(0.0)).item()


@dataclass(frozen=True, kw_only=True)
class Draws:
    """All the chance of one training step: t [B], noise [B, C, H, W], drop_caption [B] bool."""

    t: Float[Tensor, " B"]
    noise: Float[Tensor, "B C H W"]
    drop_caption: Bool[Tensor, " B"]

    def rows(self, start: int, stop: int) -> Draws:
        return Draws(t=self.t[start:stop], noise=self.noise[start:stop], drop_caption=self.drop_caption[start:stop])

    def to(self, device: torch.device | str) -> Draws:
        return Draws(t=self.t.to(device), noise=self.noise.to(device), drop_caption=self.drop_caption.to(device))


def draw(
    shape: Sequence[int],
    law: TimestepLaw,
    *,
    caption_dropout: float,
    seed: int,
    step: int,
    device: torch.device | str = "cpu",
) -> Draws:
    """The draws of one step for a global batch of `shape` (B, C, H, W), a pure function of (seed, step).

    Nothing is carried from step to step: a resumed run needs no generator state, any number of workers slices the same
    draws, and trials that share a seed see the same times and the same noise (common random numbers). The noise is made
    on `device`, by its own generator: it is the same on every GPU of a kind, and another than a CPU's.
    """
    device = torch.device(device)
    generator = torch.Generator().manual_seed(_mix(seed, step))
    t = law.sample(shape[0], generator)
    on_device = generator if device.type == "cpu" else torch.Generator(device).manual_seed(_mix(seed, step))
    noise = torch.randn(shape, generator=on_device, device=device)
    drop_caption = torch.rand(shape[0], generator=generator) < caption_dropout
    return Draws(t=_sent(t, device), noise=noise, drop_caption=_sent(drop_caption, device))


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    """On `device`. From pinned memory: the host would wait for all that it has given to a GPU."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _mix(seed: int, step: int) -> int:
    """One 63-bit seed from two numbers (splitmix64's finaliser): neighbouring steps get unrelated streams."""
    mask = (1 << 64) - 1
    x = (seed * 0x9E3779B97F4A7C15 + step * 0xD1B54A32D192ED03 + 0x2545F4914F6CDD1D) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return (x ^ (x >> 31)) >> 1
