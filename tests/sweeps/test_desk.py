"""The desk by itself: plain coroutines on one loop, no Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from sweeps import desk as desks
from sweeps.desk import ENDED, EVALUATED, HALTED, LOST, Desk
from sweeps.ledger import LOSS, NOTICE

LIMIT_S = 10.0


def _at_a_desk(scene: Callable[[Desk], Coroutine[Any, Any, None]], idle_s: float = 5.0, max_losses: int = 2) -> None:
    async def play() -> None:
        await asyncio.wait_for(scene(Desk(idle_s, max_losses)), LIMIT_S)

    asyncio.run(play())


def _task(trial: str) -> dict[str, Any]:
    return {"trial": trial}


async def _kinds(desk: Desk, trial: str) -> list[str]:
    return [news["kind"] for news in await desk.news(trial, 0)]


def test_a_trial_is_taken_evaluated_and_ended():
    async def scene(desk: Desk) -> None:
        await desk.submit(_task("a"))
        assert await desk.take("slot", "first", 0) == _task("a")
        await desk.evaluated("a", {"fid": 3.0})
        assert await desk.news("a", 0) == [{"kind": EVALUATED, "metrics": {"fid": 3.0}}]
        await desk.finished("slot")
        assert await _kinds(desk, "a") == [EVALUATED, ENDED]
        assert (await desk.demand())["served"] == 1

    _at_a_desk(scene)


def test_tasks_are_taken_in_the_order_in_which_they_came_and_each_once():
    async def scene(desk: Desk) -> None:
        for trial in "abcd":
            await desk.submit(_task(trial))
        await desk.submit(_task("a"))  # its driver was started again
        taken = [await desk.take(slot, "x", 0) for slot in ("one", "two")]
        await desk.finished("one")
        taken.append(await desk.take("one", "x", 1))
        await desk.finished("two")
        taken.append(await desk.take("two", "x", 1))
        assert taken == [_task(trial) for trial in "abcd"]
        assert (await desk.demand())["waiting"] == 0

    _at_a_desk(scene)


def test_every_worker_of_a_slot_gets_the_same_task_whoever_asks_first():
    async def scene(desk: Desk) -> None:
        asked = [asyncio.create_task(desk.take("slot", "x", 0)) for _ in range(3)]
        await asyncio.sleep(0)
        await desk.submit(_task("a"))
        await desk.submit(_task("b"))
        assert await asyncio.gather(*asked) == [_task("a")] * 3
        early = asyncio.create_task(desk.take("slot", "x", 1))  # a fellow that is ahead of rank 0
        await asyncio.sleep(0.05)
        assert not early.done()
        await desk.finished("slot")
        assert await early == _task("b")
        assert await desk.take("slot", "x", 1) == _task("b")

    _at_a_desk(scene)


def test_a_slot_that_waits_too_long_goes_home_with_all_its_workers():
    async def scene(desk: Desk) -> None:
        await desk.submit(_task("first"))
        assert await desk.take("other", "x", 0) == _task("first")
        assert await asyncio.gather(desk.take("slot", "x", 0), desk.take("slot", "x", 0)) == [None, None]
        await desk.submit(_task("a"))
        assert await desk.take("slot", "x", 0) is None  # a late fellow
        assert await desk.demand() == {"waiting": 1, "idle": 0, "joined": 2, "served": 0}
        await desk.left("slot", None)
        assert (await desk.demand())["joined"] == 1

    _at_a_desk(scene, idle_s=0.05)


def test_before_the_first_trial_ever_a_slot_waits_for_it():
    async def scene(desk: Desk) -> None:
        waiting = asyncio.create_task(desk.take("slot", "x", 0))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        await desk.submit(_task("a"))
        assert await waiting == _task("a")

    _at_a_desk(scene, idle_s=0.05)


def test_a_trial_can_be_waited_for():
    async def scene(desk: Desk) -> None:
        await desk.submit(_task("a"))
        waiting = asyncio.create_task(desk.until_end("a"))
        await desk.take("slot", "x", 0)
        assert not waiting.done()
        await desk.finished("slot")
        await waiting

    _at_a_desk(scene)


def test_closing_sends_waiting_slots_home():
    async def scene(desk: Desk) -> None:
        waiting = asyncio.create_task(desk.take("slot", "x", 0))
        await asyncio.sleep(0.01)
        assert (await desk.demand())["idle"] == 1
        await desk.close()
        assert await waiting is None

    _at_a_desk(scene)


def test_the_trial_of_a_lost_slot_comes_first_and_is_given_up_after_one_loss_too_many():
    async def scene(desk: Desk) -> None:
        await desk.submit(_task("a"))
        await desk.submit(_task("b"))
        told: list[tuple[str, str]] = []
        for loss in range(4):
            task = await desk.take(f"slot-{loss}", "x", 0)
            assert task is not None
            assert task["trial"] == "a"
            assert [(one["cause"], one["reason"]) for one in task.get("interruptions", [])] == told
            await desk.left(f"slot-{loss}", "killed by signal 9")
            told.append((LOSS, "killed by signal 9"))
        news = await desk.news("a", 0)
        assert [item["kind"] for item in news] == [LOST]
        assert "4 times" in news[0]["reason"]
        assert "killed by signal 9" in news[0]["reason"]
        assert await desk.take("slot", "x", 0) == _task("b")

    _at_a_desk(scene, max_losses=3)


def test_the_trial_of_a_slot_whose_machine_is_taken_away_comes_first_and_has_lost_nothing():
    async def scene(desk: Desk) -> None:
        for trial in "ab":
            await desk.submit(_task(trial))
        for number in range(5):
            slot = f"slot{number}"
            task = await desk.take(slot, "x", 0)
            assert task is not None
            assert task["trial"] == "a"
            await desk.handed_back(slot)
            assert await desk.take(slot, "x", 1) is None, "it is not to take another one"
            await desk.left(slot, None)
        task = await desk.take("last", "x", 0)
        assert task is not None
        assert [one["cause"] for one in task["interruptions"]] == [NOTICE] * 5
        await desk.finished("last")
        assert await _kinds(desk, "a") == [ENDED]

    _at_a_desk(scene)


def test_a_slot_whose_workers_are_started_again_gets_its_task_again():
    async def scene(desk: Desk) -> None:
        await desk.submit(_task("a"))
        await desk.submit(_task("b"))
        assert await desk.take("slot", "before", 0) == _task("a")
        await desk.finished("slot")
        assert await desk.take("slot", "before", 1) == _task("b")
        assert await desk.take("slot", "after", 0) == _task("b")
        assert await desk.take("slot", "after", 0) == _task("b")

    _at_a_desk(scene)


def test_a_failure_of_one_worker_alone_is_recorded_by_it_and_ends_the_slot(monkeypatch):
    monkeypatch.setattr(desks, "AGREE_S", 0.05)

    async def scene(desk: Desk) -> None:
        await desk.submit(_task("a"))
        await desk.take("slot", "x", 0)
        assert await desk.failed("slot", 0, 1, 2, True) == (True, False)
        assert await desk.failed("slot", 0, 0, 2, True) == (False, False)  # too late

    _at_a_desk(scene)


@pytest.mark.parametrize(("orderly", "goes_on"), [((True, True), True), ((True, False), False)])
def test_a_failure_of_all_workers_is_recorded_once(orderly, goes_on):
    async def scene(desk: Desk) -> None:
        await desk.submit(_task("a"))
        await desk.take("slot", "x", 0)
        answers = await asyncio.gather(*(desk.failed("slot", 0, rank, 2, orderly[rank]) for rank in (0, 1)))
        assert answers == [(True, goes_on), (False, goes_on)]

    _at_a_desk(scene)


def test_a_lone_worker_goes_on_after_any_failure():
    async def scene(desk: Desk) -> None:
        await desk.submit(_task("a"))
        await desk.submit(_task("b"))
        await desk.take("slot", "x", 0)
        assert await desk.failed("slot", 0, 0, 1, False) == (True, True)
        await desk.finished("slot")
        assert await desk.take("slot", "x", 1) == _task("b")
        assert await desk.failed("slot", 1, 0, 1, False) == (True, True)

    _at_a_desk(scene)


def test_a_halted_sweep_leaves_every_trial_unfinished_and_sends_its_slots_home():
    async def scene(desk: Desk) -> None:
        assert await desk.halted() == ""
        await desk.submit(_task("under way"))
        assert await desk.take("slot", "x", 0) == _task("under way")
        await desk.submit(_task("waits"))
        await desk.halt("no space left")
        await desk.halt("and another thing")
        assert await desk.halted() == "no space left"
        for trial in ("under way", "waits"):
            assert await desk.news(trial, 0) == [{"kind": HALTED}]
        await desk.submit(_task("too late"))
        assert await desk.news("too late", 0) == [{"kind": HALTED}]
        await desk.finished("slot")  # a trial that came to its end all the same
        assert await desk.take("slot", "x", 1) is None
        await desk.left("slot", "killed by signal 9")
        assert (await desk.demand())["waiting"] == 0

    _at_a_desk(scene)
