"""The settings of one training run as a value."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from prx_model.metrics.samples import check_parts
from prx_model.model import PRXConfig
from prx_model.repa import RepaConfig
from prx_model.sampling import SamplerConfig
from prx_model.training.config import TrainingConfig

SOURCES = ("openmoji", "store")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where images and captions come from.

    source: 'openmoji' (drawn and encoded on first use, held in memory) or 'store' (an encoded data set, streamed).
    path: of the store: a folder, or 's3://bucket/prefix'.
    resolution: side of the square images in pixels. A store has one, and says so if this is another.
    num_heldout: images that are never trained on; their captions are the evaluation's prompts. Of a store, the first so
        many of those that it holds out.
    max_text_tokens: where captions are cut. A store was encoded with one, and says so if this is another.
    cache_gb: room on the disk for what has been read of a store on S3, in 10^9 bytes; a local one takes none.
    shuffle_rows: images of a store among which one changes places with another, beyond the order of its row groups.
    skin_tones: with the skin-tone variants of OpenMoji's people.
    limit: use the first so many drawings only; for tests.
    """

    source: str = "openmoji"
    path: str | None = None
    resolution: int = 32
    num_heldout: int = 512
    max_text_tokens: int = 16
    cache_gb: float = 100.0
    shuffle_rows: int = 4096
    skin_tones: bool = False
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise ValueError(f"source: got {self.source!r}, allowed is one of {', '.join(SOURCES)}")
        if (self.source == "store") != (self.path is not None):
            raise ValueError(f"path: got {self.path!r}, source 'store' needs one and source 'openmoji' has none")
        for name in ("resolution", "num_heldout", "max_text_tokens", "shuffle_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, allowed is an integer of at least 1")
        if not 0 < self.cache_gb < math.inf:
            raise ValueError(f"cache_gb: got {self.cache_gb}, allowed is a finite number above 0")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How a model is scored: fixed prompts, fixed noise, fixed n.

    metrics: names of prx_model.metrics' table; all are computed on the same samples.
    num_samples: n. Prompts are the first n held-out captions; n above their number goes round.
    batch_size: samples generated at a time; changes no value of an n.
    nested: parts of num_samples on which the metrics are also given, ascending, so that a caller can do with fewer.
        Each is rounded up to whole batches.
    noise_seed: of the starting noise of sample i, together with i alone.
    sampler: how samples are made.
    """

    metrics: tuple[str, ...] = ("fid", "cmmd", "dino_mmd")
    num_samples: int = 10_000
    batch_size: int = 128
    nested: tuple[float, ...] = (0.125, 0.25, 0.5)
    noise_seed: int = 0
    sampler: SamplerConfig = field(default_factory=SamplerConfig)

    def __post_init__(self) -> None:
        if not self.metrics:
            raise ValueError("metrics: got none, at least one is needed")
        for name in ("num_samples", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, allowed is an integer of at least 1")
        check_parts(self.nested, "nested")


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """One run. `repa` None is the baseline. `seed` decides initial weights, data order, times, noise and dropout."""

    model: PRXConfig = field(default_factory=PRXConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    repa: RepaConfig | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.repa is not None and self.repa.depth > self.model.depth:
            raise ValueError(
                f"repa.depth: got {self.repa.depth}, allowed is 1 to {self.model.depth}, the model's blocks"
            )
