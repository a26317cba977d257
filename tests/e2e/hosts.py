"""Hosts made of namespaces: an address on one bridge, sshd, a home, nothing that touches the machine around them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

BRIDGE = "br0"
GATEWAY = "172.31.255.254"  # in the last subnet of AWS's default network, where no instance is placed
USER, HOME = "ray", "/home/ray"  # of the image that cluster.yaml names
HOST_SCRIPT = Path(__file__).with_name("host.sh")
ON_HOSTS = Path(__file__).with_name("logical_gpus")
SSHD = """\
HostKey /home/ray/.ssh/host_key
AuthorizedKeysFile /home/ray/.ssh/authorized_keys
PermitRootLogin prohibit-password
PasswordAuthentication no
StrictModes no
UsePAM no
MaxSessions 100
MaxStartups 100
PidFile none
Subsystem sftp internal-sftp
"""


def lay_bridge() -> None:
    """The one wire. It must be laid in a network namespace that no other interface of the machine is in."""
    _ip("link", "set", "lo", "up")
    _ip("link", "add", BRIDGE, "type", "bridge")
    _ip("address", "add", f"{GATEWAY}/16", "dev", BRIDGE)
    _ip("link", "set", BRIDGE, "up")


@dataclass(frozen=True, kw_only=True)
class Host:
    """A running host."""

    name: str
    address: str
    public_address: str
    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def log(self) -> Path:
        return self.folder / "sshd.log"

    def cut_off(self) -> None:
        """End every process of the host at once, and its wire: what a lost machine looks like to the others."""
        self.process.send_signal(signal.SIGKILL)  # unshare --kill-child passes it on to the first process
        self.process.wait(10)
        subprocess.run(["ip", "link", "delete", _wire(self.name)], check=False, stderr=subprocess.DEVNULL)


@dataclass(frozen=True, kw_only=True)
class HostSettings:
    """What all hosts have in common.

    folder: where each gets a folder of its own. authorized_key: the public half of the launcher's key. environment: of
    every shell.
    """

    folder: Path
    authorized_key: str
    environment: Mapping[str, str]


def start_host(name: str, address: str, public_address: str, settings: HostSettings) -> Host:
    """Start a host; its sshd answers a moment later."""
    folder = settings.folder / name
    _furnish(folder, settings)
    script = [HOST_SCRIPT, folder, name, address, public_address, GATEWAY]
    namespaces = ["--net", "--pid", "--mount", "--ipc", "--uts", "--fork", "--kill-child", "--mount-proc"]
    with (folder / "sshd.log").open("wb") as log:
        process = subprocess.Popen(
            ["unshare", *namespaces, "bash", *map(str, script)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for the harness, which ends its hosts in order
        )
    try:
        _wait_for_own_network(process.pid)
        _ip("link", "add", _wire(name), "type", "veth", "peer", "name", "eth0", "netns", str(process.pid))
        _ip("link", "set", _wire(name), "master", BRIDGE, "up")
        _ip("route", "replace", f"{public_address}/32", "dev", BRIDGE)
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.close()
    except BaseException:
        process.kill()
        raise
    return Host(name=name, address=address, public_address=public_address, folder=folder, process=process)


def _wait_for_own_network(pid: int) -> None:
    """`unshare` has left the network of this process."""
    import time

    ours = os.readlink("/proc/self/ns/net")
    for _ in range(500):
        if os.readlink(f"/proc/{pid}/ns/net") != ours:
            return
        time.sleep(0.01)
    raise TimeoutError("unshare has made no network namespace within 5 s")


def _furnish(folder: Path, settings: HostSettings) -> None:
    """The files that a machine image and cloud-init would have brought."""
    shutil.rmtree(folder, ignore_errors=True)
    ssh = folder / "home" / USER / ".ssh"
    ssh.mkdir(parents=True)
    (folder / "tmp").mkdir()
    (folder / "tmp").chmod(0o1777)
    # The user of Ray's images, whose home is named in cluster.yaml, with the rights of root: no sudo is needed.
    others = [line for line in Path("/etc/passwd").read_text().splitlines() if not line.startswith(f"{USER}:")]
    (folder / "passwd").write_text("\n".join([f"{USER}:x:0:0::{HOME}:/bin/bash", *others]) + "\n")
    key = ssh / "host_key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    (ssh / "authorized_keys").write_text(settings.authorized_key)
    (ssh / "sshd_config").write_text(SSHD)
    shutil.copytree(ON_HOSTS, folder / "home" / USER / "logical_gpus", ignore=shutil.ignore_patterns("__pycache__"))
    exports = [f"export {name}='{value}'" for name, value in settings.environment.items()]
    (folder / "home" / USER / ".bashrc").write_text("\n".join(exports) + "\n")


def _wire(name: str) -> str:
    """The outer end of a host's cable; Linux allows 15 characters."""
    return f"v{name.removeprefix('ip-').replace('-', '')}"[:15]


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
