"""The settings of a training run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from prx_model.compiled import CHOICES, NEVER
from prx_model.flow import TimestepLaw
from prx_model.training.distributed import DDP, PARALLEL

PRECISIONS = ("fp32", "bf16")
ADAMW, MUON = "adamw", "muon"
OPTIMIZERS = (ADAMW, MUON)
CONSTANT, COSINE = "constant", "cosine"
SCHEDULES = (CONSTANT, COSINE)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Optimisation. The defaults are those of the PRX ablations (Photoroom, 2026); EMA is ours, off by default.

    steps: optimizer steps of a run. eval_every_steps: an evaluation is made after each so many, and after the last.
    batch_size: images per optimizer step, over all workers.
    micro_batch_size: images per forward and backward of one worker. Its share of the batch is cut into as many parts
        as that takes (the last may be smaller), whose gradients add up to the undivided batch's; None does not cut.
    optimizer: 'adamw', or 'muon' for the matrices of blocks and projector with AdamW for the rest (Jordan et al., 2024;
        in the PRX ablations FID 15.55 against AdamW's 18.20). Updates of both are of one size, so that learning_rate
        means the same (Moonshot, arXiv 2502.16982).
    learning_rate: after the warm-up. betas, eps: AdamW's. momentum: Muon's, in [0, 1). weight_decay: decoupled, of
        both.
    warmup_steps: linear from 0 to learning_rate.
    schedule: of the rate after the warm-up: 'constant', or 'cosine' down to the last step (Loshchilov and Hutter,
        arXiv 1608.03983, without restarts). final_learning_rate: where the cosine ends, as a fraction of
        learning_rate, 0 to 1.
    grad_clip: largest norm of the gradient.
    ema_decay: decay of the averaged weights that evaluations use, in (0, 1), warmed up as min(decay, (1+n)/(10+n));
        None evaluates the raw weights.
    caption_dropout: probability that a caption is replaced by the empty one, for classifier-free guidance.
    precision: 'bf16' is autocast over fp32 weights. What autocast leaves in fp32, REPA's projector, then has the
        factors of its products rounded to TF32 (11 bits) on a GPU; sums, weights and all else stay fp32.
    gradient_checkpointing: keep only the inputs of the model's blocks for the backward pass, which computes the rest
        anew: less memory, about a third more arithmetic, equal values (Chen et al., arXiv 1604.06174).
    parallel: how several workers hold the model: 'ddp' (each holds all of it) or 'fsdp' (each a part).
    checkpoint_every_min: minutes of training after which the loop pauses for a checkpoint; None: at evaluations only.
    compile: 'never', 'where_possible' or 'always': the model's blocks through torch.compile (prx_model.compiled). A
        quicker step for a slower start, worth it in runs of more than a minute, or where the compilation is on the disk
        already. Needs a C++ compiler, or Triton on a GPU; without one 'where_possible' does not compile and 'always' is
        an error. Values change by rounding.
    timesteps: the distribution of the time t in training.
    """

    steps: int = 100_000
    batch_size: int = 256
    micro_batch_size: int | None = None
    eval_every_steps: int = 10_000
    optimizer: str = ADAMW
    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-15
    momentum: float = 0.95
    weight_decay: float = 0.0
    warmup_steps: int = 1_000
    schedule: str = CONSTANT
    final_learning_rate: float = 0.0
    grad_clip: float = 0.2
    ema_decay: float | None = None
    caption_dropout: float = 0.1
    precision: str = "bf16"
    gradient_checkpointing: bool = False
    parallel: str = DDP
    checkpoint_every_min: float | None = None
    compile: str = NEVER
    timesteps: TimestepLaw = field(default_factory=TimestepLaw)

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "eval_every_steps", "micro_batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: got {value}, allowed is an integer of at least 1")
        for name in ("learning_rate", "eps", "grad_clip", "checkpoint_every_min"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name}: got {value}, allowed is a finite number above 0")
        if self.eval_every_steps > self.steps:
            raise ValueError(f"eval_every_steps: got {self.eval_every_steps}, allowed is at most steps {self.steps}")
        self._check_ranges()
        self._check_choices()

    def _check_ranges(self) -> None:
        if self.warmup_steps < 0 or self.weight_decay < 0:
            raise ValueError(
                f"warmup_steps, weight_decay: got {self.warmup_steps}, {self.weight_decay}, allowed is 0 or more"
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas: got {self.betas}, allowed are numbers from 0 to below 1")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum: got {self.momentum}, allowed is a number from 0 to below 1")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay: got {self.ema_decay}, allowed is null or a number between 0 and 1")
        for name in ("caption_dropout", "final_learning_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, allowed is 0 to 1")

    def _check_choices(self) -> None:
        choices = {
            "optimizer": OPTIMIZERS,
            "schedule": SCHEDULES,
            "precision": PRECISIONS,
            "parallel": PARALLEL,
            "compile": CHOICES,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: got {getattr(self, name)!r}, allowed is one of {', '.join(allowed)}")

    def learning_rate_at(self, step: int) -> float:
        """The rate of the 0-based step: the first step already moves."""
        done, warmup = step + 1, max(1, self.warmup_steps)
        if done <= warmup or self.schedule == CONSTANT:
            return self.learning_rate * min(1.0, done / warmup)
        fallen = (1 - math.cos(math.pi * (done - warmup) / (self.steps - warmup))) / 2
        return self.learning_rate * (1 - (1 - self.final_learning_rate) * fallen)

    def evaluation_steps(self) -> list[int]:
        """The steps after which an evaluation is made; the last one is always among them."""
        steps = list(range(self.eval_every_steps, self.steps + 1, self.eval_every_steps))
        return steps if steps[-1] == self.steps else [*steps, self.steps]
