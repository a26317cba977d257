"""PRX, the single-stream transformer of Photoroom, with the hidden state after a chosen block as an output.

The weights, the configuration and the forward values are those of `diffusers.PRXTransformer2DModel`, which this module
wraps and never edits. What training needs comes on top: the tap, a zero-initialised final layer, a cached rotary table,
an attention processor that does the same with less work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from prx_model.attention import JointAttention, TextKeys, phases_of, text_keys

if TYPE_CHECKING:
    from diffusers.models.transformers.transformer_prx import PRXBlock, PRXTransformer2DModel


MOST_BLOCKS = 10_000  # a typing error is told as one, before a model of that size is tried


@dataclass(frozen=True, kw_only=True)
class PRXConfig:
    """The architecture, in the names of diffusers' own. The defaults are PRX-1.2B (1,170,691,648 parameters).

    `axes_dim` (the rotary split over rows and columns) is half and half of the head width, as in every published PRX.

    in_channels: of what is denoised: 16 for Flux latents, 3 for pixels. patch_size: its cells (or pixels) a side of a
    token. context_in_dim: width of a text state. hidden_size: width of a token, a multiple of 4 num_heads. mlp_ratio:
    of a block's MLP to that. num_heads: of attention. depth: number of blocks. theta: base of the rotary frequencies.
    """

    in_channels: int = 16
    patch_size: int = 2
    context_in_dim: int = 2304
    hidden_size: int = 1792
    mlp_ratio: float = 3.5
    num_heads: int = 28
    depth: int = 16
    theta: int = 10_000

    def __post_init__(self) -> None:
        for name in ("in_channels", "patch_size", "context_in_dim", "hidden_size", "num_heads", "depth", "theta"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, allowed is an integer of at least 1")
        if self.depth > MOST_BLOCKS:
            raise ValueError(f"depth: got more than {MOST_BLOCKS}, allowed is at most that many blocks")
        if self.mlp_ratio <= 0:
            raise ValueError(f"mlp_ratio: got {self.mlp_ratio}, allowed is a number above 0")
        if self.hidden_size % (4 * self.num_heads):
            raise ValueError(
                f"hidden_size: got {self.hidden_size} with num_heads {self.num_heads}, allowed is a multiple of "
                f"{4 * self.num_heads} (each head splits into two rotary axes of even width)"
            )

    @property
    def axes_dim(self) -> list[int]:
        return [self.hidden_size // self.num_heads // 2] * 2

    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of image tokens for an input of height x width in the model's space."""
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(f"resolution: got {height}x{width}, allowed are multiples of patch_size {self.patch_size}")
        return height // self.patch_size, width // self.patch_size


MODELS: dict[str, PRXConfig] = {
    # Photoroom's ablation baseline on FLUX.1 latents and T5Gemma states ("Training Design for Text-to-Image Models").
    "prx_1b": PRXConfig(),
    # 32x32 pixels and MiniLM states: 64 tokens, small enough that one CPU core takes a few steps a second.
    "prx_emoji": PRXConfig(in_channels=3, patch_size=4, context_in_dim=384, hidden_size=128, num_heads=4, depth=6),
    # Two blocks of width 32: the real model for tests that need one.
    "prx_tiny": PRXConfig(in_channels=3, patch_size=4, context_in_dim=384, hidden_size=32, num_heads=2, depth=2),
}


class PRXOutput(NamedTuple):
    """velocity: [B, C, H, W]; hidden: [B, N, D] after block `tap_depth`, or None where none was asked for."""

    velocity: Tensor
    hidden: Tensor | None


@dataclass
class _RotaryTables:
    """One table per token grid and device, on which alone it depends; diffusers builds it anew at every forward."""

    tables: dict[tuple[int, int, torch.device], Tensor] = field(default_factory=dict)


class PRX(nn.Module):
    """PRX for training. `transformer` is diffusers' module; saving and loading go through it.

    gradient_checkpointing: forwards with gradient keep only the blocks' inputs; backward computes the rest anew.
    """

    def __init__(self, config: PRXConfig) -> None:
        super().__init__()
        from diffusers.models.transformers.transformer_prx import PRXTransformer2DModel

        self.config = config
        self.gradient_checkpointing = False
        self.transformer = PRXTransformer2DModel(**asdict(config), axes_dim=config.axes_dim)
        _attend_jointly(self.transformer)
        self._rotary = _RotaryTables()
        self._zero_final_layer()

    def _zero_final_layer(self) -> None:
        """Photoroom's initialisation, which diffusers leaves out: the untrained model predicts velocity 0."""
        final = self.transformer.final_layer
        for parameter in (*final.linear.parameters(), *final.adaLN_modulation.parameters()):
            nn.init.zeros_(parameter)

    def forward(
        self,
        noised: Float[Tensor, "B C H W"],
        t: Float[Tensor, " B"],
        text: Float[Tensor, "B L E"] | Sequence[TextKeys],
        text_mask: Bool[Tensor, "B L"],
        *,
        tap_depth: int | None = None,
    ) -> PRXOutput:
        """Velocity at time t in [0, 1], and the hidden state after block `tap_depth` (1-based) if one is asked for.

        text: token states, or what `project_text` made of them.
        """
        from diffusers.models.transformers.transformer_prx import img2seq, seq2img

        if tap_depth is not None and not 1 <= tap_depth <= self.config.depth:
            raise ValueError(f"tap_depth: got {tap_depth}, allowed is 1 to {self.config.depth} (1-based)")
        net = self.transformer
        texts = [net.txt_in(text)] * self.config.depth if isinstance(text, Tensor) else text
        states = net.img_in(img2seq(noised, self.config.patch_size))
        time_states = net._compute_timestep_embedding(t, dtype=states.dtype)
        rotary = self._rotary_table(noised)
        hidden = None
        for number, (block, block_text) in enumerate(zip(net.blocks, texts, strict=True), start=1):
            states = self._run(
                block,
                hidden_states=states,
                encoder_hidden_states=block_text,
                temb=time_states,
                image_rotary_emb=rotary,
                attention_mask=text_mask,
            )
            if number == tap_depth:
                hidden = states
        patches = net.final_layer(states, time_states)
        shape: Any = tuple(noised.shape)  # which seq2img takes; its annotation says otherwise
        return PRXOutput(seq2img(patches, self.config.patch_size, shape), hidden)

    def _run(self, block: nn.Module, **inputs: Any) -> Tensor:
        """One block's output."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            # A block draws no random numbers, so there is no generator to wind back.
            output = checkpoint(block, use_reentrant=False, preserve_rng_state=False, **inputs)
            assert isinstance(output, Tensor)
            return output
        return block(**inputs)

    def project_text(self, text: Float[Tensor, "B L E"]) -> list[TextKeys]:
        """The text's keys and values in every block, for forwards that differ in image and time alone: a sampler's."""
        states, blocks = self.transformer.txt_in(text), cast("list[PRXBlock]", self.transformer.blocks)
        return [text_keys(block.attention, states) for block in blocks]

    def _rotary_table(self, noised: Tensor) -> Complex[Tensor, "1 N 1 half"]:
        """cos + i sin of every position and frequency, broadcast over batch and heads."""
        from diffusers.models.transformers.transformer_prx import get_image_ids

        height, width = noised.shape[-2:]
        key = (height, width, noised.device)
        if key not in self._rotary.tables:
            with torch.no_grad():
                ids = get_image_ids(1, height, width, self.config.patch_size, noised.device)
                self._rotary.tables[key] = phases_of(self.transformer.pe_embedder(ids))
        return self._rotary.tables[key]

    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def save_pretrained(self, folder: Path | str) -> None:
        """Write config.json and safetensors that diffusers' PRXTransformer2DModel.from_pretrained loads."""
        self.transformer.save_pretrained(folder)

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> PRX:
        """Load what `save_pretrained`, or diffusers itself, has written."""
        from diffusers.models.transformers.transformer_prx import PRXTransformer2DModel

        transformer = PRXTransformer2DModel.from_pretrained(folder)
        return cls.around(transformer)

    @classmethod
    def around(cls, transformer: PRXTransformer2DModel) -> PRX:
        """This package's view of an existing diffusers module, whose weights it shares and whose processors it sets."""
        names = PRXConfig.__dataclass_fields__
        if transformer.config.get("resolution_embeds") or transformer.config.get("bottleneck_size"):
            raise ValueError("PRX variants with resolution_embeds or bottleneck_size (PRX-7B) are not supported")
        config = PRXConfig(**{name: transformer.config[name] for name in names})
        with torch.device("meta"):
            model = cls(config)
        model.transformer = transformer
        _attend_jointly(transformer)
        return model


def _attend_jointly(transformer: PRXTransformer2DModel) -> None:
    processor: Any = JointAttention()  # the annotation of the next line lists diffusers' own processors only
    transformer.set_attn_processor(processor)


def count_parameters(config: PRXConfig) -> int:
    """Parameters of PRX with this configuration, counted on the meta device: no memory is taken."""
    with torch.device("meta"):
        return PRX(config).num_parameters()
