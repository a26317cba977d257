"""PRX's attention with less work: diffusers' own, over the same parameters, in its place as an attention processor.

What it leaves out: keys and values of the text that are known already, copies between layouts, and gradients padded
with zeros (q, k and v are unbound, not indexed). It turns pairs as complex numbers: one product instead of four.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from diffusers.models.transformers.transformer_prx import PRXAttention


class TextKeys(NamedTuple):
    """What the text brings to the attention of one block: key and value, both [B, L, heads, head width]."""

    key: Tensor
    value: Tensor


def text_keys(attn: PRXAttention, text_states: Float[Tensor, "B L D"]) -> TextKeys:
    """The text's keys and values in the block that `attn` belongs to. They depend on neither the image nor the time."""
    key, value = attn.txt_kv_proj(text_states).unflatten(-1, (2, attn.heads, attn.head_dim)).unbind(2)
    return TextKeys(attn.norm_added_k(key), value)


class JointAttention:
    """A processor for `PRXTransformer2DModel.set_attn_processor`: image tokens ask, text and image tokens answer.

    Equal to diffusers' PRXAttnProcessor2_0, on a CPU to the bit. `encoder_hidden_states` may also be the block's
    TextKeys, `image_rotary_emb` also the complex table of `phases_of`. attention_mask: [B, L], False at padding.
    """

    # Read and written by diffusers' set_attention_backend and by its context parallelism.
    _attention_backend = None
    _parallel_config = None

    def __call__(
        self,
        attn: PRXAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | TextKeys,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Tensor | None = None,
        **_unused: Any,
    ) -> Tensor:
        from diffusers.models.attention_dispatch import dispatch_attention_fn

        states = encoder_hidden_states
        text = states if isinstance(states, TextKeys) else text_keys(attn, states)
        query, key, value = attn.img_qkv_proj(hidden_states).unflatten(-1, (3, attn.heads, attn.head_dim)).unbind(2)
        query, key = attn.norm_q(query), attn.norm_k(key)
        if image_rotary_emb is not None:
            phases = image_rotary_emb if image_rotary_emb.is_complex() else phases_of(image_rotary_emb)
            query, key = turned(query, phases), turned(key, phases)
        mixed = dispatch_attention_fn(
            query,
            torch.cat([text.key, key], dim=1),
            torch.cat([text.value, value], dim=1),
            attn_mask=None if attention_mask is None else joint_mask(attention_mask, num_image_tokens=query.shape[1]),
            backend=self._attention_backend,
            parallel_config=self._parallel_config,
        )
        return attn.to_out[0](mixed.flatten(2))


def joint_mask(text_mask: Tensor, *, num_image_tokens: int) -> Tensor:
    """[B, L] -> bool [B, 1, 1, L + N]: every image token may be looked at."""
    visible = text_mask.new_ones((text_mask.shape[0], num_image_tokens), dtype=torch.bool)
    return torch.cat([text_mask.bool(), visible], dim=1)[:, None, None, :]


def phases_of(table: Float[Tensor, "b 1 N half 2 2"]) -> Tensor:
    """diffusers' table of rotation matrices [[cos, -sin], [sin, cos]] as cos + i sin: complex [b, N, 1, half]."""
    return torch.complex(table[..., 0, 0], table[..., 1, 0]).transpose(1, 2)


def turned(tokens: Float[Tensor, "B N heads width"], phases: Tensor) -> Float[Tensor, "B N heads width"]:
    """Neighbouring pairs of `tokens`, each turned by its angle, in fp32 (arXiv 2104.09864)."""
    pairs = tokens.float().unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling() and tokens.is_cuda:
        return _turned_as_reals(pairs, phases).type_as(tokens)
    return torch.view_as_real(torch.view_as_complex(pairs) * phases).flatten(-2).type_as(tokens)


def _turned_as_reals(pairs: Tensor, phases: Tensor) -> Tensor:
    """The same, for inductor: it fuses this into its neighbours and cannot fuse complex numbers.

    On a CPU that does not pay: its loops over neighbouring pairs are not vectorised, ATen's complex product is.
    """
    (first, second), (cos, sin) = pairs.unbind(-1), torch.view_as_real(phases).unbind(-1)
    return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)
