"""What only a GPU can show: batches that travel beside the steps, and a host that waits for none of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace

import pytest
import torch

from prx_model.batch import Batch
from prx_model.training.device_batches import on_device
from prx_model.training.loop import train
from prx_model.training.state import TrainState
from tests.prx_model.training_runs import FAST, REPA, Repeated, objective_of, weight_sums

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

CONFIG = replace(FAST, precision="bf16", ema_decay=0.9, micro_batch_size=3)


class Watched(Repeated):
    """Batches, after the second of which the loop may not wait for the GPU before the steps that read losses."""

    def batches(self, from_step: int = 0) -> Iterator[Batch]:
        try:
            for number, batch in enumerate(super().batches(from_step), start=1):
                torch.cuda.set_sync_debug_mode("error" if number > 2 else "default")
                yield batch
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_batches_arrive_whole_while_the_device_works():
    device = torch.device("cuda")
    busy = torch.randn(2048, 2048, device=device)
    for number, batch in zip(range(8), on_device(Repeated().batches(), device), strict=False):
        for _ in range(20):
            busy = torch.mm(busy, busy).clamp(-1, 1)
        expected = Repeated().at(number)
        for field in fields(Batch):
            value = getattr(expected, field.name)
            if value is not None:
                torch.testing.assert_close(getattr(batch, field.name).cpu(), value, rtol=0, atol=0)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_no_step_waits_for_the_device(optimizer: str):
    config = replace(CONFIG, optimizer=optimizer, steps=15, eval_every_steps=15)
    state = TrainState(objective_of(REPA).to("cuda"), config)
    run = train(state, Watched(), config, seed=1, evaluate=weight_sums)
    # 15 steps are fewer than FINITE_CHECK_STEPS: the first reading is the evaluation's, which is allowed to wait.
    with pytest.raises(RuntimeError, match="synchroniz"):
        next(run)
    assert state.step == 15
