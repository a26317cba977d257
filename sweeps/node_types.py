"""What a cluster's nodes offer, type by type, and how many trials they hold side by side."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sweeps.space import STRICT_PACK, STRICT_SPREAD, Resources, SpaceError
from sweeps.usage import Rate, rate_on

NODE_TYPES = "SWEEP_NODE_TYPES"  # node types as JSON, in cluster.yaml's form, where Ray has no file of them (KubeRay)
BOOTSTRAP = "ray_bootstrap_config.yaml"  # what `ray up` leaves in the head's home folder
GROUP_LABEL = "ray.io/node-group"  # Ray's own: the name of a node's type
PRICE_LABEL = "usd-per-hour"  # ours, on a node type: what one node of it costs
LOOK_AGAIN_S = 10.0
_SLACK = 1e-6  # 0.1 is no sum of powers of two


@dataclass(frozen=True, kw_only=True)
class NodeType:
    """Nodes that are alike. most: of them that there are or may be. usd_per_hour: of one; None where nobody says."""

    name: str
    most: int
    resources: Mapping[str, float]
    usd_per_hour: float | None = None

    def amount(self, resource: str) -> float:
        return float(self.resources.get(resource, 0))

    def workers_that_fit(self, wanted: Resources) -> int:
        """Workers of a trial that one node holds. A share of a GPU lies on one GPU."""
        by_cpu = math.floor(self.amount("CPU") / wanted.cpus_per_worker + _SLACK)
        if not wanted.gpus_per_worker:
            return by_cpu
        gpus, share = math.floor(self.amount("GPU") + _SLACK), wanted.gpus_per_worker
        by_gpu = gpus * math.floor(1 / share + _SLACK) if share < 1 else math.floor(gpus / share + _SLACK)
        return min(by_cpu, by_gpu)


@dataclass(frozen=True, kw_only=True)
class Offer:
    """All that a cluster has, or may grow to.

    most_started: nodes that the autoscaler may start in all, of the types in `started`; None without a limit.
    unknown: there may be nodes of which nobody says what they have, as with provider `local`.
    """

    types: tuple[NodeType, ...] = ()
    started: frozenset[str] = frozenset()
    most_started: int | None = None
    unknown: bool = False

    def for_trials(self, wanted: Resources) -> list[NodeType]:
        """The types that hold a worker, those that hold most first, cut to the nodes that there may be in all."""
        left, kept = self.most_started, []
        for one in sorted(self.types, key=lambda one: one.workers_that_fit(wanted), reverse=True):
            count = one.most
            if left is not None and one.name in self.started:
                count = min(count, left)
                left -= count
            if count and one.workers_that_fit(wanted):
                kept.append(replace(one, most=count))
        return kept


def trials_that_fit(offer: Offer, wanted: Resources) -> int:
    """Trials side by side, at most as many as are wanted; 0 where there will never be room for one."""
    nodes = [(one.most, one.workers_that_fit(wanted)) for one in offer.for_trials(wanted)]
    if wanted.placement == STRICT_PACK:
        fitting = sum(most * (held // wanted.workers) for most, held in nodes)
    elif wanted.placement == STRICT_SPREAD:
        fitting = 0
        while fitting < wanted.concurrent_trials and _hold_apart(nodes, wanted.workers, fitting + 1):
            fitting += 1
    else:
        fitting = sum(most * held for most, held in nodes) // wanted.workers
    return min(fitting, wanted.concurrent_trials)


def _hold_apart(nodes: Sequence[tuple[int, int]], workers: int, trials: int) -> bool:
    """Whether so many trials fit where no node may hold two workers of one trial."""
    return sum(most * min(held, trials) for most, held in nodes) >= trials * workers


def shortfall(offer: Offer, wanted: Resources) -> str | None:
    """Why the cluster can never hold a trial, in one line with what to do; None where it can, or nobody knows."""
    if offer.unknown or trials_that_fit(offer, wanted):
        return None
    together = wanted.workers if wanted.placement == STRICT_PACK else 1
    needs = {"GPU": together * wanted.gpus_per_worker, "CPU": together * wanted.cpus_per_worker}
    for resource, need in needs.items():
        there = max((one.amount(resource) for one in offer.types if one.most), default=0)
        if need > there + _SLACK:
            problem = (
                f"a trial needs {need:g} {resource}s on one node; the cluster's node types offer at most {there:g}"
            )
            return f"{problem}; {_remedy(wanted)}"
    return f"{_too_few(offer, wanted, together)}; {_remedy(wanted)}"


def _too_few(offer: Offer, wanted: Resources, together: int) -> str:
    types = offer.for_trials(wanted)
    worker = " and ".join(f"{n:g} {name}s" for name, n in _per_worker(wanted).items())
    if not any(one.workers_that_fit(wanted) >= together for one in types):
        beside = f"{together} workers of {worker}" if together > 1 else worker
        return f"a trial needs {beside} on one node; no node type of the cluster has both"
    if wanted.placement == STRICT_SPREAD:
        there = sum(one.most for one in types)
        return (
            f"a trial needs {wanted.workers} nodes with {worker} each; the cluster's node types offer at most {there}"
        )
    there = sum(one.most * one.workers_that_fit(wanted) for one in types)
    return f"a trial needs {wanted.workers} workers of {worker}; the cluster's node types hold at most {there}"


def _per_worker(wanted: Resources) -> dict[str, float]:
    gpus = {"GPU": wanted.gpus_per_worker} if wanted.gpus_per_worker else {}
    return {**gpus, "CPU": wanted.cpus_per_worker}


def _remedy(wanted: Resources) -> str:
    looser = ", or set resources.placement: pack" if wanted.placement in (STRICT_PACK, STRICT_SPREAD) else ""
    return f"lower `resources` in the space file{looser}, or give the cluster more (cluster.yaml, {NODE_TYPES})"


def held_on(one: NodeType, wanted: Resources) -> Rate:
    """What a trial holds whose workers are all on nodes of this type."""
    cpus, gpus = wanted.cpus_per_worker, wanted.gpus_per_worker
    return rate_on(one.resources, one.usd_per_hour, cpus=cpus, gpus=gpus, workers=wanted.workers)


# -- what Ray says


def offer_of(nodes: Iterable[Mapping[str, Any]], config: Mapping[str, Any]) -> Offer:
    """nodes: as ray.nodes() tells them. config: the autoscaler's, in cluster.yaml's form; empty where there is none."""
    declared: Mapping[str, Any] = config.get("available_node_types", {})
    here: dict[str, list[NodeType]] = {}
    for node in nodes:
        if node.get("Alive", True):
            one = _node(node, declared)
            here.setdefault(one.name, []).append(one)
    head = config.get("head_node_type")
    types = [replace(alike[0], most=len(alike)) for name, alike in here.items() if name not in declared]
    unknown = False
    for name, given in declared.items():
        alike = here.get(name, [])
        most = max(0 if name == head and alike else int(given.get("max_workers", 0)), len(alike))
        resources = alike[0].resources if alike else given.get("resources", {})
        unknown = unknown or (not given.get("resources") and most > len(alike))
        price = alike[0].usd_per_hour if alike else price_of(given.get("labels"))
        types.append(NodeType(name=name, most=most, resources=resources, usd_per_hour=price))
    limit = config.get("max_workers")
    return Offer(
        types=tuple(types),
        started=frozenset(name for name in declared if name != head),
        most_started=None if limit is None else int(limit),
        unknown=unknown,
    )


def _node(node: Mapping[str, Any], declared: Mapping[str, Any]) -> NodeType:
    """A node that is up, as a type of its own or one of the declared: by Ray's label, else by what it has."""
    labels, resources = node.get("Labels") or {}, node.get("Resources") or {}
    offered = {name: float(amount) for name, amount in resources.items()}
    name = labels.get(GROUP_LABEL, "")
    if name not in declared:
        sizes = (offered.get("CPU", 0), offered.get("GPU", 0))
        alike = [key for key, given in declared.items() if _sizes(given.get("resources", {})) == sizes]
        name = alike[0] if alike else f"{sizes[0]:g} CPUs, {sizes[1]:g} GPUs"
    return NodeType(name=name, most=1, resources=offered, usd_per_hour=price_of(labels))


def _sizes(resources: Mapping[str, Any]) -> tuple[float, float]:
    return float(resources.get("CPU", 0)), float(resources.get("GPU", 0))


def price_of(labels: Mapping[str, Any] | None) -> float | None:
    """What the labels of a node, or of a node type, say that it costs an hour. Raises SpaceError on nonsense."""
    told = (labels or {}).get(PRICE_LABEL)
    if told is None:
        return None
    try:
        price = float(told)
    except ValueError:
        price = math.nan
    if not 0 <= price < math.inf:
        raise SpaceError(f"node label {PRICE_LABEL}: got {told!r}, allowed is a number of 0 or more, such as '2.25'")
    return price


def autoscaler_config() -> dict[str, Any]:
    """The autoscaler's node types: what the environment says, else what `ray up` left here; empty where there is none.

    Raises SpaceError where the environment says nonsense.
    """
    import yaml

    told = os.environ.get(NODE_TYPES)
    if told:
        try:
            return {"available_node_types": dict(json.loads(told))}
        except (ValueError, TypeError) as error:
            allowed = 'allowed is JSON such as {"gpu8": {"max_workers": 2, "resources": {"CPU": 192, "GPU": 8}}}'
            raise SpaceError(f"{NODE_TYPES}: {error}; {allowed}") from error
    file = Path.home() / BOOTSTRAP
    return (yaml.safe_load(file.read_text()) or {}) if file.is_file() else {}


def current_offer(*, grows: bool) -> Offer:
    """Of the cluster that this process is connected to. grows: an autoscaler may belong to it."""
    import ray

    return offer_of(ray.nodes(), autoscaler_config() if grows else {})


@dataclass
class Room:
    """How many trials the cluster holds side by side, at least one; looked at again as nodes come and go."""

    wanted: Resources
    grows: bool
    most: int = 1
    looked: float = field(default=-math.inf)

    def __call__(self) -> int:
        if time.monotonic() - self.looked > LOOK_AGAIN_S:
            self.most = max(1, trials_that_fit(current_offer(grows=self.grows), self.wanted))
            self.looked = time.monotonic()
        return self.most
