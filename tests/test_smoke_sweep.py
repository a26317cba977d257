"""One sweep end to end, as a user types it: interrupted, killed in every place, and looked at."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from sweeps import run
from sweeps.ledger import FAILED, FINISHED, Ledger, TrialRecord
from sweeps.run import EXIT_BAD_INPUT, EXIT_HALTED, EXIT_INTERRUPTED, EXIT_TRIAL_FAILED
from sweeps.space_file import load_space
from sweeps.storage import SweepPaths
from tests.exposed import exposed
from tests.sweeps.trials import filled_cache

ROOT = Path(__file__).parent.parent
SMOKE = ROOT / "tests" / "spaces" / "smoke.yaml"
LIMIT_S = 420


@pytest.fixture
def space_file(tmp_path) -> Path:
    """The smoke sweep with a point to try first that diverges at once; the candidate after it has its own chance."""
    space = yaml.safe_load(SMOKE.read_text())
    del space["space"]["repa.weight"]
    space["space"]["training.learning_rate"] = {"choice": [1e-3, 1e30]}
    points = ({"repa.depth": 0.5, "training.learning_rate": 1e30}, {"repa.depth": 1.0, "training.learning_rate": 1e-3})
    space["points"] = [{"repa.teacher": "dinov2s_saliency", **point} for point in points]
    space["profiles"]["laptop"]["repa"]["weight"] = 0.5
    file = tmp_path / "smoke.yaml"
    file.write_text(yaml.safe_dump(space))
    return file


@pytest.fixture
def command(space_file, tmp_path, tmp_path_factory) -> list[str]:
    shutil.copytree(filled_cache(tmp_path_factory), tmp_path / "cache")
    folders = ["--results", str(tmp_path / "results"), "--cache", str(tmp_path / "cache")]
    return [sys.executable, "sweeps/run.py", str(space_file), "--address", "local", *folders]


@pytest.fixture
def paths(space_file, tmp_path) -> SweepPaths:
    return SweepPaths.of(load_space(space_file, "laptop"), tmp_path / "results")


def _start(command: list[str], log: Path) -> subprocess.Popen:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "COV_"))}
    environment["RAY_worker_niceness"] = "0"  # as in tests.conftest
    environment["RAY_metrics_report_interval_ms"] = "1000"  # seconds less to wait for what Prometheus is shown
    with log.open("wb") as file:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            # A shell's background job ignores Ctrl-C, and so would all that it starts: here it is to be heard.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )


def _wait_until(reached: Callable[[], object], process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not reached():
        assert process.poll() is None, f"ended with {process.returncode}:\n{log.read_text()}"
        assert time.monotonic() < deadline, f"not reached in {LIMIT_S} s:\n{log.read_text()}"
        time.sleep(0.2)


def _raylet_of(driver: int) -> int:
    """The process of the Ray that a driver has started for itself."""
    children = Path(f"/proc/{driver}/task/{driver}/children").read_text().split()
    return next(int(child) for child in children if Path(f"/proc/{child}/comm").read_text() == "raylet\n")


def _workers_of(paths: SweepPaths) -> set[int]:
    """Every process that has trained a trial, by the trials' logs."""
    return {int(pid) for log in paths.logs.glob("*.log") for pid in re.findall(r"in process (\d+)", log.read_text())}


def _is_refused_beside(process: subprocess.Popen, command: list[str], log: Path) -> None:
    """The same command on the same folder at the same time."""
    second = _start(command, log)
    assert second.wait(timeout=LIMIT_S) == EXIT_BAD_INPUT
    assert f"this sweep is running already: process {process.pid} on " in log.read_text()
    assert "Traceback" not in log.read_text()


@pytest.mark.slow
def test_a_sweep_that_is_interrupted_and_killed_goes_on_and_ends(command, paths, tmp_path):
    """Ctrl-C, then -9 for the driver, the raylet and a worker in turn; and one of its trials diverges.

    One sweep for all of it: what costs time is that Ray starts, once for each.
    """
    _interrupt(command, paths, tmp_path / "interrupted.log")
    ended = _kill_the_driver(command, paths, tmp_path / "driver.log")
    # What Ray keeps in the sweep's folder is of no use to it.
    for state in (paths.tune, paths.slots):
        shutil.rmtree(state)
    _kill_the_raylet(command, paths, tmp_path / "raylet.log")
    output = _kill_a_worker(command, paths, tmp_path / "worker.log")

    records = {record.trial: record for record in Ledger(paths).records()}
    confirmed = {"candidate-001", "candidate-001-seed1"}
    assert records.keys() == {"baseline-seed0", "baseline-seed1", "candidate-000", *confirmed}
    failed = records.pop("candidate-000")
    _check_failure(failed, output)
    assert {record.outcome for record in records.values()} == {FINISHED}
    assert records["candidate-001-seed1"].start.confirms == "candidate-001"
    assert all(row.verdict is None for row in records["candidate-001-seed1"].evaluations), "it is not judged"
    for record in records.values():
        steps = [row.step for row in record.evaluations]
        assert steps == [3, 6, 9, 12], "no evaluation is missing and none counts twice"
    for trial, content in ended.items():
        assert paths.trial_ledger(trial).read_bytes() == content, f"{trial} had ended and was run again"
    _check_what_is_left(paths, output)


def _interrupt(command: list[str], paths: SweepPaths, log: Path) -> None:
    process = _start(command, log)
    _wait_until(lambda: paths.lock.is_file() and paths.lock.read_text(), process, log)
    _is_refused_beside(process, command, log.with_name("refused.log"))
    _wait_until(lambda: paths.ledger.is_dir() and Ledger(paths).records(), process, log)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) == EXIT_INTERRUPTED, log.read_text()
    assert "the same command goes on" in log.read_text()
    assert all(record.end is None for record in Ledger(paths).records()), "an interruption is no failure"


def _kill_the_driver(command: list[str], paths: SweepPaths, log: Path) -> dict[str, bytes]:
    """Once a candidate is under way. Returns the ledgers of the trials that had ended by then."""
    process, ledger = _start(command, log), Ledger(paths)
    _wait_until(lambda: any(not it.is_baseline and it.evaluations for it in ledger.records()), process, log)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    ended = {record.trial: paths.trial_ledger(record.trial).read_bytes() for record in ledger.records() if record.end}
    assert any(name.startswith("baseline") for name in ended)
    return ended


def _kill_the_raylet(command: list[str], paths: SweepPaths, log: Path) -> None:
    process = _start(command, log)
    _wait_until(lambda: paths.slots.is_dir() and any(paths.slots.iterdir()), process, log)
    os.kill(_raylet_of(process.pid), signal.SIGKILL)
    assert process.wait(timeout=60) == EXIT_HALTED, log.read_text()
    assert "halted: Ray has died (its raylet); the same command goes on" in log.read_text()


def _kill_a_worker(command: list[str], paths: SweepPaths, log: Path) -> str:
    """And let the sweep end. Returns what the command has said."""
    known, process = _workers_of(paths), _start(command, log)
    _wait_until(lambda: _workers_of(paths) - known, process, log)
    os.kill((_workers_of(paths) - known).pop(), signal.SIGKILL)
    _check_what_prometheus_is_shown(process, paths, log)
    assert process.wait(timeout=LIMIT_S) == EXIT_TRIAL_FAILED, log.read_text()
    return log.read_text()


def _check_what_prometheus_is_shown(process: subprocess.Popen, paths: SweepPaths, log: Path) -> None:
    shown: dict[tuple[str, str, str], float] = {}

    def a_trial_is_shown() -> bool:
        for name, labels, value in exposed(log.read_text()):
            assert labels["sweep"] == paths.root.name
            shown[name, labels.get("trial", ""), labels.get("metric", "")] = value
        return any(name == "ray_sweep_trial_metric" for name, _, _ in shown)

    _wait_until(a_trial_is_shown, process, log)
    trial, value = next((key[1], value) for key, value in shown.items() if key[0] == "ray_sweep_trial_metric")
    record = Ledger(paths).record(trial)
    assert record is not None
    assert value in [row.metrics["mmd_lite0"] for row in record.evaluations]
    assert {metric for name, _, metric in shown if name == "ray_sweep_trial_metric"} == {"mmd_lite0"}
    assert ("ray_sweep_baseline", "", "mmd_lite0") in shown


def _check_failure(failed: TrialRecord, output: str) -> None:
    assert failed.outcome == FAILED
    assert failed.end is not None
    assert failed.end.reason.startswith("diverged")
    for told in (failed.end.reason, failed.end.log):
        assert told in output
    assert "DivergedError" in Path(failed.end.log).read_text()


def _check_what_is_left(paths: SweepPaths, output: str) -> None:
    assert "Profile laptop: asked for" not in output
    assert "Dashboard  http://127.0.0.1" in output
    assert "candidate-001" in output
    assert "1 fresh seed" in output
    assert "Traceback" not in output
    assert "raylet" not in output, "Ray's own noise belongs into the log"
    assert "<html" in paths.page.read_text()
    from diffusers.models.transformers.transformer_prx import PRXTransformer2DModel

    model = PRXTransformer2DModel.from_pretrained(paths.best_model, subfolder="transformer")
    assert model.config.depth == 2
    checkpoints = sorted(path.parent.parent.name for path in paths.trials.glob("*/checkpoint_*/state.pt"))
    assert checkpoints == ["candidate-001"], "only the best trial keeps its last checkpoint"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["search_spaces/repa.yaml", "--profile", "laptp"], "got 'laptp', allowed is cluster, laptop"),
        (["search_spaces/repa.yaml", "--profile", "laptop", "--candidates", "0"], "--candidates"),
        (["search_spaces/repa.yaml", "--profile", "laptop", "--results", "/proc/here"], "cannot write"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, told, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert run.main(arguments) == EXIT_BAD_INPUT
    shown = capsys.readouterr().err
    assert told in shown
    assert shown.count("\n") == 1


def test_a_process_ends_with_the_code_and_the_line_of_its_mistake():
    command = [sys.executable, "sweeps/run.py", "no-such.yaml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == EXIT_BAD_INPUT
    assert done.stderr.startswith("error: no-such.yaml: no such file; ")
    assert done.stderr.count("\n") == 1


def test_the_cluster_profile_resolves_without_a_gpu(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert run.main(["search_spaces/repa.yaml", "--plan", "--profile", "cluster"]) == 0
    shown = capsys.readouterr().out
    for told in ("1,170,691,648 parameters", "256 px", "batch 256", "100,000 steps", "fid (objective)"):
        assert told in shown


@pytest.mark.parametrize("file", sorted((ROOT / "search_spaces").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_space_resolves_under_each_of_its_profiles(file):
    from sweeps.space_file import profiles_of, read_space

    profiles = profiles_of(read_space(file))
    assert profiles
    for profile in profiles:
        space = load_space(file, profile)
        assert space.dimensions
        assert file.read_text().startswith("#"), "a shipped space opens with its lab card"
