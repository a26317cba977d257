"""What runs on the workers of an encoding job: the first look at the source, the units, the count of what is done."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from prx_model.encoding.encoder import Encoder
from prx_model.encoding.listing import Listed, Source
from prx_model.encoding.plan import WORK_FOLDER, Plan
from prx_model.encoding.settings import EncoderCards, EncodingSettings
from prx_model.encoding.sources import layout_of
from prx_model.encoding.start import Probe, Start, probe, write_start
from prx_model.encoding.store_folder import StoreFolder
from prx_model.encoding.unit import Workbench

MOST_TRIES = 3  # of a unit whose process ends: more would only end more processes


@dataclass(frozen=True, kw_only=True)
class Worker:
    """How a worker of a job works; plain values, none of which changes a row.

    store: location. run: of this start of the command. gpu: whether it has one. threads: CPUs that it may use.
    """

    store: str
    run: str
    settings: EncodingSettings
    batch_size: int
    gpu: bool
    threads: int

    def encoder(self, cards: EncoderCards | None = None) -> Encoder:
        threads = max(1, min(self.threads, os.cpu_count() or 1))
        torch.set_num_threads(threads)
        device = torch.device("cuda" if self.gpu else "cpu")
        return Encoder(self.settings, device=device, batch_size=self.batch_size, threads=threads, cards=cards)


def start_job(worker: Worker, source: Source, listed: Sequence[Listed]) -> Probe:
    """Loads the networks, encodes the first items, and puts what every other worker needs to know into the store."""
    encoder = worker.encoder()
    found = probe(encoder, layout_of(source), listed)
    with scratch_folder() as scratch:
        write_start(StoreFolder(worker.store), encoder, scratch)
    return found


class UnitActor:
    """Encodes units for as long as there are some; Ray Data keeps a pool of these."""

    def __init__(self, worker: Worker, tally: Any) -> None:
        self._worker, self._tally = worker, tally
        self._store = StoreFolder(worker.store)
        plan = Plan.read(self._store)
        assert plan is not None
        self._scratch = Path(tempfile.mkdtemp(prefix="prx-encode-"))
        encoder = worker.encoder(Start.read(self._store).cards)
        self._bench = Workbench(self._store, plan, encoder, self._scratch)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        """One unit: its card, or why there is none."""
        [unit] = (int(number) for number in batch["unit"])
        tries = self._tries(unit)
        if tries >= MOST_TRIES:
            return _outcome(unit, error=f"its process ended {tries} times, as for want of memory")
        self._store.write(self._tries_file(unit), json.dumps({"tries": tries + 1, **_process()}).encode())
        self._tally.begin.remote(unit)
        try:
            card = self._bench.do(unit, lambda *counts: self._tally.add.remote(unit, *counts))
        except Exception as error:  # what fails a unit may be anything: it is told, and the others go on
            return _outcome(unit, error=f"{type(error).__name__}: {' '.join(str(error).split())}"[:600])
        return _outcome(unit, card=card.to_json())

    def __del__(self) -> None:
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _tries(self, unit: int) -> int:
        """How often this start of the command has begun the unit; of those that ended well no one asks again."""
        name = self._tries_file(unit)
        return 0 if self._store.size(name) is None else int(json.loads(self._store.read(name))["tries"])

    def _tries_file(self, unit: int) -> str:
        return f"{WORK_FOLDER}/tries/{self._worker.run}-{unit:05d}.json"


class Tally:
    """What the units of a job have come to, counted while they are worked on."""

    def __init__(self) -> None:
        self._counts: dict[int, tuple[int, int, int]] = {}

    def begin(self, unit: int) -> None:
        self._counts[unit] = (0, 0, 0)

    def add(self, unit: int, items: int, skipped: int, size: int) -> None:
        before = self._counts.get(unit, (0, 0, 0))
        self._counts[unit] = (before[0] + items, before[1] + skipped, before[2] + size)

    def read(self) -> tuple[int, int, int]:
        """Items done, items left out, and bytes of rows, of all units that this start has begun."""
        items, skipped, size = (sum(counts[i] for counts in self._counts.values()) for i in range(3))
        return items, skipped, size


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A local folder for files on their way to S3."""
    folder = Path(tempfile.mkdtemp(prefix="prx-encode-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _outcome(unit: int, *, card: str = "", error: str = "") -> dict[str, list[Any]]:
    return {"unit": [unit], "card": [card], "error": [error]}


def _process() -> dict[str, Any]:
    return {"host": socket.gethostname(), "process": os.getpid()}
