"""What metrics know of real images: features cached on disk, and the statistics that are fitted to them once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import torch
from jaxtyping import Float
from torch import Tensor

from prx_model.data.durable import exclusive, sweep_partials, write_file
from prx_model.data.heldout import HeldOut
from prx_model.metrics.features import FeatureExtractor
from prx_model.metrics.frechet import FrechetDistance, PrincipalDirections
from prx_model.metrics.mmd import ReferenceKernel, unit_vectors
from prx_model.metrics.table import MetricSpec

BATCH_SIZE = 32
Progress = Callable[[str, int, int], None]  # stage, done, total


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
    extractor: FeatureExtractor, heldout: HeldOut, *, cache: Path, progress: Progress | None = None
) -> Float[Tensor, "n F"]:
    """Raw features of the held-out images on the CPU, from `cache` (a folder) if they were computed before.

    One file for each pair of fingerprints, the extractor's and the images'. Processes that want the same one take
    turns, so that the first computes it and the others read; `progress` is told the stage, and images done and to do.
    Raises ValueError if the file holds another number of images, for then a fingerprint does not tell these from
    others.
    """
    path = cache / f"{extractor.name}-{extractor.fingerprint}-{heldout.fingerprint}.safetensors"
    features = _read(path)
    if features is None:
        with exclusive(path):
            features = _read(path)
            if features is None:
                sweep_partials(path)
                features = _compute(extractor, heldout, progress)
                write_file(path, partial(_write, features))
    if features.shape != (len(heldout), extractor.width):
        raise ValueError(
            f"{path} holds features of shape {tuple(features.shape)}, expected ({len(heldout)}, {extractor.width}); "
            "give other images another fingerprint"
        )
    return features


def _compute(extractor: FeatureExtractor, heldout: HeldOut, progress: Progress | None) -> Tensor:
    num_images, device = len(heldout), next(iter(extractor.state_dict().values())).device
    features = torch.empty(num_images, extractor.width)

    def keep(start: int, batch: Tensor) -> None:
        features[start : start + len(batch)] = batch.cpu()
        if progress is not None:
            progress(f"reference features, {extractor.name}: images", start + len(batch), num_images)

    # A batch is taken off the device when the images after it have been read: a GPU computes meanwhile.
    waiting: tuple[int, Tensor] | None = None
    for start in range(0, num_images, BATCH_SIZE):
        images = heldout.images_of(range(start, min(start + BATCH_SIZE, num_images)))
        if waiting is not None:
            keep(*waiting)
        waiting = (start, extractor(images.to(device)))
    assert waiting is not None, "no held-out images"
    keep(*waiting)
    check_finite(features, f"{extractor.name}'s features of the reference images")
    return features


def _read(path: Path) -> Tensor | None:
    """The features in a file; None if there is no file, or one that a disk has damaged: they can be computed again."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(path.read_bytes()).get("features")
    except (FileNotFoundError, SafetensorError):
        return None


def _write(features: Tensor, file: BinaryIO) -> None:
    from safetensors.torch import save

    file.write(save({"features": features}))
