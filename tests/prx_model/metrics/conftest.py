"""Images and a small real network for the metrics' tests."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from prx_model.metrics.features import FeatureExtractor


class TinyConvNet(nn.Module):
    """Two strided convolutions and the mean and maximum of their map; 8 features."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.GELU(), nn.Conv2d(6, 4, 3, stride=2))

    def forward(self, image: Tensor) -> Tensor:
        hidden = self.body(image)
        return torch.cat([hidden.mean(dim=(2, 3)), hidden.amax(dim=(2, 3))], dim=1)


def tiny_extractor(name: str = "efficientnet_lite0_pool", *, seed: int = 0, side: int | None = 16) -> FeatureExtractor:
    """An extractor with random weights, under the name of one in the table, so that the table's metrics can use it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return FeatureExtractor(name=name, width=8, side=side, network=TinyConvNet())


def random_images(seed: int, n: int, side: int = 24) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, 4, 4, generator=generator)
    return (nn.functional.interpolate(coarse, size=(side, side), mode="bilinear") * 255).to(torch.uint8)


@pytest.fixture
def images() -> Tensor:
    return random_images(0, 50)
