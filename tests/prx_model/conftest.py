from __future__ import annotations

from pathlib import Path

import pytest

from prx_model.data.openmoji import OpenMojiSettings, prepare_openmoji
from prx_model.data.store import ImageCaptionStore

SMALL = OpenMojiSettings(limit=96, num_heldout=24)


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """96 real drawings with real names and real text states, prepared once. Tests must not write into it."""
    return prepare_openmoji(SMALL, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def small_store(small_folder: Path) -> ImageCaptionStore:
    return ImageCaptionStore.open(small_folder)
