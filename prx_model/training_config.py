"""The settings of a training run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from prx_model.compiled import CHOICES, NEVER
from prx_model.flow import TimestepLaw

PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Optimisation. The defaults are those of the PRX ablations (Photoroom, 2026); EMA is ours, off by default.

    batch_size: images per optimizer step, over all workers.
    warmup_steps: linear from 0; constant afterwards.
    grad_clip: largest norm of the gradient.
    ema_decay: decay of the averaged weights that evaluations use, in (0, 1), warmed up as min(decay, (1+n)/(10+n));
        None evaluates the raw weights.
    caption_dropout: probability that a caption is replaced by the empty one, for classifier-free guidance.
    precision: 'bf16' is autocast over fp32 weights.
    compile: 'never', 'where_possible' or 'always': the model's blocks through torch.compile (prx_model.compiled). A
        quicker step for a slower start, worth it in runs of more than a minute, or where the compilation is on the disk
        already. Needs a C++ compiler, or Triton on a GPU; without one 'where_possible' does not compile and 'always' is
        an error. Values change by rounding.
    """

    steps: int = 100_000
    batch_size: int = 256
    eval_every_steps: int = 10_000
    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-15
    weight_decay: float = 0.0
    warmup_steps: int = 1_000
    grad_clip: float = 0.2
    ema_decay: float | None = None
    caption_dropout: float = 0.1
    precision: str = "bf16"
    compile: str = NEVER
    timesteps: TimestepLaw = field(default_factory=TimestepLaw)

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "eval_every_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, allowed is an integer of at least 1")
        for name in ("learning_rate", "eps", "grad_clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}: got {getattr(self, name)}, allowed is a finite number above 0")
        if self.eval_every_steps > self.steps:
            raise ValueError(f"eval_every_steps: got {self.eval_every_steps}, allowed is at most steps {self.steps}")
        self._check_ranges()

    def _check_ranges(self) -> None:
        if self.warmup_steps < 0 or self.weight_decay < 0:
            raise ValueError(
                f"warmup_steps, weight_decay: got {self.warmup_steps}, {self.weight_decay}, allowed is 0 or more"
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas: got {self.betas}, allowed are numbers from 0 to below 1")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay: got {self.ema_decay}, allowed is null or a number between 0 and 1")
        if not 0 <= self.caption_dropout <= 1:
            raise ValueError(f"caption_dropout: got {self.caption_dropout}, allowed is 0 to 1")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision: got {self.precision!r}, allowed is one of {', '.join(PRECISIONS)}")
        if self.compile not in CHOICES:
            raise ValueError(f"compile: got {self.compile!r}, allowed is one of {', '.join(CHOICES)}")

    def learning_rate_at(self, step: int) -> float:
        """The rate of the 0-based step: the first step already moves."""
        return self.learning_rate * min(1.0, (step + 1) / max(1, self.warmup_steps))

    def evaluation_steps(self) -> list[int]:
        """The steps after which an evaluation is made; the last one is always among them."""
        steps = list(range(self.eval_every_steps, self.steps + 1, self.eval_every_steps))
        return steps if steps[-1] == self.steps else [*steps, self.steps]
