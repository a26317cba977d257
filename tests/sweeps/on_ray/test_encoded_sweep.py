"""The way of the `cluster` profile, small: images and captions are encoded, then swept over by two workers a trial."""

from __future__ import annotations

import io
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import yaml

from sweeps import main
from sweeps.ledger import FINISHED, STOPPED, Ledger
from sweeps.space_file import load_space
from sweeps.storage import SweepPaths
from tests.prx_model.tiny_networks import WORDS, saved_autoencoder, tiny_t5gemma, tiny_tokenizer

ROOT = Path(__file__).parents[3]
LIMIT_S = 420
SPACE = {
    "question": "Does the way of the cluster profile run?",
    "objective": {"metric": "mmd_lite0", "mode": "min"},
    "baseline": {"repa": None},
    "stop": {"margin": 2.0, "patience": 2, "grace": 0.2},
    "space": {"repa.depth": {"fraction": [0.4, 1.0]}, "repa.weight": {"log_uniform": [0.1, 1.0]}},
    "budget": {"candidates": 1, "baseline_seeds": 2},
    "confirm": {"best": 0},  # whether the candidate gets to the end is left to chance here
    "model": {
        "in_channels": 16,
        "patch_size": 2,
        "context_in_dim": 32,
        "hidden_size": 32,
        "num_heads": 2,
        "depth": 2,
    },
    "training": {
        "steps": 24,
        "batch_size": 8,
        "micro_batch_size": 2,
        "eval_every_steps": 12,
        "warmup_steps": 2,
        "schedule": "cosine",
        "gradient_checkpointing": True,
        "parallel": "fsdp",
        "ema_decay": 0.9,
        "checkpoint_every_min": 1e-9,
    },
    "evaluation": {
        "metrics": ["mmd_lite0"],
        "num_samples": 16,
        "batch_size": 8,
        "sampler": {"steps": 2, "guidance": 2.0},
    },
    "repa": {"teacher": "dinov2s_saliency", "projector": "conv3x3", "spatial_norm": 0.6, "schedule": "cosine"},
    "resources": {"workers": 2, "cpus_per_worker": 1, "concurrent_trials": 1},
}


def _write_photos(folder: Path, count: int = 96) -> Path:
    """Gradients of two colours each, with captions beside them; one file of them is no image."""
    from PIL import Image

    folder.mkdir()
    generator = np.random.default_rng(0)
    ramp = np.linspace(0, 1, 80)[:, None, None] * np.ones((1, 96, 1))
    for number in range(count):
        first, second = generator.integers(0, 256, (2, 3))
        Image.fromarray((ramp * first + (1 - ramp) * second).astype(np.uint8)).save(folder / f"{number:03d}.png")
        (folder / f"{number:03d}.txt").write_text(" ".join(generator.choice(WORDS, 5)))
    (folder / "broken.jpg").write_bytes(b"no image")
    (folder / "broken.txt").write_text("a red fox")
    return folder


def _run(*command: object) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def networks(tmp_path_factory) -> tuple[Path, Path]:
    """Folders of an autoencoder and of a text encoder."""
    folder = tmp_path_factory.mktemp("networks")
    saved_autoencoder(folder / "vae")
    tiny_t5gemma().save_pretrained(folder / "text_encoder")
    tiny_tokenizer().save_pretrained(folder / "text_encoder")
    return folder / "vae", folder / "text_encoder"


@pytest.fixture(scope="module")
def store(tmp_path_factory, networks, address) -> Path:
    folder = tmp_path_factory.mktemp("data")
    vae, text_encoder = networks
    options = ["--resolution", 64, "--autoencoder", vae, "--text-encoder", text_encoder, "--max-text-tokens", 12]
    encode = ["encode", _write_photos(folder / "photos"), "--to", folder / "encoded", "--heldout", 32, *options]
    with redirect_stdout(io.StringIO()) as output:
        assert main.main([*map(str, encode), "--address", address]) == 0
    assert "broken" in output.getvalue(), output.getvalue()
    return folder / "encoded"


@pytest.mark.slow
def test_what_is_encoded_can_be_swept_over(tmp_path, store, networks, address):
    space = SPACE | {"data": {"source": "store", "path": str(store), "resolution": 64, "num_heldout": 32}}
    space["data"] |= {"max_text_tokens": 12, "shuffle_rows": 64}
    file = tmp_path / "space.yaml"
    file.write_text(yaml.safe_dump({**space, "profiles": {"laptop": {}}}))
    folders = ["--results", tmp_path / "results", "--cache", tmp_path / "cache"]
    _run("sweeps/run.py", file, "--address", address, *folders)

    paths = SweepPaths.of(load_space(file, "laptop"), tmp_path / "results")
    records = {record.trial: record for record in Ledger(paths).records()}
    assert sorted(records) == ["baseline-seed0", "baseline-seed1", "candidate-000"]
    assert {record.outcome for record in records.values()} <= {FINISHED, STOPPED}
    assert [row.step for row in records["baseline-seed0"].evaluations] == [12, 24]
    assert all(row.repa_loss is not None for row in records["candidate-000"].evaluations)
    assert "checkpoint at step 20" in paths.trial_log("baseline-seed0").read_text()
    _check_pipeline(paths.best_model, *networks)


def _check_pipeline(folder: Path, vae: Path, text_encoder: Path) -> None:
    """The best model is a pipeline of diffusers, which samples."""
    from diffusers import AutoencoderKL, PRXPipeline
    from transformers import AutoTokenizer, T5GemmaEncoderModel

    pipeline = PRXPipeline.from_pretrained(
        folder,
        vae=AutoencoderKL.from_pretrained(vae),
        text_encoder=T5GemmaEncoderModel.from_pretrained(text_encoder, is_encoder_decoder=False),
        tokenizer=AutoTokenizer.from_pretrained(text_encoder),
    )
    # Its table of aspect ratios begins at 256 px.
    image = pipeline("a red fox", num_inference_steps=2, use_resolution_binning=False, output_type="np").images[0]
    assert image.shape == (64, 64, 3)
    assert np.isfinite(image).all()
