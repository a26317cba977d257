"""What happens in a sweep as JSON, for machines: `--json` prints one object a line.

EVENTS is what they hold, and the documentation (docs/commands.md) is made from it. More kinds and more fields may come;
what is there keeps its name and its meaning as long as `schema` is the same.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, TextIO

from sweeps.ledger import EvaluationRow, TrialRecord
from sweeps.readings import Reading
from sweeps.standing import Standing, TrialStanding

SCHEMA = 1

EVENTS: Mapping[str, Mapping[str, str]] = {
    "sweep": {
        "schema": "1",
        "sweep": "the name of its folder",
        "folder": "path or s3:// address of the results",
        "profile": "of the search-space file",
        "question": "of the search-space file",
        "metric": "that decides",
        "mode": "min or max: which way is better",
        "planned": "trials in all, confirmations included",
        "ended": "trials that had ended before",
    },
    "start": {
        "trial": "its name",
        "role": "baseline, candidate or confirmation",
        "seed": "of its chance",
        "settings": "what was searched: path -> value",
        "num_steps": "of the whole trial",
    },
    "evaluation": {
        "trial": "its name",
        "step": "after which it was evaluated",
        "num_steps": "of the whole trial",
        "metrics": "name -> value",
        "num_samples": "that the metrics rest on",
        "baseline": "the objective against the baseline at this step: percent, gap in spreads (above 0 is worse); null "
        "where there is nothing to compare with yet",
        "verdict": "of the stopping rule, as in the ledger; null for a baseline",
        "flow_loss": "mean since the evaluation before",
        "images_per_s": "images trained on in a second",
    },
    "interruption": {
        "trial": "its name",
        "step": "from which it goes on",
        "cause": "loss (its workers died) or notice (a machine is taken away)",
        "reason": "in words",
    },
    "end": {
        "trial": "its name",
        "outcome": "finished, stopped or failed",
        "by_hand": "whether a person has stopped it, and not the rule",
        "step": "at which it ended",
        "reason": "in words",
        "log": "path or s3:// address of its log",
    },
    "standing": {
        "sweep": "the name of its folder",
        "metric": "that decides",
        "planned": "trials in all, confirmations included",
        "states": "ended trials by outcome",
        "running": "trials: trial, config, step, num_steps, outcome ('' while it runs), reason, value, num_samples, "
        "percent, gap, images_per_s, left_s",
        "ended": "trials, the best first, with the same fields; in `status --json`, not while a sweep runs",
        "baseline": "step, mean, spread (a fraction), seeds; null before its first evaluation",
        "seeds": "of the baseline, as planned",
        "seeds_finished": "of the baseline",
        "best": "the best finished candidate, as one of `ended`; null while there is none",
        "used": "cpu_s, gpu_s, usd, unpriced_s: of all trials",
        "saved": "the same, as stopping has saved it (an estimate)",
        "cpus": "that running trials hold",
        "gpus": "that running trials hold",
        "gone_s": "since the command was given; null where nobody runs the sweep",
        "left_s": "to the end at the pace so far; null where nobody knows",
        "used_up": "the limit of the budget that is reached, in words; '' while none is",
    },
    "driver": {
        "alive": "whether a process runs the sweep; null where nobody can tell",
        "told": "who, or who did last, in words",
    },
    "answer": {
        "answer": "to the question, in a sentence",
        "complete": "whether everything has ended",
        "best": "the best candidate's name; null where none has finished",
        "page": "path or s3:// address of the page",
    },
    "exit": {
        "code": "the exit code; the last line, unless the process is killed",
        "message": "why it ended, '' where all is well",
    },
}


def event(kind: str, **fields: Any) -> dict[str, Any]:
    """Of a kind in EVENTS, with all of its fields and no other."""
    assert fields.keys() == EVENTS[kind].keys(), (kind, fields.keys() ^ EVENTS[kind].keys())
    return {"kind": kind, "time": round(time.time(), 3), **fields}


class Printer:
    """Writes events to a stream of its own: what others print in this process later goes elsewhere."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = sys.stdout if stream is None else stream

    def __call__(self, kind: str, **fields: Any) -> None:
        self.stream.write(json.dumps(event(kind, **fields), allow_nan=False) + "\n")
        self.stream.flush()


def start_fields(record: TrialRecord) -> dict[str, Any]:
    start = record.start
    settings = dict(start.overrides)
    return {
        "trial": start.trial,
        "role": start.role,
        "seed": start.seed,
        "settings": settings,
        "num_steps": start.num_steps,
    }


def evaluation_fields(record: TrialRecord, row: EvaluationRow, reading: Reading | None) -> dict[str, Any]:
    """reading: of the objective at this row's step."""
    return {
        "trial": record.trial,
        "step": row.step,
        "num_steps": record.start.num_steps,
        "metrics": dict(row.metrics),
        "num_samples": row.num_samples,
        "baseline": None
        if reading is None or (reading.percent is None and reading.gap is None)
        else {"percent": _finite(reading.percent), "gap": _finite(reading.gap)},
        "verdict": None if row.verdict is None else dict(row.verdict),
        "flow_loss": row.flow_loss,
        "images_per_s": row.images_per_s,
    }


def end_fields(record: TrialRecord) -> dict[str, Any]:
    end = record.end
    assert end is not None, record.trial
    own = {"trial": end.trial, "outcome": end.outcome, "by_hand": end.by_hand}
    return {**own, "step": end.step, "reason": end.reason, "log": end.log}


def standing_fields(standing: Standing, *, with_ended: bool) -> dict[str, Any]:
    return {
        "sweep": standing.sweep,
        "metric": standing.metric,
        "planned": standing.planned,
        "states": dict(standing.states),
        "running": [_trial(trial) for trial in standing.running],
        "ended": [_trial(trial) for trial in standing.ended] if with_ended else [],
        "baseline": None if standing.baseline is None else asdict(standing.baseline),
        "seeds": standing.seeds,
        "seeds_finished": standing.seeds_finished,
        "best": None if standing.best is None else _trial(standing.best),
        "used": asdict(standing.used),
        "saved": asdict(standing.saved),
        "cpus": standing.cpus,
        "gpus": standing.gpus,
        "gone_s": standing.gone_s,
        "left_s": standing.left_s,
        "used_up": standing.used_up,
    }


def _trial(trial: TrialStanding) -> dict[str, Any]:
    reading = trial.reading
    return {
        "trial": trial.trial,
        "config": trial.config,
        "step": trial.step,
        "num_steps": trial.num_steps,
        "outcome": trial.outcome,
        "reason": trial.reason,
        "value": None if reading is None else reading.value,
        "num_samples": None if reading is None else reading.estimate.num_samples,
        "percent": None if reading is None else _finite(reading.percent),
        "gap": None if reading is None else _finite(reading.gap),
        "images_per_s": trial.images_per_s,
        "left_s": trial.left_s,
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
