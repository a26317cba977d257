"""One run of the command on one sweep, from the lock to the answer."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rich.console import Console

from sweeps import (
    cluster,
    cluster_preflight,
    gauges,
    locks,
    plan,
    preflight,
    preparation,
    progress,
    provenance,
    raylet,
    report,
    reuse,
    sweep,
)
from sweeps.agenda import num_trials
from sweeps.confirmation import best_record
from sweeps.events import SCHEMA
from sweeps.ledger import FAILED, Ledger, TrialRecord
from sweeps.locations import sent_at_the_end, write_whole
from sweeps.onlookers.around import onlookers
from sweeps.output import EXIT_TRIAL_FAILED, Output
from sweeps.page.fresh import kept_fresh
from sweeps.space import SearchSpace
from sweeps.standing import Observer
from sweeps.storage import SweepPaths


@dataclass(frozen=True)
class Session:
    """What the command was given, resolved. address: of a running Ray cluster, None to start one here."""

    options: argparse.Namespace
    space: SearchSpace
    paths: SweepPaths
    choice: cluster.Choice
    address: str | None
    output: Output

    @cached_property
    def made_with(self) -> dict[str, Any]:
        """Provenance of this run."""
        manifest = preflight.stored_manifest(self.space.baseline_config(self.space.first_seed))
        data = manifest.fingerprint if manifest else None
        return provenance.provenance(self.choice.profile, self.choice.reason, data=data)

    def reusable(self) -> reuse.Found:
        """Baseline seeds that other sweeps have trained."""
        if self.options.fresh_baseline or not self.space.budget.reuse_baseline:
            return reuse.Found()
        return reuse.find(self.space, self.paths, self.made_with)

    def print_plan(self) -> None:
        """To people, whoever the run itself would speak to."""
        plan.print_plan(Console(file=sys.stdout, soft_wrap=True), self.space, self.paths, self.reusable())

    def run(self) -> int:
        """All that is still open, and the answer; the exit code."""
        started = sweep.Sweep(space=self.space, paths=self.paths, cache=self.options.cache.absolute())
        watched = onlookers(self.space, self.paths, self.output.warn)
        with locks.only_driver(self.paths, self.output.halt_for) as warning, watched:
            if warning:
                self.output.warn(warning)
            self._record_start()
            remotely = self._prepare(started)
            log = self.paths.ray_log
            with sent_at_the_end(log, self.paths.logs / log.name), cluster.printing_to(log):
                connection = self._connect(started, remotely)
                try:
                    records = self._train(started, connection)
                finally:
                    # The page is made whatever happened: what is known so far is worth reading.
                    summary = report.summarise(self.space, started.ledger)
                    report.write_page(self.space, self.paths, summary, provenance.read_starts(self.paths.starts))
            best = best_record(self.space, records)
            sweep.keep_best_model(started, best)
            sweep.collect_checkpoints(started, best)
        return self._answer(summary, records)

    def _record_start(self) -> None:
        write_whole(self.paths.space, self.options.space.read_bytes())
        provenance.append_start(self.paths.starts, self.made_with | provenance.recorded_rule(self.space))
        preflight.check_weights_at_hand(self.space)

    def _prepare(self, started: sweep.Sweep) -> bool:
        """Caches, the baselines of others, the plan. Returns whether caches are made on a node of the cluster."""
        remotely = preparation.belongs_on_a_gpu_node(self.space)
        if not remotely:
            preparation.prepare_here(started, progress.CacheProgress(self.output.console))
        found = self.reusable()
        reuse.adopt(found, self.paths)
        if not self.output.console.quiet:  # it measures a step
            plan.print_plan(self.output.console, self.space, self.paths, found)
        return remotely

    def _connect(self, started: sweep.Sweep, remotely: bool) -> cluster.Connection:
        console = self.output.console
        connection = cluster.connect(self.address, self.paths.ray_log)
        cluster.check_state_api(connection.address)
        tell = lambda line: console.print(f"Preflight  {line}")  # noqa: E731
        cluster_preflight.check_cluster(self.space, self.paths, connection, tell)
        console.print(f"Dashboard  {connection.dashboard or 'off'}\n", highlight=False)
        if remotely:
            caches = progress.CacheProgress(console)
            preparation.prepare_on_a_node(started, self.space.resources, caches)
        return connection

    def _train(self, started: sweep.Sweep, connection: cluster.Connection) -> list[TrialRecord]:
        planned = num_trials(self.space)
        self.output.event("sweep", **self._described(planned, Ledger(self.paths).records()))
        watch = progress.Watch(
            observer=Observer(space=self.space, paths=self.paths, planned=planned),
            teller=self._teller(),
            gauges=gauges.Gauges(self.space, self.paths.root.name, planned),
            resources=cluster.Capacity().told,
        )
        fresh = kept_fresh(self.space, self.paths)
        with raylet.watched_raylet(self.output.halt_at_once), progress.watching(watch, self.output.console), fresh:
            return sweep.run(started, connection)

    def _teller(self) -> progress.Teller | None:
        if self.output.events is not None:
            return progress.Events(self.output.events)
        if self.output.console.quiet:
            return None
        num_samples = self.space.baseline_config(self.space.first_seed).evaluation.num_samples
        return progress.Lines(self.output.console, self.space.objective.metric, num_samples)

    def _described(self, planned: int, records: Sequence[TrialRecord]) -> Mapping[str, Any]:
        return {
            "schema": SCHEMA,
            "sweep": self.paths.root.name,
            "folder": str(self.paths.root),
            "profile": self.space.profile,
            "question": self.space.question,
            "metric": self.space.objective.metric,
            "mode": self.space.objective.mode,
            "planned": planned,
            "ended": sum(record.end is not None for record in records),
        }

    def _answer(self, summary: report.Summary, records: Sequence[TrialRecord]) -> int:
        if not self.output.console.quiet:
            self.output.console.print()
            self.output.console.print(report.final_table(summary))
        for line in report.final_lines(summary, self.paths):
            self.output.answer.print(line, highlight=False)
        best = summary.best.trial if summary.best else None
        page = str(self.paths.page)
        self.output.event("answer", answer=summary.answer, complete=summary.complete, best=best, page=page)
        return EXIT_TRIAL_FAILED if any(record.outcome == FAILED for record in records) else 0
