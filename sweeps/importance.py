"""How much each searched setting matters for being among the best candidates: Optuna's PED-ANOVA.

It compares where the best candidates lie with where all of them do, setting by setting, and so reads nothing of a value
but whether it is among the best. A stopped candidate has no value at the last step, but it is known not to be among the
best: it counts as worse than every finished one. Left out, a setting that ruins candidates would look as if it had
never been tried. Failed ones, and those that a person has stopped, say nothing of that: they are left out.

Shares add up to 1 even where nothing matters. What chance does is told too: in how many of 100 shuffles of the values
among the candidates a setting's importance, before it is made a share, is as large.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sweeps.ledger import FINISHED, TrialRecord
from sweeps.study import distributions

if TYPE_CHECKING:
    from optuna.study import Study

    from sweeps.space import SearchSpace

FEWEST = 5  # finished candidates; below, the best of them are one or two
TOP, MOST_TOP, BEST = 0.25, 0.5, 5  # the best are a quarter, or five as PED-ANOVA's authors advise, but at most a half
SHUFFLES = 100


@dataclass(frozen=True, kw_only=True)
class Importance:
    """By path of the setting, the largest share first.

    by_chance: of SHUFFLES, how many make the setting as important. num_best: candidates that count as the best.
    """

    shares: Mapping[str, float]
    by_chance: Mapping[str, int]
    num_finished: int
    num_stopped: int
    num_best: int


def importance_of(space: SearchSpace, records: Sequence[TrialRecord]) -> Importance | None:
    """Of candidates, this sweep's and those that it began with; None where too few have finished."""
    import numpy as np

    metric, sign = space.objective.metric, 1 if space.objective.mode == "min" else -1
    candidates = [record for record in records if record.is_candidate]
    finished = [record for record in candidates if record.outcome == FINISHED and record.values(metric)]
    stopped = [record for record in candidates if record.stopped_by_rule]
    if len(finished) < FEWEST or len(space.dimensions) < 2:
        return None
    values = [sign * record.values(metric)[record.last_step] for record in finished]
    values += [max(values) + 1] * len(stopped)
    settings = [dict(record.start.overrides) for record in [*finished, *stopped]]
    share = min(MOST_TOP, max(TOP, BEST / len(values)), len(finished) / len(values))
    study = _study(space, settings, values)
    found = _importances(study, values, share)
    rng, total = np.random.default_rng(0), sum(found.values())
    shuffled = [_importances(study, list(rng.permutation(values)), share) for _ in range(SHUFFLES)]
    return Importance(
        shares={path: value / total if total else 0.0 for path, value in found.items()},
        by_chance={path: sum(one[path] >= value for one in shuffled) for path, value in found.items()},
        num_finished=len(finished),
        num_stopped=len(stopped),
        num_best=int(np.ceil(share * len(values))),
    )


def _study(space: SearchSpace, settings: Sequence[Mapping[str, object]], values: Sequence[float]) -> Study:
    """Trials by their number. Optuna copies each as it is added, which is what takes long of a thousand."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="minimize")
    ranges = distributions(space.dimensions)
    study.add_trials(
        optuna.trial.create_trial(value=float(value), params=dict(params), distributions=ranges)
        for params, value in zip(settings, values, strict=True)
    )
    return study


def _importances(study: Study, values: Sequence[float], share: float) -> dict[str, float]:
    """Path -> importance for these values of the study's trials, the largest first. Smaller values are better."""
    import optuna

    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=share)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", message=".*`target`.*")  # that smaller is taken for better, which it is
        told = optuna.importance.get_param_importances(
            study, evaluator=evaluator, target=lambda trial: float(values[trial.number]), normalize=False
        )
    return dict(told)
