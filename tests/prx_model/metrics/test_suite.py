"""The suite: fixed noise and prompts, one pass per network, any batch size, any number of workers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn

from prx_model.data.store import Split
from prx_model.metrics.features import FeatureExtractor
from prx_model.metrics.reference import ReferenceStatistics
from prx_model.metrics.suite import MetricSuite, _Progress, build_suite, sample_noise
from prx_model.metrics.table import METRICS
from tests.prx_model.metrics.conftest import held_out, random_images, tiny_extractor

SHAPE = (3, 6, 6)
T = TypeVar("T")
LITE0, NSFW = "efficientnet_lite0_pool", "open_nsfw_resnet50_pool"


def prompts(n: int = 50) -> Split:
    return held_out(torch.zeros(n, 3, 1, 1, dtype=torch.uint8))


def suite(metrics: tuple[str, ...] = ("mmd_lite0", "mmd_opennsfw"), **changes: Any) -> MetricSuite:
    extractors = {LITE0: tiny_extractor(LITE0), NSFW: tiny_extractor(NSFW, seed=1, side=20)}
    images = random_images(0, 60)
    reference = {
        name: ReferenceStatistics.fit(METRICS[name], extractors[METRICS[name].extractor](images)) for name in metrics
    }
    settings: dict[str, Any] = {
        "extractors": extractors,
        "reference": reference,
        "prompts": prompts(),
        "sample_shape": SHAPE,
        "noise_seed": 3,
        "num_samples": 41,
        "batch_size": 8,
    }
    return MetricSuite(metrics, **(settings | changes))


def generate(noise: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
    """Images that show both the noise and the prompt."""
    colour = (text * text_mask[..., None]).mean(dim=(1, 2))[:, None, None, None]
    image = nn.functional.interpolate(noise, size=(24, 24), mode="bilinear") + 2 * colour
    return ((image / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)


def as_workers(world_size: int, work: Callable[[int, Callable[[Tensor], Tensor]], T]) -> list[T]:
    """Run `work(rank, gather)` in threads whose gather waits for all, as a collective does."""
    rows: list[Tensor | None] = [None] * world_size
    barrier = threading.Barrier(world_size, timeout=30)

    def one(rank: int) -> T:
        def gather(tensor: Tensor) -> Tensor:
            rows[rank] = tensor
            barrier.wait()
            together = torch.cat([row for row in rows if row is not None])
            barrier.wait()
            return together

        return work(rank, gather)

    with ThreadPoolExecutor(world_size) as pool:
        return list(pool.map(one, range(world_size)))


def test_noise_depends_on_seed_and_index_alone() -> None:
    together = sample_noise(5, range(10), SHAPE)
    assert together.dtype == torch.float32
    for i in (0, 3, 9):
        assert torch.equal(sample_noise(5, [i], SHAPE)[0], together[i])
    assert torch.equal(sample_noise(5, [7, 2], SHAPE), together[[7, 2]])


def test_noise_differs_between_all_seeds_and_indices() -> None:
    # Large numbers too: a seed cut to 32 bits, or (seed, i) taken for (i, seed), would make some of these equal.
    pairs = [(0, 0), (0, 1), (1, 0), (1, 1), (2**32, 0), (2**32, 1), (0, 2**32), (2**40 + 1, 0)]
    noises = [sample_noise(seed, [i], (1, 4, 4)) for seed, i in pairs]
    assert all(not torch.equal(noises[a], noises[b]) for a in range(len(pairs)) for b in range(a))


def test_noise_is_standard_normal_and_independent_between_samples() -> None:
    noise = sample_noise(0, range(400), (3, 16, 16)).flatten(1)
    assert float(noise.mean()) == pytest.approx(0, abs=0.01)
    assert float(noise.std()) == pytest.approx(1, abs=0.01)
    assert float((noise[:-1] * noise[1:]).mean()) == pytest.approx(0, abs=0.01)


def test_negative_noise_seed_is_an_error() -> None:
    with pytest.raises(ValueError, match="noise seed -1"):
        sample_noise(-1, [0], SHAPE)


def test_values_are_the_metrics_of_the_same_samples_done_by_hand() -> None:
    result = suite().evaluate(generate)
    prompt = prompts()
    samples = generate(sample_noise(3, range(41), SHAPE), prompt.text[:41], prompt.text_mask[:41])
    for name, extractor in (
        ("mmd_lite0", tiny_extractor(LITE0)),
        ("mmd_opennsfw", tiny_extractor(NSFW, seed=1, side=20)),
    ):
        statistics = ReferenceStatistics.fit(METRICS[name], extractor(random_images(0, 60)))
        assert result.values[name] == pytest.approx(statistics.distance(extractor(samples)), rel=1e-5)
    assert list(result.values) == ["mmd_lite0", "mmd_opennsfw"]
    assert result.num_samples == 41
    assert torch.equal(result.images, samples[:16])


@pytest.mark.parametrize("batch_size", [1, 7, 41, 64])
def test_batch_size_changes_nothing(batch_size: int) -> None:
    result, other = suite().evaluate(generate), suite(batch_size=batch_size).evaluate(generate)
    assert other.values == pytest.approx(result.values, rel=1e-5)
    assert torch.equal(other.images, result.images)


@pytest.mark.parametrize("world_size", [2, 3, 7])
@pytest.mark.parametrize("num_samples", [41, 48, 5])
def test_any_number_of_workers_gives_the_same_bits(world_size: int, num_samples: int) -> None:
    alone = suite(num_samples=num_samples).evaluate(generate)
    suites = [suite(num_samples=num_samples) for _ in range(world_size)]
    results = as_workers(
        world_size,
        lambda rank, gather: suites[rank].evaluate(generate, rank=rank, world_size=world_size, gather=gather),
    )
    for result in results:
        assert result.values == alone.values
        assert torch.equal(result.images, alone.images)


def test_workers_share_the_work_in_equal_shapes_and_numbers() -> None:
    calls: list[list[torch.Size]] = [[], [], []]
    one = suite(num_samples=40)

    def watched(rank: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        def watching(noise: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
            calls[rank].append(noise.shape)
            return generate(noise, text, text_mask)

        return watching

    as_workers(3, lambda rank, gather: one.evaluate(watched(rank), rank=rank, world_size=3, gather=gather))
    assert calls == [[torch.Size([8, *SHAPE])] * 2] * 3  # five batches of eight in two turns of three


class Watched:
    """Held-out data that notes which captions are read, and hands their states out in half precision."""

    def __init__(self, data: Split) -> None:
        self.data = data
        self.fingerprint, self.captions = data.fingerprint, data.captions
        self.read: list[list[int]] = []

    def __len__(self) -> int:
        return len(self.data)

    def texts_of(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        self.read.append(list(rows))
        text, text_mask = self.data.texts_of(rows)
        return text.half(), text_mask

    def images_of(self, rows: Sequence[int]) -> Tensor:
        return self.data.images_of(rows)


def test_each_worker_reads_the_captions_of_its_own_batches_when_their_turn_comes() -> None:
    watched = [Watched(prompts(30)) for _ in range(3)]
    suites = [suite(prompts=one, num_samples=40) for one in watched]
    looks = as_workers(
        3, lambda rank, gather: suites[rank].evaluate(generate, rank=rank, world_size=3, gather=gather).num_samples
    )
    assert looks == [40] * 3
    rows = [[i % 30 for i in range(start, start + 8)] for start in range(0, 40, 8)]
    assert [one.read for one in watched] == [[rows[0], rows[3]], [rows[1], rows[4]], [rows[2], rows[0]]]


def test_prompts_of_the_kept_images_are_told_in_their_order_and_go_round() -> None:
    assert suite(prompts=prompts(3), num_kept=4).kept_prompts() == ["caption 0", "caption 1", "caption 2", "caption 0"]


def test_captions_reach_the_model_in_float32_whatever_they_are_stored_in() -> None:
    dtypes = set()

    def watching(noise: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        dtypes.add(text.dtype)
        return generate(noise, text, text_mask)

    suite(prompts=Watched(prompts())).evaluate(watching)
    assert dtypes == {torch.float32}


def test_features_are_gathered_turn_by_turn_and_kept_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device holds no more than a turn's features, and none are copied again when more come."""
    gathered: list[torch.Size] = []
    one = suite(("mmd_lite0",), num_samples=80, parts=(0.1, 0.5), num_kept=4)
    progress, rooms = [], []
    take_turn = _Progress._take_turn
    monkeypatch.setattr(_Progress, "_take_turn", lambda self: progress.append(self) or take_turn(self))

    def work(rank: int, gather: Callable[[Tensor], Tensor]) -> None:
        def watching(rows: Tensor) -> Tensor:
            gathered.append(rows.shape)
            return gather(rows)

        for _ in one.looks(generate, rank=rank, world_size=2, gather=watching):
            rooms.append({rows.first(8).data_ptr() for rows in progress[0].features.values()})

    as_workers(2, work)
    features, images = gathered.count(torch.Size([8, 8])), gathered.count(torch.Size([8, 3, 24, 24]))
    assert (features, images, len(gathered)) == (2 * 5, 2 * 1, 12)
    assert all(room == rooms[0] for room in rooms)


def test_a_gather_that_returns_too_little_is_an_error() -> None:
    with pytest.raises(ValueError, match="gather returned 8 rows, expected 16"):
        suite().evaluate(generate, rank=0, world_size=2, gather=lambda rows: rows)
    with pytest.raises(ValueError, match="rank 2 of 2"):
        suite().evaluate(generate, rank=2, world_size=2)


def test_first_samples_are_the_same_for_every_number_of_samples() -> None:
    few, many = suite(num_samples=12).evaluate(generate), suite(num_samples=40, num_kept=40).evaluate(generate)
    assert torch.equal(few.images, many.images[:12])
    assert len(many.images) == 40


def test_prompts_go_round_when_there_are_more_samples() -> None:
    seen: list[Tensor] = []

    def watching(noise: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        seen.append(text)
        return generate(noise, text, text_mask)

    suite(prompts=prompts(15), num_samples=40).evaluate(watching)
    text = prompts(15).text
    assert torch.equal(torch.cat(seen), text[torch.arange(40) % 15])


def test_two_evaluations_agree_and_leave_the_global_generator_alone() -> None:
    one = suite()
    before = torch.get_rng_state()
    first = one.evaluate(generate)
    assert torch.equal(torch.get_rng_state(), before)
    assert one.evaluate(generate).values == first.values


def test_each_image_passes_each_network_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = 0
    forward = FeatureExtractor.forward

    def counting(self: FeatureExtractor, image: Tensor) -> Tensor:
        nonlocal rows
        rows += len(image)
        return forward(self, image)

    extractor = tiny_extractor(LITE0)
    reference = {"mmd_lite0": ReferenceStatistics.fit(METRICS["mmd_lite0"], extractor(random_images(0, 60)))}
    # The same network under a second metric, on no more directions than the tiny network has features.
    spec = replace(METRICS["frechet_lite0_pc32"], principal_directions=6)
    monkeypatch.setitem(METRICS, "frechet_lite0_pc32", spec)
    reference["frechet_lite0_pc32"] = ReferenceStatistics.fit(spec, extractor(random_images(0, 60)))
    monkeypatch.setattr(FeatureExtractor, "forward", counting)
    one = suite(("mmd_lite0",), extractors={LITE0: extractor}, reference=reference, num_samples=40)
    both = MetricSuite(
        ["mmd_lite0", "frechet_lite0_pc32"],
        extractors={LITE0: extractor},
        reference=reference,
        prompts=prompts(),
        sample_shape=SHAPE,
        noise_seed=3,
        num_samples=40,
        batch_size=8,
    )
    rows = 0
    values = both.evaluate(generate).values
    assert rows == 40
    assert set(values) == {"mmd_lite0", "frechet_lite0_pc32"}
    assert values["mmd_lite0"] == one.evaluate(generate).values["mmd_lite0"]


def test_a_network_that_gives_nan_fails_the_evaluation_and_names_the_metric() -> None:
    one = suite()
    with torch.no_grad():
        one.extractors[NSFW].network.body[0].bias[0] = float("nan")  # pyright: ignore
    with pytest.raises(FloatingPointError, match="'mmd_opennsfw'"):
        one.evaluate(generate)


def test_float_images_from_a_model_are_refused() -> None:
    with pytest.raises(ValueError, match="takes uint8 RGB"):
        suite().evaluate(lambda noise, text, text_mask: generate(noise, text, text_mask).float())


def test_no_gradients_are_kept() -> None:
    weight = torch.ones(1, requires_grad=True)

    def watching(noise: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        assert not (noise * weight).requires_grad
        return generate(noise * weight, text, text_mask)

    suite().evaluate(watching)


def test_what_cannot_be_computed_is_found_when_the_suite_is_built() -> None:
    with pytest.raises(ValueError, match="unknown metric"):
        MetricSuite(["mmd_lite"], **_rest())
    with pytest.raises(ValueError, match="needs the extractor 'vgg16_hed_pool'"):
        MetricSuite(["mmd_vgg"], **_rest())
    with pytest.raises(ValueError, match="1 generated samples"):
        suite(num_samples=1)
    with pytest.raises(ValueError, match="0 kept"):
        suite(num_kept=0)
    with pytest.raises(ValueError, match="0 captions"):
        suite(prompts=prompts(0))


def _rest() -> dict[str, Any]:
    return {
        "extractors": {},
        "reference": {},
        "prompts": prompts(),
        "sample_shape": SHAPE,
        "noise_seed": 0,
        "num_samples": 4,
        "batch_size": 2,
    }


def build(tmp_path: Path, metrics: tuple[str, ...], **changes: Any) -> MetricSuite:
    settings: dict[str, Any] = {
        "heldout": held_out(random_images(0, 40, side=32)),
        "sample_shape": SHAPE,
        "noise_seed": 0,
        "num_samples": 40,
        "batch_size": 20,
        "cache": tmp_path,
    }
    return build_suite(metrics, **(settings | changes))


def test_suite_of_packaged_networks_tells_real_from_generated(tmp_path: Path) -> None:
    built = build(tmp_path, ("mmd_opennsfw", "frechet_opennsfw_pc32"))
    generated = built.evaluate(generate).values
    real_again = iter(random_images(7, 40, side=32).split(20))
    real = built.evaluate(lambda noise, text, text_mask: next(real_again)).values
    assert all(generated[name] > real[name] for name in generated)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1  # one network, one file


def test_too_few_samples_are_found_before_a_network_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"40 generated samples .* 2048 dimensions"):
        build(tmp_path, ("fid",))
    with pytest.raises(ValueError, match=r"20 reference samples .* 32 dimensions"):
        build(tmp_path, ("frechet_vgg_pc32",), heldout=held_out(random_images(0, 20)))
