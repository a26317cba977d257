"""What a run's models are measured with: metrics over fixed prompts and noise, and the way from samples to images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from prx_model.data_source import heldout_of, sample_shape
from prx_model.float32 import full_float32
from prx_model.kept import Kept
from prx_model.sampling import pixels_to_images

if TYPE_CHECKING:
    from prx_model.data_source import Progress, Store
    from prx_model.experiment_config import ExperimentConfig
    from prx_model.latents import LatentSpace
    from prx_model.metrics.suite import MetricSuite

DECODED_PIXELS = 1 << 20  # at a time: a decoder's activations take some 16 kB a pixel


def suite_of(
    config: ExperimentConfig,
    store: Store,
    cache: Path,
    kept: Kept,
    device: torch.device | str,
    progress: Progress | None = None,
) -> MetricSuite:
    """The metrics of the run, with the features of the reference images made or found in the cache."""
    from prx_model.metrics.suite import build_suite

    evaluation, heldout = config.evaluation, heldout_of(config.data, store)
    shape = sample_shape(store.manifest)

    def build() -> MetricSuite:
        return build_suite(
            evaluation.metrics,
            heldout=heldout,
            sample_shape=shape,
            noise_seed=evaluation.noise_seed,
            num_samples=evaluation.num_samples,
            batch_size=evaluation.batch_size,
            parts=evaluation.nested,
            cache=cache,
            device=device,
            progress=progress,
        )

    fingerprint = (evaluation, heldout.fingerprint, store.manifest.latents, shape, cache, str(device))
    return kept.get("suite", fingerprint, build)


def latent_space(store: Store, kept: Kept, device: torch.device | str) -> LatentSpace | None:
    """The autoencoder of the data set's latents, on `device`; None where the data set is one of pixels.

    It computes in fp32: what it loses would be counted against the model. Raises OSError if it cannot be had,
    ValueError if its weights are not those that the data set was encoded with.
    """
    from prx_model.latents import latent_space_of

    card = store.manifest.latents
    if card is None:
        return None
    return kept.get("latent space", (card, str(device)), lambda: latent_space_of(card).to(device), most=1)


def to_images(samples: Float[Tensor, "B C H W"], space: LatentSpace | None) -> UInt8[Tensor, "B 3 R R"]:
    """Samples in the model's space as RGB. Latents are decoded a few at a time, so that a large batch fits."""
    if space is None:
        return pixels_to_images(samples)
    images = max(1, DECODED_PIXELS // (samples.shape[-1] * space.downsampling) ** 2)
    with full_float32():
        return torch.cat([space.decode(part) for part in samples.split(images)])
