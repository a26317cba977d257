"""Small data sets encoded as a real one is: pictures, text states, an autoencoder's latents, a teacher's tokens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from prx_model.data.durable import write_file
from prx_model.data.manifest import ImageCard, LatentCard, Manifest, SourceCard, TeacherCard, TextEncoderCard
from prx_model.data.shards import Row, encode_image, write_null_text, write_shards
from prx_model.latents import LatentSpace, load_latent_space
from prx_model.teachers.table import TEACHERS, Teacher, load_teacher
from tests.prx_model.teachers.test_hub_families import PATCH, tiny_model

RESOLUTION = 32
TEXT_WIDTH = 12
LONGEST_TEXT = 6
MAX_TEXT_TOKENS = 8


def saved_teacher(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, seed: int = 0) -> None:
    """A tiny DINOv2 with registers in `folder`, and in the table of teachers under `name`."""
    tiny_model("dinov2_vits14_reg", seed).save_pretrained(folder)
    spec = replace(TEACHERS["dinov2_vits14_reg"], name=name, source=str(folder), width=32, patch=PATCH)
    monkeypatch.setitem(TEACHERS, name, spec)


def picture(index: int) -> Tensor:
    """Soft colours, others for each index: uint8 [3, R, R]."""
    coarse = torch.rand(1, 3, 5, 5, generator=torch.Generator().manual_seed(index))
    image = functional.interpolate(coarse, size=(RESOLUTION, RESOLUTION), mode="bicubic", align_corners=False)[0]
    return (image.clamp(0, 1) * 255).round().to(torch.uint8)


def text_of(index: int) -> Tensor:
    generator = torch.Generator().manual_seed(10_000 + index)
    return torch.randn(1 + index % LONGEST_TEXT, TEXT_WIDTH, generator=generator).half()


def encoded_store(
    folder: Path,
    *,
    autoencoder: str | None = None,
    teacher: str | None = None,
    grid: tuple[int, int] = (2, 2),
    num_train: int = 140,
    num_heldout: int = 12,
    changes: dict[str, Any] | None = None,
) -> Manifest:
    """A data set of pixels, or of the latents of the autoencoder saved in a folder; with a teacher's tokens, if named.

    changes: of the manifest's fields, to make one that says something else.
    """
    folder.mkdir(parents=True)
    space = None if autoencoder is None else load_latent_space(autoencoder)
    tokens = None if teacher is None else load_teacher(teacher)
    splits = ["train"] * num_train + ["heldout"] * num_heldout
    rows = [_row(index, split, space, tokens, grid) for index, split in enumerate(splits)]
    fields: dict[str, Any] = {
        "source": SourceCard(name="soft colours", package="", package_version="", licence="CC0", attribution=""),
        "settings": {},
        "resolution": RESOLUTION,
        "max_text_tokens": MAX_TEXT_TOKENS,
        "longest_text": LONGEST_TEXT,
        "text_encoder": TextEncoderCard(
            name="random", package="", package_version="", weight_sha256="", width=TEXT_WIDTH
        ),
        "text_dtype": "float16",
        "image": ImageCard(train_format="png", heldout_format="png", quality=None),
        "latents": None if space is None else space.card("float16"),
        "teachers": () if tokens is None else (_card(tokens, grid),),
        "counts": {"train": num_train, "heldout": num_heldout},
        "cut_captions": 0,
        "skipped_by_reason": {},
        "skipped": (),
        "shards": write_shards(folder, rows, rows_per_shard=100),
        "null_text": write_null_text(folder, torch.ones(1, TEXT_WIDTH).half()),
    }
    manifest = Manifest(**(fields | (changes or {})))
    write_file(folder / "manifest.json", lambda file: file.write(manifest.to_json().encode()))
    return manifest


def other_weights(card: LatentCard) -> LatentCard:
    return replace(card, weight_sha256="0" * 16)


def _row(index: int, split: Any, space: LatentSpace | None, teacher: Teacher | None, grid: tuple[int, int]) -> Row:
    image = picture(index)
    return Row(
        key=str(index),
        caption=f"picture {index}",
        split=split,
        image=encode_image(image, "png"),
        text=text_of(index),
        latent=None if space is None else space.encode(image[None])[0].half(),
        teachers={} if teacher is None else {teacher.name: teacher(image[None], grid)[0].half()},
    )


def _card(teacher: Teacher, grid: tuple[int, int]) -> TeacherCard:
    return TeacherCard(name=teacher.name, fingerprint=teacher.fingerprint, grid=grid, width=teacher.width)
