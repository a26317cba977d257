"""A trial's own error in one line, as its end in the ledger tells it."""

from __future__ import annotations

import traceback
from pathlib import Path

import torch

from prx_model.training.window import DivergedError


def reason_of(error: Exception) -> str:
    """'diverged: ...', 'out of memory: ...', or the error with the line that has raised it."""
    if isinstance(error, DivergedError):
        return f"diverged: {error}"
    if _is_out_of_memory(error):
        return f"out of memory: {' '.join(str(error).split())}"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {' '.join(str(error).split())} ({Path(frame.filename).name}:{frame.lineno})"


def _is_out_of_memory(error: Exception) -> bool:
    # torch's CPU allocator raises a bare RuntimeError.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)
