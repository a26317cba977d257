"""Two real worker processes over gloo, for tests of what workers do together."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

WAIT_S = 300


def in_two_processes(work: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    """What `work(*arguments)` returns in each of two processes that form a group: tensors and plain values."""
    spawn = multiprocessing.get_context("spawn")
    processes = [
        spawn.Process(target=_enter, args=(rank, str(folder), work, arguments), daemon=True) for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=WAIT_S)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0, 0], codes
    return [torch.load(folder / f"told-{rank}.pt", weights_only=True) for rank in range(2)]


def _enter(rank: int, folder: str, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.save(work(*arguments), Path(folder) / f"told-{rank}.pt")
    torch.distributed.destroy_process_group()
