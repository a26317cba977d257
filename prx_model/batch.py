"""What one training step reads, and the shape legend of the whole package.

Shape legend
    B  images in a batch                     C  channels of the model's space (3 pixels, 16 Flux latents)
    H, W  height and width in that space     R  side of the square RGB image in pixels
    L  text tokens, padding included         E  width of a text token
    N  image tokens, (H/p)(W/p), row-major   D  width of the model's hidden state
    Z  width of a teacher token              F  width of a metric's feature vector

Ranges: `clean` pixels lie in [-1, 1]; `image` is uint8 in [0, 255]; time t lies in [0, 1]: 0 is data, 1 is noise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Images with captions, encoded.

    On the host `clean` and `text` have the precision that they are stored in; `to` makes float32 of them.

    clean: [B, C, H, W], pixels in [-1, 1] or scaled latents.
    text: [B, L, E] token states of the captions, zeros where `text_mask` is False.
    text_mask: [B, L] bool, True at real tokens. At least one per caption.
    index: [B] int64, the samples' positions in their split: the key of every cache.
    teacher_tokens: [B, N, Z] for REPA, on the model's token grid; None for a baseline, or where a teacher makes them
        of `image` in every step.
    image: [B, 3, R, R] uint8 RGB, for such a teacher.
    """

    clean: Float[Tensor, "B C H W"]
    text: Float[Tensor, "B L E"]
    text_mask: Bool[Tensor, "B L"]
    index: Int64[Tensor, " B"]
    teacher_tokens: Float[Tensor, "B N Z"] | None = None
    image: UInt8[Tensor, "B 3 R R"] | None = None

    def __len__(self) -> int:
        return self.clean.shape[0]

    def rows(self, start: int, stop: int) -> Batch:
        """The samples `start` (included) to `stop` (excluded) as a batch of their own."""
        return Batch(
            clean=self.clean[start:stop],
            text=self.text[start:stop],
            text_mask=self.text_mask[start:stop],
            index=self.index[start:stop],
            teacher_tokens=None if self.teacher_tokens is None else self.teacher_tokens[start:stop],
            image=None if self.image is None else self.image[start:stop],
        )

    def with_teacher_tokens(self, tokens: Float[Tensor, "B N Z"]) -> Batch:
        return replace(self, teacher_tokens=tokens)

    def to(self, device: torch.device | str) -> Batch:
        """On `device`, in float32. It travels as it is stored: half as many bytes."""
        return Batch(
            clean=self.clean.to(device, non_blocking=True).float(),
            text=self.text.to(device, non_blocking=True).float(),
            text_mask=self.text_mask.to(device, non_blocking=True),
            index=self.index,
            teacher_tokens=None
            if self.teacher_tokens is None
            else self.teacher_tokens.to(device, non_blocking=True).float(),
            image=None if self.image is None else self.image.to(device, non_blocking=True),
        )
