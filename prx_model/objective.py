"""What is minimised: velocity error plus REPA. One module for the optimizer and for DDP, one call per step."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prx_model.batch import Batch
from prx_model.flow import Draws, noised_at, velocity_of
from prx_model.model import PRX
from prx_model.repa import RepaConfig, alignment_loss, build_projector, spatially_normalised


class LossTerms(NamedTuple):
    """Scalars of one batch: total = flow + weight * repa. `repa` is -mean cosine in [-1, 1], None without REPA."""

    flow: Tensor
    repa: Tensor | None
    total: Tensor


class TrainingObjective(nn.Module):
    """PRX and, with REPA, its projector.

    null_text [L0, E] is the encoding of the empty caption: what replaces a dropped caption, as in PRX's training.
    """

    def __init__(
        self,
        model: PRX,
        null_text: Float[Tensor, "L0 E"],
        *,
        repa: RepaConfig | None = None,
        teacher_width: int | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.repa = repa
        self.null_text: Tensor
        self.register_buffer("null_text", null_text.clone(), persistent=False)
        self.projector = None
        if repa is not None:
            if repa.depth > model.config.depth:
                raise ValueError(f"repa.depth: got {repa.depth}, allowed is 1 to {model.config.depth}")
            assert teacher_width is not None, "REPA needs the width of its teacher's tokens"
            self.projector = build_projector(repa, model.config.hidden_size, teacher_width)

    def forward(self, batch: Batch, draws: Draws, repa_weight: float = 0.0) -> LossTerms:
        """The loss of `batch` under `draws`: deterministic, all chance lies in `draws`."""
        text, text_mask = self.drop_captions(batch, draws)
        noised = noised_at(batch.clean, draws.noise, draws.t)
        aligned = self.repa is not None and repa_weight > 0
        tap_depth = self.repa.depth if aligned and self.repa else None
        output = self.model(noised, draws.t, text, text_mask, tap_depth=tap_depth)
        flow = (output.velocity.float() - velocity_of(batch.clean, draws.noise)).square().mean()
        if not aligned:
            return LossTerms(flow, None, flow)
        assert output.hidden is not None
        repa = self._alignment(output.hidden, batch)
        return LossTerms(flow, repa, flow + repa_weight * repa)

    def _alignment(self, hidden: Float[Tensor, "B N D"], batch: Batch) -> Float[Tensor, ""]:
        assert self.projector is not None
        assert self.repa is not None
        tokens = batch.teacher_tokens
        if tokens is None:
            raise ValueError("batch.teacher_tokens: got None, REPA needs the teacher's tokens of every image")
        if self.repa.spatial_norm is not None:
            tokens = spatially_normalised(tokens, self.repa.spatial_norm)
        grid = self.model.config.token_grid(*batch.clean.shape[-2:])
        # The projector is fp32 under any autocast: stored or run in bf16 it costs quality (seen in the wild).
        with torch.autocast(hidden.device.type, enabled=False):
            return alignment_loss(self.projector(hidden.float(), grid), tokens)

    def drop_captions(self, batch: Batch, draws: Draws) -> tuple[Float[Tensor, "B L E"], Tensor]:
        """Text and mask with the dropped captions replaced by the empty caption's."""
        num_null, length = self.null_text.shape[0], batch.text.shape[1]
        if num_null > length:
            raise ValueError(f"text: got {length} tokens, the empty caption alone has {num_null}")
        null_text = torch.zeros_like(batch.text[0])
        null_text[:num_null] = self.null_text
        null_mask = torch.arange(length, device=batch.text.device) < num_null
        drop = draws.drop_caption
        text = torch.where(drop[:, None, None], null_text, batch.text)
        return text, torch.where(drop[:, None], null_mask, batch.text_mask)
