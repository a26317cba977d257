"""How often a confirmed winner is none, and how wide its interval is, by the way in which the interval is made.

    python benchmarks/confirmation.py [--sweeps 20000]

Sweeps are simulated: log metric of candidate c with seed s = effect of c + luck of s + luck of (c, s). The luck of a
seed is shared by all, as runs share weights, noise and order of the data, and twice as large as the other (LOGBOOK.md,
2026-11-22: seeds spread by 2.5 %, paired differences by 1 to 1.5 %). The k best of m candidates on the first seed are
trained with n - 1 fresh seeds more, and the one with the best mean over all seeds is the winner. An interval errs where
it does not hold the winner's true difference to the baseline; a yes is wrong where no candidate differs from it.
Every interval is one of 95 %; sweeps.intervals widens those of more than two candidates. Lengths are in own lucks.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

SEED_LUCK, OWN_LUCK = 2.0, 1.0
LEVEL = 0.95
WAYS = (
    "paired, all seeds",
    "blocks, all seeds",
    "blocks, fresh seeds",
    "blocks of fresh seeds",
    "unpaired, fresh seeds",
)


def simulate(rng: np.random.Generator, sweeps: int, m: int, k: int, n: int, effects: float) -> dict[str, np.ndarray]:
    """The confirmed candidates of many sweeps: differences to the baseline, by candidate and seed, and the truth."""
    truth = rng.normal(0, effects, (sweeps, m)) if effects else np.zeros((sweeps, m))
    seeds = rng.normal(0, SEED_LUCK, (sweeps, 1, n))
    baseline = seeds + rng.normal(0, OWN_LUCK, (sweeps, 1, n))
    values = truth[:, :, None] + seeds + rng.normal(0, OWN_LUCK, (sweeps, m, n))
    chosen = np.argsort(values[:, :, 0], axis=1)[:, :k, None]
    return {
        "baseline": baseline,
        "values": np.take_along_axis(values, np.broadcast_to(chosen, (sweeps, k, n)), axis=1),
        "truth": np.take_along_axis(truth, chosen[:, :, 0], axis=1),
    }


def block_deviation(rows: np.ndarray) -> tuple[np.ndarray, int]:
    """What is left of rows (sweep, run, seed) without the means of runs and of seeds, and its degrees of freedom."""
    left = rows - rows.mean(1, keepdims=True) - rows.mean(2, keepdims=True) + rows.mean((1, 2), keepdims=True)
    freedom = (rows.shape[1] - 1) * (rows.shape[2] - 1)
    return np.sqrt((left**2).sum((1, 2)) / freedom), freedom


def interval(way: str, baseline: np.ndarray, values: np.ndarray, winner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Middle and half-width of the winner's difference to the baseline."""
    n = values.shape[2]
    pairs = np.take_along_axis(values, winner[:, None, None], axis=1)[:, 0] - baseline[:, 0]
    everything = np.concatenate([baseline, values], axis=1)
    fresh = pairs[:, 1:].mean(1)
    if way == "paired, all seeds":
        return pairs.mean(1), stats.t.ppf((1 + LEVEL) / 2, n - 1) * pairs.std(1, ddof=1) / np.sqrt(n)
    if way == "unpaired, fresh seeds":
        freedom = everything.shape[1] * (n - 1)
        deviation = np.sqrt(everything.var(2, ddof=1).mean(1))
        return fresh, stats.t.ppf((1 + LEVEL) / 2, freedom) * deviation * np.sqrt(2 / (n - 1))
    if way == "blocks of fresh seeds":
        deviation, freedom = block_deviation(everything[:, :, 1:])
    else:
        deviation, freedom = block_deviation(everything)
    count = n if way == "blocks, all seeds" else n - 1
    middle = pairs.mean(1) if way == "blocks, all seeds" else fresh
    return middle, stats.t.ppf((1 + LEVEL) / 2, freedom) * deviation * np.sqrt(2 / count)


def report(sweeps: int) -> None:
    rng = np.random.default_rng(0)
    heads = ("m", "k", "n", "interval", "wrong yes, no effects", "errs, effects of 3", "yes, better", "half-width")
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for m, k, n in ((8, 1, 2), (8, 2, 2), (24, 1, 3), (24, 2, 3), (24, 3, 3), (24, 2, 5)):
        none, some = (simulate(rng, sweeps, m, k, n, effects) for effects in (0.0, 3.0))
        for way in WAYS:
            if way == "blocks of fresh seeds" and n < 3:
                continue
            winner = none["values"].mean(2).argmin(1)
            middle, half = interval(way, none["baseline"], none["values"], winner)
            wrong = (middle + half < 0).mean()
            winner = some["values"].mean(2).argmin(1)
            truth = np.take_along_axis(some["truth"], winner[:, None], axis=1)[:, 0]
            middle, half = interval(way, some["baseline"], some["values"], winner)
            errs, power = (abs(middle - truth) > half).mean(), (middle + half < 0)[truth < 0].mean()
            print(f"| {m} | {k} | {n} | {way} | {wrong:.1%} | {errs:.1%} | {power:.0%} | {np.median(half):.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=20000, help="simulated sweeps a row (default: 20000)")
    report(parser.parse_args().sweeps)


if __name__ == "__main__":
    main()
