"""Which trackers are shown a sweep: `trackers:` of a search-space file. They change no result, and no fingerprint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from sweeps.config import ConfigError, build, listing, nearest, shown

MODES = ("online", "offline")


@dataclass(frozen=True, kw_only=True)
class TensorBoard:
    """A folder `tensorboard` in the sweep's results, a run for each trial.

    images: with the trials' sample grids.
    """

    images: bool = True


@dataclass(frozen=True, kw_only=True)
class MLflow:
    """A run for each trial, found again by its tags.

    uri: of the tracking server or database; null is what mlflow itself takes (MLFLOW_TRACKING_URI). Names and passwords
    belong into its environment variables. experiment: null is the name of the sweep's folder.
    """

    uri: str | None = None
    experiment: str | None = None

    def __post_init__(self) -> None:
        if self.uri is not None and "@" in (urlsplit(self.uri).netloc or ""):
            raise ValueError("uri: got one with a password, allowed is one without: set MLFLOW_TRACKING_PASSWORD")


@dataclass(frozen=True, kw_only=True)
class Wandb:
    """A run for each trial, in a group for the sweep. wandb finds its key itself (WANDB_API_KEY, `wandb login`).

    project: null is what wandb itself takes (WANDB_PROJECT). entity: null is the account's own. mode: 'online', or
    'offline', which writes to the driver's disk, for `wandb sync`.
    """

    project: str | None = None
    entity: str | None = None
    mode: str = "online"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode: got {self.mode!r}, allowed is {listing(MODES)}")


@dataclass(frozen=True, kw_only=True)
class Trackers:
    """Where else a sweep is shown while it runs. In a file also a list of names: `trackers: [tensorboard, mlflow]`.

    tensorboard: event files in the sweep's folder; null is off, `{}` its defaults. mlflow, wandb: likewise, a run per
    trial.
    """

    tensorboard: TensorBoard | None = None
    mlflow: MLflow | None = None
    wandb: Wandb | None = None

    @property
    def on(self) -> list[str]:
        return [field.name for field in fields(self) if getattr(self, field.name) is not None]


PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}


def trackers_of(value: Any) -> Trackers:
    """Of what stands in a file. Raises ConfigError."""
    if value is None:
        return Trackers()
    if isinstance(value, list):
        for i, name in enumerate(value):
            if not isinstance(name, str) or name not in PACKAGES:
                raise ConfigError(f"trackers[{i}]", f"got {shown(name)}{nearest(str(name), PACKAGES)}")
        value = {name: {} for name in value}
    if not isinstance(value, Mapping):
        raise ConfigError("trackers", f"got {shown(value)}, allowed is a list or a section of {listing(PACKAGES)}")
    return build(Trackers, value, "trackers")


def check_installed(trackers: Trackers) -> None:
    """Raise ValueError, in one line, where a package is missing."""
    for name in trackers.on:
        if find_spec(PACKAGES[name]) is None:
            raise ValueError(f"trackers: {name} needs `pip install {PACKAGES[name]}`, or take it out of the file")
