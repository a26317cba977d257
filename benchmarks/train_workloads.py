"""What the benchmark of training steps trains: models, batches as they are stored, teachers of the published shapes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from benchmarks.arithmetic import PASSES_IN_TRAINING, VisionTransformer, projector_macs, prx_macs
from prx_model.batch import Batch
from prx_model.model import PRXConfig
from prx_model.repa import RepaConfig
from prx_model.teachers.table import Teacher, hub_teacher, teacher_spec

DINOV2, DINOV3 = "dinov2_vitl14_reg", "dinov3_vitl16"
VIT_L = VisionTransformer(width=1024, layers=24, heads=16, mlp_width=4096, patch=14, num_prefix_tokens=5)
VIT_TOY = VisionTransformer(width=64, layers=2, heads=2, mlp_width=256, patch=14, num_prefix_tokens=5)


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What a model trains on. side: of its input. image: px. text_tokens: padding included. teacher: patch aside."""

    side: int
    image: int
    text_tokens: int
    batch: tuple[int, ...]
    precision: str
    depth: int
    projector_width: int
    teacher: VisionTransformer


WORKLOADS = {
    # Photoroom's ablation: 256 px as 32 x 32 latents, T5Gemma states, aligned at the 8th of 16 blocks.
    "prx_1b": Workload(
        side=32,
        image=256,
        text_tokens=256,
        batch=(32, 64),
        precision="bf16",
        depth=8,
        projector_width=1024,
        teacher=VIT_L,
    ),
    "prx_emoji": Workload(
        side=32, image=32, text_tokens=16, batch=(16,), precision="fp32", depth=3, projector_width=256, teacher=VIT_TOY
    ),
    "prx_tiny": Workload(
        side=16, image=16, text_tokens=5, batch=(4,), precision="fp32", depth=1, projector_width=64, teacher=VIT_TOY
    ),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One way to train, of a batch size. `macs` of one image in one step, all passes. teacher: None without REPA."""

    name: str
    batch: int
    macs: int
    teacher: str | None = None
    compiled: bool = False


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The settings that all cases share."""

    config: PRXConfig
    work: Workload
    device: torch.device
    steps: int
    optimizer: str = "adamw"
    attention: str | None = None

    def cases(self, batches: Sequence[int], teachers: Sequence[str], kinds: Sequence[bool]) -> Iterator[Case]:
        """kinds: compiled or not, one or both."""
        macs = PASSES_IN_TRAINING * prx_macs(self.config, side=self.work.side, text_tokens=self.work.text_tokens)
        for batch in batches:
            yield Case(name="plain diffusers loop, eager", batch=batch, macs=macs)
            for is_compiled in kinds:
                kind = "compiled" if is_compiled else "eager"
                yield Case(name=f"ours, {kind}", batch=batch, macs=macs, compiled=is_compiled)
                for teacher in teachers:
                    more = macs + self.repa_macs(teacher)
                    name = f"ours with REPA {teacher}, {kind}"
                    yield Case(name=name, batch=batch, macs=more, teacher=teacher, compiled=is_compiled)

    def repa_macs(self, teacher: str) -> int:
        """What REPA adds to one image: three passes through the projector, one through the teacher."""
        rows, columns = self.config.token_grid(self.work.side, self.work.side)
        shape, num = self.teacher_shape(teacher), rows * columns
        projector = projector_macs(self.repa(teacher), self.config, num_tokens=num, teacher_width=shape.width)
        return PASSES_IN_TRAINING * projector + shape.macs(num)

    def repa(self, teacher: str) -> RepaConfig:
        return RepaConfig(teacher=teacher, depth=self.work.depth, weight=0.5, projector_width=self.work.projector_width)

    def teacher_shape(self, teacher: str) -> VisionTransformer:
        return replace(self.work.teacher, patch=teacher_spec(teacher).patch)


def random_teacher(name: str, shape: VisionTransformer, device: torch.device | str = "cpu") -> Teacher:
    """A teacher of the table's class with this shape and random weights."""
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel, DINOv3ViTConfig, DINOv3ViTModel

    settings: dict[str, Any] = {
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "patch_size": shape.patch,
        "num_register_tokens": shape.num_prefix_tokens - 1,
        "image_size": 37 * shape.patch,  # 518 px for DINOv2, whose table of positions it sizes
    }
    with torch.device(device):
        if name == DINOV2:
            config: Any = Dinov2WithRegistersConfig(**settings, mlp_ratio=shape.mlp_width // shape.width)
            return hub_teacher(teacher_spec(name), Dinov2WithRegistersModel(config))
        config = DINOv3ViTConfig(**settings, intermediate_size=shape.mlp_width)
        return hub_teacher(teacher_spec(name), DINOv3ViTModel(config))


def host_batch(bench: Bench, count: int) -> Batch:
    """As a reader delivers it: states and latents in half precision, captions of half the length to the whole."""
    generator = torch.Generator().manual_seed(0)
    work, config = bench.work, bench.config
    lengths = torch.randint(max(1, work.text_tokens // 2), work.text_tokens + 1, (count, 1), generator=generator)
    mask = torch.arange(work.text_tokens) < lengths
    text = torch.randn(count, work.text_tokens, config.context_in_dim, generator=generator) * mask[..., None]
    image = torch.randint(0, 256, (count, 3, work.image, work.image), generator=generator, dtype=torch.uint8)
    clean = torch.randn(count, config.in_channels, work.side, work.side, generator=generator)
    return Batch(clean=clean.half(), text=text.bfloat16(), text_mask=mask, index=torch.arange(count), image=image)


@dataclass(frozen=True)
class Endless:
    """One batch, again and again."""

    batch: Batch

    def batches(self, from_step: int = 0) -> Iterator[Batch]:
        while True:
            yield self.batch
