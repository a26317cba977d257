"""Hub text encoders on tiny, randomly initialised models of the classes that the hub's checkpoints are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import prx_model.encoding.hub_text as hub_text
from prx_model.encoding.hub_text import HubTextEncoder, as_stored, clean_caption, text_encoder_of
from tests.prx_model.tiny_networks import COMMIT, hub_repository, saved_t5gemma, tiny_t5gemma, tiny_tokenizer

CAPTIONS = [
    "A red fox, sleeping in FRESH snow.",
    "",
    "cat",
    "painting of a blue tram - on sandy   beach (see https://example.com/tram.png) &amp; dog",
    "dog",
    "a cat " * 200,
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("t5gemma")
    saved_t5gemma(path)
    return path


@pytest.fixture(scope="module")
def encoder(folder) -> HubTextEncoder:
    return HubTextEncoder(str(folder))


def pipelines_states(captions: list[str], *, max_length: int, padding_side: str = "left") -> list[torch.Tensor]:
    """PRXPipeline.encode_prompt's states, cut down to the tokens that its mask calls real."""
    from diffusers import FlowMatchEulerDiscreteScheduler, PRXPipeline

    pipeline = PRXPipeline(
        transformer=None,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        text_encoder=tiny_t5gemma().get_encoder(),
        tokenizer=tiny_tokenizer(padding_side=padding_side),
        vae=None,
    )
    states, mask, *_ = pipeline.encode_prompt(
        captions, device=torch.device("cpu"), do_classifier_free_guidance=False, tokenizer_max_length=max_length
    )
    assert states.shape[1] == max_length
    return [row[real] for row, real in zip(states, mask, strict=True)]


@pytest.mark.parametrize(("max_text_tokens", "padding_side"), [(256, "left"), (6, "left"), (40, "right")])
def test_states_are_those_of_the_pipeline(folder, max_text_tokens, padding_side):
    ours = HubTextEncoder(str(folder), max_text_tokens=max_text_tokens)(CAPTIONS)
    theirs = pipelines_states(CAPTIONS, max_length=max_text_tokens, padding_side=padding_side)
    assert [len(states) for states in ours] == [len(states) for states in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4)
    assert len(ours[1]) == 2  # the empty caption: a start and an end
    assert len(ours[5]) == max_text_tokens
    assert all(states.dtype == torch.float32 for states in ours)


def test_states_do_not_depend_on_company_or_order(folder, encoder):
    alone = [encoder([caption])[0] for caption in CAPTIONS]
    for other in (
        encoder(CAPTIONS),
        HubTextEncoder(str(folder), batch_size=1)(CAPTIONS),
        encoder(CAPTIONS[::-1])[::-1],
    ):
        for mine, expected in zip(other, alone, strict=True):
            torch.testing.assert_close(mine, expected, atol=1e-5, rtol=1e-4)


def test_progress_cuts_and_nothing_to_do(encoder):
    seen: list[tuple[int, int]] = []
    encoder(CAPTIONS, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (6, 6)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    # 256 tokens hold the start, the end and 254 words: what is counted is what is left after cleaning.
    full, over = "cat " * 254, "cat " * 255
    assert encoder.num_cut([full, over, full + " https://example.com", "cat"]) == 1
    assert encoder([]) == []
    assert encoder.num_cut([]) == 0


def test_captions_are_cleaned_as_the_pipeline_cleans():
    assert clean_caption("  A RED Fox &amp; *** cat https://example.com/a ") == "a red fox ; cat"
    assert clean_caption("") == ""


def test_every_layout_of_t5gemma_gives_the_same_states(folder, encoder, tmp_path):
    """A whole model; an encoder alone with its own config, or with the whole's, as in pipelines."""
    whole = tiny_t5gemma()
    whole.get_encoder().save_pretrained(tmp_path / "own")
    tiny_tokenizer().save_pretrained(tmp_path / "own")
    whole.get_encoder().save_pretrained(tmp_path / "text_encoder")
    whole.config.save_pretrained(tmp_path / "text_encoder")
    tiny_tokenizer().save_pretrained(tmp_path / "tokenizer")
    assert encoder.kind == "T5GemmaEncoderModel"
    for source, kind in ((str(tmp_path / "own"), "T5GemmaModule"), (f"{tmp_path}:text_encoder", "T5GemmaEncoder")):
        other = HubTextEncoder(source)
        assert other.kind == kind
        assert other.weight_sha256 == encoder.weight_sha256
        assert torch.equal(other(["a red fox"])[0], encoder(["a red fox"])[0])


def test_identity(folder, encoder, tmp_path):
    assert (encoder.name, encoder.revision, encoder.width) == (str(folder), "", 32)
    saved_t5gemma(tmp_path, seed=1)
    assert HubTextEncoder(str(tmp_path)).weight_sha256 != encoder.weight_sha256
    coarse = HubTextEncoder(str(folder), dtype=torch.bfloat16)
    assert coarse.weight_sha256 == encoder.weight_sha256
    assert coarse(["a fox"])[0].dtype == torch.float32
    assert not torch.equal(coarse(["a fox"])[0], encoder(["a fox"])[0])


def test_the_card_finds_the_encoder_again_and_no_other(tmp_path):
    saved_t5gemma(tmp_path)
    encoder = HubTextEncoder(str(tmp_path))
    card = encoder.card()
    assert (card.name, card.revision, card.kind, card.width) == (str(tmp_path), "", "T5GemmaEncoderModel", 32)
    again = text_encoder_of(card, max_text_tokens=6, batch_size=1)
    assert torch.equal(again(["a red fox"])[0], encoder(["a red fox"])[0])
    saved_t5gemma(tmp_path, seed=1)
    with pytest.raises(ValueError, match=rf"the data set was encoded with {card.weight_sha256}; put the text encoder"):
        text_encoder_of(card, max_text_tokens=6)


def test_a_branch_of_the_hub_is_pinned_to_its_commit(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    saved_t5gemma(hub_repository(tmp_path, "owner/text"))
    encoder = HubTextEncoder("owner/text")
    assert (encoder.name, encoder.revision) == ("owner/text", COMMIT)
    assert text_encoder_of(encoder.card(), max_text_tokens=9).revision == COMMIT


def test_an_outer_autocast_and_training_mode_change_nothing(encoder):
    expected = encoder(["a red fox"])[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(encoder(["a red fox"])[0], expected)
    assert not encoder.model.training
    assert not any(parameter.requires_grad for parameter in encoder.model.parameters())


def other_model(kind: str) -> Any:
    import transformers

    small: dict[str, Any] = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    more = small | {"intermediate_size": 32}
    torch.manual_seed(0)
    if kind == "t5":
        config = transformers.T5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
        return transformers.T5ForConditionalGeneration(config).eval()
    if kind == "bert":
        return transformers.BertModel(transformers.BertConfig(**more, max_position_embeddings=40)).eval()
    if kind == "clip":
        text = more | {"max_position_embeddings": 20, "eos_token_id": 1}
        vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        return transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision)).eval()
    return transformers.Gemma2Model(transformers.Gemma2Config(**more, num_key_value_heads=2, head_dim=8)).eval()


@pytest.mark.parametrize("kind", ["t5", "bert", "clip", "gemma2"])
def test_other_encoders_by_name(kind, tmp_path):
    model = other_model(kind)
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    states = HubTextEncoder(str(tmp_path), max_text_tokens=20)(["a red fox", "cat"])
    inner = {"t5": lambda: model.encoder, "clip": lambda: model.text_model}.get(kind, lambda: model)()
    ids = torch.tensor([[2, 4, 5, 6, 1]])
    with torch.no_grad():
        expected = inner(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
    torch.testing.assert_close(states[0], expected)
    assert states[1].shape == (3, 16)


def test_an_encoder_without_its_pooler_is_whole(tmp_path):
    """Many checkpoints leave it out; token states do not read it, and the digest must not be of random numbers."""
    model = other_model("bert")
    digests = []
    for name in ("with", "without"):
        if name == "without":
            model.pooler = None
        model.save_pretrained(tmp_path / name)
        tiny_tokenizer().save_pretrained(tmp_path / name)
        digests.append(HubTextEncoder(str(tmp_path / name), max_text_tokens=20).weight_sha256)
    assert digests[0] == digests[1]


def test_missing_weights_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    saved_t5gemma(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    lost = "model.encoder.layers.1.mlp.up_proj.weight"
    save_file({key: value for key, value in weights.items() if key != lost}, path, {"format": "pt"})
    with pytest.raises(ValueError, match=r"does not fill \d+ weights of T5GemmaEncoder, e\.g\. "):
        HubTextEncoder(str(tmp_path))


def test_weights_of_other_shapes_are_refused(tmp_path):
    saved_t5gemma(tmp_path)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('"intermediate_size": 48', '"intermediate_size": 40'))
    with pytest.raises(ValueError, match=r"has weights that do not fit its config\.json"):
        HubTextEncoder(str(tmp_path))


def test_an_encoder_decoder_without_a_known_encoder_is_refused(tmp_path):
    import transformers

    transformers.BartConfig(d_model=16, encoder_layers=1, decoder_layers=1).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is an encoder-decoder of kind 'bart', allowed are t5gemma, t5, "):
        HubTextEncoder(str(tmp_path))


def test_a_tokenizer_that_makes_nothing_of_nothing_is_refused(tmp_path):
    saved_t5gemma(tmp_path, specials=False)
    with pytest.raises(ValueError, match="makes no token of the empty caption"):
        HubTextEncoder(str(tmp_path))


def test_impossible_lengths_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="max_text_tokens: got 2, allowed is 3 to 8192"):
        HubTextEncoder(str(folder), max_text_tokens=2)
    other_model("bert").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="max_text_tokens: got 41, allowed is 3 to 40"):
        HubTextEncoder(str(tmp_path), max_text_tokens=41)


def test_states_that_overflow_name_bfloat16(tmp_path):
    model = tiny_t5gemma()
    with torch.no_grad():
        model.get_encoder().norm.weight.fill_(60_000.0)
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"not finite in torch\.float16; use bfloat16"):
        HubTextEncoder(str(tmp_path), dtype=torch.float16)(["a cat"])
    states = HubTextEncoder(str(tmp_path))(["a cat"])[0]
    with pytest.raises(
        ValueError, match=r"does not fit float16, whose largest is 6\.55e\+04; store the text as bfloat16"
    ):
        as_stored(states, torch.float16)
    assert as_stored(states, torch.bfloat16).dtype == torch.bfloat16
    assert torch.equal(as_stored(torch.tensor([[0.5, -2.0]]), torch.float16).float(), torch.tensor([[0.5, -2.0]]))


def test_without_ftfy_it_says_so_before_loading(folder, monkeypatch):
    hub_text._text_preprocessor.cache_clear()
    monkeypatch.setattr(hub_text, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"takes package 'ftfy': pip install ftfy"):
        HubTextEncoder(str(folder))


def test_what_cannot_be_had_says_in_one_line_what_to_do(tmp_path):
    with pytest.raises(
        OSError, match=r"cannot load nobody/nothing \(revision main\): .*hf download nobody/nothing"
    ) as caught:
        HubTextEncoder("nobody/nothing")
    assert "\n" not in str(caught.value)
    saved_t5gemma(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(OSError, match=r"cannot load .*no vocabulary; name a folder that `save_pretrained`") as caught:
        HubTextEncoder(str(tmp_path))
    assert "\n" not in str(caught.value)
