"""What a node is asked before any trial starts, and what is said where it cannot do its work. On Ray: test_slots."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from prx_model.weight_homes import Packages
from prx_model.weights import Need
from sweeps.cluster_preflight import MOST_SKEW_S, Answer, Question, answer_of_this_node, judged
from sweeps.storage import SweepPaths

WORD = "0123"
NOTE = ".seen-by-driver"


@pytest.fixture
def paths(tmp_path: Path) -> SweepPaths:
    (tmp_path / NOTE).write_text(WORD)
    return SweepPaths(tmp_path)


def _question(paths: SweepPaths) -> Question:
    return Question(root=str(paths.root), driver_file=NOTE, word=WORD, data=None, needs=())


def _problems(paths: SweepPaths, question: Question) -> list[str]:
    begun = time.time()
    return list(judged(answer_of_this_node(question), paths, WORD, begun, time.time()))


def test_a_node_that_shares_the_folder_has_no_problem_and_leaves_nothing(paths):
    assert _problems(paths, _question(paths)) == []
    assert os.listdir(paths.root) == [NOTE]


def test_a_folder_that_is_not_shared_is_noticed(paths, tmp_path):
    """Each node can write to a path of that name on its own disk; that is what makes it easy to miss."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (missing,) = _problems(paths, replace(_question(paths), root=str(elsewhere)))
    assert "cannot be read and written: " in missing
    assert "No such file" in missing
    assert missing.endswith("a folder that all share, or s3://bucket/prefix")
    (elsewhere / NOTE).write_text("of another driver")
    old, unseen = _problems(paths, replace(_question(paths), root=str(elsewhere)))
    assert "is not what is there" in old
    assert f"what it writes to {paths.root} cannot be read here" in unseen


def test_gpus_that_ray_counts_and_torch_does_not_see_are_a_problem(paths, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (problem,) = _problems(paths, replace(_question(paths), gpus=True))
    assert "Ray counts GPUs here and torch sees none; see to `nvidia-smi`" in problem
    assert _problems(paths, _question(paths)) == []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert _problems(paths, replace(_question(paths), gpus=True)) == []


def test_data_and_weights_are_looked_for_where_trials_run(paths, tmp_path):
    need = Need(what="teacher x", home=Packages(names=("no-such-package",), extra="laptop"))
    question = replace(_question(paths), data=str(tmp_path / "nothing"), needs=(need,))
    data, weights = _problems(paths, question)
    assert f"data set {tmp_path}/nothing: " in data
    assert data.endswith("put it where every node can read, such as s3://")
    assert "teacher x: " in weights
    assert all(line.startswith("node ") and "\n" not in line for line in (data, weights))


@pytest.mark.parametrize(("off_s", "told"), [(0, None), (-90, "90 s off"), (95, "95 s off"), (MOST_SKEW_S - 1, None)])
def test_a_clock_that_is_off_is_told(paths, off_s, told):
    """An answer was given at some time between question and receipt, however long a node took to start."""
    begun, ended = 1000.0, 1600.0
    now = begun + off_s if off_s < 0 else ended + off_s
    found = list(judged(Answer(host="h", now=now, file="", problems=()), paths, WORD, begun, ended))
    assert found == ([] if told is None else [f"node h: its clock is {told} this machine's; set both by NTP"])
    assert not list(judged(Answer(host="h", now=1300.0, file="", problems=()), paths, WORD, begun, ended))
