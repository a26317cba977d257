"""Full float32 inside, and every one of torch's settings, old and new, as it was afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.backends import cudnn, mkldnn

from prx_model.float32 import full_float32, tf32_products
from prx_model.metrics.features import FeatureExtractor
from tests.prx_model.metrics.conftest import random_images


def readings() -> dict[str, Any]:
    """Everything that torch says of its precision; None where its own settings contradict each other."""
    getters: dict[str, Callable[[], Any]] = {
        "matmul": torch.get_float32_matmul_precision,
        "cublas": lambda: torch.backends.cuda.matmul.allow_tf32,
        "cudnn": lambda: cudnn.allow_tf32,
        "cuda.matmul": lambda: torch.backends.cuda.matmul.fp32_precision,
        "conv": lambda: cudnn.conv.fp32_precision,
        "rnn": lambda: cudnn.rnn.fp32_precision,
        "mkldnn.matmul": lambda: mkldnn.matmul.fp32_precision,
        "mkldnn.conv": lambda: mkldnn.conv.fp32_precision,
    }
    found: dict[str, Any] = {}
    for name, get in getters.items():
        try:
            found[name] = get()
        except RuntimeError:
            found[name] = None
    return found


FULL = {"matmul": "highest", "cublas": False, "cudnn": False}
FULL |= dict.fromkeys(("cuda.matmul", "conv", "rnn", "mkldnn.matmul", "mkldnn.conv"), "ieee")


@pytest.fixture(autouse=True)
def _as_torch_starts() -> Iterator[None]:
    yield
    torch.set_float32_matmul_precision("highest")
    cudnn.allow_tf32 = True
    for operation in (mkldnn.matmul, mkldnn.conv, torch.backends.cuda.matmul):
        operation.fp32_precision = "none"


def defaults() -> None:
    """As torch starts: GPU convolutions in TF32."""


def older_settings() -> None:
    torch.backends.cuda.matmul.allow_tf32 = True
    cudnn.allow_tf32 = True


def all_off() -> None:
    cudnn.allow_tf32 = False


def medium() -> None:
    torch.set_float32_matmul_precision("medium")  # bfloat16 on CPUs


def newer_settings() -> None:
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    cudnn.conv.fp32_precision = cudnn.rnn.fp32_precision = "tf32"
    mkldnn.conv.fp32_precision = "bf16"


@pytest.mark.parametrize("trainer", [defaults, older_settings, all_off, medium, newer_settings])
def test_the_trainers_settings_do_not_reach_the_yardstick_and_come_back(trainer: Callable[[], None]) -> None:
    trainer()
    before, seen = readings(), []

    class Watching(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            seen.append(readings())
            return image.mean(dim=(2, 3))

    FeatureExtractor(name="watching", width=3, side=8, network=Watching())(random_images(0, 2))
    assert seen == [FULL]
    assert readings() == before


def test_settings_come_back_after_an_error() -> None:
    older_settings()
    before = readings()
    with pytest.raises(ZeroDivisionError), full_float32():
        raise ZeroDivisionError
    assert readings() == before
    assert before["conv"] == before["cuda.matmul"] == "tf32"


@pytest.mark.parametrize("trainer", [defaults, older_settings, medium])
def test_steps_may_round_to_tf32_and_nothing_else_may(trainer: Callable[[], None]) -> None:
    trainer()
    before = readings()
    with tf32_products():
        assert readings() | {"matmul": "high", "cublas": True, "cuda.matmul": "tf32"} == readings()
        with full_float32():
            assert readings() == FULL
        assert torch.backends.cuda.matmul.allow_tf32
    assert readings() == before
