"""A sweep's standing as a terminal shows it: a line a trial, and above them what holds for all. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from sweeps.ledger import FAILED, FINISHED, STOPPED
from sweeps.readings import CONCLUSIVE, Reading
from sweeps.standing import Standing, TrialStanding
from sweeps.usage import Usage
from sweeps.wording import FAR, count, duration, gap_in_words, number, signed_percent

STYLES = {FINISHED: "green", STOPPED: "yellow", FAILED: "red"}
WIDE, NAMED, WIDEST = 100, 125, 140  # columns from which there are percents; names of settings; a bar and the metric's
BAR = 8
LEAST_ENDED = 4  # ended trials that are shown, however many run


def live_view(standing: Standing, *, width: int, height: int, resources: str = "") -> RenderableType:
    """As much as fits. height: of the terminal, of which some is left for the lines that scroll by above it."""
    facts = list(_facts(standing, resources))
    shown = chosen(standing, max(6, height - len(facts) - 8))
    table = trial_table(standing, shown, width=width)
    hidden = len(standing.running) + len(standing.ended) - len(shown)
    parts: list[RenderableType] = [Rule(style="dim"), facts_table(facts)]
    if shown:
        parts.append(table)
    if hidden:
        parts.append(Text(f"and {count(hidden, 'other trial')}: prx-sweeps status --all", style="dim"))
    return Group(*parts)


def whole_view(standing: Standing, facts: Sequence[tuple[str, str]], *, width: int, most: int | None) -> RenderableType:
    """For `status`: with the facts that the command knows itself above. most: trials; None for all."""
    trials = [*standing.running, *standing.ended]
    shown = trials if most is None else chosen(standing, most)
    parts: list[RenderableType] = [facts_table([*facts, *_facts(standing, "")])]
    if shown:
        parts.append(trial_table(standing, shown, width=width))
    if len(trials) > len(shown):
        parts.append(Text(f"and {count(len(trials) - len(shown), 'other trial')}: --all", style="dim"))
    return Group(*parts)


def chosen(standing: Standing, most: int) -> list[TrialStanding]:
    """What is running comes first, then the best that have ended, of which some have a place in any case."""
    ended = min(len(standing.ended), max(LEAST_ENDED, most - len(standing.running)))
    return [*standing.running[: most - ended], *standing.ended[:ended]]


def facts_table(facts: Sequence[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for name, text in facts:
        table.add_row(name, Text(text))
    return table


def _facts(standing: Standing, resources: str) -> Iterator[tuple[str, str]]:
    yield "trials", trials_line(standing)
    yield "baseline", baseline_line(standing)
    if standing.best is not None:
        yield "best", best_line(standing.best)
    if str(standing.used):
        yield "compute", compute_line(standing)
    if held := ", ".join(filter(None, [held_line(standing), resources])):
        yield "resources", held


def trials_line(standing: Standing) -> str:
    """'7 of 14 trials ended (4 finished, 2 stopped, 1 failed), 2 running; 5 min gone, about 3 min left'.

    Those that nobody runs are left open.
    """
    states = ", ".join(f"{amount} {state}" for state in STYLES if (amount := standing.states.get(state, 0)))
    told = f"{len(standing.ended)} of {standing.planned} trials ended{f' ({states})' if states else ''}"
    if standing.running:
        told += f", {len(standing.running)} {'left open' if standing.resting else 'running'}"
    times = []
    if standing.gone_s is not None:
        times.append(f"{duration(standing.gone_s)} gone")
    if standing.used_up:
        times.append(standing.used_up.partition(":")[0])
    elif standing.left_s is not None:
        times.append(f"about {duration(standing.left_s)} left")
    return f"{told}; {', '.join(times)}" if times else told


def baseline_line(standing: Standing) -> str:
    """'2 of 2 seeds finished, mmd 123.4 at step 400, spread 1.2 %'."""
    told, point = f"{standing.seeds_finished} of {standing.seeds} seeds finished", standing.baseline
    if point is None:
        return f"{told}, no evaluation yet"
    spread = "no spread yet" if point.spread is None else f"spread {100 * point.spread:.1f} %"
    mean = f" (mean of {point.seeds})" if point.seeds > 1 else ""
    return f"{told}, {standing.metric} {number(point.mean)} at step {point.step}{mean}, {spread}"


def best_line(best: TrialStanding) -> str:
    """'candidate-003 118.1 (-5.1 %, 3.4 spreads better): dinov2s_saliency, depth 3/6, weight 0.42'."""
    value = reading_in_words(best.reading) if best.reading is not None else ""
    return f"{best.trial} {value}: {best.config}"


def reading_in_words(reading: Reading) -> str:
    """'118.1 (-5.1 %, 3.4 spreads better)'."""
    told = [signed_percent(reading.percent)] if reading.percent is not None else []
    told += [gap_in_words(reading.gap)] if reading.gap is not None else []
    return f"{number(reading.value)} ({', '.join(told)})" if told else number(reading.value)


def compute_line(standing: Standing) -> str:
    """'0.31 CPU-hours used; stopping has saved about 0.05 CPU-hours (estimate)'."""
    told = f"{standing.used} used"
    return f"{told}; stopping has saved about {standing.saved} (estimate)" if standing.saved != Usage() else told


def held_line(standing: Standing) -> str:
    """'running trials hold 2 CPUs'; '' where no row tells."""
    held = [f"{amount:g} {name}" for name, amount in (("GPUs", standing.gpus), ("CPUs", standing.cpus)) if amount]
    return f"running trials hold {' and '.join(held)}" if held else ""


def trial_table(standing: Standing, trials: Sequence[TrialStanding], *, width: int) -> Table:
    """Every column but the settings is as wide as what is in it."""
    narrow, widest = width < WIDE, width >= WIDEST
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), width=width, header_style="bold")
    table.add_column("trial", no_wrap=True)
    table.add_column("settings", no_wrap=True, overflow="ellipsis", ratio=1, min_width=8)
    if widest:
        table.add_column("", no_wrap=True, width=BAR)
    for name in ("step", standing.metric if widest else "metric"):
        table.add_column(Text(name), justify="right", no_wrap=True)
    if not narrow:
        table.add_column("to baseline", justify="right", no_wrap=True)
    for name in ("spreads", "img/s" if narrow else "images/s", "left"):
        table.add_column(name, justify="right", no_wrap=True)
    for trial in trials:
        config = trial.config if width >= NAMED else trial.brief
        cells = [trial.trial, escape(config), *[_bar(trial)] * widest, f"{trial.step}/{trial.num_steps}", _value(trial)]
        rate = "-" if trial.images_per_s is None else number(trial.images_per_s)
        cells += [*[_percent(trial)] * (not narrow), _gap(trial), rate, _left(trial)]
        table.add_row(*cells, style="dim" if trial.outcome else "")
    return table


def _bar(trial: TrialStanding) -> str:
    filled = min(BAR, round(BAR * trial.step / trial.num_steps))
    return f"[cyan]{'━' * filled}[/cyan][dim]{'━' * (BAR - filled)}[/dim]"


def _value(trial: TrialStanding) -> str:
    if trial.reading is None:
        return "-"
    estimate = trial.reading.estimate
    return f"{'≈ ' if estimate.scaled else ''}{number(estimate.value)}"


def _percent(trial: TrialStanding) -> str:
    reading = trial.reading
    return "-" if reading is None or reading.percent is None else signed_percent(reading.percent)


def _gap(trial: TrialStanding) -> str:
    """'-3.4': above 0 is worse, as in the lines of events; in colour where it is more than noise."""
    gap = None if trial.reading is None else trial.reading.gap
    if gap is None:
        return "-"
    told = f"{gap:+.1f}" if abs(gap) < FAR else "far"
    if abs(gap) < CONCLUSIVE or trial.outcome:
        return told
    return f"[yellow]{told}[/yellow]" if gap > 0 else f"[green]{told}[/green]"


def _left(trial: TrialStanding) -> str:
    if trial.outcome:
        style = STYLES[trial.outcome]
        return f"[{style}]{trial.outcome}[/{style}]"
    return "-" if trial.left_s is None else duration(trial.left_s)
