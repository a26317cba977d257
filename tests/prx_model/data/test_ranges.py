from __future__ import annotations

import hashlib
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from prx_model.data.places import Bucket, Folder
from prx_model.data.ranges import PARTIAL_AGE_S, CachedRanges, LocalRanges, RangeCard
from tests.flaky_server import Troubles, flaky_server
from tests.s3_server import file_system

CONTENT = b"".join(number.to_bytes(2, "big") for number in range(5000))  # 10,000 bytes


def card_of(number: int) -> RangeCard:
    """A thousand bytes of CONTENT."""
    part = CONTENT[1000 * number : 1000 * (number + 1)]
    return RangeCard(file="data", offset=1000 * number, bytes=1000, sha256=hashlib.sha256(part).hexdigest())


def content_of(card: RangeCard) -> bytes:
    return CONTENT[card.offset : card.offset + card.bytes]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "data").write_bytes(CONTENT)
    return tmp_path / "set"


@pytest.fixture
def url(s3_bucket: str) -> str:
    file_system().pipe_file(f"{s3_bucket}/set/data", CONTENT)
    return f"{s3_bucket}/set"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def troubles(url: str, s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Troubles]:
    with flaky_server(s3_server) as flaky:
        monkeypatch.setenv("AWS_ENDPOINT_URL", flaky.endpoint)
        yield flaky


def cached(url: str, cache: Path, cache_bytes: int = 1 << 20) -> CachedRanges:
    return CachedRanges(Bucket(url, pauses_s=(0.001,)), cache, cache_bytes)


def files_in(cache: Path) -> set[str]:
    return {path.name for path in cache.iterdir() if not path.name.startswith(".")}


def test_a_range_is_read_anywhere_and_in_parts(folder: Path, url: str, cache: Path) -> None:
    for ranges in (LocalRanges(Folder(folder)), cached(url, cache), cached(url, cache)):
        opened = ranges.open(card_of(3))
        assert opened.read(0, 1000) == content_of(card_of(3))
        target = bytearray(10)
        opened.read_into(memoryview(target)[2:7], 990)
        assert target == b"\0\0" + content_of(card_of(3))[990:995] + b"\0\0\0"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), r"set/data is missing; copy it again"),
        (lambda path: path.write_bytes(CONTENT[:3500]), r"set/data is truncated: no byte at 3500; copy it again"),
        (
            lambda path: path.write_bytes(CONTENT[:3500] + b"x" + CONTENT[3501:]),
            r"set/data is corrupt: sha256 of bytes 3000 to 3999 is \w{64}, the manifest says \w{64}; copy it again",
        ),
    ],
)
def test_a_damaged_local_file_is_named(folder: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(folder / "data")
    with pytest.raises(ValueError, match=message):
        LocalRanges(Folder(folder)).open(card_of(3))


def test_a_local_range_is_checked_once(folder: Path) -> None:
    ranges = LocalRanges(Folder(folder))
    ranges.open(card_of(3))
    (folder / "data").write_bytes(bytes(10_000))
    assert ranges.open(card_of(3)).read(0, 4) == bytes(4)  # no second look
    with pytest.raises(ValueError, match="corrupt"):
        ranges.open(card_of(4))


def test_what_is_cached_is_not_fetched_again(troubles: Troubles, url: str, cache: Path) -> None:
    cached(url, cache).open(card_of(1))
    assert len(troubles.requests) == 1
    assert files_in(cache) == {card_of(1).sha256}
    assert cached(url, cache).open(card_of(1)).read(0, 1000) == content_of(card_of(1))
    assert len(troubles.requests) == 1


@pytest.mark.parametrize("torn", [b"", CONTENT[1000:1400], bytes(1000), CONTENT[1000:2500]])
def test_a_torn_cache_file_is_fetched_again(troubles: Troubles, url: str, cache: Path, torn: bytes) -> None:
    cached(url, cache).open(card_of(1))
    path = cache / card_of(1).sha256
    path.write_bytes(torn)
    assert cached(url, cache).open(card_of(1)).read(0, 1000) == content_of(card_of(1))
    if torn[:1000] != content_of(card_of(1)):
        assert len(troubles.requests) == 2
        assert path.read_bytes() == content_of(card_of(1))


def test_bytes_that_change_on_the_way_are_fetched_again(troubles: Troubles, url: str, cache: Path) -> None:
    troubles.coming = ["flip", "slow", "cut"]
    ranges = CachedRanges(Bucket(url, pauses_s=(0.001, 0.001, 0.001)), cache, 1 << 20)
    assert ranges.open(card_of(2)).read(0, 1000) == content_of(card_of(2))


def test_a_corrupt_object_is_named_and_not_cached(url: str, cache: Path) -> None:
    file_system().pipe_file(f"{url}/data", CONTENT[:3500] + b"x" + CONTENT[3501:])
    with pytest.raises(ValueError, match=rf"{url}/data is corrupt: sha256 of bytes 3000 to 3999 is"):
        cached(url, cache).open(card_of(3))
    file_system().pipe_file(f"{url}/data", CONTENT[:3500])
    with pytest.raises(ValueError, match=rf"{url}/data is corrupt"):
        cached(url, cache).open(card_of(3))
    file_system().rm_file(f"{url}/data")
    with pytest.raises(ValueError, match=rf"{url}/data is missing; copy it again"):
        cached(url, cache).open(card_of(3))
    assert not cache.exists() or files_in(cache) == set()


def test_the_cache_is_bounded_and_lets_go_of_what_was_not_used_for_longest(url: str, cache: Path) -> None:
    ranges = cached(url, cache, 3500)
    first = ranges.open(card_of(0))
    for number in (1, 2):
        ranges.open(card_of(number))
    for age, number in enumerate((2, 1, 0)):
        os.utime(cache / card_of(number).sha256, (time.time() - 100 - age,) * 2)
    ranges.open(card_of(0))  # the oldest, but now used
    ranges.open(card_of(3))
    assert files_in(cache) == {card_of(number).sha256 for number in (0, 2, 3)}
    for number in (4, 5, 6):
        ranges.open(card_of(number))
    assert files_in(cache) == {card_of(number).sha256 for number in (4, 5, 6)}
    assert first.read(0, 1000) == content_of(card_of(0))  # open still, though its name is gone
    assert ranges.open(card_of(0)).read(0, 1000) == content_of(card_of(0))


def test_what_killed_fetches_left_goes_and_what_others_fetch_stays(url: str, cache: Path) -> None:
    cache.mkdir()
    old, new = cache / f".{'0' * 64}.a.partial", cache / f".{'1' * 64}.b.partial"
    others = [cache / "results.csv", cache / ".results.csv.partial"]
    for path in (old, new, *others):
        path.write_bytes(b"half")
    for path in (old, *others):
        os.utime(path, (time.time() - 2 * PARTIAL_AGE_S,) * 2)
    ranges = cached(url, cache, 1000)
    for number in range(3):
        ranges.open(card_of(number))
    assert (old.exists(), new.exists()) == (False, True)
    assert all(path.exists() for path in others)  # no files of ours


def test_a_cache_that_cannot_be_written_is_named(url: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match=rf"{tmp_path}/file/cache cannot take in what comes from {url}/data .*make room"):
        cached(url, tmp_path / "file" / "cache").open(card_of(0))


def test_a_full_disk_is_told_and_leaves_nothing(url: str, cache: Path) -> None:
    ranges = cached(url, cache)
    ranges.open(card_of(0))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))  # a write beyond fails as on a full disk
    try:
        with pytest.raises(OSError, match=rf"{cache} cannot take in .*File too large.*make room"):
            ranges.open(card_of(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert files_in(cache) == {card_of(0).sha256}
    assert not list(cache.glob(".*.partial"))


def test_whoever_stops_does_not_go_on_fetching(troubles: Troubles, url: str, cache: Path) -> None:
    troubles.coming = ["slow"] * 9
    stopping = threading.Event()
    stopping.set()
    with pytest.raises(CancelledError):
        CachedRanges(Bucket(url, pauses_s=(600.0,)), cache, 1 << 20).open(card_of(0), stopping)


READER = """
import hashlib, random, sys
from pathlib import Path
from prx_model.data.places import Bucket
from prx_model.data.ranges import CachedRanges, RangeCard

url, cache, seed = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
content = b"".join(number.to_bytes(2, "big") for number in range(5000))
ranges, rng = CachedRanges(Bucket(url), cache, 3000), random.Random(seed)
for _ in range(60):
    start = 1000 * rng.randrange(10)
    part = content[start : start + 1000]
    card = RangeCard(file="data", offset=start, bytes=1000, sha256=hashlib.sha256(part).hexdigest())
    assert ranges.open(card).read(0, 1000) == part
"""


@pytest.mark.slow
def test_several_processes_share_a_cache_that_is_too_small_for_them(url: str, cache: Path) -> None:
    root = Path(__file__).parents[3]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", READER, url, str(cache), str(seed)],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in range(3)
    ]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], errors
    assert sum((cache / name).stat().st_size for name in files_in(cache)) <= 3000
    assert not list(cache.glob("*.partial"))
