"""docs/prx-ablations.md against the search spaces, the settings' defaults and the benchmarks that it counts with."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from prx_model.flow import TimestepLaw
from prx_model.model import MODELS
from prx_model.repa import RepaConfig
from prx_model.training.config import TrainingConfig
from sweeps.agenda import most_confirmations
from sweeps.space import SearchSpace
from sweeps.space_file import load_space
from tests.documents.blocks import ROOT, text_of

PAGE = text_of("docs/prx-ablations.md")
COSTS = re.findall(r"^\| (\w+) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \| ([\d.]+) \|$", PAGE, re.MULTILINE)
EVALUATION_HOURS = 4  # as the page says


def space(name: str) -> SearchSpace:
    return load_space(ROOT / "search_spaces" / f"{name}.yaml", "cluster")


def images_per_s(case: str) -> float:
    """At 32 images a step, by the benchmark's page."""
    [rate] = re.findall(
        rf"^\| {re.escape(case)} \| 32 \| ([\d.]+) \|", text_of("docs/benchmarks/train-step-h100.md"), re.MULTILINE
    )
    assert f"{rate} " in PAGE, f"the page counts with another rate than {rate}"
    return float(rate)


def test_the_published_settings_are_the_baseline() -> None:
    config = space("repa").baseline_config(0)
    assert config.model == MODELS["prx_1b"]
    assert config.repa is None
    assert config.training.timesteps == TimestepLaw(
        mean=0.0, std=1.0, shift=1.0, min_t=1e-3, max_t=1.0, uniform_probability=0.1
    )
    published = TrainingConfig(
        steps=100_000,
        batch_size=256,
        eval_every_steps=10_000,
        optimizer="adamw",
        learning_rate=1e-4,
        betas=(0.9, 0.95),
        eps=1e-15,
        weight_decay=0.0,
        warmup_steps=1_000,
        schedule="constant",
        grad_clip=0.2,
        ema_decay=None,
        caption_dropout=0.1,
        precision="bf16",
    )
    how = {"compile": config.training.compile, "checkpoint_every_min": config.training.checkpoint_every_min}
    assert config.training == replace(published, **how)
    evaluation = config.evaluation
    assert (evaluation.num_samples, evaluation.sampler.steps, evaluation.sampler.guidance) == (10_000, 50, 3.5)


@pytest.mark.parametrize(
    ("name", "place", "published"),
    [
        ("repa", 0, RepaConfig(teacher="dinov3_vitl16", depth=8, weight=0.5)),
        ("repa", 2, RepaConfig(teacher="dinov2_vitl14_reg", depth=8, weight=0.5)),
        ("repa_weight", 0, RepaConfig(teacher="dinov3_vitl16", depth=8, weight=0.5)),
        ("repa_depth", 0, RepaConfig(teacher="dinov3_vitl16", depth=8, weight=0.5)),
        ("repa_teacher", 0, RepaConfig(teacher="dinov3_vitl16", depth=8, weight=0.5)),
        ("repa_teacher", 1, RepaConfig(teacher="dinov2_vitl14_reg", depth=8, weight=0.5)),
        (
            "irepa",
            0,
            RepaConfig(teacher="dinov3_vitl16", depth=8, weight=0.5, projector="conv3x3", spatial_norm=0.6),
        ),
    ],
)
def test_a_published_run_is_the_point_that_the_page_names(name: str, place: int, published: RepaConfig) -> None:
    asked = space(name)
    assert asked.candidate_config(asked.points[place]).repa == published


@pytest.mark.parametrize("name", ["irepa", "repa_schedule"])
def test_where_the_page_says_so_the_baseline_is_repa(name: str) -> None:
    assert space(name).baseline_config(0).repa == RepaConfig(teacher="dinov3_vitl16", depth=8, weight=0.5)


def test_muon_runs_at_the_published_rate() -> None:
    asked = space("optimizer")
    training = asked.candidate_config(asked.points[0]).training
    assert (training.optimizer, training.learning_rate, training.momentum) == ("muon", 1e-4, 0.95)


@pytest.mark.parametrize("row", COSTS, ids=lambda row: row[0])
def test_the_costs_are_those_of_the_space_files(row: tuple[str, ...]) -> None:
    asked = space(row[0])
    first = asked.baseline_config(0)
    images = first.training.steps * first.training.batch_size
    plain, with_repa = (
        round(images / images_per_s(case) / 3600 + EVALUATION_HOURS)
        for case in ("ours, compiled", "ours with REPA dinov3_vitl16, compiled")
    )
    assert f"about {plain} GPU-hours a trial without REPA, {with_repa} with it" in PAGE
    baselines, candidates, confirmations = (
        asked.budget.baseline_seeds,
        asked.budget.candidates,
        most_confirmations(asked),
    )
    teaches = asked.candidate_config(asked.first_ends()).repa is not None
    hours = baselines * (plain if first.repa is None else with_repa)
    hours += (candidates + confirmations) * (with_repa if teaches else plain)
    gpus = asked.resources.workers * asked.resources.gpus_per_worker
    told = (baselines, candidates, confirmations, hours, f"{hours / gpus / 24:.1f}")
    assert row[1:] == tuple(map(str, told))


def test_every_space_has_its_costs_and_is_spoken_of() -> None:
    names = sorted(file.stem for file in (ROOT / "search_spaces").glob("*.yaml"))
    assert [row[0] for row in COSTS] == names
    assert all(f"(../search_spaces/{name}.yaml)" in PAGE for name in names)
