"""What would run, and how long it takes: printed before a sweep starts, or instead of it (--plan)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from rich.console import Console

from prx_model.batch import Batch
from prx_model.compiled import NEVER
from prx_model.experiment import ExperimentConfig
from prx_model.flow import draw
from prx_model.metrics.samples import nested_counts
from prx_model.model import PRX, count_parameters
from prx_model.objective import TrainingObjective
from prx_model.sampling import sample
from prx_model.training.config import ADAMW, MUON
from prx_model.training.loop import optimizer_step
from prx_model.training.state import TrainState
from sweeps.agenda import baseline_name, num_open
from sweeps.config import listing
from sweeps.ledger import Ledger, TrialRecord
from sweeps.node_types import autoscaler_config, held_on, offer_of
from sweeps.preflight import stored_manifest, weight_findings
from sweeps.reuse import Found, lines
from sweeps.rule import ADAPTIVE
from sweeps.space import SearchSpace, flattered_metrics
from sweeps.storage import SweepPaths
from sweeps.study import RANDOM
from sweeps.usage import HOUR_S, limits, usage_of, used_up
from sweeps.warm_start import read_earlier
from sweeps.wording import count, duration

SLOT_START_S = 15  # processes and imports of a slot under Ray Train; all its trials share it (docs/benchmarks/)
MEASURABLE_PARAMETERS = 50_000_000  # above this, a timing step in the driver is no quick look any more


def print_plan(console: Console, space: SearchSpace, paths: SweepPaths, found: Found) -> None:
    """Print profile, model, data, trials, steps, stopping rule, estimated time and place of results."""
    config = space.baseline_config(space.first_seed)
    flattered = flattered_metrics(space)
    records = Ledger(paths).records() if paths.ledger.is_dir() else []
    known = {record.trial for record in records}
    reused = sum(baseline_name(one.seed) not in known for one in found.reusable)
    remaining = num_open(space, records) - reused
    measured = seconds_per_trial(config) if remaining else None
    rows = [
        ("Question", space.question or "none given"),
        ("Model", _model_line(space, config)),
        ("Data", _data_line(config)),
        ("Training", _training_line(config)),
        ("Evaluation", _evaluation_line(space, config)),
        ("Trials", _trials_line(space)),
        *[("Baseline", line) for line in lines(found, records)],
        *[("Searched" if i == 0 else "", f"{d.path}: {d}") for i, d in enumerate(space.dimensions)],
        ("Chosen by", _sampler_line(space)),
        *[("Warm start", line) for line in read_earlier(space, paths).lines],
        ("Stopping", _stopping_line(space)),
        ("Confirming", _confirming_line(space)),
        *[
            ("Note", f"{m} is scored by the network that teacher {t} is: it flatters that teacher")
            for m, t in flattered
        ],
        *[("Weights", finding.line) for finding in weight_findings(space)],
        ("Time", estimate(space, measured, remaining)),
        ("Cost", costs_line(space, measured, remaining)),
        *[("Budget", line) for line in budget_lines(space, records)],
        ("Results", str(paths.root)),
    ]
    for name, text in rows:
        console.print(f"{name:<10} {text}", highlight=False, markup=False)


def _model_line(space: SearchSpace, config: ExperimentConfig) -> str:
    model, side = config.model, config.data.resolution
    count = count_parameters(model)
    name = "PRX-1.2B" if count == 1_170_691_648 else f"PRX-{count / 1e6:.1f}M"
    shape = f"hidden {model.hidden_size}, {model.depth} blocks, {model.num_heads} heads"
    return f"{name} with {count:,} parameters ({shape}), {side} px"


def _data_line(config: ExperimentConfig) -> str:
    data = config.data
    side = f"{data.resolution}x{data.resolution}"
    if data.source != "store":
        return f"{data.source} at {side}, {data.num_heldout:,} images held out"
    manifest = stored_manifest(config)
    if manifest is None:
        return f"no encoded data set at {data.path} yet: prx-sweeps encode SOURCE --to {data.path}"
    space = "pixels" if manifest.latents is None else f"latents of {manifest.latents.autoencoder}"
    return (
        f"{manifest.source.name} at {side} from {data.path}: {manifest.counts['train']:,} images as {space}, "
        f"captions as states of {manifest.text_encoder.name}; {data.num_heldout:,} held out"
    )


def _training_line(config: ExperimentConfig) -> str:
    t = config.training
    averaged = "raw weights" if t.ema_decay is None else f"EMA {t.ema_decay:g}"
    optimizer = {ADAMW: "AdamW", MUON: "Muon"}[t.optimizer]
    return (
        f"{t.steps:,} steps of batch {t.batch_size}, {optimizer} lr {t.learning_rate:g} ({t.schedule}), {t.precision}, "
        f"{averaged} scored"
    )


def _evaluation_line(space: SearchSpace, config: ExperimentConfig) -> str:
    e = config.evaluation
    looks = len(config.training.evaluation_steps())
    metrics = ", ".join(m + (" (objective)" if m == space.objective.metric else "") for m in e.metrics)
    fewer = nested_counts(e.num_samples, e.batch_size, e.nested)[:-1] if space.stop.evaluation == ADAPTIVE else ()
    first = f" (candidates: {listing(f'{n:,}' for n in fewer)} first)" if fewer else ""
    return (
        f"{looks} a trial: {metrics}; n = {e.num_samples:,} samples{first}, {e.sampler.steps} Euler steps, "
        f"guidance {e.sampler.guidance:g}"
    )


def _trials_line(space: SearchSpace) -> str:
    budget, resources = space.budget, space.resources
    gpus = f" + {resources.workers * resources.gpus_per_worker:g} GPUs" if resources.gpus_per_worker else ""
    return (
        f"{budget.baseline_seeds} baseline seeds and {budget.candidates} candidates, "
        f"up to {resources.concurrent_trials} at a time, "
        f"each on {resources.workers * resources.cpus_per_worker:g} CPUs{gpus}"
    )


def _stopping_line(space: SearchSpace) -> str:
    stop, halving = space.stop, ""
    if stop.halving is not None:
        halving = (
            f"; from {stop.halving.start:.0%} of the run on, {stop.halving.keep:.0%} of the others go on with each "
            "doubling of the step (halving)"
        )
    return (
        f"{stop.patience} evaluations in a row more than {stop.margin:g} spreads worse than the baseline, "
        f"after {stop.grace:.0%} of the run, once {stop.min_seeds} of its seeds have come there{halving}; "
        f"{stop.audit:.0%} of those go on, as an audit"
    )


def _sampler_line(space: SearchSpace) -> str:
    sampler, points = space.sampler, len(space.points)
    first = f", after {count(points, 'point')} to try first" if points else ""
    seed = "" if sampler.seed is None else f", seed {sampler.seed}"
    if sampler.name == RANDOM:
        return f"chance{first}{seed}"
    kinds = [name for name in ("multivariate", "group", "constant_liar") if getattr(sampler, name)]
    startup = sampler.num_startup(space.budget.candidates)
    return f"Optuna's TPE ({listing(kinds) or 'univariate'}), by chance until {startup} have ended{first}{seed}"


def _confirming_line(space: SearchSpace) -> str:
    seeds = space.fresh_seeds
    if not space.confirm.best:
        return "off: the winner will be the best of many on one seed"
    best = min(space.confirm.best, space.budget.candidates)
    which = "the best candidate" if best == 1 else f"the best {best} candidates"
    return f"{which} again with seed{'s' * (len(seeds) > 1)} {listing(seeds)}, when all have ended"


def estimate(space: SearchSpace, measured: float | None, remaining: int) -> str:
    """The time of the trials that are still open, by what a step takes here. measured: seconds of a trial."""
    if not remaining:
        return "nothing is left to run"
    if measured is None:
        steps = space.baseline_config(space.first_seed).training.steps
        published = steps / 3.5  # PRX ablations, REPA runs: 3.46 to 3.66 batches of 256 a second on their cluster
        return (
            f"not measurable on this machine; at the PRX ablations' published 3.5 steps a second "
            f"{duration(published)} of training a trial, {remaining} trials"
        )
    at_a_time = min(space.resources.concurrent_trials, remaining)
    waves = -(-remaining // at_a_time)
    whole = waves * measured + SLOT_START_S
    return f"about {duration(measured)} a trial, {duration(whole)} for {remaining} trials if none is stopped early"


def costs_line(space: SearchSpace, measured: float | None, remaining: int) -> str:
    """What a trial holds, what that costs on the node types that hold it, and, where a trial was timed, all of them."""
    held = space.resources
    gpus, cpus = held.workers * held.gpus_per_worker, held.workers * held.cpus_per_worker
    types = [one for one in offer_of((), autoscaler_config()).for_trials(held) if one.usd_per_hour]
    prices = [
        f"${rate.usd_per_hour:,.2f} on {one.name}"
        for one in types
        for rate in [held_on(one, held)]
        if rate.usd_per_hour is not None
    ]
    what = f"{gpus:g} GPU-hours" if gpus else f"{cpus:g} CPU-hours"
    price = (
        f", or {' or '.join(prices)}" if prices else "; node types tell no price (label usd-per-hour)" if gpus else ""
    )
    whole = ""
    if measured is not None and remaining and not gpus:
        whole = f"; about {remaining * measured * cpus / HOUR_S:.2g} CPU-hours for {remaining} trials"
    return f"an hour of a trial is {what}{price}{whole}"


def budget_lines(space: SearchSpace, records: Sequence[TrialRecord]) -> list[str]:
    """A line for every limit, and one where a limit is reached."""
    usage = usage_of(records)
    lines = [
        f"{used:.3g} of {most:g} {unit} used; at {most:g} no trial is started any more (budget.{name})"
        for name, used, most, unit in limits(space.budget, usage)
    ]
    return [*lines, *filter(None, [used_up(space.budget, usage)])]


def seconds_per_trial(config: ExperimentConfig) -> float | None:
    """One trial's training and sampling, from the time of two steps and one batch of samples; None if too large."""
    if count_parameters(config.model) > MEASURABLE_PARAMETERS:
        return None
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        step_s, sample_s = _time_step(config), _time_sample(config)
    finally:
        torch.set_num_threads(threads)
    looks = len(config.training.evaluation_steps())
    return config.training.steps * step_s + looks * config.evaluation.num_samples * sample_s


def _random_batch(config: ExperimentConfig, count: int) -> Batch:
    side, length = config.data.resolution, config.data.max_text_tokens
    return Batch(
        clean=torch.zeros(count, config.model.in_channels, side, side),
        text=torch.zeros(count, length, config.model.context_in_dim),
        text_mask=torch.ones(count, length, dtype=torch.bool),
        index=torch.arange(count),
    )


def _time_step(config: ExperimentConfig) -> float:
    batch = _random_batch(config, config.training.batch_size)
    training = replace(config.training, compile=NEVER)  # it takes longer than it gains in three steps
    with torch.random.fork_rng(devices=[]):
        objective = TrainingObjective(PRX(config.model), torch.zeros(1, config.model.context_in_dim))
    state = TrainState(objective, training)
    times = []
    for _ in range(3):
        started = time.perf_counter()
        draws = draw(
            batch.clean.shape,
            training.timesteps,
            caption_dropout=training.caption_dropout,
            seed=0,
            step=state.step,
        )
        optimizer_step(state, objective(batch, draws).total, training)
        times.append(time.perf_counter() - started)
    return min(times)


def _time_sample(config: ExperimentConfig) -> float:
    count = min(16, config.evaluation.num_samples)
    batch = _random_batch(config, count)
    with torch.random.fork_rng(devices=[]):
        model = PRX(config.model)
    null_text = torch.zeros(1, config.model.context_in_dim)
    started = time.perf_counter()
    sample(model, batch.clean, batch.text, batch.text_mask, null_text=null_text, config=config.evaluation.sampler)
    return (time.perf_counter() - started) / count
