"""What is no trial's fault: real full disks, real limits, and the errors that others make of them."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest
import torch

from prx_model.training.checkpoints import CheckpointError, Checkpoints
from prx_model.training.distributed import Workers
from prx_model.training.saved_state import write_whole
from sweeps.ledger import Ledger
from sweeps.obstacles import HaltedError, obstacle
from sweeps.page import write_page
from sweeps.report import summarise
from sweeps.space import SpaceError
from sweeps.storage import SweepPaths
from tests.sweeps.lab import Lab
from tests.sweeps.small_disks import fill, remount, short_files, small_disk

FULL = "No space left on device; free some space there, then the same command goes on"


def _raised(action) -> BaseException:
    with pytest.raises(Exception) as caught:  # noqa: PT011  (which one it is differs, and is looked at)
        action()
    return caught.value


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, FULL),
        (errno.EDQUOT, "Disk quota exceeded; free some of your quota there"),
        (errno.EFBIG, r"File too large; raise the limit on the size of files \(ulimit -f\)"),
        (errno.EROFS, "Read-only file system; make it writable"),
        (errno.EIO, "Input/output error; see to the disk"),
    ],
)
def test_an_obstacle_is_one_line_with_place_and_remedy(number, words):
    error = OSError(number, os.strerror(number), "/results/x/ledger/a.jsonl")
    line = obstacle(error, "/results/x")
    assert line is not None
    assert line.startswith("/results/x/ledger/a.jsonl: ")
    assert re.search(words, line)
    assert "\n" not in line


def test_it_is_found_behind_what_others_make_of_it():
    def as_torch_does() -> None:
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            raise RuntimeError("unexpected pos 704 vs 598") from None

    assert obstacle(_raised(as_torch_does), "/x") == f"/x: {FULL}"
    told = RuntimeError("I/O error: No space left on device (os error 28)")  # safetensors; or from another process
    assert obstacle(told, "/x") == f"/x: {FULL}"
    assert obstacle(HaltedError("the desk is gone"), "/x") == "the desk is gone"


@pytest.mark.parametrize("error", [ValueError("nan"), FileNotFoundError(2, "No such file or directory"), KeyError("a")])
def test_a_trials_own_error_is_none(error):
    assert obstacle(error, "/x") is None


def test_a_full_disk_stops_ledger_checkpoint_and_page_with_a_word_and_leaves_them_whole(tmp_path):
    with small_disk(tmp_path / "disk", 4096) as disk:
        lab = Lab(disk, candidates=2)
        lab.baselines(1.0, 1.01)
        write_page(lab.space, lab.paths, summarise(lab.space, lab.ledger), [])
        page, rows = lab.paths.page.read_bytes(), lab.ledger.rows("baseline-seed0")
        checkpoints = Checkpoints(lab.paths.trial_folder("baseline-seed0"), Workers())
        checkpoints.save(40, lambda folder: write_whole({"a": torch.ones(10)}, folder))

        ballast = fill(disk)
        ledger = _raised(lambda: _fill_ledger(lab))
        checkpoint = _raised(lambda: checkpoints.save(80, lambda f: write_whole({"a": torch.ones(10**5)}, f)))
        written = _raised(lambda: write_page(lab.space, lab.paths, summarise(lab.space, lab.ledger), []))
        assert isinstance(checkpoint, CheckpointError)
        for error in (ledger, checkpoint, written):
            line = obstacle(error, disk)
            assert line is not None
            assert line.endswith(FULL)
            assert str(disk) in line

        ballast.unlink()
        assert lab.paths.page.read_bytes() == page
        assert lab.ledger.rows("baseline-seed0")[: len(rows)] == rows
        assert checkpoints.latest() == lab.paths.trial_folder("baseline-seed0") / "checkpoint_000000040"
        lab.row("baseline-seed0", 240, 1.0)
        assert lab.ledger.record("baseline-seed0").last_step == 240
        checkpoints.save(80, lambda folder: write_whole({"a": torch.ones(10**5)}, folder))
        assert checkpoints.latest() == lab.paths.trial_folder("baseline-seed0") / "checkpoint_000000080"


def _fill_ledger(lab: Lab) -> None:
    """The last block of the file may have room for some rows."""
    for _ in range(100):
        lab.row("baseline-seed0", 200, 1.0)


def test_a_limit_on_the_size_of_files_is_told_as_such(tmp_path):
    lab = Lab(tmp_path, candidates=2)
    lab.baselines(1.0)
    size = lab.paths.trial_ledger("baseline-seed0").stat().st_size
    with short_files(size + 10):
        line = obstacle(_raised(lambda: lab.row("baseline-seed0", 240, 1.0)), tmp_path)
    assert line is not None
    assert line.startswith(f"{lab.paths.trial_ledger('baseline-seed0')}: File too large; raise the limit")
    assert lab.ledger.record("baseline-seed0").last_step == 200
    lab.row("baseline-seed0", 240, 1.0)
    assert lab.ledger.record("baseline-seed0").last_step == 240


def test_a_read_only_folder_is_one_line_before_anything_starts(tmp_path):
    with small_disk(tmp_path / "disk", 1024) as disk:
        paths = SweepPaths(disk / "sweep")
        paths.create()
        remount(disk, "ro")
        for folder in (paths, SweepPaths(disk / "another")):
            with pytest.raises(SpaceError, match=r"cannot write to .*: Read-only file system; allowed is a writable"):
                folder.create()
        ledger = Ledger(paths)
        assert ledger.records() == []


def test_a_folder_of_someone_else_is_one_line(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    (tmp_path / "sweep").mkdir(mode=0o555)
    with pytest.raises(SpaceError, match=r"Permission denied; allowed is a writable folder"):
        SweepPaths(tmp_path / "sweep").create()


def test_a_checkpoint_on_a_full_disk_names_the_file(tmp_path):
    with small_disk(tmp_path / "disk", 64) as disk, pytest.raises(OSError, match="No space left on device") as caught:
        write_whole({"a": torch.ones(10**6)}, disk)
    assert caught.value.filename == str(disk / "state.pt")
    assert not list(Path(disk).iterdir())
