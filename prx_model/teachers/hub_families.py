"""Vision encoders of the Hugging Face hub as maps from pixels to patch tokens, one rule per model family.

Tokens are taken after the model's final norm, class and register tokens dropped, row-major.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prx_model.pretrained import IMAGENET_MEAN, IMAGENET_STD, Frozen, Normalize

Rgb = tuple[float, float, float]
CLIP_MEAN: Rgb = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Rgb = (0.26862954, 0.26130258, 0.27577711)
HALF: Rgb = (0.5, 0.5, 0.5)


def _plain(model: Any, pixels: Tensor) -> Tensor:
    return model(pixel_values=pixels).last_hidden_state


def _interpolated(model: Any, pixels: Tensor) -> Tensor:
    return model(pixel_values=pixels, interpolate_pos_encoding=True).last_hidden_state


def _clip(model: Any, pixels: Tensor) -> Tensor:
    # CLIPVisionModel normalises the class token alone.
    return model.post_layernorm(_interpolated(model, pixels))


def _mae(model: Any, pixels: Tensor) -> Tensor:
    # ViTMAE drops and SHUFFLES patches at random, also in eval mode, by the order of `noise`: rising noise keeps the
    # order, and a ratio of 0 keeps every patch.
    model.config.mask_ratio = 0.0
    num_tokens = (pixels.shape[-2] // model.config.patch_size) * (pixels.shape[-1] // model.config.patch_size)
    noise = torch.arange(num_tokens, dtype=torch.float32, device=pixels.device).expand(len(pixels), -1)
    return model(pixel_values=pixels, noise=noise, interpolate_pos_encoding=True).last_hidden_state


@dataclass(frozen=True, kw_only=True)
class HubFamily:
    """How one family of models is loaded and read.

    model_class: name of the transformers class. run: (model, normalised pixels) -> all tokens after the final norm.
    class_token: whether a class token comes first; register tokens follow it if the model's config counts any.
    """

    model_class: str
    mean: Rgb
    std: Rgb
    run: Callable[[Any, Tensor], Tensor]
    class_token: bool = True

    @property
    def preprocessing(self) -> str:
        """The part of a fingerprint that says what happens to pixels and which output is read."""
        return f"{self.model_class} mean={self.mean} std={self.std} final-norm"


DINOV2_REG = HubFamily(model_class="Dinov2WithRegistersModel", mean=IMAGENET_MEAN, std=IMAGENET_STD, run=_plain)
DINOV3 = HubFamily(model_class="DINOv3ViTModel", mean=IMAGENET_MEAN, std=IMAGENET_STD, run=_plain)
# The fixed-resolution SigLIP 2 checkpoints have the SigLIP 1 architecture; Siglip2VisionModel is for NaFlex ones.
SIGLIP2 = HubFamily(model_class="SiglipVisionModel", mean=HALF, std=HALF, run=_interpolated, class_token=False)
CLIP = HubFamily(model_class="CLIPVisionModel", mean=CLIP_MEAN, std=CLIP_STD, run=_clip)
MAE = HubFamily(model_class="ViTMAEModel", mean=IMAGENET_MEAN, std=IMAGENET_STD, run=_mae)


class HubBackbone(Frozen):
    """A transformers vision model behind its family's normalisation: RGB in [0, 1] -> patch tokens."""

    def __init__(self, family: HubFamily, model: nn.Module) -> None:
        super().__init__()
        self.family = family
        self.model = model
        self.normalize = Normalize(family.mean, family.std)
        config: Any = model.config
        self.num_prefix_tokens = int(family.class_token) + getattr(config, "num_register_tokens", 0)
        self.freeze()

    @torch.no_grad()
    def forward(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N Z"]:
        """H and W multiples of the model's patch size."""
        return self.family.run(self.model, self.normalize(image))[:, self.num_prefix_tokens :]


def layers_of(model: nn.Module) -> list[nn.Module]:
    """A Vision Transformer's layers: its longest list of modules, where nearly all of its arithmetic is."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return list(max(lists, key=len, default=()))


def weights_digest(model: nn.Module) -> str:
    """16 hex digits over all weights, blind to their names, which transformers changes from release to release."""
    digests = []
    for tensor in model.state_dict().values():
        header = f"{tensor.dtype} {tuple(tensor.shape)}".encode()
        data = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
        digests.append(hashlib.sha256(header + hashlib.sha256(data).digest()).digest())
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()[:16]


def load_hub_model(family: HubFamily, source: str, revision: str) -> nn.Module:
    """The model in float32, from the hub, its local cache, or a folder.

    Raises OSError if it cannot be had (with what to do), ValueError if the checkpoint leaves weights of the model
    unset: transformers would fill them with random numbers and only log it.
    """
    import transformers

    model_class = getattr(transformers, family.model_class)
    try:
        model, report = model_class.from_pretrained(
            source, revision=revision, dtype=torch.float32, output_loading_info=True
        )
    except OSError as error:
        raise OSError(
            f"cannot load {source} (revision {revision}): {str(error).splitlines()[0]}; fetch it once on a machine "
            f"with network: `hf download {source}` (if gated, accept its licence there and `hf auth login`), "
            "or point HF_HOME at a cache that has it"
        ) from error
    if report["missing_keys"] or report["mismatched_keys"]:
        unset = sorted([*report["missing_keys"], *map(str, report["mismatched_keys"])])
        raise ValueError(
            f"{source} does not fill {len(unset)} weights of {family.model_class}, e.g. {unset[0]}; "
            "name a checkpoint of that class"
        )
    return model
