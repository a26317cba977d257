"""Does a slot give its memory back? Fifty trials, one after another in one process, and what they leave behind.

    python benchmarks/slot_memory.py --cache cache --trials 50 --out memory.json --picture memory.png

The trials go over the whole search space (baseline, every teacher, both ends of depth and weight), with the few steps
and samples that are enough to allocate everything. After each, resident memory is read, and the GPU's where there is
one. No Ray is needed. Told are the level after a warm-up of ten trials and the slope after it, per trial.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from prx_model.experiment import prepare
from prx_model.kept import Kept
from sweeps.config import fingerprint, load_config, override, to_plain
from sweeps.ledger import CANDIDATE, Ledger, Start
from sweeps.provenance import provenance
from sweeps.slot import as_new
from sweeps.space import SearchSpace
from sweeps.space_file import load_space
from sweeps.storage import SweepPaths
from sweeps.task import Task
from sweeps.worker import Place, train_trial

SHORT = {"training.steps": 6, "training.eval_every_steps": 3, "evaluation.sampler.steps": 2}
WARM_UP = 10


def resident_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmRSS"))) / 1024


def gpu_mib() -> float:
    return torch.cuda.memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0


def trial_configs(space: SearchSpace) -> list[dict]:
    short = {**SHORT, "evaluation.num_samples": 2 * space.base["evaluation"]["batch_size"]}
    configs = [space.baseline_config(space.first_seed), *space.end_candidates()]
    return [override(to_plain(config), short) for config in configs]


def run_trial(paths: SweepPaths, cache: Path, number: int, config: dict, space: SearchSpace, kept: Kept) -> None:
    name = f"candidate-{number:03d}"
    Ledger(paths).append(
        Start(trial=name, role=CANDIDATE, seed=0, overrides={}, fingerprint=fingerprint(config), num_steps=6)
    )
    task = Task(
        trial=name,
        role=CANDIDATE,
        config=config,
        root=str(paths.root),
        cache=str(cache),
        metric=space.objective.metric,
        mode="min",
        stop=to_plain(space.stop),
        num_threads=1,
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with as_new(1):
        for _ in train_trial(task, Place(device=device), kept):
            pass


def slope(levels: Sequence[float]) -> float:
    """MiB per trial after the warm-up, by least squares."""
    rest = levels[WARM_UP:]
    return float(np.polyfit(range(len(rest)), rest, 1)[0])


def draw(resident: Sequence[float], gpu: Sequence[float], path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3), layout="constrained")
    axes.plot(range(1, len(resident) + 1), resident, marker=".", label="resident memory")
    if any(gpu):
        axes.plot(range(1, len(gpu) + 1), gpu, marker=".", label="GPU memory allocated")
    axes.set(xlabel="trials that the slot has served", ylabel="MiB after the trial", ylim=(0, 1.2 * max(resident)))
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", type=Path, default=Path("search_spaces/repa.yaml"))
    parser.add_argument("--profile", default="laptop")
    parser.add_argument("--cache", type=Path, default=Path("cache"))
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    if options.trials < 2 * WARM_UP:
        parser.error(f"--trials: got {options.trials}, allowed is at least {2 * WARM_UP}")
    space, cache, kept = load_space(options.space, options.profile), options.cache.absolute(), Kept()
    configs = trial_configs(space)
    for config in configs:
        prepare(load_config(config), cache)
    resident, gpu = [], []
    with tempfile.TemporaryDirectory() as folder:
        paths = SweepPaths(Path(folder))
        paths.create()
        for number in range(options.trials):
            run_trial(paths, cache, number, configs[number % len(configs)], space, kept)
            resident.append(resident_mib())
            gpu.append(gpu_mib())
            print(f"trial {number + 1:>3}: resident {resident[-1]:.0f} MiB, GPU {gpu[-1]:.0f} MiB", flush=True)
    started = provenance(options.profile, "benchmark")
    for name, levels in (("resident", resident), ("GPU", gpu)):
        rest = levels[WARM_UP:]
        print(
            f"{name:<9} {min(rest):.0f} to {max(rest):.0f} MiB after {WARM_UP} trials, {slope(levels):+.2f} MiB a trial"
        )
    print(f"{started['command']}; commit {started['commit'][:12]}, dirty: {started['dirty']}; {started['hardware']}")
    if options.out:
        figures = {"resident_mib": resident, "gpu_mib": gpu, "provenance": started}
        options.out.write_text(json.dumps(figures, indent=1))
    if options.picture:
        draw(resident, gpu, options.picture)


if __name__ == "__main__":
    main()
