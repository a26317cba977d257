"""Every path of a sweep, derived from what the sweep is. None of them is a setting."""

from __future__ import annotations

import hashlib
import os
import socket
import uuid
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from prx_model.data.patience import StorageError
from sweeps.locations import Location, location
from sweeps.object_path import ObjectPath

if TYPE_CHECKING:  # a trial's driver reads paths too, and is light: the space imports torch
    from sweeps.space import SearchSpace

PICTURES = "pictures"
HASTE_S = (0.5, 1.0, 2.0)  # between tries before anything has started: somebody is waiting for a word


@dataclass(frozen=True)
class SweepPaths:
    """The folder of one sweep, on a disk or in S3.

    cache: of the sweep, on this node's disk; a sweep in S3 keeps there what does not go to S3, or has not yet.
    """

    root: Location
    cache: Path | None = field(default=None, compare=False)

    @classmethod
    def of(cls, space: SearchSpace, results: Location, cache: Path | None = None) -> SweepPaths:
        root = (results / f"{space.name}-{space.profile}-{space.fingerprint}").absolute()
        return cls(root, None if cache is None else cache.absolute())

    @classmethod
    def at(cls, root: str, cache: str | Path | None = None) -> SweepPaths:
        """Of what str(paths.root) has told, or a user. ValueError for an address that is none."""
        return cls(location(root).absolute(), None if cache is None else Path(cache).absolute())

    @property
    def here(self) -> Path:
        """The folder on this node's disk: of a sweep on a disk, its own."""
        if isinstance(self.root, Path):
            return self.root
        assert self.cache is not None, f"{self.root}: a sweep in S3 that runs has a cache"
        # Sweeps of one name may lie in several buckets.
        return self.cache / "sweeps" / f"{self.root.name}-{hashlib.sha256(str(self.root).encode()).hexdigest()[:8]}"

    @property
    def ledger(self) -> Location:
        return self.root / "ledger"

    @property
    def trials(self) -> Location:
        """Checkpoints, a folder per trial."""
        return self.root / "trials"

    @property
    def slots(self) -> Path:
        """Ray Train's own state of each slot, on the driver's disk; nothing is read back from it."""
        return self.here / "slots"

    @property
    def tune(self) -> Path:
        """Ray Tune's own state of each start, on the driver's disk; nothing is read back from it."""
        return self.here / "tune"

    @property
    def samples(self) -> Location:
        return self.root / "samples"

    @property
    def logs(self) -> Location:
        return self.root / "logs"

    @property
    def ray_log(self) -> Path:
        """What Ray prints and logs in the driver, as it is written."""
        return self.here / "logs" / "ray.log"

    @property
    def space(self) -> Location:
        """The search-space file as it was when the sweep began."""
        return self.root / "space.yaml"

    @property
    def starts(self) -> Location:
        """One line of provenance for every time that the command was given."""
        return self.root / "starts.jsonl"

    @property
    def lock(self) -> Location:
        return self.root / "lock"

    @property
    def page(self) -> Location:
        return self.root / "index.html"

    @property
    def markdown(self) -> Location:
        """The page's twin for a repository."""
        return self.root / "page.md"

    @property
    def pictures(self) -> Location:
        """What the twin shows."""
        return self.root / PICTURES

    @property
    def best_model(self) -> Location:
        return self.root / "best_model"

    def trial_ledger(self, trial: str) -> Location:
        return self.ledger / f"{trial}.jsonl"

    def trial_log(self, trial: str) -> Location:
        return self.logs / f"{trial}.log"

    def trial_folder(self, trial: str) -> Location:
        return self.trials / trial

    def heartbeat(self, trial: str) -> Location:
        return self.logs / f"{trial}.step"

    def trial_lock(self, trial: str) -> Location:
        """Held by the one process that runs the trial."""
        return self.logs / f"{trial}.lock"

    def stop_request(self, trial: str) -> Location:
        """Where a person asks for the trial to be stopped (sweeps.stop_requests)."""
        return self.root / "stops" / f"{trial}.json"

    def samples_of(self, trial: str) -> Location:
        return self.samples / trial

    def sample_grid(self, trial: str, step: int) -> Location:
        return self.samples_of(trial) / f"step-{step:07d}.png"

    @property
    def prompts(self) -> Location:
        """Of every sample grid of the sweep (sweeps.prompts)."""
        return self.samples / "prompts.json"

    def create(self) -> None:
        """Make the folders. Raises SpaceError, in one line, where that is not possible."""
        from sweeps.space import SpaceError

        root = self.root
        try:
            for folder in self._folders():
                folder.mkdir(parents=True, exist_ok=True)
            if isinstance(root, Path):
                probe = root / f".writable-{os.getpid()}"
                probe.touch()
                probe.unlink()
        except OSError as error:
            raise SpaceError(
                f"--results: cannot write to {self.here}: {error.strerror}; allowed is a writable folder"
            ) from error
        if isinstance(root, ObjectPath):
            check_writable(root)

    def _folders(self) -> list[Path]:
        """Those that are made: in S3 there are none."""
        folders = (self.ledger, self.trials, self.samples, self.logs, self.slots, self.tune, self.ray_log.parent)
        return [folder for folder in folders if isinstance(folder, Path)]


def check_writable(root: ObjectPath) -> None:
    """Raise SpaceError, in one line, where S3 cannot be written to, read, listed or cleared, or knows no conditions."""
    from sweeps.space import SpaceError

    probe = replace(root, pauses_s=HASTE_S) / f".writable-{socket.gethostname()}-{uuid.uuid4().hex}"
    try:
        made = probe.create(b"1") is not None
        made_twice = probe.create(b"2") is not None or probe.replace(b"3", '"of another"') is not None
        is_listed = probe in probe.parent.files(probe.name)
        probe.remove()
    except StorageError as error:
        allowed = "allowed is s3://bucket/prefix that the AWS settings of this machine reach and may write to"
        raise SpaceError(f"--results: {error}; {allowed}") from error
    if not made or made_twice or not is_listed:
        problem = (
            "this storage ignores conditions of a write (If-None-Match, If-Match): nothing would keep out a second"
        )
        raise SpaceError(f"--results: {root}: {problem} driver; allowed is storage that knows them, as AWS does")
