"""How long a trial waits for its first optimizer step: stock Ray recipe, warm slots, and a bare Python process.

    python benchmarks/trial_start.py --cache cache --out start.json

Every way trains the same trials of a profile (the real model, data, teacher and metric, two steps each), one at a time,
in one run on one Ray. What is told is the time from the moment when Tune asks for the trial (for the bare process:
when it is started) until all is open and the first optimizer step begins.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ray import tune
from ray.tune.search import Searcher

from prx_model.experiment import prepare
from sweeps import cluster
from sweeps.config import fingerprint, override, to_plain
from sweeps.ledger import CANDIDATE, Ledger, Start
from sweeps.provenance import provenance
from sweeps.slots import open_slots
from sweeps.space import Resources, SearchSpace
from sweeps.space_file import load_space
from sweeps.storage import SweepPaths
from sweeps.task import Task

SHORT = {"training.steps": 2, "training.eval_every_steps": 2, "evaluation.sampler.steps": 1}
BARE = "bare process"


def short_trials(space: SearchSpace, paths: SweepPaths, cache: Path, count: int) -> list[Task]:
    """Candidates over the whole space, as a sweep would hand them to its slots."""
    ends = space.end_candidates()
    short = {**SHORT, "evaluation.num_samples": 2 * space.base["evaluation"]["batch_size"]}
    return [
        Task(
            trial=f"candidate-{i:03d}",
            role=CANDIDATE,
            config=override(to_plain(ends[i % len(ends)]), short),
            root=str(paths.root),
            cache=str(cache),
            metric=space.objective.metric,
            mode="min",
            stop=to_plain(space.stop),
            num_threads=1,
        )
        for i in range(count)
    ]


class Stamped(Searcher):
    """Hands out trials in order and writes their start row, with the time, when Tune asks."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        super().__init__(metric=tasks[0].metric, mode="min")
        self.tasks, self.ledger = list(tasks), Ledger(SweepPaths(Path(tasks[0].root)))

    def suggest(self, trial_id: str) -> Any:
        if not self.tasks:
            return Searcher.FINISHED
        task = self.tasks.pop(0)
        print_of, steps = fingerprint(task.config), task.config["training"]["steps"]
        row = Start(trial=task.trial, role=task.role, seed=0, overrides={}, fingerprint=print_of, num_steps=steps)
        self.ledger.append(row)
        return {"task": task.plain()}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing to learn."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to keep."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing was kept."""


def stock_trial(config: Mapping[str, Any]) -> None:
    """Ray's documented recipe: a Tune function that fits a TorchTrainer of its own."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    task = config["task"]
    TorchTrainer(
        stock_loop,
        train_loop_config=task,
        scaling_config=ScalingConfig(num_workers=1),
        run_config=RunConfig(
            name=task["trial"], storage_path=str(Path(task["root"]) / "ray"), callbacks=[TuneReportCallback()]
        ),
    ).fit()


def stock_loop(task: dict[str, Any]) -> None:
    import torch
    from ray import train

    from prx_model.kept import Kept
    from sweeps.worker import Place, train_trial

    torch.set_num_threads(task["num_threads"])
    for row in train_trial(Task(**task), Place(device=torch.device("cpu")), Kept()):
        train.report({**row.metrics, "step": row.step})


def slot_trial(desk: str) -> Any:
    def trial(config: Mapping[str, Any]) -> None:
        from sweeps.trial import run_trial

        run_trial({"task": config["task"], "desk": desk})

    return trial


def run_under_tune(tasks: Sequence[Task], address: str, workers: int | None) -> list[float]:
    """Seconds to the first step of each trial; workers None is the stock recipe."""
    paths = SweepPaths(Path(tasks[0].root))
    paths.create()
    resources = Resources(workers=workers or 1, concurrent_trials=1)
    slots = (
        open_slots(paths, Path(tasks[0].cache), resources, address, most=1, waiting=1) if workers else nullcontext("")
    )
    with slots as desk:
        trainable = slot_trial(desk) if workers else stock_trial
        results = tune.Tuner(
            tune.with_resources(trainable, cluster.driver_resources()),
            tune_config=tune.TuneConfig(
                search_alg=Stamped(tasks),
                num_samples=len(tasks),
                reuse_actors=bool(workers),  # the recipe has it off
                max_concurrent_trials=1,
            ),
            run_config=tune.RunConfig(name="start", storage_path=str(paths.tune), verbose=0, callbacks=[]),
        ).fit()
    assert not results.errors, results.errors
    return [_seconds_to_first_step(Ledger(paths), task.trial) for task in tasks]


def _seconds_to_first_step(ledger: Ledger, trial: str) -> float:
    record = ledger.record(trial)
    assert record is not None, trial
    row = record.evaluations[0]
    return row.time - (row.eval_s + row.train_s + row.data_s) - record.start.time


def run_bare(tasks: Sequence[Task]) -> list[float]:
    """The same trials, each in a Python process of its own without Ray."""
    seconds = []
    SweepPaths(Path(tasks[0].root)).create()
    searcher = Stamped(tasks)
    for task in tasks:
        searcher.suggest("")
        subprocess.run([sys.executable, __file__, "--bare", json.dumps(task.plain())], check=True)
        seconds.append(_seconds_to_first_step(searcher.ledger, task.trial))
    return seconds


def be_bare(task: dict[str, Any]) -> None:
    import torch

    from prx_model.kept import Kept
    from sweeps.worker import Place, train_trial

    torch.set_num_threads(task["num_threads"])
    list(train_trial(Task(**task), Place(device=torch.device("cpu")), Kept()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", type=Path, default=Path("search_spaces/repa.yaml"))
    parser.add_argument("--profile", default="laptop")
    parser.add_argument("--cache", type=Path, default=Path("cache"))
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    parser.add_argument("--bare", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        be_bare(json.loads(options.bare))
        return
    space, cache = load_space(options.space, options.profile), options.cache.absolute()
    figures: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        ways: dict[str, int | None] = {"stock recipe": None, "warm slot, 1 worker": 1, "warm slot, 2 workers": 2}
        tasks = short_trials(space, SweepPaths(Path(folder) / "bare"), cache, options.trials)
        prepare_all(tasks, cache)
        figures[BARE] = run_bare(tasks)
        log = Path(folder) / "ray.log"
        with cluster.printing_to(log):
            address = cluster.connect(None, log).address
            for way, workers in ways.items():
                root = SweepPaths(Path(folder) / way.replace(" ", "-"))
                figures[way] = run_under_tune(short_trials(space, root, cache, options.trials), address, workers)
    started = provenance(options.profile, "benchmark")
    print(markdown(figures, started))
    if options.out:
        options.out.write_text(json.dumps({"seconds": figures, "provenance": started}, indent=1))


def prepare_all(tasks: Sequence[Task], cache: Path) -> None:
    from sweeps.config import load_config

    for task in tasks:
        prepare(load_config(task.config), cache)


def markdown(figures: Mapping[str, Sequence[float]], started: Mapping[str, Any]) -> str:
    stock = statistics.median(figures["stock recipe"][1:])
    lines = [
        "| | first trial | later trials: median | all of them | against stock |",
        "|---|---|---|---|---|",
    ]
    for way, seconds in figures.items():
        later = statistics.median(seconds[1:])
        listed = ", ".join(f"{s:.2f}" for s in seconds[1:])
        lines.append(f"| {way} | {seconds[0]:.2f} s | {later:.2f} s | {listed} | {stock / later:.1f}x |")
    versions = ", ".join(f"{name} {started['packages'][name]}" for name in ("torch", "ray", "diffusers"))
    machine = f"{started['hardware']}; Python {started['python']}, {versions}"
    made = f"{started['time']}, commit {started['commit'][:12]}{' (dirty)' if started['dirty'] else ''}"
    return "\n".join([*lines, "", f"`{started['command']}`, {made}; {machine}"])


if __name__ == "__main__":
    main()
