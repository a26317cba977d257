"""The page's section on stopping: whom, where and why; what it saved; what the audit says; every verdict."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from sweeps.page.elements import dot, folded, one_value, paragraph, row, section, table_of, two_lines
from sweeps.page.roles import role
from sweeps.page.scores import MOST_ROWS
from sweeps.rule import Verdict
from sweeps.stopping import audit_sentences, audited_end, forecast_in_words, stopped_sentence, verdict_in_words
from sweeps.summary import Summary, TrialSummary
from sweeps.wording import count, duration, number

STOPS, VERDICTS = (
    ("candidate", "stopped at", "gap there", "saved", "its end"),
    ("step", "measured", "baseline", "gap", "verdict"),
)


def stopping_section(summary: Summary) -> str:
    """What the stopping rule did, as far as the ledger tells."""
    shown = [trial for trial in summary.ranked() if trial in summary.stopped or trial in summary.audited]
    parts = [paragraph(sentence) for sentence in [stopped_sentence(summary), *audit_sentences(summary)]]
    if shown:
        rows = [_stop_row(summary, trial) for trial in shown]
        parts.append(table_of(STOPS, rows[:MOST_ROWS]))
        if more := rows[MOST_ROWS:]:
            parts.append(folded(f"The other {count(len(more), 'candidate')}", table_of(STOPS, more)))
        parts.append(_verdicts(summary, shown))
    return section("stopping", "What stopping did", *parts)


def _stop_row(summary: Summary, trial: TrialSummary) -> str:
    name = dot(role(summary, trial)) + two_lines(trial.name, trial.config)
    if trial.audit is not None:
        place = two_lines(f"{trial.audit.step}/{trial.num_steps}", "audited: it went on")
        cost = two_lines("nothing", f"{duration(trial.audit.cost_s)} more spent")
        gap = one_value(*verdict_in_words(trial.audit.verdict))
        end = two_lines(audited_end(summary, trial), forecast_in_words(trial.audit.verdict))
        return row(STOPS, [name, place, gap, cost, end])
    last = trial.verdicts.get(max(trial.verdicts, default=0))
    gap = one_value(*verdict_in_words(last)) if last else "-"
    saved = escape(f"≈ {duration(trial.saved_s)}")
    end = two_lines("not known: it was stopped", forecast_in_words(last) if last else "")
    return row(STOPS, [name, f"{trial.step}/{trial.num_steps}", gap, saved, end])


def _verdicts(summary: Summary, trials: Sequence[TrialSummary]) -> str:
    tables = [
        f"<h3>{escape(trial.name)}</h3>"
        + table_of(VERDICTS, [_verdict_row(trial, step, summary.metric) for step in sorted(trial.verdicts)])
        for trial in trials
        if trial.verdicts
    ]
    title = "Every verdict on these candidates, with the numbers it rests on"
    return folded(title, "".join(tables)) if tables else ""


def _verdict_row(trial: TrialSummary, step: int, metric: str) -> str:
    verdict = trial.verdicts[step]
    if verdict.judged_step is None or verdict.value is None or verdict.baseline_mean is None:
        return row(VERDICTS, [str(step), "-", "-", "-", escape(verdict.reason)])
    judged = "" if verdict.judged_step == step else f"judged at {verdict.judged_step}"
    spread = "" if verdict.spread is None else f"spread {100 * verdict.spread:.1f} %"
    return row(
        VERDICTS,
        [
            two_lines(str(step), judged),
            one_value(number(verdict.value), f"{metric}, n={verdict.num_samples}"),
            one_value(number(verdict.baseline_mean), f"mean of {verdict.seeds}, {spread}".rstrip(", ")),
            one_value(verdict_in_words(verdict)[0], _margin(verdict)),
            escape(verdict.reason),
        ],
    )


def _margin(verdict: Verdict) -> str:
    """'margin 2.4, strike 1': older ledgers have no margin in their rows."""
    margin = "" if verdict.margin is None else f"margin {verdict.margin:.2g}"
    return ", ".join(filter(None, [margin, f"strike {verdict.strikes}" if verdict.strikes else ""]))
