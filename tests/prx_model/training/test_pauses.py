"""Pauses for checkpoints: where they come, and that a run killed at any of them goes on as if nothing had been."""

from __future__ import annotations

import multiprocessing
import random
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prx_model.evaluation import Evaluation, Pause
from prx_model.training import loop as training
from prx_model.training.config import TrainingConfig
from prx_model.training.state import TrainState
from prx_model.training.window import Window
from tests.prx_model.training_runs import FAST, REPA, Repeated, everything, objective_of, run, same, told

MINUTE = 60.0
OFTEN = 1e-9  # minutes: at every step at which the loop asks


@dataclass
class Clock:
    """Time that passes when it is told to, and a little at every look."""

    now: float = 0.0

    def __call__(self) -> float:
        self.now += 1e-3
        return self.now


@dataclass
class Timed(Repeated):
    """Batches each of which takes a minute to come."""

    clock: Clock | None = None

    def at(self, step):
        if self.clock is not None:
            self.clock.now += MINUTE
        return super().at(step)


@pytest.fixture
def asked_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "FINITE_CHECK_STEPS", 1)


# -- where they come


def _steps(config: TrainingConfig, *, between_s: float = 0.0) -> list[tuple[str, int]]:
    """What a run yields, when every batch takes a minute and its caller takes `between_s` seconds each time."""
    clock = Clock()
    yielded = []
    for it in run(TrainState(objective_of(None), config), config, Timed(clock=clock), clock=clock):
        yielded.append((type(it).__name__, it.step))
        clock.now += between_s
    return yielded


@pytest.mark.usefixtures("asked_every_step")
@pytest.mark.parametrize("between_s", [0.0, 1000.0])
def test_a_pause_comes_when_its_time_has_passed_since_the_caller_last_had_control(between_s: float):
    config = replace(FAST, steps=10, eval_every_steps=5, checkpoint_every_min=2.0)
    pause, evaluation = "Pause", "Evaluation"
    expected = [(pause, 2), (pause, 4), (evaluation, 5), (pause, 7), (pause, 9), (evaluation, 10)]
    assert _steps(config, between_s=between_s) == expected


def test_pauses_come_only_at_the_steps_at_which_losses_are_read():
    config = replace(FAST, steps=50, eval_every_steps=50, checkpoint_every_min=2.0)
    assert _steps(config) == [("Pause", 20), ("Pause", 40), ("Evaluation", 50)]


@pytest.mark.usefixtures("asked_every_step")
def test_unless_asked_for_there_is_no_pause():
    assert _steps(FAST, between_s=1000.0) == [("Evaluation", 2), ("Evaluation", 4), ("Evaluation", 6)]


def test_a_pause_comes_when_the_caller_asks_for_one_whatever_the_clock_says():
    config, asked = replace(FAST, steps=70, eval_every_steps=70), iter([False, True, False])
    came = run(TrainState(objective_of(None), config), config, pause_asked=lambda: next(asked))
    assert [it.step for it in came if isinstance(it, Pause)] == [40]


@pytest.mark.usefixtures("asked_every_step")
def test_a_pause_changes_no_training_and_no_loss():
    paused = replace(FAST, checkpoint_every_min=OFTEN)
    expected, got = TrainState(objective_of(), FAST), TrainState(objective_of(), paused)
    told_of = [
        [told(it) for it in run(*one) if isinstance(it, Evaluation)] for one in ((expected, FAST), (got, paused))
    ]
    assert told_of[0] == told_of[1]
    assert same(everything(got), everything(expected))


# -- what a window has gathered


@pytest.mark.usefixtures("asked_every_step")
def test_an_evaluation_tells_of_the_seconds_and_images_before_a_kill_too(tmp_path: Path):
    config = replace(FAST, steps=4, eval_every_steps=4, checkpoint_every_min=3.0)
    clock = Clock()
    state = TrainState(objective_of(), config)
    pause = next(iter(run(state, config, Timed(clock=clock), clock=clock)))
    assert pause == Pause(step=3)
    state.save(tmp_path)

    clock.now += 1e6  # until it is started again
    resumed = TrainState(objective_of(), config)
    resumed.load(tmp_path)
    (evaluation,) = run(resumed, config, Timed(clock=clock), clock=clock)
    assert isinstance(evaluation, Evaluation)
    assert evaluation.data_s == pytest.approx(4 * MINUTE, rel=1e-3)
    assert evaluation.data_s + evaluation.train_s == pytest.approx(4 * MINUTE, rel=1e-3)
    assert evaluation.images_per_s == pytest.approx(4 * 4 / (4 * MINUTE), rel=1e-3)


@pytest.mark.usefixtures("asked_every_step")
def test_what_is_saved_at_an_evaluation_begins_a_new_window():
    config = replace(FAST, checkpoint_every_min=OFTEN)
    state = TrainState(objective_of(), config)
    for it in run(state, config):
        saved = state.window.state_dict()
        steps_since = it.step % FAST.eval_every_steps
        assert [len(saved[name]) for name in ("flow", "repa", "norms")] == [steps_since] * 3
        assert saved["num_images"] == steps_since * FAST.batch_size
        assert (saved["wall_s"] > 0) == (steps_since > 0)


def test_a_window_is_the_same_after_its_saved_form():
    window = Window()
    window.flow, window.repa, window.norms = [0.1, 1 / 3], [-0.7], [1e-9, 2.0]
    window.num_images, window.wall_s, window.data_s = 8, 1.5, 0.25
    other = Window()
    other.load_state_dict(window.state_dict())
    assert same(other.state_dict(), window.state_dict())
    assert (other.flow, other.norms) == (window.flow, window.norms)


# -- killed and resumed


def _outcome(state: TrainState) -> dict[str, Any]:
    times = {"wall_s": None, "data_s": None}
    return everything(state) | {"window": state.window.state_dict() | times}


def _killed_at(steps: set[int], config: TrainingConfig, folder: Path, repa: Any) -> tuple[TrainState, list[Any]]:
    """A run that is begun anew from its last checkpoint after each of `steps`, with what it told of each evaluation."""
    evaluations: dict[int, Any] = {}
    checkpoint = None
    for _ in range(len(steps) + 1):
        state = (
            TrainState(objective_of(repa, fresh=True), config) if checkpoint else TrainState(objective_of(repa), config)
        )
        if checkpoint is not None:
            state.load(checkpoint)
        for it in run(state, config):
            if isinstance(it, Evaluation):
                evaluations[it.step] = told(it)
            checkpoint = folder / str(it.step)
            checkpoint.mkdir(exist_ok=True)
            state.save(checkpoint)
            if it.step in steps:
                steps = steps - {it.step}
                break
    return state, list(evaluations.values())


SCHEDULES = [None, REPA, replace(REPA, schedule="stop", stop_at=0.5)]


@settings(max_examples=15)
@given(
    steps=st.sets(st.integers(1, 6), min_size=1, max_size=3),
    repa=st.sampled_from(SCHEDULES),
    optimizer=st.sampled_from(["adamw", "muon"]),
    ema_decay=st.sampled_from([None, 0.9]),
    micro_batch_size=st.sampled_from([None, 1, 3]),
    gradient_checkpointing=st.booleans(),
    schedule=st.sampled_from(["constant", "cosine"]),
    precision=st.sampled_from(["fp32", "bf16"]),
)
def test_killed_at_any_pause_and_resumed_equals_never_killed(steps: set[int], repa: Any, **choices: Any):
    config = replace(FAST, eval_every_steps=3, **choices)
    whole = TrainState(objective_of(repa), config)
    expected = [told(evaluation) for evaluation in run(whole, config) if isinstance(evaluation, Evaluation)]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "FINITE_CHECK_STEPS", 1)
        paused = replace(config, checkpoint_every_min=OFTEN)
        state, evaluations = _killed_at(steps, paused, Path(folder), repa)
    assert evaluations == expected
    assert same(_outcome(state), _outcome(whole))


# -- a real kill

LONG = replace(
    FAST,
    steps=40,
    eval_every_steps=20,
    ema_decay=0.9,
    micro_batch_size=3,
    optimizer="muon",
    schedule="cosine",
    checkpoint_every_min=OFTEN,
)


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("[0-9]*") if path.is_dir())


def _train_in(folder: str) -> None:
    """A process's whole life: go on from the newest checkpoint, and save at every step."""
    from prx_model.data.durable import whole_folder

    torch.set_num_threads(1)
    training.FINITE_CHECK_STEPS = 1
    state = TrainState(objective_of(), LONG)
    saved = _checkpoints(Path(folder))
    if saved:
        state.load(saved[-1])
    for it in run(state, LONG):
        if isinstance(it, Evaluation):
            torch.save(told(it), Path(folder) / f"told-{it.step}.pt")
        with whole_folder(Path(folder) / f"{it.step:03}") as checkpoint:
            state.save(checkpoint)


def _started(folder: Path) -> Any:
    process = multiprocessing.get_context("spawn").Process(target=_train_in, args=(str(folder),), daemon=True)
    process.start()
    return process


def _until(is_so: Any, *, limit_s: float = 240.0) -> Iterator[None]:
    deadline = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < deadline, "it took too long"
        yield time.sleep(0.005)


@pytest.mark.slow
def test_a_process_killed_outright_and_another_one_end_where_an_undisturbed_run_ends(tmp_path: Path):
    chance = random.Random(0)
    undisturbed = TrainState(objective_of(), replace(LONG, checkpoint_every_min=None))
    expected = [told(it) for it in run(undisturbed, LONG) if isinstance(it, Evaluation)]

    victim = _started(tmp_path)
    for _ in _until(lambda: len(_checkpoints(tmp_path)) >= 5):
        assert victim.is_alive()
    time.sleep(chance.uniform(0, 0.1))  # somewhere in a later step, or in its saving
    victim.kill()
    victim.join(timeout=60)
    assert victim.exitcode == -9
    killed_at = int(_checkpoints(tmp_path)[-1].name)
    assert 5 <= killed_at < LONG.steps

    heir = _started(tmp_path)
    heir.join(timeout=240)
    assert heir.exitcode == 0
    final = TrainState(objective_of(), LONG)
    final.load(tmp_path / f"{LONG.steps:03}")
    assert same(everything(final), everything(undisturbed))
    assert [torch.load(tmp_path / f"told-{step}.pt", weights_only=True) for step in (20, 40)] == expected
