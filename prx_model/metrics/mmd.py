"""Squared maximum mean discrepancy with a Gaussian kernel, k(x, y) = exp(-|x - y|^2 / (2 sigma^2)), in float64.

MMD^2 = mean k(x, x') + mean k(y, y') - 2 mean k(x, y) (Gretton et al., JMLR 2012). The biased form averages over all
pairs, a sample with itself included: it is never negative and has a floor of about (1 - mean k)(1/n + 1/m). The
unbiased form leaves those pairs out: it is 0 on average between samples of one distribution, so it can fall below 0.
CMMD (arXiv 2401.09603) is 1000 times the biased form on unit vectors with sigma 10.

Lengths matter: a sigma is chosen for unit vectors or for raw ones. Nothing is normalised here; `unit_vectors` does it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

BLOCK_ROWS = 1024  # rows of the kernel matrix at a time: 30,000 columns are 250 MB, the whole matrix would be 7 GB


def unit_vectors(features: Float[Tensor, "n F"]) -> Float64[Tensor, "n F"]:
    """Each row divided by its Euclidean length. Raises FloatingPointError on a row whose length is 0 or infinite."""
    features = features.detach().double()
    length = features.norm(dim=1, keepdim=True)
    if not bool(((length > 0) & torch.isfinite(length)).all()):
        raise FloatingPointError("a feature vector has length 0 or none that is finite, so it has no direction")
    return features / length


def kernel_sum(x: Float64[Tensor, "n F"], y: Float64[Tensor, "m F"], sigma: float) -> float:
    """Sum of k over all n * m pairs."""
    y_squared = y.square().sum(dim=1)
    total = 0.0
    for rows in x.split(BLOCK_ROWS):
        distance = rows.square().sum(dim=1, keepdim=True) + y_squared - 2 * rows @ y.T
        total += float(torch.exp(distance.clamp_min_(0) / (-2 * sigma**2)).sum())
    return total


def mean_of_pairs(total: float, n: int, unbiased: bool) -> float:
    """Mean of k within a set of n, of its sum over all pairs; `unbiased` leaves out the n of a sample with itself."""
    return (total - n) / (n * (n - 1)) if unbiased else total / n**2


@dataclass(frozen=True, kw_only=True)
class ReferenceKernel:
    """A reference set with the mean of its own kernel, which costs as much as all the rest and never changes.

    features: [m, F] float64, on the CPU.
    """

    features: Float64[Tensor, "m F"]
    sigma: float
    unbiased: bool
    mean_within: float

    @classmethod
    @torch.no_grad()
    def fit(cls, features: Float[Tensor, "m F"], *, sigma: float, unbiased: bool) -> ReferenceKernel:
        """Raises ValueError unless sigma > 0 and there are two samples (one will do for the biased form)."""
        if not sigma > 0:
            raise ValueError(f"sigma {sigma} of a Gaussian kernel; allowed: above 0")
        check_enough_samples(features.shape[0], unbiased, "reference")
        features = features.detach().cpu().double()
        within = mean_of_pairs(kernel_sum(features, features, sigma), len(features), unbiased)
        return cls(features=features, sigma=sigma, unbiased=unbiased, mean_within=within)

    def running(self) -> RunningMMD:
        """The distance of a set that is still growing, empty so far."""
        return RunningMMD(self)

    def distance(self, features: Float[Tensor, "n F"]) -> float:
        """MMD^2 of `features` to the reference. Raises ValueError on another width or too few samples."""
        return self.running().add(features).value()


class RunningMMD:
    """MMD^2 of a growing set to a reference. Every pair of samples is looked at once, when the later one comes."""

    def __init__(self, reference: ReferenceKernel) -> None:
        self.reference = reference
        self.num_samples = 0
        self._features = reference.features[:0]
        self._within = 0.0  # sum of k over all pairs of the set, in both orders, a sample with itself included
        self._between = 0.0  # sum of k over all pairs of a sample and a reference

    @torch.no_grad()
    def add(self, features: Float[Tensor, "n F"]) -> RunningMMD:
        """Let `features` join the set. Raises ValueError on another width."""
        width, sigma = self.reference.features.shape[1], self.reference.sigma
        if features.ndim != 2 or features.shape[1] != width:
            raise ValueError(f"features of shape {tuple(features.shape)}; expected [n, {width}]")
        new = features.detach().cpu().double()
        self._within += 2 * kernel_sum(new, self._features, sigma) + kernel_sum(new, new, sigma)
        self._between += kernel_sum(new, self.reference.features, sigma)
        self._features = torch.cat([self._features, new])
        self.num_samples = len(self._features)
        return self

    def value(self) -> float:
        """MMD^2 of the set as it is. Raises ValueError if it is too small."""
        n, m, unbiased = self.num_samples, len(self.reference.features), self.reference.unbiased
        check_enough_samples(n, unbiased, "generated")
        within = mean_of_pairs(self._within, n, unbiased)
        return within + self.reference.mean_within - 2 * self._between / (n * m)


def least_num_samples(unbiased: bool) -> int:
    """The fewest samples that have an MMD: the unbiased form averages over pairs of two."""
    return 2 if unbiased else 1


def check_enough_samples(num_samples: int, unbiased: bool, of: str) -> None:
    needed = least_num_samples(unbiased)
    if num_samples < needed:
        raise ValueError(f"{num_samples} {of} samples for an MMD; it needs {needed} or more")


def mmd(x: Float[Tensor, "n F"], y: Float[Tensor, "m F"], sigma: float, unbiased: bool) -> float:
    """MMD^2 between two sets. Raises ValueError as `ReferenceKernel` does."""
    return ReferenceKernel.fit(y, sigma=sigma, unbiased=unbiased).distance(x)
