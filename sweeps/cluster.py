"""Ray, seen from the driver: start or join it, and choose the profile by what it can hold."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sweeps.node_types import Offer, current_offer, shortfall, trials_that_fit
from sweeps.obstacles import HaltedError
from sweeps.space import Resources, SpaceError
from sweeps.space_file import profiles_of, resolve

if TYPE_CHECKING:
    from typing import Any

CLUSTER, LAPTOP = "cluster", "laptop"
HEAD_RESOURCE = "node:__internal_head__"  # Ray's own: 1 on the head
CAPACITY_LOOK_S = 10.0
DRIVER_SLOTS = 1_000  # the custom resource that trial drivers take; on a cluster it is declared for the head node


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A profile and why it is the one."""

    profile: str
    reason: str


def choose_profile(content: Mapping[str, Any], file: Path, asked: str | None, address: str | None) -> Choice:
    """The profile asked for; else `cluster` where a running Ray cluster can hold a trial of it; else `laptop`."""
    if asked is not None:
        return Choice(profile=asked, reason="asked for with --profile")
    profiles = profiles_of(content)
    if LAPTOP not in profiles:
        if len(profiles) != 1:
            known = ", ".join(profiles) or "the file has none"
            raise SpaceError(f"{file}: profiles: which one? choose with --profile: {known}")
        return Choice(profile=profiles[0], reason="the file's only profile")
    if address is None:
        return Choice(profile=LAPTOP, reason="no running Ray cluster was found")
    if CLUSTER not in profiles:
        return Choice(profile=LAPTOP, reason="the file has no cluster profile")
    needed = resolve(content, file=file, profile=CLUSTER).resources
    missing = shortfall(_offer_at(address), needed)
    if missing is None:
        return Choice(profile=CLUSTER, reason=f"the Ray cluster at {address} can hold a trial")
    return Choice(profile=LAPTOP, reason=f"the Ray cluster at {address} cannot hold a trial of {CLUSTER}: {missing}")


def running_address(asked: str | None) -> str | None:
    """The Ray cluster to join: --address, RAY_ADDRESS, or the one that `ray start` has made this machine a node of.

    A cluster that another program started for itself is not joined: it ends with that program.
    """
    address = asked or os.environ.get("RAY_ADDRESS")
    if address:
        return None if address == "local" else address
    from ray._private.utils import read_ray_address

    address = read_ray_address()
    return address if address and _answers(address) else None


def _answers(address: str) -> bool:
    """Whether something listens there: the note that `ray start` leaves outlives a killed cluster."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=2):
            return True
    except (OSError, ValueError):
        return False


def _offer_at(address: str) -> Offer:
    connect(address, Path(os.devnull))
    return current_offer(grows=True)


@dataclass(frozen=True, kw_only=True)
class Connection:
    """A Ray cluster that this process is connected to. grows: it was there before, and may have an autoscaler."""

    address: str
    dashboard: str | None
    grows: bool = False


def connect(address: str | None, log: Path) -> Connection:
    """Join the cluster at `address`, or start one on this machine. Ray's own messages go to `log`."""
    import ray

    if address is None:
        # Nothing of it can be reached from outside this machine, and the dashboard would ask for a token.
        _stay_on_loopback()
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        # Nobody takes this machine away with a notice, and each watcher is a process that a slot waits for.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "900")  # an autoscaled GPU node boots for minutes
    os.environ.setdefault("RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL", "minor")  # 3.11.4 and 3.11.9 understand each other
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # the ledger is the record
    os.environ.setdefault("TUNE_RESULT_BUFFER_LENGTH", "1")
    # A trial that fails before its first evaluation has no metric to report; Tune would end the whole sweep.
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Tune would swallow Ctrl-C and return as if it were done
    silence_ray(log)
    if not ray.is_initialized():  # choosing the profile may have joined the cluster already
        _initialise(address)
    gcs = ray.get_runtime_context().gcs_address
    return Connection(address=gcs, dashboard=_dashboard_url(), grows=address is not None)


def _stay_on_loopback() -> None:
    """Let the Ray that this process starts listen on 127.0.0.1 alone, as it does on macOS and Windows.

    On Linux it would take the machine's own address, even where it is told 127.0.0.1, and every interface with it.
    """
    from ray._private import ray_constants

    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"  # for the processes that Ray starts
    ray_constants.ENABLE_RAY_CLUSTER = False  # for this one, which has read it already


def _initialise(address: str | None) -> None:
    import ray

    options: dict[str, Any] = {"address": address}
    if address is None:
        options = {
            "address": "local",
            "include_dashboard": True,
            "resources": {"driver": DRIVER_SLOTS},
        }
    try:
        ray.init(**options, log_to_driver=False, logging_level=logging.WARNING, configure_logging=False)
    except Exception as error:  # Ray raises bare ones, and several kinds of its own
        told = " ".join(str(error).split())
        if "Version mismatch" in told:
            raise HaltedError(f"{told}; install the same Ray and Python here and there (requirements.lock)") from error
        what = f"Ray at {address} cannot be joined" if address else "Ray did not start on this machine"
        raise HaltedError(
            f"{what}: {told[:300]}; see to that (a busy machine can be too slow for Ray's "
            "own time limits), then give the same command again"
        ) from error


@contextmanager
def printing_to(log: Path) -> Iterator[None]:
    """Send what is printed in this process to a file: Tune and the raylet write past every logger.

    A rich Console that was made before keeps its own stream.
    """
    with log.open("a", buffering=1) as file, redirect_stdout(file), redirect_stderr(file):
        yield


def silence_ray(log: Path) -> None:
    """Send what Ray and its libraries log in this process to a file instead of the terminal."""
    handler = logging.FileHandler(log)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for name in ("ray", "ray.tune", "ray.train", "ray.data", "optuna", "py.warnings"):
        logger = logging.getLogger(name)
        for old in list(logger.handlers):
            logger.removeHandler(old)
            old.close()  # of an earlier call's file; the terminal's stays open
        logger.addHandler(handler)
        logger.propagate = False
    logging.captureWarnings(True)


def _dashboard_url() -> str | None:
    from ray._private.worker import get_dashboard_url

    url = get_dashboard_url()
    return f"http://{url}" if url and not url.startswith("http") else url


def check_state_api(address: str) -> None:
    """Ray frees a trial's workers through the dashboard's State API: without it a killed trial holds them for ever.

    address: of the cluster; several may run on this machine.
    """
    from ray.util.state import list_nodes

    try:
        list_nodes(address=address, limit=1, timeout=30)
    except Exception as error:
        raise SpaceError(
            f"Ray's dashboard does not answer ({error}); start the cluster with its dashboard on"
        ) from error


def with_gpus_there_are(resources: Resources, *, grows: bool) -> Resources:
    """A profile that asks for no GPU shares those of the cluster, so that a laptop's GPU is used."""
    import ray

    gpus = ray.cluster_resources().get("GPU", 0)
    if resources.gpus_per_worker > 0 or not gpus:
        return resources
    workers = max(1, trials_that_fit(current_offer(grows=grows), resources)) * resources.workers
    return replace(resources, gpus_per_worker=min(1.0, gpus / workers))


def driver_resources() -> dict[str, float]:
    """What a trial's light driver reserves. No CPU, so that slots, which come first, cannot leave it without.

    A slot on the head where there are such; else next to nothing of a resource that every head has.
    """
    import ray

    if ray.cluster_resources().get("driver", 0) >= 1:
        return {"CPU": 0, "driver": 1}
    return {"CPU": 0, HEAD_RESOURCE: 1 / DRIVER_SLOTS}


class Capacity:
    """What the cluster has, in words; asked now and then, because each time is a question to its head."""

    def __init__(self) -> None:
        self._words, self._asked = "", float("-inf")

    def told(self) -> str:
        """'of 16 GPUs and 128 CPUs on 3 nodes'; '' where Ray does not say."""
        if time.monotonic() - self._asked > CAPACITY_LOOK_S:
            self._asked = time.monotonic()
            with suppress(Exception):  # for people to look at: whoever needs Ray tells of what is wrong with it
                self._words = _capacity()
        return self._words


def _capacity() -> str:
    import ray

    has, nodes = ray.cluster_resources(), sum(node["Alive"] for node in ray.nodes())
    amounts = [f"{has[name]:g} {name}s" for name in ("GPU", "CPU") if has.get(name)]
    return f"of {' and '.join(amounts)} on {nodes} {'node' if nodes == 1 else 'nodes'}"
