"""Optuna's study of a sweep's candidates: its sampler's settings, and the study itself, rebuilt from the ledger.

What is suggested is a function of the ledger: of the candidates in the order of their start, of how they have ended,
and of which are under way. A sweep that is killed and started again suggests what it would have suggested, if the same
candidates have ended by then: the sampler is made anew for every candidate, with a seed of its number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sweeps.config import fingerprint
from sweeps.ledger import FAILED, FINISHED, STOPPED, TrialRecord

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial, Trial

    from sweeps.space import Dimension, SearchSpace

TPE, RANDOM = "tpe", "random"


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """How candidates are chosen. It decides which trials there are, and no trial's result.

    name: 'tpe' (Optuna's Tree-structured Parzen estimator) or 'random'. seed: of its chance; null takes the sweep's
    fingerprint. All others are read by 'tpe' only.
    startup: candidates that are drawn at random first; null is a third of the budget, 2 to 10.
    multivariate: settings are modelled together. group: those that always come together are one model; it needs
    multivariate. constant_liar: candidates under way count as bad ones, so that their neighbours are not tried too.
    """

    name: str = TPE
    multivariate: bool = True
    group: bool = False
    constant_liar: bool = True
    seed: int | None = None
    startup: int | None = None

    def __post_init__(self) -> None:
        if self.name not in (TPE, RANDOM):
            raise ValueError(f"name: got {self.name!r}, allowed is {TPE} or {RANDOM}")
        if self.group and not self.multivariate:
            raise ValueError("group: got true, allowed is false where multivariate is false")
        if self.startup is not None and self.startup < 1:
            raise ValueError(f"startup: got {self.startup}, allowed is null or an integer of at least 1")
        defaults = {"multivariate": True, "group": False, "constant_liar": True, "startup": None}
        for name, default in defaults.items():
            if self.name != TPE and getattr(self, name) != default:
                raise ValueError(f"{name}: got {getattr(self, name)}, which is read only with name {TPE}")

    def num_startup(self, num_candidates: int) -> int:
        """A third of a small budget is random; Optuna's own ten would be all of it."""
        return self.startup if self.startup is not None else max(2, min(10, num_candidates // 3))


def sampler_of(space: SearchSpace, number: int) -> BaseSampler:
    """The sampler for the candidate of that number."""
    from optuna.samplers import RandomSampler, TPESampler

    sampler = space.sampler
    source = space.fingerprint if sampler.seed is None else sampler.seed
    seed = int(fingerprint({"sweep": source, "candidate": number})[:8], 16)
    if sampler.name == RANDOM:
        return RandomSampler(seed=seed)
    return TPESampler(
        n_startup_trials=sampler.num_startup(space.budget.candidates),
        multivariate=sampler.multivariate,
        group=sampler.group,
        constant_liar=sampler.constant_liar,
        seed=seed,
    )


def distributions(dimensions: Sequence[Dimension]) -> dict[str, BaseDistribution]:
    """The space in Optuna's terms."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    def of(dimension: Dimension) -> BaseDistribution:
        if dimension.kind == "choice":
            return CategoricalDistribution(dimension.values)
        if dimension.kind == "int":
            return IntDistribution(int(dimension.low), int(dimension.high))
        return FloatDistribution(dimension.low, dimension.high, log=dimension.log)

    return {dimension.path: of(dimension) for dimension in dimensions}


def past_trial(space: SearchSpace, record: TrialRecord) -> FrozenTrial:
    """A candidate that has ended: a finished one is complete, a stopped one pruned, at its last value; a failed one
    failed, and so is one that was stopped by hand: Optuna leaves it out (docs/decisions/0018). Its evaluations are
    intermediate values, by step.
    """
    from optuna.trial import TrialState, create_trial

    values = record.values(space.objective.metric)
    states = {FINISHED: TrialState.COMPLETE, STOPPED: TrialState.PRUNED, FAILED: TrialState.FAIL}
    known = values and not record.stopped_by_hand
    state = states[record.outcome or FAILED] if known else TrialState.FAIL
    return create_trial(
        state=state,
        value=values[record.last_step] if state != TrialState.FAIL else None,
        params=dict(record.start.overrides),
        distributions=distributions(space.dimensions),
        intermediate_values=values,
    )


class Study:
    """candidates: the sweep's own, in the order of their start. earlier: of other sweeps, ended, and comparable."""

    def __init__(
        self, space: SearchSpace, candidates: Sequence[TrialRecord], earlier: Sequence[TrialRecord] = ()
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.space, self.distributions = space, distributions(space.dimensions)
        direction = "minimize" if space.objective.mode == "min" else "maximize"
        self.optuna = optuna.create_study(direction=direction, sampler=sampler_of(space, 0))
        self.open: dict[str, Trial] = {}  # by trial of the sweep
        for record in earlier:
            self.optuna.add_trial(past_trial(space, record))
        for record in candidates:
            if record.end is None:
                self.optuna.enqueue_trial(dict(record.start.overrides))  # handed out again, in this order
            else:
                self.optuna.add_trial(past_trial(space, record))
        tried = [dict(record.start.overrides) for record in candidates]
        for point in space.points:
            if dict(point) not in tried:
                self.optuna.enqueue_trial(dict(point))

    def suggest(self, trial: str, number: int) -> Mapping[str, Any]:
        """The settings of the sweep's candidate `trial`, the `number`th; those of unfinished candidates come first."""
        self.optuna.sampler = sampler_of(self.space, number)
        asked = self.optuna.ask(self.distributions)
        self.open[trial] = asked
        return dict(asked.params)

    def report(self, record: TrialRecord) -> None:
        """Tell every evaluation that the study does not know."""
        asked = self.open.get(record.trial)
        if asked is None:
            return
        known = self.optuna.trials[asked.number].intermediate_values
        for step, value in record.values(self.space.objective.metric).items():
            if step not in known:
                asked.report(value, step)

    def tell(self, trial: str, record: TrialRecord | None) -> None:
        """Tell the end of a candidate, as `past_trial` does. One that the ledger has no end of has failed."""
        from optuna.trial import TrialState

        asked = self.open.pop(trial, None)
        if asked is None:
            return
        values = record.values(self.space.objective.metric) if record is not None else {}
        outcome = record.outcome if record is not None and values else None
        if record is not None and outcome == FINISHED:
            self.optuna.tell(asked, values[record.last_step])
        else:  # Optuna takes a pruned trial at the last value that was reported.
            by_rule = record is not None and outcome == STOPPED and not record.stopped_by_hand
            self.optuna.tell(asked, state=TrialState.PRUNED if by_rule else TrialState.FAIL)
