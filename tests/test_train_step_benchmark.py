"""The benchmark of training steps: its arithmetic against torch's own count, and its page at toy size."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.arithmetic import PASSES_IN_TRAINING, projector_macs, prx_macs
from benchmarks.train_step import main
from benchmarks.train_workloads import DINOV2, DINOV3, VIT_TOY, random_teacher
from prx_model.model import PRX, PRXConfig
from prx_model.objective import TrainingObjective
from prx_model.repa import RepaConfig
from prx_model.training.config import TrainingConfig
from tests.models import random_batch

CONFIGS = [
    PRXConfig(in_channels=3, patch_size=4, context_in_dim=24, hidden_size=32, num_heads=2, depth=2),
    PRXConfig(in_channels=5, patch_size=2, context_in_dim=40, hidden_size=48, num_heads=4, depth=3, mlp_ratio=2.5),
]


def counted(run) -> int:
    """Multiply-accumulates of a call, by torch. Attention as plain products: its CPU kernel is not in torch's list."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("config", CONFIGS)
def test_the_models_arithmetic_is_what_torch_counts(config: PRXConfig):
    batch, model = random_batch(config), PRX(config)
    with torch.no_grad():
        macs = counted(lambda: model(batch.clean, torch.rand(4), batch.text, batch.text_mask))
    assert macs == 4 * prx_macs(config, side=16, text_tokens=5)


@pytest.mark.parametrize("name", [DINOV2, DINOV3])
def test_a_teachers_arithmetic_is_what_torch_counts(name: str):
    teacher = random_teacher(name, replace(VIT_TOY, patch=8))
    image = torch.randint(0, 256, (2, 3, 40, 40), dtype=torch.uint8)
    assert counted(lambda: teacher(image, (4, 4))) == 2 * replace(VIT_TOY, patch=8).macs(16)


@pytest.mark.parametrize("projector", ["mlp", "conv3x3"])
@pytest.mark.parametrize("config", CONFIGS)
def test_a_training_steps_arithmetic_is_three_passes_but_for_the_first_layers(config: PRXConfig, projector: str):
    repa = RepaConfig(teacher=DINOV2, depth=1, weight=0.5, projector=projector, projector_width=24)
    batch = random_batch(config, teacher_width=20)
    objective = TrainingObjective(PRX(config), torch.zeros(1, config.context_in_dim), repa=repa, teacher_width=20)
    from prx_model.flow import draw

    draws = draw(batch.clean.shape, TrainingConfig().timesteps, caption_dropout=0.1, seed=0, step=0)
    macs = counted(lambda: objective(batch, draws, 0.5).total.backward())
    num = batch.teacher_tokens.shape[1]
    forward = prx_macs(config, side=16, text_tokens=5)
    forward += projector_macs(repa, config, num_tokens=num, teacher_width=20)
    width, patch = config.hidden_size, config.in_channels * config.patch_size**2
    needless = num * patch * width + 5 * config.context_in_dim * width + 256 * width  # gradients of the inputs
    assert macs == 4 * (PASSES_IN_TRAINING * forward - needless)


def test_the_published_model_has_the_published_arithmetic():
    """PRX-1.2B at 256 px: by hand, its projections take nearly all."""
    macs = prx_macs(PRXConfig(), side=32, text_tokens=256)
    blocks = 16 * 1792**2 * (256 * (4 + 3 * 3.5) + 256 * 2 + 6)
    assert 1.0 < macs / blocks < 1.05


def test_the_page_and_the_readings_at_toy_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "readings.json"
    options = ["--batch", "2", "3", "--steps", "1", "--eager", "--teachers", DINOV3, "--attention", "native"]
    main(["--model", "prx_tiny", *options, "--json", str(file)])
    page = capsys.readouterr().out
    told = json.loads(file.read_text())
    assert [(it["case"]["batch"], it["case"]["teacher"]) for it in told["readings"]] == [
        (batch, teacher) for batch in (2, 3) for teacher in (None, None, DINOV3)
    ]
    for it in told["readings"]:
        assert it["failure"] is None
        assert it["tflops"] == pytest.approx(2 * it["case"]["macs"] * it["images_per_s"] / 1e12)
        assert f"| {it['case']['name']} | {it['case']['batch']} | {it['images_per_s']:.1f} |" in page
    assert [it["batch"] for it in told["repa"]] == [2, 3]
    assert told["made"]["commit"][:12] in page
    plain, ours, repa = told["readings"][:3]
    assert plain["case"]["macs"] == ours["case"]["macs"] < repa["case"]["macs"]
    assert told["repa"][0]["overhead"] == pytest.approx(ours["images_per_s"] / repa["images_per_s"] - 1)
