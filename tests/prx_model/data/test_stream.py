from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from prx_model.batch import Batch
from prx_model.data.groups import ShardFiles
from prx_model.data.order import Order
from prx_model.data.places import Bucket
from prx_model.data.ranges import CachedRanges
from prx_model.data.shards import Row, decode_image
from prx_model.data.store import EncodedStore
from prx_model.data.stream import BATCHES_AHEAD, STEPS_AHEAD, StreamReader
from prx_model.training.loop import Batches
from tests.flaky_server import Troubles, flaky_server
from tests.s3_server import file_system
from tests.stores import LONGEST, make_rows, write_store

TEACHER = {"dino": (4, 6)}
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 train rows in groups of 64 and 36. Tests must not write into it."""
    path = tmp_path_factory.mktemp("stores") / "set"
    write_store(path, teachers=TEACHER)
    return path


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return make_rows(300, teachers=TEACHER)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    write_store(tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def no_threads_left() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("batch-", "row-group-"))]


def opened(location: Path | str, cache: Path = Path("never-made")) -> EncodedStore:
    return EncodedStore.open(location, cache=cache, cache_bytes=1 << 20)


def first(reader: StreamReader, steps: int, from_step: int = 0) -> list[Batch]:
    batches = reader.batches(from_step)
    try:
        return list(islice(batches, steps))
    finally:
        batches.close()


def same(ours: Batch, other: Batch) -> bool:
    return all(
        torch.equal(getattr(ours, name), getattr(other, name)) for name in ("clean", "text", "text_mask", "index")
    )


def test_rows_of_a_batch_are_those_that_were_written(folder: Path, rows: list[Row]) -> None:
    reader = StreamReader(opened(folder), 20, seed=3, stored_teacher="dino", with_images=True)
    assert isinstance(reader, Batches)
    for batch in first(reader, 2 * reader.steps_per_epoch):
        assert batch.clean.shape == (20, 2, 4, 4)
        assert batch.clean.dtype == torch.float16
        assert batch.text.shape == (20, LONGEST, 4)
        assert batch.text.dtype == torch.bfloat16
        assert batch.index.dtype == torch.int64
        assert batch.teacher_tokens is not None
        assert batch.teacher_tokens.dtype == torch.float16
        assert batch.image is not None
        for place, number in enumerate(batch.index.tolist()):
            row, length = rows[number], len(rows[number].text)
            assert torch.equal(batch.clean[place], row.latent)
            assert torch.equal(batch.text[place, :length], row.text)
            assert (batch.text[place, length:] == 0).all()
            assert batch.text_mask[place].tolist() == [True] * length + [False] * (LONGEST - length)
            assert torch.equal(batch.teacher_tokens[place], row.teachers["dino"])
            assert torch.equal(batch.image[place], decode_image(row.image))


def test_batches_come_in_order(folder: Path) -> None:
    reader = StreamReader(opened(folder), 24, seed=5, shuffle_rows=100)
    order = Order([64, 36] * 3, 24, 5, shuffle_rows=100)
    assert reader.steps_per_epoch == order.steps_per_epoch == 12
    for step, batch in enumerate(first(reader, 30)):
        assert batch.index.tolist() == order.step(step).rows.tolist()


@pytest.mark.parametrize("step", [1, 7, 11, 12, 29])
def test_resuming_needs_nothing_but_the_step(folder: Path, step: int) -> None:
    reader = StreamReader(opened(folder), 24, seed=5)
    walked = first(reader, step + 3)[step:]
    anew = first(StreamReader(opened(folder), 24, seed=5), 3, from_step=step)
    assert all(same(before, after) for before, after in zip(walked, anew, strict=True))


@pytest.mark.parametrize("shares", [[(0, 12), (12, 24)], [(0, 1), (1, 9), (9, 24)]])
def test_shares_put_together_are_the_batch(folder: Path, shares: list[tuple[int, int]]) -> None:
    store = opened(folder)
    parts = [first(StreamReader(store, 24, seed=5, share=share), 14) for share in shares]
    for step, whole in enumerate(first(StreamReader(store, 24, seed=5), 14)):
        for (start, stop), part in zip(shares, parts, strict=True):
            assert same(whole.rows(start, stop), part[step])


def test_a_baseline_reads_neither_images_nor_teachers(folder: Path) -> None:
    (batch,) = first(StreamReader(opened(folder), 8, seed=0), 1)
    assert batch.image is None
    assert batch.teacher_tokens is None


@pytest.mark.parametrize("train_format", ["png", "jpeg"])
def test_a_store_of_pixels_gives_pixels(tmp_path: Path, train_format: str) -> None:
    write_store(tmp_path, num_train=80, latent=None, train_format=train_format, text_dtype="float16")
    stored = make_rows(80, latent=None, image_format=train_format, quality=90 if train_format == "jpeg" else None)
    (batch,) = first(StreamReader(opened(tmp_path), 16, seed=0, with_images=True), 1)
    assert batch.clean.dtype == torch.float32
    assert batch.text.dtype == torch.float16
    assert batch.image is not None
    for place, number in enumerate(batch.index.tolist()):
        pixels = decode_image(stored[number].image)
        assert torch.equal(batch.image[place], pixels)
        assert torch.equal(batch.clean[place], pixels.float() / 127.5 - 1)
    (plain,) = first(StreamReader(opened(tmp_path), 16, seed=0), 1)
    assert plain.image is None
    assert torch.equal(plain.clean, batch.clean)


def test_a_changed_batch_does_not_change_another(folder: Path) -> None:
    reader = StreamReader(opened(folder), 300, seed=0)
    expected = first(reader, 3)
    batches = reader.batches()
    for step in range(3):
        batch = next(batches)
        assert same(batch, expected[step])
        for numbers in (batch.clean, batch.text, batch.text_mask, batch.index):
            numbers.zero_()


def test_s3_gives_the_same_batches(folder: Path, s3_bucket: str, tmp_path: Path) -> None:
    file_system().put(str(folder), f"{s3_bucket}/set", recursive=True)
    local = first(StreamReader(opened(folder), 24, seed=5), 14)
    for _ in range(2):  # fetched, then cached
        remote = first(StreamReader(opened(f"{s3_bucket}/set", tmp_path / "cache"), 24, seed=5), 14)
        assert all(same(ours, other) for ours, other in zip(local, remote, strict=True))


def test_s3_with_room_for_one_group_gives_them_too(folder: Path, s3_bucket: str, tmp_path: Path) -> None:
    file_system().put(str(folder), f"{s3_bucket}/set", recursive=True)
    manifest = opened(folder).manifest
    room = max(group.bytes for card in manifest.shards for group in card.groups)
    store = EncodedStore.open(f"{s3_bucket}/set", cache=tmp_path, cache_bytes=room)
    local = first(StreamReader(opened(folder), 24, seed=5), 14)
    assert all(same(a, b) for a, b in zip(local, first(StreamReader(store, 24, seed=5), 14), strict=True))
    assert sum(path.stat().st_size for path in tmp_path.glob("[!.]*")) <= room


@pytest.mark.usefixtures("no_threads_left")
def test_threads_end_with_the_generator(folder: Path) -> None:
    reader = StreamReader(opened(folder), 24, seed=5)
    batches = reader.batches()
    before = threading.active_count()
    next(batches)
    assert threading.active_count() == before + BATCHES_AHEAD + 2
    batches.close()
    assert threading.active_count() == before
    forgotten = reader.batches()
    next(forgotten)
    del forgotten
    gc.collect()
    assert threading.active_count() == before
    reader.batches()  # never started


ENDING = """
import os, sys
from pathlib import Path
from prx_model.data.store import EncodedStore
from prx_model.data.stream import StreamReader

store = EncodedStore.open(sys.argv[1], cache=Path(sys.argv[2]), cache_bytes=1 << 20)
batches = StreamReader(store, 24, seed=5).batches()
for _ in range(3):
    next(batches)
print("reading", flush=True)
if sys.argv[3] == "raise":
    raise RuntimeError("the step failed")
while True:
    next(batches)
"""


def start_reading(location: Path | str, cache: Path, ending: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", ENDING, str(location), str(cache), ending],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_process_that_ends_by_an_exception_ends(folder: Path, tmp_path: Path) -> None:
    process = start_reading(folder, tmp_path, "raise")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert errors.strip().endswith("RuntimeError: the step failed")


def test_a_killed_reader_leaves_nothing_that_the_next_would_trust(folder: Path, s3_bucket: str, tmp_path: Path) -> None:
    file_system().put(str(folder), f"{s3_bucket}/set", recursive=True)
    process = start_reading(f"{s3_bucket}/set", tmp_path, "go on")
    assert process.stdout is not None
    assert process.stdout.readline() == "reading\n"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=120)
    local = first(StreamReader(opened(folder), 24, seed=5), 14)
    remote = first(StreamReader(opened(f"{s3_bucket}/set", tmp_path), 24, seed=5), 14)
    assert all(same(ours, other) for ours, other in zip(local, remote, strict=True))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 4] ^= 1
    path.write_bytes(content)


@pytest.mark.usefixtures("no_threads_left")
@pytest.mark.parametrize(
    ("damage", "spoilt", "message"),
    [
        (flip, range(100, 164), r"is corrupt: sha256 of bytes 4 to \d+ is \w+, the manifest says \w+; copy it again"),
        (lambda path: path.unlink(), range(100, 200), r"is missing; copy it again"),
        (lambda path: path.write_bytes(bytes(200)), range(100, 200), r"is truncated: no byte at \d+; copy it again"),
    ],
)
def test_a_damage_is_told_when_the_batch_is_due(
    copied: Path, damage: Callable[[Path], None], spoilt: range, message: str
) -> None:
    reader = StreamReader(opened(copied), 5, seed=3, shuffle_rows=20)
    order = Order([64, 36] * 3, 5, 3, shuffle_rows=20)
    damage(copied / "train-00001.parquet")
    sound = next(step for step in range(60) if set(order.step(step).rows.tolist()) & set(spoilt))
    assert sound > BATCHES_AHEAD + STEPS_AHEAD
    batches = reader.batches()
    assert len(list(islice(batches, sound))) == sound
    with pytest.raises(ValueError, match=rf"copy/train-00001\.parquet {message}"):
        next(batches)
    assert list(batches) == []  # it has ended


@pytest.fixture
def troubles(folder: Path, s3_bucket: str, s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Troubles]:
    file_system().put(str(folder), f"{s3_bucket}/set", recursive=True)
    with flaky_server(s3_server) as flaky:
        monkeypatch.setenv("AWS_ENDPOINT_URL", flaky.endpoint)
        yield flaky


@pytest.mark.usefixtures("no_threads_left")
def test_closing_does_not_wait_for_a_bucket_that_no_longer_answers(
    troubles: Troubles, s3_bucket: str, tmp_path: Path
) -> None:
    store = opened(f"{s3_bucket}/set", tmp_path)
    patient = CachedRanges(Bucket(f"{s3_bucket}/set", pauses_s=(600.0,)), tmp_path, 1 << 20)
    store = replace(store, train=ShardFiles(store.manifest.shards_of("train"), patient))
    batches = StreamReader(store, 10, seed=3, shuffle_rows=10).batches()
    next(batches)
    troubles.coming = ["slow"] * 999
    for _ in range(BATCHES_AHEAD + STEPS_AHEAD):  # these are on their way
        next(batches)
    wait_until(lambda: len(troubles.coming) < 999)
    batches.close()


def wait_until(true: Callable[[], bool]) -> None:
    for _ in range(600):
        if true():
            return
        time.sleep(0.1)
    raise AssertionError("it did not happen within a minute")


def test_row_groups_are_fetched_ahead_of_the_step(troubles: Troubles, s3_bucket: str, tmp_path: Path) -> None:
    """What the next steps read is there while the first batch is in use, and no more than that."""
    store = opened(f"{s3_bucket}/set", tmp_path)
    reader = StreamReader(store, 10, seed=3, shuffle_rows=10)
    order = Order(store.train.group_rows, 10, 3, shuffle_rows=10)
    batches = reader.batches()
    next(batches)
    due = {number for step in range(BATCHES_AHEAD + STEPS_AHEAD + 1) for number in groups_read(order, step)}
    assert due > set(groups_read(order, 0))
    assert len(due) < len(store.train.group_rows)
    expected = {card_sha256(store, number) for number in due}
    groups = {card_sha256(store, number) for number in range(len(store.train.group_rows))}
    wait_until(lambda: {path.name for path in tmp_path.iterdir()} & groups == expected)
    batches.close()


def groups_read(order: Order, step: int) -> list[int]:
    return order.group_of(order.step(step).rows)[0].tolist()


def card_sha256(store: EncodedStore, number: int) -> str:
    return [group.sha256 for card in store.manifest.shards_of("train") for group in card.groups][number]


def test_few_row_groups_are_open_and_no_data_is_held(tmp_path: Path) -> None:
    """However large the data set: what is open are the windows of the steps in sight."""
    write_store(tmp_path, num_train=40 * 64, num_heldout=1, rows_per_shard=64)
    reader = StreamReader(opened(tmp_path), 8, seed=1, share=(0, 2), shuffle_rows=8 * 16)
    order = Order([64] * 40, 8, 1, shuffle_rows=8 * 16)
    batches = reader.batches()
    most = 0
    for step, _ in enumerate(islice(batches, 100)):
        sight = range(step, step + BATCHES_AHEAD + STEPS_AHEAD + 3)
        bound = len({group for later in sight for group in order.step(later, (0, 2)).groups})
        files = [name for name in open_files() if name.startswith(str(tmp_path))]
        most = max(most, len(files))
        assert len(files) <= bound + 1  # a footer may be open as well
    assert 2 <= most <= 10
    batches.close()
    gc.collect()
    assert not [name for name in open_files() if name.startswith(str(tmp_path))]


def open_files() -> list[str]:
    names = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            names.append(os.readlink(link))
        except FileNotFoundError:  # closed meanwhile
            continue
    return names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 301}, "batch_size: got 301, allowed is 1 to 300, the rows of the data set"),
        ({"seed": -1}, "seed: got -1, allowed is an integer of at least 0"),
        ({"shuffle_rows": 0}, "shuffle_rows: got 0, allowed is an integer of at least 1"),
        ({"share": (4, 4)}, r"share: got \(4, 4\), allowed is \[start, stop\) within 0 to 8, not empty"),
        ({"share": (4, 9)}, r"share: got \(4, 9\)"),
        ({"stored_teacher": "clip"}, "stored_teacher: got 'clip', allowed is one of dino"),
        ({"shuffle_rows": 10**7}, r"shuffle_rows: got 10000000, which keeps some \d+ row groups open.*ulimit -n"),
    ],
)
def test_impossible_readers_are_refused(folder: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StreamReader(opened(folder), **{"batch_size": 8, "seed": 0, **arguments})


def test_a_negative_step_is_refused_at_the_call(folder: Path) -> None:
    with pytest.raises(ValueError, match="from_step: got -1"):
        StreamReader(opened(folder), 8, seed=0).batches(-1)
