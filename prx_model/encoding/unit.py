"""One unit of an encoding job: its shard, its candidates for the held-out split, and a card that says it is done."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prx_model.data.manifest import FileCard, GroupCard, Skipped
from prx_model.data.shards import Row, shard_name, write_shard
from prx_model.encoding.encoder import EncodedItems, Encoder, Told
from prx_model.encoding.heldout_pieces import Place, piece_bytes, piece_name
from prx_model.encoding.plan import WORK_FOLDER, Plan, PlannedItems
from prx_model.encoding.sources import layout_of
from prx_model.encoding.store_folder import StoreFolder

CARDS_FOLDER = f"{WORK_FOLDER}/cards"
PIECES_FOLDER = f"{WORK_FOLDER}/pieces"


@dataclass(frozen=True, kw_only=True)
class PieceCard:
    """A unit's candidates for the held-out split, in the order of its piece. bytes, sha256: of the file."""

    ranks: tuple[int, ...]
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class UnitCard:
    """What became of a unit. shard, piece: None where no item of it went there. seconds: of work."""

    unit: int
    num_items: int
    shard: FileCard | None
    piece: PieceCard | None
    skipped: tuple[Skipped, ...]
    cut_captions: int
    longest_text: int
    seconds: float

    @property
    def candidates(self) -> list[Place]:
        ranks = self.piece.ranks if self.piece else ()
        return [Place(rank=rank, unit=self.unit, row=row) for row, rank in enumerate(ranks)]

    @property
    def bytes(self) -> int:
        return (self.shard.bytes if self.shard else 0) + (self.piece.bytes if self.piece else 0)

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: bytes) -> UnitCard:
        """ValueError where it is no whole card."""
        try:
            values = json.loads(text)
            shard, piece = values["shard"], values["piece"]
            values["shard"] = None if shard is None else file_card(shard)
            values["piece"] = None if piece is None else PieceCard(**{**piece, "ranks": tuple(piece["ranks"])})
            values["skipped"] = tuple(Skipped(**item) for item in values["skipped"])
            return cls(**values)
        except (KeyError, TypeError) as error:
            raise ValueError(f"no card of a unit: {error}") from error


class Workbench:
    """What it takes to do units of a plan: source, networks, store, and a local folder for what is on its way to S3."""

    def __init__(self, store: StoreFolder, plan: Plan, encoder: Encoder, scratch: Path) -> None:
        self._store, self._encoder, self._scratch = store, encoder, scratch
        self._items = PlannedItems(store, plan)
        self._layout = layout_of(plan.source)

    def do(self, unit: int, told: Told | None = None) -> UnitCard:
        """Encode a unit and put it into the store; its card comes last.

        OSError and what else is no fault of a single item fails the unit; nothing of it is left that would be taken for
        finished.
        """
        begun = time.perf_counter()
        pairs = self._items.unit(unit)
        items = self._layout.read([listed for listed, _ in pairs])
        ranked = ((item, max(role, -1)) for item, (_, role) in zip(items, pairs, strict=True))
        encoded = self._encoder.encode(ranked, told)
        card = UnitCard(
            unit=unit,
            num_items=len(pairs),
            shard=self._put_shard(unit, [row for row in encoded.rows if row.split == "train"]),
            piece=self._put_piece(unit, encoded),
            skipped=tuple(encoded.skipped),
            cut_captions=encoded.cut_captions,
            longest_text=encoded.longest_text,
            seconds=round(time.perf_counter() - begun, 3),
        )
        self._store.write(card_name(unit), card.to_json().encode())
        return card

    def _put_shard(self, unit: int, rows: Sequence[Row]) -> FileCard | None:
        if not rows:
            return None
        return put_shard(self._store, self._scratch, shard_name("train", unit), rows)

    def _put_piece(self, unit: int, encoded: EncodedItems) -> PieceCard | None:
        rows = [row for row in encoded.rows if row.split == "heldout"]
        if not rows:
            return None
        content = piece_bytes(rows)
        self._store.write(f"{PIECES_FOLDER}/{piece_name(unit)}", content)
        ranks = tuple(rank for rank in encoded.ranks if rank >= 0)
        return PieceCard(ranks=ranks, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def put_shard(store: StoreFolder, scratch: Path, name: str, rows: Sequence[Row]) -> FileCard:
    """Write a shard into the store: in place on a disk, by way of `scratch` to S3."""
    with store.writing_folder(scratch) as folder:
        card = write_shard(folder, name, rows)
        store.put(name, folder / name)
    return card


def finished_units(store: StoreFolder, *, verify: bool = False) -> dict[int, UnitCard]:
    """The cards of all units whose files are there in full size. verify: and have the sha256 that their card says."""
    cards: dict[int, UnitCard] = {}
    sizes = store.sizes("") | {f"{PIECES_FOLDER}/{name}": size for name, size in store.sizes(PIECES_FOLDER).items()}
    for name, content in store.read_all(CARDS_FOLDER).items():
        try:
            card = UnitCard.from_json(content)
        except ValueError:
            continue
        if name == Path(card_name(card.unit)).name and all(_is_there(store, sizes, f, verify) for f in files_of(card)):
            cards[card.unit] = card
    return cards


def files_of(card: UnitCard) -> list[tuple[str, int, str]]:
    """Name, bytes and sha256 of the files of a unit."""
    files = [] if card.shard is None else [(card.shard.file, card.shard.bytes, card.shard.sha256)]
    if card.piece is not None:
        files.append((f"{PIECES_FOLDER}/{piece_name(card.unit)}", card.piece.bytes, card.piece.sha256))
    return files


def _is_there(store: StoreFolder, sizes: dict[str, int], file: tuple[str, int, str], verify: bool) -> bool:
    name, size, sha256 = file
    return sizes.get(name) == size and (not verify or store.sha256(name) == sha256)


def card_name(unit: int) -> str:
    return f"{CARDS_FOLDER}/unit-{unit:05d}.json"


def file_card(values: dict[str, Any]) -> FileCard:
    return FileCard(**{**values, "groups": tuple(GroupCard(**group) for group in values["groups"])})
