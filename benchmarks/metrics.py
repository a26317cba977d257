"""What an evaluation takes: sampling, decoding, features and distances, in seconds per 1,000 images, as Markdown.

    python benchmarks/metrics.py --toy
    python benchmarks/metrics.py --model prx_1b --device cuda --precision bf16 --decode

Networks are of the real classes and sizes, with random weights: no model hub is asked. Inception-v3 is timed where its
packages and weights are on this machine. Features are computed in full float32 whatever the device could do. Distances
are computed on the CPU, from random features of the real widths. What cannot be timed here is said, not left out.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor

from prx_model.metrics.features import EXTRACTORS, FeatureExtractor, clip_extractor, dinov2_extractor, load_extractor
from prx_model.metrics.reference import ReferenceStatistics
from prx_model.metrics.table import METRICS
from prx_model.weights import metric_needs
from sweeps.provenance import provenance

NUM_NULL_TOKENS = 2
FLUX_DOWNSAMPLING = 8


class UnavailableError(Exception):
    """This machine lacks what a row needs."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One thing that is timed. count: images that a call deals with. make: loads all, returns the call."""

    what: str
    count: int
    make: Callable[[], Callable[[], Any]]


def sampling(options: argparse.Namespace, compiled: bool) -> Callable[[], Tensor]:
    """Batches of the model's samples, from noise and text states that are there."""
    from prx_model.compiled import check_toolchain, compile_blocks
    from prx_model.model import MODELS, PRX
    from prx_model.sampling import SamplerConfig, sample

    config, device, batch = MODELS[options.model], options.device, options.batch
    if compiled:
        try:
            check_toolchain(device)
        except ValueError as error:
            raise UnavailableError(error) from error
    model = PRX(config).to(device).eval()
    if compiled:
        compile_blocks(model)
    noise = torch.randn(batch, config.in_channels, options.side, options.side, device=device)
    text = torch.randn(batch, options.text_tokens, config.context_in_dim, device=device)
    mask = torch.ones(batch, options.text_tokens, dtype=torch.bool, device=device)
    null_text = torch.zeros(NUM_NULL_TOKENS, config.context_in_dim, device=device)
    sampler = SamplerConfig(steps=options.steps, guidance=options.guidance, precision=options.precision)
    return lambda: sample(model, noise, text, mask, null_text=null_text, config=sampler)


def decoding(options: argparse.Namespace) -> Callable[[], Tensor]:
    """Flux's autoencoder, from latents to uint8 images, in the parts that an evaluation decodes at a time."""
    from diffusers import AutoencoderKL

    from prx_model.latents import LatentSpace
    from prx_model.yardstick import to_images

    widths = (8, 8, 8, 8) if options.toy else (128, 256, 512, 512)
    vae = AutoencoderKL(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=16,
        norm_num_groups=min(32, widths[0]),
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    space = LatentSpace(vae, name="random weights").to(options.device)
    side = max(1, options.resolution // FLUX_DOWNSAMPLING)
    latents = torch.randn(options.batch, 16, side, side, device=options.device)
    return lambda: to_images(latents, space)


def clip(toy: bool) -> FeatureExtractor:
    """CLIP ViT-L/14 at 336 px, or two narrow blocks at 28."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    size = _vit(toy, image_size=28 if toy else 336) | {"intermediate_size": 64 if toy else 4096}
    return clip_extractor(CLIPVisionModelWithProjection(CLIPVisionConfig(**size, projection_dim=16 if toy else 768)))


def dinov2(toy: bool) -> FeatureExtractor:
    """DINOv2 ViT-L/14 with registers at 518 px, or two narrow blocks at 28."""
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    side = 28 if toy else 518
    model = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**_vit(toy, image_size=side), num_register_tokens=4))
    return dinov2_extractor(model, side=side)


def _vit(toy: bool, image_size: int) -> dict[str, Any]:
    width, layers, heads = (32, 2, 2) if toy else (1024, 24, 16)
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "patch_size": 14,
        "image_size": image_size,
    }


def inception(toy: bool) -> FeatureExtractor:
    for need in metric_needs("fid"):
        problem = need.home.problem()
        if problem is not None:
            raise UnavailableError(problem.what)
    return load_extractor("inception_v3_fid")


EXTRACTOR_ROWS: dict[str, Callable[[bool], FeatureExtractor]] = {
    "inception_v3_fid": inception,
    "clip_vitl14_336": clip,
    "dinov2_vitl14_reg_cls": dinov2,
}


def features(name: str, options: argparse.Namespace) -> Callable[[], Tensor]:
    extractor = EXTRACTOR_ROWS[name](options.toy).to(options.device)
    shape = (options.batch, 3, options.resolution, options.resolution)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, device=options.device)
    return lambda: extractor(images).cpu()


def image_rows(options: argparse.Namespace) -> Iterator[Row]:
    guided = f"guidance {options.guidance:g}" if options.guidance != 1 else "no guidance"
    what = f"samples: {options.model}, {options.steps} steps, {guided}, {options.precision}"
    for compiled in (False,) if options.eager else (False, True):
        kind = "compiled" if compiled else "eager"
        yield Row(
            what=f"{what}, {kind}", count=options.batch, make=lambda compiled=compiled: sampling(options, compiled)
        )
    if options.decode:
        yield Row(what="decoding: Flux's autoencoder, fp32", count=options.batch, make=lambda: decoding(options))
    for name in EXTRACTOR_ROWS:
        yield Row(what=f"features: {name}, fp32", count=options.batch, make=lambda name=name: features(name, options))


def distance_times(metric: str, options: argparse.Namespace) -> tuple[float, float]:
    """Seconds to fit the reference, and seconds of one value, both from n features."""
    spec = METRICS[metric]
    width, n = 16 if options.toy else EXTRACTORS[spec.extractor].width, options.samples
    # At least 0, as pooled features are, with variances that fall over three orders of magnitude.
    scale = torch.logspace(0, -1.5, width)
    real, generated = ((torch.randn(n, width) + shift).relu() * scale for shift in (0.0, 0.1))
    started = time.perf_counter()
    reference = ReferenceStatistics.fit(spec, real)
    fitted = time.perf_counter()
    reference.distance(generated[: max(width + 1, n // 2)])  # whatever a first value finds out, later ones have
    ready = time.perf_counter()
    reference.distance(generated)
    return fitted - started, time.perf_counter() - ready


def seconds(run: Callable[[], Any], device: torch.device) -> float:
    _synchronize(device)
    started = time.perf_counter()
    run()
    _synchronize(device)
    return time.perf_counter() - started


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def image_table(options: argparse.Namespace) -> Iterator[str]:
    yield "| what | s per 1,000 images | images/s | memory on the device |"
    yield "|---|---|---|---|"
    for row in image_rows(options):
        if options.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(options.device)
        try:
            run = row.make()
        except (UnavailableError, ModuleNotFoundError) as error:
            yield f"| {row.what} | not here: {error} | | |"
            continue
        seconds(run, options.device)
        took = statistics.median(seconds(run, options.device) for _ in range(options.rounds))
        per_1000, rate = _short(1000 * took / row.count), _short(row.count / took)
        yield f"| {row.what} | {per_1000} | {rate} | {_peak(options.device)} |"


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _peak(device: torch.device) -> str:
    return f"{torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB" if device.type == "cuda" else "-"


def distance_table(options: argparse.Namespace) -> Iterator[str]:
    yield f"| distance, n = {options.samples:,} of each | fit of the reference, s | one value, s |"
    yield "|---|---|---|"
    for metric in ("fid", "cmmd", "dino_mmd"):
        fit, value = distance_times(metric, options)
        yield f"| {metric} | {fit:.2f} | {value:.2f} |"


def describe(options: argparse.Namespace) -> str:
    made = provenance("-", "benchmark")
    changed = ", with changes" if made["dirty"] else ""
    versions = ", ".join(f"{name} {made['packages'][name]}" for name in ("torch", "transformers", "diffusers"))
    toy = "Toy sizes: these numbers say only that it runs.\n" if options.toy else ""
    return (
        f"{toy}Images of {options.resolution} px; noise {options.side} x {options.side}, {options.text_tokens} text "
        f"tokens; batches of {options.batch}, median of {options.rounds} after one that is not timed.\n"
        f"{made['hardware']}; on {options.device}, {torch.get_num_threads()} threads; Python {made['python']}, "
        f"{versions}; commit {made['commit'][:12]}{changed}.\nCommand: `{made['command']}`\n"
    )


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="prx_1b", help="a name of prx_model.model's MODELS")
    parser.add_argument("--side", type=int, default=32, help="of the noise: pixels, or latents of an eighth")
    parser.add_argument("--resolution", type=int, default=256, help="side of the images that are scored, in pixels")
    parser.add_argument("--text-tokens", type=int, default=256)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=3.5)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of the model that is sampled")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--samples", type=int, default=10_000, help="features of each set that distances are taken of")
    parser.add_argument("--decode", action="store_true", help="time Flux's decoder too")
    parser.add_argument("--eager", action="store_true", help="leave out what is compiled")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--threads", type=int, help="of the CPU; torch's own choice without it")
    parser.add_argument("--toy", action="store_true", help="everything tiny, to see that it runs")
    options = parser.parse_args()
    if options.toy:
        vars(options).update(model="prx_tiny", side=16, resolution=32, text_tokens=5, steps=2, batch=4, samples=200)
    return options


def main() -> None:
    options = parsed()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(describe(options))
    for line in chain(image_table(options), [""], distance_table(options)):
        print(line, flush=True)


if __name__ == "__main__":
    main()
