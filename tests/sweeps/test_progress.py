"""The lines that a running sweep prints."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from sweeps.progress import Lines, Watch
from sweeps.standing import Observer
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
