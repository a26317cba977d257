"""Latent spaces on tiny, randomly initialised autoencoders of the classes that the hub's checkpoints are."""

import pytest
import torch

from prx_model.latents import AUTOENCODERS, KINDS, LatentSpace, latent_space_of, load_latent_space
from prx_model.model import PRX, PRXConfig
from tests.prx_model.tiny_networks import COMMIT, hub_repository, saved_autoencoder, tiny_autoencoder

SHAPES = {"AutoencoderKL": (16, 8), "AutoencoderDC": (8, 4), "AutoencoderTiny": (16, 8)}
SCALES = {"AutoencoderKL": (0.3611, 0.1159), "AutoencoderDC": (0.41407, 0.0), "AutoencoderTiny": (1.0, 0.0)}


@pytest.fixture(params=KINDS)
def kind(request) -> str:
    return request.param


@pytest.fixture
def space(kind, tmp_path) -> LatentSpace:
    saved_autoencoder(tmp_path, kind)
    return load_latent_space(str(tmp_path))


def pictures(count: int = 3, side: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, side, side), generator=generator).to(torch.uint8)


def noise_for(space: LatentSpace, count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return 2 * torch.randn(count, space.channels, 4, 4, generator=generator)


def raw_mode(vae, image: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        out = vae.encode(image / 127.5 - 1)
    return {"AutoencoderKL": lambda: out.latent_dist.mean, "AutoencoderDC": lambda: out.latent}.get(
        type(vae).__name__, lambda: out.latents
    )()


def test_the_card_says_what_was_loaded(kind, space, tmp_path):
    assert (space.kind, space.name, space.revision) == (kind, str(tmp_path), "")
    assert (space.channels, space.downsampling) == SHAPES[kind]
    assert (space.scale, space.shift) == SCALES[kind]
    assert len(space.weight_sha256) == 16


def test_the_card_finds_the_autoencoder_again_and_no_other(kind, space, tmp_path):
    card = space.card("bfloat16")
    assert (card.autoencoder, card.kind, card.channels, card.dtype) == (
        str(tmp_path),
        kind,
        SHAPES[kind][0],
        "bfloat16",
    )
    assert torch.equal(latent_space_of(card).encode(pictures()), space.encode(pictures()))
    saved_autoencoder(tmp_path, kind, seed=1)
    with pytest.raises(ValueError, match=rf"the data set was encoded with {card.weight_sha256}, "):
        latent_space_of(card)


def test_decodes_as_the_pipeline_does(space):
    from diffusers import FlowMatchEulerDiscreteScheduler, PRXPipeline

    config = PRXConfig(in_channels=space.channels, context_in_dim=8, hidden_size=32, num_heads=2, depth=1)
    pipeline = PRXPipeline(  # an untrained PRX moves nothing: what is decoded is the noise as it came
        PRX(config).transformer, FlowMatchEulerDiscreteScheduler(), text_encoder=None, tokenizer=None, vae=space.vae
    )
    pipeline.set_progress_bar_config(disable=True)
    latents, side = noise_for(space), 4 * space.downsampling
    theirs = pipeline(
        prompt_embeds=torch.zeros(2, 1, 8),
        prompt_attention_mask=torch.ones(2, 1, dtype=torch.bool),
        latents=latents,
        num_inference_steps=1,
        guidance_scale=1.0,
        height=side,
        width=side,
        use_resolution_binning=False,
        output_type="np",
    ).images
    ours = space.decode(latents).permute(0, 2, 3, 1).float().numpy()
    assert ours.std() > 2  # neither all grey nor all cut
    assert abs(ours - theirs * 255).max() <= 0.5 + 1e-3


def test_latents_are_the_mode_shifted_and_scaled(kind, space, tmp_path):
    vae = tiny_autoencoder(kind)
    scale, shift = SCALES[kind]
    latents = space.encode(pictures())
    assert latents.dtype == torch.float32
    assert latents.shape == (3, space.channels, 32 // space.downsampling, 32 // space.downsampling)
    torch.testing.assert_close(latents, (raw_mode(vae, pictures()) - shift) * scale)


def test_encoding_then_decoding_is_the_autoencoders_own_round_trip(kind, space):
    vae = tiny_autoencoder(kind)
    with torch.no_grad():
        pixels = vae.decode(raw_mode(vae, pictures())).sample
    expected = (pixels.clamp(-1, 1) + 1) * 127.5
    assert (space.decode(space.encode(pictures())).float() - expected).abs().max() <= 0.5 + 1e-2


def test_repeats_itself_and_does_not_depend_on_the_batch(space):
    together = space.encode(pictures())
    torch.manual_seed(5)  # a draw from the posterior would read the global generator
    assert torch.equal(space.encode(pictures()), together)
    torch.testing.assert_close(torch.cat([space.encode(image[None]) for image in pictures()]), together)


def test_never_trains(space):
    space.train()
    assert not any(module.training for module in space.modules())
    assert not any(parameter.requires_grad for parameter in space.parameters())
    assert not space.encode(pictures()).requires_grad
    assert not space.decode(noise_for(space).requires_grad_()).requires_grad


def test_computes_in_its_own_dtype_under_an_outer_autocast(kind, tmp_path):
    saved_autoencoder(tmp_path, kind)
    space = load_latent_space(str(tmp_path))
    alone, decoded = space.encode(pictures()), space.decode(noise_for(space))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(space.encode(pictures()), alone)
        assert torch.equal(space.decode(noise_for(space)), decoded)
    half = load_latent_space(str(tmp_path), dtype=torch.bfloat16)
    coarse = half.encode(pictures())
    assert coarse.dtype == torch.float32
    assert not torch.equal(coarse, alone)
    assert (coarse - alone).abs().max() < 0.1 * alone.abs().max()
    assert half.weight_sha256 == space.weight_sha256  # the identity of the weights, not of the cast


def test_other_weights_have_another_digest(kind, space, tmp_path):
    saved_autoencoder(tmp_path / "other", kind, seed=1)
    assert load_latent_space(str(tmp_path / "other")).weight_sha256 != space.weight_sha256


def test_images_that_do_not_fit_the_grid_are_refused(space):
    with pytest.raises(ValueError, match=f"image: got side 30, allowed are multiples of {space.downsampling}"):
        space.encode(pictures(side=30))


def test_a_checkpoint_with_a_missing_weight_is_refused(kind, tmp_path):
    from safetensors.torch import load_file, save_file

    saved_autoencoder(tmp_path, kind)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    lost = next(key for key in weights if key.startswith("decoder") and key.endswith("bias"))
    save_file({key: value for key, value in weights.items() if key != lost}, path, {"format": "pt"})
    with pytest.raises(ValueError, match=rf"does not fill 1 weights of {kind}, e\.g\. {lost}"):
        load_latent_space(str(tmp_path))


def test_a_part_of_a_pipelines_folder_is_named_with_a_colon(tmp_path):
    saved_autoencoder(tmp_path / "vae")
    space = load_latent_space(f"{tmp_path}:vae")
    assert space.name == f"{tmp_path}:vae"
    assert space.channels == 16


def test_a_branch_of_the_hub_is_pinned_to_its_commit(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    saved_autoencoder(hub_repository(tmp_path, "owner/flux") / "vae")
    space = load_latent_space("owner/flux:vae")
    assert (space.name, space.revision) == ("owner/flux:vae", COMMIT)
    assert latent_space_of(space.card("float16")).revision == COMMIT


def test_other_networks_are_refused(tmp_path):
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler

    FlowMatchEulerDiscreteScheduler().save_config(tmp_path)
    (tmp_path / "scheduler_config.json").rename(tmp_path / "config.json")
    with pytest.raises(ValueError, match=r"is a FlowMatchEulerDiscreteScheduler, allowed is one of AutoencoderKL, "):
        load_latent_space(str(tmp_path))
    whitened = tiny_autoencoder("AutoencoderKL", latents_mean=(0.0,) * 16)
    with pytest.raises(ValueError, match="mean and a spread per channel, which PRXPipeline does not undo"):
        LatentSpace(whitened, name="whitened")
    grey = AutoencoderKL(in_channels=1, norm_num_groups=4, block_out_channels=(4,))
    with pytest.raises(ValueError, match="maps 1 to 3 image channels, allowed is 3 to 3"):
        LatentSpace(grey, name="grey")


def test_an_absent_shift_is_none(tmp_path):
    assert LatentSpace(tiny_autoencoder("AutoencoderKL", shift_factor=None), name="plain").shift == 0.0


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            "flux",
            r"cannot load black-forest-labs/FLUX.1-schnell:vae \(revision v1\).*hf download black-",
        ),
        ("nobody/nothing", r"cannot load nobody/nothing \(revision v1\): .*accept its licence.*HF_HOME"),
    ],
)
def test_what_cannot_be_had_says_in_one_line_what_to_do(source, expected):
    with pytest.raises(OSError, match=expected) as caught:
        load_latent_space(source, "v1")
    assert "\n" not in str(caught.value)


def test_a_folder_without_weights_says_so(tmp_path):
    saved_autoencoder(tmp_path)
    (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(OSError, match=r"cannot load .*save_pretrained") as caught:
        load_latent_space(str(tmp_path))
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="source: got 'a:', allowed is 'owner/name'"):
        load_latent_space("a:")


def test_the_tables_names_are_sources_on_the_hub():
    assert all("/" in source and "http" not in source for source in AUTOENCODERS.values())
