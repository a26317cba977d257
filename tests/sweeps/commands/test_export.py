"""A sweep in the forms of others: Optuna's storage, CSV, Parquet, and a whole diffusers folder."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import optuna
import pyarrow.parquet as pq
import pytest
from optuna.trial import TrialState

from sweeps import tables
from sweeps.ledger import FAILED, STOPPED, End, Ledger
from sweeps.locations import write_whole
from sweeps.main import main
from sweeps.optuna_export import export_study
from sweeps.provenance import append_start
from tests.sweeps.lab import OBJECTIVE, OTHER, START, STEPS, Lab

ROOT = Path(__file__).parents[3]


@pytest.fixture
def lab(tmp_path) -> Lab:
    """Every way in which a trial can stand: finished and confirmed, stopped, failed, begun; and a reused baseline."""
    lab = Lab(tmp_path / "results", candidates=5, seeds=3, confirm=1)
    lab.baselines(1.0, 1.02)
    lab.trial("baseline-seed2", 0.99, role="baseline", seed=2, overrides={"repa": None}, reused_from="repa-other")
    lab.trial("candidate-000", 0.8)
    lab.judged("candidate-001", [1.3, 1.4, 1.4, 1.4, 1.4])
    lab.trial("candidate-002", 0.9, until=40, outcome=FAILED, reason="diverged: loss is nan", end_step=57)
    lab.trial("candidate-003", 0.95, outcome=None, until=80)
    lab.confirmations("candidate-000", 0.82, 0.81)
    append_start(lab.paths.starts, START)
    write_whole(lab.paths.space, (ROOT / "search_spaces" / "repa.yaml").read_bytes())
    return lab


def _study(address: str, name: str) -> optuna.Study:
    return optuna.load_study(storage=address, study_name=name)


@pytest.mark.parametrize("file", ["study.db", "study.log"])
def test_the_study_says_how_every_trial_stands(lab, tmp_path, file):
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    address = str(tmp_path / file)
    for _ in range(2):  # an export takes the place of the one before
        name, seeds = export_study(lab.space, lab.paths, address)
    assert name == lab.paths.root.name
    storage = JournalStorage(JournalFileBackend(address)) if file.endswith("log") else f"sqlite:///{address}"
    study = optuna.load_study(storage=storage, study_name=name)
    states = [trial.state for trial in study.trials]
    assert states == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING]
    record = Ledger(lab.paths).record("candidate-000")
    assert record is not None
    first, stopped, failed, running = study.trials
    assert first.value == record.evaluations[-1].metrics[OBJECTIVE]
    assert first.intermediate_values == record.values(OBJECTIVE)
    assert tuple(first.intermediate_values) == STEPS
    assert first.params == dict(record.start.overrides)
    assert (study.best_trial.number, study.best_params["repa.weight"]) == (0, 0.4217)
    told = first.user_attrs
    assert (told["trial"], told["seed"], told["outcome"]) == ("candidate-000", 0, "finished")
    assert told[OTHER] == record.evaluations[-1].metrics[OTHER]
    assert told["confirmed_seeds"] == [0, 1, 2]
    assert "95 % interval" in told["confirmed_interval"]
    assert told["gap_spreads"] < -2
    assert first.datetime_start is not None
    assert first.datetime_start.timestamp() == pytest.approx(record.start.time, abs=1e-3)
    assert "above the margin" in stopped.user_attrs["reason"]
    assert stopped.last_step == 80
    assert failed.user_attrs["reason"] == "diverged: loss is nan"
    assert failed.user_attrs["steps"] == "57/200"
    assert running.intermediate_values.keys() == {40, 80}
    about = study.user_attrs
    assert about["question"] == "Which teacher wins?"
    assert about["baseline"][OBJECTIVE]["seeds"] == 3
    assert about["started"]["commit"] == "0123abcd"
    assert [name for name in optuna.get_all_study_names(storage) if name.startswith("repa")] == [name, seeds]
    runs = optuna.load_study(storage=storage, study_name=seeds).trials
    assert [(run.params["run"], run.params["seed"]) for run in runs] == [
        ("baseline", 0),
        ("baseline", 1),
        ("baseline", 2),
        ("candidate-000", 1),
        ("candidate-000", 2),
    ]
    assert runs[2].user_attrs["reused_from"] == "repa-other"


def test_a_study_of_somebody_else_is_left_alone(lab, tmp_path, capsys):
    address = f"sqlite:///{tmp_path / 'study.db'}"
    theirs = optuna.create_study(storage=address, study_name=lab.paths.root.name)
    theirs.enqueue_trial({"x": 1})
    assert main(["export", str(lab.paths.root), "--optuna", address]) == 2
    error = capsys.readouterr().err
    assert "that this command has not made; allowed is another storage" in error
    assert error.count("\n") == 1
    assert len(_study(address, lab.paths.root.name).trials) == 1


def test_tables_hold_what_the_ledger_holds(lab, tmp_path, capsys):
    to = tmp_path / "tables"
    assert main(["export", str(lab.paths.root), "--csv", str(to), "--parquet", str(to)]) == 0
    assert {file.name for file in to.iterdir()} == {f"{name}.{e}" for name in tables.TABLES for e in ("csv", "parquet")}
    assert "evaluations.parquet  " in capsys.readouterr().out
    records = {record.trial: record for record in Ledger(lab.paths).records()}
    trials = {row["trial"]: row for row in pq.read_table(to / "trials.parquet").to_pylist()}
    assert list(trials) == list(records)
    for name, record in records.items():
        assert trials[name]["seed"] == record.start.seed
        assert trials[name]["train_s"] == pytest.approx(record.costs.train_s)
        assert trials[name][OBJECTIVE] == record.evaluations[-1].metrics[OBJECTIVE]
    assert trials["candidate-002"]["outcome"] == FAILED
    assert trials["candidate-002"]["step"] == 57
    assert trials["candidate-001"]["outcome"] == STOPPED
    assert trials["candidate-003"]["outcome"] is None
    assert trials["candidate-003"]["ended"] is None
    assert trials["candidate-000"]["repa.teacher"] == "dinov2s_saliency"
    assert (trials["candidate-000"]["repa.depth"], trials["candidate-000"]["repa.weight"]) == (1, 0.4217)
    assert trials["baseline-seed0"]["repa.depth"] is None
    assert trials["candidate-000-seed1"]["confirms"] == "candidate-000"
    evaluations = pq.read_table(to / "evaluations.parquet")
    assert evaluations.num_rows == sum(len(record.evaluations) for record in records.values())
    last = [row for row in evaluations.to_pylist() if row["trial"] == "candidate-001"][-1]
    assert (last["step"], last["stop"], last["audited"]) == (80, True, False)
    assert last["gap"] > 2
    assert last["num_samples"] == 384
    looks = pq.read_table(to / "looks.parquet").to_pylist()
    assert sum(row["trial"] == "candidate-000" and row["metric"] == OTHER for row in looks) == len(STEPS) * 4
    for name in tables.TABLES:
        table = pq.read_table(to / f"{name}.parquet")
        with (to / f"{name}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == table.column_names
        assert len(rows) == table.num_rows
        assert all(field.metadata[b"meaning"] for field in table.schema)


def test_a_sweep_without_an_evaluation_has_tables(tmp_path):
    lab = Lab(tmp_path, candidates=1)
    lab.trial("baseline-seed0", 1.0, role="baseline", outcome=None, until=0)
    lab.ledger.append(End(trial="baseline-seed0", outcome=FAILED, step=0, reason="no data", log=""))
    found = tables.tables(lab.ledger.records())
    assert [found[name].num_rows for name in ("trials", "evaluations", "looks")] == [1, 0, 0]


def test_settings_of_several_kinds_keep_what_they_are(tmp_path):
    lab = Lab(tmp_path, candidates=3)
    for name, value in (("candidate-000", 1), ("candidate-001", 0.5), ("candidate-002", 2)):
        lab.trial(name, 1.0, overrides={"a": value, "b": value if value != 2 else "two", "c": value > 1})
    trials = tables.tables(lab.ledger.records())["trials"].to_pylist()
    assert [row["a"] for row in trials] == [1.0, 0.5, 2.0]
    assert [row["b"] for row in trials] == ["1", "0.5", "two"]
    assert [row["c"] for row in trials] == [False, False, True]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], "nothing to write: give at least one of --optuna, --csv, --parquet, --diffusers"),
        (["--optuna", "/nowhere/study.db"], "unable to open database file"),
        (["--diffusers", "model"], "no checkpoint of it"),
        (["--diffusers", "model", "--trial", "candidate-9"], "it has no trial 'candidate-9'"),
    ],
)
def test_what_cannot_be_exported_is_one_line(lab, capsys, tmp_path, options, told):
    assert main(["export", str(lab.paths.root), *options]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_the_columns_are_documented():
    """docs/export.md names every column of every table, in order, with its kind and meaning."""
    text = (ROOT / "docs" / "export.md").read_text()
    for name, columns in tables.TABLES.items():
        section = text.partition(f"### {name}\n")[2].partition("\n### ")[0]
        told = re.findall(r"^\| `([\w.]+)` \| ([^|]+) \| ([^|]+) \|$", section, flags=re.MULTILINE)
        assert told == [(column.name, column.kind, column.meaning) for column in columns]
