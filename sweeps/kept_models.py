"""The models that a sweep keeps: of trials whose last checkpoint is there, and the best one as a diffusers folder."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prx_model.data_source import manifest_of
from prx_model.experiment import trained_model
from prx_model.experiment_config import ExperimentConfig
from prx_model.export import COMPONENTS_FILE, PipelineCard, card_of
from prx_model.text_to_image import TextToImage
from prx_model.training.checkpoints import PREFIX
from sweeps.config import listing
from sweeps.ledger import Ledger, TrialRecord
from sweeps.locations import folders_in
from sweeps.object_path import ObjectPath
from sweeps.recorded import RecordedError
from sweeps.space import SearchSpace
from sweeps.storage import SweepPaths
from sweeps.trial_folder import FETCHED, latest_checkpoint

BEST = "best_model"


def kept(paths: SweepPaths) -> list[str]:
    """Names of the trials whose checkpoint is there, and of the best model."""
    trials = [
        folder.name
        for folder in folders_in(paths.trials)
        if any(inner.name.startswith(PREFIX) for inner in folders_in(folder))
    ]
    return [*trials, *([BEST] if paths.best_model.is_dir() else [])]


@contextmanager
def checkpoint_at(paths: SweepPaths, trial: str) -> Iterator[Path]:
    """The trial's newest checkpoint, on this disk while the body runs. RecordedError, with what there is, if none."""
    record = Ledger(paths).record(trial)
    checkpoint = latest_checkpoint(paths, trial) if record is not None else None
    if checkpoint is None:
        raise RecordedError(_nothing_of(paths, trial, record))
    try:
        yield checkpoint
    finally:
        if isinstance(paths.root, ObjectPath):
            shutil.rmtree(paths.here / FETCHED, ignore_errors=True)


def _nothing_of(paths: SweepPaths, trial: str, record: TrialRecord | None) -> str:
    there = kept(paths)
    have = f"there {'is' if len(there) == 1 else 'are'} {listing(there)}" if there else "there is none of any trial"
    if record is None:
        return f"{paths.root.name}: it has no trial {trial!r}; of models {have}"
    if record.start.reused_from:
        return f"{trial}: its model lies in {record.start.reused_from}, which has trained it; here {have}"
    why = "it has none yet" if record.end is None else "an ended sweep keeps those of its best candidates"
    return f"{trial}: no checkpoint of it ({why}); {have}"


def config_of(space: SearchSpace, record: TrialRecord) -> ExperimentConfig:
    start = record.start
    if record.is_baseline:
        return space.baseline_config(start.seed)
    return space.candidate_config(start.overrides, start.seed)


@contextmanager
def model_of(paths: SweepPaths, space: SearchSpace, trial: str, device: str) -> Iterator[TextToImage]:
    """A trial's model, or the best one, ready to sample. Raises RecordedError where it is not there."""
    if trial == BEST:
        with best_model_at(paths) as folder:
            yield TextToImage.exported(folder, device)
        return
    with checkpoint_at(paths, trial) as checkpoint:
        record = Ledger(paths).record(trial)
        assert record is not None
        config = config_of(space, record)
        model = trained_model(config, checkpoint)
    yield TextToImage(model=model.to(device).eval(), card=_card(paths, config))


@contextmanager
def best_model_at(paths: SweepPaths) -> Iterator[Path]:
    """The folder of the best model, on this disk while the body runs."""
    if not paths.best_model.is_dir():
        raise RecordedError(f"{paths.root.name}: it has no best model yet; of models {listing(kept(paths)) or 'none'}")
    if isinstance(paths.best_model, Path):
        yield paths.best_model
        return
    with tempfile.TemporaryDirectory(prefix="best-model-") as folder:
        for part in paths.best_model.files():
            file = Path(folder) / part.key.removeprefix(f"{paths.best_model.key}/")
            file.parent.mkdir(parents=True, exist_ok=True)
            part.download(file)
        yield Path(folder)


def _card(paths: SweepPaths, config: ExperimentConfig) -> PipelineCard:
    """All trials of a sweep share data and sampler: the best model's card is everybody's."""
    file = paths.best_model / COMPONENTS_FILE
    if file.is_file():
        return card_of(file.read_text(), str(file))
    assert paths.cache is not None
    return PipelineCard.of(manifest_of(config.data, paths.cache), config.evaluation.sampler)
