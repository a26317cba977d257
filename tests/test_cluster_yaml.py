"""cluster.yaml passes Ray's own validation without a cloud, and says what it is meant to say."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "cluster.yaml").read_text()
Config = dict[str, Any]

# What AWS gives: vCPUs and GPUs, from the instance type pages of EC2.
INSTANCE_TYPES = {
    "m7i.4xlarge": (16, 0),
    "p5.48xlarge": (192, 8),
    "p4d.24xlarge": (96, 8),
    "g6e.2xlarge": (8, 1),
    "g5.2xlarge": (8, 1),
}
SECRETS = re.compile(r"AKIA[0-9A-Z]{16}|aws_(secret|session)|PRIVATE KEY|\b[A-Za-z0-9]{32,}\b|RAY_AUTH_TOKEN=\S")


def locked_version(name: str) -> str:
    found = re.search(rf"^{name}==(\S+)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert found, f"{name} is not in requirements.lock"
    return found.group(1)


def ray_objections(config: Config) -> list[str]:
    """What Ray says when it fills in its defaults for AWS and checks the result against its schema."""
    try:
        validate_config(prepare_config(copy.deepcopy(config)))
    except (jsonschema.ValidationError, AssertionError, KeyError, ValueError) as error:
        return [f"ray: {str(error).splitlines()[0]}"]
    return []


def node_type_problems(config: Config) -> list[str]:
    found = []
    for name, node in config["available_node_types"].items():
        declared = (node["resources"]["CPU"], node["resources"]["GPU"])
        instance = node["node_config"]["InstanceType"]
        if declared != INSTANCE_TYPES.get(instance):
            found.append(f"{name}: declares CPU, GPU {declared}; {instance} has {INSTANCE_TYPES.get(instance)}")
        market = node["node_config"].get("InstanceMarketOptions", {}).get("MarketType")
        is_head = name == config["head_node_type"]
        if is_head and (market or node["resources"]["GPU"] or not node["resources"].get("driver")):
            found.append(f"{name}: the head is on demand, without GPU, with drivers")
        if not is_head and (market, node.get("min_workers"), "driver" in node["resources"]) != ("spot", 0, False):
            found.append(f"{name}: workers are spot, none at rest, without drivers")
        if not is_head and not 0 < node.get("max_workers", 0) <= config["max_workers"]:
            found.append(f"{name}: max_workers is missing or above that of the cluster")
    return found


def problems(config: Config) -> list[str]:
    """Everything that is wrong with a cluster file; empty when nothing is. What Ray refuses is not looked into."""
    objections = ray_objections(config)
    if objections:
        return objections
    run_options = config["docker"]["run_options"]
    head_start = config["head_start_ray_commands"][-1]
    worker_start = config["worker_start_ray_commands"][-1]
    token = "/home/ray/.ray/auth_token"
    expectations = {
        "image: another Ray or Python than the lock's": config["docker"]["image"]
        == f"rayproject/ray:{locked_version('ray')}-py311-gpu",
        "token authentication is off": "--env RAY_AUTH_MODE=token" in run_options,
        "token file is not mounted": config["file_mounts"].get(token) == "~/.ray/auth_token",
        "project is not mounted": config["file_mounts"].get("/home/ray/prx-sweeps") == ".",
        "rsync_exclude": {"/.git", "/.venv", "/results", "/cache"} <= set(config["rsync_exclude"]),
        "dashboard is open": "--dashboard-host=127.0.0.1" in head_start,
        "head offers GPUs": "--num-gpus=0" in head_start,
        "open files": all("ulimit -n 65536" in line for line in (head_start, worker_start)),
        "caches lie in the container": any(":/home/ray/cache" in option for option in run_options),
        "a node type without a price": all(
            "usd-per-hour" in t["labels"] for t in config["available_node_types"].values()
        ),
        "stopped nodes are kept": config["provider"]["cache_stopped_nodes"] is False,
        "one zone only": config["provider"]["availability_zone"].count(",") >= 2,
        "idle nodes stay": 0 < config["idle_timeout_minutes"] <= 15,
        "setup does not install the lock": any(
            "--no-deps" in line and "requirements.lock" in line for line in config["setup_commands"]
        ),
    }
    return node_type_problems(config) + [what for what, holds in expectations.items() if not holds]


def test_shipped_file_has_no_problem() -> None:
    assert problems(yaml.safe_load(TEXT)) == []


def test_shipped_file_holds_no_secret() -> None:
    assert SECRETS.findall(TEXT) == []


@pytest.mark.parametrize(
    "secret", ["AKIA" + "A1" * 8, "aws_secret_access_key: x", "BEGIN RSA PRIVATE KEY", "0a" * 32, "RAY_AUTH_TOKEN=x"]
)
def test_secret_is_noticed(secret: str) -> None:
    assert SECRETS.search(f"{TEXT}\n# {secret}\n")


def test_every_excluded_folder_is_what_git_ignores_too() -> None:
    ignored = (ROOT / ".gitignore").read_text().split()
    assert {"results/", "cache/", ".venv/", "build/"} <= set(ignored)


def worker(config: Config) -> Config:
    return config["available_node_types"]["gpu8"]


def head(config: Config) -> Config:
    return config["available_node_types"]["head"]


BREAKS: dict[str, tuple[Callable[[Config], object], str]] = {
    "unknown key": (lambda c: c.update(max_wokers=3), "ray: Additional properties"),
    "wrong type": (lambda c: c.update(max_workers="many"), "ray: 'many' is not of type 'integer'"),
    "no head type": (lambda c: c.update(head_node_type="chief"), "ray: `head_node_type` must be one of"),
    "no container": (lambda c: c["docker"].pop("container_name"), "ray: Must provide a container"),
    "more at rest than allowed": (lambda c: worker(c).update(min_workers=99), "ray: The specified global"),
    "gpu on the head": (lambda c: head(c)["resources"].update(GPU=1), "head: the head is on demand"),
    "no drivers": (lambda c: head(c)["resources"].pop("driver"), "head: the head is on demand"),
    "head on spot": (
        lambda c: head(c)["node_config"].update(InstanceMarketOptions={"MarketType": "spot"}),
        "head: the head is on demand",
    ),
    "workers on demand": (lambda c: worker(c)["node_config"].pop("InstanceMarketOptions"), "gpu8: workers are spot"),
    "workers at rest": (lambda c: worker(c).update(min_workers=1), "gpu8: workers are spot"),
    "wrong resources": (lambda c: worker(c)["resources"].update(GPU=4), "gpu8: declares CPU, GPU (192, 4)"),
    "wrong machine": (lambda c: worker(c)["node_config"].update(InstanceType="g5.2xlarge"), "gpu8: declares"),
    "too many": (lambda c: worker(c).update(max_workers=1000), "gpu8: max_workers"),
    "old image": (lambda c: c["docker"].update(image="rayproject/ray:2.9.0-py311-gpu"), "image:"),
    "no token": (lambda c: c["docker"].update(run_options=[]), "token authentication is off"),
    "no token file": (lambda c: c["file_mounts"].pop("/home/ray/.ray/auth_token"), "token file is not mounted"),
    "history travels": (lambda c: c["rsync_exclude"].remove("/.git"), "rsync_exclude"),
    "results travel": (lambda c: c["rsync_exclude"].remove("/results"), "rsync_exclude"),
    "dashboard for all": (
        lambda c: c.update(head_start_ray_commands=["ulimit -n 65536; ray start --head --dashboard-host=0.0.0.0"]),
        "dashboard is open",
    ),
    "no price": (lambda c: worker(c)["labels"].clear(), "a node type without a price"),
    "caches inside": (lambda c: c["docker"].update(run_options=["--env RAY_AUTH_MODE=token"]), "caches lie in"),
    "nodes kept": (lambda c: c["provider"].update(cache_stopped_nodes=True), "stopped nodes are kept"),
    "one zone": (lambda c: c["provider"].update(availability_zone="us-west-2a"), "one zone only"),
    "idle for ever": (lambda c: c.update(idle_timeout_minutes=600), "idle nodes stay"),
    "no lock": (lambda c: c.update(setup_commands=["pip install ray"]), "setup does not install the lock"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_broken_copy_is_noticed(name: str) -> None:
    breaks, expected = BREAKS[name]
    config = yaml.safe_load(TEXT)
    breaks(config)
    found = problems(config)
    assert any(problem.startswith(expected) for problem in found), found
