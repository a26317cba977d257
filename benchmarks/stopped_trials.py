"""What do a hundred early-stopped trials leave behind? One sweep, through Tune and slots, watched from outside.

    python benchmarks/stopped_trials.py --cache cache --work FOLDER --out docs/benchmarks/DATE-stopped-trials

Every candidate has a learning rate with which nothing can be learnt, and the rule stops it. After each end the resident
memory of the processes is read by what they are, and Ray's State API is asked for placement groups and actors. Told are
the counts with the first and with the last stopped trials, and the slope of memory after the first ten, per trial.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import yaml

from benchmarks.processes import Processes, held
from sweeps.ledger import STOPPED, Ledger
from sweeps.provenance import provenance
from sweeps.space_file import load_space
from sweeps.storage import SweepPaths

ROOT = Path(__file__).resolve().parent.parent
SMOKE = ROOT / "tests/spaces/smoke.yaml"
ROLES = {  # by the start of a process's title
    "train workers": "ray::RayTrainWorker",
    "desk": "ray::Desk",
    "trial drivers": "ray::ImplicitFunc",
    "controllers": "ray::TrainController",
    "raylet": "raylet",
    "gcs": "gcs_server",
}
WARM_UP = 10
POLL_S = 1.0
LIMIT_S = 7200.0


def hopeless_space(candidates: int) -> dict[str, Any]:
    """The smoke space, long enough for the rule, with candidates that cannot learn."""
    space = yaml.safe_load(SMOKE.read_text())
    space["question"] = "What do stopped trials leave behind?"
    space["space"] = {"training.learning_rate": {"log_uniform": [1e-8, 1e-6]}}
    space["points"] = []
    space["stop"]["audit"] = 0.0  # an audit would let a tenth of them go on
    space["budget"] = {"candidates": candidates, "baseline_seeds": 3}
    laptop = space["profiles"]["laptop"]
    laptop["training"] |= {"steps": 240, "eval_every_steps": 60}
    laptop["repa"] |= {"teacher": "dinov2s_saliency", "depth": 1, "weight": 0.5}
    laptop["resources"]["trials_per_slot"] = candidates + 3  # one process for all: what it keeps would show
    return space


def memory_by_role(driver: int, alive: Mapping[int, str]) -> dict[str, float]:
    """MiB of every role; the trial drivers' and workers' together, and the whole."""
    sums = dict.fromkeys(["all processes", "driver", *ROLES], 0.0)
    for pid, title in alive.items():
        mib = Processes.resident_mib(pid)
        sums["all processes"] += mib
        name = title.split(" ")[0].rsplit("/", 1)[-1]
        role = "driver" if pid == driver else next((r for r, start in ROLES.items() if name.startswith(start)), None)
        if role is not None:
            sums[role] += mib
    return sums


def watch(command: Sequence[str], log: Path, ledger: Ledger) -> list[dict[str, Any]]:
    """Run the sweep; a sample whenever another candidate has been stopped."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {"PYTHONPATH": str(ROOT), "RAY_worker_niceness": "0"}
    samples: list[dict[str, Any]] = []
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, env=environment)
    processes, deadline = Processes(process.pid), time.monotonic() + LIMIT_S
    while process.poll() is None and time.monotonic() < deadline:
        alive = processes.alive()
        records = ledger.records() if ledger.paths.ledger.is_dir() else []
        stopped = sum(record.outcome == STOPPED for record in records)
        if stopped > (samples[-1]["stopped"] if samples else 0):
            groups, actors = (held(log.read_bytes(), what) for what in ("placement_groups", "actors"))
            counts = {"placement_groups": groups, "actors": actors, "processes": len(alive)}
            samples.append({"stopped": stopped, **counts, "mib": memory_by_role(process.pid, alive)})
            print(f"{stopped:>3} stopped: {counts}, {samples[-1]['mib']['all processes']:.0f} MiB in all", flush=True)
        time.sleep(POLL_S)
    if process.poll() is None:
        process.kill()
    print(f"the sweep ended with {process.wait()}")
    return samples


def slope(samples: Sequence[Mapping[str, Any]], role: str) -> float:
    """MiB per stopped trial after the warm-up, by least squares."""
    rest = [sample for sample in samples if sample["stopped"] >= WARM_UP]
    return float(np.polyfit([s["stopped"] for s in rest], [s["mib"][role] for s in rest], 1)[0])


def draw(samples: Sequence[Mapping[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (memory, counts) = pyplot.subplots(2, 1, figsize=(7, 6), layout="constrained", sharex=True)
    stopped = [sample["stopped"] for sample in samples]
    for role in ["all processes", "train workers", "driver", "trial drivers", "desk", "raylet", "gcs"]:
        memory.plot(stopped, [sample["mib"][role] for sample in samples], label=role)
    memory.set(ylabel="resident memory, MiB", yscale="log")
    memory.legend(frameon=False, fontsize=8, ncols=4, loc="upper center", bbox_to_anchor=(0.5, 1.22))
    for name in ("processes", "actors", "placement_groups"):
        known = [(sample["stopped"], sample[name]) for sample in samples if sample[name] is not None]
        counts.plot(*zip(*known, strict=True), label=name.replace("_", " "))
    counts.set(xlabel="trials that the rule has stopped", ylabel="alive", ylim=(0, None))
    counts.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)


def table(samples: Sequence[Mapping[str, Any]], outcomes: Mapping[str, int], made_with: Mapping[str, Any]) -> str:
    first, last = next(s for s in samples if s["stopped"] >= WARM_UP), samples[-1]
    lines = [
        f"# {last['stopped']} trials that the rule has stopped, one after another",
        "",
        "| | after the first ten | after the last | per trial between |",
        "|---|---|---|---|",
    ]
    for name in ("placement_groups", "actors", "processes"):
        lines.append(f"| {name.replace('_', ' ')} | {first[name]} | {last[name]} | |")
    for role in first["mib"]:
        per_trial = f"{1024 * slope(samples, role):+.0f} KiB"
        lines.append(f"| {role} | {first['mib'][role]:.0f} MiB | {last['mib'][role]:.0f} MiB | {per_trial} |")
    dirty = ", with changes" if made_with["dirty"] else ""
    versions = f"ray {made_with['packages']['ray']}, torch {made_with['packages']['torch']}"
    lines += ["", f"Candidates: {dict(outcomes)}. Two trials at a time, in two slots that serve all of them."]
    lines += [f"Commit {made_with['commit'][:12]}{dirty}; {made_with['hardware']}, shared with other work; {versions}."]
    return "\n".join([*lines, f"Command: `{made_with['command']}`", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path("cache"))
    parser.add_argument("--work", type=Path, required=True, help="an empty folder for the sweep")
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--out", type=Path, help="without its ending: .json, .md and .png are written")
    options = parser.parse_args()
    if options.trials < 2 * WARM_UP:
        parser.error(f"--trials: got {options.trials}, allowed is at least {2 * WARM_UP}")
    work = options.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    file = work / "hopeless.yaml"
    file.write_text(yaml.safe_dump(hopeless_space(options.trials)))
    ledger = Ledger(SweepPaths.of(load_space(file, "laptop"), work / "results"))
    folders = ["--results", str(work / "results"), "--cache", str(options.cache.absolute())]
    command = [sys.executable, "sweeps/run.py", str(file), "--profile", "laptop", "--address", "local", *folders]
    samples = watch(command, work / "sweep.log", ledger)
    outcomes = Counter(str(record.outcome) for record in ledger.records() if record.is_candidate)
    made_with = provenance("laptop", "benchmark")
    made_with["command"] = f"python benchmarks/stopped_trials.py --work FOLDER --trials {options.trials}"
    text = table(samples, outcomes, made_with)
    print(text)
    if options.out:
        figures = {"samples": samples, "outcomes": outcomes, "provenance": made_with}
        options.out.with_suffix(".json").write_text(json.dumps(figures, indent=1) + "\n")
        options.out.with_suffix(".md").write_text(text)
        draw(samples, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
