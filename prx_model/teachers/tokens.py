"""Where REPA's tokens come from in a run: a cache, the data set itself, or a teacher that runs beside the training."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from prx_model.compiled import is_compiled
from prx_model.data_source import token_grid
from prx_model.kept import Kept
from prx_model.teachers.online import OnlineTeacher, online_teacher
from prx_model.teachers.table import DeferredTeacher

if TYPE_CHECKING:
    import numpy as np

    from prx_model.data.manifest import Manifest
    from prx_model.data.store import ImageCaptionStore
    from prx_model.data_source import Progress, Store
    from prx_model.experiment_config import ExperimentConfig


@dataclass(frozen=True, kw_only=True, eq=False)
class TeacherTokens:
    """One of the three; none of them in a baseline.

    cached: [n, N, Z] float16 of every training image, for a data set in memory. stored: the name of the teacher whose
    tokens the data set holds. online: makes them of every batch's images.
    """

    cached: np.memmap | None = None
    stored: str | None = None
    online: OnlineTeacher | None = None


def teacher_tokens(
    config: ExperimentConfig, store: Store, cache: Path, kept: Kept, device: torch.device | str
) -> TeacherTokens:
    """The quickest source of exactly the tokens that the settings ask for."""
    from prx_model.data.store import ImageCaptionStore

    if config.repa is None:
        return TeacherTokens()
    if isinstance(store, ImageCaptionStore):
        return TeacherTokens(cached=_cached(config, store, cache, kept))
    if _is_stored(config, store.manifest, kept):
        return TeacherTokens(stored=config.repa.teacher)
    compiled = is_compiled(config.training.compile, torch.device(device))
    return TeacherTokens(online=online_teacher(config.repa, device, kept, compiled=compiled))


def prepare_teacher(
    config: ExperimentConfig, store: Store, cache: Path, kept: Kept, progress: Progress | None = None
) -> None:
    """Compute what a cache can hold; of a teacher that will run beside the training, see that its weights are there."""
    from prx_model.data.store import ImageCaptionStore

    if config.repa is None:
        return
    if isinstance(store, ImageCaptionStore):
        _cached(config, store, cache, kept, progress)
    elif not _is_stored(config, store.manifest, kept):
        _deferred(config.repa.teacher, kept).load()


def _deferred(name: str, kept: Kept) -> DeferredTeacher:
    return kept.get("teacher", name, lambda: DeferredTeacher(name))


def _is_stored(config: ExperimentConfig, manifest: Manifest, kept: Kept) -> bool:
    """Whether the data set holds this teacher's tokens on the model's grid, and they are what it would say today."""
    assert config.repa is not None
    name, grid = config.repa.teacher, token_grid(config, manifest)
    cards = [card for card in manifest.teachers if (card.name, card.grid) == (name, grid)]
    return any(card.fingerprint == _deferred(name, kept).fingerprint for card in cards)


def _cached(
    config: ExperimentConfig, store: ImageCaptionStore, cache: Path, kept: Kept, progress: Progress | None = None
) -> np.memmap:
    from prx_model.teachers.cache import cached_teacher_tokens

    assert config.repa is not None
    name = config.repa.teacher
    return cached_teacher_tokens(
        _deferred(name, kept),
        store.train,
        grid=token_grid(config, store.manifest),
        cache=cache,
        split_fingerprint=store.train.fingerprint,
        progress=None if progress is None else partial(progress, f"teacher {name}: images"),
    )
