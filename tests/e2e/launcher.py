"""Ray's own launcher, as a user types it, on the shipped cluster.yaml with the overlay on it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.clock import wait_for
from tests.e2e.cloud import CREDENTIALS, ENDPOINT, answers
from tests.e2e.hosts import HOME, USER

ROOT = Path(__file__).resolve().parent.parent.parent
OVERLAY = Path(__file__).with_name("overlay.yaml")
KEY_NAME = "e2e"
DASHBOARD = 8265


def laid_over(below: Any, above: Any) -> Any:
    """One tree of settings over another; null takes a key out."""
    if not isinstance(below, Mapping) or not isinstance(above, Mapping):
        return above
    merged = dict(below)
    for key, value in above.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = laid_over(below.get(key), value)
    return merged


def shipped() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def container_environment(config: Mapping[str, Any]) -> dict[str, str]:
    """What `docker.run_options` sets in the environment of every process of a node."""
    settings = re.findall(r"--env (\w+)=(\S+)", " ".join(config["docker"]["run_options"]))
    assert settings, "cluster.yaml sets nothing in docker.run_options"
    return dict(settings)


def roles(config: Mapping[str, Any]) -> set[str]:
    return {it["node_config"]["IamInstanceProfile"]["Name"] for it in config["available_node_types"].values()}


def host_environment(config: Mapping[str, Any]) -> dict[str, str]:
    """Of every shell on a host: the container's, Python's, and where this AWS is."""
    return {
        **container_environment(config),
        **CREDENTIALS,
        "AWS_ENDPOINT_URL": ENDPOINT,
        "AWS_DEFAULT_REGION": config["provider"]["region"],
        "PATH": f"{sys.prefix}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        # What `pip install --editable` would do, and what makes a trial of GPUs run without them.
        "PYTHONPATH": f"{HOME}/prx-sweeps:{HOME}/logical_gpus",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": str(256 * 2**20),
    }


@dataclass(frozen=True, kw_only=True)
class Begun:
    """A command of the launcher that is under way, or over."""

    process: subprocess.Popen[bytes]
    log: Path

    def printed(self) -> str:
        return self.log.read_text(errors="replace")

    def last_words(self) -> str:
        """The end of what the command on the other side has printed, without what the launcher says around it."""
        said, ssh, after = self.printed().rpartition("Shared connection to ")
        return (said if ssh else after)[-3000:]


@dataclass(frozen=True, kw_only=True)
class Launcher:
    """The user's machine: a checkout, a home, a key, and the commands of cluster.yaml's first lines.

    folder: holds all of these. config: the merged cluster file.
    """

    folder: Path
    config: Mapping[str, Any]
    begun_so_far: list[str] = field(default_factory=list)

    @classmethod
    def prepare(cls, folder: Path) -> Launcher:
        """Make the key, the checkout and the cluster file."""
        for name in ("home", "tmp", "logs"):
            (folder / name).mkdir(parents=True)
        key = folder / "key.pem"
        subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-m", "PEM", "-N", "", "-f", str(key)], check=True)
        config = laid_over(shipped(), yaml.safe_load(OVERLAY.read_text()))
        config["auth"]["ssh_private_key"] = str(key)
        for node_type in config["available_node_types"].values():
            node_type["node_config"]["KeyName"] = KEY_NAME
        launcher = cls(folder=folder, config=config)
        launcher._check_out()
        launcher.file.write_text(yaml.safe_dump(config, sort_keys=False))
        return launcher

    @property
    def key(self) -> Path:
        return self.folder / "key.pem"

    @property
    def public_key(self) -> str:
        return self.key.with_suffix(".pem.pub").read_text()

    @property
    def checkout(self) -> Path:
        return self.folder / "checkout"

    @property
    def file(self) -> Path:
        return self.folder / "cluster.yaml"

    @property
    def environment(self) -> dict[str, str]:
        return {
            **host_environment(shipped()),
            "HOME": str(self.folder / "home"),
            "TMPDIR": str(self.folder / "tmp"),
            "PYTHONPATH": "",
            "LC_ALL": "C.UTF-8",
        }

    def _check_out(self) -> None:
        """A copy of what git knows or would add: `ray up` reads every file below, and results may lie about here."""
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, check=True, capture_output=True, text=True,
        )  # fmt: skip
        for name in filter(None, listed.stdout.split("\0")):
            source, target = ROOT / name, self.checkout / name
            if source.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)

    def ray(self, command: str, *arguments: str, limit_s: float) -> str:
        """Run `ray COMMAND cluster.yaml ...` and return what it prints. Raises RuntimeError with its last lines."""
        with self.begin(command, *arguments) as begun:
            try:
                code = begun.process.wait(limit_s)
            except subprocess.TimeoutExpired:
                code = None
        if code != 0:
            ended = f"did not end within {limit_s:.0f} s" if code is None else f"ended with {code}"
            raise RuntimeError(f"ray {command} {ended}:\n{begun.last_words()}")
        return begun.printed()

    @contextmanager
    def begin(self, command: str, *arguments: str) -> Iterator[Begun]:
        """The same, going on while the body runs, and ended with it."""
        with self._begin(command, [command, str(self.file), *arguments]) as begun:
            yield begun

    @contextmanager
    def submit(self, *words: str) -> Iterator[Begun]:
        """`ray job submit` of the checkout, through the tunnel of `ray dashboard`; likewise."""
        address = ["--address", f"http://127.0.0.1:{DASHBOARD}"]
        with self.begin("dashboard"):
            wait_for("the tunnel to the dashboard", lambda: answers("127.0.0.1", DASHBOARD), 60)
            with self._begin("job-submit", ["job", "submit", *address, "--working-dir", ".", "--", *words]) as begun:
                yield begun

    @contextmanager
    def _begin(self, name: str, words: Sequence[str]) -> Iterator[Begun]:
        self.begun_so_far.append(name)
        log = self.folder / "logs" / f"{len(self.begun_so_far):02d}-ray-{name}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [f"{sys.prefix}/bin/ray", *words],
                cwd=self.checkout, env=self.environment,
                stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        try:
            yield Begun(process=process, log=log)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # its ssh too
                process.wait()

    def ssh(self, address: str, command: str) -> list[str]:
        """The words that run a command in a login shell of a host, with the environment that Ray's own commands get."""
        options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
        shell = f". ~/.bashrc; {command}"
        return ["ssh", "-i", str(self.key), *options, f"{USER}@{address}", shell]

    def on(self, address: str, command: str, limit_s: float = 60) -> str:
        """Run a command on a host and return its output."""
        done = subprocess.run(
            self.ssh(address, command), capture_output=True, text=True, timeout=limit_s, stdin=subprocess.DEVNULL
        )
        if done.returncode != 0:
            raise RuntimeError(f"{command!r} on {address} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout
