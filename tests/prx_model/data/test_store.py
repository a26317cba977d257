from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from prx_model.data.heldout import HeldOut
from prx_model.data.manifest import Manifest
from prx_model.data.store import ImageCaptionStore
from prx_model.encoding.text import MiniLmEncoder


@pytest.fixture
def copied(small_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_folder, tmp_path / "copy"))


def test_text_is_the_encoding_of_the_caption_padded_with_zeros(small_store: ImageCaptionStore) -> None:
    encoder = MiniLmEncoder()
    for split in (small_store.train, small_store.heldout):
        assert split.text.shape == (len(split), 16, 384)
        assert split.text.dtype == torch.float32
        assert split.text_mask.dtype == torch.bool
        assert (split.text[~split.text_mask] == 0).all()
        for index, states in enumerate(encoder(split.captions)):
            length = len(states)
            assert split.text_mask[index].tolist() == [True] * length + [False] * (16 - length)
            # float16 has 11 significant bits; states stay below 8
            torch.testing.assert_close(split.text[index, :length], states, atol=4e-3, rtol=1e-3)


def test_null_text_is_the_encoding_of_the_empty_caption(small_store: ImageCaptionStore) -> None:
    (expected,) = MiniLmEncoder()([""])
    assert small_store.null_text.shape == (2, 384)
    assert small_store.null_text.dtype == torch.float32
    torch.testing.assert_close(small_store.null_text, expected, atol=4e-3, rtol=1e-3)


def test_images_are_those_of_the_png_files(small_store: ImageCaptionStore, small_folder: Path) -> None:
    import io

    from PIL import Image

    cards = small_store.manifest.shards_of("train")
    stored = {row["key"]: row for card in cards for row in pq.read_table(small_folder / card.file).to_pylist()}
    for key, image in zip(small_store.train.keys, small_store.train.images, strict=True):
        with Image.open(io.BytesIO(stored[key]["image"])) as png:
            assert np.array_equal(np.asarray(png), image.permute(1, 2, 0).numpy())


def test_heldout_order_is_shuffled(small_store: ImageCaptionStore) -> None:
    assert list(small_store.heldout.keys) != sorted(small_store.heldout.keys)


@pytest.mark.parametrize("name", ["train-00000.parquet", "heldout-00000.parquet", "null_text.parquet"])
def test_a_changed_byte_is_found_and_named(copied: Path, name: str) -> None:
    content = bytearray((copied / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copied / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} is corrupt.*delete .*copy and run again"):
        ImageCaptionStore.open(copied)


def test_a_missing_shard_is_named(copied: Path) -> None:
    (copied / "train-00000.parquet").unlink()
    with pytest.raises(ValueError, match=r"train-00000\.parquet is missing; delete .*copy and run again"):
        ImageCaptionStore.open(copied)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda fields: fields.update(format_version=99), "format version is 99, this code reads 2"),
        (lambda fields: fields.update(resolution=64), "fingerprint is"),
        (lambda fields: fields.pop("shards"), "shards"),
        (lambda fields: fields["counts"].update(train=1), "counts: got 1 for split 'train', but its files have"),
        (lambda fields: fields["shards"][0].update(content_sha256="0"), "fingerprint is"),
        (
            lambda fields: fields.update(text_dtype="int8"),
            "text_dtype: got 'int8', allowed is one of float16, bfloat16",
        ),
        (lambda fields: fields.update(longest_text=17), "longest_text: got 17, allowed is 1 to 16"),
    ],
)
def test_a_foreign_manifest_is_refused(copied: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    path = copied / "manifest.json"
    fields = json.loads(path.read_text(encoding="utf-8"))
    change(fields)
    path.write_text(json.dumps(fields), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        ImageCaptionStore.open(copied)


def test_a_torn_manifest_and_an_empty_folder_are_refused(copied: Path, tmp_path: Path) -> None:
    path = copied / "manifest.json"
    path.write_text(path.read_text(encoding="utf-8")[:100], encoding="utf-8")
    with pytest.raises(ValueError, match=r"delete .*copy and run again"):
        ImageCaptionStore.open(copied)
    with pytest.raises(ValueError, match="holds no data set"):
        ImageCaptionStore.open(tmp_path / "nowhere")


def test_manifest_says_what_it_was_made_of(small_store: ImageCaptionStore, small_folder: Path) -> None:
    manifest = small_store.manifest
    assert manifest == Manifest.read(small_folder)
    assert manifest.source.package_version == "17.0.0"
    assert manifest.source.licence == "CC BY-SA 4.0"
    assert manifest.text_encoder.name == "minilm_l6_v2"
    assert manifest.text_encoder.width == 384
    assert manifest.settings["settings"]["limit"] == 96
    assert manifest.null_text.rows == 1


def test_fingerprint_covers_the_data_and_tells_the_splits_apart(small_store: ImageCaptionStore) -> None:
    manifest = small_store.manifest
    first, *others = manifest.shards

    def with_first(**changes: Any) -> Manifest:
        return replace(manifest, shards=(replace(first, **changes), *others))

    packed_otherwise = with_first(sha256="0" * 64, footer_sha256="0" * 64, groups=(), bytes=1, footer_offset=2)
    assert packed_otherwise.fingerprint == manifest.fingerprint
    assert with_first(content_sha256="0" * 64).fingerprint != manifest.fingerprint
    assert replace(manifest, settings={}).fingerprint != manifest.fingerprint
    assert replace(manifest, text_dtype="bfloat16").fingerprint != manifest.fingerprint
    prints = {small_store.fingerprint, small_store.train.fingerprint, small_store.heldout.fingerprint}
    assert len(prints) == 3


def test_rows_of_a_split_are_taken_in_the_order_asked_for(small_store: ImageCaptionStore) -> None:
    heldout = small_store.heldout
    assert isinstance(heldout, HeldOut)
    text, mask = heldout.texts_of([5, 0, 5])
    assert torch.equal(text, torch.stack([heldout.text[5], heldout.text[0], heldout.text[5]]))
    assert torch.equal(mask[0], heldout.text_mask[5])
    assert torch.equal(heldout.images_of([7, 2])[1], heldout.images[2])
