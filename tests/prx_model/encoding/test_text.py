from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch

import prx_model.encoding.text as text_module
from prx_model.data.installed import installed_version
from prx_model.encoding.text import MINILM_PACKAGE, MINILM_SHA256, MiniLmEncoder
from prx_model.pretrained import packaged_file


@pytest.fixture(scope="module")
def encoder() -> MiniLmEncoder:
    return MiniLmEncoder()


def test_states_are_those_of_the_packaged_model(encoder: MiniLmEncoder) -> None:
    from transformers import BertModel, BertTokenizer

    weights = packaged_file(MINILM_PACKAGE, "model/model.safetensors", MINILM_SHA256["model/model.safetensors"])
    tokenizer = BertTokenizer.from_pretrained(weights.parent, local_files_only=True)
    model = BertModel.from_pretrained(weights.parent, local_files_only=True).eval()
    captions = ["grinning face", "cat", "flag: France", "cat face"]
    padded = tokenizer(captions, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**padded).last_hidden_state
    for states, row, mask in zip(encoder(captions), expected, padded["attention_mask"], strict=True):
        torch.testing.assert_close(states, row[mask.bool()], atol=1e-5, rtol=1e-4)


def test_only_real_tokens_in_the_order_given(encoder: MiniLmEncoder) -> None:
    captions = ["grinning face", "", "cat", "face grinning"]
    states = encoder(captions)
    assert [tuple(state.shape) for state in states] == [(4, 384), (2, 384), (3, 384), (4, 384)]
    for caption, state in zip(captions, states, strict=True):
        torch.testing.assert_close(encoder([caption])[0], state, atol=1e-5, rtol=1e-4)


def test_long_captions_are_cut(encoder: MiniLmEncoder) -> None:
    long = "cat " * 40
    assert encoder([long])[0].shape == (16, 384)
    assert MiniLmEncoder(max_text_tokens=5)([long])[0].shape == (5, 384)
    assert encoder.num_cut([long, "cat", " ".join(["cat"] * 14)]) == 1


def test_progress_counts_captions(encoder: MiniLmEncoder) -> None:
    seen: list[tuple[int, int]] = []
    encoder(["cat", "dog", "red cat"], lambda done, total: seen.append((done, total)))
    assert seen[-1] == (3, 3)
    assert encoder([]) == []


@pytest.mark.parametrize("tokens", [2, 513])
def test_impossible_lengths_are_refused(tokens: int) -> None:
    with pytest.raises(ValueError, match=f"max_text_tokens is {tokens}, must be 3 to 512"):
        MiniLmEncoder(max_text_tokens=tokens)


def test_other_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(text_module.MINILM_SHA256, "model/model.safetensors", "0" * 64)
    with pytest.raises(ValueError, match=r"model\.safetensors.*53aa51172d.*expected 0000"):
        MiniLmEncoder()


def test_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=re.escape("prx-sweeps[laptop]")):
        packaged_file("no_such_package_of_weights", "model.bin", "0" * 64)
    with pytest.raises(ValueError, match=re.escape("prx-sweeps[laptop]")):
        installed_version("no-such-package-of-weights")
    (tmp_path / "explosive_weights").mkdir()
    (tmp_path / "explosive_weights" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"model\.bin"):  # found, not imported
        packaged_file("explosive_weights", "model.bin", "0" * 64)
    assert "explosive_weights" not in sys.modules
