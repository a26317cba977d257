"""Reference statistics and the cache of reference features."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from prx_model.data import durable
from prx_model.data.store import Split
from prx_model.metrics.frechet import FrechetDistance, PrincipalDirections
from prx_model.metrics.mmd import mmd, unit_vectors
from prx_model.metrics.reference import ReferenceStatistics, reference_features
from prx_model.metrics.table import METRICS
from tests.prx_model.metrics.conftest import held_out, random_images, tiny_extractor


def features(seed: int, n: int, width: int = 40) -> Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed)) + 0.3


def cached(folder: Path) -> list[Path]:
    """All files but locks: temporary ones too."""
    return [path for path in folder.iterdir() if path.suffix != ".lock"]


def test_laptop_mmd_is_1000_times_the_unbiased_mmd_of_unit_vectors() -> None:
    real, generated = features(0, 60), features(1, 50) * 2 + 0.5
    value = ReferenceStatistics.fit(METRICS["mmd_lite0"], real).distance(generated)
    assert value == pytest.approx(
        1000 * mmd(unit_vectors(generated), unit_vectors(real), 1.0, unbiased=True), rel=1e-12
    )


def test_cmmd_is_1000_times_the_biased_mmd_of_unit_vectors() -> None:
    real, generated = features(0, 60), features(1, 50)
    value = ReferenceStatistics.fit(METRICS["cmmd"], real).distance(generated)
    assert value == pytest.approx(
        1000 * mmd(unit_vectors(generated), unit_vectors(real), 10, unbiased=False), rel=1e-12
    )


def test_laptop_frechet_is_measured_in_the_references_whitened_directions() -> None:
    real, generated = features(0, 90), features(1, 70)
    directions = PrincipalDirections.fit(real, 32)
    expected = FrechetDistance(32)
    expected.fit(directions.project(real))
    value = ReferenceStatistics.fit(METRICS["frechet_lite0_pc32"], real).distance(generated)
    assert value == pytest.approx(expected.distance(directions.project(generated)), rel=1e-9)


def test_fid_is_the_plain_frechet_distance() -> None:
    real, generated = features(0, 90), features(1, 70)
    expected = FrechetDistance(40)
    expected.fit(real)
    assert ReferenceStatistics.fit(METRICS["fid"], real).distance(generated) == expected.distance(generated)


@pytest.mark.parametrize("metric", ["mmd_lite0", "cmmd", "frechet_lite0_pc32", "fid"])
def test_a_growing_set_has_the_metric_of_its_whole_from_the_least_number_on(metric: str) -> None:
    statistics = ReferenceStatistics.fit(METRICS[metric], features(0, 90))
    generated, least = features(1, 200) + 0.4, METRICS[metric].least_num_samples(40)
    running = statistics.running()
    if least > 1:
        with pytest.raises(ValueError, match=f"{least - 1} generated samples"):
            statistics.distance(generated[: least - 1])
    assert np.isfinite(statistics.distance(generated[:least]))
    n = 0
    for block in generated.split([60, 1, 100, 39]):
        n += len(block)
        assert running.add(block).value() == pytest.approx(statistics.distance(generated[:n]), rel=1e-9)


def test_a_growing_set_refuses_what_is_not_finite_when_it_comes() -> None:
    running = ReferenceStatistics.fit(METRICS["fid"], features(0, 90)).running().add(features(1, 50))
    with pytest.raises(FloatingPointError, match=r"metric 'fid': .* 40 of 40"):
        running.add(features(2, 1) / 0)


@pytest.mark.parametrize("metric", ["mmd_lite0", "frechet_lite0_pc32", "fid"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_feature_that_is_not_finite_fails_and_names_the_metric(metric: str, value: float) -> None:
    real, generated = features(0, 90), features(1, 70)
    statistics = ReferenceStatistics.fit(METRICS[metric], real)
    generated[3, 5] = value
    with pytest.raises(FloatingPointError, match=rf"'{metric}'.* 1 of 2800"):
        statistics.distance(generated)
    with pytest.raises(FloatingPointError, match=rf"'{metric}'.*reference"):
        ReferenceStatistics.fit(METRICS[metric], generated)


@pytest.mark.parametrize("metric", ["fid", "frechet_lite0_pc32", "mmd_lite0"])
def test_features_too_large_for_float64_fail_and_name_the_metric(metric: str) -> None:
    statistics = ReferenceStatistics.fit(METRICS[metric], features(0, 90))
    with pytest.raises(FloatingPointError, match=f"metric '{metric}'"):
        statistics.distance(features(1, 90).double() * 1e200)


def test_an_image_without_a_direction_fails_and_names_the_metric() -> None:
    generated = features(1, 20)
    generated[4] = 0
    with pytest.raises(FloatingPointError, match=r"metric 'cmmd': .*length 0"):
        ReferenceStatistics.fit(METRICS["cmmd"], features(0, 30)).distance(generated)


def test_cached_features_are_the_extractors(images: Tensor, tmp_path: Path) -> None:
    extractor = tiny_extractor()
    got = reference_features(extractor, held_out(images), cache=tmp_path)
    torch.testing.assert_close(got, extractor(images))
    (file,) = cached(tmp_path)
    assert file.name == f"{extractor.name}-{extractor.fingerprint}-a.safetensors"


def test_a_second_call_reads_and_does_not_compute(images: Tensor, tmp_path: Path, monkeypatch) -> None:
    first = reference_features(tiny_extractor(), held_out(images), cache=tmp_path)
    again = tiny_extractor()
    monkeypatch.setattr(again, "forward", lambda image: pytest.fail("computed again"))
    assert torch.equal(reference_features(again, held_out(images), cache=tmp_path), first)


def test_images_are_read_a_few_at_a_time_and_progress_is_told(images: Tensor, tmp_path: Path, monkeypatch) -> None:
    read, told = [], []
    images_of = Split.images_of
    monkeypatch.setattr(Split, "images_of", lambda self, rows: read.append(len(rows)) or images_of(self, rows))
    extractor = tiny_extractor()
    got = reference_features(
        extractor, held_out(images), cache=tmp_path, progress=lambda *arguments: told.append(arguments)
    )
    assert read == [32, 18]
    assert told == [(f"reference features, {extractor.name}: images", done, 50) for done in (32, 50)]
    assert torch.equal(got, torch.cat([extractor(batch) for batch in images.split(32)]))


def test_of_several_that_want_the_same_features_one_computes_and_the_others_wait(
    images: Tensor, tmp_path: Path
) -> None:
    told, extractors = [], [tiny_extractor() for _ in range(3)]

    def want(number: int) -> Tensor:
        def progress(stage: str, done: int, total: int) -> None:
            told.append((number, done))
            time.sleep(0.05)

        return reference_features(extractors[number], held_out(images), cache=tmp_path, progress=progress)

    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(want, range(3)))
    assert [done for _, done in told] == [32, 50]
    assert all(torch.equal(result, results[0]) for result in results)


def test_other_weights_and_other_images_have_features_of_their_own(images: Tensor, tmp_path: Path) -> None:
    others = random_images(1, len(images))
    rows = [
        reference_features(tiny_extractor(seed=seed), held_out(pictures, fingerprint=name), cache=tmp_path)
        for seed in (0, 1)
        for name, pictures in (("a", images), ("b", others))
    ]
    assert len(cached(tmp_path)) == 4
    assert all(not torch.equal(rows[i], rows[j]) for i in range(4) for j in range(i))


def test_a_fingerprint_that_does_not_fit_the_images_is_an_error(images: Tensor, tmp_path: Path) -> None:
    reference_features(tiny_extractor(), held_out(images), cache=tmp_path)
    with pytest.raises(ValueError, match="give other images another fingerprint"):
        reference_features(tiny_extractor(), held_out(images[:-1]), cache=tmp_path)


@pytest.mark.parametrize("damage", [b"", b"no safetensors", None])
def test_a_damaged_file_is_computed_again(images: Tensor, tmp_path: Path, damage: bytes | None) -> None:
    first = reference_features(tiny_extractor(), held_out(images), cache=tmp_path)
    (file,) = cached(tmp_path)
    file.write_bytes(file.read_bytes()[:-10] if damage is None else damage)
    assert torch.equal(reference_features(tiny_extractor(), held_out(images), cache=tmp_path), first)


def test_a_writer_that_dies_leaves_nothing_behind(images: Tensor, tmp_path: Path, monkeypatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        reference_features(tiny_extractor(), held_out(images), cache=tmp_path)
    assert cached(tmp_path) == []


def test_reference_images_that_give_nan_are_not_cached(images: Tensor, tmp_path: Path) -> None:
    extractor = tiny_extractor()
    with torch.no_grad():
        extractor.network.body[0].bias[0] = float("nan")  # pyright: ignore
    with pytest.raises(FloatingPointError, match=extractor.name):
        reference_features(extractor, held_out(images), cache=tmp_path)
    assert cached(tmp_path) == []
