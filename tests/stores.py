"""Small data sets of format 2 for tests: rows with known content, and whole stores of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prx_model.data.durable import write_file
from prx_model.data.manifest import (
    ImageCard,
    LatentCard,
    Manifest,
    SourceCard,
    TeacherCard,
    TextEncoderCard,
)
from prx_model.data.shards import TORCH_DTYPES, Row, encode_image, write_null_text, write_shards

WIDTH = 4  # of a text token
LONGEST = 5  # tokens of the longest caption


def smooth_image(index: int, side: int = 8) -> Tensor:
    """A colour gradient, another one for each index: uint8 [3, side, side]."""
    ramp = torch.arange(side) * (255 // max(1, side - 1))
    image = torch.stack(
        [ramp.expand(side, side), ramp[:, None].expand(side, side), torch.full((side, side), index % 256)]
    )
    return image.to(torch.uint8)


def make_rows(
    count: int,
    *,
    split: str = "train",
    start: int = 0,
    side: int = 8,
    text_dtype: torch.dtype = torch.bfloat16,
    latent: tuple[int, int, int] | None = (2, 4, 4),
    teachers: Mapping[str, tuple[int, int]] | None = None,
    image_format: str = "png",
    quality: int | None = None,
) -> list[Row]:
    """Rows `start`, `start` + 1, ...: each tensor of row i is filled with numbers that tell i and the place apart."""
    return [
        Row(
            key=f"k{index}",
            caption=f"Åland ’{index}’",
            split=split,  # pyright: ignore[reportArgumentType]
            family="f",
            image=encode_image(smooth_image(index, side), image_format, quality),
            text=_numbers(index, (1 + index % LONGEST, WIDTH)).to(text_dtype),
            latent=None if latent is None else _numbers(index, latent).half(),
            teachers={name: _numbers(index, shape).half() for name, shape in (teachers or {}).items()},
        )
        for index in range(start, start + count)
    ]


def write_store(
    folder: Path,
    *,
    num_train: int = 300,
    num_heldout: int = 10,
    rows_per_shard: int = 100,
    text_dtype: str = "bfloat16",
    latent: tuple[int, int, int] | None = (2, 4, 4),
    teachers: Mapping[str, tuple[int, int]] | None = None,
    train_format: str = "png",
) -> Manifest:
    """A whole data set in `folder`: train rows 0 to num_train - 1 of `make_rows`, held-out rows from there on."""
    folder.mkdir(parents=True, exist_ok=True)
    common: dict[str, Any] = {"text_dtype": TORCH_DTYPES[text_dtype], "latent": latent, "teachers": teachers}
    quality = 90 if train_format == "jpeg" else None
    rows = make_rows(num_train, image_format=train_format, quality=quality, **common)
    rows += make_rows(num_heldout, split="heldout", start=num_train, **common)
    manifest = Manifest(
        source=SourceCard(name="gradients", package="", package_version="", licence="", attribution=""),
        settings={},
        resolution=8,
        max_text_tokens=8,
        longest_text=LONGEST,
        text_encoder=TextEncoderCard(name="numbers", package="", package_version="", weight_sha256="", width=WIDTH),
        text_dtype=text_dtype,
        image=ImageCard(train_format=train_format, heldout_format="png", quality=quality),
        latents=None if latent is None else _latent_card(latent),
        teachers=tuple(
            TeacherCard(name=name, fingerprint="f", grid=(1, shape[0]), width=shape[1])
            for name, shape in (teachers or {}).items()
        ),
        counts={"train": num_train, "heldout": num_heldout},
        cut_captions=0,
        skipped_by_reason={},
        skipped=(),
        shards=write_shards(folder, rows, rows_per_shard=rows_per_shard),
        null_text=write_null_text(folder, _numbers(7, (2, WIDTH)).to(TORCH_DTYPES[text_dtype])),
    )
    write_file(folder / "manifest.json", lambda file: file.write(manifest.to_json().encode()))
    return manifest


def _latent_card(shape: tuple[int, int, int]) -> LatentCard:
    return LatentCard(
        autoencoder="gradients",
        kind="AutoencoderKL",
        revision="",
        weight_sha256="",
        channels=shape[0],
        downsampling=8 // shape[1],
        scale=1.0,
        shift=0.0,
        dtype="float16",
    )


def _numbers(index: int, shape: tuple[int, ...]) -> Tensor:
    """Small numbers that float16 and bfloat16 hold exactly enough to tell rows and places apart."""
    generator = torch.Generator().manual_seed(index)
    return torch.randn(shape, generator=generator)
