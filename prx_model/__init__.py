"""PRX and REPA: model, objective, data, metrics and training, without Ray.

The public names are loaded when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prx_model.batch import Batch
    from prx_model.evaluation import Evaluation
    from prx_model.experiment import (
        DataConfig,
        EvaluationConfig,
        Experiment,
        ExperimentConfig,
        export_model,
        open_experiment,
        prepare,
    )
    from prx_model.model import MODELS, PRX, PRXConfig
    from prx_model.repa import RepaConfig
    from prx_model.sampling import SamplerConfig, sample
    from prx_model.teachers.table import TEACHERS, load_teacher
    from prx_model.training.config import TrainingConfig
    from prx_model.training.loop import train
    from prx_model.training.state import TrainState

_HOMES = {
    "Batch": "batch",
    "DataConfig": "experiment",
    "Evaluation": "evaluation",
    "EvaluationConfig": "experiment",
    "Experiment": "experiment",
    "ExperimentConfig": "experiment",
    "MODELS": "model",
    "PRX": "model",
    "PRXConfig": "model",
    "RepaConfig": "repa",
    "SamplerConfig": "sampling",
    "TEACHERS": "teachers.table",
    "TrainState": "training.state",
    "TrainingConfig": "training.config",
    "export_model": "experiment",
    "load_teacher": "teachers.table",
    "open_experiment": "experiment",
    "prepare": "experiment",
    "sample": "sampling",
    "train": "training.loop",
}

__all__ = [
    "MODELS",
    "PRX",
    "TEACHERS",
    "Batch",
    "DataConfig",
    "Evaluation",
    "EvaluationConfig",
    "Experiment",
    "ExperimentConfig",
    "PRXConfig",
    "RepaConfig",
    "SamplerConfig",
    "TrainState",
    "TrainingConfig",
    "export_model",
    "load_teacher",
    "open_experiment",
    "prepare",
    "sample",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'prx_model' has no attribute {name!r}")
    return getattr(import_module(f"prx_model.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
