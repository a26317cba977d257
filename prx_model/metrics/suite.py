"""Scores of a model: fixed prompts and fixed noise in, images through every scoring network once, metric values out.

An evaluation is looked at several times while its samples are made, on the first n of them for nested n: a caller who
knows enough after a few samples asks for no more. What samples are, and how workers share them: `samples`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from prx_model.data.heldout import HeldOut
from prx_model.metrics.features import EXTRACTORS, FeatureExtractor, load_extractor
from prx_model.metrics.reference import Progress, ReferenceStatistics, reference_features
from prx_model.metrics.samples import (
    Gather,
    Generate,
    SharedSamples,
    alone,
    check_parts,
    nested_counts,
    sample_noise,
)
from prx_model.metrics.table import check_metrics, metric_spec, network_of

__all__ = [
    "Gather",
    "Generate",
    "MetricSuite",
    "SuiteResult",
    "build_suite",
    "check_metrics",
    "check_parts",
    "nested_counts",
    "network_of",
    "sample_noise",
]


@dataclass(frozen=True, kw_only=True)
class SuiteResult:
    """One look at an evaluation: its metrics on the first `num_samples` samples.

    values: metric name -> value, every one finite; a metric that needs more samples is left out.
    images: the first samples, for a sample grid, on the CPU.
    sampling_s, scoring_s: seconds that this rank spent in `generate`, and in networks, gathering and distances, from
        the beginning of the evaluation.
    """

    values: dict[str, float]
    num_samples: int
    images: UInt8[Tensor, "k 3 R R"]
    sampling_s: float
    scoring_s: float


class MetricSuite:
    """Metrics over one set of prompts, noise and real images; build it once and evaluate as often as you like.

    metrics: names in METRICS. extractors: by extractor name, at least those that the metrics look through, on `device`.
    reference: by metric name. prompts: sample i has caption i, from the first again when they run out.
    sample_shape: (C, H, W) of the noise. num_kept: images kept for the sample grid.
    parts: of num_samples, after which an evaluation is looked at, ascending; all of them always are. `counts` are the
        numbers of samples that come of it, the same for any number of workers: see nested_counts.

    A batch always has min(batch_size, num_samples) rows; the last one is filled up with samples that are dropped, so
    a num_samples that is a multiple of batch_size * world_size wastes nothing.
    Raises ValueError on an unknown metric, a missing extractor or reference, impossible parts, and on too few samples
    for a metric.
    """

    def __init__(
        self,
        metrics: Sequence[str],
        *,
        extractors: Mapping[str, FeatureExtractor],
        reference: Mapping[str, ReferenceStatistics],
        prompts: HeldOut,
        sample_shape: tuple[int, int, int],
        noise_seed: int,
        num_samples: int,
        batch_size: int,
        parts: Sequence[float] = (),
        num_kept: int = 16,
        device: torch.device | str = "cpu",
    ) -> None:
        check_metrics(metrics)
        self.specs = [metric_spec(name) for name in metrics]
        if min(num_samples, batch_size, num_kept) < 1:
            raise ValueError(
                f"{num_samples} samples in batches of {batch_size}, {num_kept} kept; allowed: 1 or more of each"
            )
        if not len(prompts):
            raise ValueError("0 captions to sample from; allowed: 1 or more")
        self._check(extractors, reference, num_samples)
        self.extractors = {spec.extractor: extractors[spec.extractor] for spec in self.specs}
        self.reference = {spec.name: reference[spec.name] for spec in self.specs}
        self.prompts = prompts
        self.sample_shape = sample_shape
        self.noise_seed = noise_seed
        self.num_samples = num_samples
        self.batch_size = min(batch_size, num_samples)
        self.counts = nested_counts(num_samples, self.batch_size, parts)
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

    def kept_prompts(self) -> list[str]:
        """Captions of the images that a look keeps, in their order; read from the data set."""
        captions = self.prompts.captions
        return [captions[i % len(captions)] for i in range(self.num_kept)]

    def looks(
        self, generate: Generate, *, rank: int = 0, world_size: int = 1, gather: Gather = alone
    ) -> Iterator[SuiteResult]:
        """Make samples and score them, one result for each of `counts`; the last has every metric on all samples.

        Lazy: `generate` is called only while a result is waited for, and never again once nobody asks. Several workers
        may be left with batches that they made in the same turn for the look after it.
        rank, world_size, gather: this worker among all. Each calls this on an equal suite, gets equal results, and
        must ask for equally many: a worker that asks for one more waits for the others in `gather` for ever.
        Raises FloatingPointError naming the metric if a feature or a value is not finite, on every rank alike.
        """
        samples = SharedSamples(
            generate=generate,
            prompts=self.prompts,
            sample_shape=self.sample_shape,
            noise_seed=self.noise_seed,
            num_samples=self.num_samples,
            batch_size=self.batch_size,
            device=self.device,
            rank=rank,
            world_size=world_size,
            gather=gather,
        )
        progress = _Progress(self, samples)
        return (progress.look(count) for count in self.counts)

    def evaluate(
        self, generate: Generate, *, rank: int = 0, world_size: int = 1, gather: Gather = alone
    ) -> SuiteResult:
        """The last of `looks`: every metric on all samples."""
        *_, last = self.looks(generate, rank=rank, world_size=world_size, gather=gather)
        return last


class _Progress:
    """One evaluation under way on one worker; nothing of it outlives the evaluation.

    Batches that are made in the same turn as the last one of a look, but belong to a later look, wait for it.
    """

    def __init__(self, suite: MetricSuite, samples: SharedSamples) -> None:
        self.suite = suite
        self.samples = samples
        self.features = {name: _Rows(samples, suite.num_samples) for name in suite.extractors}
        self.images = _Rows(samples, suite.num_kept)
        self.distances = {name: statistics.running() for name, statistics in suite.reference.items()}
        self.num_scored = 0
        self.sampling_s = 0.0
        self.scoring_s = 0.0

    @torch.no_grad()
    def look(self, count: int) -> SuiteResult:
        """The metrics on the first `count` samples, which are more than at the look before."""
        while self.samples.made < count:
            self._take_turn()
        started = self._now()
        values = self._values(count)
        images = self.images.first(min(count, self.suite.num_kept)).clone()
        self.scoring_s += self._now() - started
        return SuiteResult(
            values=values, num_samples=count, images=images, sampling_s=self.sampling_s, scoring_s=self.scoring_s
        )

    def _take_turn(self) -> None:
        started = self._now()
        is_kept = self.samples.made < self.suite.num_kept
        images = self.samples.next_batch()
        sampled = self._now()
        for name, extractor in self.suite.extractors.items():
            self.features[name].add(extractor(images))
        if is_kept:
            self.images.add(images)
        self.sampling_s += sampled - started
        self.scoring_s += self._now() - sampled

    def _values(self, count: int) -> dict[str, float]:
        """Only the samples since the look before are added, in one block: values do not depend on who made them."""
        features = {name: rows.first(count)[self.num_scored :] for name, rows in self.features.items()}
        values = {}
        for spec in self.suite.specs:
            distance = self.distances[spec.name].add(features[spec.extractor])
            if count >= spec.least_num_samples(self.suite.extractors[spec.extractor].width):
                values[spec.name] = distance.value()
        self.num_scored = count
        return values

    def _now(self) -> float:
        """Seconds, after the device has finished: its time is counted where it was spent."""
        if self.suite.device.type == "cuda":
            torch.cuda.synchronize(self.suite.device)
        return time.perf_counter()


class _Rows:
    """The first `most` rows that belong to samples, made by all ranks, in the order of the samples.

    They are gathered batch by batch and kept on the CPU, in room that is made once: a device never holds more than one
    turn's rows of all ranks, however many samples there are.
    """

    def __init__(self, samples: SharedSamples, most: int) -> None:
        self.samples = samples
        self.most = most
        self.count = 0
        self._rows: Tensor | None = None

    def add(self, batch: Tensor) -> None:
        """The rows of this rank's batch of a turn; every rank adds as many. Those past `most` are dropped."""
        rows = self.samples.in_order(batch)
        if self._rows is None:
            self._rows = rows.new_empty(self.most, *rows.shape[1:])
        rows = rows[: self.most - self.count]
        self._rows[self.count : self.count + len(rows)] = rows
        self.count += len(rows)

    def first(self, count: int) -> Tensor:
        assert self._rows is not None
        assert count <= self.count, f"{count} of {self.count} rows"
        return self._rows[:count]


def build_suite(
    metrics: Sequence[str],
    *,
    heldout: HeldOut,
    sample_shape: tuple[int, int, int],
    noise_seed: int,
    num_samples: int,
    batch_size: int,
    cache: Path,
    parts: Sequence[float] = (),
    device: torch.device | str = "cpu",
    num_kept: int = 16,
    progress: Progress | None = None,
) -> MetricSuite:
    """A suite whose prompts are the captions of `heldout` and whose reference is its images.

    Loads the networks, and the images' features from `cache` if they are there; else they are computed on `device`
    first, with a call of `progress` after every batch. Raises ValueError as MetricSuite, load_extractor and
    reference_features do.
    """
    check_metrics(metrics)
    specs = [metric_spec(name) for name in metrics]
    for spec in specs:  # before a network is loaded
        spec.check_num_samples(num_samples, EXTRACTORS[spec.extractor].width, "generated")
        spec.check_num_samples(len(heldout), EXTRACTORS[spec.extractor].width, "reference")
    extractors = {name: load_extractor(name).to(device) for name in dict.fromkeys(spec.extractor for spec in specs)}
    features = {
        name: reference_features(extractor, heldout, cache=cache, progress=progress)
        for name, extractor in extractors.items()
    }
    return MetricSuite(
        metrics,
        extractors=extractors,
        reference={spec.name: ReferenceStatistics.fit(spec, features[spec.extractor]) for spec in specs},
        prompts=heldout,
        sample_shape=sample_shape,
        noise_seed=noise_seed,
        num_samples=num_samples,
        batch_size=batch_size,
        parts=parts,
        num_kept=num_kept,
        device=device,
    )
