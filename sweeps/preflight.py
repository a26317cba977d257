"""What must be at hand before a trial starts, asked when a sweep is planned: pretrained weights and the data set."""

from __future__ import annotations

from collections.abc import Iterator

from prx_model.data.manifest import Manifest
from prx_model.experiment import ExperimentConfig
from prx_model.weights import Finding, Need, autoencoder_needs, check_weights, metric_needs, teacher_needs
from sweeps.space import SearchSpace, SpaceError


def weight_findings(space: SearchSpace) -> list[Finding]:
    """Weights of the space's metrics, teachers and autoencoder that are not whole on this machine."""
    return check_weights(list(weight_needs(space)))


def check_weights_at_hand(space: SearchSpace) -> None:
    """Raise SpaceError where weights are missing that a run cannot get by itself: a line for each, and what to do."""
    missing = [finding.line for finding in weight_findings(space) if finding.is_missing]
    if missing:
        raise SpaceError("pretrained weights are missing on this machine:\n" + "\n".join(f"  {it}" for it in missing))


def weight_needs(space: SearchSpace) -> Iterator[Need]:
    """Of the space's metrics, teachers and autoencoder."""
    config = space.baseline_config(space.first_seed)
    for metric in config.evaluation.metrics:
        yield from metric_needs(metric)
    for teacher in space.teachers():
        yield from teacher_needs(teacher)
    manifest = stored_manifest(config)
    if manifest is not None and manifest.latents is not None:
        yield from autoencoder_needs(manifest.latents.autoencoder, manifest.latents.revision)


def stored_manifest(config: ExperimentConfig) -> Manifest | None:
    """What the encoded data set says of itself; None where a run makes its own, or there is none yet."""
    if config.data.source != "store" or config.data.path is None:
        return None
    try:
        return Manifest.read(config.data.path)
    except (ValueError, OSError):  # told in its own words when the data set is opened
        return None
