"""`prx-sweeps replay`, as a user gives it: on real ledgers, of this version and of older ones."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from sweeps.ledger import BASELINE, CANDIDATE, Start
from sweeps.main import main
from sweeps.provenance import append_start, recorded_rule
from tests.sweeps.lab import OBJECTIVE, OTHER, Lab
from tests.sweeps.trials import METRIC, SMOKE, write_baseline

BAD, LATE, FINE = (9.0,) * 5, (9.0, 0.5, 0.5, 0.5, 0.5), (0.9,) * 5


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """One candidate each that is fine, was stopped, went on as an audit, and was late but best."""
    lab = Lab(tmp_path, candidates=4)
    lab.space = replace(lab.space, stop=replace(lab.space.stop, margin=1.0))
    lab.baselines(1.0, 1.03)
    lab.judged("candidate-000", FINE)
    lab.judged("candidate-001", BAD)
    lab.judged("candidate-002", BAD, audit=True)
    lab.judged("candidate-003", LATE)
    append_start(lab.paths.starts, {"profile": "laptop"})  # of an older version
    append_start(lab.paths.starts, {"profile": "laptop", **recorded_rule(lab.space)})
    return lab


def replayed(capsys, *arguments: object) -> str:
    assert main(["replay", *map(str, arguments)]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert max(map(len, shown.out.splitlines())) <= 100
    assert "\x1b" not in shown.out
    return shown.out


def refused(capsys, *arguments: object) -> str:
    assert main(["replay", *map(str, arguments)]) == 2
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1
    assert shown.err.startswith("error: ")
    return shown.err


def rows(shown: str) -> dict[str, list[str]]:
    return {line.split()[0]: line.split()[1:] for line in shown.splitlines() if line.startswith(" candidate-")}


def test_under_its_own_rule_the_replay_tells_what_the_sweep_did(lab, capsys):
    shown = replayed(capsys, lab.paths.root)
    assert f"{OBJECTIVE} (min), 4 candidates, 2 baseline seeds, n = 384" in shown
    recorded, replay = (line.split(maxsplit=1)[1] for line in shown.splitlines()[1:3])
    assert recorded == replay == "margin 1, patience 2, grace 0.2, min_seeds 2, evaluation adaptive"
    table = rows(shown)
    assert table["candidate-000"][:4] == ["to", "the", "end", "-"]
    assert table["candidate-001"][:4] == ["stopped", "at", "80", "80"]
    assert table["candidate-001"][-1] == "unknown"
    assert table["candidate-002"][:4] == ["audited", "at", "80", "80"]
    assert table["candidate-002"][-2:] == [f"{_gap(table['candidate-002'], -2):+.1f}", "worse"]
    assert shown == replayed(capsys, lab.paths.ledger), "its ledger's folder is as good"
    told = " ".join(shown.split())
    assert "2 of 4 candidates; the sweep's own rule stopped 2 (1 of them audited), 2 of these at the same step" in told
    assert "the sweep itself saved about 36 s of 4 min (15 %)" in told
    assert "0 of the 1 stopped ones whose end is known ended better than the baseline" in told
    assert "how candidate-001 would have ended: the sweep stopped it too" in told


def test_a_stricter_rule_that_would_lose_the_best_says_so(lab, capsys):
    shown = replayed(capsys, lab.paths.root, "--patience", 1)
    table = rows(shown)
    assert table["candidate-003"][:6] == ["*", "to", "the", "end", "40", f"{_gap(table['candidate-003']):+.1f}"]
    assert table["candidate-003"][-2:] == ["better:", "LOST"]
    assert "candidate-003, the best (*), would be stopped at step 40" in shown
    assert f"the best left, candidate-000, is 80.0 % worse in {OBJECTIVE}" in " ".join(shown.split())
    assert "1 of the 2 stopped ones whose end is known ended better than the baseline, 1 of them clearly" in " ".join(
        shown.split()
    )


def _gap(cells: list[str], place: int = 5) -> float:
    return float(cells[place])


def test_a_laxer_rule_tells_what_it_cannot_know(lab, capsys):
    shown = " ".join(replayed(capsys, lab.paths.root, "--patience", 3).split())
    assert "beyond 80" in shown
    assert "candidate-001: the sweep stopped it sooner, up to about 36 s would be added" in shown
    assert "none was audited" not in shown
    shutil.move(lab.paths.trial_ledger("candidate-002"), lab.paths.root)
    assert "none was audited" in " ".join(replayed(capsys, lab.paths.root, "--patience", 3).split())


def test_another_metric_of_the_ledger_can_judge(lab, capsys):
    assert f"{OTHER} (min)" in replayed(capsys, lab.paths.root, "--metric", OTHER)
    assert f"{OBJECTIVE} (max)" in replayed(capsys, lab.paths.root, "--mode", "max")


def test_settings_that_cannot_be_are_one_line(lab, capsys):
    root = lab.paths.root
    assert "--metric: got 'mmd'; allowed is" in refused(capsys, root, "--metric", "mmd")
    assert "--margin: got -1.0, allowed is a finite number" in refused(capsys, root, "--margin", -1)
    assert "--min-seeds: got 1, allowed is at least 2" in refused(capsys, root, "--min-seeds", 1)
    assert "--grace: got 2.0" in refused(capsys, root, "--grace", 2)


def test_folders_that_hold_no_sweep_are_one_line(lab, tmp_path, capsys):
    assert "no such folder; allowed is the folder of a sweep's results" in refused(capsys, tmp_path / "none")
    assert "not a folder" in refused(capsys, lab.paths.starts)
    assert "no ledger of a trial in it" in refused(capsys, tmp_path)
    empty = Lab(tmp_path / "empty", candidates=1)
    empty.baselines(1.0)
    assert "no candidate in it" in refused(capsys, empty.paths.root)
    empty.trial("candidate-000", 1.0)
    append_start(empty.paths.starts, recorded_rule(empty.space))
    assert f"1 baseline seeds with {OBJECTIVE}; needed are 2" in refused(capsys, empty.paths.root)


def test_a_ledger_of_another_version_is_one_line(lab, capsys):
    with lab.paths.trial_ledger("candidate-000").open("a") as file:
        file.write(json.dumps({"kind": "of tomorrow"}) + "\n")
    assert "not a row of this version's ledger" in refused(capsys, lab.paths.root)


def test_of_a_bare_ledger_metric_and_rule_are_given_by_hand(lab, tmp_path, capsys):
    bare = tmp_path / "copied" / "ledger"
    shutil.copytree(lab.paths.ledger, bare)
    assert "the sweep's objective is not known" in refused(capsys, bare)
    assert "give it by hand with --metric" in refused(capsys, bare)
    by_hand = [bare, "--metric", OBJECTIVE]
    assert "the sweep's own rule is not known; give --patience, --grace by hand" in refused(
        capsys, *by_hand, "--margin", 1
    )
    shown = replayed(capsys, *by_hand, "--margin", 1, "--patience", 2, "--grace", 0.2)
    assert "recorded  unknown settings" in shown
    assert rows(shown) == rows(replayed(capsys, lab.paths.root))


def test_a_folder_of_an_older_version_is_read_by_its_search_space_file(tmp_path, capsys):
    """Older starts name the profile, and not the rule."""
    lab = Lab(tmp_path, candidates=1)
    for seed, factor in ((0, 1.0), (1, 1.01)):
        write_baseline(lab.paths, f"baseline-seed{seed}", dict.fromkeys((3, 6, 9, 12), 10.0 * factor))
    write_baseline(lab.paths, "candidate-000", dict.fromkeys((3, 6, 9, 12), 90.0))
    _rename(lab, "candidate-000")
    lab.paths.space.write_bytes(SMOKE.read_bytes())
    append_start(lab.paths.starts, {"profile": "laptop"})
    shown = replayed(capsys, lab.paths.root, "--margin", 0.1)
    assert f"{METRIC} (min), 1 candidates" in shown
    assert "recorded  margin 2, patience 2, grace 0.2" in shown
    assert rows(shown)["candidate-000"][:4] == ["unfinished", "at", "12", "6"]


def _rename(lab: Lab, trial: str) -> None:
    """The first row says what the trial is: now a candidate."""
    path = lab.paths.trial_ledger(trial)
    first, *rest = path.read_text().splitlines(keepends=True)
    start = Start(**json.loads(first))
    assert start.role == BASELINE
    path.write_text(first.replace(f'"role":"{BASELINE}"', f'"role":"{CANDIDATE}"') + "".join(rest))
