from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest

from prx_model.encoding import parquet_rows, tar_members
from prx_model.encoding.listing import Listed, SourceItem
from prx_model.encoding.sources import layout_of, recognise
from tests.picture_sources import (
    pairs,
    picture,
    write_csv,
    write_folder,
    write_jsonl,
    write_parquet,
    write_tar,
    write_tars,
)

PAIRS = pairs(12)
WRITERS = {
    "folder": write_folder,
    "list": write_jsonl,
    "csv": write_csv,
    "parquet": write_parquet,
    "tar": write_tars,
    "tar of json": lambda folder, chosen: write_tars(folder, chosen, as_json=True),
}


def read_all(location: Path, **columns: str) -> list[SourceItem]:
    layout = layout_of(recognise(str(location), **columns))
    return list(layout.read(list(layout.listed())))


def problems(items: list[SourceItem]) -> dict[str, str]:
    return {item.key: item.problem for item in items if item.problem}


@pytest.mark.parametrize("layout", WRITERS)
def test_every_layout_gives_the_pairs_that_were_written_in_order(layout, tmp_path):
    written = PAIRS if layout != "csv" else [(k, i, f'{c}, "quoted"\nover two lines') for k, i, c in PAIRS]
    items = read_all(WRITERS[layout](tmp_path, PAIRS))
    assert [(item.image, item.caption) for item in items] == [(image, caption) for _, image, caption in written]
    assert len({item.key for item in items}) == len(items)


@pytest.mark.parametrize("layout", WRITERS)
def test_any_stretch_of_the_list_reads_as_in_the_whole(layout, tmp_path):
    layout = layout_of(recognise(str(WRITERS[layout](tmp_path, PAIRS))))
    listed = list(layout.listed())
    whole = list(layout.read(listed))
    for start, stop in ((0, 1), (4, 9), (5, 6), (11, 12)):
        assert list(layout.read(listed[start:stop])) == whole[start:stop]


def test_listing_twice_gives_the_same_and_hidden_files_do_not_count(tmp_path):
    write_folder(tmp_path, PAIRS)
    layout = layout_of(recognise(str(tmp_path)))
    first = list(layout.listed())
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "x.jpg").write_bytes(picture(0))
    (tmp_path / "_SUCCESS").touch()
    assert list(layout.listed()) == first


@pytest.mark.parametrize(("layout", "column"), [("list", "short_caption"), ("parquet", "short_caption")])
def test_the_caption_column_can_be_chosen(layout, column, tmp_path):
    items = read_all(WRITERS[layout](tmp_path, PAIRS), caption_column=column)
    assert [item.caption for item in items] == [caption[:8].strip() for _, _, caption in PAIRS]


def test_the_field_of_json_members_can_be_chosen(tmp_path):
    items = read_all(write_tars(tmp_path, PAIRS, as_json=True), caption_column="short")
    assert [item.caption for item in items] == [caption[:8].strip() for _, _, caption in PAIRS]


def test_one_file_is_a_source(tmp_path):
    write_tars(tmp_path, PAIRS)
    assert len(read_all(tmp_path / "00001.tar")) == 6
    assert len(read_all(write_parquet(tmp_path / "p", PAIRS) / "data" / "train-00000.parquet")) == 6
    assert len(read_all(write_jsonl(tmp_path / "l", PAIRS) / "metadata.jsonl")) == 12


def test_img2datasets_tables_beside_tars_are_no_second_source(tmp_path):
    write_tars(tmp_path, PAIRS)
    write_parquet(tmp_path, PAIRS, files=1)
    (tmp_path / "data" / "train-00000.parquet").rename(tmp_path / "00000.parquet")
    assert recognise(str(tmp_path)).layout == "tar"


def test_a_folder_names_what_its_items_lack(tmp_path):
    write_folder(tmp_path, PAIRS)
    (tmp_path / "a" / "picture-000.txt").unlink()
    (tmp_path / "a" / "picture-001.txt").write_text(" \n")
    (tmp_path / "a" / "picture-002.txt").write_bytes(b"\xff\xfe\xfa")
    (tmp_path / "a" / "picture-003.png").write_bytes(picture(3, format="PNG"))
    assert problems(read_all(tmp_path)) == {
        "a/picture-000": "missing caption",
        "a/picture-001": "empty caption",
        "a/picture-002": "unreadable caption",
        "a/picture-003": "several images",
    }


def test_a_listed_file_that_has_gone_since_is_an_error_not_a_skipped_item(tmp_path):
    layout = layout_of(recognise(str(write_folder(tmp_path, PAIRS))))
    listed = list(layout.listed())
    (tmp_path / "a" / "picture-001.jpg").unlink()
    with pytest.raises(FileNotFoundError):
        list(layout.read(listed))


def test_brackets_in_file_names_are_no_pattern(tmp_path):
    write_folder(tmp_path, [("photo [1]*", picture(1), "a photo"), ("photo 1", picture(2), "another")])
    assert [item.caption for item in read_all(tmp_path)] == ["a photo", "another"]


def test_a_list_names_what_its_items_lack(tmp_path):
    extra = [
        {"file_name": "images/nowhere.jpg", "caption": "x"},
        {"file_name": None, "caption": "x"},
        {"file_name": "images/picture-000.png", "caption": 3},
        {"file_name": "images/none.jpg"},
        {"file_name": "images/empty.jpg", "caption": ""},
    ]
    assert problems(read_all(write_jsonl(tmp_path, PAIRS, extra))) == {
        "images/nowhere": "missing image",
        "row 14": "missing image",
        "images/picture-000": "unreadable caption",
        "images/none": "missing caption",
        "images/empty": "empty caption",
    }


def test_parquet_names_what_its_rows_lack(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    images = [picture(0), None, picture(2), picture(3)]
    pq.write_table(pa.table({"jpeg": images, "prompt": ["a", "b", None, " "]}), tmp_path / "x.parquet")
    assert problems(read_all(tmp_path)) == {
        "x/0000001": "missing image",
        "x/0000002": "missing caption",
        "x/0000003": "empty caption",
    }


def test_a_tar_names_what_its_items_lack(tmp_path):
    members = {
        "a/0.jpg": picture(0),
        "a/1.txt": b"no picture",
        "a/2.jpg": picture(2),
        "a/2.txt": b"whole",
        "a/3.jpg": picture(3),
        "a/3.png": picture(3, format="PNG"),
        "a/3.txt": b"two pictures",
        "a/4.jpg": picture(4),
        "a/4.json": b"{not json",
    }
    write_tar(tmp_path / "x.tar", members)
    assert problems(read_all(tmp_path)) == {
        "x/a/0": "missing caption",
        "x/a/1": "missing image",
        "x/a/3": "several images",
        "x/a/4": "unreadable caption",
    }


@pytest.mark.parametrize("lost", [1_000, 600, 10_240])
def test_a_tar_that_was_cut_off_gives_what_it_has_and_names_what_was_cut(lost, tmp_path):
    """Inside the last image, inside the header of its caption, and so that only the end marker is gone."""
    whole = write_tar(
        tmp_path / "x.tar", {"0.jpg": picture(0), "0.txt": b"a", "1.jpg": picture(1), "1.txt": b"b" * 511}
    )
    content = whole.read_bytes().rstrip(b"\0")
    content = content if lost == 10_240 else content[: len(content) - lost]
    whole.write_bytes(content)
    items = read_all(tmp_path)
    assert [item.key for item in items] == ["x/0", "x/1"]
    assert problems(items) == ({} if lost == 10_240 else {"x/1": "truncated file"})


def test_a_tar_cut_off_after_the_listing_is_told_by_the_item(tmp_path):
    path = write_tar(tmp_path / "x.tar", {"0.jpg": picture(0), "0.txt": b"a", "1.jpg": picture(1), "1.txt": b"b"})
    layout = layout_of(recognise(str(tmp_path)))
    listed = list(layout.listed())
    assert listed[1].start is not None
    path.write_bytes(path.read_bytes()[: listed[1].start + 10])
    assert problems(list(layout.read(listed))) == {"x/1": "truncated file"}


@pytest.mark.parametrize("layout", ["parquet", "tar"])
def test_a_limit_opens_no_more_files_than_it_takes(layout, tmp_path, monkeypatch):
    monkeypatch.setattr(tar_members, "TARS_AT_A_TIME", 1)
    monkeypatch.setattr(parquet_rows, "FOOTERS_AT_A_TIME", 1)
    location = WRITERS[layout](tmp_path, PAIRS)
    last = max(path for path in location.rglob("*") if path.is_file())
    source = recognise(str(location))
    last.write_bytes(b"damaged")
    assert len(list(islice(layout_of(source).listed(), 6))) == 6
    with pytest.raises(ValueError, match=last.name):
        list(islice(layout_of(source).listed(), 7))


def test_what_is_known_to_be_wrong_is_not_opened(tmp_path):
    layout = layout_of(recognise(str(write_folder(tmp_path, PAIRS))))
    wrong = [Listed(key="gone", file="a/gone.jpg", caption_file="a/gone.txt", problem="duplicate key")]
    assert list(layout.read(wrong)) == [SourceItem(key="gone", problem="duplicate key")]


def _mixed(folder: Path) -> None:
    write_folder(folder, PAIRS)
    write_tar(folder / "x.tar", {"0.jpg": b"x"})


def _two_captions(folder: Path) -> None:
    rows = [{"image": "a.jpg", "caption": "x", "text": "y"}]
    (folder / "list.jsonl").write_text("".join(json.dumps(row) for row in rows))


WRONG = {
    "nothing": (lambda folder: None, "no such folder or file, or nothing in it; allowed is a folder of images"),
    "other files": (lambda folder: (folder / "a.pdf").touch(), "no images .* found, only .pdf"),
    "no captions": (lambda folder: (folder / "a.jpg").touch(), "1 images, but no captions"),
    "two kinds": (_mixed, "1 .tar and 12 images: which"),
    "two lists": (
        lambda folder: (write_jsonl(folder, PAIRS), (folder / "b.csv").touch()),
        "captions may be in b.csv or metadata.jsonl: name the file",
    ),
    "two captions": (_two_captions, "both caption and text may hold the caption; choose with --caption-column"),
    "no list": (lambda folder: (folder / "a.jsonl").write_text("[1]\n"), "line 1: got list, allowed is an object"),
    "no JSON": (lambda folder: (folder / "a.jsonl").write_text("{}\n{"), "line 2 is not JSON"),
    "no tar": (lambda folder: (folder / "a.tar").write_bytes(b"x" * 999), "a.tar is no tar"),
    "no Parquet": (lambda folder: (folder / "a.parquet").write_bytes(b"x" * 999), "a.parquet is no whole Parquet file"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_encoded_is_said_in_one_line(what, tmp_path):
    make, message = WRONG[what]
    make(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        read_all(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_an_unknown_column_is_answered_with_those_there_are(tmp_path):
    write_parquet(tmp_path, PAIRS)
    with pytest.raises(ValueError, match=r"--caption-column: got 'text', allowed .* image, caption, short_caption"):
        recognise(str(tmp_path), caption_column="text")
    with pytest.raises(ValueError, match=r"--image-column: got 'jpg', allowed .* image, caption, short_caption"):
        recognise(str(tmp_path), image_column="jpg")


def test_captions_beside_images_have_no_column(tmp_path):
    with pytest.raises(ValueError, match="--caption-column: the source is a folder"):
        recognise(str(write_folder(tmp_path, PAIRS)), caption_column="text")
