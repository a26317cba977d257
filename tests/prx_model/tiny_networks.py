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


WORDS = [
    "a",
    "red",
    "fox",
    "sleeping",
    "in",
    "fresh",
    "snow",
    ",",
    ".",
    "-",
    "cat",
    "dog",
    "house",
    "blue",
    "tram",
    "on",
    "sandy",
    "beach",
    "painting",
    "of",
]
SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>")


def tiny_tokenizer(*, padding_side: str = "left", specials: bool = True, **changes: Any) -> Any:
    """A word-level tokenizer that adds <bos> and <eos>, padded on the left like Gemma's."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if specials:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<bos> $A <eos>", special_tokens=[("<bos>", 2), ("<eos>", 1)]
        )
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    settings = {"padding_side": padding_side, "model_max_length": 256} | names | changes
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **settings)


def tiny_t5gemma(seed: int = 0) -> Any:
    """A whole T5Gemma, encoder and decoder, as the hub has it; width 32, two layers, one of them with a window."""
    import transformers

    part = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "sliding_window": 16,
    }
    config = transformers.T5GemmaConfig(
        encoder=transformers.T5GemmaModuleConfig(**part),
        decoder=transformers.T5GemmaModuleConfig(**part),
        vocab_size=64,
    )
    torch.manual_seed(seed)
    model = transformers.T5GemmaForConditionalGeneration(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def saved_t5gemma(folder: Path, seed: int = 0, **tokenizer: Any) -> Any:
    """What `google/t5gemma-...` holds. Returns its encoder."""
    whole = tiny_t5gemma(seed)
    whole.save_pretrained(folder)
    tiny_tokenizer(**tokenizer).save_pretrained(folder)
    return whole.get_encoder()


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def hub_repository(cache: Path, name: str) -> Path:
    """A folder of the hub's local cache, to be filled: repository `name`, whose branch main is at COMMIT."""
    home = cache / f"models--{name.replace('/', '--')}"
    snapshot = home / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(COMMIT)
    return snapshot
