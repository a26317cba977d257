"""Batches on their way to the device: a GPU receives the next one while it works on the one before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from prx_model.batch import Batch

MAX_AHEAD = 2  # batches that a GPU may hold: how far its host may run ahead of it


def on_device(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """The batches, in float32 on `device`. Nothing is read before it is asked for."""
    return _through_pinned_memory(batches, device) if device.type == "cuda" else _moved(batches, device)


def _moved(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    for batch in batches:
        yield batch.to(device)


def _through_pinned_memory(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Each batch travels on a stream of its own, beside the steps that the host has already given to the device."""
    transfers = torch.cuda.Stream(device)
    used: deque[Any] = deque()
    for batch in batches:
        with torch.cuda.stream(transfers):
            arriving = _each(batch, Tensor.pin_memory).to(device)
        steps = torch.cuda.current_stream(device)
        steps.wait_stream(transfers)
        for _, tensor in _tensors(arriving):
            if tensor.is_cuda:
                tensor.record_stream(steps)  # its memory is not given away before the step is done with it
        yield arriving
        del arriving
        # The caller has given its step to the device. A host that ran on and on would fill the device with batches.
        used.append(steps.record_event())
        if len(used) == MAX_AHEAD:
            used.popleft().synchronize()


def _each(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    return replace(batch, **{name: change(tensor) for name, tensor in _tensors(batch)})


def _tensors(batch: Batch) -> Iterator[tuple[str, Any]]:
    for field in fields(batch):
        value = getattr(batch, field.name)
        if value is not None:
            yield field.name, value
