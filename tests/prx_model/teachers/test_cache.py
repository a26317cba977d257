from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from prx_model.data.reader import BatchReader
from prx_model.data.store import ImageCaptionStore
from prx_model.teachers.cache import cached_teacher_tokens


class PatchTeacher(nn.Module):
    """A real, if small, encoder: one strided convolution, pooled to the grid."""

    name = "patch_conv"
    width = 6

    def __init__(self, *, seed: int = 0, scale: float = 1.0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.conv = nn.Conv2d(3, self.width, 4, stride=4)
        self.scale = scale
        self.fingerprint = f"seed {seed}, scale {scale}"
        self.num_images = 0

    def forward(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        self.num_images += len(images)
        features = functional.adaptive_avg_pool2d(self.conv(images.float() / 255), grid)
        return self.scale * features.flatten(2).transpose(1, 2)


def tokens_of(teacher: PatchTeacher, store: ImageCaptionStore, cache: Path, grid: tuple[int, int] = (4, 4), **kwargs):
    fingerprint = kwargs.pop("split_fingerprint", store.train.fingerprint)
    return cached_teacher_tokens(teacher, store.train, grid=grid, cache=cache, split_fingerprint=fingerprint, **kwargs)


def test_tokens_are_the_teachers_own_in_the_order_of_the_split(small_store: ImageCaptionStore, tmp_path: Path) -> None:
    teacher = PatchTeacher()
    tokens = tokens_of(teacher, small_store, tmp_path, grid=(4, 2))
    assert isinstance(tokens, np.memmap)
    assert tokens.dtype == np.float16
    assert tokens.shape == (len(small_store.train), 8, 6)
    with torch.no_grad():
        expected = teacher(small_store.train.images, (4, 2))
    torch.testing.assert_close(torch.from_numpy(np.array(tokens)).float(), expected, atol=2e-3, rtol=1e-3)


def test_computed_once(small_store: ImageCaptionStore, tmp_path: Path) -> None:
    teacher, seen = PatchTeacher(), []
    first = tokens_of(teacher, small_store, tmp_path, progress=lambda done, total: seen.append((done, total)))
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = tokens_of(PatchTeacher(), small_store, tmp_path)
    assert teacher.num_images == len(small_store.train)
    assert seen[-1] == (len(small_store.train), len(small_store.train))
    assert np.array_equal(first, again)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files
    assert sorted(path.suffix for path in files if not path.name.startswith(".")) == [".json", ".npy"]


def test_whatever_changes_the_tokens_has_a_cache_of_its_own(small_store: ImageCaptionStore, tmp_path: Path) -> None:
    tokens_of(PatchTeacher(), small_store, tmp_path)
    others = [
        (PatchTeacher(seed=1), {}),
        (PatchTeacher(), {"grid": (2, 2)}),
        (PatchTeacher(), {"grid": (2, 8)}),
        (PatchTeacher(), {"split_fingerprint": "other"}),
    ]
    for teacher, kwargs in others:
        tokens_of(teacher, small_store, tmp_path, **kwargs)
        assert teacher.num_images == len(small_store.train)
    assert len(list(tmp_path.glob("teacher-patch_conv-*.npy"))) == 5


def test_numbers_without_their_description_are_computed_again(small_store: ImageCaptionStore, tmp_path: Path) -> None:
    """A kill between the two files leaves the numbers alone."""
    tokens_of(PatchTeacher(), small_store, tmp_path)
    (card,) = tmp_path.glob("*.json")
    (numbers,) = tmp_path.glob("*.npy")
    for damage in (card.unlink, lambda: card.write_text("{"), lambda: card.write_text('{"teacher": "other"}')):
        damage()
        numbers.write_bytes(b"torn")
        teacher = PatchTeacher()
        tokens = tokens_of(teacher, small_store, tmp_path)
        assert teacher.num_images == len(small_store.train)
        assert np.isfinite(tokens).all()
    assert json.loads(card.read_text())["shape"] == [len(small_store.train), 16, 6]


def test_a_torn_file_is_named(small_store: ImageCaptionStore, tmp_path: Path) -> None:
    tokens_of(PatchTeacher(), small_store, tmp_path)
    (numbers,) = tmp_path.glob("*.npy")
    numbers.write_bytes(numbers.read_bytes()[:-100])
    with pytest.raises(ValueError, match=rf"{numbers.name} is corrupt.*delete it and run again"):
        tokens_of(PatchTeacher(), small_store, tmp_path)


def test_failure_in_the_middle_leaves_no_cache(small_store: ImageCaptionStore, tmp_path: Path) -> None:
    def full_disk(done: int, total: int) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    with pytest.raises(OSError, match="no space"):
        tokens_of(PatchTeacher(), small_store, tmp_path, progress=full_disk)
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == []
    assert tokens_of(PatchTeacher(), small_store, tmp_path).shape[0] == len(small_store.train)


def test_what_a_killed_process_left_is_swept(small_store: ImageCaptionStore, tmp_path: Path) -> None:
    tokens_of(PatchTeacher(), small_store, tmp_path)
    (numbers,) = tmp_path.glob("*.npy")
    partial = tmp_path / f".{numbers.name}.0123456789ab.partial"
    partial.write_bytes(b"half")
    numbers.unlink()
    tokens_of(PatchTeacher(), small_store, tmp_path)
    assert not partial.exists()


@pytest.mark.parametrize("scale", [float("nan"), 1e9])
def test_values_that_float16_cannot_hold_are_refused(
    small_store: ImageCaptionStore, tmp_path: Path, scale: float
) -> None:
    with pytest.raises(ValueError, match=r"'patch_conv' returned NaN, infinity.*images 0 to 63"):
        tokens_of(PatchTeacher(scale=scale), small_store, tmp_path)


def test_a_teacher_of_another_shape_is_refused(small_store: ImageCaptionStore, tmp_path: Path) -> None:
    teacher = PatchTeacher()
    teacher.width = 7
    with pytest.raises(ValueError, match=r"returned shape \(64, 16, 6\), expected \(64, 16, 7\)"):
        tokens_of(teacher, small_store, tmp_path)


def test_reader_takes_the_cache_as_it_is(small_store: ImageCaptionStore, tmp_path: Path) -> None:
    tokens = tokens_of(PatchTeacher(), small_store, tmp_path)
    batch = BatchReader(small_store.train, 8, seed=3, teacher_tokens=tokens).batch(5)
    assert batch.teacher_tokens is not None
    assert torch.equal(batch.teacher_tokens, torch.from_numpy(np.array(tokens))[batch.index].float())
