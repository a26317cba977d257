"""The pretrained networks around PRX, of their real classes, made tiny and random, saved as the hub has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def tiny_autoencoder(kind: str, seed: int = 0, **changes: Any) -> Any:
    """An autoencoder of diffusers' class `kind`: 8x, 16 channels and Flux's scale and shift; AutoencoderDC 4x, 8."""
    import diffusers

    settings: dict[str, dict[str, Any]] = {
        "AutoencoderKL": {
            "block_out_channels": (8, 8, 8, 8),
            "down_block_types": ("DownEncoderBlock2D",) * 4,
            "up_block_types": ("UpDecoderBlock2D",) * 4,
            "latent_channels": 16,
            "norm_num_groups": 4,
            "scaling_factor": 0.3611,
            "shift_factor": 0.1159,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
        },
        "AutoencoderDC": {
            "latent_channels": 8,
            "attention_head_dim": 8,
            "encoder_block_types": ("ResBlock", "ResBlock", "EfficientViTBlock"),
            "decoder_block_types": ("ResBlock", "ResBlock", "EfficientViTBlock"),
            "encoder_block_out_channels": (8, 8, 16),
            "decoder_block_out_channels": (8, 8, 16),
            "encoder_layers_per_block": (1, 1, 1),
            "decoder_layers_per_block": (1, 1, 1),
            "encoder_qkv_multiscales": ((), (), (5,)),
            "decoder_qkv_multiscales": ((), (), (5,)),
            "scaling_factor": 0.41407,
        },
        "AutoencoderTiny": {
            "encoder_block_out_channels": (8, 8, 8, 8),
            "decoder_block_out_channels": (8, 8, 8, 8),
            "num_encoder_blocks": (1, 1, 1, 1),
            "num_decoder_blocks": (1, 1, 1, 1),
            "latent_channels": 16,
        },
    }
    torch.manual_seed(seed)
    return getattr(diffusers, kind)(**(settings[kind] | changes)).eval()


def saved_autoencoder(folder: Path, kind: str = "AutoencoderKL", seed: int = 0, **changes: Any) -> Any:
    vae = tiny_autoencoder(kind, seed, **changes)
    vae.save_pretrained(folder)
    return vae
