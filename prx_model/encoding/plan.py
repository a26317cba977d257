"""What an encoding job does, fixed before it begins: the items in their order, the held-out ones, the units of work.

The list of items is a Parquet file of a few bytes an item; a unit reads its stretch of it. Nothing in a plan depends on
who works on it, so that a job that was killed goes on with the same one.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Int32, UInt64

from prx_model.encoding.listing import DUPLICATE_KEY, Listed, Source
from prx_model.encoding.store_folder import StoreFolder

if TYPE_CHECKING:
    import pyarrow as pa

WORK_FOLDER = ".encoding"
PLAN_FILE = f"{WORK_FOLDER}/plan.json"
ITEMS_FILE = f"{WORK_FOLDER}/items.parquet"
ROLES_FILE = f"{WORK_FOLDER}/roles.npy"

ITEMS_PER_GROUP = 4096
TRAIN, DUPLICATE = -1, -2  # roles; 0 and above is a candidate for the held-out split, by its rank
MEBIBYTE = 1 << 20
SHARD_BYTES = 128 * MEBIBYTE  # aimed at, so that nearly every shard lies between 64 and 256 MB
ROWS_STEP = 64  # a row group
LEAST_RESERVE, RESERVE_SHARE = 2, 0.02


@dataclass(frozen=True, kw_only=True)
class Items:
    """The list of items has been written; this is what choosing among them takes.

    hashes: of the keys. usable: nothing is known against the item yet.
    """

    hashes: UInt64[np.ndarray, " n"]
    usable: Bool[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.hashes)

    @property
    def duplicates(self) -> Bool[np.ndarray, " n"]:
        """Items whose key an earlier one has."""
        repeated = np.ones(len(self), dtype=bool)
        repeated[np.unique(self.hashes, return_index=True)[1]] = False
        return repeated

    @property
    def num_usable(self) -> int:
        return int((self.usable & ~self.duplicates).sum())


@dataclass(frozen=True, kw_only=True)
class Plan:
    """source, settings: what is encoded and how. num_heldout: images of the held-out split, where enough are sound.

    num_candidates: the items that may become held-out: `num_heldout` and a reserve that takes the place of broken ones.
    What of the reserve is not needed is trained on. A unit is `rows_per_unit` consecutive items.
    """

    source: Source
    settings: dict[str, Any]
    num_items: int
    num_heldout: int
    num_candidates: int
    rows_per_unit: int

    @property
    def num_units(self) -> int:
        return math.ceil(self.num_items / self.rows_per_unit)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def read(cls, store: StoreFolder) -> Plan | None:
        """The plan of an unfinished job in the store; None where there is none."""
        if store.size(PLAN_FILE) is None:
            return None
        try:
            values = json.loads(store.read(PLAN_FILE))
            source = {**values["source"], "files": tuple(values["source"]["files"])}
            return cls(**{**values, "source": Source(**source)})
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{store.location}/{PLAN_FILE} is damaged or foreign ({error}); "
                f"delete {store.location}/{WORK_FOLDER} and run again"
            ) from error


def write_items(listed: Iterable[Listed], file: Path, limit: int | None = None) -> Items:
    """Writes the list of items, at most `limit`, to a local file."""
    import pyarrow.parquet as pq

    hashes: list[int] = []
    usable: list[bool] = []
    with pq.ParquetWriter(file, _items_schema(), compression="zstd") as writer:
        for group in _groups(islice(listed, limit)):
            writer.write_table(_items_table(group))
            hashes += [_key_hash(one.key) for one in group]
            usable += [not one.problem for one in group]
    return Items(hashes=np.array(hashes, np.uint64), usable=np.array(usable, bool))


def roles_of(items: Items, num_candidates: int) -> Int32[np.ndarray, " n"]:
    """TRAIN, DUPLICATE, or a rank among the candidates for the held-out split, for every item.

    Candidates are those whose keys have the smallest hashes: whoever adds items keeps nearly all of them.
    """
    roles = np.full(len(items), TRAIN, np.int32)
    roles[items.duplicates] = DUPLICATE
    [open_items] = np.nonzero(items.usable & (roles == TRAIN))
    ranked = open_items[np.argsort(items.hashes[open_items], kind="stable")[:num_candidates]]
    roles[ranked] = np.arange(len(ranked), dtype=np.int32)
    return roles


def num_candidates(num_heldout: int, num_usable: int, broken_share: float) -> int:
    """The held-out images and a reserve: 2 % and twice the share that turned out broken in a probe."""
    reserve = math.ceil(num_heldout * (RESERVE_SHARE + 2 * broken_share)) + LEAST_RESERVE
    return min(num_heldout + reserve, num_usable)


def rows_per_unit(row_bytes: float, num_items: int) -> int:
    """How many rows of this size make a shard of SHARD_BYTES, in whole row groups where they are that many."""
    rows = max(1, round(SHARD_BYTES / row_bytes))
    return min(rows if rows < ROWS_STEP else rows // ROWS_STEP * ROWS_STEP, max(num_items, 1))


def write_plan(store: StoreFolder, plan: Plan, items: Path, roles: Int32[np.ndarray, " n"]) -> None:
    """Puts the plan into the store; its own file comes last and says that the others are whole."""
    buffer = io.BytesIO()
    np.save(buffer, roles)
    store.put(ITEMS_FILE, items)
    store.write(ROLES_FILE, buffer.getvalue())
    store.write(PLAN_FILE, plan.to_json().encode())


class PlannedItems:
    """The items of a plan, unit by unit."""

    def __init__(self, store: StoreFolder, plan: Plan) -> None:
        self._store, self._plan = store, plan
        self._roles: Int32[np.ndarray, " n"] = np.load(io.BytesIO(store.read(ROLES_FILE)))

    def unit(self, number: int) -> list[tuple[Listed, int]]:
        """The items of a unit with their roles; a duplicate is told as a problem."""
        start = number * self._plan.rows_per_unit
        stop = min(start + self._plan.rows_per_unit, self._plan.num_items)
        pairs: list[tuple[Listed, int]] = []
        with self._store.open(ITEMS_FILE) as file:
            items = read_items(file, start, stop)
        for listed, role in zip(items, self._roles[start:stop].tolist(), strict=True):
            pairs.append((replace(listed, problem=DUPLICATE_KEY) if role == DUPLICATE else listed, role))
        return pairs


def differences(recorded: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """'resolution: the store has 256, asked for is 512' for every setting that differs."""
    names = sorted(recorded.keys() | wanted.keys())
    return [
        f"{name}: the store has {json.dumps(recorded.get(name))}, asked for is {json.dumps(wanted.get(name))}"
        for name in names
        if json.dumps(recorded.get(name)) != json.dumps(wanted.get(name))
    ]


def read_items(file: Any, start: int, stop: int) -> list[Listed]:
    """Items `start` to `stop` of a list, a path or an open file; only the groups that hold them are read."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as parquet:
        groups = range(start // ITEMS_PER_GROUP, min(math.ceil(stop / ITEMS_PER_GROUP), parquet.num_row_groups))
        table = parquet.read_row_groups(list(groups))
    return [Listed(**row) for row in table.slice(start - groups.start * ITEMS_PER_GROUP, stop - start).to_pylist()]


def _groups(listed: Iterable[Listed]) -> Iterator[list[Listed]]:
    iterator = iter(listed)
    while group := list(islice(iterator, ITEMS_PER_GROUP)):
        yield group


def _items_schema() -> pa.Schema:
    import pyarrow as pa

    kinds = {"str": pa.string(), "int": pa.int64()}
    return pa.schema([(field.name, kinds[str(field.type).split(" ")[0]]) for field in fields(Listed)])


def _items_table(group: Sequence[Listed]) -> pa.Table:
    import pyarrow as pa

    schema = _items_schema()
    columns = {name: [getattr(listed, name) for listed in group] for name in schema.names}
    return pa.table(columns, schema)


def _key_hash(key: str) -> int:
    """The same in every process, machine and version of Python."""
    return int.from_bytes(hashlib.sha256(f"held out? {key}".encode()).digest()[:8], "big")
