from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from prx_model.data.durable import write_file
from prx_model.data.heldout import HeldOut
from prx_model.data.manifest import Manifest
from prx_model.data.shards import decode_image
from prx_model.data.store import EncodedStore, ImageCaptionStore
from tests.s3_server import file_system
from tests.stores import LONGEST, make_rows, write_store


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 train rows in 3 shards, 90 held-out rows in one of two groups. Tests must not write into it."""
    path = tmp_path_factory.mktemp("stores") / "set"
    write_store(path, num_heldout=90, teachers={"dino": (4, 6)})
    return path


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def opened(location: Path | str, cache: Path | None = None) -> EncodedStore:
    return EncodedStore.open(location, cache=cache or Path("never-made"), cache_bytes=1 << 20)


def changed_byte(path: Path, place: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)


def test_manifests_come_back_as_they_were_written(folder: Path) -> None:
    manifest = Manifest.read(folder)
    assert manifest.latents is not None
    assert manifest.teachers[0].grid == (1, 4)
    assert manifest.shards[0].groups[1].rows == 36
    write_file(folder.parent / "manifest.json", lambda file: file.write(manifest.to_json().encode()))
    assert Manifest.read(folder.parent) == manifest == Manifest.read(str(folder))


def test_an_opened_store_says_what_it_holds(folder: Path) -> None:
    store = opened(folder)
    assert store.num_train == 300
    assert store.train.group_rows == [64, 36] * 3
    assert store.fingerprint == Manifest.read(folder).fingerprint
    assert isinstance(store.heldout, HeldOut)
    assert len(store.heldout) == 90
    assert not Path("never-made").exists()  # a local store needs no cache


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_null_text_is_what_was_stored(tmp_path: Path, dtype: str) -> None:
    write_store(tmp_path, num_train=3, num_heldout=1, text_dtype=dtype)
    expected = torch.randn((2, 4), generator=torch.Generator().manual_seed(7))
    for store in (opened(tmp_path), ImageCaptionStore.open(tmp_path)):
        assert store.null_text.dtype == torch.float32
        assert torch.equal(store.null_text, expected.to(getattr(torch, dtype)).float())


def test_heldout_rows_are_those_that_were_written(folder: Path) -> None:
    heldout = opened(folder).heldout
    expected = make_rows(90, split="heldout", start=300)
    asked = [89, 0, 63, 64, 5, 5]
    text, mask = heldout.texts_of(asked)
    images = heldout.images_of(asked)
    assert text.shape == (6, LONGEST, 4)
    assert text.dtype == torch.float32
    for index, row in enumerate(asked):
        length = len(expected[row].text)
        assert mask[index].tolist() == [True] * length + [False] * (LONGEST - length)
        assert torch.equal(text[index, :length], torch.as_tensor(expected[row].text).float())
        assert (text[index, length:] == 0).all()
        assert torch.equal(images[index], decode_image(expected[row].image))
    assert heldout.captions[89] == heldout.captions[-1] == expected[89].caption
    assert heldout.captions[60:70] == [row.caption for row in expected[60:70]]
    assert list(heldout.captions) == [row.caption for row in expected]


def test_streamed_and_in_memory_stores_agree(folder: Path) -> None:
    streamed, memory = opened(folder).heldout, ImageCaptionStore.open(folder).heldout
    rows = range(90)
    assert streamed.fingerprint == memory.fingerprint
    assert tuple(streamed.captions) == memory.captions
    assert torch.equal(streamed.images_of(rows), memory.images_of(rows))
    assert torch.equal(streamed.texts_of(rows)[0], memory.texts_of(rows)[0][:, :LONGEST])
    assert torch.equal(streamed.texts_of(rows)[1], memory.texts_of(rows)[1][:, :LONGEST])


@pytest.mark.parametrize("row", [90, -1])
def test_rows_that_are_not_there_are_refused(folder: Path, row: int) -> None:
    with pytest.raises(IndexError, match=f"row: got {row}, allowed is 0 to 89"):
        opened(folder).heldout.images_of([0, row])


def test_a_store_without_heldout_rows_opens(tmp_path: Path) -> None:
    write_store(tmp_path, num_train=3, num_heldout=0)
    assert len(opened(tmp_path).heldout) == 0
    assert len(ImageCaptionStore.open(tmp_path).heldout) == 0


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / "train-00001.parquet").unlink(), r"copy/train-00001\.parquet is missing; copy it again"),
        (
            lambda path: (path / "train-00001.parquet").write_bytes(b"x" * 99),
            r"copy/train-00001\.parquet is truncated or foreign: 99 bytes, the manifest says \d+; copy it again",
        ),
        (lambda path: (path / "null_text.parquet").unlink(), r"copy/null_text\.parquet is missing"),
        (lambda path: changed_byte(path / "null_text.parquet"), r"copy/null_text\.parquet is corrupt: sha256 is \w+"),
        (lambda path: (path / "manifest.json").unlink(), r"copy holds no data set \(manifest\.json is missing\)"),
        (lambda path: changed_byte(path / "manifest.json"), r"copy/manifest\.json is damaged or foreign"),
        (lambda path: (path / "manifest.json").write_text("[1]"), r"copy/manifest\.json is damaged or foreign"),
    ],
)
def test_what_is_wrong_at_first_sight_is_named(copied: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(copied)
    with pytest.raises(ValueError, match=message) as error:
        opened(copied)
    assert "\n" not in str(error.value)


def test_a_changed_byte_is_found_when_its_group_is_read(copied: Path) -> None:
    changed_byte(copied / "heldout-00000.parquet", place=0.2)
    heldout = opened(copied).heldout
    heldout.images_of([64, 89])  # the second group is sound
    with pytest.raises(ValueError, match=r"copy/heldout-00000\.parquet is corrupt: sha256 of bytes 4 to \d+ is"):
        heldout.texts_of([0])


def test_a_changed_footer_is_found(copied: Path) -> None:
    changed_byte(copied / "heldout-00000.parquet", place=0.999)
    with pytest.raises(ValueError, match=r"copy/heldout-00000\.parquet is corrupt: sha256 of bytes"):
        opened(copied).heldout.images_of([0])


def test_a_corrupt_image_is_named_with_its_row(tmp_path: Path) -> None:
    """It was stored so: every checksum is right."""
    from prx_model.data.shards import write_shard

    manifest = write_store(tmp_path, num_train=3, num_heldout=2)
    rows = make_rows(2, split="heldout", start=3)
    rows[1] = replace(rows[1], image=rows[1].image[:60])
    with pytest.raises(ValueError, match="image is corrupt"):
        write_shard(tmp_path, "heldout-00000.parquet", rows)
    big = make_rows(2, split="heldout", start=3, side=16)
    card = write_shard(tmp_path, "heldout-00000.parquet", [rows[0], big[1]])
    manifest = replace(manifest, shards=(*manifest.shards_of("train"), card))
    write_file(tmp_path / "manifest.json", lambda file: file.write(manifest.to_json().encode()))
    with pytest.raises(ValueError, match=r"heldout-00000\.parquet: row 'k4': image is 16x16, .* says 8 a side"):
        opened(tmp_path).heldout.images_of([0, 1])


def test_a_longer_text_than_the_manifest_says_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    manifest = replace(Manifest.read(folder), longest_text=LONGEST - 1)
    write_file(copy / "manifest.json", lambda file: file.write(manifest.to_json().encode()))
    with pytest.raises(ValueError, match=r"heldout-00000\.parquet: a text has 5 tokens, the manifest says 1 to 4"):
        opened(copy).heldout.texts_of(range(10))


@pytest.mark.parametrize("file", ["train-00002.parquet", "heldout-00000.parquet", "null_text.parquet"])
def test_verify_names_the_corrupt_file(copied: Path, file: str) -> None:
    seen: list[tuple[int, int]] = []
    store = opened(copied)
    store.verify(lambda done, total: seen.append((done, total)))
    assert seen[-1] == (sum(path.stat().st_size for path in copied.glob("*.parquet")),) * 2
    changed_byte(copied / file)
    with pytest.raises(ValueError, match=rf"copy/{file} is corrupt: sha256 is"):
        store.verify()
    (copied / file).unlink()
    with pytest.raises(ValueError, match=rf"copy/{file} is missing"):
        store.verify()


def test_a_store_on_s3_is_the_same(folder: Path, s3_bucket: str, tmp_path: Path) -> None:
    location = f"{s3_bucket}/sets/one"
    file_system().put(str(folder), location, recursive=True)
    store, local = opened(location, tmp_path), opened(folder)
    store.verify()
    assert store.manifest == local.manifest
    assert torch.equal(store.null_text, local.null_text)
    assert torch.equal(store.heldout.images_of([3, 70]), local.heldout.images_of([3, 70]))
    assert torch.equal(store.heldout.texts_of([3, 70])[0], local.heldout.texts_of([3, 70])[0])
    assert store.heldout.captions[70] == local.heldout.captions[70]


def test_what_is_wrong_on_s3_is_named(folder: Path, s3_bucket: str, tmp_path: Path) -> None:
    location = f"{s3_bucket}/set"
    files = file_system()
    with pytest.raises(ValueError, match=rf"{location} holds no data set"):
        opened(location, tmp_path)
    files.put(str(folder), location, recursive=True)
    with pytest.raises(ValueError, match=r"cache_bytes: got 1000, allowed is at least \d+, the largest row group"):
        EncodedStore.open(location, cache=tmp_path, cache_bytes=1000)
    files.pipe_file(f"{location}/train-00001.parquet", b"x" * 99)
    with pytest.raises(ValueError, match=rf"{location}/train-00001\.parquet is truncated or foreign: 99 bytes"):
        opened(location, tmp_path)
    files.rm_file(f"{location}/train-00001.parquet")
    with pytest.raises(ValueError, match=rf"{location}/train-00001\.parquet is missing"):
        opened(location, tmp_path)
