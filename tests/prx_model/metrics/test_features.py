"""Feature extractors: the uint8 boundary, frozen networks, fingerprints, and the real and the hub's networks."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import Tensor, nn

from prx_model.metrics.features import (
    EXTRACTORS,
    INCEPTION_ADDRESS,
    FeatureExtractor,
    clip_extractor,
    dinov2_extractor,
    load_extractor,
)
from prx_model.metrics.reference import ReferenceStatistics
from prx_model.metrics.table import METRICS
from prx_model.teachers.table import TEACHERS
from tests.prx_model.metrics.conftest import random_images, tiny_extractor


class MeanColour(nn.Module):
    """[B, 3, H, W] -> [B, 3]: what the network was really given is plain to see."""

    def forward(self, image: Tensor) -> Tensor:
        return image.float().mean(dim=(2, 3))


def mean_colour(side: int | None) -> FeatureExtractor:
    return FeatureExtractor(name="mean_colour", width=3, side=side, network=MeanColour())


def test_torchmetrics_wraps_uint8_images_into_their_negatives_and_says_nothing() -> None:
    """The trap behind our boundary: normalize=True multiplies by 255 whatever comes in."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    seen: list[Tensor] = []

    class Watching(MeanColour):
        num_features = 3

        def forward(self, image: Tensor) -> Tensor:
            seen.append(image)
            return super().forward(image)

    metric = FrechetInceptionDistance(feature=Watching(), normalize=True)
    metric.used_custom_model = False  # as with its own Inception, whose weights cannot be had here
    image = torch.tensor([0, 1, 100, 255], dtype=torch.uint8).view(1, 1, 2, 2).expand(1, 3, 2, 2)
    metric.update(image, real=True)
    metric.update(image.float() / 255, real=True)
    assert seen[0][0, 0].flatten().tolist() == [0, 255, 156, 1]  # 256 - x
    assert seen[1][0, 0].flatten().tolist() == [0, 1, 100, 255]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.int64, torch.int8])
def test_only_uint8_passes(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=r"got torch\..* it takes uint8 RGB"):
        mean_colour(8)(torch.ones(2, 3, 8, 8, dtype=dtype))


@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (3, 8, 8), (2, 8, 8, 3)])
def test_only_rgb_batches_pass(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="it takes uint8 RGB"):
        mean_colour(8)(torch.zeros(shape, dtype=torch.uint8))


def test_uint8_becomes_the_unit_range_exactly_once() -> None:
    image = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    torch.testing.assert_close(mean_colour(8)(image), torch.tensor([[0.0, 0.2, 1.0]]))
    torch.testing.assert_close(mean_colour(None)(image), torch.tensor([[0.0, 51.0, 255.0]]))  # as it came


def test_features_equal_the_network_on_the_float_image() -> None:
    extractor, image = tiny_extractor(side=24), random_images(0, 4)
    torch.testing.assert_close(extractor(image), extractor.network(image.float() / 255))


def test_images_are_resized_to_the_networks_side_and_a_flat_one_stays_flat() -> None:
    seen: list[tuple[int, ...]] = []

    class Watching(MeanColour):
        def forward(self, image: Tensor) -> Tensor:
            seen.append(tuple(image.shape))
            return super().forward(image)

    extractor = FeatureExtractor(name="watching", width=3, side=16, network=Watching())
    flat = torch.full((1, 3, 40, 40), 153, dtype=torch.uint8)
    torch.testing.assert_close(extractor(flat), torch.full((1, 3), 0.6))
    assert seen == [(1, 3, 16, 16)]


def test_frozen_and_without_a_graph_even_under_train_and_grad() -> None:
    extractor = FeatureExtractor(
        name="dropping", width=3, side=None, network=nn.Sequential(MeanColour(), nn.Dropout(0.5))
    )
    nn.ModuleList([extractor]).train()
    image = random_images(0, 2)
    with torch.enable_grad():
        features = extractor(image)
    assert not features.requires_grad
    torch.testing.assert_close(features, extractor(image))  # dropout would draw twice
    assert not any(parameter.requires_grad for parameter in tiny_extractor().parameters())


def test_autocast_does_not_reach_the_yardstick() -> None:
    extractor, image = tiny_extractor(), random_images(0, 4)
    plain = extractor(image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = extractor(image)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, plain)


def test_fingerprint_tells_weights_and_preparation_apart() -> None:
    assert tiny_extractor().fingerprint == tiny_extractor().fingerprint
    others = [tiny_extractor(seed=1), tiny_extractor(side=17), tiny_extractor(side=None), tiny_extractor("other")]
    prints = {tiny_extractor().fingerprint, *(other.fingerprint for other in others)}
    assert len(prints) == 5


def test_unknown_extractor_names_the_nearest_and_all() -> None:
    with pytest.raises(ValueError, match=r"did you mean 'clip_vitl14_336'\?.*known: .*vgg16_hed_pool"):
        load_extractor("clip_vitl14_366")


def test_networks_that_are_teachers_too_bear_the_teachers_name() -> None:
    shared = {name for name, spec in EXTRACTORS.items() if spec.network in TEACHERS}
    assert shared == {"efficientnet_lite0_pool", "vgg16_hed_pool", "dinov2_vitl14_reg_cls"}
    assert TEACHERS["dinov2_vitl14_reg"].source in EXTRACTORS["dinov2_vitl14_reg_cls"].source


@pytest.mark.parametrize("name", ["efficientnet_lite0_pool", "open_nsfw_resnet50_pool", "vgg16_hed_pool"])
def test_packaged_extractors_have_their_width_and_repeat_themselves(name: str) -> None:
    extractor, image = load_extractor(name), random_images(0, 3, side=32)
    features = extractor(image)
    assert features.shape == (3, EXTRACTORS[name].width)
    assert torch.equal(features, extractor(image))
    assert load_extractor(name).fingerprint == extractor.fingerprint
    torch.testing.assert_close(features[1:2], extractor(image[1:2]), rtol=1e-3, atol=1e-4)
    assert float((features[0] - features[1]).norm()) > 0.01 * float(features[0].norm())


def tiny_clip() -> nn.Module:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=28,
            patch_size=14,
            projection_dim=12,
        )
    )


def tiny_dinov2() -> nn.Module:
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    torch.manual_seed(0)
    return Dinov2WithRegistersModel(
        Dinov2WithRegistersConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
        )
    )


def test_clip_features_are_the_projected_embeddings_of_openais_normalisation() -> None:
    from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    model = tiny_clip().eval()
    extractor = clip_extractor(model)
    image = random_images(0, 2, side=28)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    with torch.no_grad():
        expected = model(pixel_values=(image.float() / 255 - mean) / std).image_embeds
    assert (extractor.side, extractor.width) == (28, 12)
    torch.testing.assert_close(extractor(image), expected, rtol=1e-4, atol=1e-5)


def test_dinov2_features_are_the_class_token_after_the_last_norm() -> None:
    model = tiny_dinov2().eval()
    extractor = dinov2_extractor(model, side=42)
    image = random_images(0, 2, side=42)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        expected = model((image.float() / 255 - mean) / std).pooler_output
    torch.testing.assert_close(extractor(image), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["clip_vitl14_336", "dinov2_vitl14_reg_cls"])
def test_hub_weights_that_cannot_be_had_say_what_to_do(name: str, monkeypatch, tmp_path) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))  # empty, and conftest is offline
    with pytest.raises(OSError, match=r"cannot load .* fetch it once"):
        load_extractor(name)


@pytest.mark.skipif(importlib.util.find_spec("torch_fidelity") is not None, reason="torch-fidelity is installed")
def test_fid_without_torch_fidelity_names_the_extra() -> None:
    with pytest.raises(ValueError, match=r"prx-sweeps\[cluster\]"):
        load_extractor("inception_v3_fid")


# -- the real Inception-v3 with random weights, where torch-fidelity and torchvision are installed


@pytest.fixture
def inception_weights(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights where torch.hub would have put the downloaded ones."""
    pytest.importorskip("torch_fidelity", exc_type=ImportError)
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3 as Inception

    torch.manual_seed(0)
    empty = tmp_path / "empty.pth"
    torch.save({}, empty)
    with monkeypatch.context() as patch:
        patch.setattr(Inception, "load_state_dict", lambda self, state: None)  # as it was drawn
        drawn = Inception("drawn", ["2048"], feature_extractor_weights_path=str(empty))
    for module in drawn.modules():
        if isinstance(module, nn.Conv2d):  # variance is kept from layer to layer, as in a trained network
            nn.init.kaiming_normal_(module.weight)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    torch.save(drawn.state_dict(), tmp_path / "checkpoints" / INCEPTION_ADDRESS.rpartition("/")[2])


@pytest.mark.usefixtures("inception_weights")
def test_inception_features_are_those_of_torch_fidelity() -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

    assert URL_INCEPTION_V3 == INCEPTION_ADDRESS
    extractor, image = load_extractor("inception_v3_fid"), random_images(0, 3, side=64)
    assert not any(parameter.requires_grad for parameter in extractor.parameters())
    with torch.no_grad():
        (expected,) = FeatureExtractorInceptionV3("theirs", ["2048"])(image)
    features = extractor(image)
    assert features.shape == (3, 2048)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("inception_weights")
def test_frechet_distance_over_inception_is_torchmetrics_and_torch_fidelitys() -> None:
    """Over the network's first layers, whose 64 features few images are enough for."""
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric
    from torchmetrics.image.fid import FrechetInceptionDistance, NoTrainInceptionV3

    real, generated = random_images(0, 70, side=48), random_images(1, 66, side=48) // 2
    network = NoTrainInceptionV3("inception-v3-compat", ["64"], antialias=False)
    extractor = FeatureExtractor(name="inception_v3_fid", width=64, side=None, network=network)
    x, y = extractor(real), extractor(generated)
    ours = ReferenceStatistics.fit(METRICS["fid"], x).distance(y)
    theirs = fid_statistics_to_metric(*map(fid_features_to_statistics, (x, y)), verbose=False)
    assert ours == pytest.approx(theirs[KEY_METRIC_FID], rel=1e-4)
    # torchmetrics takes uint8, or floats in [0, 1] with normalize=True; what it makes of uint8 then is shown above.
    for normalize in (False, True):
        metric = FrechetInceptionDistance(feature=64, antialias=False, normalize=normalize)
        for images, is_real in ((real, True), (generated, False)):
            metric.update(images.float() / 255 if normalize else images, real=is_real)
        assert ours == pytest.approx(float(metric.compute()), rel=1e-4)
