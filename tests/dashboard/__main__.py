"""What people watch a sweep with, tried out: Ray's dashboard in a browser, and Prometheus with the shipped settings.

python -m tests.dashboard

Runs a small sweep on a Ray of its own, lets Debian's Prometheus scrape it, asks it every question of the Grafana
dashboard, holds the answers against the ledger, follows a trial's name to its worker's files, and leaves screenshots
to look at. Minutes on two cores; everything listens on loopback, and is in the folder --work.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from sweeps.gauges import LINGER_S
from sweeps.ledger import Ledger
from sweeps.space_file import load_space
from sweeps.storage import SweepPaths
from tests.browser import opened
from tests.dashboard.grafana import questions

ROOT = Path(__file__).resolve().parent.parent.parent
SMOKE = ROOT / "tests" / "spaces" / "smoke.yaml"
LONGER = {"steps": 480, "eval_every_steps": 60}  # of a trial, so that there is something to see
PROMETHEUS = ROOT / "docs" / "dashboard" / "prometheus.yml"
TOOLS = ("prometheus", "chromium")  # Debian's packages have the same names
LIMIT_S = 420.0
SCRAPED_LATE_S = 45.0  # Ray reports every 10 s and forgets after 20; Prometheus looks every 10
# The innermost element with this text and no other.
CLICK = "[...document.querySelectorAll('*')].filter(it => it.textContent.trim() === '{text}').at(-1).click()"
# The filter by which only trials are left, in Ray's table of tasks.
FIELD = (
    "document.getElementById([...document.querySelectorAll('label')]"
    ".find(it => it.textContent.startsWith('Function or'))?.htmlFor)"
)
PAGES = {"trials": "#/jobs/{job}", "actors": "#/actors", "jobs": "#/jobs"}


class Setting:
    """The sweep, its folders, and where it and Prometheus answer."""

    def __init__(self, work: Path, ray: Path) -> None:
        self.work, self.ray, self.log = work, ray, work / "sweep.log"
        self.space = work / SMOKE.name
        longer = yaml.safe_load(SMOKE.read_text())
        longer["profiles"]["laptop"]["training"] |= LONGER
        self.space.write_text(yaml.safe_dump(longer))
        self.paths = SweepPaths.of(load_space(self.space, "laptop"), work / "results")
        self.prometheus = f"http://127.0.0.1:{_free_port()}"
        self.dashboard = ""

    @contextmanager
    def sweep(self) -> Iterator[subprocess.Popen[bytes]]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment |= {"RAY_TMPDIR": str(self.ray), "RAY_worker_niceness": "0", "PYTHONPATH": str(ROOT)}
        folders = ["--results", str(self.work / "results"), "--cache", str(self.work.parent / "dashboard-cache")]
        command = [
            sys.executable,
            "sweeps/run.py",
            str(self.space),
            "--profile",
            "laptop",
            "--address",
            "local",
            *folders,
        ]
        with self.log.open("wb") as log:
            process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env=environment)
        with _ended(process):
            yield process

    @contextmanager
    def scraping(self) -> Iterator[None]:
        """Prometheus with the shipped settings, but for Ray's temporary folder, which is this run's own."""
        settings = self.work / "prometheus.yml"
        settings.write_text(PROMETHEUS.read_text().replace("/tmp/ray/", f"{self.ray}/ray/"))
        where = ["--config.file", str(settings), "--storage.tsdb.path", str(self.work / "prometheus")]
        listen = self.prometheus.removeprefix("http://")
        with (self.work / "prometheus.log").open("wb") as log:
            process = subprocess.Popen(
                ["prometheus", *where, "--web.listen-address", listen], stdout=log, stderr=subprocess.STDOUT
            )
        with _ended(process):
            yield

    def ask(self, expression: str, **window: float) -> list[dict[str, Any]]:
        """Prometheus' answer; over a time from `start` to `end` every `step` seconds where these are given."""
        asked = urllib.parse.urlencode({"query": expression, **window})
        try:
            with urllib.request.urlopen(f"{self.prometheus}/api/v1/query{'_range' * bool(window)}?{asked}") as answer:
                return json.load(answer)["data"]["result"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{expression}: {error.read().decode()}") from error
        except OSError:  # not up yet
            return []

    def state(self, what: str) -> list[dict[str, Any]]:
        with urllib.request.urlopen(f"{self.dashboard}/api/v0/{what}?limit=1000") as answer:
            return json.load(answer)["data"]["result"]["result"]


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """End it with the body, however that ends."""
    try:
        yield
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def _until(reached: Callable[[], Any], what: str, process: subprocess.Popen[bytes] | None = None) -> Any:
    deadline = time.monotonic() + LIMIT_S
    while not (found := reached()):
        assert process is None or process.poll() is None, f"the sweep has ended before: {what}"
        assert time.monotonic() < deadline, f"not in {LIMIT_S:.0f} s: {what}"
        time.sleep(0.5)
    return found


def look_at(setting: Setting, sweep: subprocess.Popen[bytes]) -> None:
    """While candidates run: series, answers to Grafana's questions, names, logs, screenshots."""
    running = 'ray_sweep_trial_metric{trial=~"candidate.*"}'
    found = _until(lambda: setting.ask(running), "a candidate's metric in Prometheus", sweep)
    for series in found:
        labels = {name: series["metric"][name] for name in ("sweep", "trial", "config", "metric")}
        print(f"series   ray_sweep_trial_metric{labels} = {series['value'][1]}")
        _check_against_the_ledger(setting, labels, float(series["value"][1]))
    for expression in questions():
        print(f"answer   {len(setting.ask(expression)):>3} series to {expression}")
    shown = {task["name"]: task["state"] for task in setting.state("tasks") if task["name"].startswith("smoke ")}
    assert shown, "no trial among the tasks that Ray's dashboard shows"
    for name, state in shown.items():
        print(f"task     {state:<9} {name}")
    _follow_to_the_worker(setting)
    for name, page in PAGES.items():
        _screenshot(setting, name, page)
    assert sweep.poll() is None, "the sweep has ended before the pictures were taken"


def _check_against_the_ledger(setting: Setting, labels: dict[str, str], value: float) -> None:
    record = Ledger(setting.paths).record(labels["trial"])
    assert record is not None
    known = [row.metrics[labels["metric"]] for row in record.evaluations]
    assert any(abs(value - one) <= 1e-6 * abs(one) for one in known), (labels, value, known)


def _follow_to_the_worker(setting: Setting) -> None:
    """From a trial's name to its log, and from there to what its worker printed."""
    for log in sorted(setting.paths.logs.glob("candidate-*.log")):
        line = next(line for line in log.read_text().splitlines() if " rank 0 of 1 is actor " in line)
        title, _, told = line.partition(" sweeps.worker: ")[2].partition(": rank 0 of 1 is ")
        file = Path(told.rpartition(" prints to ")[2])
        assert f"{title} starts, rank 0" in file.read_text(), (line, file)
        actor = told.split()[1]
        assert actor in {one["actor_id"] for one in setting.state("actors")}, line
        print(f"logs     {log.name}: {title} -> actor {actor}, {file.name}")


def _screenshot(setting: Setting, name: str, page: str) -> None:
    job = setting.state("jobs")[0]["job_id"]
    target = setting.work / f"{name}.png"
    target.write_bytes(asyncio.run(_looked_at(f"{setting.dashboard}/{page.format(job=job)}", setting.work / name)))
    print(f"picture  {target}")


async def _looked_at(url: str, profile: Path) -> bytes:
    """The page; its Task Table, if any, opened and filtered as docs/dashboard.md says: trials stand there by name."""
    async with opened(url, profile) as tab:
        await tab.ask("Emulation.setDeviceMetricsOverride", width=1600, height=1900, deviceScaleFactor=1, mobile=False)
        await tab.until("document.body.innerText.length > 400")
        if "/jobs/" in url:
            await tab.until("document.body.innerText.includes('Task Table')")
            await tab.value(CLICK.format(text="Task Table"))
            await tab.until(f"Boolean({FIELD})")
            await tab.value(f"{FIELD}.focus()")
            await tab.ask("Input.insertText", text="Desk.until_end")
            for key, code in (("ArrowDown", 40), ("Enter", 13)):
                await tab.ask("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code)
            await tab.until("document.body.innerText.includes('smoke candidate')")
            await tab.value("window.scrollTo(0, document.body.scrollHeight)")
        return await tab.picture()


def look_back(setting: Setting, begun: float) -> None:
    """When the sweep has ended: no series of a trial outlives it for long."""
    window = {"start": begun, "end": time.time(), "step": 5.0}
    last = {it["metric"]["trial"]: it["values"][-1][0] for it in setting.ask("ray_sweep_trial_progress", **window)}
    for record in Ledger(setting.paths).records():
        assert record.end is not None, record.trial
        over = last.get(record.trial, record.end.time) - record.end.time
        print(f"over     {record.trial} was shown until {over:.0f} s after its end")
        assert over < LINGER_S + SCRAPED_LATE_S, f"{record.trial} lingers"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.dashboard", description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "dashboard", help="emptied first")
    work = parser.parse_args().work.absolute()
    lacking = [tool for tool in TOOLS if shutil.which(tool) is None]
    if lacking:
        print(f"skipped: these Debian packages are missing: apt-get install {' '.join(lacking)}")
        return 0
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    begun = time.time()
    # Ray's sockets lie in its temporary folder, and their paths may not be long.
    with tempfile.TemporaryDirectory(prefix="prx", ignore_cleanup_errors=True) as ray:
        setting = Setting(work, Path(ray))
        with setting.scraping(), setting.sweep() as sweep:
            told = _until(lambda: setting.log.read_text().partition("Dashboard  ")[2], "the dashboard's address", sweep)
            setting.dashboard = told.split()[0]
            look_at(setting, sweep)
            assert sweep.wait(LIMIT_S) == 0, setting.log.read_text()
            look_back(setting, begun)
    return 0


if __name__ == "__main__":
    sys.exit(main())
