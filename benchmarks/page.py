"""How large the logbook page of a big sweep is, and how long it takes to make, in seconds of CPU.

python benchmarks/page.py --trials 100 1000 --grid results/.../samples/candidate-000/step-0000200.png

Ledgers are written by the ledger's own classes: curves that fall, a third of the candidates stopped, one in twenty
failed, ten evaluations each. Every evaluation has a sample grid: the picture that is given, whose noise grows with the
distance to the end, so that pictures compress as badly as real ones do.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from PIL import Image

from sweeps.ledger import BASELINE, CANDIDATE, FAILED, FINISHED, STOPPED, End, EvaluationRow, Ledger, Start
from sweeps.report import summarise, write_page
from sweeps.space import SearchSpace
from sweeps.space_file import load_space
from sweeps.storage import SweepPaths

ROOT = Path(__file__).resolve().parent.parent
NUM_EVALUATIONS, STEPS = 10, 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 1000], metavar="N")
    parser.add_argument("--grid", type=Path, required=True, metavar="PNG", help="a sample grid of a finished trial")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where the results stay (default: nowhere)")
    options = parser.parse_args()
    print("| trials | ledger and samples | summary | page | page again | size |\n|---|---|---|---|---|---|")
    for trials in options.trials:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(options.keep or temporary) / f"{trials}-trials"
            print(f"| {trials} | {' | '.join(measured(trials, options.grid, folder))} |", flush=True)


def measured(trials: int, grid: Path, folder: Path) -> list[str]:
    space = load_space(ROOT / "search_spaces" / "repa.yaml", "laptop")
    space = replace(space, budget=replace(space.budget, candidates=trials - 2))
    paths = SweepPaths.of(space, folder)
    paths.create()
    began = time.process_time()
    fill(space, paths, trials, grid)
    times = [time.process_time() - began]
    for step in (lambda: summarise(space, Ledger(paths)), lambda: page(space, paths), lambda: page(space, paths)):
        began = time.process_time()
        step()
        times.append(time.process_time() - began)
    return [*(f"{seconds:.1f} s" for seconds in times), f"{paths.page.stat().st_size / 1e6:.1f} MB"]


def page(space: SearchSpace, paths: SweepPaths) -> None:
    write_page(space, paths, summarise(space, Ledger(paths)), [])


def fill(space: SearchSpace, paths: SweepPaths, trials: int, grid: Path) -> None:
    """Two baselines, and candidates of which a third is stopped and one in twenty fails."""
    rng, pictures = np.random.default_rng(0), noised(grid)
    metrics = space.baseline_config(space.first_seed).evaluation.metrics
    for number in range(trials):
        baseline = number < 2
        name = f"baseline-seed{number}" if baseline else f"candidate-{number - 2:03d}"
        overrides = dict(space.baseline) if baseline else chosen(space, rng)
        role, seed = (BASELINE, number) if baseline else (CANDIDATE, 0)
        start = Start(trial=name, role=role, seed=seed, overrides=overrides, fingerprint="f" * 12, num_steps=STEPS)
        outcome = FINISHED if baseline else str(rng.choice([FINISHED, STOPPED, FAILED], p=[0.62, 0.33, 0.05]))
        last = NUM_EVALUATIONS if outcome == FINISHED else int(rng.integers(3, NUM_EVALUATIONS))
        factor = 1 + 0.01 * number if baseline else float(rng.uniform(0.8, 1.1) if outcome == FINISHED else 1.2)
        rows = [row(name, i, factor, metrics) for i in range(1, last + 1)]
        end = End(trial=name, outcome=outcome, step=rows[-1].step, reason="as drawn", log=str(paths.trial_log(name)))
        lines = (json.dumps(asdict(row)) for row in (replace(start, order=number), *rows, end))
        # As the ledger writes it, but without a sync for each row.
        paths.trial_ledger(name).write_text("".join(f"{line}\n" for line in lines))
        paths.samples_of(name).mkdir(parents=True)
        for one, content in zip(rows, pictures, strict=False):
            paths.sample_grid(name, one.step).write_bytes(content)


def chosen(space: SearchSpace, rng: np.random.Generator) -> dict[str, object]:
    drawn = {}
    for dimension in space.dimensions:
        if dimension.kind == "choice":
            drawn[dimension.path] = dimension.values[int(rng.integers(len(dimension.values)))]
        elif dimension.kind == "int":
            drawn[dimension.path] = int(rng.integers(dimension.low, dimension.high + 1))
        else:
            drawn[dimension.path] = float(np.exp(rng.uniform(math.log(dimension.low), math.log(dimension.high))))
    return drawn


def row(trial: str, number: int, factor: float, metrics: tuple[str, ...]) -> EvaluationRow:
    step = number * STEPS // NUM_EVALUATIONS
    return EvaluationRow(
        trial=trial,
        step=step,
        metrics={name: factor * 500 * math.exp(-step / 150) / (i + 1) for i, name in enumerate(metrics)},
        num_samples=160,
        flow_loss=0.3,
        repa_loss=None,
        grad_norm=0.1,
        images_per_s=70.0,
        train_s=10.0,
        eval_s=2.0,
        peak_memory_bytes=1,
        resumed_from=0,
        cpus=1,
        gpus=0,
    )


def noised(grid: Path) -> list[bytes]:
    """The picture at every evaluation."""
    with Image.open(grid) as image:
        pixels = np.asarray(image.convert("RGB")).astype(float)
    rng, found = np.random.default_rng(0), []
    for number in range(1, NUM_EVALUATIONS + 1):
        weight = number / NUM_EVALUATIONS
        mixed = weight * pixels + (1 - weight) * rng.uniform(0, 255, pixels.shape)
        content = io.BytesIO()
        Image.fromarray(mixed.astype(np.uint8)).save(content, format="png")
        found.append(content.getvalue())
    return found


if __name__ == "__main__":
    main()
