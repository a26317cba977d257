"""`make e2e`: say why not, or go into an outer namespace and run the scenario there.

The outer PID namespace ends with its first process, and everything in it with that: nothing outlives the harness,
however it ends. The outer network namespace has no way out: no packet to an instance's address can leave the machine.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
TOOLS = {"ip": "iproute2", "sshd": "openssh-server", "ssh": "openssh-client", "rsync": "rsync", "unshare": "util-linux"}
INSIDE = "PRX_E2E_INSIDE"
PARTS = ["two-hosts", "losses", "idle"]  # of the scenario
NAMESPACES = ["--net", "--pid", "--mount", "--ipc", "--uts", "--fork", "--kill-child", "--mount-proc"]


def why_not() -> str | None:
    """Why this machine cannot hold the hosts; None where it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "it needs Linux and root, for network namespaces and sshd"
    lacking = [package for tool, package in TOOLS.items() if shutil.which(tool) is None]
    if lacking:
        return f"these Debian packages are missing: apt-get install {' '.join(lacking)}"
    try:
        import boto3  # noqa: F401
        import moto.server  # noqa: F401
    except ImportError as error:
        return f"{error}: `make install` brings it"
    nested = [
        "unshare",
        *NAMESPACES,
        "unshare",
        *NAMESPACES,
        "bash",
        "-c",
        "mount -t tmpfs tmpfs /mnt && ip link add name br0 type bridge",
    ]
    tried = subprocess.run(nested, capture_output=True, text=True)
    if tried.returncode != 0:
        return f"this machine does not admit namespaces, mounts or bridges: {tried.stderr.strip()}"
    if Path(sys.prefix).resolve().is_relative_to("/tmp") or Path(sys.prefix).resolve().is_relative_to("/run"):
        return f"Python is in {sys.prefix}, and hosts have a /tmp and /run of their own"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.e2e", description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "e2e", help="emptied first; logs stay there")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS, help="parts between ray up and ray down")
    options = parser.parse_args()
    if INSIDE in os.environ:
        from tests.e2e import scenario

        return scenario.run(options.work, options.only)
    reason = why_not()
    if reason:
        print(f"e2e: skipped: {reason}")
        return 0
    options.work.mkdir(parents=True, exist_ok=True)
    lock = (options.work.parent / f"{options.work.name}.lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"e2e: another one runs in {options.work}", file=sys.stderr)
        return 2
    os.set_inheritable(lock.fileno(), True)  # held until the last process is gone
    os.environ[INSIDE] = "1"
    arguments = ["--work", str(options.work.resolve()), "--only", *options.only]
    return os.execvp("unshare", ["unshare", *NAMESPACES, sys.executable, "-m", "tests.e2e", *arguments])


if __name__ == "__main__":
    sys.exit(main())
