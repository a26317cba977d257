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


def mean_within(features: Float64[Tensor, "n F"], sigma: float, unbiased: bool) -> float:
    """Mean of k over the pairs of one set; `unbiased` leaves out the n pairs of a sample with itself, where k = 1."""
    n = features.shape[0]
    total = kernel_sum(features, features, sigma)
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
        within = mean_within(features, sigma, unbiased)
        return cls(features=features, sigma=sigma, unbiased=unbiased, mean_within=within)

    @torch.no_grad()
    def distance(self, features: Float[Tensor, "n F"]) -> float:
        """MMD^2 of `features` to the reference. Raises ValueError on another width or too few samples."""
        width = self.features.shape[1]
        if features.ndim != 2 or features.shape[1] != width:
            raise ValueError(f"features of shape {tuple(features.shape)}; expected [n, {width}]")
        check_enough_samples(features.shape[0], self.unbiased, "generated")
        features = features.detach().cpu().double()
        between = kernel_sum(features, self.features, self.sigma) / (features.shape[0] * self.features.shape[0])
        return mean_within(features, self.sigma, self.unbiased) + self.mean_within - 2 * between


def check_enough_samples(num_samples: int, unbiased: bool, of: str) -> None:
    needed = 2 if unbiased else 1
    if num_samples < needed:
        raise ValueError(f"{num_samples} {of} samples for an MMD; it needs {needed} or more")


def mmd(x: Float[Tensor, "n F"], y: Float[Tensor, "m F"], sigma: float, unbiased: bool) -> float:
    """MMD^2 between two sets. Raises ValueError as `ReferenceKernel` does."""
    return ReferenceKernel.fit(y, sigma=sigma, unbiased=unbiased).distance(x)
