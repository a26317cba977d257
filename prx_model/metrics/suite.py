"""Scores of a model: fixed prompts and fixed noise in, images through every scoring network once, metric values out.

Sample i is made from noise that (noise_seed, i) alone decide, and from prompt i (prompts repeat if they run out). So
samples do not depend on the batch size or the number of workers, and the first n are the same for every n.

Workers share whole batches: batch j is made by rank j mod world_size. Every batch then has the same rows in it however
many workers there are, and equal batches give equal bits. Every rank calls `generate` equally often, with equal shapes
(a rank without a batch of its own repeats samples, which are dropped), so a model that is sharded over the ranks, or
compiled for one shape, is served too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from prx_model.metrics.features import EXTRACTORS, FeatureExtractor, load_extractor
from prx_model.metrics.reference import ReferenceStatistics, reference_features
from prx_model.metrics.table import check_metrics, metric_spec, network_of

__all__ = [
    "Gather",
    "Generate",
    "MetricSuite",
    "Prompts",
    "SuiteResult",
    "build_suite",
    "check_metrics",
    "network_of",
    "sample_noise",
]

# (noise [B, C, H, W], text [B, L, E], text_mask [B, L]) -> uint8 images [B, 3, R, R]
Generate = Callable[[Tensor, Tensor, Tensor], Tensor]
# Equal tensors [n, ...] of every rank -> [world_size * n, ...] in the order of ranks, on every rank.
Gather = Callable[[Tensor], Tensor]


def _alone(tensor: Tensor) -> Tensor:
    return tensor


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """The captions that a run is scored on, encoded. text: [n, L, E]; text_mask: [n, L], True at real tokens."""

    text: Float[Tensor, "n L E"]
    text_mask: Bool[Tensor, "n L"]
    captions: list[str]

    def __post_init__(self) -> None:
        lengths = (len(self.text), len(self.text_mask), len(self.captions))
        if len(set(lengths)) != 1 or not self.captions:
            raise ValueError(f"texts, masks and captions of prompts: {lengths}; equal numbers, 1 or more, are allowed")

    def __len__(self) -> int:
        return len(self.captions)


@dataclass(frozen=True, kw_only=True)
class SuiteResult:
    """One evaluation.

    values: metric name -> value, every one finite. images: the first samples, for a sample grid, on the CPU.
    sampling_s, scoring_s: seconds that this rank spent in `generate`, and in networks, gathering and distances.
    """

    values: dict[str, float]
    num_samples: int
    images: UInt8[Tensor, "k 3 R R"]
    sampling_s: float
    scoring_s: float


def sample_noise(noise_seed: int, indices: Sequence[int], shape: tuple[int, int, int]) -> Float[Tensor, "B C H W"]:
    """Standard normal noise, float32 on the CPU; row b depends on (noise_seed, indices[b]) and `shape` alone.

    From NumPy's Philox, which takes both numbers as its key. torch's CPU generator keeps 32 bits of a seed: two numbers
    packed into one would lose the first, and hashes of them would collide among some ten thousand samples.
    """
    if noise_seed < 0:
        raise ValueError(f"noise seed {noise_seed}; allowed: 0 or more")
    rows = [
        np.random.Generator(np.random.Philox(key=np.array([noise_seed, i], dtype=np.uint64))).standard_normal(
            shape, dtype=np.float32
        )
        for i in indices
    ]
    return torch.from_numpy(np.stack(rows))


class MetricSuite:
    """Metrics over one set of prompts, noise and real images; build it once and evaluate as often as you like.

    metrics: names in METRICS. extractors: by extractor name, at least those that the metrics look through, on `device`.
    reference: by metric name. sample_shape: (C, H, W) of the noise. num_kept: images kept for the sample grid.

    A batch always has min(batch_size, num_samples) rows; the last one is filled up with samples that are dropped, so
    a num_samples that is a multiple of batch_size * world_size wastes nothing.
    Raises ValueError on an unknown metric, a missing extractor or reference, and on too few samples for a metric.
    """

    def __init__(
        self,
        metrics: Sequence[str],
        *,
        extractors: Mapping[str, FeatureExtractor],
        reference: Mapping[str, ReferenceStatistics],
        prompts: Prompts,
        sample_shape: tuple[int, int, int],
        noise_seed: int,
        num_samples: int,
        batch_size: int,
        num_kept: int = 16,
        device: torch.device | str = "cpu",
    ) -> None:
        check_metrics(metrics)
        self.specs = [metric_spec(name) for name in metrics]
        if min(num_samples, batch_size, num_kept) < 1:
            raise ValueError(
                f"{num_samples} samples in batches of {batch_size}, {num_kept} kept; allowed: 1 or more of each"
            )
        self._check(extractors, reference, num_samples)
        self.extractors = {spec.extractor: extractors[spec.extractor] for spec in self.specs}
        self.reference = {spec.name: reference[spec.name] for spec in self.specs}
        self.prompts = prompts
        self.sample_shape = sample_shape
        self.noise_seed = noise_seed
        self.num_samples = num_samples
        self.batch_size = min(batch_size, num_samples)
        self.num_kept = min(num_kept, num_samples)
        self.device = torch.device(device)

    def _check(
        self,
        extractors: Mapping[str, FeatureExtractor],
        reference: Mapping[str, ReferenceStatistics],
        num_samples: int,
    ) -> None:
        for spec in self.specs:
            if spec.extractor not in extractors or spec.name not in reference:
                raise ValueError(
                    f"metric {spec.name!r} needs the extractor {spec.extractor!r} (given: {sorted(extractors)}) "
                    f"and a reference of its own (given: {sorted(reference)})"
                )
            spec.check_num_samples(num_samples, extractors[spec.extractor].width, "generated")

    @torch.no_grad()
    def evaluate(
        self, generate: Generate, *, rank: int = 0, world_size: int = 1, gather: Gather = _alone
    ) -> SuiteResult:
        """Make the samples and score them.

        rank, world_size, gather: this worker among all; each calls this on an equal suite, and gets equal values.
        Raises FloatingPointError naming the metric if a feature or a value is not finite, on every rank alike.
        """
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} of {world_size} workers; allowed: 0 to {world_size - 1}")
        features: dict[str, list[Tensor]] = {name: [] for name in self.extractors}
        kept: list[Tensor] = []
        sampling_s = scoring_s = 0.0
        for turn in range(self._num_turns(self.num_samples, world_size)):
            started = self._now()
            images = self._generate(generate, turn * world_size + rank)
            sampled = self._now()
            for name, extractor in self.extractors.items():
                features[name].append(extractor(images))
            if turn < self._num_turns(self.num_kept, world_size):
                kept.append(images)
            sampling_s += sampled - started
            scoring_s += self._now() - sampled
        started = self._now()
        values = self._values({name: self._in_order(rows, world_size, gather) for name, rows in features.items()})
        images = self._in_order(kept, world_size, gather)[: self.num_kept]
        return SuiteResult(
            values=values,
            num_samples=self.num_samples,
            images=images.clone(),
            sampling_s=sampling_s,
            scoring_s=scoring_s + self._now() - started,
        )

    def _num_turns(self, num_samples: int, world_size: int) -> int:
        """How often each rank makes a batch until there are `num_samples` samples between them."""
        return -(-num_samples // (self.batch_size * world_size))

    def _generate(self, generate: Generate, batch: int) -> Tensor:
        first = batch * self.batch_size
        # Past the end the first samples come again, only to fill the batch; evaluate() cuts them off.
        indices = [i % self.num_samples for i in range(first, first + self.batch_size)]
        noise = sample_noise(self.noise_seed, indices, self.sample_shape).to(self.device)
        rows = torch.tensor([i % len(self.prompts) for i in indices], device=self.prompts.text.device)
        text, mask = self.prompts.text[rows].to(self.device), self.prompts.text_mask[rows].to(self.device)
        return generate(noise, text, mask)

    def _in_order(self, batches: list[Tensor], world_size: int, gather: Gather) -> Tensor:
        """The rows of every rank's batches in the order of the samples, without those that filled up, on the CPU."""
        rows = gather(torch.cat(batches)).cpu()
        turns = len(batches)
        if len(rows) != world_size * turns * self.batch_size:
            raise ValueError(
                f"gather returned {len(rows)} rows, expected {world_size * turns * self.batch_size}: "
                f"those of all {world_size} workers, in the order of ranks, on every worker"
            )
        by_rank = rows.unflatten(0, (world_size, turns, self.batch_size))
        return by_rank.transpose(0, 1).flatten(0, 2)[: self.num_samples]

    def _values(self, features: dict[str, Tensor]) -> dict[str, float]:
        return {spec.name: self.reference[spec.name].distance(features[spec.extractor]) for spec in self.specs}

    def _now(self) -> float:
        """Seconds, after the device has finished: its time is counted where it was spent."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def build_suite(
    metrics: Sequence[str],
    *,
    images: UInt8[Tensor, "n 3 R R"],
    images_fingerprint: str,
    prompts: Prompts,
    sample_shape: tuple[int, int, int],
    noise_seed: int,
    num_samples: int,
    batch_size: int,
    cache: Path,
    device: torch.device | str = "cpu",
    num_kept: int = 16,
) -> MetricSuite:
    """A suite that measures from `images`: loads the networks, and the images' features from `cache` if they are there.

    images_fingerprint: tells this set of images, in this order, from every other. Raises ValueError as MetricSuite,
    load_extractor and reference_features do.
    """
    check_metrics(metrics)
    specs = [metric_spec(name) for name in metrics]
    for spec in specs:  # before a network is loaded
        spec.check_num_samples(num_samples, EXTRACTORS[spec.extractor].width, "generated")
        spec.check_num_samples(len(images), EXTRACTORS[spec.extractor].width, "reference")
    extractors = {name: load_extractor(name).to(device) for name in dict.fromkeys(spec.extractor for spec in specs)}
    features = {
        name: reference_features(extractor, images, cache=cache, images_fingerprint=images_fingerprint)
        for name, extractor in extractors.items()
    }
    return MetricSuite(
        metrics,
        extractors=extractors,
        reference={spec.name: ReferenceStatistics.fit(spec, features[spec.extractor]) for spec in specs},
        prompts=prompts,
        sample_shape=sample_shape,
        noise_seed=noise_seed,
        num_samples=num_samples,
        batch_size=batch_size,
        num_kept=num_kept,
        device=device,
    )
