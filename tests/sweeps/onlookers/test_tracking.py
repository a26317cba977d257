"""Trackers: what the ledger says, once each, whenever the sweep is killed; TensorBoard and MLflow as they are."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from sweeps.config import ConfigError
from sweeps.ledger import FAILED, STOPPED, EvaluationRow, TrialRecord
from sweeps.onlookers.trackers import MLflow, TensorBoard, Trackers, Wandb, check_installed, trackers_of
from sweeps.onlookers.tracking import FIRST_PAUSE_S, Known, Tracking, trackings
from sweeps.space import SearchSpace
from sweeps.storage import SweepPaths
from tests.sweeps.lab import OBJECTIVE, OTHER, STEPS, Lab
from tests.sweeps.space_files import message_of, put, space_of


@pytest.fixture
def lab(tmp_path) -> Lab:
    lab = Lab(tmp_path / "results", candidates=4)
    lab.baselines(1.0, 1.02)
    lab.judged("candidate-000", [1.3, 1.4, 1.4, 1.4, 1.4])
    lab.trial("candidate-001", 0.9, until=40, outcome=FAILED, reason="diverged: loss is nan")
    lab.trial("candidate-002", 0.8, until=80, outcome=None)
    return lab


def space_with(lab: Lab, **trackers: Any) -> SearchSpace:
    from dataclasses import replace

    return replace(lab.space, trackers=Trackers(**trackers))


def opened(lab: Lab, paths: SweepPaths | None = None, **trackers: Any) -> tuple[Tracking, list[str]]:
    said: list[str] = []
    (tracking,) = trackings(space_with(lab, **trackers), paths or lab.paths, said.append)
    return tracking, said


def shown(tracking: Tracking, lab: Lab, *, at_last: bool = True) -> None:
    tracking.look(lab.ledger.records(), at_last=at_last)
    tracking.close()


# -- settings


def test_a_line_in_the_file_is_enough():
    trackers = space_of(put("trackers", value=["tensorboard", "wandb"])).trackers
    assert trackers == Trackers(tensorboard=TensorBoard(), wandb=Wandb())
    settings = {"mlflow": {"uri": "http://localhost:5000"}, "wandb": {"project": "p", "mode": "offline"}}
    whole = space_of(put("trackers", value=settings)).trackers
    assert whole == Trackers(mlflow=MLflow(uri="http://localhost:5000"), wandb=Wandb(project="p", mode="offline"))
    assert whole.on == ["mlflow", "wandb"]
    assert space_of().trackers.on == []
    assert trackers_of({"mlflow": None}).on == []


def test_trackers_are_no_part_of_what_a_sweep_is():
    assert space_of(put("trackers", value=["tensorboard"])).fingerprint == space_of().fingerprint


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (
            ["tensorbord"],
            "trackers[0]: got 'tensorbord'; allowed is tensorboard, mlflow, wandb; nearest is tensorboard",
        ),
        ("mlflow", "trackers: got 'mlflow', allowed is a list or a section of tensorboard, mlflow, wandb"),
        ({"mlflow": {"url": "x"}}, "trackers.mlflow.url: no such setting; allowed is uri, experiment; nearest is uri"),
        ({"wandb": {"mode": "of"}}, "trackers.wandb.mode: got 'of', allowed is online, offline"),
        ({"mlflow": {"uri": "http://me:secret@host"}}, "trackers.mlflow.uri: got one with a password"),
    ],
)
def test_what_cannot_be_is_one_line(value, told):
    message = message_of(put("trackers", value=value))
    assert message.startswith(told)
    assert "secret" not in message


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("sweeps.onlookers.trackers.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"^trackers: mlflow needs `pip install mlflow`"):
        check_installed(Trackers(mlflow=MLflow()))
    check_installed(Trackers())


# -- the way through the ledger


class Kept:
    """A tracker that keeps what it is told over its closing, as a server does; and that can be out of reach."""

    def __init__(self) -> None:
        self.values: list[tuple[str, int]] = []
        self.ends: list[str] = []
        self.broken_after: int | None = None

    def begin(self, record: TrialRecord) -> Known:
        steps = frozenset(step for trial, step in self.values if trial == record.trial)
        return Known(steps=steps, ended=record.trial in self.ends)

    def evaluated(self, record: TrialRecord, row: EvaluationRow) -> None:
        if self.broken_after is not None and len(self.values) >= self.broken_after:
            raise ConnectionError("no route")
        self.values.append((record.trial, row.step))

    def ended(self, record: TrialRecord) -> None:
        self.ends.append(record.trial)

    def flush(self) -> None: ...
    def close(self) -> None: ...


def test_everything_is_told_once_over_all_starts(lab):
    kept, said = Kept(), []
    for _ in range(2):
        tracking = Tracking(name="kept", open=lambda: kept, tell=said.append)
        for _ in range(2):
            tracking.look(lab.ledger.records())
    lab.row("candidate-002", 120, 0.8)
    Tracking(name="kept", open=lambda: kept, tell=said.append).look(lab.ledger.records())
    expected = [(r.trial, row.step) for r in lab.ledger.records() for row in r.evaluations]
    assert sorted(kept.values) == sorted(expected)
    assert sorted(kept.ends) == ["baseline-seed0", "baseline-seed1", "candidate-000", "candidate-001"]
    assert said == []


def test_one_that_is_out_of_reach_is_told_of_once_and_brought_up_to_date(lab, monkeypatch):
    kept, said, clock = Kept(), [], [100.0]
    monkeypatch.setattr("sweeps.onlookers.tracking.time.monotonic", lambda: clock[0])
    kept.broken_after = 3
    tracking = Tracking(name="kept", open=lambda: kept, tell=said.append)
    for _ in range(3):
        tracking.look(lab.ledger.records())
    assert len(said) == 1
    assert said[0].startswith("trackers: kept cannot be told (ConnectionError: no route); the sweep goes on")
    kept.broken_after = None
    tracking.look(lab.ledger.records())
    assert len(kept.values) == 3, "it is given a rest"
    clock[0] += FIRST_PAUSE_S + 1
    tracking.look(lab.ledger.records())
    expected = [(r.trial, row.step) for r in lab.ledger.records() for row in r.evaluations]
    assert sorted(kept.values) == sorted(expected)
    assert len(said) == 1


# -- TensorBoard, read as its files are written


def events_in(folder: Path) -> list[Any]:
    """Records of a length, a checksum, the content and its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    events = []
    for file in sorted(folder.glob("events.out.tfevents.*")):
        content, place = file.read_bytes(), 0
        while place < len(content):
            (length,) = struct.unpack("<Q", content[place : place + 8])
            events.append(Event.FromString(content[place + 12 : place + 12 + length]))
            place += 16 + length
    return events


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for event in events_in(folder):
        for value in event.summary.value:
            if value.HasField("simple_value"):
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def test_tensorboard_is_shown_the_ledger_anew_at_every_start(lab):
    lab.grids("candidate-002", steps=(40, 80))
    for _ in range(2):
        tracking, said = opened(lab, tensorboard=TensorBoard())
        shown(tracking, lab)
    assert said == []
    folder = lab.paths.root / "tensorboard"
    for record in lab.ledger.records():
        drawn = scalars(folder / record.trial)
        expected = [(row.step, pytest.approx(row.metrics[OBJECTIVE], rel=1e-6)) for row in record.evaluations]
        assert drawn[OBJECTIVE] == expected
        assert {step for step, _ in drawn["images_per_s"]} == {row.step for row in record.evaluations}
    running = events_in(folder / "candidate-002")
    assert sum(value.tag == "samples" for event in running for value in event.summary.value) == 2
    record = lab.ledger.record("candidate-002")
    assert record is not None
    times = {event.step: event.wall_time for event in running if event.summary.value}
    assert times[40] == pytest.approx(record.evaluations[0].time)
    stopped = [value for event in events_in(folder / "candidate-000") for value in event.summary.value]
    assert any("stopped" in str(value.tensor) for value in stopped if value.tag.startswith("outcome"))
    assert any(value.tag.startswith("_hparams_") for value in stopped)
    assert any(tag == "gap_spreads" for tag in scalars(folder / "candidate-000"))


def test_tensorboards_files_of_a_sweep_in_s3_lie_there(stored, tmp_path):
    lab = Lab(stored, candidates=1, cache=tmp_path)
    lab.trial("candidate-000", 0.8, until=80, outcome=None)
    for _ in range(2):
        tracking, said = opened(lab, tensorboard=TensorBoard())
        tracking.look(lab.ledger.records())
        tracking.close()
    assert said == []
    (file,) = (lab.paths.root / "tensorboard").files()
    (tmp_path / "seen").mkdir()
    (tmp_path / "seen" / file.name).write_bytes(file.read_bytes())
    assert [step for step, _ in scalars(tmp_path / "seen")[OBJECTIVE]] == [40, 80]


# -- MLflow, with a database of its own


@pytest.fixture
def mlflow(tmp_path, monkeypatch) -> Any:
    module = pytest.importorskip("mlflow", reason="the extra `trackers` is not installed")
    monkeypatch.setenv("MLFLOW_ENABLE_DB_SDK", "false")
    return module.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")


def test_mlflow_is_shown_the_ledger_once_over_all_starts(lab, mlflow, tmp_path):
    settings = MLflow(uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    for _ in range(2):
        tracking, said = opened(lab, mlflow=settings)
        shown(tracking, lab)
        assert said == []
    lab.row("candidate-002", 120, 0.8)
    shown(opened(lab, mlflow=settings)[0], lab)
    experiment = mlflow.get_experiment_by_name(lab.paths.root.name)
    runs = {run.info.run_name: run for run in mlflow.search_runs([experiment.experiment_id])}
    assert {name: run.info.status for name, run in runs.items()} == {
        "baseline-seed0": "FINISHED",
        "baseline-seed1": "FINISHED",
        "candidate-000": "KILLED",
        "candidate-001": "FAILED",
        "candidate-002": "RUNNING",
    }
    for record in lab.ledger.records():
        run = runs[record.trial]
        for metric in (OBJECTIVE, OTHER):
            drawn = [(p.step, p.value) for p in mlflow.get_metric_history(run.info.run_id, metric)]
            assert drawn == [(row.step, row.metrics[metric]) for row in record.evaluations]
    assert runs["candidate-002"].data.params["repa.weight"] == "0.4217"
    assert runs["candidate-000"].data.tags["outcome"] == STOPPED
    assert "above the margin" in runs["candidate-000"].data.tags["reason"]
    assert runs["candidate-001"].data.tags["reason"] == "diverged: loss is nan"
    assert runs["baseline-seed0"].data.params["role"] == "baseline"
    assert len(STEPS) == len(mlflow.get_metric_history(runs["baseline-seed0"].info.run_id, OBJECTIVE))


def test_an_mlflow_that_does_not_answer_harms_nothing(lab, mlflow, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracking, said = opened(lab, mlflow=MLflow(uri="http://127.0.0.1:9"))
    shown(tracking, lab)
    assert len(said) == 1
    assert said[0].startswith("trackers: mlflow cannot be told (")
    assert "\n" not in said[0]


# -- Weights & Biases, offline


def test_wandb_gets_a_run_for_each_trial_and_no_evaluation_twice(lab, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="the extra `trackers` is not installed")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    for _ in range(2):
        tracking, said = opened(lab, wandb=Wandb(project="test", mode="offline"))
        shown(tracking, lab)
        assert said == []
    runs = sorted((lab.paths.root / "wandb").glob("offline-run-*"))
    names = [run.name.partition(f"-{lab.space.fingerprint}-")[2] for run in runs]
    assert sorted(names) == [record.trial for record in lab.ledger.records()]
    assert all(list(run.glob("*.wandb")) for run in runs)
    told = json.loads((lab.paths.root / "wandb.json").read_text())
    assert told["candidate-002"] == {"steps": [40, 80], "ended": False}
    assert told["candidate-000"]["ended"]


def test_config_error_shows_the_path():
    with pytest.raises(ConfigError, match=r"trackers\[1\]: got 3"):
        trackers_of(["wandb", 3])
