"""Learning curves to try stopping rules on: real ones with repeated seeds (LCDB), and simulated ones that cross.

LCDB (Mohr, Viering, Loog, van Rijn, "LCDB 1.0", ECML 2022; PyPI `lcdb`, MIT licence) has the error of 20 classifiers on
246 data sets over the number of training samples ("anchors", a factor sqrt(2) apart), for 5 test splits ("outer seeds")
times 5 splits of the rest ("inner seeds"). Here
    problem    a data set and a test split: as in a sweep, all trials are scored on the same held-out samples
    seed       the inner one, which chooses the training samples and is the learner's own random state
    candidate  a learner, with the first seed, which is one of the baseline's too, as in a sweep
    step       the anchor: training on so many samples, which is also what it costs to come there
    metric     the error on the test split, (wrong + 1/2) / (samples + 1) so that a perfect score has a logarithm
A step is a model trained anew and not one trained on, and an anchor is sqrt(2) times the one before and not as many
steps later as that: real curves, real noise and real crossings, but not those of a diffusion model.

Simulated curves are those of a sweep: evaluations at equal distances, 1 to 2 % of noise between seeds of which a part
goes on from one evaluation to the next, and candidates whose lead over the baseline changes with the logarithm of the
step, so that many of them cross it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SHORTEST = 1 / 40  # of the largest anchor; below, LCDB's curves are those of 16 samples
FEWEST_SAMPLES = 512
FEWEST_CANDIDATES = 7
SEEDS = 5


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """A sweep whose every curve is known to the end.

    group: problems of one group are not independent (test splits of one data set). steps: int array, the last is the
    whole run. baselines: [seed, step], candidates: [candidate, step], logarithms of the metric; less is better.
    truth: [candidate], the logarithm of the final metric minus the baseline's, without the luck of one seed (LCDB: the
    mean over all seeds; simulated: exact). spread: of one seed, in the logarithm.
    """

    group: str
    steps: np.ndarray
    baselines: np.ndarray
    candidates: np.ndarray
    truth: np.ndarray
    spread: float

    @property
    def num_candidates(self) -> int:
        return len(self.candidates)


def lcdb(source: Path, baseline: str, *, num_seeds: int, splits: int = SEEDS) -> list[Problem]:
    """All problems of LCDB that have the baseline and FEWEST_CANDIDATES other learners to a common last anchor.

    source: as `prepare` has written it. splits: test splits of each data set.
    """
    stored = np.load(source, allow_pickle=False)
    table = {name: stored[name] for name in stored.files}
    learners = table["learners"].tolist()
    problems = []
    for data_set in np.unique(table["data_set"]):
        rows = table["data_set"] == data_set
        anchors = np.unique(table["anchor"][rows])
        for split in range(splits):
            here = rows & (table["split"] == split)
            curves = _whole_curves(
                {name: table[name][here] for name in ("learner", "seed", "anchor", "error")}, anchors
            )
            problem = _problem(f"{data_set}", curves, learners.index(baseline), num_seeds)
            if problem is not None:
                problems.append(problem)
    return problems


def _whole_curves(rows: dict[str, np.ndarray], anchors: np.ndarray) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """The anchors up to the last that enough learners have come to, and log error [seed, anchor] of those learners."""
    table = np.full((rows["learner"].max(initial=0) + 1, SEEDS, len(anchors)), np.nan)
    table[rows["learner"], rows["seed"], np.searchsorted(anchors, rows["anchor"])] = np.log(rows["error"])
    whole_to = [(~np.isnan(table[:, :, at])).all(1).sum() for at in range(len(anchors))]
    enough = [at for at, count in enumerate(whole_to) if count > FEWEST_CANDIDATES]
    last = anchors[enough[-1]] if enough else 0
    used = (anchors <= last) & (anchors >= SHORTEST * last)
    kept = {learner: curve[:, used] for learner, curve in enumerate(table) if not np.isnan(curve[:, used]).any()}
    return anchors[used], kept


def _problem(
    group: str, curves: tuple[np.ndarray, dict[int, np.ndarray]], baseline: int, num_seeds: int
) -> Problem | None:
    anchors, of = curves
    if baseline not in of or len(of) <= FEWEST_CANDIDATES or not anchors.size or anchors[-1] < FEWEST_SAMPLES:
        return None
    whole, others = of[baseline], [curve for learner, curve in of.items() if learner != baseline]
    return Problem(
        group=group,
        steps=anchors,
        baselines=whole[:num_seeds],
        candidates=np.array([curve[0] for curve in others]),
        truth=np.array([curve[:, -1].mean() for curve in others]) - whole[:, -1].mean(),
        spread=float(np.sqrt(whole.var(axis=0, ddof=1).mean())),
    )


def prepare(csv: Path, target: Path) -> None:
    """LCDB's database-accuracy.csv (144 MB) -> the columns that are used, as one file of a few megabytes."""
    import pandas

    rows = pandas.read_csv(csv)
    rows = rows[(rows.inner_seed < SEEDS) & (rows.outer_seed < SEEDS)]
    learners = sorted(rows.learner.unique())
    count = rows.size_test.to_numpy()
    np.savez_compressed(
        target,
        learners=np.array(learners),
        learner=np.searchsorted(learners, rows.learner).astype(np.int16),
        data_set=rows.openmlid.to_numpy(np.int32),
        split=rows.outer_seed.to_numpy(np.int8),
        seed=rows.inner_seed.to_numpy(np.int8),
        anchor=rows.size_train.to_numpy(np.int32),
        error=(((1 - rows.score_test) * count + 0.5) / (count + 1)).to_numpy(np.float32),
    )


def simulated(count: int, *, num_seeds: int, num_candidates: int = 24, evaluations: int = 20) -> Iterator[Problem]:
    """`count` sweeps; each has its own noise (1 to 2 %) and its own share of candidates that beat the baseline."""
    for number in range(count):
        rng = np.random.default_rng([20261126, number])
        steps = np.arange(1, evaluations + 1) * 100
        left = np.log(steps[-1] / steps)
        spread, carried = rng.uniform(0.01, 0.02), rng.uniform(0.2, 0.8)
        level = np.log(3 + 40 * (steps / steps[0]) ** -0.6)
        # How far apart settings are at the end, and how much of a lead comes and goes with each factor e of steps.
        final = rng.normal(rng.uniform(-0.02, 0.08), 0.06, num_candidates)
        drift = rng.normal(0, 0.025, num_candidates)
        noise = _noise(rng, num_seeds + num_candidates, len(steps), carried) * spread
        yield Problem(
            group=str(number),
            steps=steps,
            baselines=level + noise[:num_seeds],
            candidates=level + final[:, None] + drift[:, None] * left + noise[num_seeds:],
            truth=final,
            spread=spread,
        )


def _noise(rng: np.random.Generator, curves: int, steps: int, carried: float) -> np.ndarray:
    """Unit noise, `carried` of which goes on from each step to the next."""
    noise = rng.normal(size=(curves, steps))
    for step in range(1, steps):
        noise[:, step] = carried * noise[:, step - 1] + np.sqrt(1 - carried**2) * noise[:, step]
    return noise


def main() -> None:
    parser = argparse.ArgumentParser(description="Prepare LCDB's curves for benchmarks/stopping.py.")
    parser.add_argument("csv", type=Path, help="database-accuracy.csv of the installed package lcdb")
    parser.add_argument("target", type=Path, help="a file that ends in .npz")
    options = parser.parse_args()
    prepare(options.csv, options.target)


if __name__ == "__main__":
    main()
