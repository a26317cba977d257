from __future__ import annotations

import hashlib
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from prx_model.data.groups import group_ranges, payload_offset
from prx_model.data.manifest import ImageCard
from prx_model.data.shards import (
    ROWS_PER_GROUP,
    Row,
    decode_image,
    encode_image,
    stored_tensor,
    write_null_text,
    write_shard,
    write_shards,
)
from tests.stores import make_rows, smooth_image


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    """Read by plain Parquet, not by our reader: anyone can open a shard."""
    rows = make_rows(ROWS_PER_GROUP + 3, teachers={"dino": (4, 6)})
    card = write_shard(tmp_path, "train-00000.parquet", rows)
    stored = pq.read_table(tmp_path / card.file).to_pylist()
    assert len(stored) == card.rows == ROWS_PER_GROUP + 3
    for row, got in zip(rows, stored, strict=True):
        assert (got["key"], got["caption"], got["family"]) == (row.key, row.caption, row.family)
        assert got["image"] == row.image
        assert got["num_text_tokens"] == len(row.text)
        assert torch.equal(stored_tensor(got["text"], tuple(row.text.shape), "bfloat16"), row.text)
        assert row.latent is not None
        assert torch.equal(stored_tensor(got["latent"], tuple(row.latent.shape), "float16"), row.latent)
        assert torch.equal(stored_tensor(got["teacher_dino"], (4, 6), "float16"), row.teachers["dino"])


def test_text_takes_arrays_and_tensors_alike(tmp_path: Path) -> None:
    (row,) = make_rows(1, text_dtype=torch.float16)
    assert isinstance(row.text, torch.Tensor)
    cards = [
        write_shard(tmp_path, file, [replace(row, text=text)])
        for file, text in (("train-00000.parquet", row.text), ("train-00001.parquet", row.text.numpy()))
    ]
    assert cards[0].content_sha256 == cards[1].content_sha256
    assert cards[0].groups[0].sha256 == cards[1].groups[0].sha256


def test_groups_and_footer_cover_the_file(tmp_path: Path) -> None:
    card = write_shard(tmp_path, "train-00000.parquet", make_rows(2 * ROWS_PER_GROUP + 1))
    content = (tmp_path / card.file).read_bytes()
    assert card.bytes == len(content)
    assert card.sha256 == hashlib.sha256(content).hexdigest()
    assert [group.rows for group in card.groups] == [ROWS_PER_GROUP, ROWS_PER_GROUP, 1]
    end = 4  # "PAR1"
    for group in card.groups:
        assert group.offset == end
        end += group.bytes
        assert group.sha256 == hashlib.sha256(content[group.offset : end]).hexdigest()
    assert card.footer_offset == end
    assert card.footer_sha256 == hashlib.sha256(content[end:]).hexdigest()


def test_values_lie_in_the_file_as_they_are(tmp_path: Path) -> None:
    rows = make_rows(5)
    card = write_shard(tmp_path, "train-00000.parquet", rows)
    content = (tmp_path / card.file).read_bytes()
    (group,) = group_ranges(pq.read_metadata(tmp_path / card.file))
    start, size = group.columns["latent"]
    chunk = content[group.offset + start : group.offset + start + size]
    assert chunk[payload_offset(chunk[:64], size) :] == b"".join(row.latent.numpy().tobytes() for row in rows)


@pytest.mark.parametrize("options", [{"compression": "zstd"}, {"use_dictionary": True}])
def test_other_parquet_is_refused(options: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    plain = {"compression": "none", "use_dictionary": False}
    pq.write_table(pa.table({"key": ["a", "a"]}), buffer, **{**plain, **options})
    with pytest.raises(ValueError, match="column 'key' of row group 0 is packed as no shard is"):
        group_ranges(pq.read_metadata(buffer))


def test_a_column_of_several_pages_is_refused() -> None:
    buffer = io.BytesIO()
    table = pa.table({"n": pa.array(range(4000), pa.int32())})
    pq.write_table(table, buffer, compression="none", use_dictionary=False, data_page_size=100)
    start, size = group_ranges(pq.read_metadata(buffer))[0].columns["n"]
    head = buffer.getvalue()[4 + start : 4 + start + 64]
    with pytest.raises(ValueError, match="not one plain page"):
        payload_offset(head, size)
    with pytest.raises(ValueError, match="damaged"):
        payload_offset(b"\x00" * 64, size)


def test_content_does_not_depend_on_how_lossless_images_are_packed(tmp_path: Path) -> None:
    (row,) = make_rows(1)
    pixels = decode_image(row.image)
    webp = replace(row, image=encode_image(pixels, "webp"))
    changed = pixels.clone()
    changed[0, 0, 0] ^= 1
    cards = [
        write_shard(tmp_path, "train-00000.parquet", [variant])
        for variant in (row, webp, replace(row, image=encode_image(changed, "png")), replace(row, caption="other"))
    ]
    contents = [card.content_sha256 for card in cards]
    assert contents[0] == contents[1]
    assert len(set(contents)) == 3
    assert len({card.sha256 for card in cards}) == 4


def test_shards_hold_one_split_each_in_the_order_of_the_rows(tmp_path: Path) -> None:
    rows = [replace(row, split="heldout" if index % 3 == 0 else "train") for index, row in enumerate(make_rows(10))]
    cards = write_shards(tmp_path, rows, rows_per_shard=4)
    assert [(card.file, card.split, card.rows) for card in cards] == [
        ("train-00000.parquet", "train", 4),
        ("train-00001.parquet", "train", 2),
        ("heldout-00000.parquet", "heldout", 4),
    ]
    keys = [key for card in cards for key in pq.read_table(tmp_path / card.file)["key"].to_pylist()]
    assert keys == [f"k{index}" for index in (1, 2, 4, 5, 7, 8, 0, 3, 6, 9)]


def test_a_failed_write_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*arguments: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_shard(tmp_path, "train-00000.parquet", make_rows(3))
    assert list(tmp_path.iterdir()) == []


def odd_rows() -> dict[str, tuple[Row, str]]:
    _, second = make_rows(2)
    return {
        "split": (replace(second, split="heldout"), "row 'k1' has .*heldout.*all must agree"),
        "width": (replace(second, text=torch.zeros(2, 3).bfloat16()), "row 'k1' has .*all must agree"),
        "latent": (replace(second, latent=None), "row 'k1' has .*all must agree"),
        "dtype": (replace(second, text=torch.zeros(2, 4)), "dtype: got float32, allowed is one of float16, bfloat16"),
        "tokens": (replace(second, text=torch.zeros(0, 4).bfloat16()), "row 'k1' has no text tokens"),
    }


@pytest.mark.parametrize("name", ["split", "width", "latent", "dtype", "tokens"])
def test_rows_that_do_not_fit_are_refused(tmp_path: Path, name: str) -> None:
    row, message = odd_rows()[name]
    with pytest.raises(ValueError, match=message):
        write_shard(tmp_path, "train-00000.parquet", [make_rows(1)[0], row])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("format", "quality"), [("jpeg", 95), ("webp", 90)])
def test_lossy_heldout_images_are_refused(tmp_path: Path, format: str, quality: int) -> None:
    (row,) = make_rows(1)
    lossy = replace(row, split="heldout", image=encode_image(decode_image(row.image), format, quality))
    with pytest.raises(ValueError, match="row 'k0' is held out and neither PNG nor lossless WebP"):
        write_shard(tmp_path, "heldout-00000.parquet", [lossy])


def test_null_text_is_a_row_of_its_own(tmp_path: Path) -> None:
    text = torch.randn(2, 4).bfloat16()
    card = write_null_text(tmp_path, text)
    (got,) = pq.read_table(tmp_path / card.file).to_pylist()
    assert (card.file, card.split, card.rows) == ("null_text.parquet", "", 1)
    assert torch.equal(stored_tensor(got["text"], (2, 4), "bfloat16"), text)


@pytest.mark.parametrize("format", ["png", "webp"])
def test_lossless_images_come_back_to_the_bit(format: str) -> None:
    image = smooth_image(0, 24)
    assert torch.equal(decode_image(encode_image(image, format)), image)
    assert torch.equal(decode_image(encode_image(image.permute(1, 2, 0).numpy(), format)), image)


@pytest.mark.parametrize("format", ["jpeg", "webp"])
def test_lossy_images_come_back_nearly(format: str) -> None:
    image = smooth_image(0, 64)
    better, worse = (decode_image(encode_image(image, format, quality)).float() for quality in (95, 10))
    assert (better - image.float()).abs().mean() < 3
    assert 0 < (better - image.float()).abs().mean() < (worse - image.float()).abs().mean()


def test_grey_images_become_rgb() -> None:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8), 7, dtype=np.uint8)).save(buffer, format="PNG")
    assert torch.equal(decode_image(buffer.getvalue()), torch.full((3, 8, 8), 7, dtype=torch.uint8))


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"no image", lambda data: b""])
@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_a_corrupt_image_is_a_value_error(damage: Any, format: str) -> None:
    data = encode_image(smooth_image(0, 64), format, None if format == "png" else 90)
    with pytest.raises(ValueError, match="image is corrupt"):
        decode_image(damage(data))


@pytest.mark.parametrize(
    ("format", "quality", "message"),
    [("gif", None, "format: got 'gif', allowed is one of png, jpeg, webp"), ("jpeg", None, "quality: got None")],
)
def test_impossible_encodings_are_refused(format: str, quality: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode_image(smooth_image(0, 8), format, quality)


@pytest.mark.parametrize(
    ("train_format", "heldout_format", "quality", "message"),
    [
        ("gif", "png", None, "train_format: got 'gif', allowed is one of png, jpeg, webp"),
        ("jpeg", "jpeg", 90, "heldout_format: got 'jpeg', allowed is png or webp"),
        ("jpeg", "png", None, "quality: got None, allowed for jpeg is an integer of 1 to 100"),
        ("png", "png", 90, "quality: got 90, allowed for png is null"),
        ("webp", "png", 0, "quality: got 0, allowed is an integer of 1 to 100"),
    ],
)
def test_impossible_image_cards_are_refused(
    train_format: str, heldout_format: str, quality: int | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ImageCard(train_format=train_format, heldout_format=heldout_format, quality=quality)
