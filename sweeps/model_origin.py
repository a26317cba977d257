"""Where a trial's model comes from, by the ledger: what its model card tells beside data and settings."""

from __future__ import annotations

from prx_model.model_card import Measured, Origin
from sweeps.findings import interval
from sweeps.ledger import Ledger
from sweeps.provenance import read_starts
from sweeps.space import SearchSpace
from sweeps.storage import SweepPaths
from sweeps.summary import Summary, TrialSummary, summarise
from sweeps.wording import count, gap_in_words, signed_percent

TOLD_VERSIONS = ("torch", "diffusers", "transformers", "ray", "optuna")


def origin_of(space: SearchSpace, paths: SweepPaths, trial: str) -> Origin:
    """Of a trial that the ledger knows, as the sweep stands now."""
    summary = summarise(space, Ledger(paths))
    own = next(one for one in summary.trials if one.name == trial)
    start = (read_starts(paths.starts) or [{}])[-1]
    changed = " (with changes)" if start.get("dirty") else ""
    return Origin(
        name=f"{paths.root.name} {trial}",
        question=space.question,
        answer=summary.answer if summary.best is not None and summary.best.trial == trial else "",
        chosen=dict(own.overrides),
        metrics=tuple(_measured(summary, own, metric) for metric in summary.metrics if metric in own.readings),
        command=str(start.get("command", "")),
        commit=f"{start['commit']}{changed}" if "commit" in start else "",
        versions={name: start["packages"].get(name, "") for name in TOLD_VERSIONS} if "packages" in start else {},
        hardware=str(start.get("hardware", "")),
    )


def _measured(summary: Summary, trial: TrialSummary, metric: str) -> Measured:
    reading, points = trial.readings[metric], summary.baseline[metric]
    point = next((point for point in points if point.step == reading.step), None)
    tested = next((one for one in summary.confirmed if one.trial == trial.name), None)
    against = tested.differences.get(metric) if tested else None
    if against is not None:
        told = [signed_percent(against.percent), interval(against), count(against.fresh, "fresh seed")]
    else:
        told = [
            signed_percent(reading.percent) if reading.percent is not None else "",
            gap_in_words(reading.gap) if reading.gap is not None else "",
            "one seed" if reading.percent is not None else "",
        ]
    return Measured(
        metric=metric,
        value=reading.value,
        num_samples=reading.estimate.num_samples,
        mean=tested.means.get(metric) if tested else None,
        seeds=tested.seeds if tested else (),
        baseline=point.mean if point and not trial.is_baseline else None,
        baseline_seeds=point.seeds if point else 0,
        difference=", ".join(filter(None, told)),
    )
