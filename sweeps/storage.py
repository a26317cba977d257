"""Every path of a sweep, derived from what the sweep is. None of them is a setting."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a trial's driver reads paths too, and is light: the space imports torch
    from sweeps.space import SearchSpace


@dataclass(frozen=True)
class SweepPaths:
    """The folder of one sweep."""

    root: Path

    @classmethod
    def of(cls, space: SearchSpace, results: Path) -> SweepPaths:
        return cls((results / f"{space.name}-{space.profile}-{space.fingerprint}").absolute())

    @property
    def ledger(self) -> Path:
        return self.root / "ledger"

    @property
    def trials(self) -> Path:
        """Checkpoints, a folder per trial."""
        return self.root / "trials"

    @property
    def slots(self) -> Path:
        """Ray Train's own state of each slot; nothing is read back from it."""
        return self.root / "slots"

    @property
    def tune(self) -> Path:
        """Ray Tune's own state of each start; nothing is read back from it."""
        return self.root / "tune"

    @property
    def samples(self) -> Path:
        return self.root / "samples"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def space(self) -> Path:
        """The search-space file as it was when the sweep began."""
        return self.root / "space.yaml"

    @property
    def starts(self) -> Path:
        """One line of provenance for every time that the command was given."""
        return self.root / "starts.jsonl"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def page(self) -> Path:
        return self.root / "index.html"

    @property
    def best_model(self) -> Path:
        return self.root / "best_model"

    def trial_ledger(self, trial: str) -> Path:
        return self.ledger / f"{trial}.jsonl"

    def trial_log(self, trial: str) -> Path:
        return self.logs / f"{trial}.log"

    def trial_folder(self, trial: str) -> Path:
        return self.trials / trial

    def heartbeat(self, trial: str) -> Path:
        return self.logs / f"{trial}.step"

    def trial_lock(self, trial: str) -> Path:
        """Held by the one process that runs the trial."""
        return self.logs / f"{trial}.lock"

    def sample_grid(self, trial: str, step: int) -> Path:
        return self.samples / trial / f"step-{step:07d}.png"

    def create(self) -> None:
        """Make the folders. Raises SpaceError, in one line, where that is not possible."""
        from sweeps.space import SpaceError

        try:
            for folder in (self.ledger, self.trials, self.slots, self.tune, self.samples, self.logs):
                folder.mkdir(parents=True, exist_ok=True)
            probe = self.root / f".writable-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise SpaceError(
                f"--results: cannot write to {self.root}: {error.strerror}; allowed is a writable folder"
            ) from error
