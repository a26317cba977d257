from __future__ import annotations

import logging
import multiprocessing
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from prx_model.training import object_storage
from prx_model.training.checkpoints import KEPT_IN_BUCKET, CheckpointError, Checkpoints
from prx_model.training.distributed import DDP, FSDP, Workers, joined_workers
from prx_model.training.state import TrainState
from tests.prx_model.training_runs import FAST, objective_of
from tests.prx_model.two_processes import in_two_processes
from tests.s3_server import file_system

SIZE = 200_000


def _content(step: int) -> bytes:
    """What a checkpoint of a step holds: enough for a kill to fall into the middle of it."""
    return random.Random(step).randbytes(SIZE)


def _write(step: int):
    def write(folder: Path) -> None:
        from prx_model.data.durable import write_file

        for name in ("a.bin", "b.bin"):
            write_file(folder / name, lambda file: file.write(_content(step)))

    return write


def _is_whole(folder: Path) -> bool:
    step = int(folder.name.split("_")[1].split("-")[0])
    return all((folder / name).read_bytes() == _content(step) for name in ("a.bin", "b.bin"))


def _of(location: str | Path, scratch: Path) -> Checkpoints:
    return Checkpoints(location, Workers(), scratch=scratch)


@pytest.fixture(params=["folder", "s3"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    place = str(tmp_path) if request.param == "folder" else request.getfixturevalue("s3_bucket")
    return f"{place}/runs/one"


def test_the_newest_is_found_and_older_ones_go(location, tmp_path):
    checkpoints = _of(location, tmp_path / "scratch")
    assert checkpoints.latest() is None
    for step in (5, 40, 300):
        checkpoints.save(step, _write(step))
        latest = _of(location, tmp_path / "other node").latest()
        assert latest is not None
        assert latest.name.startswith(f"checkpoint_{step:09d}")
        assert _is_whole(latest)
    kept = _names(location)
    assert kept == ["checkpoint_000000040", "checkpoint_000000300"][-(KEPT_IN_BUCKET if "://" in location else 1) :]
    assert not list((tmp_path / "scratch").glob("outbox*"))


def _names(location: str, files: Any = None) -> list[str]:
    if location.startswith("s3://"):
        return sorted(path.split("/")[-1] for path in (files or file_system()).ls(location, refresh=True))
    return sorted(path.name for path in Path(location).iterdir())


def test_a_checkpoint_of_an_earlier_version_is_found(tmp_path):
    (tmp_path / "checkpoint_000000400").mkdir()
    (tmp_path / "checkpoint_new").mkdir()
    assert Checkpoints(str(tmp_path), Workers()).latest() == tmp_path / "checkpoint_000000400"


def test_a_failed_save_leaves_the_one_before_and_says_why_in_one_line(location, tmp_path):
    checkpoints = _of(location, tmp_path / "scratch")
    checkpoints.save(1, _write(1))
    before = _names(location)

    def fail(folder: Path) -> None:
        _write(2)(folder)
        raise OSError(28, "No space\nleft on device")

    with pytest.raises(CheckpointError, match=r"checkpoints in .*: OSError: \[Errno 28\] No space left on device$"):
        checkpoints.save(2, fail)
    assert _names(location) == before
    latest = checkpoints.latest()
    assert latest is not None
    assert _is_whole(latest)


def test_an_address_needs_a_place_for_what_comes_and_goes():
    with pytest.raises(ValueError, match=r"^scratch: got None, checkpoints at s3://bucket/run need"):
        Checkpoints("s3://bucket/run", Workers())


# -- object storage that is not as it was left


@pytest.fixture
def bucket(s3_bucket: str, tmp_path: Path) -> tuple[str, Any, str]:
    """Two checkpoints at an address: the address, its file system, and the folder of the newer one."""
    location = f"{s3_bucket}/run"
    for step in (1, 2):
        _of(location, tmp_path / "scratch").save(step, _write(step))
    return location, file_system(), f"{location}/checkpoint_000000002"


DAMAGES = {
    "truncated": (lambda files, at: files.pipe_file(f"{at}/a.bin", _content(2)[:-1]), "199999 bytes, 200000 were"),
    "changed": (lambda files, at: files.pipe_file(f"{at}/b.bin", b"x" + _content(2)[1:]), "b.bin has another sha256"),
    "missing": (lambda files, at: files.rm_file(f"{at}/a.bin"), "a.bin is not there"),
    "no list": (lambda files, at: files.rm_file(f"{at}/complete.json"), ""),
    "torn list": (lambda files, at: files.pipe_file(f"{at}/complete.json", b'{"files": ['), "complete.json cannot be"),
    "other list": (lambda files, at: files.pipe_file(f"{at}/complete.json", b'{"files": [1]}'), "cannot be read"),
    "list that leads away": (
        lambda files, at: files.pipe_file(
            f"{at}/complete.json", b'{"files": [{"name": "../../stolen", "bytes": 1, "sha256": "0"}]}'
        ),
        "lists impossible files",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(bucket, tmp_path, caplog, damage):
    location, files, newest = bucket
    apply, said = DAMAGES[damage]
    apply(files, newest)
    with caplog.at_level(logging.WARNING):
        latest = _of(location, tmp_path / "another node").latest()
    assert latest is not None
    assert latest.name.startswith("checkpoint_000000001")
    assert _is_whole(latest)
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == (1 if said else 0)
    assert all(said in warning and "checkpoint_000000002" in warning for warning in warnings)
    # The run goes on from there, and makes the damaged one anew.
    _of(location, tmp_path / "another node").save(2, _write(2))
    latest = _of(location, tmp_path / "a third node").latest()
    assert latest is not None
    assert latest.name.startswith("checkpoint_000000002")
    assert _is_whole(latest)


def test_storage_that_does_not_answer_is_an_error_and_no_new_beginning(s3_bucket, tmp_path, monkeypatch):
    location = s3_bucket + "/run"
    _of(location, tmp_path).save(1, _write(1))
    monkeypatch.setattr(object_storage, "ATTEMPTS", 1)
    with pytest.raises(CheckpointError, match=r"no-such-bucket-here"):
        _of("s3://no-such-bucket-here/run", tmp_path).save(2, _write(2))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(CheckpointError, match=r"^checkpoints in s3://.*127\.0\.0\.1:9"):
        _of(location, tmp_path).latest()
    s3fs.S3FileSystem.clear_instance_cache()


def test_storage_is_asked_a_few_times_but_not_for_what_is_not_there(monkeypatch):
    monkeypatch.setattr(object_storage, "WAIT_S", 0.0)
    errors: list[Exception] = [ConnectionError("reset"), TimeoutError("late")]

    def answer() -> str:
        if errors:
            raise errors.pop(0)
        return "here"

    assert object_storage._tried(answer) == "here"
    errors = [FileNotFoundError("gone"), ConnectionError("reset")]
    with pytest.raises(FileNotFoundError):
        object_storage._tried(answer)
    errors = [ConnectionError(str(number)) for number in range(5)]
    with pytest.raises(ConnectionError, match=str(object_storage.ATTEMPTS - 1)):
        object_storage._tried(answer)


def test_what_was_fetched_goes_when_the_run_has_moved_on(bucket, tmp_path):
    location, _, _ = bucket
    checkpoints = _of(location, tmp_path / "node")
    fetched = checkpoints.latest()
    assert fetched is not None
    assert checkpoints.latest() == fetched
    checkpoints.save(3, _write(3))
    assert not fetched.exists()
    assert not list((tmp_path / "node").glob("outbox*"))


# -- kills


def _save_for_ever(location: str, scratch: str, environment: dict[str, str]) -> None:
    os.environ.update(environment)  # the server of forks is older than this test
    checkpoints = _of(location, Path(scratch))
    latest = checkpoints.latest()
    step = 0 if latest is None else int(latest.name.split("_")[1].split("-")[0])
    while True:
        step += 1
        checkpoints.save(step, _write(step))


@pytest.mark.parametrize("place", ["folder", "s3"])
def test_kill_9_at_any_moment_leaves_a_whole_one(request, tmp_path, place):
    location = str(tmp_path / "run") if place == "folder" else request.getfixturevalue("s3_bucket") + "/run"
    chance, fork = random.Random(0), multiprocessing.get_context("forkserver")
    fork.set_forkserver_preload(["prx_model.training.checkpoints", "s3fs"])
    reached, names = 0, partial(_names, location, file_system() if place == "s3" else None)
    for number in range(12 if place == "folder" else 6):
        process = fork.Process(
            target=_save_for_ever, args=(location, str(tmp_path / "scratch"), dict(os.environ)), daemon=True
        )
        process.start()
        _wait_beyond(names, reached)
        time.sleep(chance.random() * (0.05 if place == "folder" else 0.3))
        process.kill()
        process.join()
        latest = _of(location, tmp_path / f"node {number}").latest()
        assert latest is not None
        assert _is_whole(latest)
        step = int(latest.name.split("_")[1].split("-")[0])
        assert step > reached
        reached = step
        shutil.rmtree(tmp_path / f"node {number}", ignore_errors=True)
    _of(location, tmp_path / "scratch").save(reached + 1, _write(reached + 1))
    assert not list((tmp_path / "scratch").glob("outbox*"))
    assert len(names()) == (1 if place == "folder" else KEPT_IN_BUCKET)


def _wait_beyond(names: Callable[[], list[str]], step: int) -> None:
    """Until the process has finished a checkpoint, so that the kill falls somewhere into its work."""
    for _ in range(600):
        try:
            found = [name for name in names() if name.startswith("checkpoint_")]
        except FileNotFoundError:
            found = []
        if found and int(max(found).split("_")[1]) > step + 1:
            return
        time.sleep(0.05)
    raise AssertionError("the process does not save")


# -- two workers


def _work(shared: str, address: str, scratch: str) -> dict[str, Any]:
    told: dict[str, Any] = {}
    rank = torch.distributed.get_rank()
    for kind in (DDP, FSDP):
        workers = joined_workers(kind)
        state = TrainState(objective_of(), FAST, workers)
        state.step = 7
        for name, location in (("folder", f"{shared}/{kind}"), ("s3", f"{address}/{kind}")):
            checkpoints = Checkpoints(location, workers, scratch=Path(scratch) / f"node-{rank}")
            checkpoints.save(7, state.save)
            told[f"{kind} {name} fails"] = _said_of_a_full_disk(checkpoints, state, rank)
            told[f"{kind} {name} raises"] = _said_of_an_error(checkpoints, rank)
            latest = checkpoints.latest()
            assert latest is not None
            told[f"{kind} {name} latest"] = latest.name
            again = TrainState(objective_of(fresh=True), FAST, workers)
            again.load(latest)
            told[f"{kind} {name} step"] = again.step
    unshared = Checkpoints(f"{scratch}/only-{rank}", joined_workers(FSDP))
    told["unshared"] = _said_by(unshared, lambda folder: None)
    return told


def _said_of_a_full_disk(checkpoints: Checkpoints, state: TrainState, rank: int) -> str:
    """The writer's process may write small files only, as a disk that fills up."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    if rank == (1 if state.workers.is_sharded else 0):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limit[1]))
    try:
        return _said_by(checkpoints, state.save)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)


def _said_of_an_error(checkpoints: Checkpoints, rank: int) -> str:
    def write(folder: Path) -> None:
        if rank == 1:
            raise ValueError("what\nnow")

    return _said_by(checkpoints, write)


def _said_by(checkpoints: Checkpoints, write: Any) -> str:
    try:
        checkpoints.save(8, write)
    except CheckpointError as error:
        return str(error)
    return ""


@pytest.fixture
def told(tmp_path: Path, s3_bucket: str) -> list[dict[str, Any]]:
    (tmp_path / "scratch").mkdir()
    return in_two_processes(_work, tmp_path, str(tmp_path / "shared"), s3_bucket, str(tmp_path / "scratch"))


def test_two_workers_save_fail_and_find_together(told, tmp_path, s3_bucket):
    assert told[0].keys() == told[1].keys()
    for kind in (DDP, FSDP):
        for place in ("folder", "s3"):
            case = f"{kind} {place}"
            for one in told:
                assert one[f"{case} latest"].startswith("checkpoint_000000007")
                assert one[f"{case} step"] == 7
            full, raised = (told[0][f"{case} {what}"] for what in ("fails", "raises"))
            assert full == told[1][f"{case} fails"]
            assert raised == told[1][f"{case} raises"]
            assert raised.endswith(": worker 1: ValueError: what now")
            assert f"worker {1 if kind == FSDP else 0}: " in full
            assert "File too large" in full or "unexpected pos" in full, full
            assert "\n" not in full
        assert [path.name for path in (tmp_path / "shared" / kind).iterdir()] == ["checkpoint_000000007"]
    assert told[0]["unshared"] == told[1]["unshared"]
