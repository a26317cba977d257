"""What the driver decides about Ray, by what the cluster says it has."""

from __future__ import annotations

import os
import socket
import sys

import pytest
import ray

from sweeps import cluster
from sweeps.node_types import NodeType, Offer
from sweeps.obstacles import HaltedError
from sweeps.space import Resources, SpaceError

FILE = cluster.Path("space.yaml")


def _has(monkeypatch, **resources: float) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: dict(resources))
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": dict(resources), "Labels": {}}])


@pytest.mark.parametrize(("gpus", "asked", "each"), [(0, 0, 0), (1, 0, 0.5), (2, 0, 1.0), (8, 0, 1.0), (8, 2, 2)])
def test_a_profile_without_gpus_shares_those_there_are(monkeypatch, gpus, asked, each):
    _has(monkeypatch, CPU=16, GPU=gpus)
    assert cluster.with_gpus_there_are(Resources(gpus_per_worker=asked), grows=False).gpus_per_worker == each


def test_drivers_take_the_heads_slots_where_there_are_any(monkeypatch):
    _has(monkeypatch, CPU=2, driver=10)
    assert cluster.driver_resources() == {"CPU": 0, "driver": 1}
    _has(monkeypatch, CPU=2)
    # Not a part of a CPU: slots, which come first, may have taken all of them.
    assert cluster.driver_resources() == {"CPU": 0, "node:__internal_head__": 0.001}


def test_an_address_that_is_asked_for_wins(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert cluster.running_address("10.0.0.2:6379") == "10.0.0.2:6379"
    assert cluster.running_address(None) == "10.0.0.1:6379"
    assert cluster.running_address("local") is None


def test_a_cluster_that_has_gone_is_not_joined(monkeypatch):
    """`ray start` leaves a note of its address; a killed cluster cannot take it away."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr("ray._private.utils.read_ray_address", lambda: address)
        assert cluster.running_address(None) == address
    assert cluster.running_address(None) is None


def test_the_profile_and_why(monkeypatch):
    content = {"profiles": {"laptop": {}, "cluster": {}}}
    asked = cluster.choose_profile(content, FILE, "cluster", None)
    assert (asked.profile, asked.reason) == ("cluster", "asked for with --profile")
    alone = cluster.choose_profile(content, FILE, None, None)
    assert (alone.profile, alone.reason) == ("laptop", "no running Ray cluster was found")
    only = cluster.choose_profile({"profiles": {"other": {}}}, FILE, None, None)
    assert only.profile == "other"
    with pytest.raises(SpaceError, match="choose with --profile: one, two"):
        cluster.choose_profile({"profiles": {"one": {}, "two": {}}}, FILE, None, None)


@pytest.mark.parametrize(("gpus", "profile"), [(8, "cluster"), (4, "laptop")])
def test_a_running_cluster_is_taken_if_it_holds_a_trial(monkeypatch, gpus, profile):
    from sweeps.space_file import read_space

    file = cluster.Path(__file__).parent.parent.parent / "search_spaces" / "repa.yaml"
    node = NodeType(name="a", most=2, resources={"CPU": 96, "GPU": gpus})
    monkeypatch.setattr(cluster, "_offer_at", lambda _address: Offer(types=(node,)))
    choice = cluster.choose_profile(read_space(file), file, None, "10.0.0.1:6379")
    assert choice.profile == profile
    assert ("offer at most 4" in choice.reason) == (profile == "laptop")


@pytest.mark.parametrize(
    ("address", "told"), [(None, "did not start on this machine"), ("10.0.0.1:6379", "10.0.0.1:6379")]
)
def test_a_ray_that_cannot_be_had_halts_with_one_line(address, told, tmp_path, monkeypatch: pytest.MonkeyPatch):

    def fails(**_options: object) -> None:
        raise Exception("The current node timed out during startup.\nSee the logs.")

    monkeypatch.setattr(ray, "init", fails)
    monkeypatch.setattr(cluster.os, "environ", dict(os.environ))
    monkeypatch.setattr(cluster, "silence_ray", lambda log: None)
    with pytest.raises(HaltedError, match="timed out during startup") as raised:
        cluster.connect(address, tmp_path / "ray.log")
    assert told in str(raised.value)
    assert "See the logs" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("python", "refused"), [("3.10.1", True), (f"3.{sys.version_info.minor}.99", False)])
def test_another_ray_or_python_is_told_with_what_to_do(python, refused, tmp_path, monkeypatch: pytest.MonkeyPatch):
    """By Ray's own comparison, which is told not to mind the last number of Python's version."""
    from ray._private.utils import check_version_info

    def fails(**_options: object) -> None:
        check_version_info({"ray_version": ray.__version__, "python_version": python}, "node 10.0.0.7")
        raise Exception("another reason")

    monkeypatch.setattr(ray, "init", fails)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(cluster, "silence_ray", lambda log: None)
    with pytest.raises(HaltedError) as raised:
        cluster.connect("10.0.0.1:6379", tmp_path / "ray.log")
    assert ("install the same Ray and Python" in str(raised.value)) == refused
    assert "\n" not in str(raised.value)
