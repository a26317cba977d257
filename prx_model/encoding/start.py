"""The first step of an encoding job: which networks it uses, the empty caption, and how large its rows are."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from prx_model.data.manifest import FileCard
from prx_model.data.shards import NULL_TEXT_FILE, write_null_text
from prx_model.encoding.encoder import Encoder, row_bytes
from prx_model.encoding.listing import Layout, Listed, SourceItem
from prx_model.encoding.plan import WORK_FOLDER
from prx_model.encoding.settings import EncoderCards
from prx_model.encoding.store_folder import StoreFolder
from prx_model.encoding.unit import file_card

START_FILE = f"{WORK_FOLDER}/encoders.json"
PROBED_ITEMS = 64


@dataclass(frozen=True, kw_only=True)
class Start:
    """The networks that a job began with, and the file of the empty caption."""

    cards: EncoderCards
    null_text: FileCard

    @classmethod
    def read(cls, store: StoreFolder) -> Start:
        values = json.loads(store.read(START_FILE))
        return cls(cards=EncoderCards.from_plain(values["cards"]), null_text=file_card(values["null_text"]))


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What the first items tell: bytes of a row, and the share of items that cannot be used."""

    row_bytes: float
    broken_share: float


def write_start(store: StoreFolder, encoder: Encoder, scratch: Path) -> Start:
    """Puts the encoding of the empty caption and the identity of the networks into the store."""
    with store.writing_folder(scratch) as folder:
        null_text = write_null_text(folder, encoder.null_text())
        store.put(NULL_TEXT_FILE, folder / NULL_TEXT_FILE)
    start = Start(cards=encoder.cards, null_text=null_text)
    values = {"cards": start.cards.plain(), "null_text": asdict(null_text)}
    store.write(START_FILE, (json.dumps(values, indent=1) + "\n").encode())
    return start


def probe(encoder: Encoder, layout: Layout, listed: Sequence[Listed]) -> Probe:
    """Encodes the first items. ValueError, with the reasons, where none of them can be used."""
    items: list[SourceItem] = []
    try:
        for item in layout.read(listed):
            items.append(item)
    except OSError:
        if not items:
            raise  # else what could be read will do: the unit that holds the rest tells what is wrong with it
    encoded = encoder.encode((item, -1) for item in items)
    if not encoded.rows:
        reasons = Counter(item.reason for item in encoded.skipped)
        counts = ", ".join(f"{reason} ({count})" for reason, count in reasons.most_common())
        example = f"{encoded.skipped[0].key} {encoded.skipped[0].detail}".strip()
        raise ValueError(f"none of the first {len(items)} items can be used: {counts}; such as {example}")
    return Probe(
        row_bytes=sum(map(row_bytes, encoded.rows)) / len(encoded.rows),
        broken_share=len(encoded.skipped) / len(items),
    )
