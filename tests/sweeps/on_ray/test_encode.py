"""The encode command for real: Ray Data, packaged encoders, local disks and S3, and processes that are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from prx_model.data.manifest import Manifest
from prx_model.data.shards import decode_image
from prx_model.data.store import EncodedStore, ImageCaptionStore
from prx_model.encoding.encoder import Encoder
from prx_model.encoding.listing import SourceItem
from prx_model.encoding.plan import WORK_FOLDER
from prx_model.encoding.store_folder import StoreFolder
from prx_model.encoding.unit import CARDS_FOLDER
from sweeps import cluster, main
from sweeps.encoding.command import request_of
from sweeps.encoding.worker import Tally, UnitActor, Worker
from tests.picture_sources import pairs, write_folder, write_parquet
from tests.s3_server import file_system

ROOT = Path(__file__).parents[3]
LIMIT_S = 300
PAIRS = pairs(40, side=32)
NAMED = ("--name", "pictures", "--licence", "CC0")
OPTIONS = "--autoencoder pixel --text-encoder minilm --resolution 16 --max-text-tokens 12 --heldout 6 --batch-size 4"


def encode(source: Path | str, store: Path | str, *more: str) -> int:
    return main.main(["encode", str(source), "--to", str(store), *OPTIONS.split(), "--address", "local", *more])


def command(address: str, source: Path, store: Path, *more: str) -> subprocess.Popen[str]:
    """The command in a process of its own, on the Ray that is there."""
    arguments = [str(source), "--to", str(store), *OPTIONS.split(), "--address", address, *more]
    return subprocess.Popen(
        [sys.executable, "-m", "sweeps.main", "encode", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
    )


def wait_for(what: Callable[[], object], process: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not what():
        assert time.monotonic() < deadline, "it has not come"
        assert process is None or process.poll() is None, process.communicate()[0]
        time.sleep(0.02)


def finished(store: Path) -> list[Path]:
    return sorted((store / CARDS_FOLDER).glob("unit-*.json"))


@pytest.fixture(scope="module")
def whole(address, tmp_path_factory) -> tuple[Path, Path]:
    """A source with three broken items, and the data set that two actors have made of it undisturbed."""
    folder = tmp_path_factory.mktemp("whole")
    source = write_folder(folder / "source", PAIRS)
    (source / "a" / "picture-003.jpg").write_bytes(b"no picture")
    (source / "a" / "picture-004.txt").write_text("")
    (source / "b" / "picture-030.txt").unlink()
    assert encode(source, folder / "store", *NAMED, "--rows-per-shard", "2", "--actors", "2") == 0
    return source, folder / "store"


@pytest.mark.slow
def test_a_store_holds_what_the_encoders_make_and_the_same_command_does_nothing(whole, capsys):
    source, store = whole
    assert encode(source, store, *NAMED, "--rows-per-shard", "2") == 0
    shown = capsys.readouterr().out
    manifest = Manifest.read(store)
    assert manifest.counts == {"train": 31, "heldout": 6}
    assert manifest.skipped_by_reason == {"not an image": 1, "empty caption": 1, "missing caption": 1}
    assert (manifest.source.name, manifest.source.licence) == ("pictures", "CC0")
    expected = ("done already", "31 images", "6 images", "a/picture-003", f"path: {store}", "num_heldout: 6")
    for part in (*expected, manifest.fingerprint):
        assert part in shown, part
    assert not (store / WORK_FOLDER).exists()
    _check_equals_direct_encoding(store, source)
    assert encode(source, store, "--resolution", "32") == 2
    assert "resolution: the store has 16, asked for is 32" in capsys.readouterr().err


def _check_equals_direct_encoding(store: Path, source: Path) -> None:
    options = main.parser().parse_args(["encode", str(source), "--to", str(store), *OPTIONS.split()])
    encoder = Encoder(request_of(options).settings, device=torch.device("cpu"), batch_size=4)
    items = {f"{'a' if i < len(PAIRS) // 2 else 'b'}/{key}": (image, c) for i, (key, image, c) in enumerate(PAIRS)}
    opened = ImageCaptionStore.open(store)
    for split in (opened.train, opened.heldout):
        chosen = [(SourceItem(key=key, image=items[key][0], caption=items[key][1]), -1) for key in split.keys]
        for index, row in enumerate(encoder.encode(chosen).rows):
            assert (split.images[index] == decode_image(row.image)).all()
            assert (split.text[index][split.text_mask[index]] == row.text.float()).all()


@pytest.mark.slow
def test_a_unit_that_fails_is_named_the_others_are_kept_and_the_same_command_mends_it(address, tmp_path, capsys):
    source, store = write_parquet(tmp_path / "source", PAIRS, rows_per_group=10), tmp_path / "store"
    path = source / "data" / "train-00001.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:4] + b"\xff" * 2000 + whole[2004:])  # the footer is sound, the first pages are not
    assert encode(source, store, "--rows-per-shard", "10") == 1
    shown = capsys.readouterr().err
    assert f"failed: train-00002.parquet (items 20 to 29): OSError: {path} cannot be read" in shown
    assert "the same command tries again" in shown
    assert [card.name for card in finished(store)] == [f"unit-0000{i}.json" for i in (0, 1, 3)]
    before = {path: path.stat().st_mtime_ns for path in store.glob("train-*.parquet")}
    assert "ended 3 times" in _fourth_try(source, store)
    path.write_bytes(whole)
    assert encode(source, store, "--rows-per-shard", "8") == 2
    assert "rows_per_shard: the store has 10, asked for is 8" in capsys.readouterr().err
    assert encode(source, store) == 0
    assert "3 of them done already" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert Manifest.read(store).counts == {"train": 34, "heldout": 6}


def _fourth_try(source: Path, store: Path) -> str:
    """What an actor says of a unit during which three processes have ended already."""
    import ray

    options = main.parser().parse_args(["encode", str(source), "--to", str(store), *OPTIONS.split()])
    request = request_of(options)
    worker = Worker(store=str(store), run="x", settings=request.settings, batch_size=4, gpu=False, threads=1)
    actor = UnitActor(worker, ray.remote(num_cpus=0)(Tally).remote())
    StoreFolder(str(store)).write(f"{WORK_FOLDER}/tries/x-00002.json", b'{"tries": 3}')
    return actor({"unit": [2]})["error"][0]


@pytest.mark.slow
def test_a_killed_command_goes_on_where_it_was_and_outlives_the_kill_of_its_actor(whole, address, tmp_path, capsys):
    """The command is killed, then the one actor of the same command's second run; two have made the other data set."""
    source, undisturbed = whole
    store, result = tmp_path / "store", []
    arguments = (source, store, *NAMED, "--rows-per-shard", "2", "--actors", "1")
    process = command(address, *arguments)
    wait_for(lambda: len(finished(store)) >= 3, process)
    process.kill()
    process.communicate()
    assert not (store / "manifest.json").exists()
    shards = [store / card.name.replace("unit", "train").replace("json", "parquet") for card in finished(store)]
    done = {path: path.stat().st_mtime_ns for path in shards if path.exists()}
    assert len(done) >= 3 - 1

    thread = threading.Thread(target=lambda: result.append(encode(*arguments)))
    thread.start()
    wait_for(lambda: len(finished(store)) >= len(shards) + 2)
    tries = (store / WORK_FOLDER / "tries").glob("*.json")
    last = max(tries, key=lambda file: file.stat().st_mtime_ns)
    os.kill(json.loads(last.read_text())["process"], signal.SIGKILL)
    thread.join(LIMIT_S)
    assert result == [0]
    assert "of them done already" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in done} == done
    _check_same(store, undisturbed)
    assert not list(store.glob(".*"))


def _check_same(store: Path, other: Path) -> None:
    one, two = Manifest.read(store), Manifest.read(other)
    assert one.fingerprint == two.fingerprint
    assert [card.sha256 for card in one.shards] == [card.sha256 for card in two.shards]


@pytest.mark.slow
def test_from_s3_to_s3_it_is_the_same_data_set(whole, s3_bucket, tmp_path, capsys):
    local, undisturbed = whole
    files = file_system()
    files.put(str(local), f"{s3_bucket}/source", recursive=True)
    source, store = f"{s3_bucket}/source", f"{s3_bucket}/store"
    assert encode(source, store, *NAMED, "--rows-per-shard", "2") == 0
    assert Manifest.read(store).fingerprint == Manifest.read(undisturbed).fingerprint
    assert not files.exists(f"{store}/{WORK_FOLDER}")
    opened = EncodedStore.open(store, cache=tmp_path / "cache", cache_bytes=10**8)
    opened.verify()
    assert list(opened.heldout.captions) == list(ImageCaptionStore.open(undisturbed).heldout.captions)
    assert encode(source, store, *NAMED) == 0
    assert "done already" in capsys.readouterr().out


@pytest.mark.slow
def test_encoders_that_are_not_there_are_told_in_one_line(address, tmp_path, capsys):
    source = write_folder(tmp_path / "source", PAIRS)
    assert encode(source, tmp_path / "store", "--text-encoder", str(tmp_path / "nothing")) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert "nothing" in message


WRONG = {
    "no source": (["nowhere", "--to", "store"], "nowhere: no such folder or file"),
    "too few": (["source", "--to", "store", "--heldout", "40"], "num_heldout: got 40, allowed is less than the 40"),
    "limit": (["source", "--to", "store", "--limit", "6"], "num_heldout: got 6, allowed is less than the 6"),
    "teacher": (["source", "--to", "store", "--teacher", "dinov9"], "unknown teacher 'dinov9'"),
    "quality": (["source", "--to", "store", "--quality", "90"], "quality: got 90, allowed for png is null"),
    "column": (["source", "--to", "store", "--caption-column", "x"], "--caption-column: the source is a folder"),
    "actors": (["source", "--to", "store", "--actors", "0"], "actors: got 0, allowed is 1 or more"),
    "store": (["source", "--to", "source/a/picture-001.txt/x"], "--to: cannot use source/a/picture-001.txt/x: "),
}


@pytest.mark.parametrize("what", WRONG)
def test_mistakes_are_told_in_one_line_before_ray_starts(what, tmp_path, monkeypatch, capsys):
    arguments, message = WRONG[what]
    write_folder(tmp_path / "source", PAIRS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cluster, "connect", lambda *_: pytest.fail("Ray was started"))
    assert main.main(["encode", *arguments[:1], *OPTIONS.split(), *arguments[1:]]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert shown.count("\n") == 1
    assert message in shown


def test_two_encoders_of_one_store_are_refused(tmp_path, monkeypatch, capsys):
    from sweeps.encoding.request import only_encoder

    monkeypatch.setattr(cluster, "connect", lambda *_: pytest.fail("Ray was started"))
    source = write_folder(tmp_path / "source", PAIRS)
    with only_encoder(StoreFolder(str(tmp_path / "store"))):
        assert encode(source, tmp_path / "store") == 2
    assert f"is being encoded already (process {os.getpid()})" in capsys.readouterr().err


def test_an_interrupted_command_says_that_nothing_is_lost(tmp_path, monkeypatch, capsys):
    def interrupted(*_) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cluster, "connect", interrupted)
    assert encode(write_folder(tmp_path / "source", PAIRS), tmp_path / "store") == 130
    assert "the same command goes on" in capsys.readouterr().err
