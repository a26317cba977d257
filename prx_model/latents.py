"""Autoencoders as maps between images and scaled latents: the space in which a latent PRX is trained and sampled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from prx_model.hub import HubSource, check_filled, quietly, unavailable
from prx_model.pretrained import Frozen
from prx_model.sampling import pixels_to_images
from prx_model.teachers.hub_families import weights_digest

if TYPE_CHECKING:
    from prx_model.data.manifest import LatentCard

# Short names. Sources: the model cards on the hub, and Photoroom's configs/yamls/vae.
AUTOENCODERS: dict[str, str] = {
    # 8x, 16 channels: the autoencoder of the PRX ablations. Weights Apache-2.0; the hub asks for a login. The one in
    # FLUX.1-dev is the same network under another licence.
    "flux": "black-forest-labs/FLUX.1-schnell:vae",
    # 8x, 16 channels: Flux's, trained on with REPA-E (arXiv 2504.10483).
    "flux_repa_e": "REPA-E/e2e-flux-vae",
    # 32x, 32 channels: the deep-compression autoencoder (arXiv 2410.10733) of PRX's DC-AE models. MIT.
    "dc_f32c32": "mit-han-lab/dc-ae-f32c32-sana-1.1-diffusers",
    # 8x, 16 channels, 5 MB: a small stand-in that shares Flux's latents, for previews and small machines. MIT.
    "taef1": "madebyollin/taef1",
}
KINDS = ("AutoencoderKL", "AutoencoderDC", "AutoencoderTiny")


class LatentSpace(Frozen):
    """A frozen autoencoder behind the scale and shift that diffusers' PRXPipeline undoes before it decodes.

    name: where the weights come from, `load_latent_space` reads it. kind: diffusers' class. revision: commit on the
    hub, '' for a folder. weight_sha256: digest of the weights as loaded, before any cast to `dtype`.
    channels, downsampling: an RGB image of side R has latents [channels, R / downsampling, R / downsampling].
    """

    def __init__(self, vae: nn.Module, *, name: str, revision: str = "", dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        config: Any = vae.config
        _check_config(name, config)
        self.name = name
        self.kind = type(vae).__name__
        self.revision = revision
        self.weight_sha256 = weights_digest(vae)
        self.channels: int = config.latent_channels
        self.downsampling = _downsampling(vae)
        self.scale = float(config.scaling_factor)
        self.shift = float(config.get("shift_factor") or 0.0)  # absent or null where there is none
        self.vae: Any = vae if dtype == vae.dtype else vae.to(dtype)
        self.freeze()

    @torch.no_grad()
    def encode(self, image: UInt8[Tensor, "B 3 R R"]) -> Float[Tensor, "B C h w"]:
        """Scaled latents (z - shift) * scale in float32, at the posterior's mode: the same image, the same latents.

        R is a multiple of `downsampling`. (Photoroom draws from the posterior instead. Its spread is small next to the
        latents', and a stored data set needs one answer.)
        """
        if image.shape[-1] % self.downsampling:
            raise ValueError(
                f"image: got side {image.shape[-1]}, allowed are multiples of {self.downsampling}, "
                f"the downsampling of {self.name}"
            )
        pixels = (image.float() / 127.5 - 1).to(self.vae.dtype)
        with torch.autocast(image.device.type, enabled=False):
            encoded = self.vae.encode(pixels)
        z = encoded.latent_dist.mode() if "latent_dist" in encoded else encoded[0]
        return (z.float() - self.shift) * self.scale

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "B C h w"]) -> UInt8[Tensor, "B 3 R R"]:
        """RGB images of scaled latents, as PRXPipeline decodes them."""
        z = (latents.float() / self.scale + self.shift).to(self.vae.dtype)
        with torch.autocast(latents.device.type, enabled=False):
            pixels = self.vae.decode(z).sample
        return pixels_to_images(pixels)

    def card(self, dtype: str) -> LatentCard:
        """What a data set whose latents are stored as `dtype` ('float16' or 'bfloat16') says of this space."""
        from prx_model.data.manifest import LatentCard

        return LatentCard(
            autoencoder=self.name,
            kind=self.kind,
            revision=self.revision,
            weight_sha256=self.weight_sha256,
            channels=self.channels,
            downsampling=self.downsampling,
            scale=self.scale,
            shift=self.shift,
            dtype=dtype,
        )


def load_latent_space(source: str, revision: str = "main", *, dtype: torch.dtype = torch.float32) -> LatentSpace:
    """The autoencoder at `source`: a name of AUTOENCODERS, 'owner/name', 'owner/name:subfolder', or a folder.

    dtype: what it computes in; latents are float32 in any case. The revision is pinned to the commit found there.
    Raises OSError if it cannot be had (with what to do), ValueError if it is no autoencoder of KINDS, or not whole.
    """
    import diffusers
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    home = HubSource.parse(AUTOENCODERS.get(source, source), revision)
    try:
        # Any class reads any config; which one this is stands in it.
        found: Any = AutoencoderKL.load_config(home.place, return_commit_hash=True, **home.arguments())
    except OSError as error:
        raise unavailable(home, error) from error
    config, commit = found
    kind = config.get("_class_name")
    if kind not in KINDS:
        raise ValueError(
            f"{home} is a {kind}, allowed is one of {', '.join(KINDS)}; or a name: {', '.join(AUTOENCODERS)}"
        )
    home = home.at(commit)
    try:
        with quietly():
            vae, report = getattr(diffusers, kind).from_pretrained(
                home.place,
                torch_dtype=torch.float32,
                output_loading_info=True,
                low_cpu_mem_usage=False,  # would take `accelerate`, and these are small
                **home.arguments(),
            )
    except OSError as error:
        raise unavailable(home, error) from error
    check_filled(home, kind, report)
    return LatentSpace(vae, name=home.name, revision=home.revision, dtype=dtype)


def latent_space_of(card: LatentCard, *, dtype: torch.dtype = torch.float32) -> LatentSpace:
    """The autoencoder that a data set's latents were made with; ValueError if what is found has other weights."""
    space = load_latent_space(card.autoencoder, card.revision or "main", dtype=dtype)
    if (space.weight_sha256, space.scale, space.shift) != (card.weight_sha256, card.scale, card.shift):
        raise ValueError(
            f"{space.name} has weights {space.weight_sha256} with scale {space.scale} and shift {space.shift}, "
            f"the data set was encoded with {card.weight_sha256}, {card.scale} and {card.shift}; "
            "put the autoencoder of the data set back, or encode the data set anew"
        )
    return space


def _check_config(name: str, config: Any) -> None:
    if config.get("latents_mean") is not None or config.get("latents_std") is not None:
        raise ValueError(f"{name}: has a mean and a spread per channel, which PRXPipeline does not undo; name another")
    channels = config.get("in_channels"), config.get("out_channels", config.get("in_channels"))
    if channels != (3, 3):
        raise ValueError(f"{name}: maps {channels[0]} to {channels[1]} image channels, allowed is 3 to 3 (RGB)")


def _downsampling(vae: Any) -> int:
    if hasattr(vae, "spatial_compression_ratio"):
        return vae.spatial_compression_ratio
    # Both as PRXPipeline has it: every stage but one halves the side.
    return 2 ** (len(vae.config.block_out_channels) - 1)
