"""What `make e2e` does, in order."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import traceback
from pathlib import Path

from tests.e2e.clock import step, summary, tell, wait_for
from tests.e2e.cloud import ALIVE, Cloud, start_server
from tests.e2e.hosts import HostSettings, lay_bridge
from tests.e2e.launcher import KEY_NAME, Launcher, host_environment, roles, shipped

BUCKET = "prx-sweeps-e2e"


def run(work: Path) -> int:
    """Everything, in the outer namespaces. 0 where all of it held."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    for old in work.iterdir():
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    lay_bridge()
    (work / "logs").mkdir()
    server = start_server(work / "logs" / "moto.log")
    launcher = Launcher.prepare(work / "user")
    environment = host_environment(shipped())
    settings = HostSettings(folder=work / "hosts", authorized_key=launcher.public_key, environment=environment)
    cloud = Cloud(launcher.config["provider"]["region"], settings)
    cloud.open(KEY_NAME, roles(launcher.config), BUCKET)
    failed = True
    try:
        up(cloud, launcher)
        down(cloud, launcher)
        failed = bool(cloud.trouble)
    except Exception:
        traceback.print_exc()
    finally:
        cloud.close()
        server.kill()
        server.wait()
    print(f"\n{'FAILED' if failed else 'All of it held'}. Logs: {work}\n{summary()}")
    return int(failed)


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


def down(cloud: Cloud, launcher: Launcher) -> None:
    with step("ray down"):
        launcher.ray("down", "--yes", limit_s=120)
        wait_for("the end of every host", lambda: not cloud.instances(*ALIVE) and not cloud.hosts, 30)
    left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    found = [line for line in left.splitlines() if "raylet" in line or "gcs_server" in line or "sshd:" in line]
    assert not found, f"ray down has left {found}"
    tell("  ray down has left no instance, no host and no process")
