"""The report, on ledgers written by the ledger's own classes: at any time, and never bolder than the data."""

from __future__ import annotations

import base64
import io
import math
import re
from dataclasses import replace
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from sweeps.best import luck_of_best
from sweeps.confirmation import best_record
from sweeps.costs import Costs
from sweeps.ledger import BASELINE, FAILED, LOSS, NOTICE, STOPPED, Interruption, baseline_curves
from sweeps.page.axes import LABEL_PT, apart
from sweeps.page.figure_curves import curve_figure
from sweeps.page.roles import hollow_note, provenance_line
from sweeps.report import Summary, final_lines, final_table, write_page
from sweeps.rule import compare
from sweeps.space import Budget
from tests.sweeps.lab import ALL, BIAS, OBJECTIVE, OTHER, START, STEPS, Lab

SECTIONS = (
    "answer",
    "winner",
    "scoreboard",
    "curves",
    "samples",
    "settings",
    "stopping",
    "costs",
    "failures",
    "provenance",
)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """Two baselines; one candidate each that finished ahead, was stopped, failed."""
    lab = Lab(tmp_path, candidates=3)
    lab.baselines(1.0, 1.03)
    lab.trial("candidate-000", 0.9)
    lab.trial("candidate-001", 1.2, until=120, outcome=STOPPED, reason="5 spreads worse, 2 evaluations in a row")
    lab.trial("candidate-002", 1.0, until=80, outcome=FAILED, end_step=97, reason="diverged: loss [nan] <at> step 97")
    return lab


class _Tags(HTMLParser):
    """Every tag with its attributes, and whether each was closed in order."""

    VOID = frozenset({"meta", "img", "source", "wbr", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag


def parsed(page: str) -> list[tuple[str, dict[str, str | None]]]:
    """The page's tags. Fails where one is left open or closed out of order."""
    parser = _Tags()
    parser.feed(page)
    assert parser.open == []
    return parser.seen


def assert_whole_and_offline(page: str) -> None:
    tags = parsed(page)
    for code in re.findall(r'src="data:image/[a-z]+;base64,([^"]+)"', page):
        Image.open(io.BytesIO(base64.b64decode(code))).load()
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert [attributes["id"] for tag, attributes in tags if tag in ("header", "section")] == list(SECTIONS)
    for tag, attributes in tags:
        assert tag not in ("script", "link", "iframe", "object"), tag
        for name in ("src", "srcset", "poster", "background"):
            assert (attributes.get(name) or "data:").startswith("data:")
        assert not (attributes.get("href") or "").startswith(("http", "//"))
    assert page.count("url(") == page.count("url(#")  # what a figure clips itself with
    assert "@import" not in page


def figures_of(page: str) -> list[str]:
    return re.findall(r'<svg class="figure".*?</svg>', page)


def printed(summary: Summary, width: int = 100, soft_wrap: bool = False) -> str:
    console = Console(width=width, force_terminal=False, soft_wrap=soft_wrap)
    with console.capture() as capture:
        console.print(final_table(summary))
    return capture.get()


def test_readings_are_those_of_the_rule_at_the_trials_own_last_step(lab: Lab) -> None:
    summary = lab.summary()
    stopped = next(trial for trial in summary.trials if trial.name == "candidate-001")
    mean = math.sqrt(1.03)
    record = lab.ledger.record("candidate-001")
    assert record is not None
    expected = compare(record.curve(OBJECTIVE), baseline_curves(lab.ledger.records(), OBJECTIVE))[-1]
    reading = stopped.readings[OBJECTIVE]
    assert (reading.step, reading.gap) == (120, expected.gap)
    assert reading.percent == pytest.approx(100 * (1.2 / mean - 1))
    assert stopped.readings[OTHER].percent == pytest.approx(100 * (1.2 / mean - 1))
    assert stopped.config == "dinov2s_saliency, depth 1/2, weight 0.422"


def test_baseline_points_are_means_and_spread_over_seeds(lab: Lab) -> None:
    points = lab.summary().baseline[OBJECTIVE]
    assert [point.step for point in points] == list(STEPS)
    assert points[-1].mean == pytest.approx(500 * math.exp(-200 / 150) * math.sqrt(1.03))
    assert points[-1].spread == pytest.approx(math.log(1.03) / math.sqrt(2))
    assert {point.seeds for point in points} == {2}


def test_a_value_on_fewer_samples_is_shown_as_what_it_means_on_all(lab: Lab) -> None:
    """The measured value is larger by a bias that all trials share; its estimate and its percent are free of it."""
    lab.trial("candidate-003", 1.2, until=120, outcome=None, samples={80: 96, 120: 48})
    trial = next(trial for trial in lab.summary().trials if trial.name == "candidate-003")
    whole, fewer, fewest = (trial.curves[OBJECTIVE][step] for step in (40, 80, 120))
    assert [point.num_samples for point in (whole, fewer, fewest)] == [ALL, 96, 48]
    assert [(point.full, point.scaled) for point in (whole, fewer, fewest)] == [(True, False), *[(False, True)] * 2]
    assert fewer.value == pytest.approx(1.2 * 500 * math.exp(-80 / 150))
    record = lab.ledger.record("candidate-003")
    assert record is not None
    assert record.values(OBJECTIVE)[120] == pytest.approx(fewest.value * (1 + 7 * BIAS))
    reading = trial.readings[OBJECTIVE]
    assert reading.percent == pytest.approx(100 * (1.2 / math.sqrt(1.03) - 1))
    assert reading.gap == pytest.approx(
        math.log(1.2 / math.sqrt(1.03)) / (math.log(1.03) / math.sqrt(2) * math.sqrt(1.5))
    )
    assert trial.readings[OTHER].value == pytest.approx(fewest.value / 40)


def test_without_a_baseline_a_value_on_fewer_samples_stays_what_it_is(tmp_path: Path) -> None:
    lab = Lab(tmp_path, candidates=1)
    lab.trial("candidate-000", 1.0, until=40, outcome=None, samples={40: 48})
    point = lab.summary().trials[0].curves[OBJECTIVE][40]
    assert (point.value, point.full, point.scaled) == (pytest.approx(500 * math.exp(-40 / 150) * 1.7), False, False)
    assert lab.summary().trials[0].readings[OBJECTIVE].percent is None
    text = figure_text(lab)
    assert "as measured where the baseline has none" in text
    assert_whole_and_offline(lab.page())


def figure_text(lab: Lab) -> str:
    """What stands under the main figure."""
    summary = lab.summary()
    points = [point for trial in summary.trials for point in trial.curves[OBJECTIVE].values()]
    return f"{provenance_line(summary)}; {hollow_note(points)}"


def hollow_markers(svg: str) -> int:
    """Marks that are drawn white inside, each with its own place."""
    return sum("fill: #ffffff; stroke: #" in style for style in re.findall(r'<use [^>]*style="([^"]*)"', svg))


def test_points_from_fewer_samples_are_hollow_and_said_to_be(lab: Lab) -> None:
    summary = lab.summary()
    size = {"width_in": 10.5, "height_in": 5.2}
    assert hollow_markers(curve_figure(summary, OBJECTIVE, **size, legend=False)) == 0
    assert "hollow" not in figure_text(lab)
    lab.trial("candidate-003", 0.95, samples={40: 48, 80: 96, 120: 48})
    lab.trial("candidate-004", 0.8, until=80, outcome=None, samples={40: 48, 80: 48})
    summary = lab.summary()
    assert hollow_markers(curve_figure(summary, OBJECTIVE, **size, legend=False)) == 5
    assert hollow_markers(curve_figure(summary, OTHER, **size, legend=False)) == 5
    text = figure_text(lab)
    assert text.startswith(
        "n = 48, 96 or 384 samples per evaluation; baseline: seeds 0, 1; candidates: seed 0; hollow: from"
    )
    assert text.endswith("hollow: from fewer samples, scaled by the baseline's ratio")
    page = lab.page()
    for words in ("≈ 234.7", "spreads better, n=48", "n = 384 per evaluation", "n = 48 or 96 (stopping rule)"):
        assert words in page, words
    assert "Hollow: from fewer samples" in page
    assert_whole_and_offline(page)
    table = printed(summary)
    assert "≈ 234.7" in table
    assert "n=48" in table


def test_costs_are_told_by_what_they_were_spent_on(lab: Lab) -> None:
    lab.trial("candidate-003", 1.0, until=0, outcome=None)
    lab.row("candidate-003", 40, 1.0, num_samples=48, start_s=30.0, data_s=6.0, checkpoint_s=1.0)
    compute = lab.summary().compute
    train_s, eval_s = 10.0 * (5 + 5 + 5 + 3 + 2 + 1), 2.0 * (5 + 5 + 5 + 3 + 2 + 1)
    assert compute.costs == Costs(start_s=30.0, data_s=6.0, train_s=train_s, eval_s=eval_s, checkpoint_s=1.0)
    assert (compute.num_sampled, compute.num_full) == (20 * ALL + 48, 21 * ALL)
    assert sum(compute.costs.shares().values()) == pytest.approx(100)
    words = "start-up 10 %, data 2 %, training 73 %, evaluation 15 %, checkpoints < 1 %"
    line = next(line for line in final_lines(lab.summary(), lab.paths) if line.startswith("time"))
    assert line == f"time: {words}; evaluations on 7,728 of 8,064 samples (96 %)"
    page = lab.page()
    assert escape(words) in page
    assert "7,728 of 8,064 samples (96 %)" in page
    assert "48 of 384" in page
    assert "30 s (61 %)" in page


def test_losses_and_notices_are_told_with_the_trials_that_they_met(lab: Lab) -> None:
    assert not any(line.startswith("interrupted") for line in final_lines(lab.summary(), lab.paths))
    for number, (trial, cause) in enumerate(
        [("candidate-000", LOSS), ("candidate-000", NOTICE), ("candidate-001", LOSS)]
    ):
        lab.ledger.append(Interruption(trial=trial, cause=cause, step=40, reason="gone", time=float(number)))
    line = next(line for line in final_lines(lab.summary(), lab.paths) if line.startswith("interrupted"))
    assert line == ("interrupted: 2 losses of workers and 1 notice, in 2 trials, which went on from their checkpoints")
    page = lab.page()
    assert f"I{line[1:]}." in page
    assert f"I{line[1:]}." in lab.paths.markdown.read_text()


def test_costs_that_an_older_ledger_did_not_record_are_left_out(lab: Lab) -> None:
    line = next(line for line in final_lines(lab.summary(), lab.paths) if line.startswith("time"))
    assert line == "time: training 83 %, evaluation 17 %; evaluations on 7,680 of 7,680 samples (100 %)"
    assert "Every evaluation was made on all samples." in lab.page()


def test_a_stopped_trial_is_not_credited_with_start_ups_that_it_would_not_repeat(lab: Lab) -> None:
    before = lab.summary().compute.saved_s
    lab.row("candidate-001", 40, 1.2, start_s=1000.0)
    assert lab.summary().compute.saved_s == pytest.approx(before)


def test_a_failed_baseline_is_left_out_of_the_mean(lab: Lab) -> None:
    lab.trial("baseline-seed9", 9.0, role=BASELINE, seed=9, overrides={"repa": None}, outcome=FAILED, reason="lost")
    point = lab.summary().baseline[OBJECTIVE][-1]
    assert (point.seeds, point.mean) == (2, pytest.approx(500 * math.exp(-200 / 150) * math.sqrt(1.03)))


def test_best_is_the_one_whose_model_the_sweep_keeps(lab: Lab) -> None:
    lab.trial("candidate-003", 0.95)
    best, kept = lab.summary().best, best_record(lab.space, lab.ledger.records())
    assert best is not None
    assert kept is not None
    assert best.trial == kept.trial == "candidate-000"
    assert best.chosen_from == 4


def test_yes_names_the_candidate_and_both_units(lab: Lab) -> None:
    summary = lab.summary()
    assert summary.complete
    assert summary.best is not None
    gap = summary.best.reading.gap
    assert gap is not None
    assert gap < -2
    percent = 100 * (1 - 0.9 / math.sqrt(1.03))
    assert summary.answer == (
        "Yes, on one seed: candidate-000 (dinov2s_saliency, depth 1/2, weight 0.422) beats the baseline by "
        f"{percent:.1f} % ({-gap:.1f} spreads) in {OBJECTIVE} at step 200."
    )


@pytest.mark.parametrize("factor", [0.99, 1.0, 1.04])
def test_a_difference_below_two_spreads_is_inconclusive_everywhere(tmp_path: Path, factor: float) -> None:
    lab = Lab(tmp_path, candidates=2)
    lab.baselines(1.0, 1.03)
    lab.trial("candidate-000", factor)
    lab.trial("candidate-001", 1.05)
    summary = lab.summary()
    assert summary.best is not None
    assert summary.best.reading.gap is not None
    assert abs(summary.best.reading.gap) < 2
    assert summary.answer.startswith("Inconclusive: ")
    lines, page = "\n".join(final_lines(summary, lab.paths)), lab.page()
    for text in (lines, page):
        assert "Inconclusive" in text
        assert "the best of 2 candidates" in text
        assert "flattered" in text
        assert "Yes:" not in text


def test_no_where_the_best_is_clearly_worse(tmp_path: Path) -> None:
    lab = Lab(tmp_path, candidates=1)
    lab.baselines(1.0, 1.03)
    lab.trial("candidate-000", 1.3)
    assert lab.summary().answer.startswith("No: the best that finished, candidate-000")
    assert "falls short of the baseline by 28.1 %" in lab.summary().answer


def test_no_where_every_candidate_was_stopped(tmp_path: Path) -> None:
    lab = Lab(tmp_path, candidates=2)
    lab.baselines(1.0, 1.03)
    for number in range(2):
        lab.trial(f"candidate-00{number}", 1.3, until=120, outcome=STOPPED)
    assert lab.summary().answer == "No: no candidate kept up with the baseline (2 stopped)."


def test_more_is_better_where_the_objective_is_maximised(tmp_path: Path) -> None:
    lab = Lab(tmp_path, candidates=2, mode="max")
    lab.baselines(1.0, 1.03)
    lab.trial("candidate-000", 0.8)
    lab.trial("candidate-001", 1.3)
    summary = lab.summary()
    assert summary.best is not None
    assert summary.best.trial == "candidate-001"
    assert summary.answer.startswith("Yes, on one seed: candidate-001")
    assert [trial.name for trial in summary.ranked()] == ["candidate-001", "candidate-000"]


def test_a_lead_that_luck_explains_is_no_yes(lab: Lab) -> None:
    """The best of many leads by two spreads without any difference: then two spreads are not enough."""
    assert luck_of_best(1, 3) == 0
    assert luck_of_best(24, 3) == pytest.approx(1.95 / math.sqrt(4 / 3), abs=0.02)
    assert luck_of_best(200, 1000) > 2
    spread = math.log(1.03) / math.sqrt(2) * math.sqrt(1.5)
    many = Lab(lab.paths.root.parent / "many", candidates=300)
    many.baselines(1.0, 1.03)
    many.trial("candidate-000", math.sqrt(1.03) * math.exp(-2.1 * spread))
    for number in range(1, 300):
        many.trial(f"candidate-{number:03d}", 1.3, until=40, outcome=STOPPED)
    best = many.summary().best
    assert best is not None
    assert best.reading.gap == pytest.approx(-2.1)
    assert best.luck > 2.1
    assert not best.conclusive
    assert many.summary().answer.startswith("Inconclusive")


def test_compute_saved_and_repeated(lab: Lab) -> None:
    lab.row("candidate-000", 160, 0.9)  # made again after a resume
    compute = lab.summary().compute
    assert compute.spent_s == 12 * (5 + 5 + 5 + 3 + 2 + 1)
    assert compute.saved_s == pytest.approx(36 / 120 * 80)
    assert (compute.num_repeated, compute.repeated_s) == (1, 12)
    line = next(line for line in final_lines(lab.summary(), lab.paths) if line.startswith("compute"))
    assert "stopping 1 trial saved about 24 s (estimate)" in line
    assert "12 s (1 evaluation) repeated after resumes" in line


@pytest.mark.parametrize("soft_wrap", [False, True])
def test_the_table_fits_100_columns_and_is_plain(lab: Lab, soft_wrap: bool) -> None:
    text = printed(lab.summary(), soft_wrap=soft_wrap)
    assert max(map(len, text.splitlines())) <= 100
    assert "\x1b" not in text
    rows = [text.index(name) for name in ("baseline", "candidate-000 *", "candidate-001", "candidate-002")]
    assert rows == sorted(rows)
    assert "120/200" in text
    assert "spreads better" in text
    assert "[nan]" in text  # no markup


def test_lines_tell_what_failed_and_where_the_log_is(lab: Lab) -> None:
    lab.paths.best_model.mkdir()
    lines = final_lines(lab.summary(), lab.paths)
    log = lab.paths.trial_log("candidate-002")
    assert f"failed: candidate-002 at step 97: diverged: loss [nan] <at> step 97; log: {log}" in lines
    assert f"page: {lab.paths.page}" in lines
    assert f"best model: {lab.paths.best_model}" in lines


def test_page_has_every_section_and_loads_nothing(lab: Lab) -> None:
    for name in ("baseline-seed0", "candidate-000"):
        lab.grids(name)
    lab.paths.space.write_text("# card\nquestion: a < b\n")
    page = lab.page()
    assert_whole_and_offline(page)
    for text in ("stopped", "failed at step 97 of 200", "NOT FID", "n = 384", "seeds 0, 1", "0123abcd", "dirty"):
        assert text in page
    for text in ("no running Ray cluster", "torch 2.13.0", "2 cores, no GPU", "margin 2 spreads", "noise seed 7"):
        assert text in page
    assert "question: a &lt; b" in page
    assert "&quot;noise_seed&quot;: 7" in page
    assert "≈ 24 s" in page
    assert page.count("data:image/png;base64,") == 2
    assert page.count("data:image/webp;base64,") == 2
    assert len(figures_of(page)) == 2 + 2 + 1 + 2 + 2 + 2
    assert list(lab.paths.root.glob(".*.tmp")) == []


def test_page_escapes_everything(tmp_path: Path) -> None:
    evil = '<script>alert("x")</script>'
    lab = Lab(tmp_path, candidates=1, question=f"{evil} & more?")
    lab.baselines(1.0, 1.03)
    overrides = {"repa.teacher": "dinov2s_saliency", "repa.depth": 1, "repa.weight": 0.5}
    lab.trial("candidate-000", 1.0, overrides=overrides, until=80, outcome=FAILED, reason=evil)
    lab.paths.space.write_text(evil)
    start = {**START, "command": evil, "hardware": evil, "packages": {evil: evil}}
    write_page(lab.space, lab.paths, lab.summary(), [start])
    page = lab.paths.page.read_text()
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 6
    assert_whole_and_offline(page)


def test_page_of_an_empty_ledger(tmp_path: Path) -> None:
    lab = Lab(tmp_path, candidates=3)
    page = write_page(lab.space, lab.paths, lab.summary(), []).read_text()
    assert_whole_and_offline(page)
    assert "Not answered yet: 0 of 3 candidates have ended" in page
    assert "No samples yet" in page
    assert "no evaluation yet" in page
    assert "0 of 2 seeds finished" in printed(lab.summary())


def test_page_with_one_baseline_seed_has_no_band_and_no_gap(tmp_path: Path) -> None:
    lab = Lab(tmp_path, candidates=1)
    lab.baselines(1.0)
    lab.trial("candidate-000", 0.5)
    summary, page = lab.summary(), lab.page()
    assert summary.answer.startswith("Not answered yet: 1 of 1 candidates have ended, and there are not two baseline")
    assert summary.baseline[OBJECTIVE][-1].spread is None
    assert "spreads better" not in page
    assert_whole_and_offline(page)
    assert "no spread yet" in printed(summary)


def test_page_while_trials_run(lab: Lab) -> None:
    lab.space = replace(lab.space, budget=Budget(candidates=5, baseline_seeds=2))
    lab.trial("candidate-003", 1.0, until=80, outcome=None)
    lab.trial("candidate-004", 1.0, until=0, outcome=None)
    summary, page = lab.summary(), lab.page()
    assert not summary.complete
    assert summary.answer.startswith(
        "Not answered yet: 3 of 5 candidates have ended; so far, on one seed, candidate-000"
    )
    assert "not complete" in page
    assert "1 finished, 1 stopped, 1 failed, 2 unfinished" in page
    assert_whole_and_offline(page)
    assert "unfinished: no evaluation yet" in " ".join(printed(summary, width=160).split())


def test_values_at_or_below_zero_can_be_shown(lab: Lab) -> None:
    """An unbiased MMD can be: no logarithm, no percent of a negative mean, no crash."""
    lab.row("candidate-000", 200, -0.01)
    summary = lab.summary()
    assert summary.best is not None
    assert summary.best.reading.gap == -math.inf
    assert "far beyond the spread" in summary.answer
    assert_whole_and_offline(lab.page())
    assert "nan" not in printed(summary).replace("[nan]", "")


def test_large_and_broken_sample_grids(lab: Lab) -> None:
    for name in ("baseline-seed0", "candidate-000"):
        lab.grids(name, side=1027)
    lab.paths.sample_grid("candidate-000", 200).write_bytes(b"\x89PNG torn")
    page = lab.page()
    assert "unreadable picture" in page
    assert page.count("data:image/jpeg;base64,") == 1
    steps = [", ".join(map(str, STEPS)), ", ".join(map(str, STEPS[:-1]))]
    assert [f"at the steps {told}&quot;" in page.replace('"', "&quot;") for told in steps] == [True, True]
    assert_whole_and_offline(page)


def test_page_of_twenty_trials_is_under_five_megabytes(tmp_path: Path) -> None:
    lab = Lab(tmp_path, candidates=20)
    lab.baselines(1.0, 1.03)
    for number in range(20):
        lab.trial(f"candidate-{number:03d}", 0.9 + number / 50)
    for name in ("baseline-seed0", "candidate-000"):
        lab.grids(name, side=1027)
    assert len(lab.page()) < 5_000_000


def test_numbers_beside_points_never_lie_on_each_other() -> None:
    assert apart([0.0, 100.0], 0, 200) == [0.0, 100.0]
    crowded = apart([50.0] * 5, 0, 200)
    assert np.diff(crowded) == pytest.approx(LABEL_PT)
    assert np.mean(crowded) == pytest.approx(50)
    assert max(apart([199.0] * 5, 0, 200)) <= 200
    assert min(apart([1.0] * 5, 0, 200)) >= 0
