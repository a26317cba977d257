"""Weights & Biases: a run per trial, in a group per sweep; its id is made of the sweep's and the trial's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sweeps.ledger import FAILED, EvaluationRow, TrialRecord
from sweeps.locations import write_whole
from sweeps.onlookers.trackers import Wandb
from sweeps.onlookers.tracking import About, Known, values_of

STATE_FILE = "wandb.json"


class WandbRuns:
    """What was told is kept in a file beside the ledger: a run that has ended is not opened again to ask it."""

    def __init__(self, about: About, settings: Wandb) -> None:
        self.about, self.settings = about, settings
        self.file = about.paths.root / STATE_FILE
        self.told: dict[str, dict[str, Any]] = json.loads(self.file.read_text()) if self.file.is_file() else {}
        self.runs: dict[str, Any] = {}

    def begin(self, record: TrialRecord) -> Known:
        own = self.told.setdefault(record.trial, {"steps": [], "ended": False})
        return Known(steps=frozenset(own["steps"]), ended=own["ended"])

    def _run(self, record: TrialRecord) -> Any:
        import wandb  # pyright: ignore[reportMissingImports]

        if record.trial not in self.runs:
            folder = Path(self.about.paths.here)
            folder.mkdir(parents=True, exist_ok=True)
            self.runs[record.trial] = wandb.init(
                project=self.settings.project,
                entity=self.settings.entity,
                group=self.about.sweep,
                job_type=record.start.role,
                id=f"{self.about.space.fingerprint}-{record.trial}",
                name=record.trial,
                notes=self.about.title(record),
                config=self.about.settings(record),
                dir=str(folder),
                mode=self.settings.mode,
                resume="allow" if self.settings.mode == "online" else None,
                reinit="create_new",  # trials run side by side, and each has its own
                settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
            )
        return self.runs[record.trial]

    def evaluated(self, record: TrialRecord, row: EvaluationRow) -> None:
        self._run(record).log({**values_of(row), "time": row.time}, step=row.step)
        self.told[record.trial]["steps"].append(row.step)

    def ended(self, record: TrialRecord) -> None:
        assert record.end is not None
        run = self._run(record)
        run.summary.update({"outcome": record.end.outcome, "reason": record.end.reason})
        run.finish(exit_code=1 if record.end.outcome == FAILED else 0)
        self.runs.pop(record.trial)
        self.told[record.trial]["ended"] = True

    def flush(self) -> None:
        write_whole(self.file, json.dumps(self.told).encode())

    def close(self) -> None:
        """Runs that go on are left; the next start goes on in them."""
        for run in self.runs.values():
            run.finish()
        self.runs.clear()
