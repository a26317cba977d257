"""What the driver decides about Ray, by what the cluster says it has."""

from __future__ import annotations

import os
import socket

import pytest
import ray

from sweeps import cluster
from sweeps.obstacles import HaltedError
from sweeps.space import Resources, SpaceError

FILE = cluster.Path("space.yaml")


def _has(monkeypatch, **resources: float) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: dict(resources))


@pytest.mark.parametrize(
    ("there", "wanted", "at_a_time"),
    [
        ({"CPU": 2}, Resources(), 2),
        ({"CPU": 1}, Resources(), 1),
        ({"CPU": 64}, Resources(concurrent_trials=4), 4),
        ({"CPU": 64, "GPU": 16}, Resources(workers=8, gpus_per_worker=1, concurrent_trials=8), 2),
        ({"CPU": 2}, Resources(workers=8), 1),  # at least one: Ray then waits for nodes, or the autoscaler brings them
    ],
)
def test_as_many_trials_as_the_cluster_holds(monkeypatch, there, wanted, at_a_time):
    _has(monkeypatch, **there)
    assert cluster.concurrent_trials(wanted) == at_a_time


@pytest.mark.parametrize(("gpus", "asked", "each"), [(0, 0, 0), (1, 0, 0.5), (2, 0, 1.0), (8, 0, 1.0), (8, 2, 2)])
def test_a_profile_without_gpus_shares_those_there_are(monkeypatch, gpus, asked, each):
    _has(monkeypatch, CPU=16, GPU=gpus)
    assert cluster.with_gpus_there_are(Resources(gpus_per_worker=asked)).gpus_per_worker == each


def test_drivers_take_the_heads_slots_where_there_are_any(monkeypatch):
    _has(monkeypatch, CPU=2, driver=10)
    assert cluster.driver_resources() == {"CPU": 0, "driver": 1}
    _has(monkeypatch, CPU=2)
    assert cluster.driver_resources() == {"CPU": 0.01}


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
    monkeypatch.setattr(cluster, "_gpus_of", lambda _address: float(gpus))
    choice = cluster.choose_profile(read_space(file), file, None, "10.0.0.1:6379")
    assert choice.profile == profile
    assert f"{gpus} GPUs" in choice.reason


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
