"""One start of the encode command, from the listing of the source to the summary."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from prx_model.data.manifest import Manifest
from prx_model.encoding.plan import PLAN_FILE, WORK_FOLDER, Items, Plan
from prx_model.encoding.store_folder import StoreFolder
from prx_model.encoding.unit import CARDS_FOLDER, PIECES_FOLDER, finished_units
from sweeps import cluster
from sweeps.encoding import job
from sweeps.encoding.progress import EncodeWatch, data_section, first_examples, pace, summary, tell, watching
from sweeps.encoding.request import (
    EncodeError,
    EncodeRequest,
    finished_manifest,
    list_items,
    only_encoder,
    unfinished_plan,
)
from sweeps.encoding.worker import scratch_folder
from sweeps.obstacles import HaltedError
from sweeps.wording import count


@dataclass(frozen=True, kw_only=True)
class EncodeSession:
    """out, err: made before Ray prints, so that what is shown here stays out of its log. address: of a cluster."""

    request: EncodeRequest
    address: str | None
    out: Console
    err: Console

    def run(self) -> dict[int, str]:
        """Encode; the units that could not be done, by number. EncodeError and ValueError are for the user to read."""
        store = _reachable(self.request.store)
        if self._is_done(store):
            return {}
        with only_encoder(store), scratch_folder() as scratch:
            if self._is_done(store):  # by who held the lock until now
                return {}
            store.sweep_partials(WORK_FOLDER, CARDS_FOLDER, PIECES_FOLDER)
            plan, items = unfinished_plan(store, self.request), None
            if plan is None:
                items = self._listed(scratch / "items.parquet")
            log = _log_file(store)
            try:
                progress = self._run_on_ray(store, log, plan, items, scratch / "items.parquet")
            except EncodeError as error:
                raise EncodeError(f"{error}; Ray's messages are in {log}") from error
            self._show_failures(progress)
            return progress.failed

    def _is_done(self, store: StoreFolder) -> bool:
        manifest = finished_manifest(store, self.request)
        if manifest is None:
            return False
        store.remove(WORK_FOLDER)  # a kill can have left it
        self.out.print("Everything is done already.")
        self._show(store, manifest)
        return True

    def _listed(self, listing: Path) -> Items:
        source = self.request.source
        tell(self.out, f"listing {source.location} (layout: {source.layout})")
        items = list_items(self.request, listing)
        tell(self.out, f"{len(items):,} items, {items.num_usable:,} of them with image, caption and a key of their own")
        return items

    def _run_on_ray(
        self, store: StoreFolder, log: Path, plan: Plan | None, items: Items | None, listing: Path
    ) -> job.Progress:
        with cluster.printing_to(log), _errors_to(log):
            tell(self.out, f"starting Ray; its messages go to {log}")
            _connect(self.address, log)
            run = job.new_run()
            if plan is None:
                assert items is not None
                tell(self.out, "loading the encoders, and a look at the first items")
                plan = job.begin(store, self.request, items, listing, run)
            return self._encode(store, plan, run)

    def _encode(self, store: StoreFolder, plan: Plan, run: str) -> job.Progress:
        begun = time.monotonic()
        progress = job.Progress(plan=plan, units=finished_units(store, verify=self.request.verify))
        watch = EncodeWatch(progress)
        already = f", {len(progress.units):,} of them done already" if progress.units else ""
        tell(self.out, f"{count(plan.num_units, 'shard')} of {plan.rows_per_unit:,} items to make{already}")
        with watching(self.out, watch):
            job.encode_units(store, self.request, progress, run)
        if progress.failed:
            return progress
        tell(self.out, "putting the held-out split and the manifest together")
        seconds = time.monotonic() - begun
        job.write_record(store, self.request, progress, seconds)
        done = pace(progress, watch, seconds)
        manifest = job.finish_job(store, self.request, progress)
        self.out.print(f"\nDone      {done}")
        self._show(store, manifest)
        return progress

    def _show(self, store: StoreFolder, manifest: Manifest) -> None:
        for line in summary(store.location, manifest, first_examples(manifest.skipped)):
            self.out.print(line, markup=False)
        if manifest.counts["heldout"] < self.request.num_heldout:
            self.out.print(
                f"note      {self.request.num_heldout:,} held-out images were asked for, but more items are broken "
                "than the reserve can stand in for"
            )
        self.out.print("\nIn a search space:\n")
        for line in data_section(store.location, manifest):
            self.out.print(f"    {line}", markup=False)

    def _show_failures(self, progress: job.Progress) -> None:
        for line in job.failures(progress):
            self.err.print(f"failed: {line}", markup=False)
        if not progress.failed:
            return
        failed = f"{count(len(progress.failed), 'shard')} of {progress.plan.num_units:,}"
        self.err.print(f"{failed} could not be made; the same command tries again")


@contextmanager
def _errors_to(log: Path) -> Iterator[None]:
    """Send what is written to the process's stderr to a file: Ray's core writes past Python."""
    sys.stderr.flush()
    kept = os.dup(2)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _reachable(location: str) -> StoreFolder:
    """The store's folder, which can be written to. EncodeError says why where it cannot."""
    try:
        store = StoreFolder(location)
        store.size(PLAN_FILE)
        if store.local is not None:
            store.local.mkdir(parents=True, exist_ok=True)
            if not os.access(store.local, os.W_OK):
                raise PermissionError("it cannot be written to")
    except Exception as error:  # the kinds are those of every file system and of the library behind it
        raise EncodeError(f"--to: cannot use {location}: {' '.join(str(error).split())}") from error
    return store


def _connect(address: str | None, log: Path) -> None:
    found = cluster.running_address(address)
    try:
        cluster.connect(found, log)
    except HaltedError as error:
        raise EncodeError(f"--address: {error}") from error


def _log_file(store: StoreFolder) -> Path:
    """Where Ray's messages go: the work folder, which goes when all is done, or a temporary folder for S3."""
    folder = Path(tempfile.gettempdir()) if store.local is None else store.local / WORK_FOLDER
    return folder / f"ray-{os.getpid()}.log"
