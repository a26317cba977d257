"""Runs over an encoded data set on the disk, in pixels and in an autoencoder's latents, from settings to scores."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prx_model import yardstick
from prx_model.data_source import FirstRows, batches_of, check_fits, heldout_of, open_store
from prx_model.evaluation import Evaluation
from prx_model.experiment import (
    DataConfig,
    EvaluationConfig,
    Experiment,
    ExperimentConfig,
    export_model,
    open_experiment,
    prepare,
)
from prx_model.kept import Kept
from prx_model.latents import load_latent_space
from prx_model.model import PRX, PRXConfig
from prx_model.repa import RepaConfig
from prx_model.sampling import SamplerConfig
from prx_model.teachers.tokens import TeacherTokens, teacher_tokens
from prx_model.yardstick import to_images
from tests.prx_model.encoded_stores import (
    MAX_TEXT_TOKENS,
    RESOLUTION,
    TEXT_WIDTH,
    encoded_store,
    other_weights,
    saved_teacher,
)
from tests.prx_model.tiny_networks import saved_autoencoder
from tests.prx_model.training_runs import FAST, everything, same, told
from tests.s3_server import file_system

CHANNELS, GRID = 16, (2, 2)
REPA = RepaConfig(teacher="tiny_vit", depth=1, weight=0.5, projector_width=16, teacher_precision="fp32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of pixels, one of latents with its autoencoder, and one that holds a teacher's tokens as well."""
    folder = tmp_path_factory.mktemp("data")
    saved_autoencoder(folder / "vae")
    with pytest.MonkeyPatch.context() as monkeypatch:
        saved_teacher(folder / "teacher", monkeypatch, "tiny_vit")
        encoded_store(folder / "pixels")
        encoded_store(folder / "latents", autoencoder=str(folder / "vae"))
        encoded_store(folder / "taught", autoencoder=str(folder / "vae"), teacher="tiny_vit", grid=GRID)
    return folder


@pytest.fixture(autouse=True)
def _teacher(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved_teacher(folder / "teacher", monkeypatch, "tiny_vit")


def settings(store: Path, *, repa: RepaConfig | None = None, **data: Any) -> ExperimentConfig:
    in_pixels = store.name == "pixels"
    return ExperimentConfig(
        model=PRXConfig(
            in_channels=3 if in_pixels else CHANNELS,
            patch_size=8 if in_pixels else 2,
            context_in_dim=TEXT_WIDTH,
            hidden_size=32,
            num_heads=2,
            depth=2,
        ),
        data=DataConfig(
            **{
                "source": "store",
                "path": str(store),
                "resolution": RESOLUTION,
                "num_heldout": 12,
                "max_text_tokens": MAX_TEXT_TOKENS,
                "shuffle_rows": 32,
            }
            | data
        ),
        training=replace(FAST, steps=4, batch_size=8),
        evaluation=EvaluationConfig(
            metrics=("mmd_opennsfw",), num_samples=8, batch_size=4, nested=(), sampler=SamplerConfig(steps=2)
        ),
        repa=repa,
    )


def finished(experiment: Experiment) -> list[Evaluation]:
    evaluations = []
    for evaluation in experiment.evaluations():
        evaluation.scores()
        evaluations.append(evaluation)
    return evaluations


@pytest.mark.parametrize("name", ["pixels", "latents"])
def test_a_run_with_a_teacher_beside_it_comes_to_finite_scores_and_pictures(folder: Path, tmp_path: Path, name) -> None:
    config = settings(folder / name, repa=REPA)
    stages = []
    prepare(config, tmp_path, lambda stage, done, total: stages.append((done, total)))
    assert stages[-1] == (12, 12)
    assert {total for _, total in stages} == {12}  # the reference images, and no row of the training split
    experiment = open_experiment(config, tmp_path)
    assert experiment.teacher is not None
    assert experiment.suite.sample_shape == ((3, 32, 32) if name == "pixels" else (CHANNELS, 4, 4))
    evaluations = finished(experiment)
    assert [evaluation.step for evaluation in evaluations] == [2, 4]
    for evaluation in evaluations:
        scores = evaluation.scores()
        assert math.isfinite(scores.values["mmd_opennsfw"])
        assert scores.images.shape == (8, 3, RESOLUTION, RESOLUTION)
        assert evaluation.repa_loss is not None
        assert -1 < evaluation.repa_loss < 1
    assert all("teacher" not in key for key in experiment.state.objective.state_dict())


def test_samples_become_what_the_autoencoder_decodes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = load_latent_space(str(folder / "vae"))
    samples = torch.randn(5, CHANNELS, 4, 4, generator=torch.Generator().manual_seed(0))
    images = to_images(samples, space)
    assert torch.equal(images, space.decode(samples))
    assert images.float().std() > 1
    monkeypatch.setattr(yardstick, "DECODED_PIXELS", 2 * RESOLUTION**2)
    decoded = []
    decode = space.decode
    monkeypatch.setattr(space, "decode", lambda part: decoded.append(len(part)) or decode(part))
    in_parts = to_images(samples, space)
    assert decoded == [2, 2, 1]
    assert (in_parts.int() - images.int()).abs().max() <= 1  # batches of another size round otherwise


def test_stored_tokens_are_taken_where_they_are_what_the_teacher_would_say(folder: Path, tmp_path: Path) -> None:
    by_store, by_teacher = (
        open_experiment(settings(folder / name, repa=REPA), tmp_path) for name in ("taught", "latents")
    )
    assert by_store.teacher is None
    assert by_teacher.teacher is not None
    first = next(by_store.reader.batches())
    assert first.teacher_tokens is not None
    assert first.image is None
    told_by_store, told_by_teacher = (finished(experiment)[0] for experiment in (by_store, by_teacher))
    # Alike to float16's rounding of the tokens.
    assert told_by_store.repa_loss == pytest.approx(told_by_teacher.repa_loss, abs=1e-3)
    assert told_by_store.flow_loss == pytest.approx(told_by_teacher.flow_loss, rel=1e-3)


def test_stored_tokens_of_other_weights_or_another_grid_are_left_alone(folder: Path, tmp_path: Path, monkeypatch):
    config = settings(folder / "taught", repa=REPA)
    store = open_store(config.data, tmp_path)
    assert teacher_tokens(config, store, tmp_path, Kept(), "cpu").stored == "tiny_vit"
    finer = replace(config, model=replace(config.model, patch_size=1))
    assert teacher_tokens(finer, store, tmp_path, Kept(), "cpu").online is not None
    saved_teacher(tmp_path / "other", monkeypatch, "tiny_vit", seed=1)
    other = teacher_tokens(config, store, tmp_path, Kept(), "cpu")
    assert other.stored is None
    assert other.online is not None
    assert teacher_tokens(replace(config, repa=None), store, tmp_path, Kept(), "cpu").online is None


@pytest.mark.parametrize(
    ("store", "change", "message"),
    [
        ("pixels", {"data": {"resolution": 64}}, r"data\.resolution: got 64, allowed for .*pixels is 32"),
        ("pixels", {"data": {"max_text_tokens": 16}}, r"data\.max_text_tokens: got 16, allowed for .*pixels is 8"),
        ("pixels", {"data": {"num_heldout": 13}}, r"data\.num_heldout: got 13, allowed for .*pixels is 1 to 12"),
        ("pixels", {"model": {"in_channels": 16}}, r"model\.in_channels: got 16, allowed for .*pixels is 3: .*RGB"),
        ("latents", {"model": {"in_channels": 3}}, r"model\.in_channels: got 3, allowed for .*latents is 16: .*vae"),
        ("latents", {"model": {"context_in_dim": 384}}, r"model\.context_in_dim: got 384, allowed for .*latents is 12"),
        ("latents", {"model": {"patch_size": 3}}, r"data\.resolution: got 32, allowed are multiples of 24: .* 8 times"),
        ("pixels", {"model": {"patch_size": 5}}, r"data\.resolution: got 32, allowed are multiples of 5: .* 1 times"),
    ],
)
def test_settings_that_do_not_fit_the_data_set_are_refused_in_one_line(folder, tmp_path, store, change, message):
    config = settings(folder / store)
    config = replace(config, **{section: replace(getattr(config, section), **to) for section, to in change.items()})
    for start in (prepare, open_experiment):
        with pytest.raises(ValueError, match=f"^{message}") as caught:
            start(config, tmp_path)
        assert "\n" not in str(caught.value)


def test_another_autoencoder_than_the_data_sets_is_refused(folder: Path, tmp_path: Path) -> None:
    vae = str(folder / "vae")
    card = load_latent_space(vae).card("float16")
    encoded_store(tmp_path / "foreign", autoencoder=vae, num_train=8, changes={"latents": other_weights(card)})
    for start in (prepare, open_experiment):
        with pytest.raises(ValueError, match=rf"{card.weight_sha256}.*encoded with 0000000000000000") as caught:
            start(settings(tmp_path / "foreign"), tmp_path)
        assert "\n" not in str(caught.value)


def test_of_the_held_out_images_the_first_are_used(folder: Path, tmp_path: Path) -> None:
    config = settings(folder / "pixels", num_heldout=9)
    store = open_store(config.data, tmp_path)
    few, all_of_them = heldout_of(config.data, store), heldout_of(replace(config.data, num_heldout=12), store)
    assert isinstance(few, FirstRows)
    assert (len(few), len(all_of_them)) == (9, 12)
    assert list(few.captions) == few.captions[:] == list(all_of_them.captions)[:9]
    assert torch.equal(few.images_of([8, 0]), all_of_them.images_of([8, 0]))
    assert all(map(torch.equal, few.texts_of([3]), all_of_them.texts_of([3])))
    assert few.fingerprint != all_of_them.fingerprint
    assert few.fingerprint != FirstRows(all_of_them, 8).fingerprint
    with pytest.raises(AssertionError, match="of 9"):
        few.images_of([9])
    check_fits(config, store.manifest)
    assert open_experiment(config, tmp_path).suite.prompts.fingerprint == few.fingerprint


def test_a_worker_reads_its_share_of_every_batch(folder: Path, tmp_path: Path) -> None:
    config = settings(folder / "taught", repa=REPA)
    store, tokens = open_store(config.data, tmp_path), TeacherTokens(stored="tiny_vit")
    whole = batches_of(config, store, (0, 8), tokens).batches(16)
    parts = [batches_of(config, store, share, tokens).batches(16) for share in ((0, 4), (4, 8))]
    for _ in range(3):  # over the end of an epoch
        expected, shares = next(whole), [next(part) for part in parts]
        assert torch.equal(torch.cat([share.index for share in shares]), expected.index)
        assert torch.equal(torch.cat([share.clean for share in shares]), expected.clean)


def test_a_data_set_in_a_bucket_gives_the_numbers_of_the_one_in_a_folder(
    folder: Path, tmp_path: Path, s3_bucket: str
) -> None:
    local = settings(folder / "latents", repa=REPA)
    file_system().put(str(folder / "latents"), s3_bucket.removeprefix("s3://") + "/latents", recursive=True)
    far = replace(local, data=replace(local.data, path=f"{s3_bucket}/latents", cache_gb=1e-3))
    prepare(far, tmp_path)
    numbers = [[told(it) for it in finished(open_experiment(config, tmp_path))] for config in (local, far)]
    assert numbers[0] == numbers[1]
    fetched = sum(file.stat().st_size for file in (tmp_path / "store").rglob("*") if file.is_file())
    assert 0 < fetched <= 1e6
    small = replace(far, data=replace(far.data, cache_gb=1e-6))
    with pytest.raises(ValueError, match=r"^data\.cache_gb: got 1e-06, allowed for s3://.* is at least"):
        open_experiment(small, tmp_path)


def test_runs_of_one_process_share_what_no_run_changes_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    config, kept = settings(folder / "latents", repa=REPA), Kept()
    first = open_experiment(config, tmp_path, kept=kept)
    numbers = [told(evaluation) for evaluation in finished(first)]
    second = open_experiment(config, tmp_path, kept=kept)
    assert second.space is first.space
    assert second.suite is first.suite
    assert {kind: kept.count(kind) for kind in ("store", "suite", "latent space", "online teacher")} == {
        "store": 1,
        "suite": 1,
        "latent space": 1,
        "online teacher": 1,
    }
    assert [told(evaluation) for evaluation in finished(second)] == numbers
    assert same(everything(first.state), everything(second.state))


@pytest.mark.parametrize("name", ["pixels", "taught"])
def test_a_run_that_goes_on_in_the_middle_of_an_epoch_is_the_run_that_was_never_cut(
    folder: Path, tmp_path: Path, name: str
) -> None:
    """17 batches an epoch: it is cut in the first and in the second, and ends in the second."""
    config = settings(folder / name, repa=REPA)
    config = replace(config, training=replace(config.training, steps=24, eval_every_steps=6))
    whole = open_experiment(config, tmp_path)
    expected = {evaluation.step: told(evaluation) for evaluation in whole.evaluations()}
    assert list(expected) == [6, 12, 18, 24]
    checkpoint, numbers = None, {}
    while len(numbers) < len(expected):
        cut = open_experiment(config, tmp_path, checkpoint=checkpoint)
        evaluation = next(evaluations := cut.evaluations())
        assert isinstance(evaluation, Evaluation)
        numbers[evaluation.step] = told(evaluation)
        checkpoint = tmp_path / f"step-{evaluation.step}"
        checkpoint.mkdir()
        cut.state.save(checkpoint)
        evaluations.close()
        last = cut
    assert numbers == expected
    assert same(everything(last.state), everything(whole.state))


@pytest.mark.parametrize(("name", "ema_decay"), [("pixels", None), ("latents", 0.9)])
def test_a_checkpoint_becomes_a_pipeline_with_the_weights_that_were_scored(
    folder: Path, tmp_path: Path, name: str, ema_decay: float | None
) -> None:
    config = settings(folder / name)
    config = replace(config, training=replace(config.training, steps=2, ema_decay=ema_decay))
    experiment = open_experiment(config, tmp_path)
    finished(experiment)
    (tmp_path / "checkpoint").mkdir()
    experiment.state.save(tmp_path / "checkpoint")
    export_model(config, tmp_path, tmp_path / "checkpoint", tmp_path / "model")
    scored = experiment.state.evaluated_model.state_dict()
    assert same(PRX.from_pretrained(tmp_path / "model" / "transformer").state_dict(), scored)
    description = json.loads((tmp_path / "model" / "components.json").read_text())
    assert (description["latents"] is None) == (name == "pixels")
    assert description["sampler"]["steps"] == config.evaluation.sampler.steps
    assert description["max_text_tokens"] == MAX_TEXT_TOKENS
