"""Where a sweep's time went, read from its ledger: wall time, start-up, training, evaluation, peak memory.

python benchmarks/sweep_figures.py results/repa-laptop-<fingerprint>
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sweeps.costs import Costs
from sweeps.ledger import Ledger, TrialRecord
from sweeps.provenance import describe_machine, read_starts
from sweeps.storage import SweepPaths
from sweeps.wording import shares


def start_up_s(record: TrialRecord) -> float:
    """From the trial's start row to its first optimizer step: a free place, processes, imports, model, caches."""
    first = record.evaluations[0]
    return first.time - first.data_s - first.train_s - first.eval_s - record.start.time


def main() -> None:
    paths = SweepPaths(Path(sys.argv[1]).absolute())
    records = [record for record in Ledger(paths).records() if record.evaluations]
    ends = [record.end.time for record in records if record.end]
    rows = [row for record in records for row in record.evaluations]
    train_s, eval_s = sum(row.train_s for row in rows), sum(row.eval_s for row in rows)
    start_s = [start_up_s(record) for record in records if record.evaluations[0].resumed_from == 0]
    wall_s = max(ends) - min(record.start.time for record in records)
    starts = read_starts(paths.starts)
    print(f"machine            {describe_machine()}")
    print(f"commit             {starts[-1]['commit'][:12]}, dirty: {starts[-1]['dirty']}; starts: {len(starts)}")
    print(f"trials             {len(records)}: " + ", ".join(f"{r.trial} {r.outcome}" for r in records))
    print(f"wall time          {wall_s:.0f} s from the first trial's start to the last one's end")
    images_per_s = statistics.median(row.images_per_s for row in rows)
    print(f"training           {train_s:.0f} s over all trials, {images_per_s:.0f} images/s")
    print(f"evaluation         {eval_s:.0f} s over all trials, {eval_s / (train_s + eval_s):.0%} of both")
    costs = Costs.of(record.costs for record in records)
    print(f"of trials' time    {shares(costs)}")
    print(f"samples            {sum(record.num_sampled for record in records)} over all evaluations")
    print(f"start-up of trials {statistics.median(start_s):.1f} s median, {min(start_s):.1f} to {max(start_s):.1f} s")
    print(f"peak memory        {max(row.peak_memory_bytes for row in rows) / 2**30:.2f} GiB, the largest trial process")


if __name__ == "__main__":
    main()
