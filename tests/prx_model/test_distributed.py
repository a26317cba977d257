from __future__ import annotations

import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from prx_model.distributed import Workers
from prx_model.repa import RepaConfig
from prx_model.train_state import TrainState
from tests.prx_model.training_runs import (
    FAST,
    REPA,
    Repeated,
    everything,
    finished,
    objective_of,
    run,
    same,
    told,
)


@pytest.mark.parametrize(("count", "world_size"), [(8, 1), (8, 2), (8, 4), (4, 4)])
def test_shares_are_equal_and_cover_the_batch_in_order(count, world_size):
    shares = [Workers(rank=rank, world_size=world_size).share(count) for rank in range(world_size)]
    assert [row for share in shares for row in range(*share)] == list(range(count))
    assert len({stop - start for start, stop in shares}) == 1


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"^batch_size: got 6, allowed are multiples of 4"):
        Workers(rank=0, world_size=4).share(6)
    with pytest.raises(AssertionError):
        Workers(rank=2, world_size=2)


def _work(rank: int, world_size: int, rendezvous: str, folder: str, repa: RepaConfig | None) -> None:
    """One of several workers: DDP over gloo, as in a real run. Writes what it has to `folder`."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=world_size)

    def gather(tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor) for _ in range(world_size)]
        torch.distributed.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def wrap(module: nn.Module) -> nn.Module:
        unused = repa is not None and repa.schedule == "stop"
        return nn.parallel.DistributedDataParallel(module, find_unused_parameters=unused)

    config = replace(FAST, ema_decay=0.9)
    state = TrainState(objective_of(repa), config)
    workers = Workers(rank=rank, world_size=world_size, wrap=wrap, gather=gather)
    source = Repeated(share=workers.share(config.batch_size))
    evaluations = [told(evaluation) for evaluation in run(state, config, source, workers=workers)]
    torch.save({"evaluations": evaluations, **everything(state)}, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    "repa", [None, REPA, replace(REPA, schedule="stop", stop_at=0.5)], ids=["baseline", "repa", "stop"]
)
def test_two_workers_equal_one(tmp_path, repa):
    config = replace(FAST, ema_decay=0.9)
    alone, evaluations = finished(config, repa)
    rendezvous = f"file://{tmp_path}/rendezvous"
    spawn = multiprocessing.get_context("spawn")
    processes = [
        spawn.Process(target=_work, args=(rank, 2, rendezvous, str(tmp_path), repa), daemon=True) for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=300)
    assert [process.exitcode for process in processes] == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert first["evaluations"] == second["evaluations"]
    assert same(first["objective"], second["objective"])
    for ours, theirs in zip(evaluations, first["evaluations"], strict=True):
        assert ours.step == theirs[0]
        assert list(theirs[1].values()) == pytest.approx(list(ours.scores().values.values()), rel=1e-6)
        assert theirs[2] == pytest.approx(ours.flow_loss, rel=1e-6)
        assert theirs[3] == (None if ours.repa_loss is None else pytest.approx(ours.repa_loss, rel=1e-5))
        assert theirs[4] == pytest.approx(ours.grad_norm, rel=1e-5)
    for name, value in alone.objective.state_dict().items():
        torch.testing.assert_close(first["objective"][name], value, rtol=0, atol=5e-6)
