"""Images, held-out data and a small real network for the metrics' tests."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from prx_model.data.store import Split
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


def held_out(images: Tensor, *, text: Tensor | None = None, fingerprint: str = "a") -> Split:
    """A held-out split of these images, with captions whose token states are random unless given."""
    n = len(images)
    if text is None:
        text = torch.randn(n, 4, 5, generator=torch.Generator().manual_seed(1))
    return Split(
        name="heldout",
        fingerprint=fingerprint,
        keys=tuple(map(str, range(n))),
        captions=tuple(f"caption {i}" for i in range(n)),
        families=("",) * n,
        images=images,
        text=text,
        text_mask=torch.ones(text.shape[:2], dtype=torch.bool),
    )


@pytest.fixture
def images() -> Tensor:
    return random_images(0, 50)
