"""Pretrained networks that install from the package index, so that the laptop profile needs no model hub.

Each is frozen, in eval mode, takes RGB in [0, 1] as [B, 3, H, W] float32, normalises inside, and comes from a file with
a pinned sha256 (`.fingerprint`). Nothing is unpickled.
"""

from prx_model.packaged_networks.dinov2_saliency import Dinov2Saliency, dinov2s_saliency
from prx_model.packaged_networks.efficientnet_lite import EfficientNetLite0, efficientnet_lite0
from prx_model.packaged_networks.open_nsfw import OpenNsfwResNet50, open_nsfw_resnet50
from prx_model.packaged_networks.vgg_hed import Vgg16Hed, vgg16_hed

__all__ = [
    "Dinov2Saliency",
    "EfficientNetLite0",
    "OpenNsfwResNet50",
    "Vgg16Hed",
    "dinov2s_saliency",
    "efficientnet_lite0",
    "open_nsfw_resnet50",
    "vgg16_hed",
]
