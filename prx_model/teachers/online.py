"""A teacher that runs beside the training: its tokens are made of every batch's images, on the device."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from prx_model.kept import Kept
from prx_model.repa import RepaConfig
from prx_model.teachers.table import Teacher, load_teacher


class OnlineTeacher:
    """A frozen teacher on the images' device, called once per batch: REPA for data sets too large to store its tokens.

    It is no module: no optimizer, checkpoint or `train()` of what holds it ever reaches its weights.
    precision: 'bf16' is autocast over fp32 weights. Norms and the residual stream stay fp32; a token's cosine to fp32's
    is 0.9999 in a Vision Transformer and 0.9995 in EfficientNet (measured), far nearer than a projector ever comes.
    """

    def __init__(self, teacher: Teacher, precision: str) -> None:
        self._teacher = teacher
        self.precision = precision

    @property
    def name(self) -> str:
        return self._teacher.name

    @torch.no_grad()
    def __call__(self, image: UInt8[Tensor, "B 3 R R"], grid: tuple[int, int]) -> Float[Tensor, "B N Z"]:
        """Float32 tokens of the grid, without gradient; the same inside and outside of a caller's autocast."""
        with torch.autocast(image.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self._teacher(image, grid)


def online_teacher(repa: RepaConfig, device: torch.device | str, kept: Kept) -> OnlineTeacher:
    """REPA's teacher on `device`; its weights are kept for the next run, one teacher's at a time: they fill a GPU."""
    device = torch.device(device)
    teacher = kept.get(
        "online teacher", (repa.teacher, str(device)), lambda: load_teacher(repa.teacher).to(device), most=1
    )
    return OnlineTeacher(teacher, repa.teacher_precision)
