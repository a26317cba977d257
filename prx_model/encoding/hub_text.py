"""Text encoders of the Hugging Face hub: captions -> token states, as PRXPipeline makes them of a prompt."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prx_model.encoding.text import states_by_length
from prx_model.hub import HubSource, check_filled, quietly, unavailable
from prx_model.teachers.hub_families import weights_digest

if TYPE_CHECKING:
    from prx_model.data.manifest import TextEncoderCard

# Encoder halves of models that have two; everything else is what AutoModel makes of it.
ENCODER_CLASSES = {
    "t5": "T5EncoderModel",
    "mt5": "MT5EncoderModel",
    "umt5": "UMT5EncoderModel",
    "clip": "CLIPTextModel",
    "clip_text_model": "CLIPTextModel",
}
# T5Gemma's encoder comes in three forms: in a whole model, and alone with the whole's config or its own.
CHECKPOINTS = ("T5GemmaEncoderModel", "T5GemmaEncoder", "T5GemmaModule")
# diffusers keeps a pipeline's tokenizer in a folder of its own.
TOKENIZER_OF = {"text_encoder": "tokenizer"}


class HubTextEncoder:
    """Captions -> the encoder's last hidden states, one [L, E] per caption, real tokens only.

    source: 'google/t5gemma-2b-2b-ul2' (PRX's: Gemma's terms, gated), any T5, BERT-like, CLIP or decoder-only model by
    name, 'owner/name:text_encoder' for the part of a pipeline, or a folder. Captions are cleaned and cut to
    `max_text_tokens`, special tokens included, exactly as PRXPipeline does by default. The pipeline pads; here captions
    of one length go together, and a state does not depend on its company beyond rounding.
    dtype: what it computes in; on a GPU bfloat16, in which PRX's states are made. States come back as float32.
    name, revision (a commit, '' for a folder), weight_sha256 (digest of the weights as stored) and width identify it;
    kind is a key of CHECKPOINTS or transformers' class.
    Raises OSError where the model cannot be had, ValueError where it is not one that encodes text, or not whole.
    """

    def __init__(
        self,
        source: str,
        *,
        revision: str = "main",
        max_text_tokens: int = 256,
        batch_size: int = 64,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        clean_caption("")  # says what is missing before anything is loaded
        home = HubSource.parse(source, revision)
        config, commit = _config(home)
        home = home.at(commit)
        self.name, self.revision = home.name, home.revision
        self.tokenizer = _load_tokenizer(home)
        model, self.kind = _load_model(home, config)
        self.weight_sha256 = weights_digest(model)
        own_config = _text_config(model)
        self.width: int = own_config.hidden_size
        self.max_text_tokens = max_text_tokens
        self.batch_size = batch_size
        self.device, self.dtype = torch.device(device), dtype
        self._check_length(getattr(own_config, "max_position_embeddings", None))
        self.model: Any = model.to(device=self.device, dtype=dtype).eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(
        self, captions: Sequence[str], progress: Callable[[int, int], None] | None = None
    ) -> list[Float[Tensor, "_ E"]]:
        """The float32 token states of each caption, in the order given; `progress(done, total)` after each batch.

        Raises ValueError if a state is not finite, which float16 does to T5-like encoders.
        """
        if not captions:
            return []
        return states_by_length(self._ids(captions, cut=True), self._encode, self.batch_size, progress)

    def num_cut(self, captions: Sequence[str]) -> int:
        """How many captions are longer than `max_text_tokens` and lose their end."""
        return sum(len(tokens) > self.max_text_tokens for tokens in self._ids(captions, cut=False)) if captions else 0

    def card(self) -> TextEncoderCard:
        from prx_model.data.manifest import TextEncoderCard

        return TextEncoderCard(
            name=self.name,
            package="",
            package_version="",
            revision=self.revision,
            kind=self.kind,
            weight_sha256=self.weight_sha256,
            width=self.width,
        )

    def _ids(self, captions: Sequence[str], *, cut: bool) -> list[list[int]]:
        limit = {"truncation": True, "max_length": self.max_text_tokens} if cut else {}
        return self.tokenizer([clean_caption(caption) for caption in captions], **limit)["input_ids"]

    def _encode(self, ids: list[list[int]]) -> Float[Tensor, "B L E"]:
        tokens = torch.tensor(ids, device=self.device)
        with torch.autocast(self.device.type, enabled=False):
            # Said, not left out: without a mask some models take every token that equals their padding for padding.
            states = self.model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state
        states = states.float().cpu()
        if not states.isfinite().all():
            raise ValueError(
                f"{self.name} computes states that are not finite in {self.dtype}; use bfloat16 or float32"
            )
        return states

    def _check_length(self, longest: int | None) -> None:
        shortest = len(self.tokenizer("")["input_ids"])
        if shortest == 0:
            raise ValueError(
                f"{self.name}: its tokenizer makes no token of the empty caption, which guidance needs one of; "
                "name an encoder whose tokenizer adds a start or an end token"
            )
        if self.max_text_tokens <= shortest or (longest is not None and self.max_text_tokens > longest):
            raise ValueError(
                f"max_text_tokens: got {self.max_text_tokens}, allowed is {shortest + 1} to {longest or 'any'} "
                f"({self.name} adds {shortest} of its own)"
            )


def text_encoder_of(card: TextEncoderCard, *, max_text_tokens: int, **settings: Any) -> HubTextEncoder:
    """The hub encoder that a data set's text was made with; ValueError if what is found has other weights.

    settings: batch_size, device and dtype of HubTextEncoder.
    """
    encoder = HubTextEncoder(card.name, revision=card.revision or "main", max_text_tokens=max_text_tokens, **settings)
    if encoder.weight_sha256 != card.weight_sha256:
        raise ValueError(
            f"{encoder.name} has weights {encoder.weight_sha256}, the data set was encoded with {card.weight_sha256}; "
            "put the text encoder of the data set back, or encode the data set anew"
        )
    return encoder


def as_stored(states: Float[Tensor, "L E"], dtype: torch.dtype) -> Tensor:
    """The states in the dtype of a data set; ValueError if one does not fit, as large ones do not in float16."""
    cast = states.to(dtype)
    if not cast.isfinite().all():
        raise ValueError(
            f"a text state of {states.abs().max():.4g} does not fit {str(dtype).removeprefix('torch.')}, whose largest "
            f"is {torch.finfo(dtype).max:.4g}; store the text as bfloat16"
        )
    return cast


def clean_caption(caption: str) -> str:
    """The caption as diffusers' PRXPipeline cleans a prompt: lower case, without links, mojibake, odd punctuation."""
    return _text_preprocessor().clean_text(caption)


@cache
def _text_preprocessor() -> Any:
    if find_spec("ftfy") is None:  # diffusers would raise a NameError at the first caption
        raise ValueError("captions are cleaned as PRXPipeline does, which takes package 'ftfy': pip install ftfy")
    from diffusers.pipelines.prx.pipeline_prx import TextPreprocessor

    return TextPreprocessor()


def _config(home: HubSource) -> tuple[dict[str, Any], str | None]:
    """The model's config.json, and the commit at which it was found."""
    from transformers.utils.hub import cached_file, extract_commit_hash

    try:
        path = cached_file(home.place, "config.json", **home.arguments())
    except OSError as error:
        raise unavailable(home, error) from error
    config = json.loads(Path(str(path)).read_text(encoding="utf-8"))
    if "model_type" not in config:
        raise ValueError(f"{home} is no model of transformers: its config.json names no model_type")
    return config, extract_commit_hash(path, None)


def tokenizer_home(home: HubSource) -> HubSource:
    """Where the tokenizer of the encoder at `home` lies."""
    return home.beside(TOKENIZER_OF.get(home.subfolder, home.subfolder))


def _load_tokenizer(home: HubSource) -> Any:
    from transformers import AutoTokenizer

    home = tokenizer_home(home)
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(home.place, **home.arguments())
    except (OSError, ValueError) as error:
        raise unavailable(home, error) from error
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):  # what transformers makes of missing files
        raise unavailable(home, ValueError("its tokenizer has no vocabulary"))
    return tokenizer


def _load_model(home: HubSource, config: dict[str, Any]) -> tuple[nn.Module, str]:
    """The encoder, and the kind of its checkpoint."""
    model_type = config["model_type"]
    if model_type in ("t5gemma", "t5_gemma_module"):
        return _load_t5gemma(home, model_type)
    name = ENCODER_CLASSES.get(model_type, "AutoModel")
    if name == "AutoModel" and config.get("is_encoder_decoder"):
        raise ValueError(
            f"{home} is an encoder-decoder of kind {model_type!r}, allowed are t5gemma, {', '.join(ENCODER_CLASSES)}, "
            "and models of one part"
        )
    model, report = _from_pretrained(home, name)
    if hasattr(model, "pooler"):  # beside the token states, and left random by many checkpoints
        model.pooler = None
        report["missing_keys"] = [key for key in report["missing_keys"] if "pooler." not in key]
    check_filled(home, type(model).__name__, report)
    return model, type(model).__name__


def _load_t5gemma(home: HubSource, model_type: str) -> tuple[nn.Module, str]:
    """T5Gemma's encoder out of a whole model, or saved alone, with the whole's config (diffusers) or its own.

    Not by diffusers' T5GemmaEncoder: from a whole model it loads no weight at all, from an encoder saved with its own
    config it expects the sizes of the 2B model, and transformers fills what is missing with random numbers.
    """
    from transformers import T5GemmaConfig, T5GemmaModuleConfig
    from transformers.models.t5gemma.modeling_t5gemma import T5GemmaEncoder

    if model_type == "t5_gemma_module":
        part: Any = T5GemmaModuleConfig.from_pretrained(home.place, **home.arguments())
        whole: Any = T5GemmaConfig(encoder=part.to_dict(), decoder=part.to_dict())
        whole.is_encoder_decoder = False
    else:
        whole = T5GemmaConfig.from_pretrained(home.place, **home.arguments())
        whole.is_encoder_decoder = False
        part = whole.encoder
        model, report = _from_pretrained(home, "T5GemmaEncoderModel", config=whole)
        if not report["missing_keys"]:
            return model, "T5GemmaEncoderModel"
    encoder, report = _from_pretrained(home, T5GemmaEncoder, config=part)
    check_filled(home, "T5GemmaEncoder", report)
    return _around(encoder, whole), "T5GemmaModule" if model_type == "t5_gemma_module" else "T5GemmaEncoder"


def _around(encoder: Any, config: Any) -> nn.Module:
    """The class that can be saved and loaded again, around the encoder alone."""
    from transformers import T5GemmaEncoderModel

    with torch.device("meta"):
        model = T5GemmaEncoderModel(config)
    model.encoder = encoder
    return model


def _text_config(model: Any) -> Any:
    return model.encoder.config if type(model).__name__ == "T5GemmaEncoderModel" else model.config


def _from_pretrained(home: HubSource, model_class: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
    """The model in the dtype of its checkpoint, and the report on what its weights were filled with."""
    import transformers

    loaded = getattr(transformers, model_class) if isinstance(model_class, str) else model_class
    try:
        with quietly():  # the report is read here, all of it
            return loaded.from_pretrained(
                home.place, dtype="auto", output_loading_info=True, **home.arguments(), **kwargs
            )
    except OSError as error:
        raise unavailable(home, error) from error
    except RuntimeError as error:  # weights of other shapes than the config's
        raise ValueError(f"{home} has weights that do not fit its config.json; fetch it anew") from error
