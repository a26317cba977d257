"""An experiment's evaluations: the real model, sampler, suite and loop, their looks taken one by one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from prx_model import experiment as module
from prx_model.experiment import DataConfig, EvaluationConfig, Experiment, ExperimentConfig, open_experiment
from prx_model.metrics.suite import MetricSuite
from prx_model.model import MODELS
from prx_model.sampling import SamplerConfig
from prx_model.training.distributed import Workers
from prx_model.training.state import TrainState
from tests.prx_model.metrics.conftest import held_out
from tests.prx_model.metrics.test_suite import suite
from tests.prx_model.training_runs import FAST, REPA, Repeated, everything, objective_of, same

EVALUATION = EvaluationConfig(
    metrics=("mmd_lite0",), num_samples=12, batch_size=4, nested=(0.1, 0.5), sampler=SamplerConfig(steps=2)
)


def opened() -> Experiment:
    config = ExperimentConfig(model=MODELS["prx_tiny"], training=FAST, evaluation=EVALUATION, repa=REPA)
    width = config.model.context_in_dim
    text = torch.randn(12, 3, width, generator=torch.Generator().manual_seed(0))
    return Experiment(
        config=config,
        state=TrainState(objective_of(), FAST),
        reader=Repeated(),  # pyright: ignore[reportArgumentType]
        suite=looks_suite(text),
        workers=Workers(),
    )


def looks_suite(text: torch.Tensor) -> MetricSuite:
    return suite(
        EVALUATION.metrics,
        prompts=held_out(torch.zeros(12, 3, 1, 1, dtype=torch.uint8), text=text),
        sample_shape=(3, 16, 16),
        num_samples=EVALUATION.num_samples,
        batch_size=EVALUATION.batch_size,
        parts=EVALUATION.nested,
    )


def test_a_caller_who_looks_less_trains_the_same_and_samples_less(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = []
    sample = module.sample

    def counting(*inputs, **options):
        batches.append(1)
        return sample(*inputs, **options)

    monkeypatch.setattr(module, "sample", counting)
    full, brief = opened(), opened()
    by_step = {evaluation.step: list(evaluation.looks) for evaluation in full.evaluations()}
    assert [[look.num_samples for look in looks] for looks in by_step.values()] == [[4, 8, 12]] * 3
    assert len(batches) == 9
    batches.clear()
    for evaluation in brief.evaluations():
        if evaluation.step == 2:
            continue
        look = next(evaluation.looks)
        assert look.values == by_step[evaluation.step][0].values
        assert torch.equal(look.images, by_step[evaluation.step][0].images)
    assert len(batches) == 2
    assert same(everything(full.state), everything(brief.state))


def test_looks_show_the_weights_of_their_step() -> None:
    evaluations = opened().evaluations()
    values = [evaluation.scores().values["mmd_lite0"] for evaluation in evaluations]
    assert len(set(values)) == 3


@pytest.mark.parametrize("nested", [(0.5, 0.25), (0.0,), (0.5, 1.0), (0.25, 0.25)])
def test_impossible_parts_are_refused_under_the_settings_name(nested: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"^nested: got \[.*\], allowed are ascending numbers above 0 and below 1$"):
        replace(EVALUATION, nested=nested)
    assert replace(EVALUATION, nested=()).nested == ()


def test_the_settings_parts_become_the_looks_of_a_run(tmp_path) -> None:
    """From settings to scores, on a few real drawings and through a real network."""
    config = ExperimentConfig(
        model=MODELS["prx_tiny"],
        data=DataConfig(limit=48, num_heldout=12),
        training=replace(FAST, steps=2),
        evaluation=replace(EVALUATION, metrics=("mmd_opennsfw",)),
    )
    experiment = open_experiment(config, tmp_path)
    assert experiment.suite.counts == (4, 8, 12)
    (evaluation,) = experiment.evaluations()
    looks = list(evaluation.looks)
    assert [look.num_samples for look in looks] == [4, 8, 12]
    assert evaluation.scores() is looks[-1]
    assert evaluation.data_s > 0
    assert evaluation.train_s > 0
