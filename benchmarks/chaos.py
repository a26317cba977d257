"""Does a crash change the answer? A small sweep, again and again, of which one process is killed at a random moment.

    python benchmarks/chaos.py --runs 28 --work FOLDER --out docs/benchmarks/DATE-chaos

In every run one victim is killed with -9: the driver, a trial's driver (a Tune actor), a Ray Train worker or the raylet
in turn. The moment is drawn from --seed and the run's number: after so many rows of the ledger, and a part of a second.
Where no such process is left at that moment nothing is killed: the run is made again with the next moment drawn.
Then the same command is given until it ends, and the ledger is held against that of a run that nobody disturbed.

A run that is done is a line of FOLDER/runs.jsonl, so the benchmark itself can be killed and given again. It starts a
Ray of its own for every start of the sweep, kills only what descends from it, and can run beside other Rays.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.processes import Processes, held, kill_quietly
from sweeps.confirmation import best_record
from sweeps.ledger import Ledger, TrialRecord
from sweeps.provenance import provenance
from sweeps.space_file import load_space
from sweeps.storage import SweepPaths

# Titles of processes that Ray gives, and what they are called here. The driver is the process that is started.
VICTIMS = {"driver": "", "trial driver": "ray::ImplicitFunc", "train worker": "ray::RayTrainWorker", "raylet": "raylet"}
POLL_S = 0.2
START_LIMIT_S = 600.0
GONE_LIMIT_S = 300.0  # how long a process may outlive its driver; on a busy machine its agents look around late
MOST_STARTS = 4
MOST_DRAWS = 5


@dataclass(kw_only=True)
class Run:
    """What one run did and what is wrong with its answer. `problems` is empty where nothing is."""

    number: int
    victim: str
    after_rows: int
    delay_s: float
    num_draws: int = 1  # of moments, until one came at which there was something to kill
    killed: str = ""  # the process's title; '' where none was there at any drawn moment
    rows_at_kill: int = 0
    exit_codes: list[int] = field(default_factory=list)
    said: list[str] = field(default_factory=list)  # last line of each start that did not end well
    wall_s: float = 0.0
    num_repeated: int = 0
    same_config: int = 0
    other_config: int = 0
    gone_s: float = 0.0  # from the last driver's end until none of its processes was left
    placement_groups: int = 0  # of living slots, at the last look
    problems: list[str] = field(default_factory=list)


def rows_in(paths: SweepPaths) -> int:
    return sum(path.read_bytes().count(b"\n") for path in paths.ledger.glob("*.jsonl"))


class Chaos:
    """The sweep, its undisturbed run, and disturbed ones."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.space = load_space(options.space, "laptop")
        self.work = options.work.absolute()
        self.work.mkdir(parents=True, exist_ok=True)

    def paths(self, name: str) -> SweepPaths:
        return SweepPaths.of(self.space, self.work / name)

    def start(self, name: str) -> subprocess.Popen[bytes]:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        folders = ["--results", str(self.work / name), "--cache", str(self.options.cache.absolute())]
        space = str(self.options.space.absolute())
        with (self.work / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "sweeps/run.py", space, "--profile", "laptop", "--address", "local", *folders],
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ray's niceness of 15 would let its workers wait for whatever else the machine does.
                env={**environment, "PYTHONPATH": str(ROOT), "RAY_worker_niceness": "0"},
                start_new_session=True,
            )

    def undisturbed(self) -> SweepPaths:
        paths = self.paths("undisturbed")
        if not (self.work / "undisturbed.done").exists():
            shutil.rmtree(self.work / "undisturbed", ignore_errors=True)
            code = self.start("undisturbed").wait(START_LIMIT_S)
            assert code == 0, (self.work / "undisturbed.log").read_text()
            (self.work / "undisturbed.done").touch()
        return paths

    def disturbed(self, number: int, num_rows: int) -> Run:
        """Run `number`, with new moments until something was killed or something went wrong by itself."""
        chance = random.Random(f"{self.options.seed}-{number}")
        victim = list(VICTIMS)[number % len(VICTIMS)]
        for draw in range(1, MOST_DRAWS + 1):
            after_rows, delay_s = chance.randrange(num_rows), chance.uniform(0, 1)
            run = self.sweep_until_done(
                Run(number=number, victim=victim, after_rows=after_rows, delay_s=delay_s, num_draws=draw)
            )
            if run.killed or run.problems:
                return run
        run.problems.append(f"nothing was killed at any of {MOST_DRAWS} moments")
        return run

    def sweep_until_done(self, run: Run) -> Run:
        name, started = f"run-{run.number:03d}", time.monotonic()
        shutil.rmtree(self.work / name, ignore_errors=True)
        (self.work / f"{name}.log").unlink(missing_ok=True)
        for attempt in range(MOST_STARTS):
            self.one_start(run, name, to_kill=attempt == 0)
            if run.exit_codes[-1] in (0, 1, 2):
                break
        run.wall_s = time.monotonic() - started
        compare(run, self.space, self.paths("undisturbed"), self.paths(name))
        return run

    def one_start(self, run: Run, name: str, *, to_kill: bool) -> None:
        paths, log = self.paths(name), self.work / f"{name}.log"
        begin = log.stat().st_size if log.exists() else 0
        process = self.start(name)
        processes = Processes(process.pid)
        deadline, asked = time.monotonic() + START_LIMIT_S, 0.0
        while process.poll() is None:
            processes.alive()
            if time.monotonic() > deadline:
                run.problems.append(f"a start did not end in {START_LIMIT_S:.0f} s")
                process.kill()
                break
            if to_kill and not run.killed and rows_in(paths) >= run.after_rows:
                time.sleep(run.delay_s)
                self.kill(run, processes, process, rows_in(paths))
            if time.monotonic() - asked > 1:
                asked = time.monotonic()
                groups = held(log.read_bytes()[begin:], "placement_groups")
                run.placement_groups = run.placement_groups if groups is None else groups
            time.sleep(POLL_S)
        run.exit_codes.append(process.wait())
        if run.exit_codes[-1] != 0:
            run.said.append((log.read_text(errors="replace").strip().splitlines() or [""])[-1][:200])
        self.wait_until_gone(run, processes)

    def kill(self, run: Run, processes: Processes, process: subprocess.Popen[bytes], rows: int) -> None:
        """Kill the victim; where there is none yet, at a later look."""
        title = VICTIMS[run.victim]
        found = {p: t for p, t in processes.alive().items() if title and t.startswith(title)}
        pid = process.pid if not title else random.Random(run.delay_s).choice(sorted(found)) if found else None
        if pid is None:
            return
        if not kill_quietly(pid):
            return
        run.killed, run.rows_at_kill = found.get(pid, "the driver"), rows

    def wait_until_gone(self, run: Run, processes: Processes) -> None:
        ended = time.monotonic()
        while left := processes.alive():
            if time.monotonic() - ended > GONE_LIMIT_S:
                names = Counter((title or "?").split()[0] for title in left.values())
                run.problems.append(f"after {GONE_LIMIT_S:.0f} s there are still {dict(names)}")
                for pid in left:
                    kill_quietly(pid)
                break
            time.sleep(POLL_S)
        run.gone_s = max(run.gone_s, time.monotonic() - ended)


def compare(run: Run, space: Any, expected: SweepPaths, got: SweepPaths) -> None:
    """Fill in what is wrong with the disturbed sweep's answer."""
    if run.exit_codes[-1] != 0:
        run.problems.append(f"the last start ended with {run.exit_codes[-1]}")
    wanted = {record.trial: record for record in Ledger(expected).records()}
    records = {record.trial: record for record in Ledger(got).records()}
    if sorted(records) != sorted(wanted):
        run.problems.append(f"trials {sorted(records)}, expected {sorted(wanted)}")
    for name in sorted(records.keys() & wanted.keys()):
        _compare_trial(run, wanted[name], records[name], Ledger(got))
    if run.placement_groups > space.resources.concurrent_trials:
        run.problems.append(f"{run.placement_groups} placement groups held")
    _compare_best(run, space, expected, got)


def _compare_trial(run: Run, wanted: TrialRecord, got: TrialRecord, ledger: Ledger) -> None:
    run.num_repeated += got.num_repeated
    trial = got.trial
    if got.outcome != wanted.outcome:
        run.problems.append(f"{trial} is {got.outcome}, expected {wanted.outcome}: {got.end.reason if got.end else ''}")
    if [row.step for row in got.evaluations] != [row.step for row in wanted.evaluations]:
        run.problems.append(f"{trial} has evaluations at {[row.step for row in got.evaluations]}")
    if [row.kind for row in ledger.rows(trial)].count("end") != 1:
        run.problems.append(f"{trial} has not one end")
    begun_again = _begun_again(ledger, trial)
    if begun_again:
        run.problems.append(f"{trial} began from the start again, {begun_again} evaluations had been made")
    if dict(got.start.overrides) != dict(wanted.start.overrides) or got.start.seed != wanted.start.seed:
        run.other_config += 1
        return
    run.same_config += 1
    if _numbers(got) != _numbers(wanted):
        run.problems.append(f"{trial} has other numbers")


def _begun_again(ledger: Ledger, trial: str) -> int:
    """Evaluations that were made before a second beginning; of one, the checkpoint may not have been written yet."""
    rows = [row for row in ledger.rows(trial) if row.kind == "evaluation"]
    firsts = [i for i, row in enumerate(rows) if row.resumed_from == 0 and row.step == min(r.step for r in rows)]
    return next((i for i in firsts[1:] if len({row.step for row in rows[:i]}) > 1), 0)


def _numbers(record: TrialRecord) -> list[Any]:
    """What was computed, to the bit, without what a clock has measured."""
    return [
        (r.step, r.num_samples, r.metrics, r.nested, r.flow_loss, r.repa_loss, r.grad_norm) for r in record.evaluations
    ]


def _compare_best(run: Run, space: Any, expected: SweepPaths, got: SweepPaths) -> None:
    best, wanted = (best_record(space, Ledger(paths).records()) for paths in (got, expected))
    weights = "transformer/diffusion_pytorch_model.safetensors"
    if not got.page.is_file():
        run.problems.append("no page")
    if best is None or not (got.best_model / weights).is_file():
        run.problems.append("no best model")
        return
    kept = sorted(path.parent.name for path in got.trials.glob("*/checkpoint_*"))
    if kept != [best.trial]:
        run.problems.append(f"checkpoints of {kept} are left, expected that of {best.trial}")
    same = wanted is not None and best.trial == wanted.trial and best.start.overrides == wanted.start.overrides
    if same and _sha256(got.best_model / weights) != _sha256(expected.best_model / weights):
        run.problems.append("the best model has other weights")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def table(runs: Sequence[Run], made_with: dict[str, Any], command: str) -> str:
    """The figures as Markdown."""
    lines = [
        f"# Chaos: {sum(not run.problems for run in runs)} of {len(runs)} disturbed sweeps gave the undisturbed answer",
        "",
        "A sweep of 5 trials (`tests/spaces/smoke.yaml`: 2 baseline seeds, 2 candidates, a confirmation) of which one",
        "process was killed with -9 at a random moment, then the same command until it ended; held against a run that",
        "nobody disturbed. Checked: same trials, outcomes and steps; every number of every evaluation to the bit where",
        "the settings are the same; one end per trial; no trial begun again once it had a checkpoint; page, best model",
        "(weights to the bit) and only its checkpoint there; no placement group and no process left over.",
        "",
        "| victim | runs | as undisturbed | starts | evaluations made twice | trials with other settings "
        "| processes gone after | whole run |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for victim in VICTIMS:
        of = [run for run in runs if run.victim == victim]
        if of:
            lines.append(
                f"| {victim} | {len(of)} | {sum(not run.problems for run in of)} "
                f"| {sum(len(run.exit_codes) for run in of)} | {sum(run.num_repeated for run in of)} "
                f"| {sum(run.other_config for run in of)} | at most {max(run.gone_s for run in of):.1f} s "
                f"| median {statistics.median(run.wall_s for run in of):.0f} s |"
            )
    codes = Counter(code for run in runs for code in run.exit_codes[:-1])
    lines += ["", f"Exit codes of the starts that were cut off: {dict(codes)}."]
    again = sum(run.num_draws - 1 for run in runs)
    if again:
        lines += [
            "",
            f"{again} more run(s) ended as undisturbed with nothing to kill at their moment, and do not count.",
        ]
    failed = [run for run in runs if run.problems]
    lines += ["", "What went wrong: nothing." if not failed else "What went wrong:"]
    for run in failed:
        moment = f"run {run.number}, {run.victim} after {run.rows_at_kill} rows"
        lines.append(f"- {moment}: {'; '.join(run.problems)}")
    dirty = ", with changes" if made_with["dirty"] else ""
    lines += [
        "",
        f"Commit {made_with['commit'][:12]}{dirty}; {made_with['hardware']}; ray {made_with['packages']['ray']},",
    ]
    lines += [
        f"torch {made_with['packages']['torch']}; the machine was shared with other work. Command: `{command}`",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", type=Path, default=ROOT / "tests/spaces/smoke.yaml")
    parser.add_argument("--cache", type=Path, default=Path("cache"))
    parser.add_argument("--work", type=Path, required=True, help="folder of the sweeps; keeps what is done")
    parser.add_argument("--runs", type=int, default=28)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of the runs to make, instead of all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="without its ending: .json and .md are written")
    options = parser.parse_args()
    chaos, record = Chaos(options), options.work / "runs.jsonl"
    num_rows = rows_in(chaos.undisturbed())
    lines = record.read_text().splitlines() if record.exists() else []
    runs = {run.number: run for run in (Run(**json.loads(line)) for line in lines)}
    for number in options.only if options.only is not None else range(options.runs):
        if number not in runs:
            run = runs[number] = chaos.disturbed(number, num_rows)
            with record.open("a") as file:
                file.write(json.dumps(asdict(run)) + "\n")
            told = "; ".join(run.problems) or "as undisturbed"
            print(f"run {number:>2}: {run.victim:<12} killed after {run.rows_at_kill:>2} rows: {told}", flush=True)
    made_with = provenance("laptop", "benchmark")
    done = [runs[number] for number in sorted(runs)]
    # The folders are this machine's; nobody needs them to repeat it.
    command = f"python benchmarks/chaos.py --runs {options.runs} --seed {options.seed} --work FOLDER"
    text = table(done, made_with, command)
    print(text)
    if options.out:
        figures = {"runs": [asdict(run) for run in done], "provenance": {**made_with, "command": command}}
        options.out.with_suffix(".json").write_text(json.dumps(figures, indent=1) + "\n")
        options.out.with_suffix(".md").write_text(text)
    sys.exit(1 if any(run.problems for run in done) else 0)


if __name__ == "__main__":
    main()
