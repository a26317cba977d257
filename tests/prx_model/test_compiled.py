"""Blocks through torch.compile: the same training, compiled once per shape and process, or an error."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.models.transformers.transformer_prx import PRXTransformer2DModel
from torch import Tensor, nn
from torch._dynamo.exc import FailOnRecompileLimitHit
from torch._dynamo.utils import counters

from prx_model.compiled import (
    ALWAYS,
    NEVER,
    RECOMPILE_LIMIT,
    WHERE_POSSIBLE,
    check_toolchain,
    compile_blocks,
    is_compiled,
)
from prx_model.model import PRX, PRXConfig
from prx_model.sampling import SamplerConfig, sample
from prx_model.training.config import TrainingConfig
from prx_model.training.state import TrainState
from tests.models import random_batch, randomised
from tests.prx_model.training_runs import FAST, Repeated, everything, objective_of, run, same

EAGER = replace(FAST, ema_decay=0.9)
COMPILED = replace(EAGER, compile=ALWAYS)
CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("compilable")


def _why_not() -> str:
    try:
        check_toolchain(CPU)
    except ValueError as error:
        return str(error)
    return ""


needs_compiler = pytest.mark.skipif(bool(_why_not()), reason=_why_not() or "there is a compiler")


def _num_graphs() -> int:
    """Graphs that this process has compiled so far."""
    return counters["stats"]["unique_graphs"]


def _velocity(model: PRX, count: int) -> Tensor:
    batch = random_batch(model.config, count=count)
    with torch.no_grad():
        return model(batch.clean, torch.linspace(0, 1, count), batch.text, batch.text_mask).velocity


def _samples(model: PRX) -> Tensor:
    batch = random_batch(model.config)
    config = SamplerConfig(steps=2, guidance=1.0)
    return sample(model, batch.clean, batch.text, batch.text_mask, null_text=batch.text[0, :1], config=config)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_compiled_training_is_the_same_training(precision: str):
    eager, compiled = replace(EAGER, precision=precision), replace(COMPILED, precision=precision)
    tolerance = 1e-5 if precision == "fp32" else 1e-2
    expected = list(run(TrainState(objective_of(), eager), eager))
    got = list(run(TrainState(objective_of(), compiled), compiled))
    for one, other in zip(expected, got, strict=True):
        assert other.flow_loss == pytest.approx(one.flow_loss, rel=tolerance)
        assert other.repa_loss == pytest.approx(one.repa_loss, rel=10 * tolerance)
        assert other.grad_norm == pytest.approx(one.grad_norm, rel=10 * tolerance)


@needs_compiler
@pytest.mark.slow
def test_all_blocks_and_all_models_of_a_process_share_one_compilation():
    def trained_and_sampled(repa: bool) -> Tensor:
        objective = objective_of() if repa else objective_of(None)
        state = TrainState(objective, COMPILED)
        list(run(state, COMPILED))
        assert state.averaged is not None
        return _samples(state.averaged)

    torch._dynamo.reset()
    before = _num_graphs()
    first = trained_and_sampled(repa=True)
    assert _num_graphs() - before == 2  # a block in training, a block in sampling
    trained_and_sampled(repa=False)
    assert torch.equal(trained_and_sampled(repa=True), first)
    assert _num_graphs() - before == 2


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are traced and kept as ever, and then run by torch's own operators: a kernel takes g++ two seconds."""
    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda call, *, options, **how: compiled(call, backend="aot_eager", **how))


@needs_compiler
@pytest.mark.slow
@pytest.mark.usefixtures("traced")
def test_another_shape_in_between_changes_nothing(tiny: PRXConfig):
    eager = randomised(PRX(tiny))
    model = copy.deepcopy(eager)
    compile_blocks(model)
    before = _velocity(model, 4)
    torch.testing.assert_close(before, _velocity(eager, 4), rtol=1e-4, atol=1e-4)
    for count in (3, 5):
        torch.testing.assert_close(_velocity(model, count), _velocity(eager, count), rtol=1e-4, atol=1e-4)
    graphs = _num_graphs()
    assert torch.equal(_velocity(model, 4), before)
    assert _num_graphs() == graphs


@needs_compiler
@pytest.mark.slow
def test_a_block_that_may_not_compile_again_is_an_error_not_eager(tiny: PRXConfig):
    model = randomised(PRX(tiny))
    compile_blocks(model)
    assert torch._dynamo.config.recompile_limit >= RECOMPILE_LIMIT
    _velocity(model, 4)
    with torch._dynamo.config.patch(recompile_limit=1), pytest.raises(FailOnRecompileLimitHit):
        _velocity(model, 7)  # a shape of its own: what another test has compiled would be found


@needs_compiler
@pytest.mark.slow
def test_what_is_saved_knows_nothing_of_it(tmp_path: Path):
    state = TrainState(objective_of(), COMPILED)
    for _ in run(state, COMPILED):
        break
    state.save(tmp_path)
    eager = TrainState(objective_of(), EAGER)
    assert list(state.objective.state_dict()) == list(eager.objective.state_dict())
    eager.load(tmp_path)
    assert same(everything(eager), everything(state))
    resumed = TrainState(objective_of(), COMPILED)
    resumed.load(tmp_path)
    list(run(state, COMPILED))
    list(run(resumed, COMPILED))
    assert same(everything(resumed), everything(state))

    assert state.averaged is not None
    state.averaged.save_pretrained(tmp_path / "model")
    theirs = PRXTransformer2DModel.from_pretrained(tmp_path / "model")
    assert same(dict(theirs.state_dict()), dict(state.averaged.transformer.state_dict()))


@needs_compiler
@pytest.mark.slow
def test_compiled_blocks_train_inside_ddp(tmp_path: Path):
    alone, wrapped = TrainState(objective_of(), COMPILED), TrainState(objective_of(), COMPILED)
    list(run(alone, COMPILED))
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        graphs = _num_graphs()
        wrapped.module = nn.parallel.DistributedDataParallel(wrapped.objective)
        list(run(wrapped, COMPILED))
        assert _num_graphs() == graphs
    finally:
        torch.distributed.destroy_process_group()
    assert same(everything(wrapped), everything(alone))


def test_without_a_compiler_there_is_one_clear_line():
    from torch._inductor import config as inductor

    no_compiler = inductor.patch({"cpp.cxx": (None, "no-such-compiler")})
    with no_compiler:
        with pytest.raises(ValueError, match=r"no C\+\+ compiler.*where_possible or never") as caught:
            TrainState(objective_of(), COMPILED)
        assert "\n" not in str(caught.value)
        assert not is_compiled(WHERE_POSSIBLE, CPU)
        TrainState(objective_of(), replace(EAGER, compile=WHERE_POSSIBLE))


@needs_compiler
def test_where_there_is_a_compiler_it_is_used():
    assert is_compiled(WHERE_POSSIBLE, CPU)
    assert is_compiled(ALWAYS, CPU)
    assert not is_compiled(NEVER, CPU)


def test_an_unknown_choice_is_one_line():
    with pytest.raises(ValueError, match="compile: got 'yes', allowed is one of never, where_possible, always"):
        TrainingConfig(compile="yes")


@needs_compiler
def test_without_python_headers_there_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("sysconfig.get_path", lambda _name: str(tmp_path))
    with pytest.raises(ValueError, match=r"C headers.*python3-dev.*where_possible or never"):
        check_toolchain(CPU)


def test_nothing_is_compiled_unless_asked_for():
    assert TrainingConfig().compile == NEVER
    graphs = _num_graphs()
    state = TrainState(objective_of(), EAGER)
    list(run(state, EAGER, Repeated()))
    assert _num_graphs() == graphs
