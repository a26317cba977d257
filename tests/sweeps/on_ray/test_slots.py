"""Real slots on a real, local Ray, and every failure that a slot is to survive."""

from __future__ import annotations

import os
import re
import shutil
import signal
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.processes import Processes
from prx_model.kept import Kept
from sweeps import cluster, cluster_preflight
from sweeps.ledger import BASELINE, CANDIDATE, FAILED, FINISHED, LOSS, Ledger
from sweeps.orphans import give_orphans_back
from sweeps.preparation import prepare_here, prepare_on_a_node
from sweeps.slots import TrialLostError, halted_by, in_a_slot, open_slots
from sweeps.space import Resources, SpaceError
from sweeps.storage import SweepPaths
from sweeps.sweep import Sweep
from sweeps.task import Task
from sweeps.worker import Place, train_trial
from tests.sweeps.small_disks import fill, small_disk
from tests.sweeps.trials import DIVERGING, TOO_LARGE, numbers, planned_task, smoke_space

pytestmark = pytest.mark.slow
LIMIT_S = 240


@pytest.fixture
def paths(tmp_path) -> SweepPaths:
    paths = SweepPaths(tmp_path / "sweep")
    paths.create()
    return paths


def _resources(workers: int = 1, trials_per_slot: int = 50) -> Resources:
    return Resources(workers=workers, cpus_per_worker=1, concurrent_trials=1, trials_per_slot=trials_per_slot)


class _Trial(threading.Thread):
    """What a trial's driver does: hand it over and listen."""

    def __init__(self, name: str, task: Task) -> None:
        super().__init__(daemon=True)
        self.desk, self.task = name, task
        self.heard: list[dict[str, Any]] = []
        self.lost: str | None = None
        self.start()

    def run(self) -> None:
        try:
            for metrics in in_a_slot(self.desk, self.task):
                self.heard.append(metrics)
        except TrialLostError as lost:
            self.lost = str(lost)

    def ended(self) -> _Trial:
        self.join(LIMIT_S)
        assert not self.is_alive(), f"{self.task.trial} has not ended in {LIMIT_S} s"
        return self


def _listening() -> set[str]:
    """The addresses, as the kernel writes them, that what this process has started listens on."""
    sockets = {}
    for table in ("tcp", "tcp6"):
        for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = row.split()
            if fields[3] == "0A":  # it listens
                sockets[f"socket:[{fields[9]}]"] = fields[1].partition(":")[0]
    found = set()
    for process in Processes(os.getpid()).alive():
        for link in Path(f"/proc/{process}/fd").glob("*"):
            with suppress(OSError):  # closed by now
                found.add(sockets.get(os.readlink(link), ""))
    return found - {""}


def test_no_other_machine_reaches_a_ray_that_is_started_here(address):
    assert address.startswith("127.0.0.1:")
    assert _listening() == {"0100007F", "0000000000000000FFFF00000100007F"}  # 127.0.0.1, and the same as IPv6


def _shown_tasks(trial: str) -> list[str]:
    """The states of the tasks that Ray's dashboard shows under a trial's name; it learns of them a second later."""
    import ray
    from ray.util.state import list_tasks

    here = ray.get_runtime_context().gcs_address  # other tests have a Ray of their own, on the same machine
    deadline = time.monotonic() + LIMIT_S
    while True:
        states = [str(task.state) for task in list_tasks(address=here, filters=[("name", "=", trial)])]
        if states == ["FINISHED"] or time.monotonic() > deadline:
            return states
        time.sleep(0.5)


def _processes(paths: SweepPaths, trial: str, rank: int = 0) -> list[int]:
    """The process of each start of a trial on a rank, by its log."""
    log = paths.trial_log(trial)
    return [int(p) for p in re.findall(rf"rank {rank} in process (\d+)", log.read_text() if log.exists() else "")]


def _wait_for_first_evaluation(trial: _Trial) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not trial.heard:
        assert time.monotonic() < deadline, "no evaluation was heard of"
        time.sleep(0.02)


def _kill_after_first_evaluation(trial: _Trial, paths: SweepPaths, rank: int = 0) -> None:
    _wait_for_first_evaluation(trial)
    os.kill(_processes(paths, trial.task.trial, rank)[-1], signal.SIGKILL)


def _undisturbed(tmp_path: Path, task: Task) -> list[tuple[Any, ...]]:
    """The numbers of a trial that ran alone, in this process."""
    paths = SweepPaths(tmp_path / "undisturbed")
    paths.create()
    alone = planned_task(paths, Path(task.cache), task.trial, task.role)
    alone = Task(**{**alone.plain(), "config": task.config})
    torch.set_num_threads(1)
    list(train_trial(alone, Place(device=torch.device("cpu")), Kept()))
    return numbers(paths, task.trial)


LONG = {"training": {"steps": 60, "eval_every_steps": 15}}


def test_one_slot_outlives_failed_trials_and_is_replaced_when_it_dies(address, cache, paths, tmp_path):
    first = planned_task(paths, cache, "candidate-000", CANDIDATE)
    diverging = planned_task(paths, cache, "candidate-001", CANDIDATE, change=DIVERGING)
    too_large = planned_task(paths, cache, "candidate-002", CANDIDATE, change=TOO_LARGE)
    again = planned_task(paths, cache, "candidate-003", CANDIDATE)
    killed = planned_task(paths, cache, "candidate-004", CANDIDATE, change=LONG)
    after = planned_task(paths, cache, "candidate-005", CANDIDATE)
    with open_slots(paths, cache, _resources(), address, most=1, waiting=1) as name:
        for task in (first, diverging, too_large, again):
            assert _Trial(name, task).ended().lost is None
        assert _shown_tasks("candidate-003") == ["FINISHED"]
        last = _Trial(name, killed)
        _kill_after_first_evaluation(last, paths)
        assert last.ended().lost is None
        assert _Trial(name, after).ended().lost is None

    records = {record.trial: record for record in Ledger(paths).records()}
    outcomes = [records[f"candidate-{i:03d}"].outcome for i in range(6)]
    assert outcomes == [FINISHED, FAILED, FAILED, FINISHED, FINISHED, FINISHED]
    assert "diverged" in records["candidate-001"].end.reason
    assert "out of memory" in records["candidate-002"].end.reason
    # One process for all that came before the kill, another for all that came after.
    before = {process for i in (0, 1, 2, 3) for process in _processes(paths, f"candidate-{i:03d}")}
    assert before == {_processes(paths, "candidate-004")[0]}
    assert len(_processes(paths, "candidate-004")) == 2
    assert _processes(paths, "candidate-005") == [_processes(paths, "candidate-004")[1]]
    # The same numbers as in a process of its own: after others, and across the kill.
    assert numbers(paths, "candidate-003") == numbers(paths, "candidate-000") == _undisturbed(tmp_path / "a", first)
    assert numbers(paths, "candidate-004") == _undisturbed(tmp_path / "b", killed)
    assert records["candidate-004"].evaluations[-1].resumed_from > 0
    [loss] = records["candidate-004"].interruptions
    assert (loss.cause, loss.step) == (LOSS, records["candidate-004"].evaluations[-1].resumed_from)
    assert [metrics["step"] for metrics in last.heard][-1] == 60


def test_a_slot_of_two_workers_takes_trial_after_trial_and_is_replaced_as_a_whole(address, cache, paths):
    first = planned_task(paths, cache, "candidate-000", CANDIDATE, change=LONG)
    diverging = planned_task(paths, cache, "candidate-001", CANDIDATE, change=DIVERGING)
    second = planned_task(paths, cache, "candidate-002", CANDIDATE, change=LONG)
    baseline = planned_task(paths, cache, "baseline-seed0", BASELINE)
    with open_slots(paths, cache, _resources(workers=2), address, most=1, waiting=1) as name:
        assert _Trial(name, first).ended().lost is None
        assert _Trial(name, diverging).ended().lost is None
        killed = _Trial(name, second)
        _kill_after_first_evaluation(killed, paths, rank=1)
        assert killed.ended().lost is None
        assert _Trial(name, baseline).ended().lost is None

    outcome = {record.trial: record.outcome for record in Ledger(paths).records()}
    assert outcome == {
        "candidate-000": FINISHED,
        "candidate-001": FAILED,
        "candidate-002": FINISHED,
        "baseline-seed0": FINISHED,
    }
    for rank in (0, 1):
        one, other = _processes(paths, "candidate-002", rank)
        assert _processes(paths, "candidate-000", rank) == [one]
        assert _processes(paths, "baseline-seed0", rank) == [other]
    # Warm or cold, resumed or not: the same two workers' numbers.
    assert numbers(paths, "candidate-002") == numbers(paths, "candidate-000")


def test_slots_are_renewed_and_neither_their_number_nor_the_order_changes_a_number(address, cache, paths, tmp_path):
    changes = [{"repa": {"weight": weight}} for weight in (0.5, 1.0, 2.0, 0.5, 1.0)]
    tasks = [
        planned_task(paths, cache, f"candidate-{i:03d}", CANDIDATE, change=change) for i, change in enumerate(changes)
    ]
    resources = replace(_resources(trials_per_slot=2), concurrent_trials=2)
    with open_slots(paths, cache, resources, address, most=2, waiting=5) as name:
        for trial in [_Trial(name, task) for task in reversed(tasks)]:
            assert trial.ended().lost is None
    processes = Counter(_processes(paths, task.trial)[0] for task in tasks)
    assert len(processes) >= 3
    assert max(processes.values()) <= 2
    for task in tasks[:3]:
        assert numbers(paths, task.trial) == _undisturbed(tmp_path / task.trial, task)
    assert numbers(paths, "candidate-003") == numbers(paths, "candidate-000") != numbers(paths, "candidate-001")
    assert numbers(paths, "candidate-004") == numbers(paths, "candidate-001")


def test_a_full_disk_halts_the_sweep_and_fails_no_trial(address, cache, tmp_path):
    with small_disk(tmp_path / "disk", 16 * 1024) as disk:
        paths = SweepPaths(disk / "sweep")
        paths.create()
        task = planned_task(paths, cache, "candidate-000", CANDIDATE, change=LONG)
        waiting = planned_task(paths, cache, "candidate-001", CANDIDATE)
        with open_slots(paths, cache, _resources(), address, most=1, waiting=1) as name:
            assert halted_by(name) == ""
            trials = [_Trial(name, task)]
            _wait_for_first_evaluation(trials[0])
            trials.append(_Trial(name, waiting))  # now, because threads would hand theirs in in any order
            ballast = fill(disk)
            for trial in trials:
                assert trial.ended().lost is None
            reason = halted_by(name)
        assert reason.startswith(str(disk))
        assert reason.endswith("No space left on device; free some space there, then the same command goes on")
        assert [record.outcome for record in Ledger(paths).records()] == [None, None]
        assert not Ledger(paths).record("candidate-001").evaluations

        ballast.unlink()
        with open_slots(paths, cache, _resources(), address, most=1, waiting=2) as name:
            for trial in [_Trial(name, task), _Trial(name, waiting)]:
                assert trial.ended().lost is None
        assert [record.outcome for record in Ledger(paths).records()] == [FINISHED, FINISHED]
        assert numbers(paths, "candidate-000") == _undisturbed(tmp_path / "alone", task)


def test_an_idle_slot_goes_home_and_comes_back_when_a_trial_does(address, cache, paths, monkeypatch):
    import ray

    monkeypatch.setattr("sweeps.slots.IDLE_S", 1.0)
    with open_slots(paths, cache, _resources(), address, most=1, waiting=1) as name:
        assert _Trial(name, planned_task(paths, cache, "candidate-000", CANDIDATE)).ended().lost is None
        deadline = time.monotonic() + LIMIT_S
        while ray.get(ray.get_actor(name).demand.remote())["joined"]:
            assert time.monotonic() < deadline, "the idle slot stays"
            time.sleep(0.2)
        _wait_for_cpus(2.0)  # what it reserved is free: an idle node could go
        assert _Trial(name, planned_task(paths, cache, "candidate-001", CANDIDATE)).ended().lost is None
    assert _processes(paths, "candidate-000") != _processes(paths, "candidate-001")


def test_what_a_dead_controller_has_reserved_is_given_back(address):
    import ray
    from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group

    @ray.remote(num_cpus=0)
    class Controller:
        def reserve(self) -> str:
            group = placement_group([{"CPU": 0.1}])
            group.wait(LIMIT_S)
            return group.id.hex()

    def states() -> list[str]:
        return [placement_group_table()[group]["state"] for group in (left, kept, own.id.hex())]

    dies, lives, own = Controller.remote(), Controller.remote(), placement_group([{"CPU": 0.1}])
    left = ray.get(dies.reserve.remote())
    ray.kill(dies)
    kept = ray.get(lives.reserve.remote())
    deadline = time.monotonic() + 60
    while not give_orphans_back():
        assert states()[0] == "CREATED", "Ray gives it back by itself: sweeps.orphans can go"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert states() == ["REMOVED", "CREATED", "CREATED"]
    assert give_orphans_back() == 0
    ray.kill(lives)
    while not give_orphans_back():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    remove_placement_group(own)


def test_a_trial_that_kills_every_slot_is_lost_with_the_reason(address, cache, paths):
    """The kernel's out-of-memory killer, seen from here: the worker is gone, whatever takes the trial."""
    resources = replace(_resources(), max_losses=1)
    with open_slots(paths, cache, resources, address, most=1, waiting=1) as name:
        trial, killed = _Trial(name, planned_task(paths, cache, "candidate-000", CANDIDATE, change=LONG)), []
        deadline = time.monotonic() + LIMIT_S
        while trial.is_alive() and time.monotonic() < deadline:
            for process in _processes(paths, "candidate-000"):
                if process not in killed:
                    killed.append(process)
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.02)
        assert len(killed) == resources.max_losses + 1
        assert f"{len(killed)} times" in (trial.ended().lost or "")


def _wait_for_cpus(count: float) -> None:
    import ray

    deadline = time.monotonic() + LIMIT_S
    while ray.available_resources().get("CPU", 0) < count:
        assert time.monotonic() < deadline, f"{count} CPUs are not free again"
        time.sleep(0.2)


def test_a_node_prepares_what_the_driver_would(address, cache, tmp_path):
    told: list[tuple[str, int, int]] = []
    here, there = tmp_path / "here", tmp_path / "there"
    space = smoke_space()
    shutil.copytree(cache, here)
    prepare_here(Sweep(space=space, paths=SweepPaths(tmp_path), cache=here), lambda *_: None)
    sweep = Sweep(space=space, paths=SweepPaths(tmp_path), cache=there)
    prepare_on_a_node(sweep, _resources(), lambda *progress: told.append(progress))
    assert _files(there) == _files(here)
    assert told
    missing = replace(space, base={**space.base, "data": {"source": "store", "path": str(tmp_path / "nothing")}})
    with pytest.raises(SpaceError, match=r"^preparing data and teachers in .*: .*nothing") as caught:
        prepare_on_a_node(replace(sweep, space=missing), _resources(), lambda *_: None)
    assert "\n" not in str(caught.value)


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_preflight_asks_nobody_on_one_machine_and_a_worker_elsewhere(address, paths, monkeypatch):
    import ray

    space, connection = smoke_space(), cluster.Connection(address=address, dashboard=None)
    with monkeypatch.context() as patch:
        patch.setattr(ray, "remote", lambda *_: pytest.fail("a task was started"))
        cluster_preflight.check_cluster(space, paths, connection)
        too_large = replace(space, resources=Resources(workers=8, placement="strict_pack"))
        with pytest.raises(SpaceError, match=r"^a trial needs 8 CPUs on one node; .* at most \d+; lower"):
            cluster_preflight.check_cluster(too_large, paths, connection)
    # As if this node were another one: a real worker answers.
    here = ray.get_runtime_context().get_node_id()
    assert cluster_preflight.problems_of(space, paths, [here]) == []
    # A node that is lost while it is asked is in nobody's way; where none is left, one that can take a worker is asked.
    lost_node = "0" * len(here)
    assert cluster_preflight.problems_of(space, paths, [here, lost_node]) == []
    assert cluster_preflight.problems_of(space, paths, [lost_node]) == []
    assert not [path for path in paths.root.iterdir() if path.name.startswith(".seen")]
    lost = replace(space, base={**space.base, "data": {**space.base["data"], "source": "store", "path": "/nothing"}})
    for nodes in ([here], [lost_node]):
        (line,) = cluster_preflight.problems_of(lost, paths, nodes)
        assert "data set /nothing: " in line
