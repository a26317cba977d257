"""An address in S3 as a sweep uses it, against a real server that answers late, twice, or not at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from prx_model.data.patience import ForbiddenError, StorageError
from sweeps import object_path
from sweeps.locations import copy_files, folders_in, location, names_in, publish, write_whole
from sweeps.object_path import ObjectPath, read_many
from tests.flaky_server import Troubles


def test_an_address_is_a_path(stored):
    path = stored / "sweep" / "ledger/a.jsonl"
    assert str(path) == f"s3://{stored.bucket}/results/sweep/ledger/a.jsonl"
    assert (path.name, path.parent.name, path.parent.parent) == ("a.jsonl", "ledger", stored / "sweep")
    assert ObjectPath.of(str(path)) == path == location(f"s3://{stored.bucket}//results/sweep/ledger/a.jsonl/")
    assert path.pauses_s == stored.pauses_s
    assert location("results") == Path("results")
    assert str(ObjectPath.of("s3://bucket")) == "s3://bucket"


@pytest.mark.parametrize("text", ["s3://", "s3:///a", "gs://bucket/a", "https://host/a", "s3://bucket/../a"])
def test_what_is_no_address_is_one_line(text):
    with pytest.raises(ValueError, match=r"got '.*', allowed is .*s3://bucket/prefix$"):
        location(text)


def test_a_folder_and_an_address_hold_files_alike(stored, tmp_path):
    for root in (tmp_path / "results", stored):
        assert not root.exists()
        assert folders_in(root) == []
        assert names_in(root) == set()
        write_whole(root / "a" / "one.txt", b"1")
        write_whole(root / "a" / "two.txt", b"2")
        write_whole(root / "b" / "deep" / "three.txt", b"3")
        write_whole(root / "a" / "two.txt", b"22")
        assert [folder.name for folder in folders_in(root)] == ["a", "b"]
        assert (root / "a").is_dir()
        assert not (root / "a").is_file()
        assert (root / "a" / "one.txt").is_file()
        assert not (root / "a" / "on").exists()
        assert names_in(root / "a") == {"one.txt", "two.txt"}
        assert (root / "a" / "two.txt").read_text() == "22"
        with pytest.raises(FileNotFoundError):
            (root / "a" / "three.txt").read_bytes()
        copy_files(root / "a", root / "c")
        copy_files(root / "nowhere", root / "d")
        assert names_in(root / "c") == {"one.txt", "two.txt"}
        assert not (root / "d").exists()


def test_many_are_listed_over_several_pages_and_read_side_by_side_in_order(stored, monkeypatch):
    monkeypatch.setattr(object_path, "PAGE", 2)
    paths = [stored / f"{i}" / "file" for i in range(5)]
    for path in paths:
        path.write_bytes(str(path).encode())
    assert list(stored.files()) == paths
    assert stored.folders() == [path.parent for path in paths]
    assert [content.decode() for content in read_many(paths)] == list(map(str, paths))
    assert list(read_many([])) == []


def test_a_finished_folder_takes_the_place_of_another(stored, tmp_path):
    for place in (tmp_path / "model", stored / "model"):
        for number, names in ((1, ("index.json", "deep/weights", "old")), (2, ("index.json", "deep/weights", "new"))):
            folder = tmp_path / "made"
            for name in names:
                write_whole(folder / name, f"{name} {number}".encode())
            publish(folder, place, last="index.json")
            assert not folder.exists()
        assert {name for name in ("index.json", "old", "new") if (place / name).is_file()} == {"index.json", "new"}
        assert (place / "deep" / "weights").read_text() == "deep/weights 2"


def test_a_folder_half_sent_lacks_the_file_without_which_it_is_nothing(stored, troubles: Troubles, tmp_path):
    for number in (1, 2):
        for name in ("a", "index.json", "z"):
            write_whole(tmp_path / "made" / name, f"{name} {number}".encode())
        if number == 2:
            troubles.of, troubles.coming = ("PUT",), ["", *["slow"] * 9]
        try:
            publish(tmp_path / "made", stored, last="index.json")
        except StorageError:
            assert number == 2
    assert ((stored / "a").read_text(), (stored / "z").read_text()) == ("a 2", "z 1")
    assert not (stored / "index.json").exists()


# -- writes on a condition


def test_only_the_first_creates_and_only_who_knows_the_content_replaces_it(stored):
    path = stored / "row"
    tag = path.create(b"mine")
    assert tag is not None
    assert path.create(b"yours") is None
    assert path.read_bytes() == b"mine"
    newer = path.replace(b"newer", tag)
    assert newer is not None
    assert path.replace(b"late", tag) is None
    there = path.read_tagged()
    assert there is not None
    assert (there.content, there.tag) == (b"newer", newer)
    assert -2 <= there.age_s < 60
    path.remove()
    path.remove()
    assert path.read_tagged() is None
    assert path.replace(b"gone", newer) is None


@pytest.mark.parametrize("coming", [["lost"], ["slow", "lost", "slow"], ["lost", "lost"]])
def test_a_write_whose_answer_was_lost_is_known_to_have_been_made(stored, troubles: Troubles, coming):
    troubles.of = ("PUT",)
    troubles.coming = coming.copy()
    tag = (stored / "row").create(b"mine")
    assert tag is not None
    troubles.coming = coming.copy()
    assert (stored / "row").replace(b"newer", tag) is not None
    assert troubles.methods.count("PUT") == 2 * (len(coming) + 1)
    assert (stored / "row").read_bytes() == b"newer"


# -- what does not pass


def test_trouble_that_stays_is_one_line_with_the_address(stored, troubles: Troubles):
    troubles.coming = ["slow"] * 99
    with pytest.raises(StorageError, match=rf"^{stored}/a could not be written in 4 tries; the last: .*") as error:
        (stored / "a").write_bytes(b"x")
    assert "\n" not in str(error.value)
    troubles.coming = ["denied"]
    with pytest.raises(ForbiddenError, match=rf"^{stored}/a may not be written \(.*\); check the AWS credentials$"):
        (stored / "a").write_bytes(b"x")


def test_a_missing_bucket_is_empty_to_readers_and_an_error_to_writers(stored):
    nowhere = replace(stored, bucket="no-such-bucket-here")
    assert (nowhere.files(), nowhere.folders(), nowhere.is_dir(), nowhere.is_file()) == ({}, [], False, False)
    for write in (nowhere.write_bytes, nowhere.create, lambda content: nowhere.replace(content, '"tag"')):
        with pytest.raises(StorageError, match=r"results cannot be written: there is no bucket 'no-such-bucket-here'"):
            write(b"x")
