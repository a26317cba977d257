"""What the page, the table and the terminal say of stopping and of its audit."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest

from sweeps.ledger import STOPPED, verdict_row
from sweeps.page import stopping
from sweeps.report import final_lines
from sweeps.rule import Verdict
from sweeps.stopping import audit_sentences, stopped_sentence, stopping_line
from tests.sweeps.lab import Lab
from tests.sweeps.test_report import assert_whole_and_offline, printed

BAD = (3.0, 3.0, 3.0, 3.0, 3.0)  # times the baseline, at the five steps
LEVEL = (3.0, 3.0, 3.0, 1.1, 1.0)
AHEAD = (3.0, 3.0, 3.0, 0.8, 0.6)
FINE = (0.9, 0.9, 0.9, 0.9, 0.9)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path, candidates=5)
    lab.space = replace(lab.space, stop=replace(lab.space.stop, margin=1.0))
    lab.baselines(1.0, 1.03)
    lab.judged("candidate-000", FINE)
    return lab


def section(page: str) -> str:
    """The text of the section on stopping."""
    found = re.search(r'<section id="stopping">(.*?)</section>', page, re.DOTALL)
    assert found is not None
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", found.group(1))).split())


def test_nothing_stopped_and_nothing_to_audit(lab: Lab) -> None:
    assert section(lab.page()) == "What stopping did No candidate was stopped."
    assert stopping_line(lab.summary()) == "no candidate was stopped"
    assert audit_sentences(lab.summary()) == []


def test_who_was_stopped_where_and_what_it_saved(lab: Lab) -> None:
    lab.judged("candidate-001", BAD)
    lab.judged("candidate-002", (1.0, 1.0, *BAD[2:]))
    summary = lab.summary()
    # 12 s an evaluation; three and one of five are left out, of 3 * 60 + 24 + 48 + 48 seconds.
    told = stopped_sentence(summary)
    assert told.startswith("2 of 3 candidates stopped early, at steps 80 to 160 of 200, ")
    assert "spreads worse than the baseline there" in told
    assert "saved about 48 s of training and evaluation, 16 % of what all trials would have taken" in told
    text = section(lab.page())
    assert told in text
    assert "candidate-001 dinov2s_saliency, depth 2/2, weight 0.5 80/200" in text
    assert "not known: it was stopped" in text


def test_that_nobody_was_audited_is_said_plainly(lab: Lab) -> None:
    lab.judged("candidate-001", BAD)
    (told,) = audit_sentences(lab.summary())
    assert told.startswith("None was audited.")
    assert "with a chance of 10 %, and none of these 1 was drawn" in told
    assert "none was drawn" in stopping_line(lab.summary())
    lab.space = replace(lab.space, stop=replace(lab.space.stop, audit=0.0))
    (told,) = audit_sentences(lab.summary())
    assert told.startswith("The audit is off (stop.audit: 0)")
    assert stopping_line(lab.summary()).endswith("audit: off")


def test_how_many_audited_candidates_recovered_and_what_that_is_worth(lab: Lab) -> None:
    lab.judged("candidate-001", BAD)
    lab.judged("candidate-002", BAD, audit=True)
    lab.judged("candidate-003", LEVEL, audit=True)
    summary = lab.summary()
    went_on, recovery = audit_sentences(summary)
    assert "2 of 3 did, which took 1 min 12 s that stopping would have saved" in went_on
    assert recovery.startswith("1 of 2 recovered, that is, ended less than 2 spreads worse than the baseline; 0 ended")
    assert "1 to 99 % of those that this rule stops here would recover (95 % interval)" in recovery
    assert stopping_line(summary).endswith("audit: 2 went on to the end, 1 recovered")
    text = section(lab.page())
    assert "within the noise: it recovered" in text
    assert "clearly worse: it would have been stopped rightly" in text
    assert "12 s more spent" not in text
    assert text.count("36 s more spent") == 2
    assert summary.compute.num_stopped == 1
    page = lab.page()
    board = re.search(r'<section id="scoreboard">.*?</section>', page, re.DOTALL)
    assert board is not None
    assert board[0].count("audited: the rule would have stopped it at step 80") == 2
    assert_whole_and_offline(page)
    table = " ".join(printed(summary, width=160).split())
    assert table.count("finished, audited: the rule would have stopped it at step 80") == 2


def test_a_best_candidate_that_would_have_been_stopped_is_a_finding_against_the_rule(lab: Lab) -> None:
    lab.judged("candidate-001", AHEAD, audit=True)
    summary = lab.summary()
    assert summary.best is not None
    assert summary.best.trial == "candidate-001"
    finding = "candidate-001, the best candidate, would have been stopped at step 80: a finding against the rule"
    assert audit_sentences(summary)[-1] == f"{finding}."
    assert "clearly better: the rule would have lost it" in section(lab.page())
    assert f"stopping: {stopping_line(summary)}" in final_lines(summary, lab.paths)
    assert finding in stopping_line(summary)


def test_an_audited_candidate_on_its_way_has_not_recovered_yet(lab: Lab) -> None:
    lab.judged("candidate-001", BAD, audit=True, until=160)
    _, recovery = audit_sentences(lab.summary())
    assert recovery.startswith("None of them can be compared with the baseline at its end")
    assert "of 1 the end is not known yet" in recovery
    assert "still on its way" in section(lab.page())


def test_where_many_were_stopped_the_page_folds_all_but_the_first(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "MOST_ROWS", 1)
    lab.judged("candidate-001", BAD)
    assert "The other" not in section(stopping.stopping_section(lab.summary()))
    lab.judged("candidate-002", BAD)
    open_part, _, rest = stopping.stopping_section(lab.summary()).partition("<summary>The other 1 candidate</summary>")
    rows = [len(re.findall(r'<i class="dot', part)) for part in (open_part, rest)]
    assert rows == [1, 1]


def test_every_verdict_of_a_stopped_candidate_can_be_read(lab: Lab) -> None:
    lab.judged("candidate-001", (1.0, 1.0, *BAD[2:]))
    record = lab.ledger.record("candidate-001")
    assert record is not None
    assert record.outcome == STOPPED
    text = section(lab.page())
    for row in record.evaluations:
        assert row.verdict is not None
        assert row.verdict["reason"] in text
    assert "n=384" in text
    forecast = record.evaluations[-1].verdict["forecast"]
    assert f"on its trend {forecast:.1f} spreads worse at the end" in text


def test_verdicts_of_an_older_ledger_can_be_shown(lab: Lab) -> None:
    lab.trial("candidate-001", 3.0, until=80, outcome=STOPPED, reason="far behind")
    assert "candidate-001" in section(lab.page())
    old = {"stop": True, "reason": "far behind", "judged_step": 80, "value": 1.0, "baseline_mean": 1.0, "gap": 1e9}
    lab.row("candidate-001", 80, 3.0, verdict={**old, "seeds": 2, "spread": 0.02, "strikes": 2, "num_samples": 384})
    assert "far beyond the spread worse than the baseline there" in section(lab.page())


def test_what_halving_leaves_behind_is_measured_by_whether_it_is_the_best(lab: Lab) -> None:
    """It beats the baseline, so it cannot recover; without strikes there is nothing to recover from."""
    left = Verdict(stop=False, audited=True, reason="left behind", judged_step=80, gap=-3.0, strikes=0, seeds=2)
    for name, factor in (("candidate-001", 0.95), ("candidate-002", 0.8)):
        lab.trial(name, factor)
        lab.row(name, 80, factor, verdict=verdict_row(left))
    went_on, told, finding = audit_sentences(lab.summary())
    assert "2 of 2 did" in went_on
    assert told == (
        "2 of them would have been left behind by halving, for others that were ahead: 2 of those have ended, and one "
        "is the best candidate."
    )
    assert finding.startswith("candidate-002, the best candidate, would have been stopped at step 80")
    text = section(lab.page())
    assert "not the best: it would have been left behind rightly" in text
    assert "the best: halving would have lost it" in text
    assert stopping_line(lab.summary()).startswith(
        "0 of 3 candidates stopped; audit: 2 went on to the end, 0 recovered"
    )
