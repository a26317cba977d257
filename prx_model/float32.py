"""How exactly float32 is multiplied: in full by networks that measure, in TF32 by steps that train in bf16."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch.backends import cudnn, mkldnn

# Matrix products and convolutions, on GPUs and on CPUs. Unless it is told not to, torch computes convolutions on a GPU
# in TensorFloat-32, which has 11 bits: features would differ in the third or fourth digit.
_OPERATIONS: tuple[Any, ...] = (
    torch.backends.cuda.matmul,
    cudnn.conv,  # pyright: ignore[reportAttributeAccessIssue]
    cudnn.rnn,
    mkldnn.matmul,  # pyright: ignore[reportAttributeAccessIssue]
    mkldnn.conv,  # pyright: ignore[reportAttributeAccessIssue]
)


@contextmanager
def full_float32() -> Iterator[None]:
    """float32 arithmetic with all its 24 bits inside; on leaving, every setting reads as before.

    The settings belong to the process: other threads must not compute meanwhile.
    """
    with _as_before():
        torch.set_float32_matmul_precision("highest")
        cudnn.allow_tf32 = False
        _set(["ieee"] * len(_OPERATIONS))
        yield


@contextmanager
def tf32_products() -> Iterator[None]:
    """A GPU may round the factors of float32 matrix products to TensorFloat-32 inside: 11 bits, bf16 has 8.

    Products are summed in float32, and take a tenth of the time. On leaving, every setting reads as before.
    """
    with _as_before():
        torch.set_float32_matmul_precision("high")
        yield


@contextmanager
def _as_before() -> Iterator[None]:
    before = [operation.fp32_precision for operation in _OPERATIONS]
    # torch keeps the older settings beside the newer ones and raises where they disagree, in its own kernels too: both
    # are set. Where they disagree already, the older ones cannot be read, and nobody can miss them.
    matmul = convolution = None
    with suppress(RuntimeError):
        matmul = torch.get_float32_matmul_precision()
    with suppress(RuntimeError):
        convolution = cudnn.allow_tf32
    try:
        yield
    finally:
        if matmul is not None:
            torch.set_float32_matmul_precision(matmul)
        if convolution is not None:
            cudnn.allow_tf32 = convolution
        _set(before)


def _set(precisions: list[str]) -> None:
    for operation, precision in zip(_OPERATIONS, precisions, strict=True):
        operation.fp32_precision = precision
