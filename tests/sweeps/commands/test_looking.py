"""The sub-commands on a sweep that others have made: named in every way, on a disk and in S3."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from sweeps.drivers import driver_of
from sweeps.ledger import CANDIDATE, FINISHED, STOPPED, End, EvaluationRow, Ledger, Start
from sweeps.locations import location, write_whole
from sweeps.locks import only_driver
from sweeps.main import COMMANDS, main
from sweeps.provenance import append_start, recorded_rule
from sweeps.space_file import load_space, with_budget
from sweeps.storage import SweepPaths
from tools.commands import PAGE, page

ROOT = Path(__file__).parents[3]
SMOKE = ROOT / "tests" / "spaces" / "smoke.yaml"
METRIC = "mmd_lite0"


def _sweep(results: str, cache: Path, candidates: int = 3) -> SweepPaths:
    """Two baselines that have finished, a candidate that has finished, and one that runs."""
    space = with_budget(load_space(SMOKE, "laptop"), candidates=candidates)
    paths = SweepPaths.of(space, location(results), cache)
    paths.create()
    write_whole(paths.space, SMOKE.read_bytes())
    start = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "profile": "laptop", **recorded_rule(space)}
    append_start(paths.starts, start)
    for seed in (0, 1):
        _trial(paths, f"baseline-seed{seed}", "baseline", seed, 10.0 + seed / 10, 12)
    _trial(paths, "candidate-000", CANDIDATE, 0, 8.0, 12)
    _trial(paths, "candidate-001", CANDIDATE, 0, 11.0, 6)
    write_whole(paths.trial_log("candidate-001"), b"one\ntwo\nthree\n")
    return paths


def _trial(paths: SweepPaths, name: str, role: str, seed: int, value: float, until: int) -> None:
    ledger = Ledger(paths)
    chosen = {"repa.teacher": "dinov2s_saliency", "repa.depth": 1, "repa.weight": 0.5}
    overrides = chosen if role == CANDIDATE else {"repa": None}
    ledger.append(Start(trial=name, role=role, seed=seed, overrides=overrides, fingerprint="f" * 12, num_steps=12))
    for step in range(3, until + 1, 3):
        verdict = {"stop": False, "reason": "it keeps up", "strikes": 0} if role == CANDIDATE else None
        row = EvaluationRow(
            trial=name, step=step, metrics={METRIC: value / step}, num_samples=16, flow_loss=0.5, repa_loss=None,
            grad_norm=0.1, images_per_s=70.0, train_s=2.0, eval_s=1.0, peak_memory_bytes=1, resumed_from=0,
            verdict=verdict, cpus=1.0, gpus=0.0,
        )  # fmt: skip
        ledger.append(row)
    if until == 12:
        ledger.append(End(trial=name, outcome=FINISHED, step=12, reason="trained all 12 steps", log=""))


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SweepPaths:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    return _sweep("results", tmp_path / "cache")


def _told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The output as words, wherever lines end."""
    return " ".join(_ends_with(capsys, 0, *arguments).split())


def _ends_with(capsys: pytest.CaptureFixture[str], code: int, *arguments: str) -> str:
    """The output, or the error's one line."""
    assert main(arguments) == code
    out, err = capsys.readouterr()
    assert err.count("\n") == (code == 2)
    return err if code == 2 else out


def test_status_tells_where_a_sweep_stands_and_that_nobody_runs_it(paths, capsys) -> None:
    text = _told(capsys, "status")
    assert "driver not running: the command has ended, or was never given here" in text
    assert "trials 3 of 6 trials ended (3 finished), 1 left open" in text, "--candidates 3 is known from the start"
    assert "baseline 2 of 2 seeds finished, mmd_lite0 0.8375 at step 12 (mean of 2), spread 1.0 %" in text
    assert "best candidate-000 0.6667 (-20.4 %, " in text
    assert "Not answered yet: 1 of 3 candidates have ended" in text
    with only_driver(paths):
        told = driver_of(paths)
        text = _told(capsys, "status", str(paths.root))
    assert told.alive
    assert f"driver running: process {os.getpid()} on " in text
    assert ", 1 running; " in text
    assert " gone" in text


def test_a_driver_that_was_killed_is_told_of_as_gone(paths) -> None:
    script = (
        "import os, sys; from sweeps.locks import only_driver; from sweeps.storage import SweepPaths\n"
        "with only_driver(SweepPaths.at(sys.argv[1])): os._exit(9)"
    )
    command = [sys.executable, "-c", script, str(paths.root)]
    assert subprocess.run(command, env=dict(os.environ, PYTHONPATH=str(ROOT)), timeout=60).returncode == 9
    driver = driver_of(paths)
    assert driver.alive is False
    assert driver.told.startswith("gone, without an orderly end: process ")


def test_status_for_machines(paths, capsys) -> None:
    driver, standing, answer = map(json.loads, _ends_with(capsys, 0, "status", "--json").splitlines())
    assert (driver["kind"], driver["alive"]) == ("driver", False)
    assert [trial["trial"] for trial in standing["running"]] == ["candidate-001"]
    assert [trial["trial"] for trial in standing["ended"]] == ["candidate-000", "baseline-seed0", "baseline-seed1"]
    assert (answer["best"], answer["complete"]) == ("candidate-000", False)


def test_show_tells_settings_curve_and_verdicts(paths, capsys) -> None:
    text = _ends_with(capsys, 0, "show", "1")
    assert "role       candidate, seed 0" in text
    assert "settings   repa.depth: 1" in text
    assert "outcome    running at step 6 of 12" in text
    assert "step      6  go on    it keeps up" in text
    assert "cost       6 s (0.00167 CPU-hours): training 67 %, evaluation 33 %" in text
    assert [line.split()[:2] for line in text.splitlines() if line.split()[1:2] == ["16"]] == [["3", "16"], ["6", "16"]]
    config = yaml.safe_load(_ends_with(capsys, 0, "show", "candidate-001", "--config"))
    assert config["repa"]["depth"] == 1
    assert config["training"]["steps"] == 12
    assert yaml.safe_load(_ends_with(capsys, 0, "show", "baseline-seed1", "--config"))["repa"] is None


def test_logs_are_printed_from_where_one_wants_and_followed_to_the_end(paths, capsys, monkeypatch) -> None:
    monkeypatch.setattr("sweeps.commands.logs.LOOK_S", 0.05)
    monkeypatch.setattr("sweeps.commands.logs.QUIET_LOOK_S", 0.05)
    assert _ends_with(capsys, 0, "logs", "1") == "one\ntwo\nthree\n"
    assert _ends_with(capsys, 0, "logs", "1", "--tail", "2") == "two\nthree\n"
    assert "no log yet; --follow waits for it" in _ends_with(capsys, 2, "logs", "0")
    assert "on a disk all workers of a trial write into one log" in _ends_with(capsys, 2, "logs", "1", "--rank", "1")

    def write() -> None:
        time.sleep(0.3)
        with paths.trial_log("candidate-001").open("ab") as file:
            file.write(b"four\n")
        Ledger(paths).append(End(trial="candidate-001", outcome=FINISHED, step=12, reason="", log=""))

    with only_driver(paths):
        writer = threading.Thread(target=write)
        writer.start()
        assert _ends_with(capsys, 0, "logs", "1", "--tail", "1", "--follow") == "three\nfour\n"
        writer.join()


def test_following_ends_where_nobody_runs_the_sweep(paths, capsys) -> None:
    assert _ends_with(capsys, 0, "logs", "candidate-001", "--follow") == "one\ntwo\nthree\n"


def test_stop_leaves_a_request_and_waits_for_the_end_if_told_to(paths, capsys, monkeypatch) -> None:
    monkeypatch.setattr("sweeps.commands.stop.LOOK_S", 0.05)
    text = _ends_with(capsys, 1, "stop", "1", "--why", "enough", "--wait", "0.1")
    assert "candidate-001 of " in text
    assert "nobody runs the sweep now: it ends when the sweep goes on and its turn comes" in text
    assert "has not ended within 0.1 s; the request stays" in text
    assert json.loads(paths.stop_request("candidate-001").read_bytes())["why"] == "enough"
    assert "has ended already: finished at step 12" in _ends_with(capsys, 2, "stop", "0")
    end = End(trial="candidate-001", outcome=STOPPED, step=7, reason="by hand", log="", by_hand=True)
    threading.Timer(0.3, Ledger(paths).append, [end]).start()
    assert "stopped at step 7: by hand" in _ends_with(capsys, 0, "stop", "candidate-001", "--wait", "20")


def test_a_sweep_and_a_trial_are_found_by_what_names_them_alone(paths, tmp_path, capsys, monkeypatch) -> None:
    for name in ("candidate-001", "candidate-001.jsonl"[:13], "1", "001"):
        assert _ends_with(capsys, 0, "logs", name, "--tail", "1") == "three\n"
    assert _ends_with(capsys, 0, "logs", "1", "--tail", "1", "--sweep", paths.root.name) == "three\n"
    assert _ends_with(capsys, 0, "logs", "1", "--tail", "1", "--sweep", "results") == "three\n"
    assert "'candidate', which is not one trial; " in _ends_with(capsys, 2, "logs", "candidate")
    unknown = _ends_with(capsys, 2, "logs", "7")
    assert "'7', which is no trial" in unknown
    assert "has baseline-seed0, baseline-seed1, candidate-000, candidate-001" in unknown
    other = tmp_path / "results" / "repa-laptop-0"
    (other / "ledger").mkdir(parents=True)
    assert _ends_with(capsys, 0, "logs", "1", "--tail", "1") == "three\n", "the one that was started last"
    assert f"holds 2 sweeps; name one of: {other}, {paths.root}" in _ends_with(capsys, 2, "stop", "1")
    assert f"beside it there are: {other}, {paths.root}" in _ends_with(capsys, 2, "status", "results/none")
    monkeypatch.chdir(other)
    assert "results: no sweep is there" in _ends_with(capsys, 2, "status")


def test_all_of_it_works_on_a_sweep_in_s3(s3_bucket: str, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    paths = _sweep(f"{s3_bucket}/results", tmp_path / "cache")
    where = str(paths.root)
    assert "3 of 6 trials ended" in _told(capsys, "status", f"{s3_bucket}/results")
    with only_driver(paths):
        assert f"running: process {os.getpid()} on " in _told(capsys, "status", where)
    assert driver_of(paths).alive is False
    assert "outcome    running at step 6 of 12" in _ends_with(capsys, 0, "show", "1", "--sweep", where)
    assert _ends_with(capsys, 0, "logs", "1", "--sweep", where) == "one\ntwo\nthree\n"
    assert "is asked to stop" in _ends_with(capsys, 0, "stop", "1", "--sweep", where)
    assert paths.stop_request("candidate-001").is_file()
    assert "no sweep is there" in _ends_with(capsys, 2, "status", f"{s3_bucket}/nothing")


def test_the_documentation_is_what_the_commands_say_of_themselves(monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert PAGE.read_text() == page(), "run `python tools/commands.py`"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_examples_and_says_what_its_exit_codes_mean(name: str, capsys) -> None:
    with pytest.raises(SystemExit):
        main([name, "--help"])
    text = capsys.readouterr().out
    assert f"examples:\n  prx-sweeps {name} " in text or f"prx-sweeps {name} " in text.partition("examples:\n")[2]
    assert "exit codes: 0 " in text


def test_what_a_command_does_not_know_is_told_with_its_own_usage(capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["export", "--sweep", "x"])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("usage: prx-sweeps export ")
    assert told.endswith("prx-sweeps export: error: unrecognized arguments: --sweep\n")


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_every_command_and_is_a_script(shell: str, capsys, tmp_path) -> None:
    text = _ends_with(capsys, 0, "completion", shell)
    assert all(name in text for name in COMMANDS)
    assert "_prx_sweeps_trials" in text
    if shell == "bash":
        (tmp_path / "completion").write_text(text)
        subprocess.run(["bash", "-n", str(tmp_path / "completion")], check=True, timeout=20)
