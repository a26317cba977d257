"""The model card of an exported pipeline: what the model hub reads of its README.md, and what people read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prx_model.data.manifest import SourceCard
    from prx_model.experiment_config import ExperimentConfig

TASK = "text-to-image"
# The hub's names of licences that data sets for this come under; any other is 'other', with its own name beside it.
HUB_LICENCES = (
    "apache-2.0",
    "cc-by-2.0",
    "cc-by-3.0",
    "cc-by-4.0",
    "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0",
    "cc-by-sa-3.0",
    "cc-by-sa-4.0",
    "cc0-1.0",
    "mit",
    "odc-by",
    "openrail",
)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A metric of the exported weights, on `num_samples` samples.

    mean, seeds: over the runs of the same settings with other seeds, itself included. baseline, baseline_seeds: mean of
    the baseline, and of how many seeds. difference: to the baseline, in words, with its interval where there is one.
    """

    metric: str
    value: float
    num_samples: int
    mean: float | None = None
    seeds: tuple[int, ...] = ()
    baseline: float | None = None
    baseline_seeds: int = 0
    difference: str = ""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """How a model came about, as its card tells it.

    name: of the model. question, answer: of the comparison that it comes from. chosen: settings that were searched.
    command: that made it, and commit, versions and hardware that it ran with.
    """

    name: str
    question: str = ""
    answer: str = ""
    chosen: Mapping[str, Any] = field(default_factory=dict)
    metrics: tuple[Measured, ...] = ()
    command: str = ""
    commit: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    hardware: str = ""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a model was trained on, with which settings; origin: None where nobody tells more."""

    source: SourceCard
    fingerprint: str  # of the data set
    num_images: int
    config: ExperimentConfig
    num_parameters: int
    origin: Origin | None = None

    @property
    def name(self) -> str:
        return self.origin.name if self.origin else "prx"


def front_matter(trained: Trained) -> str:
    """The YAML between two lines of dashes that the hub reads: licence, tags, data, metrics."""
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type=TASK,
            dataset_type=slug(trained.source.name),
            dataset_name=f"{trained.source.name}, held-out captions",
            dataset_revision=trained.fingerprint,
            metric_type=measured.metric,
            metric_name=measured.metric,
            metric_value=measured.value,
            metric_args=_arguments(measured, trained.config.seed),
        )
        for measured in (trained.origin.metrics if trained.origin else ())
    ]
    data = ModelCardData(
        library_name="diffusers",
        pipeline_tag=TASK,
        tags=[TASK, "prx", "flow-matching", "diffusion", *(["repa"] if trained.config.repa else [])],
        datasets=[slug(trained.source.name)],
        model_name=trained.name,
        eval_results=results or None,
        **hub_licence(trained.source.licence),
    )
    return f"---\n{data.to_yaml()}\n---\n"


def hub_licence(licence: str) -> dict[str, Any]:
    """The data's licence in the hub's terms: what weights were made of, they are passed on under."""
    if not licence:
        return {"license": "unknown"}
    short = licence.strip().lower().replace(" ", "-")
    known = {"cc0": "cc0-1.0", "public-domain": "cc0-1.0"}.get(short, short)
    return {"license": known} if known in HUB_LICENCES else {"license": "other", "license_name": slug(licence)}


def sections(trained: Trained) -> str:
    """What people read below the lines that run: data, settings, metrics, licence, and how it was made."""
    origin = trained.origin
    parts = [_answer(origin) if origin else "", _data(trained), _settings(trained)]
    if origin and origin.metrics:
        parts.append(_metrics(origin.metrics, trained.config.seed))
    parts += [_licence(trained.source), _made(origin) if origin and origin.command else ""]
    return "\n\n".join(filter(None, parts))


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-") or "unnamed"


def _arguments(measured: Measured, seed: int) -> dict[str, Any]:
    told: dict[str, Any] = {"num_samples": measured.num_samples, "seed": seed}
    if len(measured.seeds) > 1:
        told |= {"mean_over_seeds": measured.mean, "seeds": list(measured.seeds)}
    if measured.baseline is not None:
        told |= {"baseline_mean": measured.baseline, "baseline_seeds": measured.baseline_seeds}
    return told | ({"difference_to_baseline": measured.difference} if measured.difference else {})


def _answer(origin: Origin) -> str:
    asked = f"The question was: {origin.question}" if origin.question else ""
    return "\n\n".join(filter(None, ["## What it is", f"`{origin.name}`. {asked}".strip(), origin.answer]))


def _data(trained: Trained) -> str:
    source = trained.source
    version = f" ({source.package} {source.package_version})" if source.package else ""
    return (
        f"## Trained on\n\n{source.name or 'a data set without a name'}{version}: {trained.num_images:,} images with "
        f"captions at {trained.config.data.resolution}x{trained.config.data.resolution}. Fingerprint of the encoded "
        f"data set: `{trained.fingerprint}`."
    )


def _settings(trained: Trained) -> str:
    config, origin = trained.config, trained.origin
    training, repa = config.training, config.repa
    rows = {
        "parameters": f"{trained.num_parameters:,} in {config.model.depth} blocks of width {config.model.hidden_size}",
        "steps": f"{training.steps:,} of batch {training.batch_size}",
        "learning rate": f"{training.learning_rate:g}, {training.optimizer}",
        "weights": f"average with decay {training.ema_decay:g}" if training.ema_decay else "of the last step",
        "precision": training.precision,
        "REPA": f"{repa.teacher} at depth {repa.depth}, weight {repa.weight:g}" if repa else "none",
        "seed": str(config.seed),
    }
    rows |= {f"`{path}` (searched)": _shown(value) for path, value in (origin.chosen if origin else {}).items()}
    return f"## Settings\n\n{_table(['setting', 'value'], rows.items())}\n\nAll of them are in `experiment.json`."


def _metrics(metrics: tuple[Measured, ...], seed: int) -> str:
    rows = [
        (
            f"`{m.metric}`",
            f"{m.value:.4g}",
            f"{m.num_samples:,}",
            f"{m.mean:.4g} ({', '.join(map(str, m.seeds))})" if m.mean is not None and len(m.seeds) > 1 else "-",
            f"{m.baseline:.4g} ({m.baseline_seeds})" if m.baseline is not None else "-",
            m.difference or "-",
        )
        for m in metrics
    ]
    head = [
        "metric",
        f"these weights (seed {seed})",
        "n",
        "mean over seeds (which)",
        "baseline's mean (of so many)",
        "difference",
    ]
    return (
        f"## Metrics\n\n{_table(head, rows)}\n\nn is the number of samples, made from held-out captions. Metrics are "
        "named as what they are: only `fid`, `cmmd` and `dino_mmd` are the published ones."
    )


def _licence(source: SourceCard) -> str:
    licence = source.licence or "not known"
    owner = f" {source.attribution}" if source.attribution else ""
    return (
        f"## Licence\n\nLicence of the data: {licence}.{owner} The card passes it on to the weights, to be on the safe "
        "side; whoever publishes them decides. The text encoder and the autoencoder have licences of their own."
    )


def _made(origin: Origin) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in origin.versions.items() if version)
    told = [f"Commit `{origin.commit}`" if origin.commit else "", versions, origin.hardware]
    return f"## How it was made\n\n```sh\n{origin.command}\n```\n\n{'. '.join(filter(None, told))}."


def _table(head: list[str], rows: Any) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
