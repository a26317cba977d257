"""The most memory that a trial has held, where its process trains one after another."""

from __future__ import annotations

import logging
import resource
from pathlib import Path

import torch

logger = logging.getLogger("sweeps.worker")


def forget_peak_memory() -> None:
    """Let the peak begin anew, where the system can."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        _write_quietly("/proc/self/clear_refs", "5")


def peak_memory_bytes() -> int:
    """Largest resident size of this process since `forget_peak_memory`; where there is a GPU, of its allocations."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) * 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _write_quietly(path: str, text: str) -> None:
    try:
        Path(path).write_text(text)
    except OSError:
        logger.debug("%s cannot be written: the peak of memory is that of the whole process", path)
