"""What a cluster must be able to do before a trial starts: each thing that it cannot is one line with what to do.

On one machine nothing of it costs more than a look at Ray's list of nodes. Elsewhere every node that can take a trial's
worker is asked; where none is up yet, one is waited for, which the trials would wait for too.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prx_model.weights import Need
from sweeps import slot
from sweeps.config import listing
from sweeps.locations import Location
from sweeps.node_types import PRICE_LABEL, NodeType, Offer, current_offer, shortfall
from sweeps.preflight import weight_needs
from sweeps.space import Resources, SearchSpace, SpaceError
from sweeps.storage import SweepPaths

if TYPE_CHECKING:
    from sweeps.cluster import Connection

MOST_SKEW_S = 60.0  # between the clocks of two nodes; S3 refuses requests that are 15 minutes off
NODE_WAIT_S = 1800.0  # for a machine to be found, to boot and to install
LOSS_NOTICED_S = 60.0  # until Ray counts a node as lost that answers no more
ASKED_AGAIN = 5  # times, of other nodes, where the one asked is lost
SHARED = "results must lie where every node can write: a folder that all share, or s3://bucket/prefix"


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a node is asked. word: what the driver has written to `driver_file` in the results folder `root`.

    gpus: whether a trial's worker takes some.
    """

    root: str
    driver_file: str
    word: str
    data: str | None
    needs: tuple[Need, ...]
    gpus: bool = False


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a node says. file: what it has written to the results folder, '' where it could not. now: its clock."""

    host: str
    now: float
    file: str
    problems: tuple[str, ...]


def check_cluster(
    space: SearchSpace, paths: SweepPaths, connection: Connection, tell: Callable[[str], None] = lambda _line: None
) -> None:
    """Raise SpaceError where the cluster can never hold a trial, or a node cannot do what a trial's worker does.

    tell: hears of what takes long.
    """
    import ray

    offer = current_offer(grows=connection.grows)
    missing = shortfall(offer, space.resources) or unmeasured(space, offer)
    if missing is not None:
        raise SpaceError(missing)
    here = ray.get_runtime_context().get_node_id()
    holding = [str(node["NodeID"]) for node in ray.nodes() if node["Alive"] and _holds_a_worker(node, space.resources)]
    if holding == [here]:
        return
    elsewhere = [node for node in holding if node != here]
    if not elsewhere:
        tell("waiting for a node that can take a trial's worker, to see whether it can do its work")
    problems = problems_of(space, paths, elsewhere)
    if problems:
        raise SpaceError("the cluster cannot run a trial:\n" + "\n".join(f"  {line}" for line in problems))


def unmeasured(space: SearchSpace, offer: Offer) -> str | None:
    """Which limit of the budget would never be reached, whatever trials cost, in one line with what to do."""
    budget, wanted = space.budget, space.resources
    if (
        budget.max_gpu_hours is not None
        and not wanted.gpus_per_worker
        and not any(t.amount("GPU") for t in offer.types)
    ):
        return "budget.max_gpu_hours: trials take no GPU here; limit budget.max_cpu_hours instead"
    unpriced = [one.name for one in offer.for_trials(wanted) if one.usd_per_hour is None]
    if budget.max_cost is not None and unpriced:
        problem = f"budget.max_cost: nobody says what a node costs ({listing(unpriced)})"
        return f"{problem}; give the node type the label {PRICE_LABEL}, as in cluster.yaml, or limit hours instead"
    return None


def _holds_a_worker(node: Mapping[str, Any], wanted: Resources) -> bool:
    return NodeType(name="", most=1, resources=node["Resources"]).workers_that_fit(wanted) > 0


def problems_of(space: SearchSpace, paths: SweepPaths, nodes: Sequence[str]) -> list[str]:
    """What is wrong with the nodes, or, of none, with the first that can take a worker."""
    word, data = uuid.uuid4().hex, space.baseline_config(space.first_seed).data
    question = Question(
        root=str(paths.root),
        driver_file=f".seen-by-driver-{os.getpid()}",
        word=word,
        data=str(data.path) if data.source == "store" else None,
        needs=tuple(weight_needs(space)),
        gpus=space.resources.gpus_per_worker > 0,
    )
    note = paths.root / question.driver_file
    try:
        note.write_bytes(word.encode())
    except (OSError, RuntimeError) as error:
        return [f"this machine cannot write to {paths.root}: {_one_line(error)}; {SHARED}"]
    try:
        begun = time.time()
        answers = _answers(question, nodes, space.resources)
        return [line for answer in answers for line in judged(answer, paths, word, begun, time.time())]
    finally:
        _remove(note)


def judged(answer: Answer | str, paths: SweepPaths, word: str, begun: float, ended: float) -> Iterator[str]:
    """What is wrong with a node, by its answer, which was given between `begun` and `ended` by the driver's clock."""
    if isinstance(answer, str):
        yield answer
        return
    yield from (f"node {answer.host}: {problem}" for problem in answer.problems)
    skew = max(begun - answer.now, answer.now - ended, 0.0)
    if skew > MOST_SKEW_S:
        yield f"node {answer.host}: its clock is {skew:.0f} s off this machine's; set both by NTP"
    if answer.file:
        written = paths.root / answer.file
        try:
            there = written.read_bytes() == word.encode()
            _remove(written)
        except (OSError, RuntimeError):
            there = False
        if not there:
            yield f"node {answer.host}: what it writes to {paths.root} cannot be read here; {SHARED}"


def _answers(question: Question, nodes: Sequence[str], wanted: Resources) -> list[Answer | str]:
    """Of these nodes; of the first that can take a worker where there are none, or none is left: nodes are lost while
    they are asked, and one that is cut off counts as alive until Ray misses it.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ask = ray.remote(answer_of_this_node)
    on = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
    calls = [ask.options(num_cpus=0, max_retries=1, scheduling_strategy=one).remote(question) for one in on]
    if calls:
        ray.wait(calls, num_returns=len(calls), timeout=NODE_WAIT_S)
    found = [_answer(call, node) for call, node in zip(calls, nodes, strict=True)]
    if not any(found):
        gpus = min(wanted.gpus_per_worker, 1.0)
        anywhere = ask.options(num_cpus=wanted.cpus_per_worker, num_gpus=gpus, max_retries=ASKED_AGAIN)
        found = [_answer(anywhere.remote(question), None, NODE_WAIT_S)]
    return [answer for answer in found if answer is not None]


def _answer(call: Any, node: str | None, wait_s: float = 0.0) -> Answer | str | None:
    """What has come, or why nothing has, in one line. None of a node that is gone: it is in no trial's way."""
    import ray
    from ray.exceptions import GetTimeoutError, RayError, RayTaskError

    try:
        return ray.get(call, timeout=wait_s)
    except GetTimeoutError:
        ray.cancel(call, force=True)
        wait = f"{NODE_WAIT_S / 60:.0f} minutes"
        return f"no answer from a node that can take a trial's worker in {wait}; `ray status` says what is awaited"
    except RayError as error:
        if node is not None and not isinstance(error, RayTaskError) and _is_gone(node):
            return None
        return f"a node could not be asked: {_one_line(error)}; is this project installed on every node?"


def _is_gone(node: str) -> bool:
    """Whether Ray counts the node as lost, now or soon."""
    import ray

    until = time.monotonic() + LOSS_NOTICED_S
    while any(one["NodeID"] == node and one["Alive"] for one in ray.nodes()):
        if time.monotonic() > until:
            return False
        time.sleep(1.0)
    return True


def answer_of_this_node(question: Question) -> Answer:
    """On a node: look at everything that a trial's worker needs."""
    import ray

    host = ray.util.get_node_ip_address()
    problems = list(_data_and_weights(question))
    if question.gpus and (unseen := slot.unseen_gpus()):
        problems.append(unseen)
    root, file = SweepPaths.at(question.root).root, f".seen-by-{uuid.uuid4().hex}"
    try:
        seen = (root / question.driver_file).read_bytes() == question.word.encode()
        if not seen:
            problems.append(f"what the driver writes to {root} is not what is there; {SHARED}")
        (root / file).write_bytes(question.word.encode())
    except (OSError, RuntimeError) as error:
        problems.append(f"{root} cannot be read and written: {_one_line(error)}; {SHARED}")
        file = ""
    return Answer(host=host, now=time.time(), file=file, problems=tuple(problems))


def _data_and_weights(question: Question) -> Iterator[str]:
    from prx_model.data.manifest import Manifest
    from prx_model.weights import check_weights

    if question.data is not None:
        try:
            Manifest.read(question.data)
        except (ValueError, OSError, RuntimeError) as error:
            yield f"data set {question.data}: {_one_line(error)}; put it where every node can read, such as s3://"
    yield from (finding.line for finding in check_weights(question.needs) if finding.is_missing)


def _remove(file: Location) -> None:
    """One that cannot be removed is in nobody's way."""
    with suppress(OSError):
        file.unlink() if isinstance(file, Path) else file.remove()


def _one_line(error: object) -> str:
    return " ".join(str(error).split())[:300]
