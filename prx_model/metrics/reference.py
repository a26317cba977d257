"""What metrics know of real images: features cached on disk, and the statistics that are fitted to them once."""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from prx_model.metrics.features import FeatureExtractor
from prx_model.metrics.frechet import FrechetDistance, PrincipalDirections
from prx_model.metrics.mmd import ReferenceKernel, unit_vectors
from prx_model.metrics.table import MetricSpec

BATCH_SIZE = 32


@dataclass(frozen=True, kw_only=True)
class ReferenceStatistics:
    """The real images as one metric sees them; `distance` scores generated ones against them."""

    spec: MetricSpec
    num_images: int
    directions: PrincipalDirections | None
    compare: FrechetDistance | ReferenceKernel

    @classmethod
    def fit(cls, spec: MetricSpec, features: Float[Tensor, "n F"]) -> ReferenceStatistics:
        """Fit `spec`'s statistics to the raw features of real images.

        Raises ValueError if there are too few, FloatingPointError if one is not finite.
        """
        num_images, width = features.shape
        check_finite(features, f"metric {spec.name!r}: the reference's features")
        spec.check_num_samples(num_images, width, "reference")
        features = unit_vectors(features) if spec.l2_normalise else features
        directions = None
        if spec.sigma is not None:
            compare = ReferenceKernel.fit(features, sigma=spec.sigma, unbiased=spec.unbiased)
        else:
            if spec.principal_directions is not None:
                directions = PrincipalDirections.fit(features, spec.principal_directions)
                features = directions.project(features)
            compare = FrechetDistance(features.shape[1])
            compare.fit(features)
        return cls(spec=spec, num_images=num_images, directions=directions, compare=compare)

    def running(self) -> RunningMetric:
        """The metric of a set that is still growing, empty so far."""
        return RunningMetric(self)

    def distance(self, features: Float[Tensor, "n F"]) -> float:
        """The metric's value for the raw features of generated images.

        Raises FloatingPointError if a feature or the value is not finite, ValueError if there are too few.
        """
        return self.running().add(features).value()


class RunningMetric:
    """One metric of a growing set of generated images: `add` what is new, ask for the `value` when it is wanted.

    The value after several additions is that of all of them at once, to rounding; both raise FloatingPointError, with
    the metric's name, if a feature or the value is not finite.
    """

    def __init__(self, statistics: ReferenceStatistics) -> None:
        self.spec = statistics.spec
        self._directions = statistics.directions
        self._distance = statistics.compare.running()
        self._name = f"metric {self.spec.name!r}"

    def add(self, features: Float[Tensor, "n F"]) -> RunningMetric:
        """Let images with these raw features join the set."""
        check_finite(features, f"{self._name}: the generated images' features")
        try:
            features = unit_vectors(features) if self.spec.l2_normalise else features
            features = self._directions.project(features) if self._directions is not None else features
            self._distance.add(features)
        except FloatingPointError as error:
            raise FloatingPointError(f"{self._name}: {error}") from error
        return self

    def value(self) -> float:
        """The metric of the set as it is. Raises ValueError if it is too small: see MetricSpec.least_num_samples."""
        value = self.spec.scale * self._distance.value()
        check_finite(torch.tensor(value), f"{self._name}: its value")
        return value


def check_finite(values: Tensor, what: str) -> None:
    """FloatingPointError if a number is NaN or infinite: a metric that cannot be computed must not leave a hole."""
    bad = int((~torch.isfinite(values)).sum())
    if bad:
        raise FloatingPointError(f"{what}: {bad} of {values.numel()} numbers are not finite")


def reference_features(
    extractor: FeatureExtractor, images: UInt8[Tensor, "n 3 R R"], *, cache: Path, images_fingerprint: str
) -> Float[Tensor, "n F"]:
    """Raw features of the real images on the CPU, from `cache` (a folder) if they were computed before.

    One file for each pair of fingerprints; its writers write the same, so several at a time do no harm. Raises
    ValueError if it holds another number of images, for then `images_fingerprint` does not tell these from others.
    """
    path = cache / f"{extractor.name}-{extractor.fingerprint}-{images_fingerprint}.safetensors"
    features = _read(path)
    if features is None:
        device = next(iter(extractor.state_dict().values())).device
        batches = [extractor(batch.to(device)).cpu() for batch in images.split(BATCH_SIZE)]
        features = torch.cat(batches)
        check_finite(features, f"{extractor.name}'s features of the reference images")
        _write(path, features)
    if features.shape != (len(images), extractor.width):
        raise ValueError(
            f"{path} holds features of shape {tuple(features.shape)}, expected ({len(images)}, {extractor.width}); "
            "give other images another fingerprint"
        )
    return features


def _read(path: Path) -> Tensor | None:
    """The features in a file; None if there is no file, or one that a disk has damaged: they can be computed again."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(path.read_bytes()).get("features")
    except (FileNotFoundError, SafetensorError):
        return None


def _write(path: Path, features: Tensor) -> None:
    """Whole or not at all, even if the machine stops in the middle."""
    from safetensors.torch import save

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(save({"features": features.contiguous()}))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
