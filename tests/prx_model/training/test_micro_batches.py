"""A batch in parts: gradients that add up, teachers that look part by part, activations that are not kept."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from prx_model.batch import Batch
from prx_model.compiled import check_toolchain, compile_blocks
from prx_model.flow import draw
from prx_model.model import PRX, PRXConfig
from prx_model.repa import RepaConfig
from prx_model.training.config import TrainingConfig
from prx_model.training.device_batches import on_device
from prx_model.training.distributed import Workers
from prx_model.training.loop import _Step, train, update
from prx_model.training.state import TrainState
from tests.models import random_batch, randomised
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
    weight_sums,
)

BIG = replace(FAST, batch_size=7)


def _gradients(repa: RepaConfig | None, **changes: Any) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor | None]]:
    """The gradients of one batch of seven images before they are clipped, and the losses that the loop is told."""
    config = replace(BIG, **changes)
    state = TrainState(objective_of(repa), config)
    batch = Repeated(count=7).at(0)
    step = _Step(state, config, Workers(), None, 1)
    losses = step._backward(batch, step._draws(batch))
    return {n: p.grad for n, p in state.objective.named_parameters() if p.grad is not None}, losses


# -- gradients that add up


@pytest.mark.parametrize("repa", [None, REPA], ids=["baseline", "repa"])
@pytest.mark.parametrize("size", [1, 3, 4, 6, 7, 100])
def test_micro_batches_of_any_size_make_the_undivided_gradient(size: int, repa: RepaConfig | None):
    expected, losses = _gradients(repa)
    got, micro_losses = _gradients(repa, micro_batch_size=size)
    for one, other in zip(losses, micro_losses, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(other, one, rtol=1e-6, atol=1e-6)
    assert got.keys() == expected.keys()
    for name in expected:
        scale = expected[name].abs().max().item()
        torch.testing.assert_close(got[name], expected[name], rtol=0, atol=1e-6 * max(scale, 1.0), msg=name)


@pytest.mark.parametrize("size", [4, 100])
def test_a_micro_batch_that_holds_all_is_no_division(size: int):
    whole, divided = finished(FAST), finished(replace(FAST, micro_batch_size=size))
    assert same(everything(divided[0]), everything(whole[0]))
    assert [told(evaluation) for evaluation in divided[1]] == [told(evaluation) for evaluation in whole[1]]


def test_a_run_in_micro_batches_is_the_undivided_run():
    expected, got = finished(FAST)[1], finished(replace(FAST, micro_batch_size=3))[1]
    for one, other in zip(expected, got, strict=True):
        assert other.flow_loss == pytest.approx(one.flow_loss, rel=1e-5)
        assert other.repa_loss == pytest.approx(one.repa_loss, rel=1e-4)
        assert other.grad_norm == pytest.approx(one.grad_norm, rel=1e-4)


# -- a teacher beside the training


@dataclass
class Looking:
    """A teacher whose tokens are a fixed function of the image; it notes how often and at how many it looks."""

    seen: list[int]

    def __call__(self, image: Tensor, grid: tuple[int, int]) -> Tensor:
        assert image.dtype == torch.uint8
        assert not torch.is_grad_enabled()
        self.seen.append(len(image))
        means = image.float().mean(dim=(2, 3)) / 255
        rows = torch.arange(grid[0] * grid[1]).float()[None, :, None]
        return torch.cat([means[:, None] + 0 * rows, torch.sin(rows + means[:, None])], dim=-1)


@dataclass
class Pictured(Repeated):
    """Batches with images, and with the tokens that the teacher would make of them where `tokens` is set."""

    tokens: bool = False

    def at(self, step: int) -> Batch:
        generator = torch.Generator().manual_seed(step)
        image = torch.randint(0, 256, (self.count, 3, 16, 16), generator=generator, dtype=torch.uint8)
        batch = replace(super().at(step), image=image, teacher_tokens=None)
        with torch.no_grad():
            return batch.with_teacher_tokens(Looking([])(image, (4, 4))) if self.tokens else batch


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_tokens_made_in_the_step_are_the_tokens_that_were_stored(precision: str):
    config = replace(FAST, precision=precision)
    stored, made = TrainState(objective_of(), config), TrainState(objective_of(), config)
    expected = [told(it) for it in run(stored, config, Pictured(tokens=True))]
    assert [told(it) for it in run(made, config, Pictured(), teacher=Looking([]))] == expected
    assert same(everything(made), everything(stored))


def test_a_teacher_looks_at_every_image_once_and_only_while_it_has_weight():
    stops, teacher = replace(REPA, schedule="stop", stop_at=0.5), Looking([])
    config = replace(FAST, micro_batch_size=3)
    list(run(TrainState(objective_of(stops), config), config, Pictured(), teacher=teacher))
    assert teacher.seen == [3, 1] * 3  # three of six steps, four images each

    idle = Looking([])
    list(run(TrainState(objective_of(), FAST), FAST, Pictured(tokens=True), teacher=idle))
    list(run(TrainState(objective_of(None), FAST), FAST, Pictured(), teacher=idle))
    assert idle.seen == []


def test_a_teacher_without_images_is_one_clear_line():
    source = Repeated()
    batch = replace(source.at(0), teacher_tokens=None)

    class Blind:
        def batches(self, from_step: int = 0) -> Iterator[Batch]:
            yield batch

    state = TrainState(objective_of(), FAST)
    with pytest.raises(ValueError, match=r"^batch.image: got None, .* with images$"):
        next(train(state, Blind(), FAST, seed=1, evaluate=weight_sums, teacher=Looking([])))


# -- activations that are not kept


def _step_of(
    model: PRX, config: PRXConfig, *, tap_depth: int | None = 1, precision: str = "fp32"
) -> tuple[list[Tensor], dict[str, Tensor], int]:
    """Outputs, gradients, and the bytes that the forward pass has saved for the backward pass."""
    batch, t = random_batch(config), torch.linspace(0, 1, 4)
    weights = {id(p): p for p in model.parameters()}
    saved: dict[int, Tensor] = {}

    def packed(tensor: Tensor) -> Tensor:
        if id(tensor) not in weights:
            saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    model.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(packed, lambda tensor: tensor):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            output = model(batch.clean, t, batch.text, batch.text_mask, tap_depth=tap_depth)
        num_bytes = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
        loss = output.velocity.float().square().sum()
        if output.hidden is not None:
            loss = loss + output.hidden.float().sin().sum()
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return [it for it in output if it is not None], gradients, num_bytes


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("tap_depth", [None, 1, 2])
def test_checkpointed_gradients_are_equal_to_the_bit(tiny: PRXConfig, tap_depth: int | None, precision: str):
    model = randomised(PRX(tiny))
    outputs, gradients, _ = _step_of(model, tiny, tap_depth=tap_depth, precision=precision)
    model.gradient_checkpointing = True
    again, same_gradients, _ = _step_of(model, tiny, tap_depth=tap_depth, precision=precision)
    assert same(again, outputs)
    assert same(same_gradients, gradients)


def test_checkpointing_keeps_the_blocks_inputs_alone(tiny: PRXConfig):
    """With twice the blocks, all that is kept grows by what a block keeps: a fraction of what it was."""

    def per_block(checkpointing: bool) -> int:
        kept = []
        for depth in (2, 4):
            config = replace(tiny, depth=depth)
            model = randomised(PRX(config))
            model.gradient_checkpointing = checkpointing
            kept.append(_step_of(model, config)[2])
        return (kept[1] - kept[0]) // 2

    tokens = 4 * 16 * tiny.hidden_size * 4  # bytes of [B, N, D] in fp32
    assert per_block(True) <= 2 * tokens
    assert per_block(False) >= 10 * tokens


def test_a_forward_without_gradient_checkpoints_nothing(tiny: PRXConfig, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr("prx_model.model.checkpoint", refuse)
    model = randomised(PRX(tiny))
    model.gradient_checkpointing = True
    batch = random_batch(tiny)
    with torch.no_grad():
        model(batch.clean, torch.rand(4), batch.text, batch.text_mask)
    with pytest.raises(AssertionError):
        model(batch.clean, torch.rand(4), batch.text, batch.text_mask)


@pytest.mark.parametrize("choice", [False, True])
def test_a_run_checkpoints_where_its_settings_say(choice: bool):
    config = replace(FAST, gradient_checkpointing=choice, ema_decay=0.9)
    state, evaluations = finished(config)
    assert state.objective.model.gradient_checkpointing is choice
    plain, expected = finished(replace(FAST, ema_decay=0.9))
    assert [told(it) for it in evaluations] == [told(it) for it in expected]
    assert same(everything(state), everything(plain))


def _can_compile() -> bool:
    try:
        check_toolchain(torch.device("cpu"))
    except ValueError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.usefixtures("compilable")
@pytest.mark.skipif(not _can_compile(), reason="no compiler")
def test_compiled_blocks_checkpoint_alike(tiny: PRXConfig):
    model = randomised(PRX(tiny))
    compile_blocks(model)
    outputs, gradients, kept = _step_of(model, tiny)
    checkpointed = copy.deepcopy(model)
    checkpointed.gradient_checkpointing = True
    compile_blocks(checkpointed)
    again, same_gradients, kept_now = _step_of(checkpointed, tiny)
    assert kept_now < kept / 3
    for one, other in zip(outputs, again, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(same_gradients[name], gradient, rtol=1e-4, atol=1e-4 * gradient.abs().max().item())


# -- a host that waits for nobody


class _NoAnswers(TorchDispatchMode):
    """Refuses every operation whose result the host must wait for."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        if name in ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "unique_dim"):
            raise AssertionError(f"{function} stalls a GPU")
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_step_asks_the_device_for_no_answer(optimizer: str):
    config = replace(FAST, optimizer=optimizer, precision="bf16", ema_decay=0.9, micro_batch_size=3)
    state = TrainState(objective_of(), config)
    step = _Step(state, config, Workers(), Looking([]), 1)
    batch = Pictured().at(0)
    draws = step._draws(batch)  # on the host, from its own generator
    with _NoAnswers():
        step._backward(batch, draws)
        update(state, config)
    with _NoAnswers(), pytest.raises(AssertionError, match="stalls a GPU"):
        float(next(state.objective.parameters()).sum())


def test_batches_arrive_in_float32_in_order_and_none_is_read_before_its_time():
    num_read = 0

    def source() -> Iterator[Batch]:
        nonlocal num_read
        for number in range(5):
            num_read += 1
            batch = Repeated().at(number)
            yield replace(batch, clean=batch.clean.half(), text=batch.text.bfloat16())

    arriving = on_device(source(), torch.device("cpu"))
    for number in range(5):
        batch = next(arriving)
        assert num_read == number + 1
        assert (batch.clean.dtype, batch.text.dtype) == (torch.float32, torch.float32)
        assert torch.equal(batch.clean, Repeated().at(number).clean.half().float())
    assert list(arriving) == []


def test_a_run_that_is_broken_off_closes_its_source():
    ended = []

    class Closing(Repeated):
        def batches(self, from_step: int = 0) -> Iterator[Batch]:
            try:
                yield from super().batches(from_step)
            finally:
                ended.append(True)

    run_of = run(TrainState(objective_of(), FAST), source=Closing())
    next(run_of)
    assert not ended
    run_of.close()
    assert ended


def test_draws_are_made_for_the_global_batch_and_cut_to_the_share():
    config: TrainingConfig = FAST
    state = TrainState(objective_of(), config)
    batch = Repeated().at(0)
    draws = _Step(state, config, Workers(rank=1, world_size=2), None, 1)._draws(batch.rows(2, 4))
    whole = draw(batch.clean.shape, config.timesteps, caption_dropout=config.caption_dropout, seed=1, step=0)
    assert torch.equal(draws.noise, whole.noise[2:])
    assert torch.equal(draws.t, whole.t[2:])
