"""Where a sweep stands, as the live view, `status` and machines are told."""

from __future__ import annotations

import io
import json
import math
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from sweeps.events import EVENTS, Printer, standing_fields
from sweeps.following import Following
from sweeps.ledger import FAILED, STOPPED, End, Ledger, TrialRecord
from sweeps.live_view import live_view, whole_view
from sweeps.progress import Events, Watch, standing_line
from sweeps.rows_kept import RowsOnDisk
from sweeps.standing import Observer, Standing
from sweeps.storage import SweepPaths
from tests.sweeps.lab import OBJECTIVE, STEPS, Lab

HELD = {"cpus": 2.0, "gpus": 0.0}


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """Two baselines, one candidate that has finished, one that was stopped, one that runs."""
    lab = Lab(tmp_path, candidates=4)
    lab.baselines(1.0, 1.01)
    lab.trial("candidate-000", 0.9)
    lab.judged("candidate-001", [1.5] * len(STEPS))
    lab.trial("candidate-002", 1.2, until=80, outcome=None, samples={80: 48})
    lab.paths.heartbeat("candidate-002").write_text("95")
    return lab


def _standing(lab: Lab, since: float | None = None) -> Standing:
    observer = Observer(space=lab.space, paths=lab.paths, planned=6, since=since)
    observer.look()
    return observer.standing()


def _drawn(standing: Standing, width: int, height: int = 40) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(live_view(standing, width=width, height=height, resources="of 2 CPUs on 1 node"))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_a_running_trial_shows_its_heartbeat_its_distance_from_the_baseline_and_the_time_left(lab: Lab) -> None:
    standing = _standing(lab)
    (trial,) = standing.running
    assert (trial.trial, trial.step, trial.num_steps, trial.outcome) == ("candidate-002", 95, 200, "")
    assert trial.config == "dinov2s_saliency, depth 1/2, weight 0.422"
    assert trial.brief == "dinov2… 1/2 0.422"
    assert trial.reading is not None
    assert trial.reading.estimate.scaled
    assert trial.reading.gap == pytest.approx(math.log(1.2 / 1.01**0.5) / (0.01 * 1.5**0.5))
    assert trial.left_s == pytest.approx(24 / 80 * 105), "two evaluations took 24 s for 80 steps, 105 are left"


def test_the_ended_ones_stand_the_best_first_and_the_whole_is_told(lab: Lab) -> None:
    standing = _standing(lab)
    assert [trial.trial for trial in standing.ended] == [
        "candidate-000", "baseline-seed0", "baseline-seed1", "candidate-001"
    ]  # fmt: skip
    assert standing.best is not None
    assert standing.best.trial == "candidate-000"
    assert (standing.seeds_finished, standing.seeds, standing.states) == (2, 2, {"finished": 3, "stopped": 1})
    assert standing.baseline is not None
    assert standing.baseline.step == 200


def test_what_is_used_and_saved_is_told_in_what_trials_hold(tmp_path: Path) -> None:
    lab = Lab(tmp_path, candidates=2)
    for name in ("candidate-000", "candidate-001"):
        lab.trial(name, 1.0, until=0, outcome=None)
        for step in STEPS[:2]:
            lab.row(name, step, 1.0, cpus=4.0, gpus=2.0, usd_per_hour=30.0)
    lab.ledger.append(End(trial="candidate-000", outcome=STOPPED, step=80, reason="weak", log=""))
    standing = _standing(lab)
    assert standing.used.gpu_s == 2 * 2 * 24
    assert standing.saved.gpu_s == pytest.approx(2 * 24 * 120 / 80)
    assert (standing.gpus, standing.cpus) == (2.0, 4.0), "one runs"
    text = "\n".join(_drawn(standing, 100))
    assert "0.0267 GPU-hours, $0.40 used; stopping has saved about 0.02 GPU-hours, $0.30 (estimate)" in text
    assert "running trials hold 2 GPUs and 4 CPUs, of 2 CPUs on 1 node" in text


def test_what_nobody_runs_is_left_open_holds_nothing_and_comes_to_no_end(lab: Lab) -> None:
    lab.row("candidate-002", 120, 1.2, cpus=2.0, gpus=0.0)
    observer = Observer(space=lab.space, paths=lab.paths, planned=6, since=None, resting=True)
    observer.look()
    standing = observer.standing()
    assert (standing.cpus, standing.running[0].left_s) == (0, None)
    text = "\n".join(_drawn(standing, 125))
    assert "(3 finished, 1 stopped), 1 left open" in text
    assert "running" not in text
    observer.resting = False
    text = "\n".join(_drawn(observer.standing(), 125))
    assert "1 running" in text
    assert "running trials hold 2 CPUs" in text


def test_the_time_left_is_told_by_the_pace_since_the_command_was_given(lab: Lab) -> None:
    now = time.time()
    for trial in lab.ledger.trials():
        record = lab.ledger.record(trial)
        assert record is not None
    standing = _standing(lab, since=now - 100)  # all five were begun since: 4 ended, one has come to 95 of 200
    assert standing.left_s == pytest.approx(100 / (4 + 95 / 200) * (6 - 4 - 95 / 200), rel=0.02)
    assert _standing(lab, since=now + 100).left_s is None, "nothing was done since"
    assert _standing(lab).left_s is None


@pytest.mark.parametrize("width", [80, 100, 125, 140])
def test_it_fits_the_terminal_with_a_line_for_each_trial(lab: Lab, width: int) -> None:
    lines = _drawn(_standing(lab), width)
    assert max(map(len, lines)) <= width
    line = next(line for line in lines if line.startswith("candidate-002"))
    assert "95/200" in line
    assert "≈ " in line
    assert line.rstrip().endswith("32 s")
    assert ("dinov2s_saliency, depth 1/2" in line) == (width >= 125)
    assert ("%" in line) == (width >= 100)
    assert sum(line.startswith(("candidate-", "baseline-seed")) for line in lines) == 5


def test_with_more_trials_than_lines_those_that_run_come_first_and_the_rest_is_counted(lab: Lab) -> None:
    for number in range(3, 40):
        lab.trial(f"candidate-{number:03d}", 1.0, until=40, outcome=None if number < 20 else FAILED)
    lines = _drawn(_standing(lab), 100, height=30)
    assert len(lines) < 30
    shown = [line.split()[0] for line in lines if line.startswith(("candidate-", "baseline-seed"))]
    assert shown[0] == "candidate-002"
    assert "candidate-000" in shown, "the best that has ended has a place"
    assert f"and {42 - len(shown)} other trials: prx-sweeps status --all" in lines[-1]
    console = Console(file=io.StringIO(), width=100)
    console.print(whole_view(_standing(lab), [("sweep", "here")], width=100, most=None))
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().count("candidate-0") >= 40


def test_before_the_first_row_there_is_something_to_show(tmp_path: Path) -> None:
    lab = Lab(tmp_path, candidates=4)
    lines = _drawn(_standing(lab), 80)
    assert lines[1].split() == ["trials", "0", "of", "6", "trials", "ended"]
    assert "0 of 2 seeds finished, no evaluation yet" in lines[2]
    assert standing_line(_standing(lab)).endswith("; running: starting")


def test_a_look_reads_what_is_new_and_nothing_else(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    following, read = Following(lab.paths), []
    assert len(following.look()) == 5
    before = {record.trial: record for record in following.records}
    of = RowsOnDisk.of
    monkeypatch.setattr(RowsOnDisk, "of", lambda self, trial: read.append(trial) or of(self, trial))
    assert following.look() == []
    assert read == []
    lab.row("candidate-002", 120, 1.2)
    assert [record.trial for record in following.look()] == ["candidate-002"] == read
    after: dict[str, TrialRecord] = {record.trial: record for record in following.records}
    assert after.pop("candidate-002").last_step == 120
    assert all(record is before[trial] for trial, record in after.items())
    assert [record.trial for record in following.records] == Ledger(lab.paths).trials()


def test_in_s3_too(s3_bucket: str, tmp_path: Path) -> None:
    lab = Lab(SweepPaths.at(f"{s3_bucket}/results").root, candidates=2, cache=tmp_path / "cache")
    lab.trial("candidate-000", 1.0)
    lab.trial("candidate-001", 1.0, until=40, outcome=None)
    following = Following(lab.paths)
    assert [record.trial for record in following.look()] == ["candidate-000", "candidate-001"]
    lab.row("candidate-001", 80, 1.2)
    assert [(record.trial, record.last_step) for record in following.look()] == [("candidate-001", 80)]
    assert following.look() == []
    assert _standing(lab).running[0].step == 80


def test_machines_are_told_the_same_a_json_object_a_line(lab: Lab) -> None:
    stream = io.StringIO()
    observer = Observer(space=lab.space, paths=lab.paths, planned=6)
    watch = Watch(observer=observer, teller=Events(Printer(stream)))
    lab.judged("candidate-003", [1.0] * len(STEPS), until=80)
    lab.ledger.append(End(trial="candidate-002", outcome=STOPPED, step=95, reason="why", log="here", by_hand=True))
    watch.poll()
    watch.poll()
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [event["kind"] for event in events] == ["end", "start", "evaluation", "evaluation"], "what was there is not"
    for event in events:
        assert event.keys() == {"kind", "time", *EVENTS[event["kind"]]}
    ended, started, _, last = events
    assert (ended["trial"], ended["by_hand"], ended["reason"]) == ("candidate-002", True, "why")
    assert started["settings"] == {"repa.teacher": "dinov2s_saliency", "repa.depth": 2, "repa.weight": 0.5}
    assert last["metrics"].keys() >= {OBJECTIVE}
    assert last["baseline"]["percent"] == pytest.approx(-0.5, abs=0.1)
    assert last["verdict"]["stop"] is False


def test_a_standing_is_json_with_every_field_that_is_documented(lab: Lab) -> None:
    stream = io.StringIO()
    Printer(stream)("standing", **standing_fields(_standing(lab, since=time.time() - 9), with_ended=True))
    told = json.loads(stream.getvalue())
    for trial in [*told["running"], *told["ended"], told["best"]]:
        assert all(name in EVENTS["standing"]["running"] for name in trial), "the documentation names every field"
    assert told["running"][0]["left_s"] == pytest.approx(31.5)
    with pytest.raises(AssertionError):
        Printer(stream)("end", trial="candidate-000")


def test_a_thousand_trials_are_looked_at_in_a_moment(tmp_path: Path) -> None:
    lab = Lab(tmp_path, candidates=1000)
    lab.baselines(1.0, 1.01)
    lab.trial("candidate-000", 1.0)
    content = lab.paths.trial_ledger("candidate-000").read_text()
    for number in range(1, 1000):
        name, order = f"candidate-{number:03d}", f'"order":{number + 2}'
        text = content.replace("candidate-000", name).replace('"order":2', order)
        lab.paths.trial_ledger(name).write_text(text)
    observer = Observer(space=replace(lab.space), paths=lab.paths, planned=1002)
    observer.look()
    observer.standing()
    begun = time.process_time()
    observer.look()
    standing = observer.standing()
    live_view(standing, width=100, height=40)
    assert len(standing.ended) == 1002
    assert time.process_time() - begun < 0.5, "all that is new in a second is a small part of it"
