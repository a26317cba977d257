"""Hub teachers on tiny, randomly initialised models of the very classes that the hub's checkpoints are."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from prx_model.teachers import hub_families
from prx_model.teachers.hub_families import weights_digest
from prx_model.teachers.table import TEACHERS, TeacherSpec, hub_teacher, load_teacher

PATCH = 4
TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": PATCH,
    "image_size": 24,  # trained on a 6 x 6 grid
}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
# teacher, its transformers model and config class, further settings, class and register tokens, normalisation
FAMILIES = {
    "dinov2_vits14_reg": ("Dinov2WithRegisters", {"mlp_ratio": 2, "num_register_tokens": 3}, 4, IMAGENET),
    "dinov3_vits16": ("DINOv3ViT", {"intermediate_size": 64, "num_register_tokens": 2}, 3, IMAGENET),
    "siglip2_b16": ("SiglipVision", {"intermediate_size": 64}, 0, HALF),
    "clip_vitl14": ("CLIPVision", {"intermediate_size": 64}, 1, CLIP),
    "mae_vitl16": ("ViTMAE", {"intermediate_size": 64}, 1, IMAGENET),
}
GRIDS = [(6, 6), (8, 8), (3, 5), (1, 2)]  # the trained grid and others, not all square


def tiny_model(name: str, seed: int = 0) -> torch.nn.Module:
    import transformers

    kind, settings, *_ = FAMILIES[name]
    torch.manual_seed(seed)
    model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**TINY, **settings)).eval()
    for parameter in model.parameters():  # norms and positions too, so that leaving one out shows
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def picture(side: int = 20) -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, side, side), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


def by_hand(name: str, model, image: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """All tokens of the model's own forward, prefix included, on pixels prepared step by step."""
    _, _, _, (mean, std) = FAMILIES[name]
    size = (grid[0] * PATCH, grid[1] * PATCH)
    pixels = functional.interpolate(image / 255, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    pixels = (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    with torch.no_grad():
        if name.startswith("dino"):
            return model(pixel_values=pixels).last_hidden_state
        if name == "mae_vitl16":
            model.config.mask_ratio = 0.0
            noise = torch.rand(len(image), grid[0] * grid[1], generator=torch.Generator().manual_seed(2))
            out = model(pixel_values=pixels, noise=noise, interpolate_pos_encoding=True)
            # Shuffled by this noise; put each token back where its patch lies.
            place = out.ids_restore[..., None].expand(-1, -1, 32)
            hidden = out.last_hidden_state
            return torch.cat([hidden[:, :1], hidden[:, 1:].gather(1, place)], dim=1)
        hidden = model(pixel_values=pixels, interpolate_pos_encoding=True).last_hidden_state
        return model.post_layernorm(hidden) if name == "clip_vitl14" else hidden


@pytest.fixture(params=FAMILIES)
def name(request) -> str:
    return request.param


@pytest.mark.parametrize("grid", GRIDS)
def test_tokens_are_the_models_own_without_class_and_registers(name, grid):
    model = tiny_model(name)
    tokens = hub_teacher(TEACHERS[name], model)(picture(), grid)
    expected = by_hand(name, model, picture(), grid)
    num_prefix = FAMILIES[name][2]
    assert expected.shape == (2, num_prefix + grid[0] * grid[1], 32)
    assert tokens.shape == (2, grid[0] * grid[1], 32)
    torch.testing.assert_close(tokens, expected[:, num_prefix:], rtol=1e-4, atol=1e-4)


def test_normalisation_is_applied(name):
    """The comparison by hand would not agree with another family's mean and std."""
    model = tiny_model(name)
    spec = TEACHERS[name]
    assert spec.family is not None
    other = replace(spec, family=replace(spec.family, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)))
    tokens, unnormalised = (hub_teacher(s, model)(picture(), (6, 6)) for s in (spec, other))
    assert (tokens - unnormalised).abs().max() > 0.05


def test_teacher_never_trains_and_repeats_itself(name):
    teacher = hub_teacher(TEACHERS[name], tiny_model(name))
    first = teacher(picture(), (5, 7))
    teacher.train()
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    torch.manual_seed(123)  # a shuffle, a mask or a dropout would read the global generator
    second = teacher(picture(), (5, 7))
    assert torch.equal(first, second)
    assert second.dtype == torch.float32
    assert not second.requires_grad


def test_mae_patches_are_neither_masked_nor_shuffled():
    teacher = hub_teacher(TEACHERS["mae_vitl16"], tiny_model("mae_vitl16"))
    with torch.no_grad():
        for layer in teacher.backbone.model.layers:  # blocks that add nothing: each token sees its own patch alone
            for parameter in layer.parameters():
                parameter.zero_()
    image = torch.full((1, 3, 24, 24), 128, dtype=torch.uint8)
    marked = image.clone()
    marked[:, :, 4:8, 12:16] = 255  # the patch in row 1, column 3
    changed = (teacher(marked, (6, 6)) - teacher(image, (6, 6))).abs().amax(-1)[0]
    assert changed.nonzero().flatten().tolist() == [1 * 6 + 3]


def test_fingerprint_follows_weights_and_preprocessing_but_not_parameter_names(name):
    spec = TEACHERS[name]
    fingerprint = hub_teacher(spec, tiny_model(name)).fingerprint
    assert fingerprint == hub_teacher(spec, tiny_model(name)).fingerprint
    assert fingerprint != hub_teacher(spec, tiny_model(name, seed=1)).fingerprint
    assert fingerprint != hub_teacher(replace(spec, revision="v2"), tiny_model(name)).fingerprint
    other = replace(spec, family=replace(spec.family, mean=(0.1, 0.1, 0.1)))
    assert fingerprint != hub_teacher(other, tiny_model(name)).fingerprint


def test_weights_digest_reads_every_weight_and_no_name(name):
    model = tiny_model(name)
    digest = weights_digest(model)
    assert weights_digest(torch.nn.ModuleDict({"renamed": model})) == digest
    for parameter in model.parameters():
        with torch.no_grad():
            kept = parameter.flatten()[-1].clone()
            parameter.view(-1)[-1] += 1
            assert weights_digest(model) != digest
            parameter.view(-1)[-1] = kept
    assert weights_digest(model) == digest


def checkpoint(name: str, folder) -> torch.nn.Module:
    """Save a checkpoint as the hub has it: of the full model, text tower or decoder included. Returns its encoder."""
    import transformers

    encoder = tiny_model(name)
    text = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "vocab_size": 9,
    }
    if name == "siglip2_b16":
        config = transformers.SiglipConfig(text_config=text, vision_config=encoder.config.to_dict())
        whole = transformers.SiglipModel(config)
        whole.vision_model.load_state_dict(encoder.state_dict())
    elif name == "clip_vitl14":
        config = transformers.CLIPConfig(text_config=text, vision_config=encoder.config.to_dict())
        whole = transformers.CLIPModel(config)
        whole.vision_model.load_state_dict(encoder.state_dict())
    elif name == "mae_vitl16":
        whole = transformers.ViTMAEForPreTraining(encoder.config)
        whole.vit.load_state_dict(encoder.state_dict())
    else:
        whole = encoder
    whole.save_pretrained(folder)
    return encoder


def from_folder(name: str, folder, **changes) -> TeacherSpec:
    return replace(TEACHERS[name], source=str(folder), **changes)


def test_checkpoint_of_the_full_model_loads_into_the_teacher(name, tmp_path):
    encoder = checkpoint(name, tmp_path)
    spec = from_folder(name, tmp_path, width=32, patch=PATCH)
    teacher = spec.loader(spec)
    expected = hub_teacher(TEACHERS[name], encoder)
    torch.testing.assert_close(teacher(picture(), (4, 4)), expected(picture(), (4, 4)))


def test_checkpoint_of_another_width_is_refused(name, tmp_path):
    checkpoint(name, tmp_path)
    spec = from_folder(name, tmp_path)
    with pytest.raises(ValueError, match=f"has width 32 and patch 4, expected {spec.width} and {spec.patch}"):
        spec.loader(spec)


def test_checkpoint_with_missing_weights_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    checkpoint("clip_vitl14", tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    lost = next(key for key in weights if "vision" in key and "fc1.weight" in key)
    save_file({k: v for k, v in weights.items() if k != lost}, tmp_path / "model.safetensors", {"format": "pt"})
    spec = from_folder("clip_vitl14", tmp_path, width=32, patch=PATCH)
    with pytest.raises(ValueError, match=r"does not fill 1 weights of CLIPVisionModel, e\.g\. .*fc1\.weight"):
        spec.loader(spec)


def test_unreachable_hub_says_in_one_line_which_model_and_what_to_do(monkeypatch):
    import transformers

    def offline(*args, **kwargs):
        raise OSError("We couldn't connect to the hub\nand more lines")

    monkeypatch.setattr(transformers.DINOv3ViTModel, "from_pretrained", offline)
    with pytest.raises(OSError, match=r"facebook/dinov3-vitb16-pretrain-lvd1689m.*hf download") as caught:
        load_teacher("dinov3_vitb16")
    assert "\n" not in str(caught.value)


def test_every_family_of_the_table_is_tested():
    families = {spec.family for spec in TEACHERS.values() if spec.family is not None}
    assert families == {TEACHERS[name].family for name in FAMILIES}
    assert hub_families.CLIP in families
