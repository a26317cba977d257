"""The commands on results in S3: what is wrong is one line before anything starts, and the rest is as on a disk."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

from sweeps import locations, object_path, reuse, storage
from sweeps.locations import names_in
from sweeps.main import main as prx_sweeps
from sweeps.object_path import ObjectPath
from sweeps.provenance import append_start, read_starts, recorded_rule
from sweeps.run import EXIT_BAD_INPUT, _halt_at_once_for
from sweeps.run import main as run_sweep
from sweeps.space import SpaceError
from sweeps.storage import SweepPaths
from sweeps.warm_start import read_earlier
from tests.flaky_server import Troubles
from tests.sweeps.lab import Lab
from tests.sweeps.trials import SMOKE

MADE = {"time": "2026-01-02T03:04:05+0000", "model_code": "m", "hardware": "2 cores", "packages": {"torch": "2"}}


@pytest.fixture
def hasty(stored: ObjectPath, monkeypatch: pytest.MonkeyPatch) -> ObjectPath:
    """Nobody waits for a second try, however the address is given."""
    monkeypatch.setattr(storage, "HASTE_S", ())
    return stored


def _refused(capsys: pytest.CaptureFixture[str], results: object) -> str:
    assert run_sweep([str(SMOKE), "--profile", "laptop", "--results", str(results)]) == EXIT_BAD_INPUT
    said = capsys.readouterr().err
    assert said.startswith("error: --results: ")
    assert said.count("\n") == 1
    return said


def test_what_is_wrong_with_the_storage_is_one_line_before_anything_starts(hasty, troubles: Troubles, capsys):
    assert "there is no bucket 'no-such-bucket-here'; make it first" in _refused(capsys, "s3://no-such-bucket-here/a")
    assert "cannot be written: " in _refused(capsys, "s3://No_Bucket!/a")
    troubles.coming = ["denied"]
    said = _refused(capsys, hasty)
    assert "may not be written (Access Denied); check the AWS credentials" in said
    assert said.rstrip().endswith("that the AWS settings of this machine reach and may write to")
    troubles.coming = ["slow"]
    assert "could not be written in 1 tries; the last: " in _refused(capsys, hasty)
    assert hasty.files() == {}


@pytest.mark.parametrize("header", ["if-none-match", "if-match"])
def test_storage_that_ignores_conditions_is_refused(hasty, troubles: Troubles, capsys, header):
    troubles.dropped = (header,)
    assert "ignores conditions of a write (If-None-Match, If-Match)" in _refused(capsys, hasty)
    assert hasty.files() == {}


def test_no_server_and_no_credentials_are_told_too(hasty, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    object_path.client.cache_clear()
    assert "127.0.0.1:9" in _refused(capsys, hasty)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    object_path.client.cache_clear()
    assert "(no AWS credentials found); configure them" in _refused(capsys, hasty)


def test_an_address_that_is_none_is_refused_by_the_parser(capsys):
    with pytest.raises(SystemExit) as caught:
        run_sweep([str(SMOKE), "--results", "gs://bucket/a"])
    assert caught.value.code == EXIT_BAD_INPUT
    assert "--results" in capsys.readouterr().err


def test_a_driver_that_was_given_up_halts_with_who_has_taken_over(monkeypatch, capfd):
    monkeypatch.setattr(sys, "__stderr__", sys.stderr)
    codes: list[int] = []
    monkeypatch.setattr("os._exit", codes.append)
    _halt_at_once_for("process 1 on elsewhere since noon")
    assert codes == [3]
    assert "halted: this sweep is run by process 1 on elsewhere since noon, since nothing" in capfd.readouterr().err


@pytest.fixture
def lab(stored: ObjectPath, tmp_path: Path) -> Lab:
    """A sweep with a finished baseline."""
    lab = Lab(stored, candidates=2, cache=tmp_path / "cache")
    append_start(lab.paths.starts, MADE)
    lab.baselines(1.0, 1.01)
    return lab


def test_a_recorded_sweep_is_judged_again(lab, capsys):
    lab.judged("candidate-000", (1.5, 1.5, 1.5, 1.5, 1.5))
    append_start(lab.paths.starts, {"profile": "laptop", **recorded_rule(lab.space)})
    assert len(read_starts(lab.paths.starts)) == 2
    for address in (lab.paths.root, lab.paths.ledger):
        assert prx_sweeps(["replay", str(address)]) == 0
        assert "candidate-000" in capsys.readouterr().out
    assert prx_sweeps(["replay", f"{lab.paths.root}-not"]) == EXIT_BAD_INPUT
    assert capsys.readouterr().err.startswith(f"error: {lab.paths.root}-not: no such folder; allowed is ")


def test_the_page_shows_samples_and_links_logs_beside_it(lab):
    lab.grids("baseline-seed0", steps=(40, 200))
    lab.trial("candidate-000", 1.0, until=80, outcome="failed", reason="diverged")
    page = lab.page()
    assert page.count("data:image/png") == 1  # the last grid
    assert "for 4 prompts at the steps 40, 200" in page
    assert '<a href="logs/candidate-000.log">' in page
    assert f"{lab.paths.root}/logs/candidate-000.log" in page
    head = object_path.client().call_s3("head_object", Bucket=lab.paths.page.bucket, Key=lab.paths.page.key)
    assert head["ContentType"] == "text/html"


def test_a_baseline_is_reused_beside_it_and_candidates_warm_another_sweep(lab):
    lab.grids("baseline-seed0", steps=(40, 200))
    new = SweepPaths(lab.paths.root.parent / "another", lab.paths.cache)
    wanted = dataclasses.replace(lab.space, budget=dataclasses.replace(lab.space.budget, baseline_seeds=2))
    own = lab.ledger.record("baseline-seed0")
    assert own is not None
    found = reuse.Found(reusable=(reuse.Reusable(seed=0, source=lab.paths.root),))
    reuse.adopt(found, new)
    from sweeps.ledger import Ledger

    adopted = Ledger(new).record("baseline-seed0")
    assert adopted is not None
    assert adopted.evaluations == own.evaluations
    assert adopted.start.reused_from == lab.paths.root.name
    assert names_in(new.samples_of("baseline-seed0")) == {"step-0000040.png", "step-0000200.png"}
    assert [folder.root for folder in reuse._other_sweeps(new)] == [lab.paths.root]
    told = read_earlier(dataclasses.replace(wanted, warm_start=(str(lab.paths.root),)), new)
    assert told.lines == (f"0 of 0 candidates of {lab.paths.root.name}",)
    nowhere = dataclasses.replace(wanted, warm_start=(f"{lab.paths.root}-not",))
    with pytest.raises(SpaceError, match=r"warm_start\[0\]: got s3://.*-not, which has no ledger"):
        read_earlier(nowhere, new)
    assert locations.location(str(new.root)) == new.root


def test_a_cache_that_is_named_from_here_is_named_from_the_root_for_ray(lab, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    paths = SweepPaths.of(lab.space, lab.paths.root.parent, Path("cache"))
    assert paths.tune.is_relative_to(tmp_path / "cache")  # pyarrow takes a relative path for a URI without scheme
