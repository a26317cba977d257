from __future__ import annotations

import errno
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeps.costs import Costs
from sweeps.ledger import (
    BASELINE,
    CANDIDATE,
    FAILED,
    FINISHED,
    LOSS,
    NOTICE,
    STOPPED,
    End,
    EvaluationRow,
    Interruption,
    Ledger,
    LedgerError,
    Start,
    baseline_curves,
    verdict_row,
)
from sweeps.rule import Verdict
from sweeps.space import SpaceError
from sweeps.storage import SweepPaths
from sweeps.usage import Usage

ROOT = Path(__file__).parents[2]


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    paths = SweepPaths(tmp_path / "sweep")
    paths.create()
    return Ledger(paths)


def start_row(trial="candidate-000", role=CANDIDATE, **change) -> Start:
    row = Start(trial=trial, role=role, seed=3, overrides={"repa.weight": 0.1}, fingerprint="abc", num_steps=100)
    return replace(row, **change)


def evaluation_row(step: int, trial="candidate-000", fid=10.0, **change) -> EvaluationRow:
    row = EvaluationRow(
        trial=trial,
        step=step,
        metrics={"fid": fid, "cmmd": 0.5},
        num_samples=64,
        flow_loss=0.25,
        repa_loss=-0.125,
        grad_norm=1.5,
        images_per_s=100.0,
        train_s=2.0,
        eval_s=0.5,
        peak_memory_bytes=2**30,
        resumed_from=0,
        verdict=verdict_row(Verdict(stop=False, reason="fine", gap=-0.5)),
    )
    return replace(row, **change)


def end_row(trial="candidate-000", outcome=FINISHED, **change) -> End:
    return replace(End(trial=trial, outcome=outcome, step=100, reason="trained all", log="x.log"), **change)


def interruption_row(time: float, **change) -> Interruption:
    row = Interruption(trial="candidate-000", cause=LOSS, step=20, reason="killed by signal 9", time=time)
    return replace(row, **change)


def test_every_kind_of_row_comes_back_as_it_was(ledger):
    rows = [
        start_row(order=0, overrides={"repa.teacher": "dinov2", "repa.depth": 3, "repa": None, "list": [0.1, 1e-30]}),
        evaluation_row(10, fid=0.1 + 0.2),
        evaluation_row(20, repa_loss=None, verdict=None),
        interruption_row(1.5),
        end_row(reason='a "quote", a\nnewline and a smile \N{GRINNING FACE}'),
    ]
    for row in rows:
        ledger.append(row)
    assert ledger.rows("candidate-000") == rows
    assert ledger.paths.trial_ledger("candidate-000").read_bytes().count(b"\n") == len(rows)


def test_a_trial_without_a_file_has_no_rows(ledger):
    assert ledger.rows("candidate-000") == []
    assert ledger.record("candidate-000") is None
    assert ledger.records() == []
    assert ledger.trials() == []
    assert baseline_curves(ledger.records(), "fid") == []


def test_a_file_torn_at_any_byte_is_readable_and_repaired_by_the_next_row(ledger, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # a thousand of them are slow and prove nothing here
    rows = [start_row(order=0), evaluation_row(10), evaluation_row(20), end_row()]
    for row in rows:
        ledger.append(row)
    path = ledger.paths.trial_ledger("candidate-000")
    whole = path.read_bytes()
    line_ends = [position for position, byte in enumerate(whole) if byte == ord("\n")]
    again = evaluation_row(30)
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        # A line is there as soon as its closing brace is, newline or not.
        expected = rows[: sum(length >= line_end for line_end in line_ends)]
        assert ledger.rows("candidate-000") == expected, length
        ledger.append(again)
        assert ledger.rows("candidate-000") == [*expected, again], length
        assert path.read_bytes().endswith(b"\n")


def test_torn_twice_loses_the_torn_rows_only(ledger):
    ledger.append(start_row())
    path = ledger.paths.trial_ledger("candidate-000")
    for step in (10, 20):
        with path.open("ab") as file:
            file.write(b'{"trial":"candidate-000","step":')
        ledger.append(evaluation_row(step))
    record = ledger.record("candidate-000")
    assert [row.step for row in record.evaluations] == [10, 20]


def test_bytes_that_a_power_cut_leaves_behind_are_skipped(ledger):
    ledger.append(start_row())
    path = ledger.paths.trial_ledger("candidate-000")
    with path.open("ab") as file:
        file.write(b"\x00" * 50 + b"\xff\xfe")
    ledger.append(evaluation_row(10))
    assert [row.kind for row in ledger.rows("candidate-000")] == ["start", "evaluation"]


def test_a_line_of_another_version_is_an_error_that_names_the_file(ledger):
    ledger.append(start_row())
    path = ledger.paths.trial_ledger("candidate-000")
    for line in ('{"kind":"pause"}', '{"kind":"end","unknown":1}', '{"trial":"x"}'):
        path.write_text(line + "\n")
        with pytest.raises(LedgerError, match=r"candidate-000\.jsonl: not a row"):
            ledger.rows("candidate-000")


WHOLE = [start_row(order=0), evaluation_row(10), evaluation_row(20), end_row()]


@settings(max_examples=300)
@given(st.data())
def test_a_hole_of_zeros_or_garbage_takes_the_rows_that_it_touches_and_no_others(data):
    """What a power cut leaves of blocks that were promised to the disk."""
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(SweepPaths(Path(folder)))
        ledger.paths.ledger.mkdir()
        lines = [json.dumps(asdict(row), separators=(",", ":")).encode() for row in WHOLE]
        content = b"".join(line + b"\n" for line in lines)
        first = data.draw(st.integers(0, len(content)))
        last = data.draw(st.integers(first, len(content)))
        byte = data.draw(st.sampled_from([b"\x00", b"\xff", b"\n"]))
        damaged = content[:first] + byte * (last - first) + content[last:]
        ledger.paths.trial_ledger("candidate-000").write_bytes(damaged)
        whole = [row for row, line in zip(WHOLE, lines, strict=True) if line in damaged.split(b"\n")]
        assert ledger.rows("candidate-000") == whole
        ledger.record("candidate-000")


def test_after_a_resume_the_later_row_wins_and_both_are_paid_for(ledger):
    ledger.append(start_row())
    for row in (
        evaluation_row(10, fid=9.0),
        evaluation_row(20, fid=8.0, train_s=100.0, eval_s=10.0),
        evaluation_row(20, fid=7.0, resumed_from=10),
        evaluation_row(30, fid=6.0, resumed_from=10),
    ):
        ledger.append(row)
    record = ledger.record("candidate-000")
    assert record.curve("fid") == {10: {64: 9.0}, 20: {64: 7.0}, 30: {64: 6.0}}
    assert [row.resumed_from for row in record.evaluations] == [0, 10, 10]
    assert record.num_repeated == 1
    assert record.spent_s == pytest.approx(3 * 2.5 + 110)
    assert (record.last_step, record.outcome, record.end) == (30, None, None)


def test_an_interruption_that_is_written_twice_counts_once(ledger):
    told = [interruption_row(1.0), interruption_row(2.0, cause=NOTICE), interruption_row(1.0, step=40)]
    for row in [start_row(), *told]:
        ledger.append(row)
    record = ledger.record("candidate-000")
    assert [(one.time, one.cause) for one in record.interruptions] == [(1.0, LOSS), (2.0, NOTICE)]
    assert (record.costs.total_s, record.usage) == (0.0, Usage())


def test_evaluations_are_in_order_of_step(ledger):
    ledger.append(start_row())
    for step in (30, 10, 20):
        ledger.append(evaluation_row(step))
    assert list(ledger.record("candidate-000").curve("fid")) == [10, 20, 30]


def test_a_curve_holds_the_steps_that_have_the_metric(ledger):
    ledger.append(start_row())
    ledger.append(evaluation_row(10))
    ledger.append(evaluation_row(20, metrics={"cmmd": 0.25}))
    record = ledger.record("candidate-000")
    assert record.curve("fid") == {10: {64: 10.0}}
    assert record.curve("cmmd") == {10: {64: 0.5}, 20: {64: 0.25}}
    assert record.values("cmmd") == {10: 0.5, 20: 0.25}


def test_a_trial_is_known_from_its_start_row_on(ledger):
    ledger.append(evaluation_row(10))
    assert ledger.record("candidate-000") is None
    ledger.append(start_row())
    assert ledger.record("candidate-000").last_step == 10
    assert ledger.record("candidate-000").trial == "candidate-000"


def test_records_are_in_the_order_of_their_start(ledger):
    for trial, time in (("b", 3.0), ("a", 2.0), ("d", 1.0), ("c", 2.0)):  # whatever a clock says that goes back
        ledger.append(start_row(trial, time=time))
    assert ledger.trials() == ["b", "a", "d", "c"]
    assert [record.start.order for record in ledger.records()] == [0, 1, 2, 3]


def test_starts_of_an_older_ledger_come_first_in_the_order_of_their_time(ledger):
    for trial, time in (("b", 3.0), ("a", 2.0), ("c", 2.0)):
        old = asdict(start_row(trial, time=time))
        del old["order"]
        ledger.paths.trial_ledger(trial).write_text(json.dumps(old) + "\n")
    ledger.append(start_row("0", time=1.0))
    ledger.append(start_row("1", time=0.0))
    assert ledger.trials() == ["a", "c", "b", "0", "1"]


def test_a_clock_that_goes_back_changes_no_row_and_no_cost(ledger):
    ledger.append(start_row(time=1000.0))
    for step, time in ((10, 999.0), (20, 1001.0), (20, 500.0), (30, 0.0)):
        ledger.append(evaluation_row(step, fid=step + time / 1e6, time=time))
    ledger.append(end_row(time=-5.0))
    record = ledger.record("candidate-000")
    assert [(row.step, row.time) for row in record.evaluations] == [(10, 999.0), (20, 500.0), (30, 0.0)]
    assert record.spent_s == 4 * 2.5
    assert record.outcome == FINISHED


def test_baseline_curves_are_those_of_baselines_that_have_not_failed(ledger):
    for number, outcome in enumerate((FINISHED, FAILED, None, STOPPED)):
        ledger.append(start_row(f"baseline-seed{number}", BASELINE, time=float(number)))
        ledger.append(evaluation_row(10, f"baseline-seed{number}", fid=float(number)))
        if outcome:
            ledger.append(end_row(f"baseline-seed{number}", outcome))
    ledger.append(start_row("candidate-000"))
    ledger.append(evaluation_row(10, "candidate-000", fid=99.0))
    assert baseline_curves(ledger.records(), "fid") == [{10: {64: 0.0}}, {10: {64: 2.0}}, {10: {64: 3.0}}]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", ["fid", "flow_loss"])
def test_what_is_no_number_is_refused_and_leaves_no_trace(ledger, value, place):
    row = evaluation_row(10, fid=value) if place == "fid" else evaluation_row(10, flow_loss=value)
    ledger.append(start_row())
    with pytest.raises(ValueError, match=f"^{place} is {value}; allowed are finite numbers"):
        ledger.append(row)
    assert [row.kind for row in ledger.rows("candidate-000")] == ["start"]


def test_a_write_cut_short_by_a_full_disk_is_an_error(ledger, monkeypatch):
    ledger.append(start_row())
    write, path = os.write, ledger.paths.trial_ledger("candidate-000")
    for room in (1, 20):
        left = [room]

        def write_what_fits(descriptor, data, left=left):
            if not left[0]:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written = write(descriptor, data[: left[0]])
            left[0] -= written
            return written

        monkeypatch.setattr(os, "write", write_what_fits)
        with pytest.raises(OSError, match=rf"No space left on device: '{path}'"):
            ledger.append(evaluation_row(10))
        monkeypatch.undo()
        assert [row.kind for row in ledger.rows("candidate-000")] == ["start"]
    ledger.append(evaluation_row(20))
    assert ledger.record("candidate-000").values("fid")[20] == 10.0


def test_infinite_gaps_fit_into_a_row():
    assert verdict_row(None) is None
    assert verdict_row(Verdict(stop=True, reason="", gap=math.inf))["gap"] == 1e9
    assert verdict_row(Verdict(stop=False, reason="", gap=-math.inf))["gap"] == -1e9
    assert verdict_row(Verdict(stop=False, reason="", gap=None))["gap"] is None
    endless = Verdict(stop=True, reason="", gap=-math.inf, margin=math.inf, struck=(10, 20))
    row = verdict_row(endless)
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    assert (row["margin"], row["struck"]) == (1e9, [10, 20])


WRITER = """
import sys
from pathlib import Path
from sweeps.ledger import Ledger, Start, EvaluationRow
from sweeps.storage import SweepPaths
from sweeps.usage import Usage
ledger, trial, count = Ledger(SweepPaths(Path(sys.argv[1]))), sys.argv[2], int(sys.argv[3])
ledger.append(Start(trial=trial, role="candidate", seed=0, overrides={}, fingerprint="f", num_steps=1))
for step in range(1, count + 1):
    ledger.append(EvaluationRow(trial=trial, step=step, metrics={"fid": step / 7, "pad": 0.1}, num_samples=1,
        flow_loss=0.0, repa_loss=None, grad_norm=0.0, images_per_s=0.0, train_s=0.0, eval_s=0.0,
        peak_memory_bytes=0, resumed_from=0))
    print(step, flush=True)
"""


def _writer(ledger, trial, count) -> subprocess.Popen:
    command = [sys.executable, "-c", WRITER, str(ledger.paths.root), trial, str(count)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_two_processes_write_side_by_side(ledger):
    writers = [_writer(ledger, f"candidate-{number:03d}", 40) for number in range(2)]
    assert [(writer.communicate()[0].split()[-1], writer.returncode) for writer in writers] == [("40", 0)] * 2
    for record in ledger.records():
        assert record.values("fid") == {step: step / 7 for step in range(1, 41)}
        assert record.num_repeated == 0


def test_a_killed_writer_leaves_every_row_that_it_had_acknowledged(ledger):
    writer = _writer(ledger, "candidate-000", 1_000_000)
    acknowledged = [int(writer.stdout.readline()) for _ in range(50)]
    os.kill(writer.pid, signal.SIGKILL)
    acknowledged += [int(line) for line in writer.stdout.read().split()]
    assert writer.wait() == -signal.SIGKILL
    steps = list(ledger.record("candidate-000").curve("fid"))
    assert steps == list(range(1, len(steps) + 1))
    # The row after the last acknowledged one may be there too.
    assert len(steps) - len(acknowledged) in (0, 1)
    ledger.append(evaluation_row(10**6, fid=1.0))
    assert ledger.record("candidate-000").last_step == 10**6


def test_paths_lie_in_the_sweeps_folder_and_differ():
    paths = SweepPaths(Path("/results/x"))
    own = [paths.ledger, paths.trials, paths.tune, paths.samples, paths.logs, paths.space, paths.starts, paths.lock]
    own += [paths.page, paths.best_model]
    for trial in ("baseline-seed0", "candidate-000"):
        own += [paths.trial_ledger(trial), paths.trial_log(trial), paths.trial_folder(trial), paths.heartbeat(trial)]
        own += [paths.sample_grid(trial, 5), paths.sample_grid(trial, 6)]
    assert len(set(own)) == len(own)
    assert all(path.is_relative_to("/results/x") for path in own)


def test_a_folder_that_cannot_be_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SpaceError, match=r"^--results: cannot write to .*; allowed is a writable folder$"):
        SweepPaths(tmp_path / "file" / "sweep").create()


LOOKS = {"16": {"fid": 12.0}, "32": {"fid": 11.0, "cmmd": 0.6}, "64": {"fid": 10.0, "cmmd": 0.5}}


def test_every_look_comes_back(ledger):
    ledger.append(start_row())
    ledger.append(evaluation_row(10, nested=LOOKS, start_s=3.5, data_s=0.25, checkpoint_s=0.125))
    fewer = {n: LOOKS[n] for n in ("16", "32")}
    ledger.append(evaluation_row(20, nested=fewer, num_samples=32, metrics=LOOKS["32"]))
    ledger.append(evaluation_row(30, nested={"16": LOOKS["16"]}, num_samples=16, metrics=LOOKS["16"]))
    record = ledger.record("candidate-000")
    assert record.evaluations[0].scores("fid") == {16: 12.0, 32: 11.0, 64: 10.0}
    assert list(record.evaluations[0].scores("fid")) == [16, 32, 64]
    assert record.curve("fid") == {10: {16: 12.0, 32: 11.0, 64: 10.0}, 20: {16: 12.0, 32: 11.0}, 30: {16: 12.0}}
    assert record.values("fid") == {10: 10.0, 20: 11.0, 30: 12.0}
    # A metric that needs more samples than the smallest look has is away there, and a step without it is no step.
    assert record.curve("cmmd") == {10: {32: 0.6, 64: 0.5}, 20: {32: 0.6}}
    assert record.num_sampled == 64 + 32 + 16


OLD_ROWS = """
{"trial":"candidate-000","role":"candidate","seed":0,"overrides":{},"fingerprint":"f","num_steps":300,"kind":"start","time":1.0}
{"trial":"candidate-000","step":75,"metrics":{"fid":5.5,"cmmd":0.5},"num_samples":192,"flow_loss":1.2,"repa_loss":-0.5,"grad_norm":0.6,"images_per_s":58.5,"train_s":20.5,"eval_s":7.5,"peak_memory_bytes":13,"resumed_from":0,"verdict":{"stop":false,"reason":"1.1 spreads worse","judged_step":75,"value":5.5,"baseline_mean":5.4,"spread":0.01,"seeds":2,"gap":1.1,"strikes":0},"kind":"evaluation","time":2.0}
{"trial":"candidate-000","outcome":"finished","step":300,"reason":"trained all 300 steps","log":"x.log","kind":"end","time":3.0}
""".strip()  # noqa: E501


def test_rows_of_a_ledger_without_looks_still_load(ledger):
    ledger.paths.trial_ledger("candidate-000").write_text(OLD_ROWS + "\n")
    record = ledger.record("candidate-000")
    assert record.curve("fid") == {75: {192: 5.5}}
    assert record.evaluations[0].nested == {}
    assert record.costs == Costs(train_s=20.5, eval_s=7.5)
    assert (record.spent_s, record.num_sampled, record.outcome) == (28.0, 192, FINISHED)


def test_all_of_a_trials_time_is_counted(ledger):
    ledger.append(start_row())
    ledger.append(evaluation_row(10, start_s=7.0, data_s=1.0))
    ledger.append(evaluation_row(20, checkpoint_s=0.5))
    ledger.append(evaluation_row(20, start_s=4.0, data_s=1.0))  # again, after a resume
    ledger.append(end_row(checkpoint_s=0.25))
    record = ledger.record("candidate-000")
    assert record.costs == Costs(start_s=11.0, data_s=2.0, train_s=6.0, eval_s=1.5, checkpoint_s=0.75)
    assert record.spent_s == 21.25


def test_a_look_that_is_no_number_is_named(ledger):
    row = evaluation_row(10, nested={"16": {"fid": math.nan}, "64": {"fid": 10.0}})
    with pytest.raises(ValueError, match=r"^fid \(n=16\) is nan; allowed are finite numbers"):
        ledger.append(row)
