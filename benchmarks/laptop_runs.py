"""Train single runs of a profile and keep their samples and metrics, to find out what a sweep of it can tell apart.

    python benchmarks/laptop_runs.py --out FOLDER --run base-s0 --seed 0
    python benchmarks/laptop_runs.py --out FOLDER --run repa-s0 --seed 0 --set repa.depth=2 --set repa.weight=0.5 ...

One process is one run on one thread. `benchmarks/laptop_objective.py` scores the samples in many other ways.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import yaml

from prx_model.experiment import open_experiment, prepare
from prx_model.metrics.suite import Generate, MetricSuite, SuiteResult
from sweeps.config import load_config, override
from sweeps.provenance import provenance
from sweeps.space_file import load_space


class RecordingSuite:
    """The metric suite, which also keeps every sample of its last evaluation."""

    def __init__(self, suite: MetricSuite) -> None:
        self.suite = suite
        self.samples: list[torch.Tensor] = []

    def looks(self, generate: Generate, **workers: Any) -> Iterator[SuiteResult]:
        self.samples = []

        def recorded(*inputs: torch.Tensor) -> torch.Tensor:
            self.samples.append(generate(*inputs))
            return self.samples[-1]

        return self.suite.looks(recorded, **workers)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--space", type=Path, default=Path("search_spaces/repa.yaml"))
    parser.add_argument("--profile", default="laptop")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("cache"))
    parser.add_argument("--run", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], help="path=value; without any repa.* it is the baseline")
    options = parser.parse_args()
    torch.set_num_threads(1)
    space = load_space(options.space, options.profile)
    changes = {path: yaml.safe_load(value) for path, value in (item.split("=", 1) for item in options.set)}
    is_baseline = not any(path.startswith("repa.") for path in changes)
    base = override(space.base, space.baseline if is_baseline else {})
    config = load_config(override(base, {**changes, "seed": options.seed}))
    prepare(config, options.cache)
    experiment = open_experiment(config, options.cache)
    suite = RecordingSuite(experiment.suite)
    folder = options.out / options.run
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "provenance.json").write_text(json.dumps(provenance(options.profile, "benchmark"), indent=1))
    for evaluation in replace(experiment, suite=suite).evaluations():  # pyright: ignore[reportArgumentType]
        started = time.perf_counter()
        scores = evaluation.scores()
        eval_s = time.perf_counter() - started
        torch.save({"samples": torch.cat(suite.samples)}, folder / f"samples-{evaluation.step:05d}.pt")
        row = {
            "run": options.run,
            "seed": options.seed,
            "changes": changes,
            "step": evaluation.step,
            "metrics": scores.values,
            "flow_loss": evaluation.flow_loss,
            "train_s": evaluation.train_s,
            "data_s": evaluation.data_s,
            "eval_s": eval_s,
        }
        with (folder / "rows.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
