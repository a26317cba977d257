"""What is asked of an encoding job, and whether the store that is named can take it."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prx_model.data.manifest import MANIFEST_FILE, Manifest, SourceCard
from prx_model.encoding.listing import Source
from prx_model.encoding.plan import WORK_FOLDER, Items, Plan, differences, write_items
from prx_model.encoding.settings import EncodingSettings
from prx_model.encoding.sources import layout_of
from prx_model.encoding.store_folder import StoreFolder

RECIPE_VERSION = 1  # raised by whoever changes how items are read, cropped, encoded or split
RECORD_FILE = "encoding.json"
REMEDY = "ask for what it has, or encode into another place"


class EncodeError(ValueError):
    """What ends the command, in one line: a mistake in what was asked for, or in what was found."""


@dataclass(frozen=True, kw_only=True)
class EncodeRequest:
    """What is to be encoded, and how. num_heldout, limit, settings and the source decide what the data set holds.

    rows_per_shard: None for shards of about 128 MB. actors, gpus_per_actor: None for what the cluster has.
    """

    source: Source
    store: str
    settings: EncodingSettings
    card: SourceCard
    num_heldout: int
    limit: int | None = None
    rows_per_shard: int | None = None
    batch_size: int = 64
    actors: int | None = None
    gpus_per_actor: float | None = None
    verify: bool = False

    def __post_init__(self) -> None:
        for name, least in (("num_heldout", 1), ("limit", 2), ("rows_per_shard", 1), ("batch_size", 1), ("actors", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name}: got {value}, allowed is {least} or more")
        if self.gpus_per_actor is not None and self.gpus_per_actor < 0:
            raise ValueError(f"gpus_per_actor: got {self.gpus_per_actor}, allowed is 0 or more")

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that decides what the data set holds, but the source's place. JSON values."""
        return {
            "recipe_version": RECIPE_VERSION,
            "layout": self.source.layout,
            "image_column": self.source.image_column,
            "caption_column": self.source.caption_column,
            "num_heldout": self.num_heldout,
            "limit": self.limit,
            **self.settings.plain(),
        }


def finished_manifest(store: StoreFolder, request: EncodeRequest) -> Manifest | None:
    """The manifest of a finished store; None where there is none. EncodeError where it is of another request."""
    if store.size(MANIFEST_FILE) is None:
        return None
    manifest = Manifest.read(store.location if store.local is None else store.local)
    record = json.loads(store.read(RECORD_FILE)) if store.size(RECORD_FILE) is not None else {}
    _check_same(store, record.get("source", request.source.location), manifest.settings, request)
    return manifest


def unfinished_plan(store: StoreFolder, request: EncodeRequest) -> Plan | None:
    """The plan of an unfinished job; None where there is none. EncodeError where it is of another request."""
    plan = Plan.read(store)
    if plan is not None:
        _check_same(store, plan.source.location, plan.settings, request)
        if request.rows_per_shard not in (None, plan.rows_per_unit):
            raise EncodeError(
                f"{store.location}: rows_per_shard: the store has {plan.rows_per_unit}, "
                f"asked for is {request.rows_per_shard}; {REMEDY}"
            )
    return plan


def _check_same(store: StoreFolder, source: str, settings: Mapping[str, Any], request: EncodeRequest) -> None:
    recorded = {"source": source, **settings}
    found = differences(recorded, {"source": request.source.location, **request.identity})
    if found:
        more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
        raise EncodeError(f"{store.location} holds another data set: {'; '.join(found[:3])}{more}; {REMEDY}")


def list_items(request: EncodeRequest, file: Path) -> Items:
    """Lists the source into a local file. EncodeError where there are too few items to hold some out."""
    items = write_items(layout_of(request.source).listed(), file, request.limit)
    if items.num_usable <= request.num_heldout:
        usable = f"{items.num_usable} of its {len(items)} items" if items.num_usable < len(items) else f"{len(items)}"
        raise EncodeError(
            f"num_heldout: got {request.num_heldout}, allowed is less than the {usable} that the source has to offer"
        )
    return items


@contextmanager
def only_encoder(store: StoreFolder) -> Iterator[None]:
    """Hold the store's lock where it is on a disk; EncodeError where another process does. S3 has no locks."""
    if store.local is None:
        yield
        return
    path = store.local / WORK_FOLDER / "lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            raise EncodeError(f"{store.location}: is being encoded already (process {file.read().strip()})") from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
