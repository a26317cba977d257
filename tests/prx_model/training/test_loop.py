from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass, replace

import pytest
import torch

from prx_model.training.config import TrainingConfig
from prx_model.training.loop import DivergedError, optimizer_step, train
from prx_model.training.state import TrainState
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
    weight_sum,
    weight_sums,
)

# -- determinism and resume


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_two_runs_are_equal_to_the_bit(precision):
    config = replace(FAST, precision=precision, ema_decay=0.9)
    (one, first), (other, second) = finished(config), finished(config)
    assert [told(evaluation) for evaluation in first] == [told(evaluation) for evaluation in second]
    assert same(everything(one), everything(other))


def test_another_seed_is_another_run():
    state, other = TrainState(objective_of(), FAST), TrainState(objective_of(), FAST)
    one = list(train(state, Repeated(), FAST, seed=1, evaluate=weight_sums))
    two = list(train(other, Repeated(), FAST, seed=2, evaluate=weight_sums))
    assert one[0].flow_loss != two[0].flow_loss


@pytest.mark.parametrize("ema_decay", [None, 0.9])
@pytest.mark.parametrize("repa", [None, REPA, replace(REPA, schedule="stop", stop_at=0.5)])
@pytest.mark.parametrize("killed_at", [2, 4])
def test_killed_and_resumed_equals_never_killed(tmp_path, ema_decay, repa, killed_at):
    config = replace(FAST, ema_decay=ema_decay)
    whole, evaluations = finished(config, repa)

    killed = TrainState(objective_of(repa), config)
    for evaluation in run(killed, config):
        if evaluation.step == killed_at:
            killed.save(tmp_path)
            break

    resumed = TrainState(objective_of(repa), config)
    with torch.no_grad():  # whatever the new process begins with, it is overwritten
        for parameter in resumed.objective.parameters():
            parameter.add_(1.0)
    resumed.load(tmp_path)
    assert resumed.step == killed_at
    assert same(everything(resumed), everything(killed))
    rest = [told(evaluation) for evaluation in run(resumed, config)]
    assert rest == [told(e) for e in evaluations if e.step > killed_at]
    assert same(everything(resumed), everything(whole))


def test_a_finished_run_has_nothing_left_to_do(tmp_path):
    state, evaluations = finished()
    assert evaluations[-1].step == state.step == 6
    before = copy.deepcopy(everything(state))
    assert list(run(state)) == []
    assert same(everything(state), before)


def test_the_state_holds_the_weights_of_the_step_while_the_caller_has_control():
    state = TrainState(objective_of(), replace(FAST, ema_decay=0.9))
    for evaluation in run(state, replace(FAST, ema_decay=0.9)):
        assert state.step == evaluation.step
        assert evaluation.scores().values == {"weight_sum": weight_sum(state.evaluated_model)}


def test_a_checkpoint_is_tensors_and_numbers_and_holds_no_teacher(tmp_path):
    state, _ = finished(replace(FAST, ema_decay=0.9))
    state.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    assert set(saved) == {"step", "window", "objective", "optimizer", "averaged"}
    assert {name.split(".")[0] for name in saved["objective"]} == {"model", "projector"}
    num_saved = sum(value.numel() for value in saved["objective"].values())
    assert num_saved == sum(parameter.numel() for parameter in state.objective.parameters())
    assert not any("teacher" in name or "null_text" in name for name in saved["objective"])


# -- the pieces of a step


def test_the_average_is_its_definition_with_warm_up():
    config = replace(FAST, ema_decay=0.4, eval_every_steps=1)
    state = TrainState(objective_of(), config)
    expected = [parameter.detach().clone().double() for parameter in state.objective.model.parameters()]
    decays = []
    for evaluation in run(state, config):
        decay = min(0.4, (1 + evaluation.step) / (10 + evaluation.step))
        decays.append(decay)
        for average, current in zip(expected, state.objective.model.parameters(), strict=True):
            average.mul_(decay).add_(current.detach().double(), alpha=1 - decay)
        assert evaluation.scores().values == {"weight_sum": weight_sum(state.averaged)}
    assert decays == [2 / 11, 3 / 12, 4 / 13, 5 / 14, 0.4, 0.4]
    for average, parameter in zip(expected, state.averaged.parameters(), strict=True):
        torch.testing.assert_close(parameter.double(), average, rtol=1e-5, atol=1e-6)
        assert not parameter.requires_grad


def test_without_an_average_the_raw_weights_are_evaluated():
    state = TrainState(objective_of(), FAST)
    assert state.averaged is None
    assert state.evaluated_model is state.objective.model


def test_the_average_changes_no_training():
    raw, averaged = finished(FAST)[0], finished(replace(FAST, ema_decay=0.5))[0]
    assert same(raw.objective.state_dict(), averaged.objective.state_dict())


def test_the_learning_rate_rises_to_its_value_and_stays():
    config = TrainingConfig(learning_rate=2.0, warmup_steps=4)
    assert [config.learning_rate_at(step) for step in range(6)] == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
    assert TrainingConfig(learning_rate=2.0, warmup_steps=0).learning_rate_at(0) == 2.0


def test_the_optimizer_uses_the_rate_of_the_step_and_the_configured_settings():
    config = replace(FAST, betas=(0.8, 0.7), eps=1e-3, weight_decay=0.25)
    state = TrainState(objective_of(), config)
    rates = [state.optimizer.param_groups[0]["lr"] for _ in run(state, replace(config, eval_every_steps=1))]
    assert rates == pytest.approx([1e-2 / 3, 2e-2 / 3, 1e-2, 1e-2, 1e-2, 1e-2])
    (group,) = state.optimizer.param_groups
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.8, 0.7), 1e-3, 0.25)
    assert len(group["params"]) == len(list(state.objective.parameters()))


@pytest.mark.parametrize("clip", [0.5, 1e6])
def test_the_gradient_is_clipped_to_its_norm_and_the_norm_before_is_told(clip):
    config = replace(FAST, grad_clip=clip)
    state = TrainState(objective_of(), config)
    loss = sum((parameter * 3).sum() for parameter in state.objective.parameters())
    count = sum(parameter.numel() for parameter in state.objective.parameters())
    seen = []
    state.optimizer.register_step_pre_hook(
        lambda optimizer, *_: seen.append(
            math.sqrt(sum(float(p.grad.double().square().sum()) for p in optimizer.param_groups[0]["params"]))
        )
    )
    norm = optimizer_step(state, loss, config)
    assert float(norm) == pytest.approx(3 * math.sqrt(count), rel=1e-5)
    assert seen == [pytest.approx(min(clip, 3 * math.sqrt(count)), rel=1e-4)]
    assert state.step == 1
    assert all(parameter.grad is None for parameter in state.objective.parameters())


def test_one_step_is_adamw_by_its_definition():
    config = replace(FAST, learning_rate=0.1, warmup_steps=0, grad_clip=1e6, eps=1e-8, weight_decay=0.1)
    state = TrainState(objective_of(), config)
    before = {name: p.detach().clone() for name, p in state.objective.named_parameters()}
    optimizer_step(state, sum((parameter * 3).sum() for parameter in state.objective.parameters()), config)
    for name, parameter in state.objective.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name] * (1 - 0.1 * 0.1) - 0.1, rtol=1e-4, atol=1e-5)


# -- evaluations


@pytest.mark.parametrize(
    ("steps", "every", "expected"),
    [(6, 2, [2, 4, 6]), (7, 3, [3, 6, 7]), (5, 5, [5]), (1, 1, [1]), (9, 8, [8, 9])],
)
def test_evaluations_come_at_every_interval_and_at_the_end(steps, every, expected):
    config = replace(FAST, steps=steps, eval_every_steps=every)
    assert config.evaluation_steps() == expected
    assert [evaluation.step for evaluation in finished(config)[1]] == expected


def test_losses_are_means_since_the_evaluation_before():
    every = [told(e) for e in finished(replace(FAST, eval_every_steps=1))[1]]
    pairs = [told(e) for e in finished(FAST)[1]]
    for number, pair in enumerate(pairs):
        singles = every[2 * number : 2 * number + 2]
        for column in (2, 3, 4):
            assert pair[column] == pytest.approx(sum(single[column] for single in singles) / 2, rel=1e-5)
        assert pair[1] == singles[1][1]


def test_a_baseline_has_no_alignment_loss_and_its_flow_loss_is_the_loss():
    _, evaluations = finished(repa=None)
    assert [evaluation.repa_loss for evaluation in evaluations] == [None] * 3
    assert all(evaluation.flow_loss > 0 for evaluation in evaluations)


def test_repa_trains_the_model_and_not_only_its_projector():
    with_repa, baseline = finished()[0].objective.model, finished(repa=None)[0].objective.model
    assert not same(with_repa.state_dict(), baseline.state_dict())


def test_repa_that_stops_is_repa_up_to_there_and_the_baseline_after():
    stop = replace(REPA, schedule="stop", stop_at=0.5)
    constant, stopping = finished()[1], finished(repa=stop)[1]
    config = replace(FAST, eval_every_steps=1)
    assert [e.repa_loss is not None for e in finished(config, stop)[1]] == [True] * 3 + [False] * 3
    assert told(stopping[0]) == told(constant[0])
    assert stopping[2].repa_loss is None
    assert stopping[2].scores().values != constant[2].scores().values


@dataclass
class Slow(Repeated):
    """Batches that take 10 ms each to come."""

    def at(self, step):
        time.sleep(0.01)
        return super().at(step)


def test_times_and_rates_are_those_of_the_window():
    for evaluation in finished()[1]:
        assert evaluation.train_s > 0
        assert evaluation.images_per_s == pytest.approx(2 * 4 / (evaluation.data_s + evaluation.train_s))


def test_waiting_for_batches_is_told_apart_from_training():
    started = time.perf_counter()
    evaluations = finished(source=Slow())[1]
    wall_s = time.perf_counter() - started
    assert all(evaluation.data_s >= 2 * 0.01 for evaluation in evaluations)
    assert sum(evaluation.data_s + evaluation.train_s for evaluation in evaluations) <= wall_s
    quick = finished(source=Repeated())[1]
    assert all(one.data_s < slow.data_s for one, slow in zip(quick, evaluations, strict=True))


def test_what_the_caller_does_between_evaluations_is_no_training_time():
    slept, counted, started = 0.0, 0.0, time.perf_counter()
    for evaluation in run(TrainState(objective_of(), FAST)):
        counted += evaluation.data_s + evaluation.train_s
        time.sleep(0.05)
        slept += 0.05
    assert slept == pytest.approx(0.15)
    assert counted <= time.perf_counter() - started - slept


def test_looks_are_taken_when_the_caller_asks_and_change_no_training():
    made = []

    def counting(model):
        for look in weight_sums(model):
            made.append(look.num_samples)
            yield look

    state = TrainState(objective_of(), FAST)
    for number, evaluation in enumerate(train(state, Repeated(), FAST, seed=1, evaluate=counting)):
        made.clear()
        assert [look.num_samples for look, _ in zip(evaluation.looks, range(number), strict=False)] == [1, 2][:number]
        assert made == [1, 2][: number + 1]  # zip has asked for one more
    assert same(everything(state), everything(finished()[0]))


def test_scores_take_the_looks_that_are_left_and_stay():
    evaluations = run(TrainState(objective_of(), FAST))
    evaluation = next(evaluations)
    assert evaluation.looks.last is None
    assert next(evaluation.looks).num_samples == 1
    last = evaluation.scores()
    assert last.num_samples == 2
    next(evaluations)
    assert evaluation.scores() is evaluation.looks.last is last
    assert list(evaluation.looks) == []


def test_a_look_after_training_went_on_is_refused_for_it_would_be_at_other_weights():
    evaluations = run(TrainState(objective_of(), FAST))
    first, second = next(evaluations), next(evaluations)
    with pytest.raises(ValueError, match=r"a look at step 2 .* at step 4; look before"):
        next(first.looks)
    assert second.scores().num_samples == 2


def test_training_learns_one_batch_by_heart():
    config = replace(FAST, steps=400, eval_every_steps=50, learning_rate=3e-3, warmup_steps=5, caption_dropout=0.0)
    state = TrainState(objective_of(fresh=True), config)
    first, *_, last = list(run(state, config, Repeated(only=0)))
    assert last.flow_loss < 0.75 * first.flow_loss
    assert last.repa_loss < first.repa_loss - 0.4


# -- what goes wrong


@pytest.mark.parametrize("step", [1, 2, 3, 4, 6])
def test_a_nan_in_one_image_ends_the_run_with_its_step(step):
    state = TrainState(objective_of(), FAST)
    with pytest.raises(DivergedError, match=f"^loss is nan at step {step}$") as caught:
        list(run(state, source=Repeated(poisoned_step=step - 1)))
    assert caught.value.step == step


@pytest.mark.parametrize("step", [1, 20, 21, 45])
def test_a_long_run_is_stopped_soon_and_told_exactly(step):
    config = replace(FAST, steps=1000, eval_every_steps=1000)
    state = TrainState(objective_of(), config)
    with pytest.raises(DivergedError) as caught:
        list(run(state, config, Repeated(poisoned_step=step - 1)))
    assert caught.value.step == step
    assert state.step < step + 20


def test_a_resumed_run_counts_its_steps_from_the_beginning():
    state = TrainState(objective_of(), FAST)
    next(iter(run(state)))
    with pytest.raises(DivergedError) as caught:
        list(run(state, source=Repeated(poisoned_step=4)))
    assert caught.value.step == 5


def test_a_gradient_that_overflows_is_told_at_its_own_step_not_at_the_next_ones_loss():
    state = TrainState(objective_of(), FAST)
    calls = []

    def overflow(gradient):
        calls.append(1)
        return gradient * math.inf if len(calls) == 3 else gradient

    next(state.objective.projector.parameters()).register_hook(overflow)
    with pytest.raises(DivergedError, match=r"gradient norm is (nan|inf) at step 3"):
        list(run(state, replace(FAST, eval_every_steps=6)))


def test_an_error_of_the_evaluation_is_the_callers():
    def fail(_model):
        raise RuntimeError("no metric")

    with pytest.raises(RuntimeError, match="no metric"):
        list(train(TrainState(objective_of(), FAST), Repeated(), FAST, seed=1, evaluate=fail))


def test_an_error_of_a_look_is_the_callers():
    def fail(model):
        yield next(weight_sums(model))
        raise FloatingPointError("metric 'fid'")

    evaluation = next(train(TrainState(objective_of(), FAST), Repeated(), FAST, seed=1, evaluate=fail))
    with pytest.raises(FloatingPointError, match="metric 'fid'"):
        evaluation.scores()


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 0},
        {"batch_size": 0},
        {"eval_every_steps": 0},
        {"eval_every_steps": 100_001},
        {"learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"eps": -1.0},
        {"grad_clip": 0.0},
        {"grad_clip": math.inf},
        {"warmup_steps": -1},
        {"weight_decay": -0.1},
        {"betas": (0.9, 1.0)},
        {"betas": (-0.1, 0.9)},
        {"ema_decay": 0.0},
        {"ema_decay": 1.0},
        {"caption_dropout": 1.1},
        {"precision": "fp16"},
    ],
)
def test_impossible_settings_are_refused(change):
    with pytest.raises(ValueError, match=rf"{next(iter(change))}.*: got .*allowed"):
        TrainingConfig(**change)
