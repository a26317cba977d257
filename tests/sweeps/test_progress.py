"""The lines that a running sweep prints."""

from __future__ import annotations

import errno
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from sweeps.events import EVENTS, Printer
from sweeps.ledger import LOSS, STOPPED, End, Interruption
from sweeps.main import main
from sweeps.progress import Events, Lines, Pace, Watch
from sweeps.run import main as run_sweep
from sweeps.standing import Observer
from sweeps.storage import SweepPaths
from tests.sweeps.lab import ALL, OBJECTIVE, Lab


def _lines(lab: Lab, console: Console, watch: Watch) -> str:
    assert isinstance(console.file, io.StringIO)
    watch.poll()
    return console.file.getvalue()


def test_an_evaluation_on_fewer_samples_says_on_how_many(tmp_path: Path) -> None:
    lab = Lab(tmp_path, candidates=2)
    console = Console(file=io.StringIO(), width=200)
    lines = Lines(console, OBJECTIVE, ALL)
    watch = Watch(observer=Observer(space=lab.space, paths=lab.paths, planned=4), teller=lines)
    lab.trial("candidate-000", 1.0, until=40, outcome=None, samples={40: 48})
    assert "mmd_opennsfw 651 (n=48, baseline not there yet)  loss 0.300" in _lines(lab, console, watch)
    lab.baselines(1.0, 1.03)
    assert "mmd_opennsfw 383  loss 0.300" in _lines(lab, console, watch)
    lab.trial("candidate-001", 1.2, until=80, outcome=None, samples={40: 48})
    text = _lines(lab, console, watch)
    assert "mmd_opennsfw 781.2 (n=48, +6.5 spreads)  loss 0.300" in text
    assert "mmd_opennsfw 352 (+6.5 spreads)  loss 0.300" in text


def test_an_interruption_and_an_end_are_told_once_to_people_and_to_machines(tmp_path: Path) -> None:
    lab = Lab(tmp_path, candidates=1)
    lab.trial("candidate-000", 1.0, until=40, outcome=None)
    console, stream = Console(file=io.StringIO(), width=200), io.StringIO()
    people = Watch(observer=_observer(lab), teller=Lines(console, OBJECTIVE, ALL))
    machines = Watch(observer=_observer(lab), teller=Events(Printer(stream)))
    silent = Watch(observer=_observer(lab))
    lab.ledger.append(Interruption(trial="candidate-000", cause=LOSS, step=40, reason="node [a] is gone", time=1.0))
    end = End(trial="candidate-000", outcome=STOPPED, step=55, reason="by hand (ana): dull [sic]", log="", by_hand=True)
    lab.ledger.append(end)
    text = _lines(lab, console, people)
    assert "candidate-000    goes on at step 40 after a loss: node [a] is gone" in text
    assert "candidate-000    stopped at step 55: by hand (ana): dull [sic]" in text
    assert _lines(lab, console, people) == text
    machines.poll()
    told = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(event["kind"], event["trial"]) for event in told] == [
        ("interruption", "candidate-000"),
        ("end", "candidate-000"),
    ]
    assert all(event.keys() == {"kind", "time", *EVENTS[event["kind"]]} for event in told)
    assert silent.poll().states == {STOPPED: 1}


def test_without_a_terminal_a_line_a_minute_says_that_work_goes_on(tmp_path: Path, monkeypatch) -> None:
    lab = Lab(tmp_path, candidates=1)
    lab.trial("candidate-000", 1.0, until=40, outcome=None)
    console, clock = Console(file=io.StringIO(), width=200), [1000.0]
    monkeypatch.setattr("sweeps.progress.time.monotonic", lambda: clock[0])
    watch = Watch(observer=_observer(lab), teller=Lines(console, OBJECTIVE, ALL))
    clock[0] += 59
    assert _lines(lab, console, watch) == ""
    clock[0] += 2
    text = _lines(lab, console, watch)
    assert "0 of 3 trials ended, 1 running; " in text
    assert "; running: candidate-000 40/200" in text
    assert _lines(lab, console, watch) == text


def test_looks_take_a_tenth_of_the_time_at_most(tmp_path: Path, monkeypatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr("sweeps.progress.time.monotonic", lambda: clock[0])
    for took, pause in ((0.01, 1.0), (0.4, 4.0), (9.0, 10.0)):
        pace = Pace(SweepPaths(tmp_path))
        assert pace.is_due()
        with pace.measured():
            clock[0] += took
        clock[0] += pause - 0.6
        assert not pace.is_due()
        clock[0] += 0.2
        assert pace.is_due()


def test_the_last_word_of_a_run_is_its_exit_code_also_for_machines(tmp_path: Path, capsys) -> None:
    assert main(["run", str(tmp_path / "none.yaml"), "--json"]) == 2
    out, err = capsys.readouterr()
    (event,) = map(json.loads, out.splitlines())
    assert (event["kind"], event["code"]) == ("exit", 2)
    assert err.strip() == event["message"]
    assert event["message"].startswith(f"error: {tmp_path / 'none.yaml'}: no such file")
    assert main(["run", str(tmp_path / "none.yaml"), "--quiet"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)


@pytest.mark.parametrize(
    ("error", "code", "word"),
    [
        (KeyboardInterrupt(), 130, "Interrupted. Nothing is lost: the same command goes on from here."),
        (OSError(errno.ENOSPC, "No space left on device", "/results/x"), 3, "halted: "),
    ],
)
def test_a_run_that_ends_before_its_time_says_how_to_go_on(error, code, word, tmp_path, capsys, monkeypatch) -> None:
    def ends(options, output) -> int:
        raise error

    monkeypatch.setattr("sweeps.run._main", ends)
    for more in ([], ["--quiet"], ["--json"]):
        assert run_sweep([str(tmp_path / "space.yaml"), *more]) == code
        out, err = capsys.readouterr()
        assert word in err
        assert bool(out) == (more == ["--json"])
    assert (json.loads(out)["kind"], json.loads(out)["code"]) == ("exit", code)
    assert word in json.loads(out)["message"]
    left = []
    monkeypatch.setattr("os._exit", left.append)
    main(["run", str(tmp_path / "space.yaml")])
    assert left == [code], "at once: threads of slots still talk to Ray"


def _observer(lab: Lab) -> Observer:
    return Observer(space=lab.space, paths=lab.paths, planned=3)
