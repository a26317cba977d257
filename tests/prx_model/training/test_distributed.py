from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from prx_model.compiled import ALWAYS, NEVER, WHERE_POSSIBLE, is_compiled
from prx_model.flow import draw
from prx_model.metrics.suite import SuiteResult
from prx_model.model import MODELS, PRX
from prx_model.sampling import SamplerConfig, sample
from prx_model.training.config import TrainingConfig
from prx_model.training.distributed import DDP, FSDP, Workers, is_part, joined_workers, whole
from prx_model.training.loop import DivergedError, Evaluation, train
from prx_model.training.state import TrainState, evaluated_weights
from tests.models import random_batch
from tests.prx_model.training_runs import FAST, REPA, TEACHER_WIDTH, Repeated, objective_of, same
from tests.prx_model.two_processes import in_two_processes

LONG = replace(FAST, steps=20, eval_every_steps=2, ema_decay=0.9)
SAVED_AT = 10


@dataclass(frozen=True)
class Case:
    """A run to be made by one worker, and by two of either kind. tolerance: of its losses."""

    config: TrainingConfig = LONG
    stops: bool = False  # REPA, half way
    tolerance: float = 1e-5


CASES = {
    "averaged": Case(),
    "raw": Case(replace(LONG, steps=6, ema_decay=None)),
    "stopping": Case(replace(LONG, steps=6), stops=True),
    "micro-batches": Case(replace(LONG, micro_batch_size=1)),
    "recomputed": Case(replace(LONG, steps=6, gradient_checkpointing=True)),
    "bf16": Case(replace(LONG, steps=6, precision="bf16"), tolerance=1e-3),
    # Muon's iteration is in bf16.
    "muon": Case(replace(LONG, steps=6, optimizer="muon", gradient_checkpointing=True), tolerance=1e-3),
}


@pytest.mark.parametrize(("count", "world_size"), [(8, 1), (8, 2), (8, 4), (4, 4)])
def test_shares_are_equal_and_cover_the_batch_in_order(count, world_size):
    shares = [Workers(rank=rank, world_size=world_size).share(count) for rank in range(world_size)]
    assert [row for share in shares for row in range(*share)] == list(range(count))
    assert len({stop - start for start, stop in shares}) == 1


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"^batch_size: got 6, allowed are multiples of 4"):
        Workers(rank=0, world_size=4).share(6)
    with pytest.raises(AssertionError):
        Workers(rank=2, world_size=2)
    with pytest.raises(ValueError, match=r"^parallel: got 'tp', allowed is one of ddp, fsdp"):
        Workers(parallel="tp")


def test_without_a_group_a_worker_is_alone_and_nothing_is_wrapped():
    workers = joined_workers(FSDP)
    assert workers == Workers()
    state = TrainState(objective_of(), FAST, workers)
    assert state.module is state.objective
    assert not any(map(is_part, state.objective.parameters()))
    assert workers.messages(b"a word") == [b"a word"]


# -- two workers, once for all tests


def _sampled(model: PRX) -> Iterator[SuiteResult]:
    """An evaluation that samples, as real ones do: every worker the same images."""
    batch = random_batch(MODELS["prx_tiny"], count=2, seed=99)
    config = SamplerConfig(steps=2, guidance=2.0)
    pixels = sample(model, batch.clean, batch.text, batch.text_mask, null_text=batch.text[0, :1], config=config)
    images = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    values = {"mean": float(pixels.double().abs().mean())}
    yield SuiteResult(values=values, num_samples=2, images=images, sampling_s=0.0, scoring_s=0.0)


def _evaluations(state: TrainState, config: TrainingConfig, **options: Any) -> Iterator[Evaluation]:
    source = Repeated(share=state.workers.share(config.batch_size), **options)
    for evaluation in train(state, source, config, seed=1, evaluate=_sampled):
        assert isinstance(evaluation, Evaluation)
        yield evaluation


def _numbers(evaluation: Evaluation) -> list[float]:
    sampled = evaluation.scores().values["mean"]
    return [evaluation.step, evaluation.flow_loss, evaluation.repa_loss or 0.0, evaluation.grad_norm, sampled]


def _run(case: Case, workers: Workers, folder: Path | None = None) -> dict[str, Any]:
    """A whole run, and its state saved half way."""
    repa = replace(REPA, schedule="stop", stop_at=0.5) if case.stops else REPA
    state = TrainState(objective_of(repa), case.config, workers)
    numbers = []
    for evaluation in _evaluations(state, case.config):
        numbers.append(_numbers(evaluation))
        if folder is not None and evaluation.step == SAVED_AT:
            folder.mkdir(exist_ok=True)
            state.save(folder)
    return {"numbers": numbers, **_weights(state)}


def _weights(state: TrainState) -> dict[str, dict[str, Tensor]]:
    averaged = {} if state.averaged is None else dict(state.averaged.named_parameters())
    models = {"raw": dict(state.objective.named_parameters()), "averaged": averaged}
    return {
        key: {name: whole(weight.detach()).clone() for name, weight in model.items()} for key, model in models.items()
    }


def _resumed(workers: Workers, folder: Path) -> dict[str, Any]:
    """The second half of a run, in a state that begins with other weights; and the state as it was loaded."""
    state = TrainState(objective_of(fresh=True), LONG, workers)
    state.load(folder)
    loaded = {"step": state.step, "moments": _moments(state), **_weights(state)}
    return {"loaded": loaded, "numbers": [_numbers(evaluation) for evaluation in _evaluations(state, LONG)]}


def _moments(state: TrainState) -> list[dict[str, Tensor]]:
    states = state.optimizer.state_dict()["state"]
    return [{key: whole(value).clone() for key, value in states[index].items()} for index in sorted(states)]


def _poisoned(workers: Workers) -> str:
    """What is said of a NaN in the last image of a batch, which is the last worker's."""
    state = TrainState(objective_of(), LONG, workers)
    with pytest.raises(DivergedError) as caught:
        list(_evaluations(state, LONG, poisoned_step=2))
    return str(caught.value)


def _before_the_last(workers: Workers) -> list[list[float]]:
    """What the projector has of its gradient after a micro-batch that is not the last, and after the last."""
    state = TrainState(objective_of(), LONG, workers)
    assert state.objective.projector is not None
    weight, seen = next(state.objective.projector.parameters()), []
    batch = random_batch(MODELS["prx_tiny"], count=1, seed=workers.rank, teacher_width=TEACHER_WIDTH)
    draws = draw(batch.clean.shape, LONG.timesteps, caption_dropout=0.0, seed=0, step=workers.rank)
    for last in (False, True):
        with workers.accumulating(state.module, last=last):
            state.module(batch, draws, 0.5).total.backward()
        seen.append([] if weight.grad is None else whole(weight.grad).flatten()[:3].tolist())
    return seen


def _work(folder: str) -> dict[str, Any]:
    place, told = Path(folder), {}
    rank = torch.distributed.get_rank()
    for kind in (DDP, FSDP):
        for name, case in CASES.items():
            saved_to = place / kind if name == "averaged" else None
            told[f"{kind} {name}"] = _run(case, joined_workers(kind, find_unused=case.stops), saved_to)
        told[f"{kind} before the last"] = _before_the_last(joined_workers(kind))
        told[f"{kind} poisoned"] = _poisoned(joined_workers(kind))
        told[f"{kind} messages"] = [word.decode() for word in joined_workers(kind).messages(b"x" * (3 * rank))]
    for kind, other in ((DDP, DDP), (DDP, FSDP), (FSDP, DDP), (FSDP, FSDP)):
        told[f"{kind} from {other}"] = _resumed(joined_workers(kind), place / other)
    state = TrainState(objective_of(), LONG, joined_workers(FSDP))
    told["held"] = sum(parameter.to_local().numel() for parameter in state.objective.parameters() if is_part(parameter))
    return told


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    folder = tmp_path_factory.mktemp("two")
    first, second = in_two_processes(_work, folder, str(folder))
    return folder, first, second


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, Any]]:
    return {name: _run(case, Workers()) for name, case in CASES.items() if name != "micro-batches"}


@pytest.mark.parametrize("kind", [DDP, FSDP])
@pytest.mark.parametrize("name", CASES)
def test_two_workers_equal_one(made, alone, kind, name):
    _, first, second = made
    expected = alone["averaged" if name == "micro-batches" else name]
    got = first[f"{kind} {name}"]
    assert got["numbers"] == second[f"{kind} {name}"]["numbers"]
    tolerance = CASES[name].tolerance
    for ours, theirs in zip(expected["numbers"], got["numbers"], strict=True):
        assert theirs[:3] == pytest.approx(ours[:3], rel=tolerance, abs=tolerance)
        assert theirs[3:] == pytest.approx(ours[3:], rel=30 * tolerance)


def test_gradients_are_exchanged_with_the_last_micro_batch_alone(made):
    for kind, silent in ((DDP, lambda mine, theirs: mine and theirs != mine), (FSDP, lambda mine, _: mine == [])):
        (mine, both), (theirs, all_same) = (told[f"{kind} before the last"] for told in made[1:])
        assert silent(mine, theirs)
        assert both == all_same
        assert any(both)


@pytest.mark.parametrize("kind", [DDP, FSDP])
@pytest.mark.parametrize("weights", ["raw", "averaged"])
def test_both_workers_end_with_the_same_weights(made, kind, weights):
    _, first, second = made
    mine, theirs = (told[f"{kind} averaged"][weights] for told in (first, second))
    assert mine
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_sharded_worker_holds_half_of_the_weights(made):
    count = sum(parameter.numel() for parameter in objective_of().parameters())
    held = [told["held"] for told in made[1:]]
    assert sum(held) == count
    assert max(held) < 0.55 * count


@pytest.mark.parametrize("saved", [DDP, FSDP])
@pytest.mark.parametrize("loading", [DDP, FSDP, "alone"])
def test_a_checkpoint_of_two_goes_on_with_any_workers(made, saved, loading):
    """Weights, average, moments and step are the same to the bit, whoever loads; and so the losses that follow."""
    folder, first, second = made
    here = _resumed(Workers(), folder / saved)
    resumed = here if loading == "alone" else first[f"{loading} from {saved}"]
    assert resumed["loaded"]["step"] == SAVED_AT
    for key in ("raw", "averaged"):
        for name, weight in here["loaded"][key].items():
            assert torch.equal(resumed["loaded"][key][name], weight), name
    for ours, theirs in zip(here["loaded"]["moments"], resumed["loaded"]["moments"], strict=True):
        assert ours.keys() == theirs.keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    whole_run = first[f"{saved} averaged"]["numbers"]
    for ours, theirs in zip(whole_run[SAVED_AT // 2 :], resumed["numbers"], strict=True):
        assert theirs[:3] == pytest.approx(ours[:3], rel=1e-5)
    if loading == saved:
        assert resumed["numbers"] == whole_run[SAVED_AT // 2 :]
        assert resumed["numbers"] == second[f"{loading} from {saved}"]["numbers"]


def test_a_state_saved_before_its_first_step_begins_as_if_it_had_not_been(tmp_path):
    def first_steps(state: TrainState) -> dict[str, Any]:
        return {"numbers": [_numbers(evaluation) for evaluation in _evaluations(state, FAST)], **_weights(state)}

    TrainState(objective_of(), FAST).save(tmp_path)
    loaded = TrainState(objective_of(fresh=True), FAST)
    loaded.load(tmp_path)
    assert same(first_steps(loaded), first_steps(TrainState(objective_of(), FAST)))


@pytest.mark.parametrize("saved", [DDP, FSDP])
def test_the_weights_of_a_checkpoint_are_whole_in_one_process(made, saved):
    folder, first, _ = made
    weights = evaluated_weights(folder / saved)
    PRX(MODELS["prx_tiny"]).load_state_dict(weights)
    expected = first[f"{saved} from {saved}"]["loaded"]["averaged"]
    assert all(torch.equal(weights[name], expected[name]) for name in weights)


def test_without_an_average_the_raw_weights_are_the_evaluated_ones(tmp_path):
    state = TrainState(objective_of(), FAST)
    state.save(tmp_path)
    weights = evaluated_weights(tmp_path)
    assert weights.keys() == dict(state.objective.model.named_parameters()).keys()
    assert torch.equal(weights["transformer.txt_in.weight"], state.objective.model.transformer.txt_in.weight)


def test_every_sharded_worker_writes_its_part_and_nothing_is_a_pickle_that_runs_code(made):
    folder = made[0]
    names = sorted(path.name for path in (folder / FSDP).iterdir())
    assert [Path(name).suffix for name in names] == [".safetensors", ".safetensors", ".pt"]
    assert names[-1] == "state.pt"
    assert (folder / FSDP / "state.pt").stat().st_size < 50_000  # numbers and settings
    assert [path.name for path in (folder / DDP).iterdir()] == ["state.pt"]
    assert torch.load(folder / FSDP / "state.pt", weights_only=True)["step"] == SAVED_AT


@pytest.mark.parametrize("shard", [0, 1])
def test_a_missing_part_is_one_line(made, tmp_path, shard):
    for path in (made[0] / FSDP).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    sorted(tmp_path.glob("*.safetensors"))[shard].unlink()
    with pytest.raises(ValueError, match=r"^checkpoint .*: .*") as caught:
        TrainState(objective_of(), LONG).load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("repa", "config", "message"),
    [
        (None, LONG, "it has objective/projector.* this run has not"),
        (REPA, replace(LONG, ema_decay=None), "it has averaged/.* this run has not"),
        (replace(REPA, projector_width=8), LONG, r"projector.* is \[16, 32\], this run's is \[8, 32\]"),
        (replace(REPA, projector="conv3x3"), LONG, "it has objective/projector.* this run has not"),
    ],
)
@pytest.mark.parametrize("saved", [DDP, FSDP])
def test_a_checkpoint_of_other_settings_is_one_line(made, saved, repa, config, message):
    state = TrainState(objective_of(repa), config)
    with pytest.raises(ValueError, match=rf"^checkpoint .*{message}"):
        state.load(made[0] / saved)


@pytest.mark.parametrize("kind", [DDP, FSDP])
def test_a_nan_of_one_worker_ends_the_run_of_all_at_its_step(made, kind):
    _, first, second = made
    assert first[f"{kind} poisoned"] == second[f"{kind} poisoned"] == "loss is nan at step 3"


def test_messages_reach_all_in_order(made):
    assert made[1]["ddp messages"] == made[2]["fsdp messages"] == ["", "xxx"]


# -- compiled


def _compiled_work() -> list[list[float]]:
    config = replace(LONG, steps=4, ema_decay=None, compile=ALWAYS)
    graphs = torch._dynamo.utils.counters["stats"]
    numbers = _run(Case(config), joined_workers(FSDP))["numbers"]
    assert graphs["unique_graphs"] == 2, graphs  # a block in training, a block in sampling
    return numbers


@pytest.mark.skipif(not is_compiled(WHERE_POSSIBLE, torch.device("cpu")), reason="no compiler")
@pytest.mark.slow
def test_compiled_blocks_train_and_sample_in_shards(tmp_path):
    expected = _run(Case(replace(LONG, steps=4, ema_decay=None, compile=NEVER)), Workers())["numbers"]
    first, second = in_two_processes(_compiled_work, tmp_path)
    assert first == second
    for ours, theirs in zip(expected, first, strict=True):
        assert theirs == pytest.approx(ours, rel=1e-4)
