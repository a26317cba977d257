"""The slots of a sweep: started as trials wait for them, replaced when lost, let go when nothing waits.

The rest of a sweep needs two names: `open_slots` around it, and `in_a_slot` for a trial.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray.tune import Stopper

from sweeps.desk import ENDED, EVALUATED, HALTED, LOST, Desk
from sweeps.orphans import give_orphans_back
from sweeps.slot import SlotBrokenError, SlotSettings, run_slot
from sweeps.storage import SweepPaths
from sweeps.task import Task

if TYPE_CHECKING:
    from sweeps.space import Resources

IDLE_S = 20.0  # a slot without a task for so long goes home, and an idle node can go
LOOK_S = 0.5  # how often the pool looks at the desk
ORPHANS_S = 5.0  # how often, once a slot was lost, for what it has left behind
MOST_FALSE_STARTS = 3  # slots in a row that were lost without serving a trial
CLOSE_S = 10.0  # how long slots are given to go home at the end
ANSWER_S = 30.0  # how long the desk is given to say whether the sweep is halted

logger = logging.getLogger("ray.sweeps")  # where Ray's own messages go


class TrialLostError(RuntimeError):
    """No slot could run the trial to an end."""


@contextmanager
def open_slots(
    paths: SweepPaths, cache: Path, resources: Resources, address: str, *, most: int | Callable[[], int], waiting: int
) -> Iterator[str]:
    """Hold at most `most` slots while the body runs; yields the name that `in_a_slot` needs.

    most: asked again and again where it is a function.
    waiting: trials that are about to come; slots for them start at once.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    name = f"desk-{paths.root.name}-{os.getpid()}"
    here = ray.get_runtime_context().get_node_id()
    # Beside the driver, with which it ends: a spot node is no place for the queue.
    node = NodeAffinitySchedulingStrategy(here, soft=False)
    actor: Any = ray.remote(Desk)
    # The questions of slots and drivers would bury the trials in the dashboard's table of tasks.
    options = actor.options(num_cpus=0, name=name, scheduling_strategy=node, enable_task_events=False)
    desk = options.remote(IDLE_S, resources.max_losses)
    settings = SlotSettings(desk=name, resources=resources, storage=str(paths.slots), cache=str(cache), address=address)
    room = (lambda: most) if isinstance(most, int) else most
    pool = _Pool(desk=desk, settings=settings, most=room)
    pool.open(min(room(), waiting))
    try:
        yield name
    except BaseException:
        pool.closing.set()  # nobody waits for slots in the middle of a trial: they end with Ray
        raise
    pool.close()
    ray.kill(desk)


def in_a_slot(desk: str, task: Task) -> Iterator[dict[str, Any]]:
    """Hand a trial to a free slot; yields the metrics of its evaluations until it ends. Raises TrialLostError.

    Where the sweep is halted it just ends, and leaves the trial unfinished.
    """
    import ray

    actor: Any = ray.get_actor(desk)
    _answer(actor.submit.remote(task.plain()))
    _ = actor.until_end.options(name=task.shown, enable_task_events=True).remote(task.trial)
    seen = 0
    while True:
        for news in _answer(actor.news.remote(task.trial, seen)):
            seen += 1
            if news["kind"] == EVALUATED:
                yield news["metrics"]
            elif news["kind"] == LOST:
                raise TrialLostError(news["reason"])
            elif news["kind"] in (ENDED, HALTED):
                return


def halted_by(desk: str) -> str:
    """Why the sweep cannot go on, in one line; '' while it can."""
    import ray
    from ray.exceptions import RayError

    try:
        actor: Any = ray.get_actor(desk)
        return str(ray.get(actor.halted.remote(), timeout=ANSWER_S))
    except (RayError, ValueError) as error:  # Ray says ValueError of an actor that is no more
        return f"the sweep's desk is gone ({' '.join(str(error).split())[:200]}); the same command goes on"


class WhenHalted(Stopper):
    """Lets Tune start no trial after the sweep is halted. It has no say in anything else."""

    def __init__(self, desk: str) -> None:
        self.desk, self.asked, self.is_halted = desk, 0.0, False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        if not self.is_halted and time.monotonic() - self.asked > LOOK_S:
            self.is_halted, self.asked = bool(halted_by(self.desk)), time.monotonic()
        return self.is_halted


def _answer(call: Any) -> Any:
    """What the desk answers."""
    import ray

    return ray.get(call)


def _why(error: Exception) -> str:
    """One line of why a slot is lost: what a worker has met, before what Ray Train tells around it."""
    failures: Mapping[int, Exception] = getattr(error, "worker_failures", {})
    told = next((failure for failure in failures.values() if isinstance(failure, SlotBrokenError)), error)
    told = getattr(told, "controller_failure", told)
    told = getattr(told, "cause", None) or told  # a remote error carries its traceback as text before it
    return f"{type(told).__name__}: {' '.join(str(told).split())[:400]}"


@dataclass
class _Pool:
    """Keeps as many slots as there is work for. One thread looks after them, another waits for each."""

    desk: Any
    settings: SlotSettings
    most: Callable[[], int]
    live: dict[str, threading.Thread] = field(default_factory=dict)
    num_started: int = 0
    false_starts: int = 0
    looked_for_orphans: float | None = None  # when; None while no slot was lost
    closing: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def open(self, num_slots: int) -> None:
        for _ in range(num_slots):
            self._start_slot()
        self.keeper = threading.Thread(target=self._keep, daemon=True, name="slots")
        self.keeper.start()

    def _keep(self) -> None:
        while not self.closing.wait(LOOK_S):
            try:
                self._give_orphans_back()
                demand, most = _answer(self.desk.demand.remote()), self.most()
            except Exception:  # the cluster is going down, and the driver knows
                return
            with self.lock:
                starting = len(self.live) - demand["joined"]
                wanted = min(demand["waiting"] - demand["idle"] - starting, most - len(self.live))
            for _ in range(max(0, wanted)):
                self._start_slot()

    def _give_orphans_back(self) -> None:
        """Again and again: the last process of a lost slot may end a while after the slot."""
        now = time.monotonic()
        if self.looked_for_orphans is not None and now - self.looked_for_orphans > ORPHANS_S:
            self.looked_for_orphans = now
            give_orphans_back()

    def _start_slot(self) -> None:
        with self.lock:
            name = f"slot-{os.getpid()}-{self.num_started}"
            self.num_started += 1
            # A daemon: a driver that is told to end does not wait for its slots.
            thread = threading.Thread(target=self._run, args=(name,), daemon=True, name=name)
            self.live[name] = thread
        thread.start()

    def _run(self, name: str) -> None:
        """One slot from start to end."""
        reason, served = None, 0
        try:
            served = _answer(self.desk.demand.remote())["served"]
            run_slot(name, self.settings)
        except Exception as error:
            if self.closing.is_set():
                return
            reason = _why(error)
            self.looked_for_orphans = self.looked_for_orphans or time.monotonic()
            logger.warning("slot %s is lost: %s", name, reason)
        try:
            _answer(self.desk.left.remote(name, reason))
            in_vain = reason is not None and _answer(self.desk.demand.remote())["served"] == served
            with self.lock:
                self.live.pop(name)
                self.false_starts = self.false_starts + 1 if in_vain else 0
                hopeless = self.false_starts >= MOST_FALSE_STARTS and not self.live
            if hopeless:
                _answer(self.desk.halt.remote(f"no slot could be kept running: {reason}"))
        except Exception:
            logger.exception("slot %s could not be taken off the desk", name)

    def close(self) -> None:
        """Send the slots home and wait a little for them."""
        self.closing.set()
        self.keeper.join()
        _answer(self.desk.close.remote())
        for thread in list(self.live.values()):
            thread.join(CLOSE_S)
