"""Real models and batches made tiny, for every test that needs one."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import torch

from prx_model.batch import Batch
from prx_model.model import PRX, PRXConfig

if TYPE_CHECKING:
    from diffusers.models.transformers.transformer_prx import PRXTransformer2DModel


def randomised(model: PRX, seed: int = 0) -> PRX:
    """The model with every weight drawn anew, so that no zero-initialised path hides a mistake."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def untouched(model: PRX) -> PRXTransformer2DModel:
    """The module that diffusers itself would make of the model's weights, with diffusers' own attention."""
    from diffusers.models.transformers.transformer_prx import PRXAttnProcessor2_0, PRXTransformer2DModel

    module = PRXTransformer2DModel(**asdict(model.config), axes_dim=model.config.axes_dim)
    module.load_state_dict(model.transformer.state_dict())
    assert all(type(processor) is PRXAttnProcessor2_0 for processor in module.attn_processors.values())
    return module


def random_batch(config: PRXConfig, *, count: int = 4, side: int = 16, seed: int = 0, teacher_width: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    length = 5
    num_tokens = (side // config.patch_size) ** 2
    mask = torch.arange(length) < torch.randint(1, length + 1, (count, 1), generator=generator)
    text = torch.randn(count, length, config.context_in_dim, generator=generator) * mask[..., None]
    tokens = torch.randn(count, num_tokens, teacher_width, generator=generator) if teacher_width else None
    return Batch(
        clean=torch.rand(count, config.in_channels, side, side, generator=generator) * 2 - 1,
        text=text,
        text_mask=mask,
        index=torch.arange(count),
        teacher_tokens=tokens,
    )
