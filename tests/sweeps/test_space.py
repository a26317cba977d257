from __future__ import annotations

import math

import pytest

from sweeps.rule import StopConfig
from sweeps.space import Budget, Dimension, Resources, SpaceError, flattered_metrics
from sweeps.space_file import with_budget
from sweeps.storage import SweepPaths
from tests.sweeps.space_files import P, put, space_of


def test_a_file_resolves():
    space = space_of()
    assert (space.name, space.profile, space.question) == ("x", "laptop", "Which teacher?")
    assert (space.objective.metric, space.objective.mode) == ("mmd_opennsfw", "min")
    assert space.stop == StopConfig(margin=1.5, patience=3, grace=0.2)
    assert space.budget == Budget(candidates=6, baseline_seeds=2)
    assert space.resources == Resources(workers=1, cpus_per_worker=1, gpus_per_worker=0, concurrent_trials=2)
    assert space.dimensions == (
        Dimension(path="repa.teacher", kind="choice", values=("dinov2s_saliency", "efficientnet_lite0")),
        Dimension(path="repa.depth", kind="int", low=1, high=5),
        Dimension(path="repa.weight", kind="float", low=0.05, high=2.0, log=True),
    )
    assert space.points == ({"repa.teacher": "dinov2s_saliency", "repa.depth": 2, "repa.weight": 0.5},)
    assert space.baseline_seeds == [4, 5]


def test_how_evaluations_are_made_is_part_of_the_sweep():
    full = space_of(put("stop", value={"evaluation": "full"}))
    assert (full.stop, space_of().stop.evaluation) == (StopConfig(evaluation="full"), "adaptive")
    fewer = space_of(put(*P, "evaluation", "nested", value=[0.25]))
    assert fewer.baseline_config(4).evaluation.nested == (0.25,)
    assert len({space.fingerprint for space in (full, fewer, space_of(put("stop", value={})))}) == 3


def test_baseline_and_candidates_differ_in_repa_alone_and_candidates_take_the_first_seed():
    space = space_of()
    baseline, candidate = space.baseline_config(4), space.candidate_config(space.points[0])
    assert baseline.repa is None
    assert candidate.repa is not None
    assert (candidate.repa.teacher, candidate.repa.depth, candidate.repa.projector_width) == (
        "dinov2s_saliency",
        2,
        256,
    )
    assert (baseline.model, baseline.data, baseline.training) == (candidate.model, candidate.data, candidate.training)
    assert (baseline.seed, candidate.seed, space.baseline_config(5).seed) == (4, 4, 5)
    assert baseline.training.learning_rate == 5e-4


def test_sections_that_are_left_out_have_defaults():
    def change(content):
        for key in ("question", "points", "stop", "budget"):
            del content[key]
        del content["profiles"]["laptop"]["resources"]

    space = space_of(change)
    assert (space.stop, space.budget, space.resources) == (StopConfig(), Budget(), Resources())
    assert (space.points, space.question) == ((), "")


@pytest.mark.parametrize(
    ("depth", "fractions", "ends"),
    [
        (6, (0.15, 0.75), (1, 5)),
        (16, (0.15, 0.75), (2, 12)),
        (6, (0.01, 1), (1, 6)),
        (6, (0.25, 0.5), (2, 3)),  # 1.5 goes up
        (2, (0.25, 0.74), (1, 1)),
        (10, (0.35, 0.45), (4, 5)),
    ],
)
def test_fractions_are_the_nearest_whole_block(depth, fractions, ends):
    def change(content):
        content["profiles"]["laptop"].update({"model": {"in_channels": 3, "context_in_dim": 384, "depth": depth}})
        content["space"]["repa.depth"] = {"fraction": list(fractions)}
        content["points"] = []

    dimension = space_of(change).dimensions[1]
    assert (dimension.kind, dimension.ends()) == ("int", list(ends))
    assert all(type(end) is int for end in dimension.ends())


def test_a_point_tells_blocks_from_fractions_by_their_type():
    def change(content):
        content["points"] = [
            {"repa.teacher": "dinov2s_saliency", "repa.depth": depth, "repa.weight": 1} for depth in (4, 0.34, 0.8)
        ]

    points = space_of(change).points
    assert [point["repa.depth"] for point in points] == [4, 2, 5]
    assert type(points[0]["repa.weight"]) is float


def test_ranges():
    def change(content):
        content["space"] = {
            "training.learning_rate": {"uniform": [1, 2]},
            "training.batch_size": {"int": [8, 64]},
            "training.precision": {"choice": ["fp32", "bf16"]},
            "training.weight_decay": {"uniform": [0, 0.1]},
        }
        content["profiles"]["laptop"]["repa"] = None
        content["points"] = [
            {
                "training.learning_rate": 2,
                "training.batch_size": 8,
                "training.precision": "bf16",
                "training.weight_decay": 0.0,
            }
        ]

    space = space_of(change)
    assert [dimension.ends() for dimension in space.dimensions] == [[1, 2], [8, 64], ["fp32", "bf16"], [0, 0.1]]
    assert [type(dimension.ends()[0]) for dimension in space.dimensions] == [float, int, str, float]
    assert space.candidate_config(space.points[0]).training.learning_rate == 2.0
    assert [str(dimension) for dimension in space.dimensions] == ["1 to 2", "8 to 64", "fp32, bf16", "0 to 0.1"]
    assert str(space_of().dimensions[2]) == "0.05 to 2 (log)"


@pytest.mark.parametrize(
    ("dimension", "inside", "outside"),
    [
        (Dimension(path="p", kind="int", low=1, high=3), [1, 3], [0, 4, 2.0, 1.5, True, "2", None]),
        (Dimension(path="p", kind="float", low=1.0, high=3.0), [1, 3.0, 2.5], [0.9, 3.1, math.nan, True, "2", None]),
        (Dimension(path="p", kind="choice", values=("a", 2, None)), ["a", 2, None], ["b", "2", 3]),
    ],
)
def test_what_a_dimension_holds(dimension, inside, outside):
    assert all(dimension.holds(value) for value in inside)
    assert not any(dimension.holds(value) for value in outside)


@pytest.mark.parametrize(
    "change",
    [
        put("budget", value={"candidates": 60, "baseline_seeds": 5}),
        put(*P, "resources", value={"workers": 2, "cpus_per_worker": 4, "gpus_per_worker": 1}),
        put("question", value="Another?"),
        put(*P, "model", value={"in_channels": 3, "patch_size": 4, "context_in_dim": 384, "hidden_size": 128}
             | {"num_heads": 4, "depth": 6}),
        lambda content: content.update(space=dict(reversed(content["space"].items()))),
        put("stop", value={"patience": 3, "margin": 1.5, "grace": 0.2}),
        put("objective", value={"metric": "mmd_opennsfw"}),
    ],
)  # fmt: skip
def test_what_changes_no_result_changes_no_fingerprint(change):
    assert space_of(change).fingerprint == space_of().fingerprint


@pytest.mark.parametrize(
    "change",
    [
        put("objective", "metric", value="frechet_opennsfw_pc32"),
        put("baseline", value={"repa": None, "training.learning_rate": 1e-3}),
        put("space", "repa.teacher", "choice", value=["dinov2s_saliency"]),
        put("space", "repa.depth", value={"fraction": [0.15, 1.0]}),
        put("space", "repa.weight", value={"log_uniform": [0.05, 3.0]}),
        put("space", "repa.weight", value={"log_uniform": [0.06, 2.0]}),
        put("space", "repa.weight", value={"uniform": [0.05, 2.0]}),
        lambda content: content["space"].pop("repa.weight") and content["profiles"]["laptop"].update(
            {"repa": {"weight": 0.05, "projector_width": 256}, "points": []}),
        put("points", value=[]),
        put("points", 0, "repa.weight", value=0.6),
        put("stop", "margin", value=1.6),
        put("stop", "patience", value=1),
        put("stop", "grace", value=0.3),
        put(*P, "model", value="prx_tiny"),
        put(*P, "data", "num_heldout", value=500),
        put(*P, "training", "batch_size", value=16),
        put(*P, "evaluation", "num_samples", value=255),
        put(*P, "repa", "projector_width", value=128),
        put(*P, "repa", "projector", value="conv3x3"),
        put(*P, "seed", value=5),
    ],
)  # fmt: skip
def test_what_changes_a_result_changes_the_fingerprint(change):
    assert space_of(change).fingerprint != space_of().fingerprint


def test_a_setting_that_the_baseline_overrides_still_counts_for_candidates():
    def baseline_rate(rate):
        def change(content):
            content["baseline"] = {"repa": None, "training.learning_rate": 1e-3}
            content["profiles"]["laptop"]["training"]["learning_rate"] = rate

        return change

    assert space_of(baseline_rate(1e-4)).fingerprint != space_of(baseline_rate(2e-4)).fingerprint


def test_results_lie_by_name_profile_and_fingerprint(tmp_path):
    space = space_of()
    assert SweepPaths.of(space, tmp_path).root == tmp_path / f"x-laptop-{space.fingerprint}"


def test_a_metric_beside_the_objective_may_be_a_teachers_and_is_told():
    space = space_of(put(*P, "evaluation", "metrics", value=["mmd_opennsfw", "mmd_lite0", "mmd_vgg"]))
    assert flattered_metrics(space) == [("mmd_lite0", "efficientnet_lite0")]
    assert flattered_metrics(space_of()) == []
    assert space.teachers() == ["dinov2s_saliency", "efficientnet_lite0"]


def test_the_number_of_candidates_can_be_changed():
    space = space_of()
    assert with_budget(space, candidates=None) is space
    more = with_budget(space, candidates=50)
    assert (more.budget, more.fingerprint) == (Budget(candidates=50, baseline_seeds=2), space.fingerprint)
    with pytest.raises(SpaceError, match=r"^--candidates: candidates: got 0, allowed is"):
        with_budget(space, candidates=0)
