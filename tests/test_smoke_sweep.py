"""One sweep end to end, as a user types it: driver, raylet and worker killed with -9 in turn, and looked at."""

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

from sweeps.ledger import FAILED, FINISHED, STOPPED, Ledger
from sweeps.run import EXIT_BAD_INPUT, EXIT_HALTED
from sweeps.space_file import load_space
from sweeps.storage import SweepPaths

ROOT = Path(__file__).parent.parent
SMOKE = ROOT / "tests" / "spaces" / "smoke.yaml"
LIMIT_S = 420


@pytest.fixture
def command(tmp_path, tmp_path_factory) -> list[str]:
    folders = ["--results", str(tmp_path / "results"), "--cache", str(tmp_path / "cache")]
    return [sys.executable, "sweeps/run.py", str(SMOKE.relative_to(ROOT)), "--address", "local", *folders]


@pytest.fixture
def paths(tmp_path) -> SweepPaths:
    return SweepPaths.of(load_space(SMOKE, "laptop"), tmp_path / "results")


def _start(command: list[str], log: Path) -> subprocess.Popen:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "COV_"))}
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
def test_a_sweep_whose_processes_are_killed_goes_on_and_ends(command, paths, tmp_path):
    """The driver, then the raylet, then a worker; and what Ray keeps in the sweep's folder is of no use to it."""
    ledger, first_log, second_log, last_log = Ledger(paths), *(tmp_path / f"{name}.log" for name in "abc")

    def one_candidate_is_under_way() -> bool:
        records = ledger.records() if paths.ledger.is_dir() else []
        return any(not record.is_baseline and record.evaluations for record in records)

    process = _start(command, first_log)
    _wait_until(lambda: paths.lock.is_file() and paths.lock.read_text(), process, first_log)
    _is_refused_beside(process, command, tmp_path / "refused.log")
    _wait_until(one_candidate_is_under_way, process, first_log)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    ended = {record.trial: paths.trial_ledger(record.trial).read_bytes() for record in ledger.records() if record.end}
    assert "baseline-seed0" in ended

    for state in (paths.tune, paths.slots):
        shutil.rmtree(state)

    process = _start(command, second_log)
    _wait_until(lambda: paths.slots.is_dir() and any(paths.slots.iterdir()), process, second_log)
    os.kill(_raylet_of(process.pid), signal.SIGKILL)
    assert process.wait(timeout=60) == EXIT_HALTED, second_log.read_text()
    assert "halted: Ray has died (its raylet); the same command goes on" in second_log.read_text()

    known, process = _workers_of(paths), _start(command, last_log)
    _wait_until(lambda: _workers_of(paths) - known, process, last_log)
    os.kill((_workers_of(paths) - known).pop(), signal.SIGKILL)
    assert process.wait(timeout=LIMIT_S) == 0, last_log.read_text()
    records = {record.trial: record for record in ledger.records()}
    known = {"baseline-seed0", "baseline-seed1", "candidate-000", "candidate-001"}
    (confirmation,) = (records[name] for name in records.keys() - known)
    assert confirmation.start.confirms in known
    assert confirmation.trial == f"{confirmation.start.confirms}-seed1"
    assert all(row.verdict is None for row in confirmation.evaluations), "a confirmation is not judged"
    assert {record.outcome for record in records.values()} <= {FINISHED, STOPPED}
    for record in records.values():
        steps = [row.step for row in record.evaluations]
        assert steps == [3, 6, 9, 12][: len(steps)], "no evaluation is missing and none counts twice"
    for trial, content in ended.items():
        assert paths.trial_ledger(trial).read_bytes() == content, f"{trial} had ended and was run again"
    _check_what_is_left(paths, last_log.read_text())


def _check_what_is_left(paths: SweepPaths, output: str) -> None:
    assert "Profile laptop: asked for" not in output
    assert "Dashboard  http://127.0.0.1" in output
    assert "candidate-001" in output
    assert "1 fresh seed" in output
    assert "raylet" not in output, "Ray's own noise belongs into the log"
    assert "<html" in paths.page.read_text()
    from diffusers.models.transformers.transformer_prx import PRXTransformer2DModel

    model = PRXTransformer2DModel.from_pretrained(paths.best_model, subfolder="transformer")
    assert model.config.depth == 2
    checkpoints = sorted(path.parent.parent.name for path in paths.trials.glob("*/checkpoint_*/state.pt"))
    assert len(checkpoints) == 1, f"only the best trial keeps its last checkpoint, not {checkpoints}"


@pytest.mark.slow
def test_ctrl_c_ends_in_order_and_says_how_to_go_on(command, paths, tmp_path):
    log = tmp_path / "first.log"
    process = _start(command, log)
    _wait_until(lambda: paths.ledger.is_dir() and Ledger(paths).records(), process, log)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) == 130, log.read_text()
    assert "the same command goes on" in log.read_text()
    assert all(record.end is None for record in Ledger(paths).records()), "an interruption is no failure"


@pytest.mark.slow
def test_a_failed_trial_is_recorded_and_the_sweep_goes_on(tmp_path):
    """The point to try first diverges at once; the candidate after it has a chance of its own."""
    file = tmp_path / "diverges.yaml"
    space = yaml.safe_load(SMOKE.read_text())
    del space["space"]["repa.weight"]
    space["space"]["training.learning_rate"] = {"choice": [1e-3, 1e30]}
    points = ({"repa.depth": 0.5, "training.learning_rate": 1e30}, {"repa.depth": 1.0, "training.learning_rate": 1e-3})
    space["points"] = [{"repa.teacher": "dinov2s_saliency", **point} for point in points]
    space["profiles"]["laptop"]["repa"]["weight"] = 0.5
    file.write_text(yaml.safe_dump(space))
    folders = ["--results", str(tmp_path / "results"), "--cache", str(tmp_path / "cache")]
    log = tmp_path / "sweep.log"
    process = _start([sys.executable, "sweeps/run.py", str(file), "--address", "local", *folders], log)
    assert process.wait(timeout=LIMIT_S) == 1, log.read_text()
    paths = SweepPaths.of(load_space(file, "laptop"), tmp_path / "results")
    failed, other = (Ledger(paths).record(name) for name in ("candidate-000", "candidate-001"))
    assert failed.outcome == FAILED
    assert failed.end.reason.startswith("diverged")
    assert other.outcome == FINISHED
    output = log.read_text()
    assert "Traceback" not in output
    assert failed.end.reason in output
    assert failed.end.log in output
    assert "DivergedError" in Path(failed.end.log).read_text()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["no-such.yaml"], "no-such.yaml: no such file"),
        (["search_spaces/repa.yaml", "--profile", "laptp"], "got 'laptp', allowed is cluster, laptop"),
        (["search_spaces/repa.yaml", "--profile", "laptop", "--candidates", "0"], "--candidates"),
        (["search_spaces/repa.yaml", "--profile", "laptop", "--results", "/proc/here"], "cannot write"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, told):
    done = subprocess.run(
        [sys.executable, "sweeps/run.py", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert told in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_the_cluster_profile_resolves_without_a_gpu():
    command = [sys.executable, "sweeps/run.py", "search_spaces/repa.yaml", "--plan", "--profile", "cluster"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for told in ("1,170,691,648 parameters", "256 px", "batch 256", "100,000 steps", "fid (objective)"):
        assert told in done.stdout


@pytest.mark.parametrize("file", sorted((ROOT / "search_spaces").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_space_resolves_under_each_of_its_profiles(file):
    from sweeps.space_file import profiles_of, read_space

    profiles = profiles_of(read_space(file))
    assert profiles
    for profile in profiles:
        space = load_space(file, profile)
        assert space.dimensions
        assert file.read_text().startswith("#"), "a shipped space opens with its lab card"
