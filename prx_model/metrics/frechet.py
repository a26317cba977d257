"""Frechet distance between two sets of feature vectors, in float64 on the CPU.

With m and S the mean and the unbiased covariance of a set: d^2 = |m1 - m2|^2 + Tr(S1 + S2 - 2 (S1 S2)^(1/2)), the
squared 2-Wasserstein distance of two Gaussians (Dowson and Landau 1982; on Inception-v3 features it is FID, arXiv
1706.08500).

With S1 = R R', S1 S2 has the eigenvalues of the symmetric R' S2 R, and the trace of its root is the sum of their roots.
R belongs to the reference and is found once. At 2048 dimensions a value then takes 1.4 s of one core, against 4.4 s
for the eigenvalues of the product, which has no symmetry, and minutes for its root.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Float64
from torch import Tensor

# A direction whose variance is this small a part of the largest one is rounding noise; whitening would blow it up.
SMALLEST_VARIANCE_SHARE = 1e-10
# The product of two covariances has a feature's fourth power in it. It must stay finite: asked for the eigenvalues of a
# matrix with an infinity or a NaN in it, LAPACK can end the process instead of raising.
LARGEST_FEATURE = 1e60


def check_more_samples_than_dimensions(num_samples: int, num_dimensions: int, of: str) -> None:
    """ValueError unless a covariance can have full rank: with fewer samples the distance has a large floor."""
    if num_samples <= num_dimensions:
        raise ValueError(
            f"{num_samples} {of} samples for a Frechet distance in {num_dimensions} dimensions; "
            f"more than {num_dimensions} are needed. "
            "Take more samples, a metric on fewer principal directions, or an unbiased MMD"
        )


def _in_float64(features: Float[Tensor, "n F"]) -> Float64[Tensor, "n F"]:
    """On the CPU and without a graph. Raises FloatingPointError on numbers that no covariance survives."""
    features = features.detach().cpu().double()
    if not bool((features.abs() <= LARGEST_FEATURE).all()):  # NaN is not
        raise FloatingPointError(f"a feature is not finite, or above {LARGEST_FEATURE:g}")
    return features


@dataclass(frozen=True, kw_only=True)
class ReferenceMoments:
    """What the Frechet distance knows of a set: mean [F] and unbiased covariance [F, F], float64, of `num_samples`."""

    mean: Float64[Tensor, " F"]
    covariance: Float64[Tensor, "F F"]
    num_samples: int

    @classmethod
    def fit(cls, features: Float[Tensor, "n F"]) -> ReferenceMoments:
        """Moments of `features`. Raises ValueError unless there are more samples than dimensions."""
        num_samples, width = features.shape
        check_more_samples_than_dimensions(num_samples, width, "reference")
        features = _in_float64(features)
        return cls(mean=features.mean(dim=0), covariance=covariance(features), num_samples=num_samples)

    @cached_property
    def root(self) -> Float64[Tensor, "F F"]:
        """A matrix R with R R' = covariance, found when it is first asked for."""
        variances, directions = torch.linalg.eigh(self.covariance)
        return directions * variances.clamp_min(0).sqrt()


@dataclass(frozen=True, kw_only=True)
class PrincipalDirections:
    """The k directions in which a reference varies most, whitened: in them it has mean 0 and covariance 1.

    mean: [F]; projection: [F, k], a direction divided by its standard deviation in each column; float64.
    """

    mean: Float64[Tensor, " F"]
    projection: Float64[Tensor, "F k"]

    @classmethod
    def fit(cls, reference: Float[Tensor, "n F"], k: int) -> PrincipalDirections:
        """Raises ValueError if k is not in 1..F, or the reference has too few samples or too little variety for k."""
        num_samples, width = reference.shape
        if not 1 <= k <= width:
            raise ValueError(f"{k} principal directions of {width}-wide features; allowed: 1 to {width}")
        check_more_samples_than_dimensions(num_samples, k, "reference")
        reference = _in_float64(reference)
        variances, directions = torch.linalg.eigh(covariance(reference))  # ascending
        variances, directions = variances[-k:].flip(0), directions[:, -k:].flip(1)
        usable = int((variances > SMALLEST_VARIANCE_SHARE * variances[0].clamp_min(0)).sum())
        if usable < k:
            raise ValueError(
                f"the reference varies in {usable} directions, {k} were asked for; "
                "take fewer directions or more different reference images"
            )
        return cls(mean=reference.mean(dim=0), projection=directions / variances.sqrt())

    def project(self, features: Float[Tensor, "n F"]) -> Float64[Tensor, "n k"]:
        return (_in_float64(features) - self.mean) @ self.projection


class FrechetDistance:
    """Distance of feature sets to one reference, in squared feature units.

        frechet = FrechetDistance(width)
        frechet.fit(reference_features)
        frechet.distance(features)

    Biased upward at small n, so only distances of equal n compare. Runs on the CPU, in float64, without gradients.
    """

    def __init__(self, width: int, reference: ReferenceMoments | None = None) -> None:
        """`reference`: moments that were fitted before, instead of a call of fit()."""
        if width < 1:
            raise ValueError(f"width {width} of a Frechet distance; allowed: 1 or more")
        self.width = width
        self.reference = reference

    def fit(self, features: Float[Tensor, "n F"]) -> ReferenceMoments:
        """Measure from these features from now on. Raises ValueError on another width, or unless n > width."""
        check_width(features, self.width)
        self.reference = ReferenceMoments.fit(features)
        return self.reference

    def running(self) -> RunningFrechet:
        """The distance of a set that is still growing, empty so far. Raises ValueError without a reference."""
        if self.reference is None:
            raise ValueError("a Frechet distance without a reference; call fit() with the reference's features first")
        return RunningFrechet(self.reference)

    def distance(self, features: Float[Tensor, "n F"]) -> float:
        """Raises ValueError without a reference, on another width, or unless n > width."""
        return self.running().add(features).value()


def check_width(features: Tensor, width: int) -> None:
    if features.ndim != 2 or features.shape[1] != width:
        raise ValueError(f"features of shape {tuple(features.shape)}; expected [n, {width}]")


class RunningFrechet:
    """Frechet distance of a growing set to a reference: sums of the features and of their products are kept."""

    def __init__(self, reference: ReferenceMoments) -> None:
        self.reference = reference
        self.width = len(reference.mean)
        self.num_samples = 0
        self._sum = torch.zeros_like(reference.mean)
        self._products = torch.zeros_like(reference.covariance)

    @torch.no_grad()
    def add(self, features: Float[Tensor, "n F"]) -> RunningFrechet:
        """Let `features` join the set. Raises ValueError on another width, FloatingPointError on numbers too large."""
        check_width(features, self.width)
        # From the reference's mean, the sums stay small: little is lost where the mean is taken off again.
        centred = _in_float64(features) - self.reference.mean
        self._sum += centred.sum(dim=0)
        self._products += centred.T @ centred
        self.num_samples += len(features)
        return self

    @torch.no_grad()
    def value(self) -> float:
        """The distance of the set as it is. Raises ValueError unless it has more samples than dimensions."""
        check_more_samples_than_dimensions(self.num_samples, self.width, "generated")
        gap = self._sum / self.num_samples
        generated = (self._products - self.num_samples * torch.outer(gap, gap)) / (self.num_samples - 1)
        reference, root = self.reference.covariance, self.reference.root
        product = root.T @ generated @ root
        # Rounding makes the eigenvalues that should be 0 a little negative.
        roots = torch.linalg.eigvalsh((product + product.T) / 2).clamp_min(0).sqrt()
        return float(gap.square().sum() + reference.trace() + generated.trace() - 2 * roots.sum())


def covariance(features: Float64[Tensor, "n F"]) -> Float64[Tensor, "F F"]:
    """Unbiased covariance of the columns."""
    centred = features - features.mean(dim=0)
    return centred.T @ centred / (features.shape[0] - 1)
