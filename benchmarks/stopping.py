"""Stopping rules compared: compute, regret of the winner, and who was lost, on real and on simulated learning curves.

    pip install lcdb==0.1.0 pandas          # the benchmarks extra
    python benchmarks/stopping_curves.py .../site-packages/lcdb/database-accuracy.csv curves.npz
    python benchmarks/stopping.py curves.npz --out docs/benchmarks/DATE-stopping [--splits 2] [--simulated 300]

A sweep is played through: SLOTS trials at a time, baseline seeds first, candidates in random order, each evaluation in
the order of the clock, each rule seeing only what has been measured by then. `judge` is the product's. The baseline is
measured in every case, because the question needs it, and its seeds are nobody's compute.

compute     steps trained by candidates, of those without stopping
regret      of the winner, in percent of the metric: how much worse its true value is than that of the best, the
            baseline among them, as 100 times the difference of logarithms (a ratio of errors near 0 would drown
            all other sweeps). The winner is the best last value of a trial that was not stopped; where none of
            them is better than the baseline's mean, the baseline.
lost        of the candidates that truly beat the baseline by more than one spread: the share that was stopped
as good     of the candidates within half a spread of the baseline: the share that was stopped
best lost   of the sweeps whose best candidate truly beats the baseline by more than one spread: the best was stopped
Intervals are 95 %, by bootstrap over data sets (all splits of one together) or over simulated sweeps.
"""

from __future__ import annotations

import argparse
import heapq
import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from benchmarks.stopping_curves import Problem, lcdb, simulated
from benchmarks.stopping_figure import draw
from benchmarks.stopping_rules import Entry, Rule, Seen, entries, rule_of

SLOTS = 4
RESAMPLES = 1000
STRONG, PLAIN = "sklearn.ensemble.RandomForestClassifier", "sklearn.linear_model.LogisticRegression"
FIGURES = ("compute", "regret", "lost", "as good", "best lost")


def play(problem: Problem, rule: Rule, order: Sequence[int]) -> np.ndarray:
    """One sweep. The index of each candidate's last evaluation."""
    last, times = len(problem.steps) - 1, np.diff(problem.steps, prepend=0)
    seen, ended = Seen(problem), np.full(problem.num_candidates, last)
    queue = [(True, seed) for seed in range(len(problem.baselines))] + [(False, int(number)) for number in order]
    # (time of the next evaluation, a number that keeps equal times in order, is it a baseline, which, evaluation)
    running = [(float(times[0]), number, *trial, 0) for number, trial in enumerate(queue[:SLOTS])]
    queue, count = queue[SLOTS:], len(queue)
    while running:
        now, _, is_baseline, number, index = heapq.heappop(running)
        (seen.of_baselines if is_baseline else seen.of_candidates)[number] = index + 1
        goes_on = index < last
        if goes_on and not is_baseline and rule.stops(seen, number):
            ended[number], goes_on = index, False
        count += 1
        if goes_on:
            heapq.heappush(running, (now + times[index + 1], count, is_baseline, number, index + 1))
        elif queue:
            heapq.heappush(running, (now + times[0], count, *queue.pop(0), 0))
    return ended


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one sweep adds to the figures: sums, so that any set of sweeps can be put together."""

    group: str
    compute: float
    regret: float
    lost: int
    better: int
    stopped_equals: int
    equals: int
    best_lost: int
    has_best: int


def outcome(problem: Problem, ended: np.ndarray) -> Outcome:
    whole, truth = ended == len(problem.steps) - 1, problem.truth
    best = min(0.0, float(truth.min()))
    winner = int(np.where(whole, problem.candidates[:, -1], np.inf).argmin())
    wins = whole[winner] and problem.candidates[winner, -1] < problem.baselines[:, -1].mean()
    better, equal = truth < -problem.spread, np.abs(truth) < problem.spread / 2
    return Outcome(
        group=problem.group,
        compute=float((problem.steps[ended] / problem.steps[-1]).mean()),
        regret=float((truth[winner] if wins else 0.0) - best),
        lost=int((better & ~whole).sum()),
        better=int(better.sum()),
        stopped_equals=int((equal & ~whole).sum()),
        equals=int(equal.sum()),
        best_lost=int(better.any() and not whole[truth.argmin()]),
        has_best=int(better.any()),
    )


def outcomes(entry: Entry, problems: Sequence[Problem]) -> list[Outcome]:
    made = []
    for number, problem in enumerate(problems):
        order = np.random.default_rng([7, number]).permutation(problem.num_candidates)
        made.append(outcome(problem, play(problem, rule_of(entry, problem), order.tolist())))
    return made


def figures(made: Sequence[Outcome]) -> dict[str, tuple[float, float, float]]:
    """Name -> value, and both ends of its interval, in percent."""
    groups = sorted({one.group for one in made})
    sums = np.zeros((len(groups), 9))
    for one in made:
        row = [1, one.compute, one.regret, one.lost, one.better, one.stopped_equals, one.equals]
        sums[groups.index(one.group)] += [*row, one.best_lost, one.has_best]
    drawn = np.random.default_rng(0).integers(len(groups), size=(RESAMPLES, len(groups)))
    values, resampled = _ratios(sums.sum(axis=0)), _ratios(sums[drawn].sum(axis=1))
    ends = np.quantile(resampled, [0.025, 0.975], axis=0)
    return {name: (float(values[i]), float(ends[0, i]), float(ends[1, i])) for i, name in enumerate(FIGURES)}


def _ratios(sums: np.ndarray) -> np.ndarray:
    total = sums.T
    pairs = [(total[1], total[0]), (total[2], total[0]), (total[3], total[4]), (total[5], total[6])]
    pairs.append((total[7], total[8]))
    return 100 * np.stack([above / np.maximum(below, 1) for above, below in pairs]).T


def _measured(name: str, problems: Sequence[Problem], pool: ProcessPoolExecutor) -> list[dict]:
    started, rules = time.perf_counter(), list(entries())
    made = pool.map(partial(outcomes, problems=problems), rules)
    rows = [
        {"curves": name, "rule": entry.label, **asdict(entry), **figures(each)}
        for entry, each in zip(rules, made, strict=True)
    ]
    groups = len({problem.group for problem in problems})
    better = float(np.mean([(problem.truth < -problem.spread).mean() for problem in problems]))
    candidates = float(np.mean([problem.num_candidates for problem in problems]))
    print(
        f"\n{name}: {len(problems)} sweeps in {groups} groups, {candidates:.1f} candidates each, {better:.0%} of them "
        f"truly better; {time.perf_counter() - started:.0f} s\n\n{table(rows)}",
        flush=True,
    )
    return rows


def table(rows: Sequence[dict]) -> str:
    lines = ["| rule | compute | regret | lost | as good stopped | best lost |", "|---|---|---|---|---|---|"]
    for row in rows:
        cells = [f"{row[name][0]:.1f} ({row[name][1]:.1f} to {row[name][2]:.1f})" for name in FIGURES]
        marked = f"**{row['rule']}**" if row["headline"] else row["rule"]
        lines.append(f"| {marked} | {' | '.join(cells)} |")
    return "\n".join(lines)


def drawn(problems: Sequence[Problem], most: int) -> list[Problem]:
    """The problems of at most so many groups, chosen at random."""
    groups = sorted({problem.group for problem in problems})
    chosen = set(np.random.default_rng(1).permutation(groups)[:most].tolist())
    return [problem for problem in problems if problem.group in chosen]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("curves", type=Path, help="LCDB's, as benchmarks/stopping_curves.py writes them")
    parser.add_argument("--out", type=Path, required=True, help="path and stem of the .json and .png to write")
    parser.add_argument("--splits", type=int, default=2, help="test splits of each data set, 1 to 5")
    parser.add_argument("--data-sets", type=int, default=1000, help="at most so many of LCDB's, drawn at random")
    parser.add_argument("--simulated", type=int, default=300, help="simulated sweeps")
    parser.add_argument("--seeds", type=int, default=3, help="of the baseline")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    real = {
        name: drawn(lcdb(options.curves, learner, num_seeds=options.seeds, splits=options.splits), options.data_sets)
        for name, learner in (("strong baseline (random forest)", STRONG), ("plain baseline (logistic reg.)", PLAIN))
    }
    strong, plain = ((f"LCDB, {name}", problems) for name, problems in real.items())
    made_up = ("simulated sweeps", list(simulated(options.simulated, num_seeds=options.seeds)))
    rows: list[dict] = []
    with ProcessPoolExecutor(options.processes) as pool:
        for name, problems in (strong, made_up, plain):
            rows += _measured(name, problems, pool)
            options.out.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")
    draw(rows, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
