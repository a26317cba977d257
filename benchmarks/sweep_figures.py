"""Where a sweep's time went, by its ledger: wall time, start-up, data, training, evaluation, checkpoints, memory.

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


def to_first_step_s(record: TrialRecord) -> float:
    """From the trial's suggestion to its first optimizer step: a slot's start too, where it had to wait for one."""
    first = record.evaluations[0]
    return first.time - first.data_s - first.train_s - first.eval_s - record.start.time


def main() -> None:
    paths = SweepPaths(Path(sys.argv[1]).absolute())
    records = [record for record in Ledger(paths).records() if record.evaluations]
    ends = [record.end.time for record in records if record.end]
    rows = [row for record in records for row in record.evaluations]
    costs = Costs.of([*rows, *(record.end for record in records if record.end)])
    start_s = [to_first_step_s(record) for record in records if record.evaluations[0].resumed_from == 0]
    wall_s = max(ends) - min(record.start.time for record in records)
    starts = read_starts(paths.starts)
    print(f"machine            {describe_machine()}")
    print(f"commit             {starts[-1]['commit'][:12]}, dirty: {starts[-1]['dirty']}; starts: {len(starts)}")
    print(f"trials             {len(records)}: " + ", ".join(f"{r.trial} {r.outcome}" for r in records))
    print(f"wall time          {wall_s:.0f} s from the first trial's start to the last one's end")
    images_per_s = statistics.median(row.images_per_s for row in rows)
    spent = ", ".join(f"{name} {s:.0f} s ({s / costs.total_s:.0%})" for name, s in costs.named().items())
    print(f"spent              {spent}; median {images_per_s:.0f} images/s while training")
    print(f"samples            {sum(row.num_samples for row in rows)} in {len(rows)} evaluations")
    print(f"to the first step  {', '.join(f'{s:.1f}' for s in start_s)} s from the suggestion of each trial")
    print(f"peak memory        {max(row.peak_memory_bytes for row in rows) / 2**30:.2f} GiB, the largest trial process")


if __name__ == "__main__":
    main()
