"""The held-out split is chosen at the end: until then every unit keeps its candidates apart, as a piece.

Candidates are ranked by a hash of their keys. The held-out split is the `num_heldout` sound ones of the lowest rank, in
that order, so that its first k are a fair sample of the source. The rest goes to the train split, packed as it is.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prx_model.data.shards import Row, decode_image, encode_image, stored_tensor
from prx_model.encoding.encoder import LATENT_DTYPE
from prx_model.encoding.settings import EncoderCards, EncodingSettings


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a candidate lies: row `row` of the piece of `unit`."""

    rank: int
    unit: int
    row: int


def piece_bytes(rows: Sequence[Row]) -> bytes:
    """Rows as an Arrow file, of which any row can be had without reading the others."""
    import pyarrow as pa

    columns: dict[str, list[Any]] = {
        "key": [row.key for row in rows],
        "caption": [row.caption for row in rows],
        "image": [row.image for row in rows],
        "text": [_raw(row.text) for row in rows],
    }
    if rows[0].latent is not None:
        columns["latent"] = [_raw(row.latent) for row in rows]
    for name in rows[0].teachers:
        columns[f"teacher_{name}"] = [_raw(row.teachers[name]) for row in rows]
    kinds = {name: pa.large_binary() for name in columns} | {"key": pa.string(), "caption": pa.string()}
    table = pa.table(columns, pa.schema(list(kinds.items())))
    buffer = io.BytesIO()
    with pa.ipc.new_file(buffer, table.schema) as writer:
        writer.write_table(table)
    return buffer.getvalue()


def divide(candidates: Sequence[Place], num_heldout: int) -> tuple[list[Place], list[Place]]:
    """The held-out ones by rank, and what is left for the train split, in the order of the source."""
    ranked = sorted(candidates, key=lambda place: place.rank)
    return ranked[:num_heldout], sorted(ranked[num_heldout:], key=lambda place: (place.unit, place.row))


class Pieces:
    """The pieces of a finished job as files `unit-00000.arrow` in a local folder, read as rows."""

    def __init__(self, folder: Path, settings: EncodingSettings, cards: EncoderCards) -> None:
        self._folder, self._settings, self._cards = folder, settings, cards

    def rows(self, places: Sequence[Place], split: str) -> list[Row]:
        """The rows at these places in their order. Train rows are packed as the train split is."""
        found: dict[Place, Row] = {}
        for unit in sorted({place.unit for place in places}):
            wanted = [place for place in places if place.unit == unit]
            found |= dict(zip(wanted, self._rows_of(unit, [place.row for place in wanted]), strict=True))
        rows = [found[place] for place in places]
        return rows if split == "heldout" else [self._for_training(row) for row in rows]

    def _rows_of(self, unit: int, indices: Sequence[int]) -> Iterator[Row]:
        import pyarrow as pa

        with pa.memory_map(str(self._folder / piece_name(unit))) as file, pa.ipc.open_file(file) as reader:
            table = reader.read_all()
            for index in indices:
                yield self._row({name: table.column(name)[index].as_py() for name in table.column_names})

    def _row(self, values: dict[str, Any]) -> Row:
        width, latents = self._cards.text_encoder.width, self._cards.latents
        side = 0 if latents is None else self._settings.resolution // latents.downsampling
        return Row(
            key=values["key"],
            caption=values["caption"],
            split="heldout",
            image=values["image"],
            text=stored_tensor(values["text"], (-1, width), self._settings.text_dtype),
            latent=None
            if latents is None
            else stored_tensor(values["latent"], (latents.channels, side, side), LATENT_DTYPE),
            teachers={
                card.name: stored_tensor(
                    values[f"teacher_{card.name}"], (card.grid[0] * card.grid[1], card.width), "float16"
                )
                for card in self._cards.teachers
            },
        )

    def _for_training(self, row: Row) -> Row:
        card = self._settings.image
        image = encode_image(decode_image(row.image), card.train_format, card.quality)
        return replace(row, split="train", image=image)


def piece_name(unit: int) -> str:
    return f"unit-{unit:05d}.arrow"


def _raw(numbers: Any) -> bytes:
    import torch

    return numbers.contiguous().view(torch.uint8).numpy().tobytes()
