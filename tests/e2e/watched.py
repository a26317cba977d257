"""Sweeps on the cluster: begun on the head as a user begins them, looked at from outside, compared by their ledgers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sweeps.ledger import Ledger, TrialRecord
from sweeps.storage import SweepPaths
from tests.e2e.clock import tell, wait_for
from tests.e2e.cloud import Cloud
from tests.e2e.hosts import HOME
from tests.e2e.launcher import Begun, Launcher

SPACE = "tests/e2e/space.yaml"
METRIC = "mmd_lite0"


@dataclass(kw_only=True)
class WatchedSweep:
    """One sweep of the cluster, by the place of its results in the bucket.

    as_a_job: handed in by `ray job submit`, instead of typed on the head by `ray exec`. seen: hosts on which workers of
    trials ran, each set as it was at one look.
    """

    cloud: Cloud
    launcher: Launcher
    head: str
    bucket: str
    prefix: str
    options: tuple[str, ...] = ()
    as_a_job: bool = False
    seen: set[frozenset[str]] = field(default_factory=set)

    @contextmanager
    def driver(self) -> Iterator[Begun]:
        """The command of cluster.yaml's first lines. The same one again goes on."""
        places = ["--results", f"s3://{self.bucket}/{self.prefix}", "--cache", f"{HOME}/cache"]
        words = ["python", "sweeps/run.py", SPACE, *places, *self.options]
        command = f"cd ~/prx-sweeps && sh -c 'echo $$ > ~/driver.pid; exec {' '.join(words)}'"
        with self.launcher.submit(*words) if self.as_a_job else self.launcher.begin("exec", command) as begun:
            yield begun

    def kill_driver(self) -> None:
        self.launcher.on(self.head, "kill -9 $(cat ~/driver.pid)")

    def objects(self) -> list[str]:
        pages = self.cloud.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=f"{self.prefix}/")
        return sorted(it["Key"] for page in pages for it in page.get("Contents", []))

    def records(self) -> list[TrialRecord]:
        """What the ledger says; nothing where there is none yet."""
        folders = {it.split("/ledger/")[0] for it in self.objects() if "/ledger/" in it}
        assert len(folders) <= 1, f"one sweep has several folders: {folders}"
        return [record for it in folders for record in Ledger(SweepPaths.at(f"s3://{self.bucket}/{it}")).records()]

    def num_rows(self) -> int:
        return sum(len(record.evaluations) for record in self.records())

    def look(self) -> frozenset[str]:
        """Hosts that have workers of trials now."""
        hosts = frozenset(busy_hosts(self.cloud))
        if hosts and hosts not in self.seen:
            tell(f"  workers of trials are on {', '.join(sorted(hosts))}")
            self.seen.add(hosts)
        return hosts

    def until(self, what: str, holds: Callable[[], bool], begun: Begun, limit_s: float) -> None:
        """Wait for something that the sweep does while it goes on."""

        def look() -> bool:
            self.look()
            if holds():
                return True
            code = begun.process.poll()
            assert code is None, f"the sweep has ended with {code}:\n{begun.last_words()}"
            return False

        wait_for(what, look, limit_s, every_s=1.0)

    def to_the_end(self, begun: Begun, limit_s: float) -> None:
        """Wait for the end of the command, which must be a good one."""

        def is_over() -> bool:
            self.look()
            return begun.process.poll() is not None

        try:
            wait_for("the end of the sweep", is_over, limit_s, every_s=1.0)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; it has printed\n{begun.last_words()}") from error
        assert begun.process.returncode == 0, f"ended with {begun.process.returncode}:\n{begun.last_words()}"


def busy_hosts(cloud: Cloud) -> list[str]:
    """Hosts with workers of trials among their processes, as seen from outside, by the network that these are in."""
    networks = {_network(host.process.pid): host.name for host in list(cloud.hosts.values())}
    pids = [int(folder.name) for folder in Path("/proc").glob("[0-9]*") if "RayTrainWorker" in _title(folder)]
    return sorted({networks[network] for pid in pids if (network := _network(pid)) in networks})


def _title(folder: Path) -> str:
    try:
        return (folder / "cmdline").read_text(errors="replace")
    except OSError:  # it has ended
        return ""


def _network(pid: int) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/ns/net")
    except OSError:
        return None


def give_notice(launcher: Launcher, head: str, address: str, deadline_s: int) -> None:
    """What a watcher of EC2's spot notices does on their arrival: tell Ray that the node will be gone."""
    listed = json.loads(launcher.on(head, "ray list nodes --format json"))
    [node] = [it["node_id"] for it in listed if it["node_ip"] == address and it["state"] == "ALIVE"]
    said = launcher.on(
        head,
        f"ray drain-node --address {head}:6379 --node-id {node} --reason DRAIN_NODE_REASON_PREEMPTION "
        f"--reason-message spot --deadline-remaining-seconds {deadline_s}",
    )
    tell(f"  drain-node says: {' '.join(said.split())[-150:]}")


def findings(records: Sequence[TrialRecord]) -> dict[str, Any]:
    """What a sweep has found out, without times: every value of every trial at every step, and how each ended."""
    return {
        record.trial: {
            "is": [record.start.role, record.start.seed, dict(record.start.overrides), record.start.fingerprint],
            "values": {row.step: [row.num_samples, dict(row.metrics), row.flow_loss] for row in record.evaluations},
            "ended": [record.outcome, record.end.step if record.end else None],
        }
        for record in records
    }


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    found = [f"only one of them has {trial}" for trial in sorted(set(one) ^ set(other))]
    for trial in sorted(set(one) & set(other)):
        found += [
            f"{trial}: {what}: {one[trial][what]} and {other[trial][what]}"
            for what in ("is", "values", "ended")
            if one[trial][what] != other[trial][what]
        ]
    return found


def table(records: Sequence[TrialRecord]) -> str:
    shown = []
    for record in records:
        values = record.values(METRIC)
        last = f"{values[max(values)]:.9g}" if values else "-"
        resumed = sorted({row.resumed_from for row in record.evaluations if row.resumed_from})
        again = f", resumed from {resumed}" if resumed else ""
        shown.append(f"    {record.trial:28} {record.outcome!s:9} {record.last_step:4} steps, {METRIC} {last}{again}")
    return "\n".join(shown)
