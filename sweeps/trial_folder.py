"""What a trial writes beside its ledger: log, heartbeat, checkpoints, sample grids."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from torch import Tensor

from prx_model.training.checkpoints import Checkpoints
from prx_model.training.distributed import Workers
from sweeps.storage import SweepPaths

HEARTBEAT_S = 2.0


def latest_checkpoint(paths: SweepPaths, trial: str) -> Path | None:
    """The newest whole checkpoint of a trial."""
    return Checkpoints(paths.trial_folder(trial), Workers()).latest()


def save_samples(images: Tensor, path: Path) -> None:
    """A square-ish grid of uint8 images [k, 3, R, R] as PNG, made visible as a whole."""
    import torch
    from PIL import Image

    count, _, side, _ = images.shape
    columns = max(1, round(count**0.5))
    rows = -(-count // columns)
    grid = torch.full((3, rows * (side + 1) - 1, columns * (side + 1) - 1), 255, dtype=torch.uint8)
    for i, image in enumerate(images):
        top, left = (i // columns) * (side + 1), (i % columns) * (side + 1)
        grid[:, top : top + side, left : left + side] = image
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    Image.fromarray(grid.permute(1, 2, 0).cpu().numpy()).save(unfinished, format="png")
    unfinished.replace(path)


@contextmanager
def heartbeat(paths: SweepPaths, trial: str, step: Callable[[], int]) -> Iterator[None]:
    """Write the step every few seconds, so that progress shows between evaluations."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(HEARTBEAT_S):
            with suppress(OSError):  # a full disk is told by what matters more
                paths.heartbeat(trial).write_text(str(step()))

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def log_to(path: Path, logger: logging.Logger) -> Iterator[None]:
    """Send what `logger` says, and warnings of others, to the trial's own file."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root, previous = logging.getLogger(), logger.level
    root.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        logger.setLevel(previous)
        handler.close()
