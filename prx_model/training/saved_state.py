"""A training state on the disk: whole in one file, or in parts that its workers have written.

Whole: state.pt holds everything. In parts: state.pt holds numbers and settings, and one safetensors file per worker its
part of every tensor, by torch.distributed.checkpoint. Either is read into a state that lies whole on every worker, or
in parts on any number of them.

Nothing that is read can run code: state.pt is unpickled as tensors and plain values alone, safetensors and their
headers are bytes and JSON. (The usual format of torch.distributed.checkpoint is another matter: its `.metadata` is a
pickle, and whoever can write to the bucket could run what they like on every node.)
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prx_model.data.durable import write_file
from prx_model.training.distributed import is_part

FILE = "state.pt"
IN_PARTS = "in_parts"  # a key of state.pt: its tensors are in files beside it

Tree = Any  # dicts and lists of tensors and plain values


def leaves(tree: Tree, path: str = "") -> dict[str, Tensor]:
    """Every tensor in nested dicts and lists under its path: 'optimizer/state/0/exp_avg'."""
    if isinstance(tree, Tensor):
        return {path: tree}
    items = tree.items() if isinstance(tree, Mapping) else enumerate(tree) if isinstance(tree, list | tuple) else ()
    found = {}
    for key, value in items:
        found |= leaves(value, f"{path}/{key}" if path else str(key))
    return found


def write_whole(tree: Tree, folder: Path) -> None:
    """Write state.pt with all that is in `tree`. Raises OSError, with the file, where the disk takes no more."""
    try:
        write_file(folder / FILE, lambda file: torch.save(tree, file))
    except RuntimeError as error:
        # torch tells of the archive that it could not end, and hides why.
        if isinstance(error.__context__, OSError):
            raise OSError(error.__context__.errno, error.__context__.strerror, str(folder / FILE)) from error
        raise


def write_parts(tensors: Tree, rest: Tree, folder: Path, *, rank: int) -> None:
    """Write this worker's part of `tensors`; rank 0 writes `rest` beside it. All workers call it together.

    An error of one is raised by all, as OSError.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    try:
        save(dict(leaves(tensors)), storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))
    except CheckpointException as error:
        worker, (cause, _) = min(error.failures.items())
        raise OSError(f"worker {worker}: {type(cause).__name__}: {cause}") from error
    if rank == 0:
        write_whole({**rest, IN_PARTS: True}, folder)


def read_rest(folder: Path) -> dict[str, Any]:
    """What state.pt holds. Its tensors stay on the disk until they are looked at."""
    return torch.load(folder / FILE, map_location="cpu", mmap=True, weights_only=True)


def names_of(folder: Path) -> dict[str, torch.Size]:
    """The tensors of a saved state and their shapes."""
    rest = read_rest(folder)
    if not rest.get(IN_PARTS):
        return {name: tensor.shape for name, tensor in leaves(rest).items()}
    return {name: entry.size for name, entry in _parts(folder).items()}


@torch.no_grad()
def read_into(targets: Mapping[str, Tensor], folder: Path) -> None:
    """Overwrite tensors, whole or in parts, by those that were saved under their names.

    Each worker reads what it needs and waits for nobody. Raises ValueError where one is missing, torn or of another
    shape.
    """
    rest = read_rest(folder)
    if rest.get(IN_PARTS):
        _read_parts(targets, folder)
        return
    saved = leaves(rest)
    for name, target in targets.items():
        _check(name, target, saved[name].shape if name in saved else None, folder)
        _copy(saved[name], target)


def _read_parts(targets: Mapping[str, Tensor], folder: Path) -> None:
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    saved = _parts(folder)
    for name, target in targets.items():
        entry = saved.get(name)
        _check(name, target, None if entry is None else entry.size, folder)
        if sum(math.prod(chunk.sizes) for chunk in saved[name].chunks) < target.numel():
            raise ValueError(f"checkpoint {folder}: a file with a part of {name} is missing")
    with warnings.catch_warnings():
        # It is meant: no worker needs to know what the others read.
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
        load(dict(targets), storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)


def _parts(folder: Path) -> dict[str, Any]:
    """What the headers of the workers' files say of each tensor: its size, and the chunks that it lies in."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    return dict(HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata)


def _check(name: str, target: Tensor, shape: torch.Size | None, folder: Path) -> None:
    if shape is None:
        raise ValueError(f"checkpoint {folder}: it has no {name}, this run has; their settings differ")
    if shape != target.shape:
        raise ValueError(f"checkpoint {folder}: {name} is {list(shape)}, this run's is {list(target.shape)}")


def _copy(source: Tensor, target: Tensor) -> None:
    if not is_part(target):
        target.copy_(source)
        return
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(target, DTensor)
    # Every worker has the whole source: each takes its part, and none sends anything (src_data_rank None).
    moved = source.to(target.device)
    target.copy_(distribute_tensor(moved, target.device_mesh, target.placements, src_data_rank=None))
