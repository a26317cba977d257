"""Make images of texts with a trial's model, as its evaluations make them, and write them as PNG.

Without TRIAL it is the sweep's best model. An ended sweep keeps the checkpoints of its best candidates; one that runs
has those of all trials.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sweeps.commands.chosen_sweep import add_sweep_argument, sweep_meant, trial_meant

if TYPE_CHECKING:
    from torch import Tensor

    from prx_model.sampling import SamplerConfig

SUMMARY = "make images of texts with a trial's model"
EPILOG = """\
examples:
  prx-sweeps sample --prompt "red apple"                        # the best model of the last sweep in results/
  prx-sweeps sample 3 --prompt cat --prompt dog --number 4 --to pictures               # candidate-003 of it
  prx-sweeps sample --sweep s3://bucket/results/repa-cluster-0123456789ab --prompt "a red fox" --steps 28 --guidance 5

exit codes: 0 done; 2 bad input, or a checkpoint that is not there any more.
"""
BATCH = 16
LONGEST_NAME = 60  # characters of a prompt in a file's name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    told = "its name, the beginning of it, or a candidate's number (best_model)"
    parser.add_argument("trial", metavar="TRIAL", nargs="?", default="best_model", help=told)
    add_sweep_argument(parser, positional=False)
    parser.add_argument("--prompt", action="append", required=True, metavar="TEXT", help="may be given several times")
    parser.add_argument("--number", type=int, default=1, metavar="N", help="images of each prompt (1)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the noise they start from (0)")
    parser.add_argument("--steps", type=int, metavar="N", help="of the sampler (those of the sweep's evaluations)")
    parser.add_argument("--guidance", type=float, metavar="X", help="scale of guidance (that of the evaluations)")
    parser.add_argument("--to", type=Path, default=Path("samples"), metavar="FOLDER", help="of the images (samples)")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1, ... (a GPU where there is one)")
    parser.add_argument("--cache", type=Path, default=Path("cache"), help="folder of the sweep's data (cache)")


def run(options: argparse.Namespace) -> int:
    try:
        for file in _run(options):
            print(file)
    except RuntimeError as error:  # torch's: no such device, or no room on it
        raise ValueError(str(error)) from error
    return 0


def _run(options: argparse.Namespace) -> list[Path]:
    import torch

    from sweeps.kept_models import BEST, model_of
    from sweeps.recorded import space_of

    if options.number < 1 or options.seed < 0:
        name, least = ("number", 1) if options.number < 1 else ("seed", 0)
        raise ValueError(f"--{name}: got {getattr(options, name)}, allowed is an integer of at least {least}")
    paths = replace(sweep_meant(options.sweep), cache=options.cache.absolute())
    trial = BEST if options.trial == BEST else trial_meant(paths, options.trial)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    files = []
    with model_of(paths, space_of(paths), trial, device) as model:
        sampler = _sampler(model.card.sampler, options)
        # The i-th image of all starts from the i-th noise, so that a list of prompts can be gone through in parts.
        asked = [prompt for prompt in options.prompt for _ in range(options.number)]
        for first in range(0, len(asked), BATCH):
            prompts = asked[first : first + BATCH]
            images = model(prompts, seed=options.seed, sampler=sampler, first=first)
            for i, (prompt, image) in enumerate(zip(prompts, images, strict=True), start=first):
                about = {"prompt": prompt, "model": f"{paths.root.name} {trial}", "seed": f"{options.seed}, noise {i}"}
                about |= {"steps": str(sampler.steps), "guidance": f"{sampler.guidance:g}"}
                files.append(_write(image, options.to / f"{trial}-{i:03d}-{_short(prompt)}.png", about))
    return files


def _sampler(own: SamplerConfig, options: argparse.Namespace) -> SamplerConfig:
    given = {name: getattr(options, name) for name in ("steps", "guidance") if getattr(options, name) is not None}
    try:
        return replace(own, **given)
    except ValueError as error:
        raise ValueError(f"--{error}") from error


def _short(prompt: str) -> str:
    from prx_model.model_card import slug

    return slug(prompt)[:LONGEST_NAME].strip("-.")


def _write(image: Tensor, file: Path, about: dict[str, str]) -> Path:
    """As a whole or not at all, with what it was made of in it."""
    import io

    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    from sweeps.locations import write_whole

    info, content = PngInfo(), io.BytesIO()
    for name, text in about.items():
        info.add_itxt(name, text)
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(content, format="png", pnginfo=info)
    write_whole(file, content.getvalue())
    return file
