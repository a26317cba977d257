"""EC2 and S3 for the hosts: moto's server, and a loop that makes a host of every instance that it has launched."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tests.e2e.clock import tell, wait_for
from tests.e2e.hosts import GATEWAY, Host, HostSettings, start_host

PORT = 5000
ENDPOINT = f"http://{GATEWAY}:{PORT}"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_EC2_METADATA_DISABLED": "true"}
ALIVE = ("pending", "running")


def start_server(log: Path) -> subprocess.Popen[bytes]:
    """Moto's server, on the bridge: the hosts reach it as they would reach AWS."""
    command = [str(Path(sys.prefix) / "bin" / "moto_server"), "--host", GATEWAY, "--port", str(PORT)]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)

    def answers() -> bool:
        assert process.poll() is None, f"moto's server has ended: see {log}"
        try:
            with urllib.request.urlopen(f"{ENDPOINT}/moto-api/", timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            return False

    wait_for("moto's server", answers, 60)
    return process


class Cloud:
    """An account with a key pair, the roles that cluster.yaml names, a bucket, and instances that are hosts."""

    def __init__(self, region: str, settings: HostSettings) -> None:
        import boto3

        options: dict[str, Any] = {"endpoint_url": ENDPOINT, "region_name": region}
        options |= {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
        self.ec2: Any = boto3.client("ec2", **options)
        self.iam: Any = boto3.client("iam", **options)
        self.s3: Any = boto3.client("s3", **options)
        self.region, self.settings = region, settings
        self.hosts: dict[str, Host] = {}  # by instance
        self.lost: set[str] = set()  # instances that were cut off
        self.closing = threading.Event()
        self.trouble: list[str] = []
        self.keeper = threading.Thread(target=self._keep, daemon=True, name="cloud")

    def open(self, key_name: str, roles: set[str], bucket: str) -> None:
        self.ec2.import_key_pair(KeyName=key_name, PublicKeyMaterial=self.settings.authorized_key.encode())
        for role in roles:
            self.iam.create_instance_profile(InstanceProfileName=role)
        self.s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": self.region})
        self.keeper.start()

    def instances(self, *states: str) -> list[dict[str, Any]]:
        pages = self.ec2.describe_instances()["Reservations"]
        found = [instance for page in pages for instance in page["Instances"]]
        return [it for it in found if not states or it["State"]["Name"] in states]

    def host_of(self, instance: dict[str, Any]) -> Host | None:
        return self.hosts.get(instance["InstanceId"])

    def workers(self) -> list[dict[str, Any]]:
        """Instances that are alive and not the head."""
        return [it for it in self.instances(*ALIVE) if tag(it, "ray-node-type") == "worker"]

    def cut_off(self, instance: str) -> None:
        """The machine is gone, and EC2 does not say so yet."""
        self.lost.add(instance)
        self.hosts.pop(instance).cut_off()

    def terminate(self, instance: str) -> None:
        """What EC2 does at the end of a spot notice; the loop ends the host."""
        self.ec2.terminate_instances(InstanceIds=[instance])

    def close(self) -> None:
        self.closing.set()
        self.keeper.join(30)
        for host in self.hosts.values():
            host.cut_off()
        self.hosts.clear()

    def _keep(self) -> None:
        while not self.closing.wait(0.5):
            try:
                self._keep_once()
            except Exception as error:
                self.trouble.append(repr(error))
                tell(f"  the cloud has trouble: {error!r}")

    def _keep_once(self) -> None:
        alive = {it["InstanceId"]: it for it in self.instances(*ALIVE)}
        for name in [name for name in self.hosts if name not in alive]:
            tell(f"  {self.hosts[name].name} is terminated")
            self.hosts.pop(name).cut_off()
        for name, instance in alive.items():
            if name not in self.hosts and name not in self.lost:
                self.hosts[name] = self._boot(instance)

    def _boot(self, instance: dict[str, Any]) -> Host:
        address = instance["PrivateIpAddress"]
        name = f"ip-{address.replace('.', '-')}"
        spot = instance.get("InstanceLifecycle") == "spot"
        tell(f"  {name} is launched: {instance['InstanceType']}{', spot' if spot else ''}")
        host = start_host(name, address, instance.get("PublicIpAddress", address), self.settings)
        try:
            wait_for(f"sshd on {name}", lambda: answers(address, 22), 20, every_s=0.1)
        except TimeoutError as error:
            host.cut_off()
            raise RuntimeError(f"{error}; its log says: {host.log.read_text()[-500:]}") from error
        return host


def tag(instance: dict[str, Any], name: str) -> str | None:
    return next((it["Value"] for it in instance.get("Tags", []) if it["Key"] == name), None)


def answers(address: str, port: int) -> bool:
    try:
        with socket.create_connection((address, port), timeout=1):
            return True
    except OSError:
        return False
