"""Items become rows, units become shards, and the end puts a data set together: all of it without Ray."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from prx_model.data.manifest import ImageCard, Manifest
from prx_model.data.shards import decode_image
from prx_model.data.store import ImageCaptionStore
from prx_model.encoding.encoder import Encoder
from prx_model.encoding.finish import SKIPPED_FILE
from prx_model.encoding.images import centre_crop, load_rgb
from prx_model.encoding.listing import SourceItem
from prx_model.encoding.plan import PLAN_FILE
from prx_model.encoding.settings import EncoderCards, EncodingSettings
from prx_model.encoding.unit import UnitCard, card_name, files_of, finished_units
from tests.encoding_job import EncodingJob
from tests.picture_sources import pairs, picture, write_folder, write_tars

SETTINGS = EncodingSettings(
    resolution=16,
    min_side=16,
    image=ImageCard(train_format="png", heldout_format="png", quality=None),
    autoencoder=None,
    text_encoder="minilm",
    text_precision="float64",
    max_text_tokens=12,
)
JPEG = ImageCard(train_format="jpeg", heldout_format="png", quality=95)
PAIRS = pairs(24)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(SETTINGS, device=torch.device("cpu"), batch_size=5)


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory) -> str:
    """A tiny one of the class that Flux has, with random weights."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vae")
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=4,
        shift_factor=0.1,
        scaling_factor=0.5,
    )
    vae.save_pretrained(folder)
    return str(folder)


def _items(chosen=PAIRS, ranks=None) -> list[tuple[SourceItem, int]]:
    ranks = ranks or {}
    return [(SourceItem(key=k, image=i, caption=c), ranks.get(k, -1)) for k, i, c in chosen]


def test_a_row_is_the_centre_of_its_image_and_the_states_of_its_caption(encoder):
    encoded = encoder.encode(_items())
    assert [row.key for row in encoded.rows] == [key for key, _, _ in PAIRS]
    states = encoder.text([caption for _, _, caption in PAIRS])
    for row, (_, image, caption), state in zip(encoded.rows, PAIRS, states, strict=True):
        assert row.caption == caption
        assert (decode_image(row.image).permute(1, 2, 0).numpy() == centre_crop(load_rgb(image), 16)).all()
        assert (row.text == state.half()).all()


def test_what_is_broken_is_named_and_costs_nothing_else(encoder):
    whole = _items()
    broken = {
        2: SourceItem(key="cut", image=PAIRS[2][1][:300], caption="c"),
        5: SourceItem(key="text", image=b"<html>", caption="c"),
        6: SourceItem(key="void", image=b"", caption="c"),
        7: SourceItem(key="small", image=picture(1, 15), caption="c"),
        8: SourceItem(key="told", problem="missing caption", detail="d"),
    }
    items = [(broken.get(i, item), role) for i, (item, role) in enumerate(whole)]
    encoded = encoder.encode(items)
    assert {one.key: one.reason for one in encoded.skipped} == {
        "cut": "cannot be decoded",
        "text": "not an image",
        "void": "empty file",
        "small": "smaller than 16 px",
        "told": "missing caption",
    }
    expected = [row for i, row in enumerate(encoder.encode(whole).rows) if i not in broken]
    assert [row.key for row in encoded.rows] == [row.key for row in expected]
    assert all((a.text == b.text).all() and a.image == b.image for a, b in zip(encoded.rows, expected, strict=True))


def test_a_state_that_the_stored_type_cannot_hold_costs_its_own_item_alone(encoder, monkeypatch):
    states = encoder.text

    class Loud:
        """MiniLM, whose states of one caption are too large."""

        def __call__(self, captions):
            return [
                state * (1e6 if "number 3" in c else 1) for c, state in zip(captions, states(captions), strict=True)
            ]

        def num_cut(self, captions):
            return 0

    monkeypatch.setattr(encoder, "text", Loud())
    encoded = encoder.encode(_items(PAIRS[:8]))
    assert [(one.key, one.reason) for one in encoded.skipped] == [("picture-003", "not finite")]
    assert "bfloat16" in encoded.skipped[0].detail
    assert len(encoded.rows) == 7


def test_latents_are_the_autoencoders_and_a_teacher_sees_the_stored_image(autoencoder):
    settings = replace(SETTINGS, image=JPEG, autoencoder=autoencoder, teachers=("efficientnet_lite0",), teacher_grid=2)
    encoder = Encoder(settings, device=torch.device("cpu"), batch_size=4)
    encoded = encoder.encode(_items(PAIRS[:6], {"picture-001": 0}))
    assert encoder.latent_space is not None
    images = torch.stack([torch.from_numpy(centre_crop(load_rgb(i), 16)).permute(2, 0, 1) for _, i, _ in PAIRS[:6]])
    latents = torch.cat([encoder.latent_space.encode(images[:4]), encoder.latent_space.encode(images[4:])]).half()
    stored = torch.stack([decode_image(row.image) for row in encoded.rows])
    tokens = torch.cat([encoder.teachers[0](stored[:4], (2, 2)), encoder.teachers[0](stored[4:], (2, 2))]).half()
    for index, row in enumerate(encoded.rows):
        assert row.latent is not None
        assert (row.latent == latents[index]).all()
        assert (row.teachers["efficientnet_lite0"] == tokens[index]).all()
    assert [row.split for row in encoded.rows].index("heldout") == 1
    assert (stored[1] == images[1]).all()  # held out: nothing lost
    assert not (stored[0] == images[0]).all()
    assert encoder.cards.latents is not None
    assert (encoder.cards.latents.channels, encoder.cards.teachers[0].grid) == (4, (2, 2))
    assert EncoderCards.from_plain(json.loads(json.dumps(encoder.cards.plain()))) == encoder.cards


def test_other_weights_than_a_job_began_with_are_refused(encoder):
    cards = replace(encoder.cards, text_encoder=replace(encoder.cards.text_encoder, weight_sha256="0" * 64))
    with pytest.raises(ValueError, match=r"begun with .*0000.* but found is .*put the same network back"):
        Encoder(SETTINGS, device=torch.device("cpu"), cards=cards)


def test_a_resolution_that_the_autoencoder_cannot_halve_is_refused(autoencoder):
    with pytest.raises(ValueError, match="resolution: got 17, allowed are multiples of 2"):
        Encoder(replace(SETTINGS, resolution=17, autoencoder=autoencoder), device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resolution": 8}, "resolution: got 8, allowed is 16 to 2048"),
        ({"teachers": ("dino",), "teacher_grid": 4}, "unknown teacher 'dino'"),
        ({"teachers": ("vgg16_hed",)}, "teacher_grid: got None"),
        ({"text_dtype": "float32"}, "text_dtype: got 'float32', allowed is float16 or bfloat16"),
    ],
)
def test_settings_check_themselves(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SETTINGS, **change)


def test_settings_survive_json():
    settings = replace(SETTINGS, teachers=("vgg16_hed",), teacher_grid=4, image=JPEG)
    assert EncodingSettings.from_plain(json.loads(json.dumps(settings.plain()))) == settings


def test_a_whole_data_set_holds_every_sound_item_once_as_it_was_encoded(encoder, tmp_path):
    write_folder(tmp_path / "source", PAIRS)
    spoilt = ("b/picture-013", "b/picture-020")
    (tmp_path / "source" / f"{spoilt[0]}.jpg").write_bytes(b"no picture")
    (tmp_path / "source" / f"{spoilt[1]}.txt").unlink()
    job = EncodingJob(tmp_path / "source", tmp_path / "store", encoder)
    for unit in (2, 0, 3, 1):
        job.bench.do(unit)
    manifest = job.finish()
    store = ImageCaptionStore.open(tmp_path / "store")
    assert manifest.counts == {"train": 16, "heldout": 6}
    assert manifest.skipped_by_reason == {"not an image": 1, "missing caption": 1}
    lines = (tmp_path / "store" / SKIPPED_FILE).read_text().splitlines()
    assert [json.loads(line)["key"] for line in lines] == list(spoilt)
    expected = {row.key: row for row in encoder.encode(_folder_items(spoilt)).rows}
    assert sorted([*store.train.keys, *store.heldout.keys]) == sorted(expected)
    for split in (store.train, store.heldout):
        for index, key in enumerate(split.keys):
            assert (split.images[index] == decode_image(expected[key].image)).all()
            assert (split.text[index][split.text_mask[index]] == expected[key].text.float()).all()
    assert (store.null_text == encoder.null_text().float()).all()
    assert manifest.longest_text == max(len(row.text) for row in expected.values())
    assert manifest.cut_captions == encoder.text.num_cut([row.caption for row in expected.values()]) > 0


def _folder_items(without: tuple[str, ...]) -> list[tuple[SourceItem, int]]:
    keys = [f"{'a' if i < 12 else 'b'}/{key}" for i, (key, _, _) in enumerate(PAIRS)]
    items = [SourceItem(key=key, image=i, caption=c) for key, (_, i, c) in zip(keys, PAIRS, strict=True)]
    return [(item, -1) for item in items if item.key not in without]


def test_the_held_out_split_is_the_sound_candidates_of_lowest_rank_in_that_order(encoder, tmp_path):
    write_folder(tmp_path / "source", PAIRS)
    first = EncodingJob(tmp_path / "source", tmp_path / "one", encoder)
    for unit in range(first.plan.num_units):
        first.bench.do(unit)
    first.finish()
    order = ImageCaptionStore.open(tmp_path / "one").heldout.keys
    ranked = {role: listed.key for unit in range(first.plan.num_units) for listed, role in first.items.unit(unit)}
    assert order == tuple(ranked[rank] for rank in range(6))
    (tmp_path / "source" / f"{order[1]}.jpg").write_bytes(b"no picture")
    second = EncodingJob(tmp_path / "source", tmp_path / "two", encoder)
    for unit in range(second.plan.num_units):
        second.bench.do(unit)
    manifest = second.finish()
    after = ImageCaptionStore.open(tmp_path / "two").heldout.keys
    assert manifest.counts["heldout"] == 6
    assert after[:5] == (order[0], *order[2:])
    assert after[5] not in order


def test_what_the_reserve_leaves_over_is_trained_on_packed_as_such(tmp_path, autoencoder):
    settings = replace(SETTINGS, image=JPEG, autoencoder=autoencoder)
    encoder = Encoder(settings, device=torch.device("cpu"), batch_size=5)
    job = EncodingJob(write_folder(tmp_path / "source", PAIRS), tmp_path / "store", encoder)
    for unit in range(job.plan.num_units):
        job.bench.do(unit)
    manifest = job.finish()
    assert job.plan.num_candidates > 6
    assert sum(manifest.counts.values()) == 24
    [left_over] = [card for card in manifest.shards_of("train") if card.file == "train-00004.parquet"]
    assert left_over.rows == job.plan.num_candidates - 6
    import pyarrow.parquet as pq

    table = pq.read_table(tmp_path / "store" / left_over.file)
    assert all(image.startswith(b"\xff\xd8") for image in table["image"].to_pylist())
    direct = {row.key: row for row in encoder.encode(_folder_items(())).rows}
    for key, latent in zip(table["key"].to_pylist(), table["latent"].to_pylist(), strict=True):
        assert latent == direct[key].latent.numpy().tobytes()


def test_the_fingerprint_does_not_depend_on_the_order_of_units(encoder, tmp_path):
    write_tars(tmp_path / "source", PAIRS)
    fingerprints = []
    for name, order in (("one", (0, 1, 2, 3)), ("two", (3, 1, 0, 2))):
        job = EncodingJob(tmp_path / "source", tmp_path / name, encoder)
        for unit in order:
            job.bench.do(unit)
        fingerprints.append(job.finish().fingerprint)
    assert fingerprints[0] == fingerprints[1]
    assert Manifest.read(tmp_path / "two").fingerprint == fingerprints[0]


def test_only_units_whose_files_are_whole_count_as_finished(encoder, tmp_path):
    job = EncodingJob(write_folder(tmp_path / "source", PAIRS), tmp_path / "store", encoder)
    cards = {unit: job.bench.do(unit) for unit in range(4)}
    assert finished_units(job.store) == cards
    folder = tmp_path / "store"
    shard = folder / files_of(cards[0])[0][0]
    shard.write_bytes(shard.read_bytes()[:-1])
    (folder / card_name(1)).write_bytes((folder / card_name(1)).read_bytes()[:40])
    piece = next(card for card in (cards[2], cards[3]) if card.piece is not None)
    flipped = folder / files_of(piece)[-1][0]
    flipped.write_bytes(flipped.read_bytes()[:-1] + b"?")
    assert set(finished_units(job.store)) == {2, 3}
    assert set(finished_units(job.store, verify=True)) == {2, 3} - {piece.unit}


def test_a_unit_that_fails_leaves_no_card(encoder, tmp_path):
    job = EncodingJob(write_folder(tmp_path / "source", PAIRS), tmp_path / "store", encoder)
    (tmp_path / "source" / "a" / "picture-008.jpg").unlink()
    with pytest.raises(FileNotFoundError):
        job.bench.do(1)
    assert finished_units(job.store) == {}
    write_folder(tmp_path / "source", PAIRS)
    assert isinstance(job.bench.do(1), UnitCard)
    assert set(finished_units(job.store)) == {1}


def test_a_source_without_one_usable_item_says_why(encoder, tmp_path):
    write_folder(tmp_path / "source", pairs(5, side=8))
    with pytest.raises(ValueError, match=r"none of the first 5 items can be used: smaller than 16 px \(5\); such as"):
        EncodingJob(tmp_path / "source", tmp_path / "store", encoder)
    assert not (tmp_path / "store" / PLAN_FILE).exists()


def test_progress_tells_of_every_item(encoder):
    told: list[tuple[int, int, int]] = []
    items = _items()
    items[3] = (SourceItem(key="x", problem="missing caption"), -1)
    encoded = encoder.encode(items, lambda *counts: told.append(counts))
    assert [sum(column) for column in zip(*told, strict=True)][:2] == [24, 1]
    assert sum(size for _, _, size in told) >= sum(len(row.image) + np.prod(row.text.shape) * 2 for row in encoded.rows)
