"""The checkpoints of one run: at every moment the newest that is whole can be found, whatever was killed when.

In a folder, a checkpoint is filled under another name and then renamed. In object storage, where nothing can be
renamed, a list of its files with their sha256 is written last, and without that list it is none.

The hashes find out accidents, not somebody who may write to the storage: what such a person leaves is loaded. So
loading never runs code (see saved_state).
"""

from __future__ import annotations

import logging
import re
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from prx_model.data.durable import flush_folder
from prx_model.training.distributed import Workers
from prx_model.training.object_storage import Bucket, TornError

logger = logging.getLogger(__name__)

PREFIX = "checkpoint_"
NAME = re.compile(rf"{PREFIX}\d{{9}}")
# Storage that hashes its files finds out a bad one when it is too late to write it again: one is kept in reserve.
KEPT_IN_FOLDER, KEPT_IN_BUCKET = 1, 2
MESSAGE_CHARACTERS = 500

Write = Callable[[Path], None]


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read, in one line; raised by all workers, wherever it happened."""


class Checkpoints:
    """Saving and finding the checkpoints of one run. All workers make every call together.

    location: a folder that all workers see, or an address such as 's3://bucket/run' (with the credentials, endpoint and
        region that AWS's own tools find).
    scratch: a folder on this node's disk for what goes to or comes from an address; a folder needs none.
    """

    def __init__(self, location: str | Path, workers: Workers, *, scratch: Path | None = None) -> None:
        self.location = location
        self.workers = workers
        self._folder: _Folder | None = None
        self._bucket: Bucket | None = None
        if "://" not in str(location):
            self._folder = _Folder(Path(location))
            return
        if scratch is None:
            raise ValueError(f"scratch: got None, checkpoints at {location} need a folder on the node's disk")
        self._bucket = Bucket(str(location), NAME, scratch)

    @property
    def has_reserve(self) -> bool:
        """Whether more than the newest is kept."""
        return self._bucket is not None

    def save(self, step: int, write: Write) -> None:
        """Let `write` fill the folder of this step's checkpoint, then drop older ones.

        write: called on every worker with a folder, in which it leaves this worker's files, flushed to the disk.
        Raises CheckpointError on every worker if it failed on one; the checkpoints before stay as they are.
        """
        name = f"{PREFIX}{step:09d}"
        if self._folder is not None:
            self._save_to_folder(self._folder, name, write)
        elif self._bucket is not None:
            self._save_to_bucket(self._bucket, name, write)

    def latest(self) -> Path | None:
        """The folder of the newest whole checkpoint; from storage, it is first copied to this node's disk and checked.

        One with a torn or changed file is passed over, with a warning, and the one before it is taken.
        """
        if self._folder is not None:
            return self._latest_in_folder(self._folder)
        assert self._bucket is not None
        return self._latest_in_bucket(self._bucket)

    def remove(self, checkpoint: Path) -> None:
        """Remove one that `latest` has returned, for good: nobody can build on it."""
        name = NAME.match(checkpoint.name)
        assert name is not None, checkpoint
        place = self._folder if self._folder is not None else self._bucket
        assert place is not None
        self._first(lambda: place.remove(name.group()))

    def collect(self, *, keep: bool) -> int:
        """Remove all checkpoints; keep: but the newest, and its reserve. Returns the bytes that were freed."""
        if self._folder is not None:
            folder, count = self._folder, KEPT_IN_FOLDER if keep else 0
            return int(self._first(lambda: folder.collect(count)))
        assert self._bucket is not None
        bucket, count = self._bucket, KEPT_IN_BUCKET if keep else 0
        return int(self._first(lambda: bucket.collect(count)))

    def _save_to_folder(self, folder: _Folder, name: str, write: Write) -> None:
        begun = self._first(lambda: folder.begin(name))
        if not begun:
            return  # a checkpoint of the same step, which a resumed run makes again, is the same
        partial = Path(begun)
        try:
            self._together(lambda: _write_to(partial, write))
            self._first(lambda: folder.finish(partial, name))
        except CheckpointError:
            if self.workers.rank == 0:
                shutil.rmtree(partial, ignore_errors=True)
            raise

    def _save_to_bucket(self, bucket: Bucket, name: str, write: Write) -> None:
        self._first(lambda: bucket.clear(name))
        with bucket.outbox(self.workers.rank) as outbox:

            def write_and_send() -> str:
                write(outbox)
                return bucket.send(outbox, name)

            sent = self._together(write_and_send)
        self._first(lambda: bucket.complete(name, sent))
        self._first(lambda: bucket.keep_newest(KEPT_IN_BUCKET))

    def _latest_in_folder(self, folder: _Folder) -> Path | None:
        name = self._first(folder.newest)
        if not name:
            return None
        path = folder.path / name
        self._together(lambda: _check_visible(path))
        return path

    def _latest_in_bucket(self, bucket: Bucket) -> Path | None:
        for name in self._first(lambda: " ".join(bucket.complete_names())).split():
            path = self._fetch(bucket, name)
            if path is not None:
                return path
        return None

    def _fetch(self, bucket: Bucket, name: str) -> Path | None:
        """A checkpoint on this node's disk; None on every worker if it is not whole for one of them."""
        fetched: list[Path] = []

        def attempt() -> str:
            try:
                fetched.append(bucket.fetch(name))
            except TornError as error:
                return str(error)
            return ""

        problem = next(filter(None, self._together(attempt)), None)
        if problem is None:
            return fetched[0]
        logger.warning("%s in %s is passed over: %s", name, self.location, problem)
        return None

    def _first(self, attempt: Callable[[], str]) -> str:
        """What rank 0 gets from `attempt`, on every worker."""
        return self._together(attempt if self.workers.rank == 0 else str)[0]

    def _together(self, attempt: Callable[[], str]) -> list[str]:
        """What every worker gets from its `attempt`. Nobody is left waiting: an error of one is raised by all."""
        cause, said = None, ""
        try:
            said = f"+{attempt()}"
        except Exception as error:
            cause, said = error, f"-{type(error).__name__}: {' '.join(str(error).split())[:MESSAGE_CHARACTERS]}"
        answers = [answer.decode() for answer in self.workers.messages(said.encode())]
        failed = {rank: answer[1:] for rank, answer in enumerate(answers) if answer[0] == "-"}
        if failed:
            rank, problem = next(iter(failed.items()))
            who = f"worker {rank}: " if len(failed) < len(answers) else ""
            raise CheckpointError(f"checkpoints in {self.location}: {who}{problem}") from cause
        return [answer[1:] for answer in answers]


class _Folder:
    """Checkpoints in a folder. Called on rank 0 alone; answers are short, for all to hear."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, name: str) -> str:
        """An empty folder to fill, or '' if there is such a checkpoint. What earlier kills have left goes away."""
        for partial in self.path.glob(f".{PREFIX}*.partial"):
            shutil.rmtree(partial, ignore_errors=True)
        if (self.path / name).is_dir():
            return ""
        partial = self.path / f".{name}.{uuid.uuid4().hex[:12]}.partial"
        partial.mkdir(parents=True)
        return str(partial)

    def finish(self, partial: Path, name: str) -> str:
        flush_folder(partial)
        partial.rename(self.path / name)
        flush_folder(self.path)
        for old in self.names()[KEPT_IN_FOLDER:]:
            # Renamed first: it is never seen half deleted.
            rubbish = self.path / f".{old}.old.partial"
            (self.path / old).rename(rubbish)
            shutil.rmtree(rubbish, ignore_errors=True)
        return name

    def remove(self, name: str) -> str:
        shutil.rmtree(self.path / name, ignore_errors=True)
        return ""

    def collect(self, count: int) -> str:
        """Remove all but the newest so many, and what kills have left. Returns the bytes that were freed."""
        kept, freed = self.names()[:count], 0
        for folder in self.path.glob(f"{PREFIX}*"):
            if folder.name not in kept:
                freed += sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
                shutil.rmtree(folder, ignore_errors=True)
        return str(freed)

    def names(self) -> list[str]:
        """Of whole checkpoints, newest first."""
        found = self.path.glob(f"{PREFIX}*")
        return sorted((path.name for path in found if NAME.fullmatch(path.name)), reverse=True)

    def newest(self) -> str:
        return next(iter(self.names()), "")


def _write_to(partial: Path, write: Write) -> str:
    _check_visible(partial)
    write(partial)
    return ""


def _check_visible(path: Path) -> str:
    if not path.is_dir():
        raise ValueError(
            f"this node does not see {path}; allowed is a folder that all workers share, or an s3:// address"
        )
    return ""
