"""A trained PRX as a folder that diffusers' PRXPipeline loads, and samples from as the evaluations did."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prx_model.data.durable import whole_folder
from prx_model.export_readme import readme
from prx_model.hub import quietly
from prx_model.model import PRX
from prx_model.model_card import Trained
from prx_model.sampling import SamplerConfig

if TYPE_CHECKING:
    from prx_model.data.manifest import LatentCard, Manifest, TextEncoderCard

COMPONENTS = ("reference", "copy")
COMPONENTS_FILE, SETTINGS_FILE = "components.json", "experiment.json"
# Without an autoencoder PRXPipeline divides the sides that it is asked for by this.
SIDE_FACTOR_OF_PIXELS = 8


@dataclass(frozen=True, kw_only=True)
class PipelineCard:
    """What a model was trained and evaluated with: all that a pipeline needs beside its weights.

    latents: None for a model in pixel space. resolution: side of its images. max_text_tokens: captions are cut there.
    """

    latents: LatentCard | None
    text_encoder: TextEncoderCard
    max_text_tokens: int
    resolution: int
    sampler: SamplerConfig

    @property
    def fitting(self) -> str:
        """'copy' where all that the folder would leave out is a small package that is installed here anyway."""
        return "copy" if self.latents is None and self.text_encoder.package else "reference"

    @classmethod
    def of(cls, manifest: Manifest, sampler: SamplerConfig) -> PipelineCard:
        """Of a model trained on the data set of `manifest` and evaluated with `sampler`."""
        return cls(
            latents=manifest.latents,
            text_encoder=manifest.text_encoder,
            max_text_tokens=manifest.max_text_tokens,
            resolution=manifest.resolution,
            sampler=sampler,
        )


def read_card(folder: Path) -> PipelineCard:
    """The card of an exported folder. Raises ValueError, in one line, where it is none."""
    path = folder / COMPONENTS_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; allowed is a folder that this project has exported") from error
    return card_of(text, str(path))


def card_of(text: str, where: str) -> PipelineCard:
    """Of the text of a components.json. Raises ValueError, in one line that opens with `where`, if it is none."""
    from prx_model.data.manifest import LatentCard, TextEncoderCard

    try:
        told = json.loads(text)
        latents = told["latents"]
        return PipelineCard(
            latents=None if latents is None else LatentCard(**latents),
            text_encoder=TextEncoderCard(**told["text_encoder"]),
            max_text_tokens=told["max_text_tokens"],
            resolution=told["resolution"],
            sampler=SamplerConfig(**told["sampler"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        problem = f"not what this version writes ({type(error).__name__}: {error})"
        raise ValueError(f"{where}: {problem}; export the model again") from error


def export_pipeline(
    model: PRX, folder: Path, card: PipelineCard, *, components: str = "reference", trained: Trained | None = None
) -> None:
    """Write `folder`: model_index.json, transformer/, scheduler/, components.json, and a README.md with lines to run.

    components: 'copy' adds vae/, text_encoder/ and tokenizer/, so that `PRXPipeline.from_pretrained(folder)` is all it
    takes; they are loaded for it. 'reference' only says where they are and how to load them, and loads nothing.
    trained: with it the README is a model card as the model hub reads it, and experiment.json has all settings.
    The scheduler is set so that `sampler.steps` steps are the steps of `prx_model.sampling`: see `scheduler_of`.
    Models in pixel space are PRXPipelines without an autoencoder. (PRXPixelPipeline is for another kind of model: it
    takes the network's output for the clean image, not for the velocity, and starts from noise of spread 2.)
    Raises ValueError if `folder` exists. It is whole or not there, whenever the process is killed.
    """
    if components not in COMPONENTS:
        raise ValueError(f"components: got {components!r}, allowed is one of {', '.join(COMPONENTS)}")
    if folder.exists():
        raise ValueError(f"folder: got {folder}, which exists; allowed is one that does not")
    pipeline = _pipeline(model, card, components)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(folder) as partial:
        with quietly():  # it remarks on every part that it is to leave out
            pipeline.save_pretrained(partial)
        description = {"components": components, **asdict(card)}
        (partial / COMPONENTS_FILE).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
        (partial / "README.md").write_text(readme(card, components, trained), encoding="utf-8")
        if trained is not None:
            settings = json.dumps(asdict(trained.config), indent=1)
            (partial / SETTINGS_FILE).write_text(settings + "\n", encoding="utf-8")
        _flush(partial)


def scheduler_of(sampler: SamplerConfig) -> Any:
    """diffusers' Euler scheduler with the times of `sampler` when it is asked for `sampler.steps` steps.

    Its grid runs from 1 to the time that is one of its `num_train_timesteps` from 0, in steps - 1 steps, and ends with
    a step from there to 0: with the usual 1,000 the last step does next to nothing. The grid is that of `times()` where
    that smallest time, shifted, is the last but one of ours: for shift (steps - 1) + 1 of them. Where this is no
    integer the nearest is taken, and times differ in the third decimal. The model never sees the number: PRXPipeline
    divides by it.
    """
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

    count = max(1, round(sampler.shift * (sampler.steps - 1) + 1))
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=count, shift=sampler.shift)


def _pipeline(model: PRX, card: PipelineCard, components: str) -> Any:
    from diffusers.pipelines.prx.pipeline_prx import PRXPipeline

    vae = text_encoder = tokenizer = None
    if components == "copy":
        vae = _autoencoder(card.latents)
        text_encoder, tokenizer = _text_parts(card)
    parts: dict[str, Any] = {"vae": vae, "text_encoder": text_encoder, "tokenizer": tokenizer}
    side = card.resolution if card.latents else card.resolution * SIDE_FACTOR_OF_PIXELS
    return PRXPipeline(model.transformer, scheduler_of(card.sampler), default_sample_size=side, **parts)


def _autoencoder(card: LatentCard | None) -> Any:
    if card is None:
        return None
    from prx_model.latents import latent_space_of

    vae = latent_space_of(card).vae
    if vae.config.get("shift_factor") is None and "shift_factor" in vae.config:
        vae.register_to_config(shift_factor=0.0)  # PRXPipeline adds it, null or not
    return vae


def _text_parts(card: PipelineCard) -> tuple[Any, Any]:
    """Text encoder and tokenizer; float32, as the transformer is: PRXPipeline does not cast between them."""
    if card.text_encoder.package:
        encoder, tokenizer = _packaged_text_parts(card.text_encoder)
    else:
        from prx_model.encoding.hub_text import text_encoder_of

        loaded = text_encoder_of(card.text_encoder, max_text_tokens=card.max_text_tokens)
        encoder, tokenizer = loaded.model, loaded.tokenizer
    tokenizer.model_max_length = card.max_text_tokens  # where PRXPipeline cuts if it is not told otherwise
    return encoder, tokenizer


def _packaged_text_parts(card: TextEncoderCard) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    from prx_model.encoding.text import MINILM_DISTRIBUTION, MINILM_PACKAGE, MINILM_SHA256
    from prx_model.pretrained import packaged_file, without_loading_bar

    if card.package != MINILM_DISTRIBUTION:
        raise ValueError(f"text_encoder: got package {card.package!r}, allowed is {MINILM_DISTRIBUTION!r}")
    folder = {packaged_file(MINILM_PACKAGE, path, sha256).parent for path, sha256 in MINILM_SHA256.items()}.pop()
    with without_loading_bar():
        return AutoModel.from_pretrained(folder).float(), AutoTokenizer.from_pretrained(folder)


def _flush(folder: Path) -> None:
    """Make the content of all files in it as durable as `whole_folder` makes their names."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
