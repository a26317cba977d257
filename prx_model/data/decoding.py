"""Rows of open row groups as tensors, each value copied once, from its file into the batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from prx_model.data.groups import OpenGroup
from prx_model.data.manifest import Manifest, TeacherCard
from prx_model.data.shards import TORCH_DTYPES, decode_image

Place = tuple[OpenGroup, int]  # a row of a group


def texts_at(places: Sequence[Place], manifest: Manifest) -> tuple[Float[Tensor, "k L E"], Bool[Tensor, "k L"]]:
    """Token states in the dtype in which they are stored, zeros past their ends. L is the longest text's length."""
    dtype, width, longest = TORCH_DTYPES[manifest.text_dtype], manifest.text_encoder.width, manifest.longest_text
    token_bytes = width * dtype.itemsize
    # NumPy's zeros come from the system as they are: unlike torch's, they cost nothing where no text is written.
    raw = np.zeros((len(places), longest * token_bytes), np.uint8)
    lengths = np.empty(len(places), np.int64)
    for index, (group, row) in enumerate(places):
        lengths[index] = length = int(group.num_text_tokens[row])
        if not 1 <= length <= longest:
            raise ValueError(f"{group.name}: a text has {length} tokens, the manifest says 1 to {longest}")
        group.text_into(row, memoryview(raw[index])[: length * token_bytes])
    text = torch.from_numpy(raw).view(dtype).reshape(len(places), longest, width)
    return text, torch.arange(longest)[None, :] < torch.from_numpy(lengths)[:, None]


def latents_at(places: Sequence[Place], manifest: Manifest) -> Float[Tensor, "k C h w"]:
    """Latents in the dtype in which they are stored."""
    card = manifest.latents
    assert card is not None
    side = manifest.resolution // card.downsampling
    return _numbers_at(places, "latent", (card.channels, side, side), TORCH_DTYPES[card.dtype])


def teacher_tokens_at(places: Sequence[Place], card: TeacherCard) -> Float[Tensor, "k N Z"]:
    """A stored teacher's tokens, float16."""
    return _numbers_at(places, f"teacher_{card.name}", (card.grid[0] * card.grid[1], card.width), torch.float16)


def images_at(places: Sequence[Place], resolution: int) -> UInt8[Tensor, "k 3 R R"]:
    """Decoded images. ValueError, with the file's name, where one is corrupt or of another size."""
    images = torch.empty(len(places), 3, resolution, resolution, dtype=torch.uint8)
    for index, (group, row) in enumerate(places):
        try:
            image = decode_image(group.image(row))
            if image.shape != images.shape[1:]:
                raise ValueError(f"image is {image.shape[2]}x{image.shape[1]}, the manifest says {resolution} a side")
        except ValueError as error:
            raise ValueError(f"{group.name}: row {group.strings('key')[row]!r}: {error}; encode it again") from error
        images[index] = image
    return images


def _numbers_at(places: Sequence[Place], column: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    raw = np.empty((len(places), int(np.prod(shape)) * dtype.itemsize), np.uint8)
    for index, (group, row) in enumerate(places):
        group.numbers_into(column, row, memoryview(raw[index]))
    return torch.from_numpy(raw).view(dtype).reshape(len(places), *shape)
