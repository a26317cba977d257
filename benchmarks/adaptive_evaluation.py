"""Adaptive against full evaluation, on the very numbers of a sweep that has measured all of them.

    python sweeps/run.py SPACE with `stop: {evaluation: full}`        # every look of every evaluation is in the ledger
    python benchmarks/adaptive_evaluation.py results/<that sweep> [--margin 2]

Each candidate is judged twice from the ledger: on all samples at every evaluation, and as `evaluation: adaptive` would,
which stops looking where the verdict is clear. Told are the candidates whose course differs (stopped or not, and at
which step), the evaluations whose strike differs, and the samples that each way needed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sweeps.ledger import Ledger, TrialRecord, baseline_curves
from sweeps.provenance import describe_machine, read_starts
from sweeps.rule import Curve, StopConfig, is_open, judge
from sweeps.space_file import load_space
from sweeps.storage import SweepPaths


@dataclass(frozen=True, kw_only=True)
class Course:
    """How a candidate fares. stopped: the step, or None. strikes: by step. samples: taken on the way."""

    stopped: int | None
    strikes: dict[int, bool]
    samples: int
    evaluations: int


def fare(
    record: TrialRecord, baselines: Sequence[Curve], config: StopConfig, *, metric: str, mode: str, num_samples: int
) -> Course:
    """The candidate's course under `config`, all its values being known."""
    num_steps, whole = record.start.num_steps, record.curve(metric)
    seen: dict[int, dict[int, float]] = {}
    strikes, samples = {}, 0
    for step in sorted(whole):
        seen[step] = {}
        for count in sorted(whole[step]):
            seen[step][count] = whole[step][count]
            if not is_open(seen, baselines, config, num_steps=num_steps, num_samples=num_samples, mode=mode):
                break
        samples += max(seen[step])
        verdict = judge(seen, baselines, config, num_steps=num_steps, mode=mode)
        strikes[step] = verdict.judged_step == step and verdict.gap is not None and verdict.gap > config.margin
        if verdict.stop and step < num_steps:
            return Course(stopped=step, strikes=strikes, samples=samples, evaluations=len(strikes))
    return Course(stopped=None, strikes=strikes, samples=samples, evaluations=len(strikes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path)
    parser.add_argument("--profile", default="laptop")
    parser.add_argument("--margin", type=float, help="another margin than the sweep's")
    options = parser.parse_args()
    paths = SweepPaths(options.sweep.absolute())
    space = load_space(paths.space, options.profile)
    metric, mode = space.objective.metric, space.objective.mode
    num_samples = space.baseline_config(space.first_seed).evaluation.num_samples
    stop = space.stop if options.margin is None else replace(space.stop, margin=options.margin)
    records = Ledger(paths).records()
    baselines = baseline_curves(records, metric)
    candidates = [r for r in records if r.is_candidate and r.evaluations]
    whole = [r for r in candidates if all(row.num_samples == num_samples for row in r.evaluations)]
    if len(whole) < len(candidates):
        parser.error(f"{len(candidates) - len(whole)} candidates were not evaluated on all samples: run with full")
    report(whole, baselines, stop, metric, mode, num_samples)
    start = read_starts(paths.starts)[-1]
    print(f"\n{start['command']}; commit {start['commit'][:12]}; {describe_machine()}")


def report(
    candidates: Sequence[TrialRecord],
    baselines: Sequence[Curve],
    stop: StopConfig,
    metric: str,
    mode: str,
    num_samples: int,
) -> None:
    courses = []
    for record in candidates:
        both = [
            fare(record, baselines, replace(stop, evaluation=way), metric=metric, mode=mode, num_samples=num_samples)
            for way in ("full", "adaptive")
        ]
        courses.append(both)
        full, adaptive = both
        same = "same" if full.stopped == adaptive.stopped else "DIFFERENT"
        odd = [step for step in full.strikes if full.strikes[step] != adaptive.strikes.get(step)]
        print(
            f"{record.trial}  full: {full.stopped or 'to the end'}, {full.samples} samples; "
            f"adaptive: {adaptive.stopped or 'to the end'}, {adaptive.samples} samples  {same}"
            + (f"; strikes differ at {odd}" if odd else "")
        )
    agreed = sum(full.stopped == adaptive.stopped for full, adaptive in courses)
    evaluations = [
        full.strikes[step] == adaptive.strikes[step]
        for full, adaptive in courses
        for step in full.strikes.keys() & adaptive.strikes.keys()
    ]
    samples = [sum(course.samples for course in way) for way in zip(*courses, strict=True)]
    seeds = len(baselines)
    print(f"\ncandidates         {len(courses)}, baseline seeds {seeds}, n = {num_samples}, margin {stop.margin:g}")
    print(f"same verdict       {agreed} of {len(courses)} candidates ({agreed / len(courses):.1%})")
    alike = sum(evaluations)
    print(f"same strike        {alike} of {len(evaluations)} evaluations ({alike / len(evaluations):.1%})")
    print(f"samples            {samples[1]} of {samples[0]} ({samples[1] / samples[0]:.1%})")


if __name__ == "__main__":
    main()
