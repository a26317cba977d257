"""What `make e2e` does, in order."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.e2e.clock import step, summary, tell, wait_for
from tests.e2e.cloud import ALIVE, Cloud, start_server
from tests.e2e.hosts import HostSettings, lay_bridge
from tests.e2e.launcher import KEY_NAME, Launcher, host_environment, roles, shipped
from tests.e2e.watched import WatchedSweep, differences, findings, give_notice, table

BUCKET = "prx-sweeps-e2e"
DEADLINE_S = 15  # of a spot notice; EC2 gives 120
SWEEP_S, IDLE_S = 420, 240  # limits


def run(work: Path, only: Sequence[str]) -> int:
    """Everything, in the outer namespaces. 0 where all of it held."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    for old in work.iterdir():
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    lay_bridge()
    (work / "logs").mkdir()
    server = start_server(work / "logs" / "moto.log")
    launcher = Launcher.prepare(work / "user")
    environment = host_environment(shipped())
    os.environ.update({name: value for name, value in environment.items() if name.startswith("AWS_")})
    settings = HostSettings(folder=work / "hosts", authorized_key=launcher.public_key, environment=environment)
    cloud = Cloud(launcher.config["provider"]["region"], settings)
    cloud.open(KEY_NAME, roles(launcher.config), BUCKET)
    failed = True
    try:
        _scenario(cloud, launcher, only)
        failed = bool(cloud.trouble)
    except Exception:
        traceback.print_exc()
    finally:
        cloud.close()
        server.kill()
        server.wait()
    print(f"\n{'FAILED' if failed else 'All of it held'}. Logs: {work}\n{summary()}")
    return int(failed)


def _scenario(cloud: Cloud, launcher: Launcher, only: Sequence[str]) -> None:
    head = up(cloud, launcher)
    if set(only) & {"two-hosts", "losses"}:
        quiet = undisturbed(cloud, launcher, head)
        if "two-hosts" in only:
            two_hosts(cloud, launcher, head, quiet)
        if "losses" in only:
            disturbed(cloud, launcher, head, quiet)
    if "idle" in only:
        idle(cloud)
    down(cloud, launcher)


def up(cloud: Cloud, launcher: Launcher) -> str:
    """`ray up`, and the head answers. Returns its address."""
    with step("ray up"):
        subprocess.run(
            [f"{sys.prefix}/bin/ray", "get-auth-token", "--generate"],
            env=launcher.environment, check=True, timeout=60, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        launcher.ray("up", "--yes", "--no-config-cache", limit_s=240)
    [head] = cloud.instances(*ALIVE)
    with step("ray exec: the project and Ray answer on the head"):
        printed = launcher.ray("exec", "cd ~/prx-sweeps && ls sweeps/run.py && ray status", limit_s=120)
        assert "sweeps/run.py" in printed, printed
        assert "driver" in printed, printed
    return head["PrivateIpAddress"]


def undisturbed(cloud: Cloud, launcher: Launcher, head: str) -> WatchedSweep:
    """A sweep with its results in S3; the autoscaler brings two hosts for it, and trials run on both."""
    sweep = WatchedSweep(cloud=cloud, launcher=launcher, head=head, bucket=BUCKET, prefix="undisturbed")
    with step("a sweep, undisturbed, results in S3"):
        assert not cloud.workers(), "workers are there before anything needs them"
        with sweep.driver() as begun:
            with step("  until hosts are launched and the first evaluation is in the ledger"):
                sweep.until("the first evaluation", lambda: sweep.num_rows() > 0, begun, SWEEP_S)
            sweep.to_the_end(begun, SWEEP_S)
    assert any(len(hosts) >= 2 for hosts in sweep.seen), f"trials never ran on two hosts: {sweep.seen}"
    assert all(it.get("InstanceLifecycle") == "spot" for it in cloud.workers()), "a worker is not on spot"
    assert any(it.endswith("/index.html") for it in sweep.objects()), sweep.objects()
    print(table(sweep.records()), flush=True)
    return sweep


def two_hosts(cloud: Cloud, launcher: Launcher, head: str, quiet: WatchedSweep) -> None:
    """A trial of two workers spans two hosts, and comes to what one worker has come to but for rounding."""
    options = ("--profile", "wide")
    sweep = WatchedSweep(
        cloud=cloud, launcher=launcher, head=head, bucket=BUCKET, prefix="wide", options=options, as_a_job=True
    )
    with step("ray job submit: a sweep of two-worker trials, each on two hosts"), sweep.driver() as begun:
        sweep.to_the_end(begun, SWEEP_S)
    print(table(sweep.records()), flush=True)
    assert any(len(hosts) == 2 for hosts in sweep.seen), f"no trial spanned two hosts: {sweep.seen}"
    one, two = findings(quiet.records()), findings(sweep.records())
    for trial in sorted(set(one) & set(two)):
        for step_, (_, _, loss) in two[trial]["values"].items():
            expected = one[trial]["values"][step_][2]
            assert abs(loss - expected) <= 1e-3 * abs(expected), f"{trial}, step {step_}: {loss}, alone {expected}"


def disturbed(cloud: Cloud, launcher: Launcher, head: str, quiet: WatchedSweep) -> None:
    """A host is drained, another is cut off, the driver is killed, and the sweep comes to the same."""
    sweep = WatchedSweep(cloud=cloud, launcher=launcher, head=head, bucket=BUCKET, prefix="disturbed")
    with step("the same sweep, disturbed"):
        with sweep.driver() as begun:
            sweep.until(
                "evaluations on two hosts", lambda: sweep.num_rows() > 2 and len(sweep.look()) > 1, begun, SWEEP_S
            )
            with step(f"  a spot notice: drained, gone {DEADLINE_S} s later"):
                _give_notice(sweep)
            with step("  another host is cut off"):
                rows = sweep.num_rows()
                sweep.until("an evaluation after the drain", lambda: sweep.num_rows() > rows, begun, SWEEP_S)
                _cut_off(sweep)
            with step("  the driver is killed"):
                rows = sweep.num_rows()
                sweep.until("an evaluation after the loss", lambda: sweep.num_rows() > rows, begun, SWEEP_S)
                sweep.kill_driver()
                wait_for("the end of ray exec", lambda: begun.process.poll() is not None, 60)
        left = [record.trial for record in sweep.records() if record.end is None]
        tell(f"  left open: {', '.join(left) or 'nothing'}")
        with step("  the same command again"), sweep.driver() as begun:
            sweep.to_the_end(begun, SWEEP_S)
    print(table(sweep.records()), flush=True)
    found = differences(findings(quiet.records()), findings(sweep.records()))
    assert not found, "the disturbed sweep came to something else:\n" + "\n".join(found)
    tell("  every value of every trial is that of the undisturbed sweep")


def _give_notice(sweep: WatchedSweep) -> None:
    instance = _busy_instance(sweep)
    give_notice(sweep.launcher, sweep.head, instance["PrivateIpAddress"], DEADLINE_S)
    gone_at = time.monotonic() + DEADLINE_S
    wait_for("the notice's deadline", lambda: time.monotonic() >= gone_at, DEADLINE_S + 5)
    sweep.cloud.terminate(instance["InstanceId"])


def _cut_off(sweep: WatchedSweep) -> None:
    instance = _busy_instance(sweep)
    tell(f"  {instance['PrivateIpAddress']} is cut off")
    sweep.cloud.cut_off(instance["InstanceId"])


def _busy_instance(sweep: WatchedSweep) -> dict[str, Any]:
    """One that has workers of a trial."""

    def found() -> dict[str, Any] | None:
        busy = sweep.look()
        hosts = [(it, sweep.cloud.host_of(it)) for it in sweep.cloud.workers()]
        return next((it for it, host in hosts if host is not None and host.name in busy), None)

    return wait_for("a host with workers of a trial", found, 120)


def idle(cloud: Cloud) -> None:
    with step("idle hosts are scaled down"):
        wait_for("the end of every worker", lambda: not cloud.workers(), IDLE_S)


def down(cloud: Cloud, launcher: Launcher) -> None:
    with step("ray down"):
        launcher.ray("down", "--yes", limit_s=120)
        wait_for("the end of every host", lambda: not cloud.instances(*ALIVE) and not cloud.hosts, 30)
    left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    found = [line for line in left.splitlines() if "raylet" in line or "gcs_server" in line or "sshd:" in line]
    assert not found, f"ray down has left {found}"
    tell("  ray down has left no instance, no host and no process")
