"""The last step of an encoding job: the held-out split is put together, and the manifest says that all is there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from prx_model.data.manifest import MANIFEST_FILE, FileCard, Manifest, SourceCard, count_reasons
from prx_model.data.shards import shard_name
from prx_model.encoding.heldout_pieces import Pieces, Place, divide, piece_name
from prx_model.encoding.plan import Plan
from prx_model.encoding.settings import EncodingSettings
from prx_model.encoding.start import Start
from prx_model.encoding.store_folder import StoreFolder
from prx_model.encoding.unit import PIECES_FOLDER, UnitCard, put_shard

SKIPPED_FILE = "skipped.jsonl"
MOST_SKIPPED_IN_MANIFEST = 1000


@dataclass(frozen=True, kw_only=True)
class FinishedJob:
    """All that a manifest is made of. units: the cards of every unit of the plan."""

    plan: Plan
    settings: EncodingSettings
    start: Start
    units: Sequence[UnitCard]
    source: SourceCard


def finish(store: StoreFolder, job: FinishedJob, scratch: Path) -> Manifest:
    """Writes the held-out shards, the list of what was left out, and last the manifest. Doing it again does no harm.

    ValueError where nothing is left to train on, or nothing is held out.
    """
    units = sorted(job.units, key=lambda card: card.unit)
    assert [card.unit for card in units] == list(range(job.plan.num_units))
    heldout, left_over = divide([place for card in units for place in card.candidates], job.plan.num_heldout)
    _check_splits(store, units, heldout, left_over)
    with _local_pieces(store, units, scratch / "pieces") as folder:
        merge = _Merge(store, Pieces(folder, job.settings, job.start.cards), scratch / "shards", job.plan.rows_per_unit)
        heldout_shards = merge.write("heldout", 0, heldout)
        more_to_train_on = merge.write("train", job.plan.num_units, left_over)
    trained_on = [card.shard for card in units if card.shard is not None]
    manifest = _manifest(job, units, (*trained_on, *more_to_train_on, *heldout_shards))
    _write_skipped(store, units)
    store.write(MANIFEST_FILE, manifest.to_json().encode())
    return manifest


class _Merge:
    """Shards made of pieces."""

    def __init__(self, store: StoreFolder, pieces: Pieces, scratch: Path, rows_per_shard: int) -> None:
        self._store, self._pieces, self._scratch, self._rows_per_shard = store, pieces, scratch, rows_per_shard

    def write(self, split: str, first: int, places: Sequence[Place]) -> list[FileCard]:
        """The shards of a split from number `first` on."""
        cards: list[FileCard] = []
        for start in range(0, len(places), self._rows_per_shard):
            chosen = places[start : start + self._rows_per_shard]
            name = shard_name(split, first + len(cards))
            cards.append(put_shard(self._store, self._scratch, name, self._pieces.rows(chosen, split)))
        return cards


def _check_splits(
    store: StoreFolder, units: Sequence[UnitCard], heldout: Sequence[Place], left_over: Sequence[Place]
) -> None:
    skipped = sum(len(card.skipped) for card in units)
    total = sum(card.num_items for card in units)
    for what, there in (
        ("held out", bool(heldout)),
        ("left to train on", bool(left_over) or any(card.shard is not None for card in units)),
    ):
        if not there:
            raise ValueError(f"{store.location}: nothing is {what}: {skipped} of {total} items cannot be used")


@contextmanager
def _local_pieces(store: StoreFolder, units: Sequence[UnitCard], scratch: Path) -> Iterator[Path]:
    """A local folder with every piece: where they lie, or fetched from S3 for as long as it takes."""
    if store.local is not None:
        yield store.local / PIECES_FOLDER
        return
    scratch.mkdir(parents=True, exist_ok=True)
    try:
        for card in units:
            if card.piece is not None:
                name = piece_name(card.unit)
                store.fetch(f"{PIECES_FOLDER}/{name}", scratch / name)
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _manifest(job: FinishedJob, units: Sequence[UnitCard], shards: tuple[FileCard, ...]) -> Manifest:
    skipped = tuple(item for card in units for item in card.skipped)
    return Manifest(
        source=job.source,
        settings=job.plan.settings,
        resolution=job.settings.resolution,
        max_text_tokens=job.settings.max_text_tokens,
        longest_text=max(card.longest_text for card in units),
        text_encoder=job.start.cards.text_encoder,
        text_dtype=job.settings.text_dtype,
        image=job.settings.image,
        latents=job.start.cards.latents,
        teachers=job.start.cards.teachers,
        counts={split: sum(card.rows for card in shards if card.split == split) for split in ("train", "heldout")},
        cut_captions=sum(card.cut_captions for card in units),
        skipped_by_reason=count_reasons(skipped),
        skipped=skipped[:MOST_SKIPPED_IN_MANIFEST],
        shards=shards,
        null_text=job.start.null_text,
    )


def _write_skipped(store: StoreFolder, units: Sequence[UnitCard]) -> None:
    """All items that were left out, however many."""
    lines = [json.dumps(asdict(item), ensure_ascii=False) + "\n" for card in units for item in card.skipped]
    store.write(SKIPPED_FILE, "".join(lines).encode())
