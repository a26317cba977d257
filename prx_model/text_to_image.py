"""A trained model and all that it takes to make images of texts, sampled as its evaluations are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import UInt8
from torch import Tensor

from prx_model.export import PipelineCard, read_card
from prx_model.hub import quietly
from prx_model.metrics.samples import sample_noise
from prx_model.model import PRX
from prx_model.sampling import SamplerConfig, sample
from prx_model.yardstick import to_images

if TYPE_CHECKING:
    from prx_model.latents import LatentSpace


@dataclass(frozen=True, kw_only=True)
class TextToImage:
    """model: on the device that it samples on. card: of what was trained with it.

    Text encoder and autoencoder are loaded when the first image is made, and kept.
    Raises OSError where the text encoder or the autoencoder cannot be had, ValueError where its weights are others.
    """

    model: PRX
    card: PipelineCard

    @classmethod
    def exported(cls, folder: Path, device: torch.device | str = "cpu") -> TextToImage:
        """Of a folder that export_pipeline has written. Raises ValueError where it is none."""
        card = read_card(folder)
        with quietly():  # it remarks on a package that large models are loaded with
            model = PRX.from_pretrained(folder / "transformer")
        return cls(model=model.to(device).eval(), card=card)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @torch.no_grad()
    def __call__(
        self, prompts: Sequence[str], *, seed: int, sampler: SamplerConfig | None = None, first: int = 0
    ) -> UInt8[Tensor, "B 3 R R"]:
        """An image of each prompt. The i-th starts from the noise that (seed, first + i) alone decide.

        With the evaluations' noise seed and their prompts in order these are the evaluations' samples.
        """
        *states, null_text = self._encode([*prompts, ""])
        text, mask = _padded(states)
        noise = sample_noise(seed, range(first, first + len(prompts)), self._shape())
        latents = sample(
            self.model,
            noise.to(self.device),
            text.to(self.device),
            mask.to(self.device),
            null_text=null_text.to(self.device).float(),
            config=sampler or self.card.sampler,
        )
        return to_images(latents, self._space).cpu()

    def _shape(self) -> tuple[int, int, int]:
        latents = self.card.latents
        channels, downsampling = (3, 1) if latents is None else (latents.channels, latents.downsampling)
        side = self.card.resolution // downsampling
        return channels, side, side

    @cached_property
    def _space(self) -> LatentSpace | None:
        if self.card.latents is None:
            return None
        from prx_model.latents import latent_space_of

        return latent_space_of(self.card.latents).to(self.device)

    @cached_property
    def _encode(self) -> Callable[[Sequence[str]], list[Tensor]]:
        card = self.card
        if card.text_encoder.package:
            from prx_model.encoding.text import MiniLmEncoder

            return MiniLmEncoder(max_text_tokens=card.max_text_tokens)
        from prx_model.encoding.hub_text import text_encoder_of

        return text_encoder_of(card.text_encoder, max_text_tokens=card.max_text_tokens)


def _padded(states: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Texts of any length as one batch, and where they are: [B, L, E] and [B, L]."""
    text = torch.nn.utils.rnn.pad_sequence([state.float() for state in states], batch_first=True)
    lengths = torch.tensor([len(state) for state in states])
    return text, torch.arange(text.shape[1]) < lengths[:, None]
