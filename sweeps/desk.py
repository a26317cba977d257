"""The desk: trials wait at it for a slot, and slots for a trial. A Ray actor of the sweep; there is no Ray in it.

A trial's driver hands its task in and hears what becomes of it. Every worker of a slot asks for the slot's next task by
number, so that all of them get the same one without talking to each other. A task that is under way when its slot is
lost goes back to the head of the queue: its next slot finds the checkpoint.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sweeps.ledger import LOSS, NOTICE

EVALUATED, ENDED, LOST, HALTED = "evaluated", "ended", "lost", "halted"  # what a driver hears of its trial
AGREE_S = 20.0  # how long one worker's failure waits for the same of its fellows
LONGEST_WAIT_S = 30.0  # of one question about news, after which its driver asks again


@dataclass
class _Job:
    task: dict[str, Any]
    losses: int = 0
    news: list[dict[str, Any]] = field(default_factory=list)
    over: bool = False

    def interrupt(self, cause: str, reason: str) -> None:
        """For the ledger, into which the workers that take the task over write it."""
        known = self.task.get("interruptions", ())
        self.task["interruptions"] = [*known, {"cause": cause, "reason": reason, "time": time.time()}]


@dataclass
class _Failure:
    """Ranks that have reported the failure of one task, each with whether it left its fellows in order."""

    ranks: dict[int, bool] = field(default_factory=dict)
    decided: bool = False


@dataclass
class _Slot:
    """A slot that has come to the desk. `number` is that of its latest task, counted from 0 in every `attempt`."""

    attempt: str = ""
    number: int = -1
    job: _Job | None = None
    idle: bool = False
    retired: bool = False
    failure: _Failure = field(default_factory=_Failure)


class Desk:
    """Every method is a coroutine on one event loop: between two awaits nothing else happens.

    idle_s: a slot that has waited so long for a task is sent home; before the first task ever, none is.
    max_losses: slots that a trial may lose and still be tried again.
    """

    def __init__(self, idle_s: float, max_losses: int) -> None:
        self.idle_s, self.max_losses = idle_s, max_losses
        self.jobs: dict[str, _Job] = {}
        self.queue: deque[_Job] = deque()
        self.slots: dict[str, _Slot] = {}
        self.num_served = 0
        self.closed = False
        self.reason_to_halt = ""
        self.changed = asyncio.Condition()

    # What a trial's driver asks.

    async def submit(self, task: dict[str, Any]) -> None:
        """Put a task at the end of the queue. One that is here already goes on: its driver was started again."""
        job = self.jobs.get(task["trial"])
        if job is None or job.over:
            job = self.jobs[task["trial"]] = _Job(task)
            self.queue.append(job)
            self._turn_away()
        await self._tell_all()

    async def news(self, trial: str, seen: int) -> list[dict[str, Any]]:
        """What has happened to a trial after its first `seen` news; waits a while for something to tell."""
        job = self.jobs[trial]
        await self._until(lambda: len(job.news) > seen, LONGEST_WAIT_S)
        return job.news[seen:]

    async def until_end(self, trial: str) -> None:
        """Return when the trial is over. Called under the trial's title, it is how Ray's dashboard shows the trial."""
        job = self.jobs[trial]
        await self._until(lambda: job.over, None)

    # What the workers of a slot ask.

    async def take(self, slot: str, attempt: str, number: int) -> dict[str, Any] | None:
        """The slot's task of that number, the same for every worker; None sends the slot home.

        attempt: a word that all workers of one start of the slot share. After a new start the task that was under way
        comes first.
        """
        state = self.slots.setdefault(slot, _Slot())
        if attempt != state.attempt:
            state.attempt, state.number = attempt, -1 if state.job is None else 0
            state.failure = _Failure()
        if number > state.number:
            await self._next_task(state, number)
        return None if state.retired or state.job is None else state.job.task

    async def _next_task(self, state: _Slot, number: int) -> None:
        """Wait until the slot has its task of that number, or is retired."""
        await self._until(lambda: state.job is None or state.number >= number or state.retired, None)
        if state.number >= number or state.retired:
            return
        state.idle = True
        await self._until(lambda: bool(self.jobs) or self.closed, None)
        served = await self._until(
            lambda: bool(self.queue) or self.closed or state.number >= number or state.retired, self.idle_s
        )
        state.idle = False
        if state.number >= number or state.retired:  # a fellow worker was quicker
            return
        if self.queue and not self.closed:
            state.job, state.number, state.failure = self.queue.popleft(), number, _Failure()
        else:
            state.retired = True
            assert self.closed or not served
        await self._tell_all()

    async def evaluated(self, trial: str, metrics: dict[str, Any]) -> None:
        self.jobs[trial].news.append({"kind": EVALUATED, "metrics": metrics})
        await self._tell_all()

    async def finished(self, slot: str) -> None:
        """The slot's task has ended, well or badly, and the ledger has it."""
        state = self.slots[slot]
        if state.job is not None:
            self._end(state.job, {"kind": ENDED})
            state.job = None
            self.num_served += 1
        await self._tell_all()

    async def handed_back(self, slot: str) -> None:
        """The slot's machine will be taken away, and the slot leaves: its task is saved, lost nothing, comes next."""
        state = self.slots[slot]
        if state.job is not None and not state.job.over:
            state.job.interrupt(NOTICE, "its machine was about to be taken away")
            self.queue.appendleft(state.job)
        state.job, state.retired = None, True
        await self._tell_all()

    async def failed(self, slot: str, number: int, rank: int, world_size: int, orderly: bool) -> tuple[bool, bool]:
        """One worker's word that its task failed; answered when all have said so, or did not in time.

        orderly: it stopped where no fellow can be left waiting for it. Returns whether this worker is the one to record
        the failure, and whether the slot can go on: it cannot when a fellow is stuck in the middle of an exchange.
        """
        state = self.slots[slot]
        failure = state.failure
        if number != state.number or failure.decided:
            return False, False
        failure.ranks[rank] = orderly
        await self._tell_all()
        await self._until(lambda: len(failure.ranks) == world_size or failure.decided, AGREE_S)
        failure.decided = True
        goes_on = len(failure.ranks) == world_size and (world_size == 1 or all(failure.ranks.values()))
        await self._tell_all()
        return rank == min(failure.ranks), goes_on

    # What the pool tells and asks.

    async def left(self, slot: str, reason: str | None) -> None:
        """A slot is gone; with a reason if it was lost. The task under way is tried again, a few times."""
        state = self.slots.pop(slot, None)
        if state is not None and state.job is not None:
            job = state.job
            job.losses += 1
            job.interrupt(LOSS, reason or "its workers went away")
            if job.losses > self.max_losses:
                told = f"its slot was lost {job.losses} times, at last: {reason}"
                self._end(job, {"kind": LOST, "reason": told})
            else:
                self.queue.appendleft(job)
        await self._tell_all()

    async def halt(self, reason: str) -> None:
        """The sweep cannot go on: every trial that is under way, or waits, or will, hears so and stays unfinished."""
        if not self.reason_to_halt:
            self.reason_to_halt = reason
            self.closed = True
            self._turn_away()
            for state in self.slots.values():
                state.job = None
        await self._tell_all()

    async def halted(self) -> str:
        """Why the sweep cannot go on; '' while it can."""
        return self.reason_to_halt

    def _turn_away(self) -> None:
        if self.reason_to_halt:
            self.queue.clear()
            for job in self.jobs.values():
                if not job.over:
                    self._end(job, {"kind": HALTED})

    async def demand(self) -> dict[str, int]:
        """waiting: tasks in the queue. idle: slots that wait. joined: slots that have come. served: tasks ended."""
        return {
            "waiting": len(self.queue),
            "idle": sum(state.idle for state in self.slots.values()),
            "joined": len(self.slots),
            "served": self.num_served,
        }

    async def close(self) -> None:
        """Send every slot home when it has ended what it does."""
        self.closed = True
        await self._tell_all()

    def _end(self, job: _Job, news: dict[str, Any]) -> None:
        job.news.append(news)
        job.over = True

    async def _tell_all(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def _until(self, true: Callable[[], bool], limit_s: float | None) -> bool:
        """Wait for it; False where it did not come true in time."""
        async with self.changed:
            try:
                await asyncio.wait_for(self.changed.wait_for(true), limit_s)
            except TimeoutError:
                return False
        return True
