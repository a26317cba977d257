"""What decides how images and captions are encoded, and the identity of the networks that do it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from prx_model.data.manifest import STORED_DTYPES, ImageCard, LatentCard, TeacherCard, TextEncoderCard
from prx_model.teachers.table import teacher_spec

MINILM, MINILM_PRECISION = "minilm", "float64"
PRECISIONS = ("bfloat16", "float32")


@dataclass(frozen=True, kw_only=True)
class EncodingSettings:
    """What decides the rows that an item becomes.

    resolution: px a side, 16 to 2048. min_side: pictures whose short side is below are left out. autoencoder: a name of
    AUTOENCODERS, a hub id or folder, or None for a data set of pixels. text_encoder: 'minilm', a hub id or a folder.
    text_precision: of its arithmetic, float64 for 'minilm'. text_dtype: as stored. teachers: names of TEACHERS whose
    tokens are stored, on a grid of `teacher_grid` tokens a side.
    """

    resolution: int
    min_side: int
    image: ImageCard
    autoencoder: str | None
    text_encoder: str
    max_text_tokens: int
    text_precision: str
    text_dtype: str = "float16"
    teachers: tuple[str, ...] = ()
    teacher_grid: int | None = None

    def __post_init__(self) -> None:
        _check_range("resolution", self.resolution, 16, 2048)
        _check_range("min_side", self.min_side, 0, 16384)
        _check_range("max_text_tokens", self.max_text_tokens, 2, 8192)
        _check_one_of("text_dtype", self.text_dtype, STORED_DTYPES)
        allowed = (MINILM_PRECISION,) if self.text_encoder == MINILM else PRECISIONS
        _check_one_of("text_precision", self.text_precision, allowed)
        for name in self.teachers:
            teacher_spec(name)
        if len(set(self.teachers)) < len(self.teachers):
            raise ValueError(f"teachers: got {', '.join(self.teachers)}, allowed is each name once")
        if bool(self.teachers) != (self.teacher_grid is not None):
            raise ValueError(f"teacher_grid: got {self.teacher_grid}, allowed is a number with teachers, none without")
        if self.teacher_grid is not None:
            _check_range("teacher_grid", self.teacher_grid, 1, 256)

    def plain(self) -> dict[str, Any]:
        """JSON values."""
        return {**asdict(self), "teachers": list(self.teachers)}

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> EncodingSettings:
        return cls(**{**values, "image": ImageCard(**values["image"]), "teachers": tuple(values["teachers"])})


@dataclass(frozen=True, kw_only=True)
class EncoderCards:
    """What the manifest says of the networks that encode."""

    text_encoder: TextEncoderCard
    latents: LatentCard | None
    teachers: tuple[TeacherCard, ...]

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> EncoderCards:
        return cls(
            text_encoder=TextEncoderCard(**values["text_encoder"]),
            latents=None if values["latents"] is None else LatentCard(**values["latents"]),
            teachers=tuple(TeacherCard(**{**card, "grid": tuple(card["grid"])}) for card in values["teachers"]),
        )


def _check_range(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ValueError(f"{name}: got {value}, allowed is {least} to {most}")


def _check_one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}: got {value!r}, allowed is {' or '.join(allowed)}")
