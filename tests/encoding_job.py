"""The encode command without Ray: what it does around units, one after the other in this process."""

from __future__ import annotations

from pathlib import Path

from prx_model.data.manifest import Manifest, SourceCard
from prx_model.encoding.encoder import Encoder
from prx_model.encoding.finish import FinishedJob, finish
from prx_model.encoding.plan import (
    Plan,
    PlannedItems,
    num_candidates,
    read_items,
    roles_of,
    write_items,
    write_plan,
)
from prx_model.encoding.sources import layout_of, recognise
from prx_model.encoding.start import Start, probe, write_start
from prx_model.encoding.store_folder import StoreFolder
from prx_model.encoding.unit import Workbench, finished_units

CARD = SourceCard(name="pictures", package="", package_version="", licence="", attribution="")


class EncodingJob:
    """A job that has been planned; `bench` does its units, in any order, and `finish` puts them together."""

    def __init__(self, source: Path, store: Path, encoder: Encoder, *, num_heldout: int = 6, rows: int = 7) -> None:
        self.store = StoreFolder(str(store))
        self.scratch = store.parent / f"{store.name}-scratch"
        self.scratch.mkdir()
        found = recognise(str(source))
        items = write_items(layout_of(found).listed(), self.scratch / "items.parquet")
        probed = probe(encoder, layout_of(found), read_items(self.scratch / "items.parquet", 0, 8))
        candidates = num_candidates(num_heldout, items.num_usable, probed.broken_share)
        self.plan = Plan(
            source=found,
            settings=encoder.settings.plain(),
            num_items=len(items),
            num_heldout=num_heldout,
            num_candidates=candidates,
            rows_per_unit=rows,
        )
        write_start(self.store, encoder, self.scratch)
        write_plan(self.store, self.plan, self.scratch / "items.parquet", roles_of(items, candidates))
        self.items = PlannedItems(self.store, self.plan)
        self.bench = Workbench(self.store, self.plan, encoder, self.scratch)
        self.encoder = encoder

    def finish(self) -> Manifest:
        units = finished_units(self.store, verify=True)
        job = FinishedJob(
            plan=self.plan,
            settings=self.encoder.settings,
            start=Start.read(self.store),
            units=list(units.values())[::-1],  # as units end: in any order
            source=CARD,
        )
        return finish(self.store, job, self.scratch)
