from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from prx_model.data.places import Bucket, Folder, place_at
from tests.flaky_server import Troubles, flaky_server
from tests.s3_server import file_system

QUICK = (0.001, 0.001, 0.001)


@pytest.fixture
def filled(s3_bucket: str) -> str:
    files = file_system()
    files.pipe_file(f"{s3_bucket}/set/digits", b"0123456789")
    files.pipe_file(f"{s3_bucket}/set/empty", b"")
    files.pipe_file(f"{s3_bucket}/set/deeper/file", b"x")
    files.pipe_file(f"{s3_bucket}/settle", b"x")
    return f"{s3_bucket}/set"


@pytest.fixture
def troubles(filled: str, s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Troubles]:
    with flaky_server(s3_server) as flaky:
        monkeypatch.setenv("AWS_ENDPOINT_URL", flaky.endpoint)
        yield flaky


def test_folder_and_bucket_read_alike(filled: str, tmp_path: Path) -> None:
    (tmp_path / "digits").write_bytes(b"0123456789")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "deeper").mkdir()
    for place in (place_at(tmp_path), place_at(str(tmp_path)), place_at(filled), place_at(filled + "/")):
        assert place.sizes() == {"digits": 10, "empty": 0}
        assert place.read("digits") == b"0123456789"
        assert place.read("digits", 2, 5) == b"234"
        assert place.read("digits", 0, 3) == b"012"
        assert place.read("digits", 7) == b"789"
        assert place.read("digits", 7, 99) == b"789"
        assert place.read("empty") == b""
        with pytest.raises(FileNotFoundError, match="none"):
            place.read("none")
    assert place_at(filled).name_of("digits") == f"{filled}/digits"


def test_nothing_there_is_an_empty_place(s3_bucket: str, tmp_path: Path) -> None:
    assert place_at(tmp_path / "nowhere").sizes() == {}
    assert place_at(f"{s3_bucket}/nowhere").sizes() == {}
    assert Bucket("s3://no-such-bucket-anywhere/set", pauses_s=QUICK).sizes() == {}


@pytest.mark.parametrize("location", ["gs://bucket/set", "https://host/set", "s3:///set"])
def test_other_places_are_refused(location: str) -> None:
    with pytest.raises(ValueError, match=f"location: got '{location}', allowed is"):
        place_at(location)


@pytest.mark.parametrize("coming", [["slow"], ["cut"], ["slow", "cut", "slow"]])
def test_what_passes_is_waited_for(troubles: Troubles, filled: str, coming: list[str]) -> None:
    troubles.coming = coming.copy()
    assert Bucket(filled, pauses_s=QUICK).read("digits", 2, 6) == b"2345"
    assert len(troubles.requests) == len(coming) + 1


def test_what_does_not_pass_ends_in_one_line_after_all_tries(troubles: Troubles, filled: str) -> None:
    troubles.coming = ["slow"] * 99
    with pytest.raises(OSError, match=rf"^{filled}/digits could not be read in 4 tries; the last: .*SlowDown|Reduce"):
        Bucket(filled, pauses_s=QUICK).read("digits")
    assert len(troubles.requests) == 4  # and s3fs and botocore have none of their own


def test_no_server_ends_in_one_line(filled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(OSError, match=r"digits could not be read in 4 tries; the last: \w+: .*127\.0\.0\.1:9") as error:
        Bucket(filled, pauses_s=QUICK).read("digits")
    assert "\n" not in str(error.value)


def test_missing_files_and_credentials_are_told_at_once(
    troubles: Troubles, filled: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError, match=f"{filled}/none is missing"):
        Bucket(filled).read("none")
    assert len(troubles.requests) == 1
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(PermissionError, match=f"{filled}/digits may not be read .*credentials"):
        Bucket(filled).read("digits")


def test_whoever_stops_does_not_wait_for_the_next_try(troubles: Troubles, filled: str) -> None:
    troubles.coming = ["slow"] * 99
    stopping = threading.Event()
    stopping.set()
    with pytest.raises(CancelledError):
        Bucket(filled, pauses_s=(600.0,)).read("digits", stopping=stopping)
    assert len(troubles.requests) == 1


def test_a_folder_needs_no_s3(tmp_path: Path) -> None:
    assert isinstance(place_at(tmp_path), Folder)
    assert isinstance(place_at("s3://bucket"), Bucket)
