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
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sweeps.ledger import Ledger
from sweeps.provenance import describe_machine, read_starts
from sweeps.recorded import sweep_of
from sweeps.replay import Replay, replay
from sweeps.rule import ADAPTIVE, FULL
from sweeps.space_file import load_space


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path)
    parser.add_argument("--profile", default="laptop")
    parser.add_argument("--margin", type=float, help="another margin than the sweep's")
    options = parser.parse_args()
    paths = sweep_of(options.sweep)
    space = load_space(paths.space, options.profile)
    num_samples = space.baseline_config(space.first_seed).evaluation.num_samples
    stop = space.stop if options.margin is None else replace(space.stop, margin=options.margin)
    records = [record for record in Ledger(paths).records() if record.evaluations]
    candidates = [record for record in records if record.is_candidate]
    cut = sum(any(row.num_samples < num_samples for row in record.evaluations) for record in candidates)
    if cut:
        parser.error(f"{cut} candidates were not evaluated on all samples: run with full")
    metric, mode = space.objective.metric, space.objective.mode
    # Against the whole baseline: what differs is the number of samples, and nothing else.
    full, adaptive = (
        replay(records, replace(stop, evaluation=way), metric=metric, mode=mode, hindsight=True)
        for way in (FULL, ADAPTIVE)
    )
    report(full, adaptive)
    start = read_starts(paths.starts)[-1]
    print(f"\n{start['command']}; commit {start['commit'][:12]}; {describe_machine()}")


def report(full: Replay, adaptive: Replay) -> None:
    pairs = list(zip(full.courses, adaptive.courses, strict=True))
    agreed, strikes = 0, []
    for one, other in pairs:
        stopped, sooner = (course.stop.step if course.stop else None for course in (one, other))
        agreed += stopped == sooner
        strikes += [one.strikes[step] == other.strikes[step] for step in one.strikes.keys() & other.strikes.keys()]
        odd = [step for step in one.strikes if one.strikes[step] != other.strikes.get(step)]
        print(
            f"{one.trial}  full: {stopped or 'to the end'}, {one.num_sampled} samples; "
            f"adaptive: {sooner or 'to the end'}, {other.num_sampled} samples  "
            f"{'same' if stopped == sooner else 'DIFFERENT'}" + (f"; strikes differ at {odd}" if odd else "")
        )
    most, fewer = (sum(course.num_sampled for course in way.courses) for way in (full, adaptive))
    print(
        f"\ncandidates         {len(pairs)}, baseline seeds {full.num_seeds}, n = {full.num_samples}, "
        f"margin {full.config.margin:g}"
    )
    print(f"same verdict       {agreed} of {len(pairs)} candidates ({agreed / len(pairs):.1%})")
    print(f"same strike        {sum(strikes)} of {len(strikes)} evaluations ({sum(strikes) / len(strikes):.1%})")
    print(f"samples            {fewer} of {most} ({fewer / most:.1%})")


if __name__ == "__main__":
    main()
