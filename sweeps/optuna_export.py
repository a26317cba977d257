"""A sweep as an Optuna storage that optuna-dashboard opens: made from the ledger, at any time.

Two studies. The first, under the name of the sweep's folder, has its candidates, as Optuna chose them: finished ones
are COMPLETE, stopped ones PRUNED, failed ones FAIL, those under way RUNNING, each with its evaluations as intermediate
values, and its metrics, seed and reason as user attributes. The second, '... seeds', has the runs that Optuna did not
choose: the baseline's seeds, and the candidates' runs with other seeds.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sweeps.findings import interval
from sweeps.ledger import FAILED, FINISHED, STOPPED, Ledger, TrialRecord
from sweeps.provenance import read_starts
from sweeps.space import SearchSpace
from sweeps.storage import SweepPaths
from sweeps.study import distributions
from sweeps.summary import Summary, TrialSummary, summary_of
from sweeps.usage import HOUR_S

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

EXPORTED_BY = ("exported_by", "prx-sweeps")
JOURNALS = (".log", ".journal", ".jsonl")
TOLD_OF_START = ("command", "commit", "dirty", "hardware", "python", "packages", "time")


def export_study(space: SearchSpace, paths: SweepPaths, address: str) -> list[str]:
    """Write both studies, in place of those of an earlier export. Returns their names.

    address: a file (SQLite; one that ends with .log, .journal or .jsonl is a journal), or a URL such as
    sqlite:///study.db. Raises ValueError where a study of that name is somebody else's.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = _storage(address)
    ledger = Ledger(paths)
    records = ledger.records()
    summary = summary_of(space, records)
    named = {trial.name: trial for trial in summary.trials}
    chosen = [record for record in records if record.is_candidate]
    others = [record for record in records if not record.is_candidate]
    study = _new_study(storage, paths.root.name, summary)
    for name, value in _study_attributes(space, paths, summary).items():
        study.set_user_attr(name, value)
    of_space = distributions(space.dimensions)
    study.add_trials([_trial(space, r, r.start.overrides, of_space, _attributes(summary, named, r)) for r in chosen])
    seeds = _new_study(storage, f"{paths.root.name} seeds", summary)
    if others:
        of_seeds = _of_seeds(others)
        params = [{"run": r.start.confirms or r.start.role, "seed": r.start.seed} for r in others]
        seeds.add_trials(
            [
                _trial(space, record, own, of_seeds, _attributes(summary, named, record))
                for record, own in zip(others, params, strict=True)
            ]
        )
    return [study.study_name, seeds.study_name]


def _storage(address: str) -> BaseStorage | str:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    if address.endswith(JOURNALS):
        return JournalStorage(JournalFileBackend(address))
    return address if "://" in address else f"sqlite:///{address}"


def _new_study(storage: BaseStorage | str, name: str, summary: Summary) -> Study:
    """An empty study; one that an earlier export has made goes away."""
    import optuna

    direction = "minimize" if summary.mode == "min" else "maximize"
    study = optuna.create_study(storage=storage, study_name=name, direction=direction, load_if_exists=True)
    key, own = EXPORTED_BY
    if study.user_attrs.get(key) == own:
        optuna.delete_study(study_name=name, storage=storage)
        study = optuna.create_study(storage=storage, study_name=name, direction=direction)
    elif study.trials or study.user_attrs:
        raise ValueError(f"it holds a study {name!r} that this command has not made; allowed is another storage")
    study.set_user_attr(key, own)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names([summary.metric])
    return study


def _of_seeds(records: Sequence[TrialRecord]) -> dict[str, BaseDistribution]:
    from optuna.distributions import CategoricalDistribution, IntDistribution

    runs = list(dict.fromkeys(record.start.confirms or record.start.role for record in records))
    seeds = [record.start.seed for record in records]
    return {"run": CategoricalDistribution(runs), "seed": IntDistribution(min(seeds), max(seeds))}


def _trial(
    space: SearchSpace,
    record: TrialRecord,
    params: Mapping[str, Any],
    known: Mapping[str, BaseDistribution],
    attributes: Mapping[str, Any],
) -> FrozenTrial:
    from optuna.trial import TrialState, create_trial

    values = record.values(space.objective.metric)
    ended = {FINISHED: TrialState.COMPLETE, STOPPED: TrialState.PRUNED, FAILED: TrialState.FAIL}
    state = TrialState.RUNNING if record.outcome is None else ended[record.outcome]
    if record.outcome is not None and record.last_step not in values:
        state = TrialState.FAIL
    trial = create_trial(
        state=state,
        value=values[record.last_step] if state in (TrialState.COMPLETE, TrialState.PRUNED) else None,
        params=dict(params),
        distributions=dict(known),
        intermediate_values=values,
        user_attrs=dict(attributes),
    )
    trial.datetime_start = datetime.fromtimestamp(record.start.time)
    if record.end is not None:
        trial.datetime_complete = datetime.fromtimestamp(record.end.time)
    return trial


def _attributes(summary: Summary, named: Mapping[str, TrialSummary], record: TrialRecord) -> dict[str, Any]:
    """What is known of a trial beside its settings and its curve; only what there is."""
    trial = named[record.trial]
    last = record.evaluations[-1] if record.evaluations else None
    reading = trial.readings.get(summary.metric)
    told: dict[str, Any] = {
        "trial": record.trial,
        "role": trial.role,
        "seed": trial.seed,
        "outcome": trial.outcome,
        "reason": trial.reason,
        "steps": f"{trial.step}/{trial.num_steps}",
        "reused_from": trial.reused_from,
        "fingerprint": record.start.fingerprint,
        "log": trial.log,
        **(last.metrics if last else {}),
        "num_samples": last.num_samples if last else None,
        "images_per_s": last.images_per_s if last else None,
        "difference_percent": reading.percent if reading else None,
        "gap_spreads": reading.gap if reading else None,
        "gpu_hours": trial.usage.gpu_s / HOUR_S or None,
        "cpu_hours": trial.usage.cpu_s / HOUR_S or None,
        "audited": True if trial.audit is not None else None,
        **_confirmation(summary, trial.name),
    }
    return {name: value for name, value in told.items() if value not in (None, "")}


def _confirmation(summary: Summary, trial: str) -> dict[str, Any]:
    tested = next((one for one in summary.confirmed if one.trial == trial and one.objective is not None), None)
    if tested is None or tested.objective is None:
        return {}
    found = tested.objective
    return {
        "confirmed_seeds": list(tested.seeds),
        "confirmed_mean": tested.means[summary.metric],
        "confirmed_difference_percent": found.percent,
        "confirmed_interval": interval(found),
    }


def _study_attributes(space: SearchSpace, paths: SweepPaths, summary: Summary) -> dict[str, Any]:
    """The question and its answer, what candidates are compared with, and what made all of it."""
    baseline = {
        metric: {
            "mean": points[-1].mean,
            "spread_percent": None if points[-1].spread is None else 100 * points[-1].spread,
            "seeds": points[-1].seeds,
            "step": points[-1].step,
        }
        for metric, points in summary.baseline.items()
        if points
    }
    start = (read_starts(paths.starts) or [{}])[-1]
    return {
        "question": space.question,
        "answer": summary.answer,
        "objective": f"{space.objective.metric} ({space.objective.mode})",
        "profile": space.profile,
        "baseline": baseline,
        "best": summary.best.trial if summary.best else None,
        "results": str(paths.root),
        "started": {name: start[name] for name in TOLD_OF_START if name in start},
    }
