"""What a trial writes beside its ledger: log, checkpoints, sample grids."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from torch import Tensor

from prx_model.training.checkpoints import Checkpoints
from prx_model.training.distributed import Workers
from sweeps.locations import Location, write_whole
from sweeps.object_path import ObjectPath
from sweeps.storage import SweepPaths

FETCHED = "checkpoints"  # on the node's disk: on their way to S3 or from there


def checkpoints_of(paths: SweepPaths, trial: str, workers: Workers) -> Checkpoints:
    place = paths.trial_folder(trial)
    return Checkpoints(str(place), workers, scratch=None if isinstance(place, Path) else paths.here / FETCHED)


def latest_checkpoint(paths: SweepPaths, trial: str) -> Path | None:
    """The newest whole checkpoint of a trial, on this disk."""
    return checkpoints_of(paths, trial, Workers()).latest()


def grid_columns(count: int) -> int:
    """Of a sample grid of so many images."""
    return max(1, round(count**0.5))


def save_samples(images: Tensor, path: Location) -> None:
    """A square-ish grid of uint8 images [k, 3, R, R] as PNG, made visible as a whole."""
    import torch
    from PIL import Image

    count, _, side, _ = images.shape
    columns = grid_columns(count)
    rows = -(-count // columns)
    grid = torch.full((3, rows * (side + 1) - 1, columns * (side + 1) - 1), 255, dtype=torch.uint8)
    for i, image in enumerate(images):
        top, left = (i // columns) * (side + 1), (i % columns) * (side + 1)
        grid[:, top : top + side, left : left + side] = image
    content = io.BytesIO()
    Image.fromarray(grid.permute(1, 2, 0).cpu().numpy()).save(content, format="png")
    write_whole(path, content.getvalue())


@contextmanager
def log_to(paths: SweepPaths, trial: str, rank: int, logger: logging.Logger) -> Iterator[Callable[[], None]]:
    """Send what `logger` says, and warnings of others, to the trial's own file.

    Yields what to call now and then: a sweep in S3 has its logs on the node's disk first, from where they are sent, at
    the end too. On a disk all workers write into one file; in S3 those beside rank 0 have their own.
    """
    target = paths.trial_log(trial if isinstance(paths.root, Path) or rank == 0 else f"{trial}-rank{rank}")
    path = target if isinstance(target, Path) else _begun(target, paths.here / "logs" / target.name)
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root, previous = logging.getLogger(), logger.level
    root.addHandler(handler)
    logger.setLevel(logging.INFO)

    def send() -> None:
        if isinstance(target, ObjectPath):
            with suppress(OSError):  # what is in the way is told by what matters more
                target.write_bytes(path.read_bytes())

    try:
        yield send
    finally:
        root.removeHandler(handler)
        logger.setLevel(previous)
        handler.close()
        send()


def _begun(target: ObjectPath, path: Path) -> Path:
    """The log on this disk, with what the trial has logged on other nodes, and what could not be sent from here."""
    there = target.read_tagged()
    sent = there.content if there is not None else b""
    kept = path.read_bytes() if path.is_file() else b""
    if not kept.startswith(sent):
        write_whole(path, sent)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
