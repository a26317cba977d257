"""Published metrics from images to value: our way against independent ones, on the real classes made tiny."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from prx_model.metrics.features import FeatureExtractor, clip_extractor, dinov2_extractor
from prx_model.metrics.reference import ReferenceStatistics
from prx_model.metrics.suite import MetricSuite
from prx_model.metrics.table import METRICS
from tests.prx_model.metrics.conftest import TinyConvNet, held_out, random_images
from tests.prx_model.metrics.test_features import tiny_clip, tiny_dinov2
from tests.prx_model.metrics.test_frechet import by_scipy
from tests.prx_model.metrics.test_mmd import by_double_loop

SIDE = 28  # of the tiny networks


def clip_embeddings(image: Tensor) -> Tensor:
    """transformers' own preprocessing for CLIP, then its embeddings."""
    from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    return tiny_clip().eval()(pixel_values=_normalised(image, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)).image_embeds


def dinov2_class_tokens(image: Tensor) -> Tensor:
    from transformers.utils.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    pixels = _normalised(image, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    return tiny_dinov2().eval()(pixel_values=pixels).pooler_output


def _normalised(image: Tensor, mean: list[float], std: list[float]) -> Tensor:
    return (image / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize(
    ("metric", "extractor", "features"),
    [
        ("cmmd", lambda: clip_extractor(tiny_clip()), clip_embeddings),
        ("dino_mmd", lambda: dinov2_extractor(tiny_dinov2(), side=SIDE), dinov2_class_tokens),
    ],
)
@torch.no_grad()
def test_mmds_of_images_are_a_double_loop_over_their_definition(
    metric: str, extractor: Callable[[], FeatureExtractor], features: Callable[[Tensor], Tensor], unbiased: bool
) -> None:
    """1000 times MMD^2 of unit vectors with sigma 10: biased as published, unbiased beside it."""
    spec = METRICS[f"{metric}_unbiased" if unbiased else metric]
    real, generated, network = random_images(0, 17, side=SIDE), random_images(1, 13, side=SIDE) // 2, extractor()
    value = ReferenceStatistics.fit(spec, network(real)).distance(network(generated))
    x, y = (functional.normalize(features(images).double()) for images in (generated, real))
    assert value == pytest.approx(1000 * by_double_loop(x, y, 10.0, unbiased), rel=1e-4)  # networks in float32
    x, y = (functional.normalize(network(images).double()) for images in (generated, real))
    assert value == pytest.approx(1000 * by_double_loop(x, y, 10.0, unbiased), rel=1e-6)


def test_frechet_distance_of_images_is_torchmetrics_fid_over_the_same_network() -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Network(nn.Module):
        """As FID's Inception: takes uint8 as it comes, and scales inside."""

        num_features = 8

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.body = TinyConvNet()

        def forward(self, image: Tensor) -> Tensor:
            assert image.dtype == torch.uint8
            return self.body(image.float() / 255)

    real, generated = random_images(0, 60), random_images(1, 50) // 2
    extractor = FeatureExtractor(name="inception_v3_fid", width=8, side=None, network=Network())
    x, y = extractor(real), extractor(generated)
    value = ReferenceStatistics.fit(METRICS["fid"], x).distance(y)
    theirs = FrechetInceptionDistance(feature=Network(), normalize=False)
    for images, is_real in ((real, True), (generated, False)):
        theirs.update(images, real=is_real)
    assert value == pytest.approx(float(theirs.compute()), rel=1e-4)
    assert value == pytest.approx(by_scipy(x.double(), y.double()), rel=1e-4)


def test_values_are_told_with_the_number_of_samples_that_they_rest_on() -> None:
    """A biased MMD and FID fall with n: a value without it says nothing."""
    network, real = clip_extractor(tiny_clip()), random_images(0, 20, side=SIDE)
    metrics = ["cmmd", "cmmd_unbiased"]
    suite = MetricSuite(
        metrics,
        extractors={"clip_vitl14_336": network},
        reference={name: ReferenceStatistics.fit(METRICS[name], network(real)) for name in metrics},
        prompts=held_out(real),
        sample_shape=(3, 6, 6),
        noise_seed=0,
        num_samples=20,
        batch_size=5,
        parts=(0.25, 0.5),
    )
    made = iter(random_images(1, 20, side=SIDE).split(5))
    looks = list(suite.looks(lambda noise, text, text_mask: next(made)))
    assert [look.num_samples for look in looks] == [5, 10, 20]
    for look in looks:
        # Without the pairs of a sample with itself, the biased form's floor is gone.
        assert look.values["cmmd"] > look.values["cmmd_unbiased"]
        generated = random_images(1, 20, side=SIDE)[: look.num_samples]
        expected = suite.reference["cmmd"].distance(network(generated))
        assert look.values["cmmd"] == pytest.approx(expected, rel=1e-6)
