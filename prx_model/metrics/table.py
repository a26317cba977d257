"""The metrics that a run can be scored by: which network looks, which distance compares. Lower is always better.

The names of published metrics (`fid`, `cmmd`, `dino_mmd`) mean the published definitions. The others are named after
what they are, distance first, network second; no Frechet distance on another network is called FID.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from prx_model.metrics.features import EXTRACTORS
from prx_model.metrics.frechet import check_more_samples_than_dimensions
from prx_model.metrics.mmd import check_enough_samples, least_num_samples
from prx_model.metrics.names import known


@dataclass(frozen=True, kw_only=True)
class MetricSpec:
    """One way of comparing generated images with real ones.

    extractor: a key of EXTRACTORS.
    description: one line for a report.
    l2_normalise: features are divided by their length before anything else.
    principal_directions: a Frechet distance on so many leading directions of the reference, whitened by it. None: all.
    sigma, unbiased: width of an MMD's Gaussian kernel, and its form.
    scale: the value is multiplied by it, as 1000 in CMMD.
    """

    name: str
    extractor: str
    distance: Literal["frechet", "mmd"]
    description: str
    direction: Literal["min"] = "min"
    l2_normalise: bool = False
    principal_directions: int | None = None
    sigma: float | None = None
    unbiased: bool = False
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.distance not in ("frechet", "mmd"):
            raise ValueError(f"metric {self.name!r}: distance {self.distance!r}; allowed: 'frechet', 'mmd'")
        if (self.distance == "mmd") != (self.sigma is not None):
            raise ValueError(f"metric {self.name!r}: sigma {self.sigma} with {self.distance}; only an mmd has one")
        if self.distance == "mmd" and self.principal_directions is not None:
            raise ValueError(f"metric {self.name!r}: principal directions belong to a frechet distance; leave them out")

    def least_num_samples(self, width: int) -> int:
        """The fewest samples that the distance can be computed from, on features that are `width` wide."""
        if self.distance == "frechet":
            return (self.principal_directions or width) + 1
        return least_num_samples(self.unbiased)

    def check_num_samples(self, num_samples: int, width: int, of: str) -> None:
        """ValueError if the distance cannot be computed from so few `of` ('reference', 'generated') samples."""
        if self.distance == "frechet":
            check_more_samples_than_dimensions(num_samples, self.principal_directions or width, of)
        else:
            check_enough_samples(num_samples, self.unbiased, of)


def _laptop_metrics(short: str, extractor: str) -> list[MetricSpec]:
    return [
        MetricSpec(
            name=f"mmd_{short}",
            extractor=extractor,
            distance="mmd",
            l2_normalise=True,
            sigma=1.0,  # measured on emoji to tell settings apart better than 0.3 and 0.5: docs/benchmarks/
            unbiased=True,
            scale=1000,
            description=f"1000 x unbiased MMD^2, sigma 1, unit vectors of {extractor}; about 0 between real and real",
        ),
        MetricSpec(
            name=f"frechet_{short}_pc32",
            extractor=extractor,
            distance="frechet",
            principal_directions=32,
            description=f"Frechet distance in the reference's 32 leading whitened directions of {extractor}; not FID",
        ),
    ]


def _unit_mmd(name: str, extractor: str, unbiased: bool, description: str) -> MetricSpec:
    return MetricSpec(
        name=name,
        extractor=extractor,
        distance="mmd",
        l2_normalise=True,
        sigma=10.0,
        unbiased=unbiased,
        scale=1000,
        description=description,
    )


_METRICS = (
    MetricSpec(
        name="fid",
        extractor="inception_v3_fid",
        distance="frechet",
        description="FID (arXiv 1706.08500): Frechet distance on Inception-v3's pool3; only equal n compare",
    ),
    _unit_mmd(
        "cmmd", "clip_vitl14_336", False, "CMMD (arXiv 2401.09603): 1000 x biased MMD^2, sigma 10, CLIP ViT-L/14"
    ),
    _unit_mmd("cmmd_unbiased", "clip_vitl14_336", True, "CMMD without its floor at small n"),
    _unit_mmd("dino_mmd", "dinov2_vitl14_reg_cls", False, "CMMD's distance on the class token of DINOv2 ViT-L/14-reg"),
    _unit_mmd("dino_mmd_unbiased", "dinov2_vitl14_reg_cls", True, "DINO-MMD without its floor at small n"),
    *_laptop_metrics("lite0", "efficientnet_lite0_pool"),
    *_laptop_metrics("opennsfw", "open_nsfw_resnet50_pool"),
    *_laptop_metrics("vgg", "vgg16_hed_pool"),
)
METRICS: dict[str, MetricSpec] = {spec.name: spec for spec in _METRICS}


def metric_spec(name: str) -> MetricSpec:
    """The metric of that name. Raises ValueError with the known names, the nearest first."""
    return known(METRICS, name, "metric")


def check_metrics(metrics: Sequence[str]) -> None:
    """ValueError unless these are one or more known names, none of them twice."""
    if not metrics:
        raise ValueError(f"no metrics; name one or more of {', '.join(sorted(METRICS))}")
    for name in metrics:
        metric_spec(name)
    twice = sorted({name for name in metrics if list(metrics).count(name) > 1})
    if twice:
        raise ValueError(f"metrics named twice: {', '.join(twice)}; name each once")


def network_of(metric: str) -> str:
    """The network behind a metric, in the words of TEACHERS where a teacher is made of the same weights.

    A run aligned to a network must not be scored by it. Raises ValueError on an unknown metric.
    """
    return EXTRACTORS[metric_spec(metric).extractor].network
