"""The ledger's rows in S3: none lost, none twice, whatever the network does; and read with few requests."""

from __future__ import annotations

import json
import threading
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from prx_model.data.patience import StorageError
from sweeps.ledger import End, Ledger, TrialRecord
from sweeps.object_path import ObjectPath, client
from sweeps.rows_kept import RowsInStorage
from sweeps.storage import SweepPaths
from tests.flaky_server import Troubles
from tests.sweeps.lab import Lab

BASELINE = "baseline-seed0"


@pytest.fixture
def lab(stored: ObjectPath, tmp_path: Path) -> Lab:
    return Lab(stored, candidates=2, cache=tmp_path / "cache")


def _timeless(record: TrialRecord) -> TrialRecord:
    rows = tuple(replace(row, time=0.0) for row in record.evaluations)
    end = record.end and replace(record.end, time=0.0, log="")
    return replace(record, start=replace(record.start, time=0.0), evaluations=rows, end=end)


def test_a_ledger_in_s3_and_one_on_a_disk_say_the_same(lab, tmp_path):
    disk = Lab(tmp_path, candidates=2)
    for one in (lab, disk):
        one.baselines(1.0, 1.01)
        one.judged("candidate-000", (1.5, 1.5, 1.5, 1.5, 1.5))
        one.trial("candidate-0001", 0.9, outcome=None, until=80)
    ours, theirs = lab.ledger.records(), disk.ledger.records()
    assert [record.trial for record in ours] == [BASELINE, "baseline-seed1", "candidate-000", "candidate-0001"]
    assert list(map(_timeless, ours)) == list(map(_timeless, theirs))
    assert lab.ledger.record("candidate-000") == ours[2]  # and not the one whose name goes on
    assert lab.ledger.record("candidate-00") is None


@pytest.mark.parametrize("coming", [["lost"], ["slow", "lost"], ["lost", "slow", "lost"]])
def test_a_row_whose_answer_was_lost_stands_there_once(stored, troubles: Troubles, coming):
    rows = RowsInStorage(stored / "ledger")
    rows.append("a", b"1\n")
    troubles.of, troubles.coming = ("PUT",), coming.copy()
    rows.append("a", b"2\n")
    rows.append("a", b"3\n")
    assert troubles.coming == []
    for reader in (rows, RowsInStorage(stored / "ledger")):
        assert reader.of("a") == [b"1\n", b"2\n", b"3\n"]


def test_a_row_that_could_not_be_written_is_told_and_the_next_writer_goes_on(stored, troubles: Troubles):
    rows = RowsInStorage(stored / "ledger")
    rows.append("a", b"1\n")
    troubles.of, troubles.coming = ("PUT",), ["slow"] * 99
    with pytest.raises(StorageError, match=rf"^{stored}/ledger/a/000001.jsonl could not be written in 4 tries"):
        rows.append("a", b"2\n")
    troubles.coming = []
    assert rows.of("a") == [b"1\n"]
    # All of whose tries were lost, though they came through: the row is there, and is written again by who resumes.
    troubles.coming = ["lost"] * 99
    with pytest.raises(StorageError):
        rows.append("a", b"2\n")
    troubles.coming = []
    RowsInStorage(stored / "ledger").append("a", b"2 again\n")
    rows.append("a", b"3\n")
    assert rows.of("a") == [b"1\n", b"2\n", b"2 again\n", b"3\n"]


def test_writers_side_by_side_lose_nothing_and_keep_their_own_order(stored):
    begin = threading.Barrier(2)

    def write(name: str) -> None:
        rows = RowsInStorage(stored / "ledger")
        begin.wait()
        for i in range(15):
            rows.append("a", f"{name} {i}\n".encode())

    writers = [threading.Thread(target=write, args=(name,)) for name in "xy"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    lines = RowsInStorage(stored / "ledger").of("a")
    for name in "xy":
        assert [line for line in lines if line.startswith(name.encode())] == [
            f"{name} {i}\n".encode() for i in range(15)
        ]
    assert len(lines) == 30


def test_a_reading_is_one_listing_and_what_is_new(lab, troubles: Troubles):
    lab.baselines(1.0, 1.01)
    lab.ledger.records()
    troubles.requests.clear()
    assert len(Ledger(lab.paths).records()) == 2
    assert [path for path in troubles.requests if "list-type=2" not in path] == []
    assert len(troubles.requests) == 1
    another = Ledger(SweepPaths(lab.paths.root))
    path = lab.paths.ledger / BASELINE / "000007.jsonl"
    row = End(trial=BASELINE, outcome="failed", step=9, reason="r", log="l")
    client().pipe_file(f"{path.bucket}/{path.key}", json.dumps(asdict(row)).encode())  # by another process
    troubles.requests.clear()
    record = another.record(BASELINE)
    assert record is not None
    assert record.end == row
    assert len(troubles.requests) == 2


def test_a_sweep_is_read_where_it_was_copied_to_and_goes_on_there(lab, stored, tmp_path):
    lab.baselines(1.0, 1.01)
    lab.trial("candidate-000", 0.9, outcome=None, until=80)
    files = client()
    files.get(f"{stored.bucket}/{lab.paths.root.key}/", f"{tmp_path}/here/", recursive=True)
    here = Ledger(SweepPaths(tmp_path / "here"))
    assert here.records() == lab.ledger.records()
    end = End(trial="candidate-000", outcome="finished", step=80, reason="r", log="l")
    here.append(end)
    assert here.record("candidate-000").end == end

    disk = Lab(tmp_path, candidates=2)
    disk.baselines(1.0)
    files.put(f"{disk.paths.root}/", f"{stored.bucket}/there/", recursive=True)
    there = Ledger(SweepPaths(ObjectPath(stored.bucket, "there", stored.pauses_s)))
    assert there.records() == disk.ledger.records()
    there.append(End(trial=BASELINE, outcome="failed", step=80, reason="r", log="l"))
    assert there.record(BASELINE).outcome == "failed"
