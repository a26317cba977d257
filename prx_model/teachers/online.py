"""A teacher that runs beside the training: its tokens are made of every batch's images, on the device."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from prx_model.compiled import compile_each
from prx_model.kept import Kept
from prx_model.repa import RepaConfig
from prx_model.teachers.hub_families import HubBackbone, layers_of
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


def made_ready(
    teacher: Teacher, device: torch.device | str, precision: str, *, compiled: bool = False
) -> OnlineTeacher:
    """The teacher on `device`, as quick as it gets there. It is changed in place, and is to be used by nobody else.

    In 'bf16' the weights of a Vision Transformer's linear layers are stored as bf16. Autocast would round them to just
    that in every step, so tokens are the same to the bit. What it leaves in fp32 stays fp32: norms, positions, and the
    first projection, from whose precision DINOv3 takes that of its rotary angles.
    compiled: with a GPU, its layers go through torch.compile; tokens change by rounding.
    """
    teacher = teacher.to(device)
    layers = layers_of(teacher.backbone.model) if isinstance(teacher.backbone, HubBackbone) else []
    if precision == "bf16":
        for layer in layers:
            for module in layer.modules():
                if isinstance(module, nn.Linear):
                    module.to(torch.bfloat16)
    if compiled and torch.device(device).type == "cuda":
        compile_each(layers)
    return OnlineTeacher(teacher, precision)


def online_teacher(
    repa: RepaConfig, device: torch.device | str, kept: Kept, *, compiled: bool = False
) -> OnlineTeacher:
    """REPA's teacher on `device`; it is kept for the next run, one teacher at a time: they fill a GPU."""
    made_of = (repa.teacher, str(device), repa.teacher_precision, compiled)
    return kept.get(
        "online teacher",
        made_of,
        lambda: made_ready(load_teacher(repa.teacher), device, repa.teacher_precision, compiled=compiled),
        most=1,
    )
