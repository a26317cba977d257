"""A sweep's ledger as tables: its trials, their evaluations, and every look at one. docs/export.md has the columns."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sweeps.ledger import LARGEST_GAP, EvaluationRow, TrialRecord
from sweeps.usage import HOUR_S

if TYPE_CHECKING:
    import pyarrow as pa

Row = Mapping[str, Any]
TEXT, WHOLE, NUMBER, FLAG, MOMENT = "text", "integer", "number", "true or false", "time (UTC)"


@dataclass(frozen=True, kw_only=True)
class Column:
    """kind: one of those above. meaning: for people, and in the schema of a Parquet file. of: its cell in a row."""

    name: str
    kind: str
    meaning: str
    of: Callable[[Any], Any]


def _of_start(name: str) -> Callable[[TrialRecord], Any]:
    """'' is what a row says where there is nothing to say."""
    return lambda record: None if getattr(record.start, name) == "" else getattr(record.start, name)


def _of_end(name: str) -> Callable[[TrialRecord], Any]:
    return lambda record: getattr(record.end, name) if record.end else None


def _cost(name: str) -> Callable[[TrialRecord], Any]:
    return lambda record: getattr(record.costs, name)


def _verdict(name: str) -> Callable[[tuple[TrialRecord, EvaluationRow]], Any]:
    return lambda pair: pair[1].verdict.get(name) if pair[1].verdict else None


def _row(name: str) -> Callable[[tuple[TrialRecord, EvaluationRow]], Any]:
    return lambda pair: getattr(pair[1], name)


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _gap(pair: tuple[TrialRecord, EvaluationRow]) -> float | None:
    gap = _verdict("gap")(pair)
    return None if gap is None or abs(gap) >= LARGEST_GAP else gap


TRIALS = (
    Column(name="trial", kind=TEXT, meaning="name of the trial in its sweep", of=lambda record: record.trial),
    Column(name="role", kind=TEXT, meaning="baseline, candidate or confirmation", of=_of_start("role")),
    Column(name="seed", kind=WHOLE, meaning="of weights, data order and noise", of=_of_start("seed")),
    Column(name="confirms", kind=TEXT, meaning="the candidate that it trains again", of=_of_start("confirms")),
    Column(name="reused_from", kind=TEXT, meaning="the sweep that has trained it", of=_of_start("reused_from")),
    Column(name="order", kind=WHOLE, meaning="of its start among the sweep's trials", of=_of_start("order")),
    Column(
        name="outcome",
        kind=TEXT,
        meaning="finished, stopped, failed; empty while it has not ended",
        of=lambda record: record.outcome,
    ),
    Column(name="reason", kind=TEXT, meaning="why it ended so", of=_of_end("reason")),
    Column(
        name="step",
        kind=WHOLE,
        meaning="steps trained, by the ledger",
        of=lambda record: max(record.last_step, record.end.step if record.end else 0),
    ),
    Column(name="num_steps", kind=WHOLE, meaning="steps of a whole run", of=_of_start("num_steps")),
    Column(name="started", kind=MOMENT, meaning="its first start", of=lambda record: _moment(record.start.time)),
    Column(
        name="ended", kind=MOMENT, meaning="its end", of=lambda record: _moment(record.end.time if record.end else None)
    ),
    Column(name="num_evaluations", kind=WHOLE, meaning="evaluations, one a step", of=lambda r: len(r.evaluations)),
    Column(
        name="num_repeated",
        kind=WHOLE,
        meaning="evaluations that a resume has made again",
        of=lambda record: record.num_repeated,
    ),
    Column(
        name="num_sampled",
        kind=WHOLE,
        meaning="images that its evaluations have sampled",
        of=lambda record: record.num_sampled,
    ),
    Column(name="start_s", kind=NUMBER, meaning="seconds of start-up, repeated ones too", of=_cost("start_s")),
    Column(name="data_s", kind=NUMBER, meaning="seconds of waiting for batches", of=_cost("data_s")),
    Column(name="train_s", kind=NUMBER, meaning="seconds of training", of=_cost("train_s")),
    Column(name="eval_s", kind=NUMBER, meaning="seconds of evaluation", of=_cost("eval_s")),
    Column(name="checkpoint_s", kind=NUMBER, meaning="seconds of writing checkpoints", of=_cost("checkpoint_s")),
    Column(name="gpu_hours", kind=NUMBER, meaning="GPU-hours that it held", of=lambda r: r.usage.gpu_s / HOUR_S),
    Column(name="cpu_hours", kind=NUMBER, meaning="CPU-hours that it held", of=lambda r: r.usage.cpu_s / HOUR_S),
    Column(name="usd", kind=NUMBER, meaning="dollars, on nodes that have a price", of=lambda record: record.usage.usd),
    Column(name="fingerprint", kind=TEXT, meaning="of its settings", of=_of_start("fingerprint")),
    Column(name="log", kind=TEXT, meaning="where its log lies", of=_of_end("log")),
)
EVALUATIONS = (
    Column(name="trial", kind=TEXT, meaning="name of the trial in its sweep", of=lambda pair: pair[0].trial),
    Column(name="role", kind=TEXT, meaning="baseline, candidate or confirmation", of=lambda pair: pair[0].start.role),
    Column(name="seed", kind=WHOLE, meaning="of the trial", of=lambda pair: pair[0].start.seed),
    Column(name="step", kind=WHOLE, meaning="steps trained", of=_row("step")),
    Column(name="time", kind=MOMENT, meaning="when it was recorded", of=lambda pair: _moment(pair[1].time)),
    Column(name="num_samples", kind=WHOLE, meaning="samples that the metrics rest on", of=_row("num_samples")),
    Column(name="flow_loss", kind=NUMBER, meaning="flow-matching loss since the row before", of=_row("flow_loss")),
    Column(name="repa_loss", kind=NUMBER, meaning="alignment loss, of trials with REPA", of=_row("repa_loss")),
    Column(name="grad_norm", kind=NUMBER, meaning="norm of the gradient", of=_row("grad_norm")),
    Column(name="images_per_s", kind=NUMBER, meaning="images trained on in a second", of=_row("images_per_s")),
    Column(name="start_s", kind=NUMBER, meaning="start-up before it, after a start or a resume", of=_row("start_s")),
    Column(name="data_s", kind=NUMBER, meaning="waiting for batches since the row before", of=_row("data_s")),
    Column(name="train_s", kind=NUMBER, meaning="training since the row before", of=_row("train_s")),
    Column(name="eval_s", kind=NUMBER, meaning="this evaluation", of=_row("eval_s")),
    Column(name="checkpoint_s", kind=NUMBER, meaning="checkpoints since the row before", of=_row("checkpoint_s")),
    Column(name="peak_memory_bytes", kind=WHOLE, meaning="of the worker, or of its GPU", of=_row("peak_memory_bytes")),
    Column(name="resumed_from", kind=WHOLE, meaning="step of the last resume before it", of=_row("resumed_from")),
    Column(name="cpus", kind=NUMBER, meaning="CPUs that the trial held", of=_row("cpus")),
    Column(name="gpus", kind=NUMBER, meaning="GPUs that it held", of=_row("gpus")),
    Column(name="usd_per_hour", kind=NUMBER, meaning="price of what it held", of=_row("usd_per_hour")),
    Column(name="gap", kind=NUMBER, meaning="to the baseline, in spreads; above 0 is worse", of=_gap),
    Column(name="strikes", kind=WHOLE, meaning="evaluations in a row above the margin", of=_verdict("strikes")),
    Column(name="stop", kind=FLAG, meaning="whether the rule stopped it here", of=_verdict("stop")),
    Column(name="audited", kind=FLAG, meaning="whether it goes on as an audit of a stop", of=_verdict("audited")),
    Column(name="verdict", kind=TEXT, meaning="what the rule said", of=_verdict("reason")),
)
LOOKS = (
    Column(name="trial", kind=TEXT, meaning="name of the trial in its sweep", of=lambda row: row[0]),
    Column(name="step", kind=WHOLE, meaning="steps trained", of=lambda row: row[1]),
    Column(name="num_samples", kind=WHOLE, meaning="samples, the first so many of the evaluation", of=lambda r: r[2]),
    Column(name="metric", kind=TEXT, meaning="its name", of=lambda row: row[3]),
    Column(name="value", kind=NUMBER, meaning="the metric on so many samples", of=lambda row: row[4]),
)
TABLES = {"trials": TRIALS, "evaluations": EVALUATIONS, "looks": LOOKS}


def tables(records: Sequence[TrialRecord]) -> dict[str, pa.Table]:
    """'trials', 'evaluations' and 'looks'. The first has a column more for each searched setting, under its path, and
    like the second one for each metric, at the (last) evaluation.
    """
    pairs = [(record, row) for record in records for row in record.evaluations]
    metrics = list(dict.fromkeys(name for _, row in pairs for name in row.metrics))
    settings = list(dict.fromkeys(path for record in records if record.is_candidate for path in record.start.overrides))
    of_trials = [*(_setting(path) for path in settings), *(_last_metric(metric) for metric in metrics)]
    looks = [
        (record.trial, row.step, n, metric, value)
        for record, row in pairs
        for metric in metrics
        for n, value in row.scores(metric).items()
    ]
    return {
        "trials": _table([*TRIALS, *of_trials], records),
        "evaluations": _table([*EVALUATIONS, *(_metric(metric) for metric in metrics)], pairs),
        "looks": _table(LOOKS, looks),
    }


def _setting(path: str) -> Column:
    return Column(name=path, kind="", meaning="a searched setting", of=lambda record: record.start.overrides.get(path))


def _last_metric(metric: str) -> Column:
    return Column(
        name=metric,
        kind=NUMBER,
        meaning="the metric at the last evaluation",
        of=lambda record: record.evaluations[-1].metrics.get(metric) if record.evaluations else None,
    )


def _metric(metric: str) -> Column:
    return Column(
        name=metric,
        kind=NUMBER,
        meaning="the metric on num_samples samples",
        of=lambda pair: pair[1].metrics.get(metric),
    )


def _table(columns: Sequence[Column], rows: Sequence[Any]) -> pa.Table:
    import pyarrow as pa

    arrays, fields = [], []
    for column in columns:
        cells = [column.of(row) for row in rows]
        kind = column.kind or _kind_of(cells)
        if not column.kind and kind == TEXT:
            cells = [cell if cell is None or isinstance(cell, str) else json.dumps(cell) for cell in cells]
        type_ = {
            TEXT: pa.string(),
            WHOLE: pa.int64(),
            NUMBER: pa.float64(),
            FLAG: pa.bool_(),
            MOMENT: pa.timestamp("us", tz="UTC"),
        }[kind]
        arrays.append(pa.array(cells, type=type_))
        fields.append(pa.field(column.name, type_, metadata={"meaning": column.meaning}))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def _kind_of(cells: Sequence[Any]) -> str:
    kinds = {type(cell) for cell in cells if cell is not None}
    if kinds <= {int}:
        return WHOLE
    if kinds <= {int, float}:
        return NUMBER
    return FLAG if kinds == {bool} else TEXT


def as_csv(table: pa.Table) -> bytes:
    """Comma-separated, UTF-8, with a line of names; what is unknown is empty."""
    import io

    from pyarrow import csv

    content = io.BytesIO()
    csv.write_csv(table, content)
    return content.getvalue()


def as_parquet(table: pa.Table) -> bytes:
    import io

    from pyarrow import parquet

    content = io.BytesIO()
    parquet.write_table(table, content, compression="zstd")
    return content.getvalue()
