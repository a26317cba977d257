"""One training run as a value, and what it takes to start it: data, teacher, objective, metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from prx_model.distributed import Workers
from prx_model.evaluation import Evaluation
from prx_model.kept import Kept
from prx_model.metrics.samples import check_parts
from prx_model.model import PRX, PRXConfig
from prx_model.objective import TrainingObjective
from prx_model.repa import RepaConfig
from prx_model.sampling import SamplerConfig, pixels_to_images, sample
from prx_model.train_state import TrainState, evaluated_weights
from prx_model.training import train
from prx_model.training_config import TrainingConfig

if TYPE_CHECKING:
    import numpy as np

    from prx_model.data.reader import BatchReader
    from prx_model.data.store import ImageCaptionStore, Split
    from prx_model.metrics.suite import MetricSuite, SuiteResult

Progress = Callable[[str, int, int], None]  # stage, done, total
SOURCES = ("openmoji", "store")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where images and captions come from.

    source: 'openmoji' (drawn and encoded on first use) or 'store' (an encoded data set at `path`).
    resolution: side of the square images in pixels.
    num_heldout: images that are never trained on; their captions are the evaluation's prompts.
    skin_tones: with the skin-tone variants of OpenMoji's people.
    limit: use the first so many drawings only; for tests.
    """

    source: str = "openmoji"
    path: str | None = None
    resolution: int = 32
    num_heldout: int = 512
    max_text_tokens: int = 16
    skin_tones: bool = False
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise ValueError(f"source: got {self.source!r}, allowed is one of {', '.join(SOURCES)}")
        if (self.source == "store") != (self.path is not None):
            raise ValueError(f"path: got {self.path!r}, source 'store' needs one and source 'openmoji' has none")
        for name in ("resolution", "num_heldout", "max_text_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, allowed is an integer of at least 1")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How a model is scored: fixed prompts, fixed noise, fixed n.

    metrics: names of prx_model.metrics' table; all are computed on the same samples.
    num_samples: n. Prompts are the first n held-out captions; n above their number goes round.
    batch_size: samples generated at a time; changes no value of an n.
    nested: parts of num_samples on which the metrics are also given, ascending, so that a caller can do with fewer.
        Each is rounded up to whole batches.
    noise_seed: of the starting noise of sample i, together with i alone.
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


def prepare(config: ExperimentConfig, cache: Path, progress: Progress | None = None, kept: Kept | None = None) -> None:
    """Make every cache that a run of `config` reads: encoded data, teacher tokens, reference features.

    Called once by whoever starts runs, so that runs side by side find all of it. A second call finds it done. Several
    configs in a row share what they have in common through `kept`.
    """
    kept = kept or Kept()
    store = open_store(config.data, cache, progress, kept)
    if config.repa is not None:
        _teacher_tokens(config, store, cache, kept, progress)
    _suite(config, store, cache, "cpu", kept)


def open_store(
    data: DataConfig, cache: Path, progress: Progress | None = None, kept: Kept | None = None
) -> ImageCaptionStore:
    """The encoded data set, made first where the source is one that we can make."""
    from prx_model.data.manifest import Manifest
    from prx_model.data.store import ImageCaptionStore

    folder = _store_folder(data, cache, progress)
    # The fingerprint is read again for every run: a folder that was encoded anew is another data set.
    fingerprint = (folder, Manifest.read(folder).fingerprint)
    return (kept or Kept()).get("store", fingerprint, lambda: ImageCaptionStore.open(folder))


def _store_folder(data: DataConfig, cache: Path, progress: Progress | None) -> Path:
    from prx_model.data.openmoji import OpenMojiSettings, prepare_openmoji

    if data.source == "store":
        assert data.path is not None
        return Path(data.path)
    settings = OpenMojiSettings(
        resolution=data.resolution,
        num_heldout=data.num_heldout,
        max_text_tokens=data.max_text_tokens,
        skin_tones=data.skin_tones,
        limit=data.limit,
    )
    return prepare_openmoji(settings, cache, progress)


def _teacher_tokens(
    config: ExperimentConfig, store: ImageCaptionStore, cache: Path, kept: Kept, progress: Progress | None = None
) -> np.memmap:
    from prx_model.data.teacher_cache import cached_teacher_tokens
    from prx_model.teachers import DeferredTeacher

    assert config.repa is not None
    side, name = config.data.resolution, config.repa.teacher
    report = None if progress is None else partial(progress, f"teacher {name}: images")
    return cached_teacher_tokens(
        kept.get("teacher", name, lambda: DeferredTeacher(name)),
        store.train,
        grid=config.model.token_grid(side, side),
        cache=cache,
        split_fingerprint=store.train.fingerprint,
        progress=report,
    )


def _suite(
    config: ExperimentConfig, store: ImageCaptionStore, cache: Path, device: torch.device | str, kept: Kept
) -> MetricSuite:
    side = config.data.resolution
    fingerprint = (config.evaluation, store.fingerprint, config.model.in_channels, side, cache, str(device))
    return kept.get("suite", fingerprint, lambda: _build_suite(config, store, cache, device))


def _build_suite(
    config: ExperimentConfig, store: ImageCaptionStore, cache: Path, device: torch.device | str
) -> MetricSuite:
    from prx_model.metrics.suite import Prompts, build_suite

    evaluation, heldout = config.evaluation, store.heldout
    prompts = Prompts(text=heldout.text, text_mask=heldout.text_mask, captions=list(heldout.captions))
    return build_suite(
        evaluation.metrics,
        images=_reference_images(heldout),
        images_fingerprint=store.heldout.fingerprint,
        prompts=prompts,
        sample_shape=(config.model.in_channels, config.data.resolution, config.data.resolution),
        noise_seed=evaluation.noise_seed,
        num_samples=evaluation.num_samples,
        batch_size=evaluation.batch_size,
        parts=evaluation.nested,
        cache=cache,
        device=device,
    )


def _reference_images(heldout: Split) -> Tensor:
    """What samples are compared with: the held-out images, whose captions the prompts are."""
    return heldout.images


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A run ready to go: its state at the last step that was saved, and all that it reads."""

    config: ExperimentConfig
    state: TrainState
    reader: BatchReader
    suite: MetricSuite
    workers: Workers

    def evaluations(self) -> Iterator[Evaluation]:
        """Train to the end, evaluation by evaluation, each as far as the caller looks. Break out of it to stop."""
        null_text = self.state.objective.null_text
        config = self.config.evaluation.sampler

        def evaluate(model: PRX) -> Iterator[SuiteResult]:
            def generate(noise: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
                pixels = sample(model, noise, text, text_mask, null_text=null_text, config=config)
                return pixels_to_images(pixels)

            workers = self.workers
            return self.suite.looks(generate, rank=workers.rank, world_size=workers.world_size, gather=workers.gather)

        return train(
            self.state,
            self.reader,
            self.config.training,
            seed=self.config.seed,
            evaluate=evaluate,
            workers=self.workers,
        )


def open_experiment(
    config: ExperimentConfig,
    cache: Path,
    *,
    device: torch.device | str = "cpu",
    workers: Workers | None = None,
    checkpoint: Path | None = None,
    kept: Kept | None = None,
) -> Experiment:
    """Build the run of `config` from the caches that `prepare` has made; go on from `checkpoint` where there is one.

    kept: what earlier runs of this process have loaded. Weights, optimizer and average are always made anew.
    """
    from prx_model.data.reader import BatchReader

    if config.model.in_channels != 3:
        raise ValueError(
            f"model.in_channels: got {config.model.in_channels}, allowed is 3: runs are in pixel space so far"
        )
    kept, workers, batch_size = kept or Kept(), workers or Workers(), config.training.batch_size
    store = open_store(config.data, cache, kept=kept)
    tokens = None if config.repa is None else _teacher_tokens(config, store, cache, kept)
    state = TrainState(build_objective(config, store.null_text).to(device), config.training, workers)
    if checkpoint is not None:
        state.load(checkpoint)
    return Experiment(
        config=config,
        state=state,
        reader=BatchReader(
            store.train, batch_size, config.seed, share=workers.share(batch_size), teacher_tokens=tokens
        ),
        suite=_suite(config, store, cache, device, kept),
        workers=workers,
    )


def build_objective(config: ExperimentConfig, null_text: Tensor) -> TrainingObjective:
    """Fresh weights from config.seed. The model's are drawn first: runs that share a seed share them, REPA or not."""
    from prx_model.teachers import TEACHERS

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        width = None if config.repa is None else TEACHERS[config.repa.teacher].width
        return TrainingObjective(PRX(config.model), null_text, repa=config.repa, teacher_width=width)


def export_model(config: ExperimentConfig, checkpoint: Path, folder: Path) -> None:
    """Write the weights that evaluations scored as a folder for diffusers' PRXTransformer2DModel.from_pretrained."""
    model = PRX(config.model)
    model.load_state_dict(evaluated_weights(checkpoint))
    model.save_pretrained(folder)
