"""How many trials node types hold, and what is said where they can hold none."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from sweeps import node_types
from sweeps.node_types import NodeType, Offer, autoscaler_config, offer_of, price_of, shortfall, trials_that_fit
from sweeps.space import Resources, SpaceError

ROOT = Path(__file__).parent.parent.parent
MANY = 100


def offer(*nodes: tuple[int, float, float]) -> Offer:
    """(how many, CPUs, GPUs) of each type."""
    return Offer(
        types=tuple(
            NodeType(name=f"type{i}", most=most, resources={"CPU": cpus, "GPU": gpus})
            for i, (most, cpus, gpus) in enumerate(nodes)
        )
    )


def wanted(
    workers: int = 1, cpus: float = 1, gpus: float = 0, placement: str = "pack", trials: int = MANY
) -> Resources:
    return Resources(
        workers=workers, cpus_per_worker=cpus, gpus_per_worker=gpus, placement=placement, concurrent_trials=trials
    )


@pytest.mark.parametrize(
    ("there", "trial", "at_a_time"),
    [
        (offer((1, 2, 0)), wanted(), 2),
        (offer((1, 64, 0)), wanted(trials=4), 4),
        (offer((2, 192, 8)), wanted(8, 1, 1), 2),
        # Packed is a wish: eight machines of one GPU hold a trial too.
        (offer((8, 8, 1)), wanted(8, 8, 1), 1),
        (offer((8, 8, 1)), wanted(8, 8, 1, "strict_pack"), 0),
        (offer((2, 192, 8), (8, 8, 1)), wanted(8, 8, 1), 3),
        (offer((2, 192, 8), (8, 8, 1)), wanted(8, 8, 1, "strict_pack"), 2),
        # CPUs can be what is scarce beside GPUs, on each node: in total there are enough.
        (offer((1, 4, 8), (1, 64, 0)), wanted(1, 4, 1), 1),
        # Shares lie on one GPU each: two of 0.4 on one, not five on two.
        (offer((1, 64, 2)), wanted(1, 1, 0.4), 4),
        (offer((1, 64, 1)), wanted(1, 1, 0.1), 10),
        (offer((1, 64, 8)), wanted(1, 1, 3), 2),
        # Each worker on another node.
        (offer((2, 64, 8)), wanted(2, 1, 1, "strict_spread"), 8),
        (offer((2, 64, 8)), wanted(3, 1, 1, "strict_spread"), 0),
        (offer((1, 64, 8), (2, 64, 1)), wanted(2, 1, 1, "strict_spread"), 2),
        (offer((2, 64, 8)), wanted(3, 1, 1, "spread"), 5),
    ],
)
def test_trials_side_by_side(there: Offer, trial: Resources, at_a_time: int) -> None:
    assert trials_that_fit(there, trial) == at_a_time
    assert (shortfall(there, trial) is None) == (at_a_time > 0)


@pytest.mark.parametrize(
    ("there", "trial", "told"),
    [
        (
            offer((2, 96, 4)),
            wanted(8, 8, 1, "strict_pack"),
            "a trial needs 8 GPUs on one node; the cluster's node types offer at most 4; lower .resources. in the "
            "space file, or set resources.placement: pack, or",
        ),
        (
            offer((9, 8, 1)),
            wanted(1, 1, 2),
            "a trial needs 2 GPUs on one node; the cluster's node types offer at most 1",
        ),
        (
            offer((9, 8, 1)),
            wanted(1, 16),
            "a trial needs 16 CPUs on one node; the cluster's node types offer at most 8",
        ),
        (offer((9, 8, 1), (1, 64, 0)), wanted(1, 16, 1), "a trial needs 1 GPUs and 16 CPUs on one node; no node type"),
        (offer((3, 8, 1)), wanted(4, 1, 1), "a trial needs 4 workers of 1 GPUs and 1 CPUs; .* hold at most 3"),
        (offer((3, 8, 8)), wanted(4, 1, 1, "strict_spread"), "a trial needs 4 nodes with .* offer at most 3"),
        (offer(), wanted(), "a trial needs 1 CPUs on one node; the cluster's node types offer at most 0"),
    ],
)
def test_a_trial_that_never_fits_is_told_in_one_line(there: Offer, trial: Resources, told: str) -> None:
    line = shortfall(there, trial)
    assert line is not None
    assert re.match(told, line), line
    assert "\n" not in line
    assert "lower `resources` in the space file" in line


def test_of_what_may_be_started_no_more_than_the_cluster_allows_in_all() -> None:
    types = offer((4, 192, 8), (8, 8, 1)).types
    limited = Offer(types=types, started=frozenset({"type0", "type1"}), most_started=3)
    assert trials_that_fit(limited, wanted(1, 1, 1)) == 24  # three of the large ones
    assert trials_that_fit(Offer(types=types), wanted(1, 1, 1)) == 40


def node(cpus: float, gpus: float, **labels: str) -> dict:
    return {"Alive": True, "Resources": {"CPU": cpus, "GPU": gpus, "memory": 1e9}, "Labels": labels}


def test_nodes_that_are_up_are_counted_once() -> None:
    """By Ray's label; without one, as under the older autoscaler, by what they have."""
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    head = {**node(16, 0), "Labels": {"ray.io/node-group": "head"}}
    labelled = {**node(192, 8), "Labels": {"ray.io/node-group": "gpu8"}}
    for nodes in ([head], [head, labelled], [head, node(192, 8)], [head, {**labelled, "Alive": False}]):
        most = {one.name: one.most for one in offer_of(nodes, config).types}
        assert most == {"head": 1, "gpu8": 2, "gpu1": 8}
    strangers = offer_of([head, node(4, 0), node(4, 0), node(4, 1)], config)
    assert {one.name: one.most for one in strangers.types}["4 CPUs, 0 GPUs"] == 2


def test_what_is_up_has_what_it_says_and_not_what_was_declared() -> None:
    config = {"available_node_types": {"a": {"resources": {"CPU": 8, "GPU": 1}, "max_workers": 2}}}
    (one,) = offer_of([{**node(8, 0), "Labels": {"ray.io/node-group": "a"}}], config).types
    assert (one.most, one.amount("GPU")) == (2, 0)


def test_a_node_type_of_which_nothing_is_known_may_hold_anything() -> None:
    """Provider `local` declares no resources; once its nodes are up, they tell."""
    config = {"available_node_types": {"local": {"resources": {}, "max_workers": 1}}}
    assert shortfall(offer_of([], config), wanted(1, 64, 8)) is None
    up = offer_of([{**node(8, 1), "Labels": {"ray.io/node-group": "local"}}], config)
    assert shortfall(up, wanted(1, 64, 8)) is not None


def test_prices_are_the_nodes_labels() -> None:
    config = {
        "available_node_types": {"a": {"resources": {"CPU": 8}, "max_workers": 2, "labels": {"usd-per-hour": "2.25"}}}
    }
    (one,) = offer_of([], config).types
    assert one.usd_per_hour == 2.25
    (alone,) = offer_of([{**node(8, 0), "Labels": {"usd-per-hour": "0"}}], {}).types
    assert alone.usd_per_hour == 0
    assert price_of({}) is None
    for nonsense in ("cheap", "-1", "nan"):
        with pytest.raises(SpaceError, match=f"usd-per-hour: got '{nonsense}', allowed is a number"):
            price_of({"usd-per-hour": nonsense})


def test_where_the_autoscalers_node_types_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv(node_types.NODE_TYPES, raising=False)
    assert autoscaler_config() == {}
    (tmp_path / "ray_bootstrap_config.yaml").write_text("max_workers: 3\navailable_node_types: {a: {max_workers: 3}}")
    assert autoscaler_config()["max_workers"] == 3
    monkeypatch.setenv(node_types.NODE_TYPES, json.dumps({"b": {"max_workers": 1}}))
    assert autoscaler_config() == {"available_node_types": {"b": {"max_workers": 1}}}
    monkeypatch.setenv(node_types.NODE_TYPES, "[1]")
    with pytest.raises(SpaceError, match=r"SWEEP_NODE_TYPES: .*allowed is JSON"):
        autoscaler_config()


def test_room_is_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    offers = iter([offer((1, 2, 0)), offer((3, 2, 0)), offer()])
    monkeypatch.setattr(node_types, "current_offer", lambda *, grows: next(offers))
    room = node_types.Room(wanted=wanted(), grows=True)
    assert [room(), room()] == [2, 2]
    for most in (6, 1):  # never none: a trial waits for a node
        room.looked -= node_types.LOOK_AGAIN_S + 1
        assert room() == most


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"placement": "tight"}, "placement: got 'tight', allowed is pack, spread"),
        ({"gpus_per_worker": 1.5}, "whole number"),
    ],
)
def test_resources_that_ray_cannot_give(settings: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Resources(**settings)
