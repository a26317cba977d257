"""Two workers pause together, by the first one's clock, and go on from there as if nothing had been."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prx_model import training
from prx_model.distributed import joined_workers
from prx_model.evaluation import Evaluation, Pause
from prx_model.train_state import TrainState
from tests.prx_model.training_runs import FAST, Repeated, everything, finished, objective_of, run, told

CONFIG = replace(FAST, eval_every_steps=3, ema_decay=0.9, micro_batch_size=1)
PAUSED = replace(CONFIG, checkpoint_every_min=1e-9)


def _plain(value: Any) -> Any:
    """Without shards."""
    if isinstance(value, dict):
        return {key: _plain(it) for key, it in value.items()}
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def _work(rank: int, rendezvous: str, folder: str, optimizer: str, parallel: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    workers = joined_workers(parallel)
    config, paused = (replace(one, optimizer=optimizer) for one in (CONFIG, PAUSED))
    source = Repeated(share=workers.share(config.batch_size))
    stopped = iter(range(1000))
    clock = (lambda: float(next(stopped))) if rank == 0 else (lambda: 0.001 * next(stopped))
    training.FINITE_CHECK_STEPS = 1

    undisturbed = TrainState(objective_of(), config, workers)
    expected = [told(it) for it in run(undisturbed, config, source) if isinstance(it, Evaluation)]

    killed, yielded = TrainState(objective_of(), paused, workers), []
    for it in run(killed, paused, source, clock=clock):
        yielded.append((type(it).__name__, it.step))
        if it == Pause(step=2):
            killed.save(Path(folder))
            torch.distributed.barrier()
            break
    resumed, rest = TrainState(objective_of(), paused, workers), []
    resumed.load(Path(folder))
    for it in run(resumed, paused, source, clock=clock):
        yielded.append((type(it).__name__, it.step))
        if isinstance(it, Evaluation):
            rest.append(told(it))

    said = {"expected": expected, "rest": rest, "yielded": yielded}
    weights = {"undisturbed": _plain(everything(undisturbed)), "resumed": _plain(everything(resumed))}
    torch.save(said | weights, Path(folder) / f"said-{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "parallel"), [("adamw", "ddp"), ("muon", "fsdp")])
def test_two_workers_pause_together_and_resume_to_the_bit(tmp_path: Path, optimizer: str, parallel: str):
    spawn = multiprocessing.get_context("spawn")
    arguments = (f"file://{tmp_path}/rendezvous", str(tmp_path), optimizer, parallel)
    processes = [spawn.Process(target=_work, args=(rank, *arguments), daemon=True) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=300)
    assert [process.exitcode for process in processes] == [0, 0]
    first, second = (torch.load(tmp_path / f"said-{rank}.pt", weights_only=True) for rank in range(2))
    kinds = ["Pause", "Pause", "Evaluation", "Pause", "Pause", "Evaluation"]
    assert first["yielded"] == second["yielded"] == list(zip(kinds, range(1, 7), strict=True))
    for said in (first, second):
        assert said["rest"] == said["expected"]
    alone, evaluations = finished(replace(CONFIG, optimizer=optimizer, micro_batch_size=None))
    begun = objective_of().state_dict()
    tolerance = {"adamw": 1e-4, "muon": 0.03}[optimizer]  # Muon computes in bfloat16
    for name, weight in alone.objective.state_dict().items():
        moved = (weight - begun[name]).norm()
        for state in ("undisturbed", "resumed"):
            assert (first[state]["objective"][name] - weight).norm() < tolerance * moved, name
    for one, other in zip(first["expected"], evaluations, strict=True):
        assert one[2] == pytest.approx(other.flow_loss, rel=1e-5)
