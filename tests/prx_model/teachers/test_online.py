"""Teachers that run beside the training: what bf16 loses, and what no run can do to them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from prx_model.kept import Kept
from prx_model.repa import RepaConfig, spatially_normalised
from prx_model.teachers.hub_families import layers_of
from prx_model.teachers.online import OnlineTeacher, made_ready, online_teacher
from prx_model.teachers.table import TEACHERS, Teacher, hub_teacher
from tests.prx_model.encoded_stores import saved_teacher
from tests.prx_model.teachers.test_hub_families import FAMILIES

GRID = (6, 6)


def small_vit(name: str) -> Teacher:
    """A Vision Transformer of the teacher's family, as its authors initialise it: small, but six blocks deep."""
    import transformers

    kind, settings, *_ = FAMILIES[name]
    config = {"hidden_size": 96, "num_hidden_layers": 6, "num_attention_heads": 3, "patch_size": 8, "image_size": 48}
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**settings | config))
    return hub_teacher(TEACHERS[name], model.eval())


def pictures() -> torch.Tensor:
    """Soft shapes with some noise on them."""
    generator = torch.Generator().manual_seed(0)
    shapes = functional.interpolate(torch.rand(2, 3, 6, 6, generator=generator), size=(48, 48), mode="bilinear")
    return (shapes * 220 + torch.rand(2, 3, 48, 48, generator=generator) * 30).to(torch.uint8)


@pytest.mark.parametrize("name", FAMILIES)
def test_bf16_tokens_point_where_those_of_fp32_do(name: str) -> None:
    teacher = small_vit(name)
    exact, rounded = (OnlineTeacher(teacher, precision)(pictures(), GRID) for precision in ("fp32", "bf16"))
    assert exact.dtype == rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    assert functional.cosine_similarity(exact, rounded, dim=-1).min() > 0.999
    normed = (spatially_normalised(tokens, 0.6) for tokens in (exact, rounded))
    assert functional.cosine_similarity(*normed, dim=-1).min() > 0.999


@pytest.mark.parametrize("name", FAMILIES)
def test_weights_that_are_stored_as_bf16_make_the_tokens_that_autocast_makes(name: str) -> None:
    expected = OnlineTeacher(small_vit(name), "bf16")(pictures(), GRID)
    teacher = small_vit(name)
    ready = made_ready(teacher, "cpu", "bf16")
    assert torch.equal(ready(pictures(), GRID), expected)
    linear = [module for layer in layers_of(teacher) for module in layer.modules() if isinstance(module, nn.Linear)]
    assert len(linear) >= 6 * 4
    stored = {id(parameter) for module in linear for parameter in module.parameters()}
    assert {p.dtype for p in teacher.parameters() if id(p) in stored} == {torch.bfloat16}
    assert {p.dtype for p in teacher.parameters() if id(p) not in stored} == {torch.float32}


def test_in_fp32_a_teacher_stays_as_it_is() -> None:
    teacher = small_vit("dinov3_vits16")
    expected = teacher(pictures(), GRID)
    assert torch.equal(made_ready(teacher, "cpu", "fp32")(pictures(), GRID), expected)
    assert {p.dtype for p in teacher.parameters()} == {torch.float32}


def test_tokens_do_not_depend_on_the_callers_autocast() -> None:
    teacher = small_vit("dinov2_vits14_reg")
    for precision in ("fp32", "bf16"):
        online = OnlineTeacher(teacher, precision)
        outside = online(pictures(), GRID)
        with torch.autocast("cpu", torch.bfloat16):
            inside = online(pictures(), GRID)
        assert torch.equal(outside, inside)
        assert not outside.requires_grad
    assert torch.equal(OnlineTeacher(teacher, "fp32")(pictures(), GRID), teacher(pictures(), GRID))


class Holder(nn.Module):
    """A module that holds a teacher the way a careless objective might."""

    def __init__(self, teacher: OnlineTeacher) -> None:
        super().__init__()
        self.own = nn.Linear(2, 2)
        self.teacher = teacher


def test_nothing_that_holds_it_saves_trains_or_switches_it() -> None:
    teacher = small_vit("dinov3_vits16")
    holder = Holder(OnlineTeacher(teacher, "bf16"))
    assert set(holder.state_dict()) == {"own.weight", "own.bias"}
    assert len(list(holder.parameters())) == 2
    holder.train().half()
    assert not any(module.training for module in teacher.modules())
    assert {p.dtype for p in teacher.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in teacher.parameters())


def test_one_teachers_weights_are_kept_at_a_time(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tiny_a", "tiny_b"):
        saved_teacher(tmp_path / name, monkeypatch, name)
    kept = Kept()

    def opened(name: str, precision: str = "bf16") -> OnlineTeacher:
        return online_teacher(RepaConfig(teacher=name, depth=1, weight=1.0, teacher_precision=precision), "cpu", kept)

    first = opened("tiny_a")
    assert opened("tiny_a") is first
    exact = opened("tiny_a", "fp32")
    assert (first.name, first.precision, exact.precision) == ("tiny_a", "bf16", "fp32")
    assert {p.dtype for p in exact._teacher.parameters()} == {torch.float32}, "loaded anew, not rounded already"
    opened("tiny_b")
    assert kept.count("online teacher") == 1
    assert opened("tiny_a") is not first
