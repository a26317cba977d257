"""One training run, evaluation by evaluation, and what it takes to start it: data, teacher, objective, metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from prx_model.data_source import Progress, batches_of, check_fits, manifest_of, open_store
from prx_model.evaluation import Evaluation, Pause
from prx_model.experiment_config import SOURCES, DataConfig, EvaluationConfig, ExperimentConfig
from prx_model.kept import Kept
from prx_model.model import PRX
from prx_model.objective import TrainingObjective
from prx_model.sampling import sample
from prx_model.teachers.tokens import prepare_teacher, teacher_tokens
from prx_model.training.distributed import Workers
from prx_model.training.loop import Batches, train
from prx_model.training.state import TrainState, evaluated_weights
from prx_model.yardstick import latent_space, suite_of, to_images

if TYPE_CHECKING:
    from prx_model.latents import LatentSpace
    from prx_model.metrics.suite import MetricSuite, SuiteResult
    from prx_model.model_card import Origin
    from prx_model.teachers.online import OnlineTeacher

__all__ = [
    "SOURCES",
    "DataConfig",
    "EvaluationConfig",
    "Experiment",
    "ExperimentConfig",
    "Progress",
    "build_objective",
    "export_model",
    "open_experiment",
    "open_store",
    "prepare",
    "trained_model",
]


def prepare(
    config: ExperimentConfig,
    cache: Path,
    progress: Progress | None = None,
    kept: Kept | None = None,
    *,
    device: torch.device | str = "cpu",
) -> None:
    """Make every cache that a run of `config` reads, and see that whatever else it needs is there.

    Made are: an encoded OpenMoji, its teacher's tokens, the features of the reference images. Of a streamed data set
    nothing is walked through: it is opened and checked, its autoencoder and the teacher are loaded once.
    Called once by whoever starts runs, so that runs side by side find all of it. A second call finds it done. Several
    configs in a row share what they have in common through `kept`. device: where the reference images' features are
    computed, which takes hours on a CPU at the published sizes.
    """
    kept = kept or Kept()
    store = open_store(config.data, cache, progress, kept)
    check_fits(config, store.manifest)
    latent_space(store, kept, "cpu")
    prepare_teacher(config, store, cache, kept, progress)
    suite_of(config, store, cache, kept, device, progress)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A run ready to go: its state at the last step that was saved, and all that it reads.

    space: turns samples into images, None where the model works in pixels. teacher: makes REPA's tokens where `reader`
    gives none.
    """

    config: ExperimentConfig
    state: TrainState
    reader: Batches
    suite: MetricSuite
    workers: Workers
    space: LatentSpace | None = None
    teacher: OnlineTeacher | None = None

    def evaluations(self, pause_asked: Callable[[], bool] | None = None) -> Iterator[Evaluation | Pause]:
        """Train to the end, evaluation by evaluation, each as far as the caller looks. Break out of it to stop.

        With `checkpoint_every_min`, and where `pause_asked` says so, pauses come between them: moments to save the
        state, with nothing to look at.
        """
        null_text = self.state.objective.null_text
        config, space = self.config.evaluation.sampler, self.space

        def evaluate(model: PRX) -> Iterator[SuiteResult]:
            def generate(noise: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
                return to_images(sample(model, noise, text, text_mask, null_text=null_text, config=config), space)

            workers = self.workers
            return self.suite.looks(generate, rank=workers.rank, world_size=workers.world_size, gather=workers.gather)

        return train(
            self.state,
            self.reader,
            self.config.training,
            seed=self.config.seed,
            evaluate=evaluate,
            workers=self.workers,
            teacher=self.teacher,
            pause_asked=pause_asked,
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
    Raises ValueError, in one line, where settings and data set do not fit, OSError for weights that are missing.
    """
    kept, workers = kept or Kept(), workers or Workers()
    share = workers.share(config.training.batch_size)
    store = open_store(config.data, cache, kept=kept)
    check_fits(config, store.manifest)
    tokens = teacher_tokens(config, store, cache, kept, device)
    state = TrainState(build_objective(config, store.null_text).to(device), config.training, workers)
    if checkpoint is not None:
        state.load(checkpoint)
    return Experiment(
        config=config,
        state=state,
        reader=batches_of(config, store, share, tokens),
        suite=suite_of(config, store, cache, kept, device),
        workers=workers,
        space=latent_space(store, kept, device),
        teacher=tokens.online,
    )


def build_objective(config: ExperimentConfig, null_text: Tensor) -> TrainingObjective:
    """Fresh weights from config.seed. The model's are drawn first: runs that share a seed share them, REPA or not."""
    from prx_model.teachers.table import TEACHERS

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        width = None if config.repa is None else TEACHERS[config.repa.teacher].width
        return TrainingObjective(PRX(config.model), null_text, repa=config.repa, teacher_width=width)


def trained_model(config: ExperimentConfig, checkpoint: Path) -> PRX:
    """The weights that evaluations scored, on the CPU."""
    model = PRX(config.model)
    model.load_state_dict(evaluated_weights(checkpoint))
    return model


def export_model(
    config: ExperimentConfig,
    cache: Path,
    checkpoint: Path,
    folder: Path,
    *,
    components: str | None = None,
    origin: Origin | None = None,
) -> None:
    """Write the weights that evaluations scored as a folder that diffusers' PRXPipeline loads: see export_pipeline.

    cache: that the run was opened with; the data set says there which autoencoder and text encoder it was made with.
    components: 'reference' names them, 'copy' writes them into the folder too; None copies them where they are small
    and at hand. origin: what the model card tells beside data and settings.
    """
    from prx_model.export import PipelineCard, export_pipeline
    from prx_model.model_card import Trained

    model, manifest = trained_model(config, checkpoint), manifest_of(config.data, cache)
    card = PipelineCard.of(manifest, config.evaluation.sampler)
    trained = Trained(
        source=manifest.source,
        fingerprint=manifest.fingerprint,
        num_images=manifest.counts["train"],
        config=config,
        num_parameters=model.num_parameters(),
        origin=origin,
    )
    export_pipeline(model, folder, card, components=components or card.fitting, trained=trained)
