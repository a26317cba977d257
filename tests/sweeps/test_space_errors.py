from __future__ import annotations

import math
import re

import pytest
from hypothesis import HealthCheck, given, settings

from prx_model.teachers.table import TEACHERS
from tests.sweeps.generated_spaces import SWEEP_PATHS, TRIAL_PATHS, check_content, check_text, contents, texts
from tests.sweeps.space_files import P, message_of, put


@pytest.mark.parametrize(
    ("change", "path", "words"),
    [
        # keys
        (put("spaces", value={}), "spaces", "no such setting; allowed is question.*nearest is space"),
        (put("repa\nx", value={}), "repa x", "no such setting"),
        (put(*P, "trainings", value={}), f"{'.'.join(P)}.trainings", "no such setting.*nearest is training"),
        (put(*P, "profiles", value={}), "profiles.laptop.profiles", "no such setting"),
        (put(*P, "stops.margin", value=1), "profiles.laptop.stops.margin", "no such setting.*nearest is stop"),
        (put(*P, "stop.", value=1), "profiles.laptop.stop.", "no such setting"),
        (put(*P, "model.depth", value=3), "profiles.laptop.model.depth", "model is 'prx_emoji', not a section"),
        (put(*P, "training", "lerning_rate", value=1), "training.lerning_rate", "no such setting.*learning_rate"),
        (put("stop", "margn", value=1), "stop.margn", "no such setting; allowed is margin.*nearest is margin"),
        (put("stop", "evaluation", value="fast"), "stop.evaluation", "got 'fast', allowed is adaptive or full"),
        (put(*P, "evaluation", "nested", value=[2.0]), "evaluation.nested", "got .*2.0.* allowed"),
        (put("space", "evaluation.nested", value={"choice": [[0.5]]}), "space.evaluation.nested", "same for all"),
        (put("budget", "trials", value=1), "budget.trials", "no such setting; allowed is candidates"),
        (put(*P, "resources", "gpus", value=1), "resources.gpus", "no such setting.*gpus_per_worker"),
        (put("objective", "direction", value="min"), "objective.direction", "no such setting; allowed is metric, mode"),
        # types
        (put(*P, "training", "steps", value="many"), "training.steps", "got 'many', allowed is an integer"),
        (put(*P, "training", value=None), "training", "got null, allowed is a section"),
        (put(*P, "training", value=3), "training", "got 3, allowed is a section"),
        (put(*P, "repa", value=3), "repa", "got 3, allowed is a section or null"),
        (put(*P, "model", value=3), "model", "got 3, allowed is a section"),
        (put(*P, value=[]), "profiles.laptop", r"got \[\], allowed is a section"),
        (put("question", value=3), "question", "got 3, allowed is a text"),
        (put("objective", value="fid"), "objective", "got 'fid', allowed is a section with metric, mode"),
        (put("objective", "metric", value=3), "objective.metric", "got 3, allowed is a text"),
        (put("baseline", value="repa"), "baseline", "got 'repa', allowed is a section such as"),
        (put("baseline", value=None), "baseline", "got null, allowed is a section such as"),
        (put("space", value=None), "space", "got null, allowed is a section of settings, each with one of choice"),
        (put("space", "repa.weight", value=0.5), "space.repa.weight", "got 0.5, allowed is one of choice, uniform"),
        (put("space", "repa.weight", value={}), "space.repa.weight", "got {}, allowed is one of"),
        (put("space", "repa.weight", value={"uniform": [1, 2], "int": [1, 2]}), "space.repa.weight", "got .*one of"),
        (put("points", value=3), "points", "got 3, allowed is a list"),
        (put("points", value=[3]), "points[0]", "got 3, allowed is one value for each of repa.teacher"),
        (put("stop", value=None), "stop", "got null, allowed is a section"),
        (put("stop", value=2), "stop", "got 2, allowed is a section with margin, patience, grace"),
        (put("stop", "patience", value=2.0), "stop.patience", "got 2.0, allowed is an integer"),
        (put("budget", "candidates", value="all"), "budget.candidates", "got 'all', allowed is an integer"),
        # missing
        (lambda content: content.pop("objective"), "objective", "missing, needed is a section"),
        (lambda content: content.pop("baseline"), "baseline", "got null, allowed is a section"),
        (lambda content: content.pop("space"), "space", "got null"),
        (put("objective", value={"mode": "min"}), "objective", "missing metric"),
        (lambda content: content["space"].pop("repa.weight") and content.pop("points"), "repa", "missing weight"),
        # names
        (put(*P, "model", value="prx_emogi"), "model", "got 'prx_emogi'; allowed is prx_1b.*nearest is prx_emoji"),
        (put("baseline", value={"rep": None}), "baseline.rep", "no such setting; nearest is repa"),
        (put("space", "repa.wieght", value={"uniform": [0.1, 1]}), "space.repa.wieght",
         "no such setting; nearest is repa.weight"),
        (put("space", "repa.weight", value={"loguniform": [0.1, 1]}), "space.repa.weight.loguniform",
         "no such range; allowed is choice.*nearest is log_uniform"),
        # things that must not differ between trials
        (put("space", "seed", value={"int": [0, 9]}), "space.seed", "same for all trials.*allowed is any .*outside"),
        (put("space", "evaluation.num_samples", value={"int": [300, 400]}), "space.evaluation.num_samples", "same"),
        (put("space", "training.steps", value={"int": [300, 400]}), "space.training.steps", "same for all trials"),
        (put("space", "training", value={"choice": [{}]}), "space.training", "training.steps is the same"),
        (put("space", "data.num_heldout", value={"int": [300, 400]}), "space.data.num_heldout", "data is the same"),
        (put("baseline", value={"repa": None, "seed": 3}), "baseline.seed", "the same for all trials"),
        (put("space", "repa", value={"choice": [None]}), "space.repa.teacher", "inside repa, which is searched too"),
        # ranges
        (put("space", "repa.weight", value={"uniform": [2, 1]}), "space.repa.weight.uniform",
         "got low 2 and high 1, allowed is low below high"),
        (put("space", "repa.weight", value={"uniform": [1, 1]}), "space.repa.weight.uniform", "low below high"),
        (put("space", "repa.weight", value={"log_uniform": [0, 1]}), "space.repa.weight.log_uniform",
         "got low 0, allowed is above 0"),
        (put("space", "repa.weight", value={"uniform": [0, 1]}), "space.repa.weight", "got 0.0, allowed.*above 0"),
        (put("space", "repa.weight", value={"uniform": [1]}), "space.repa.weight.uniform", "two finite numbers"),
        (put("space", "repa.weight", value={"uniform": [1, math.inf]}), "space.repa.weight.uniform", "got .*finite"),
        (put("space", "repa.weight", value={"uniform": [1, 10**400]}), "space.repa.weight.uniform", "got .*finite"),
        (put("space", "repa.weight", value={"uniform": [False, True]}), "space.repa.weight.uniform", "two finite"),
        (put("space", "repa.weight", value={"uniform": "1, 2"}), "space.repa.weight.uniform", "got '1, 2', allowed"),
        (put("space", "repa.depth", value={"int": [1.0, 2]}), "space.repa.depth.int", "got .*two integers"),
        (put("space", "repa.depth", value={"int": [0, 3]}), "space.repa.depth", "got 0, allowed is 1"),
        (put("space", "repa.depth", value={"int": [1, 7]}), "space.repa.depth", "got 7, allowed is 1 to 6"),
        (put("space", "repa.depth", value={"choice": [7]}), "space.repa.depth", "got 7, allowed is 1 to 6"),
        (put("space", "repa.depth", value={"uniform": [1, 6]}), "space.repa.depth", "got 1.0, allowed is an integer"),
        (put("space", "repa.depth", value={"fraction": [0, 0.5]}), "space.repa.depth.fraction", "got 0, allowed"),
        (put("space", "repa.depth", value={"fraction": [0.5, 1.5]}), "space.repa.depth.fraction", "got 1.5, .*most 1"),
        (put("space", "repa.weight", value={"fraction": [0.5, 1]}), "space.repa.weight.fraction",
         "got a fraction, which is allowed for repa.depth only"),
        (put("space", "repa.weight", value={"choice": []}), "space.repa.weight.choice", r"got \[\], .*at least one"),
        (put("space", "repa.weight", value={"choice": 1}), "space.repa.weight.choice", "got 1, allowed is a list"),
        (put("space", "repa.weight", value={"choice": [1, 2, 1]}), "space.repa.weight.choice", "got 1 twice"),
        (put("space", "repa.weight", value={"choice": [0.5, "x"]}), "space.repa.weight", "got 'x', allowed"),
        (put("space", "repa.weight", value={"choice": [0.5, None]}), "space.repa.weight", "got null, allowed"),
        (put("space", "repa.stop_at", value={"uniform": [0.5, 1]}), "space.repa.stop_at",
         "got 0.5 to 1, which is read only with repa.schedule stop, linear or cosine"),
        (put("space", "training.momentum", value={"choice": [0.9]}), "space.training.momentum",
         "read only with training.optimizer muon"),
        (put(*P, "resources", value={"workers": 3}), "resources.workers",
         "got 3, allowed is a divisor of training.batch_size 32"),
        # teachers and metrics
        (put("space", "repa.teacher", "choice", value=["dinov2s_saliency", "efficientnet"]), "space.repa.teacher",
         f"got 'efficientnet'; allowed is {', '.join(TEACHERS)}; nearest is efficientnet_lite0"),
        (put("space", "repa.teacher", "choice", value=["xyz"]), "space.repa.teacher", "got 'xyz'; allowed is dinov2s"),
        (lambda content: content["space"].pop("repa.teacher") and content["profiles"]["laptop"].update(
            {"repa": {"teacher": "vgg"}, "points": []}), "repa.teacher", "got 'vgg'; allowed is .*"),
        (put(*P, "evaluation", "metrics", value=["mmd_opennsfw", "fidd"]), "evaluation.metrics",
         "got 'fidd'; allowed is fid, .*nearest is fid"),
        (put("objective", "metric", value="fid"), "objective.metric",
         "got 'fid', which is not in evaluation.metrics; allowed is mmd_opennsfw, frechet_opennsfw_pc32"),
        (put("objective", "mode", value="lower"), "objective.mode", "got 'lower', allowed is min or max"),
        (put("objective", "mode", value="max"), "objective.mode", "got max, allowed is min for mmd_opennsfw"),
        (put(*P, "evaluation", "num_samples", value=20), "evaluation.num_samples", "got 20; frechet_opennsfw_pc32"),
        (put(*P, "data", "num_heldout", value=20), "data.num_heldout", "got 20; frechet_opennsfw_pc32"),
        (lambda content: content["profiles"]["laptop"].update(
            {"evaluation": {"metrics": ["mmd_lite0"]}, "objective": {"metric": "mmd_lite0"}}), "space.repa.teacher",
         "got efficientnet_lite0, which also scores the objective mmd_lite0; allowed is any other"),
        # points
        (put("points", 0, "repa.weight", value=5.0), "points[0].repa.weight", r"got 5.0, allowed is 0.05 to 2 \(log\)"),
        (put("points", 0, "repa.weight", value="x"), "points[0].repa.weight", "got 'x', allowed is 0.05 to 2"),
        (put("points", 0, "repa.weight", value=math.nan), "points[0].repa.weight", "got nan, allowed is"),
        (put("points", 0, "repa.depth", value=6), "points[0].repa.depth", "got 6, allowed is 1 to 5"),
        (put("points", 0, "repa.depth", value=1.0), "points[0].repa.depth", "got 6, allowed is 1 to 5"),
        (put("points", 0, "repa.depth", value=7.0), "points[0].repa.depth", "got 7, allowed is above 0, at most 1"),
        (put("points", 0, "repa.teacher", value="vgg16_hed"), "points[0].repa.teacher", "got 'vgg16_hed'"),
        (put("points", 0, "repa.projector", value="mlp"), "points[0]", "got .*one value for each of"),
        (lambda content: content["points"][0].pop("repa.weight"), "points[0]", "one value for each of"),
        (lambda content: content["points"].append(dict(content["points"][0], **{"repa.depth": 2})), "points[1]",
         r"the same trial as points\[0\]"),
        # stop, budget, resources
        (put("stop", "margin", value=-1), "stop.margin", "got -1.0, allowed is a finite number of at least 0"),
        (put("stop", "patience", value=0), "stop.patience", "got 0, allowed is an integer of at least 1"),
        (put("stop", "grace", value=2), "stop.grace", "got 2.0, allowed is a fraction"),
        (put("stop", "audit", value=1.5), "stop.audit", "got 1.5, allowed is a share of the stopped, 0 to 1"),
        (put("budget", "candidates", value=0), "budget.candidates", "got 0, allowed is an integer of at least 1"),
        (put("stop", value={"min_seeds": 1}), "stop.min_seeds", "got 1, allowed is at least 2"),
        (put("stop", value={"min_seeds": 4}), "stop.min_seeds", "got 4, allowed is at most budget.baseline_seeds"),
        (put("stop", value={"halving": {"keep": 2}}), "stop.halving.keep", "got 2.0, allowed is a share above 0"),
        (put("stop", value={"halving": {"eta": 3}}), "stop.halving.eta", "no such setting; allowed is start, keep"),
        (put("stop", value={"halving": True}), "stop.halving", "got true, allowed is a section with"),
        (put("budget", "baseline_seeds", value=1), "budget.baseline_seeds", "got 1, allowed is at least 2"),
        (put(*P, "resources", "workers", value=0), "resources.workers", "got 0, allowed is an integer of at least 1"),
        (put(*P, "resources", "trials_per_slot", value=0), "resources.trials_per_slot", "got 0, allowed"),
        (put(*P, "resources", "max_losses", value=-1), "resources.max_losses", "got -1, allowed"),
        (put(*P, "resources", "cpus_per_worker", value=0), "resources.cpus_per_worker, gpus_per_worker", "got 0"),
        (put(*P, "seed", value=None), "seed", "got null, allowed is an integer"),
        # a trial's own checks
        (put(*P, "training", "eval_every_steps", value=999), "training.eval_every_steps", "got 999, allowed"),
        (put(*P, "evaluation", "sampler", value={"steps": 0}), "evaluation.sampler.steps", "got 0"),
        # profiles
        (put("profiles", value=None), "profiles", "got 'laptop', allowed is nothing: the file has none"),
        (put("profiles", value={"desk": {}, 5: {}}), "profiles", "got 'laptop', allowed is desk, 5"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line_with_path_and_what_is_allowed(change, path, words):
    message = message_of(change)
    assert message.startswith(f"{path}: "), message
    assert re.search(words, message), message


def test_an_unknown_profile_lists_the_known():
    assert message_of(None, "cluster") == "profiles: got 'cluster', allowed is laptop"


def test_settings_that_are_impossible_only_together_are_found():
    def change(content):
        content["space"] = {
            "repa.teacher": {"choice": ["dinov2s_saliency"]},
            "repa.depth": {"int": [1, 5]},
            "model.depth": {"choice": [6, 3]},
            "repa.weight": {"uniform": [0.1, 1]},
        }
        content["points"] = []

    assert message_of(change) == "space.repa.depth: got 5, allowed is 1 to 3, the model's blocks"


def test_a_searched_setting_that_breaks_another_is_named_with_its_value():
    def change(content):
        content["space"]["model.num_heads"] = {"choice": [4, 3]}
        content["points"] = []

    assert re.match(
        r"space\.model\.num_heads: got model\.num_heads 3, which is not possible: model\.hidden_size: got 128",
        message_of(change),
    )


def test_a_point_that_is_impossible_together_is_found():
    def change(content):
        content["space"]["model.num_heads"] = {"int": [1, 16]}
        content["points"][0]["model.num_heads"] = 3

    assert message_of(change).startswith("points[0]: model.hidden_size: got 128 with num_heads 3")


@settings(max_examples=1000, suppress_health_check=[HealthCheck.too_slow])
@given(contents())
def test_any_mapping_resolves_or_is_a_one_line_error(content):
    """Ten thousand of them: benchmarks/space_files.py."""
    check_content(content)


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(texts())
def test_any_text_is_a_space_or_a_one_line_error(text):
    check_text(text)


def test_generated_files_reach_every_setting():
    assert {path.split(".")[0] for path in SWEEP_PATHS} >= {"objective", "stop", "budget", "resources"}
    assert {"stop.margin", "resources.trials_per_slot"} <= {*SWEEP_PATHS}
    assert {"repa.weight", "training.learning_rate", "evaluation.sampler.steps"} <= {*TRIAL_PATHS}
