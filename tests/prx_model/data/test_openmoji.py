from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prx_model.data.drawings import drawings_in
from prx_model.data.openmoji import (
    OpenMojiSettings,
    Picture,
    collect_pictures,
    drop_doubles,
    heldout_families,
    prepare_openmoji,
)
from prx_model.data.store import ImageCaptionStore, Split

SMALL = OpenMojiSettings(limit=96, num_heldout=24)
TINY = OpenMojiSettings(limit=12, num_heldout=3)
SQUARE = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 72 72"><rect x="{x}" width="36" height="36"/></svg>'


def contents(split: Split) -> set[bytes]:
    return {image.numpy().tobytes() for image in split.images}


def assert_nothing_is_shared(store: ImageCaptionStore) -> None:
    train, heldout = store.train, store.heldout
    assert set(train.keys).isdisjoint(heldout.keys)
    assert set(train.families).isdisjoint(heldout.families)
    everything = [caption.lower() for caption in train.captions + heldout.captions]
    assert len(set(everything)) == len(everything)
    assert len(contents(train)) == len(train)
    assert len(contents(heldout)) == len(heldout)
    assert contents(train).isdisjoint(contents(heldout))


def test_small_store_end_to_end(small_store: ImageCaptionStore) -> None:
    manifest = small_store.manifest
    assert len(small_store.heldout) == 24
    assert len(small_store.train) == 96 - 24 - manifest.skipped_by_reason.get("same pixels", 0)
    assert small_store.train.images.shape == (len(small_store.train), 3, 32, 32)
    assert small_store.train.images.dtype == torch.uint8
    assert manifest.counts == {"train": len(small_store.train), "heldout": 24}
    assert_nothing_is_shared(small_store)


def test_every_drawing_is_either_in_the_store_or_in_the_skip_list(small_store: ImageCaptionStore) -> None:
    manifest = small_store.manifest
    keys = Counter((*small_store.train.keys, *small_store.heldout.keys, *(item.key for item in manifest.skipped)))
    assert len(keys) == 4495
    assert set(keys.values()) == {1}
    assert manifest.skipped_by_reason["private use"] == 367
    assert sum(manifest.skipped_by_reason.values()) == len(manifest.skipped)


def test_images_stand_on_white(small_store: ImageCaptionStore) -> None:
    corners = small_store.train.images[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners == 255).all(dim=1).float().mean() > 0.98  # a few drawings reach into a corner


def test_second_call_finds_the_first_and_writes_nothing(small_folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in [small_folder, *small_folder.iterdir()]}
    calls: list[str] = []
    again = prepare_openmoji(SMALL, small_folder.parent, lambda stage, done, total: calls.append(stage))
    assert again == small_folder
    assert calls == []
    assert {path: path.stat().st_mtime_ns for path in [small_folder, *small_folder.iterdir()]} == before


def test_same_settings_make_the_same_data_elsewhere(small_store: ImageCaptionStore, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2 if threads == 1 else 1)  # reductions in another order, other roundings
    try:
        again = ImageCaptionStore.open(prepare_openmoji(SMALL, tmp_path))
    finally:
        torch.set_num_threads(threads)
    assert again.fingerprint == small_store.fingerprint
    assert again.train.keys == small_store.train.keys
    assert again.heldout.captions == small_store.heldout.captions
    assert torch.equal(again.train.images, small_store.train.images)
    assert torch.equal(again.train.text, small_store.train.text)


def test_other_settings_have_a_folder_of_their_own(small_folder: Path, tmp_path: Path) -> None:
    seen = []

    def stop(stage: str, done: int, total: int) -> None:
        seen.append((stage, total))
        raise InterruptedError

    for other in (replace(SMALL, limit=97), replace(SMALL, resolution=48), replace(SMALL, num_heldout=23)):
        with pytest.raises(InterruptedError):
            prepare_openmoji(other, small_folder.parent, stop)
    assert seen == [("render", 97), ("render", 96), ("render", 96)]


def test_progress_tells_every_stage_to_its_end(tmp_path: Path) -> None:
    last: dict[str, tuple[int, int]] = {}
    prepare_openmoji(TINY, tmp_path, lambda stage, done, total: last.update({stage: (done, total)}))
    assert list(last) == ["render", "encode", "write"]
    assert all(done == total for done, total in last.values())


KILLED = """
import os, signal, sys
from pathlib import Path
from typing import Any
from prx_model.data.openmoji import OpenMojiSettings, prepare_openmoji

def die(stage, done, total):
    if stage == sys.argv[2] and done == int(sys.argv[3]) * total:
        os.kill(os.getpid(), signal.SIGKILL)

prepare_openmoji(OpenMojiSettings(limit=12, num_heldout=3), Path(sys.argv[1]), die)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "at"), [("encode", 1), ("write", 0), ("write", 1)])
def test_a_kill_leaves_no_half_store_and_the_next_run_succeeds(tmp_path: Path, stage: str, at: int) -> None:
    root = Path(__file__).parents[3]
    result = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), stage, str(at)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        check=False,
        timeout=300,
    )
    assert result.returncode == -signal.SIGKILL
    left = {path.name for path in tmp_path.iterdir()}
    assert any(name.endswith(".partial") for name in left)  # killed in the middle indeed
    assert not any(name.startswith("openmoji-") for name in left)
    folder = prepare_openmoji(TINY, tmp_path)
    assert len(ImageCaptionStore.open(folder).heldout) == 3
    assert {path.name for path in tmp_path.iterdir()} == {folder.name, f".{folder.name}.lock"}


def test_an_exception_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail(stage: str, done: int, total: int) -> None:
        if stage == "write":
            raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        prepare_openmoji(TINY, tmp_path, fail)
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == []


@pytest.mark.slow
def test_two_processes_at_once_share_one_store(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    code = KILLED.replace("die)", "lambda stage, done, total: print(stage))")
    arguments = [sys.executable, "-c", code, str(tmp_path), "-", "0"]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    processes = [
        subprocess.Popen(arguments, cwd=root, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted("write" in output for output in outputs) == [False, True]  # one built, the other waited
    folder = prepare_openmoji(TINY, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {folder.name, f".{folder.name}.lock"}


def test_a_folder_without_manifest_is_built_anew(small_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / small_folder.name
    shutil.copytree(small_folder, copy)
    (copy / "manifest.json").unlink()
    assert prepare_openmoji(SMALL, tmp_path) == copy
    assert len(ImageCaptionStore.open(copy).heldout) == 24


def test_a_drawing_that_does_not_render_is_skipped_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "1F600.svg").write_text(SQUARE.format(x=0))
    (tmp_path / "1F601.svg").write_text("<svg")
    (tmp_path / "1F602.svg").write_bytes(b"\xff\xfe\x00 not UTF-8")
    (tmp_path / "1F603.svg").write_text(SQUARE.format(x=100))
    (tmp_path / "1F604.svg").mkdir()
    (tmp_path / "1F605.svg").write_text(SQUARE.format(x=0))
    (tmp_path / "E000.svg").write_text(SQUARE.format(x=5))
    settings = OpenMojiSettings(num_heldout=1)
    pictures, skipped = collect_pictures(drawings_in(tmp_path), settings, lambda stage, done, total: None)
    assert [picture.caption for picture in pictures] == ["grinning face"]
    assert {item.key: item.reason for item in skipped} == {
        "1f601": "does not render",
        "1f602": "does not render",
        "1f603": "does not render",
        "1f604": "does not render",
        "1f605": "same pixels",
        "e000": "private use",
    }
    assert all(item.detail for item in skipped if item.reason != "private use")


def test_order_does_not_depend_on_the_order_of_the_files(tmp_path: Path) -> None:
    for index in range(20):
        (tmp_path / f"{0x1F600 + index:X}.svg").write_text(SQUARE.format(x=2 * index))
    drawings = drawings_in(tmp_path)
    settings = OpenMojiSettings(num_heldout=1, limit=10)
    expected, _ = collect_pictures(drawings, settings, lambda stage, done, total: None)
    random.Random(0).shuffle(drawings)
    got, _ = collect_pictures(drawings, settings, lambda stage, done, total: None)
    assert [picture.key for picture in got] == [picture.key for picture in expected]
    assert [picture.key for picture in got] != sorted(picture.key for picture in got)


def test_of_pictures_that_look_alike_the_plainest_name_stays() -> None:
    def picture(key: str, caption: str, shade: int) -> Picture:
        return Picture(key=key, caption=caption, family=key, pixels=np.full((16, 16, 3), shade, dtype=np.uint8))

    kept, dropped = drop_doubles(
        [picture("a", "flag: Clipperton Island", 1), picture("b", "flag: France", 1), picture("c", "FLAG: france", 2)]
    )
    assert [picture.key for picture in kept] == ["b"]
    assert {item.key: (item.reason, item.detail) for item in dropped} == {
        "a": ("same pixels", "as b"),
        "c": ("same caption", "as b"),
    }


@given(
    st.dictionaries(st.text(min_size=1), st.integers(1, 6), min_size=1, max_size=40), st.integers(1, 60), st.randoms()
)
def test_heldout_takes_whole_families_whatever_their_order(
    sizes: dict[str, int], wanted: int, rng: random.Random
) -> None:
    members = [family for family, size in sizes.items() for _ in range(size)]
    chosen = heldout_families(members, wanted)
    taken = sum(sizes[family] for family in chosen)
    assert taken <= wanted
    assert all(sizes[family] > wanted - taken for family in sizes.keys() - chosen)  # nothing more would have fitted
    rng.shuffle(members)
    assert heldout_families(members, wanted) == chosen


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resolution": 8}, "resolution is 8, must be 16 to 512"),
        ({"num_heldout": 0}, "num_heldout is 0, must be at least 1"),
        ({"max_text_tokens": 2}, "max_text_tokens is 2, must be 3 to 512"),
        ({"limit": 512}, "limit is 512, must be above num_heldout = 512"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OpenMojiSettings(**change)


def test_a_heldout_split_that_swallows_everything_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"num_heldout is 3000, which leaves none of 20\d\d images to train on"):
        prepare_openmoji(OpenMojiSettings(num_heldout=3000, resolution=16), tmp_path)


@pytest.mark.slow
def test_full_store(tmp_path: Path) -> None:
    store = ImageCaptionStore.open(prepare_openmoji(OpenMojiSettings(), tmp_path))
    assert len(store.heldout) == 512
    assert len(store.train) >= 2000 - 512
    assert_nothing_is_shared(store)
    both = dict(zip(store.train.keys + store.heldout.keys, store.train.captions + store.heldout.captions, strict=True))
    assert both["1f600"] == "grinning face"
    assert both["1f1eb-1f1f7"] == "flag: France"
    assert not any(caption.endswith("skin tone") and "-" in key for key, caption in both.items())
    assert store.manifest.cut_captions == 0
