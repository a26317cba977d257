"""TensorBoard: a folder of event files per trial, written anew from the ledger at every start of the sweep."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeps.ledger import EvaluationRow, TrialRecord
from sweeps.object_path import ObjectPath
from sweeps.onlookers.trackers import TensorBoard
from sweeps.onlookers.tracking import About, Known, values_of

if TYPE_CHECKING:
    from tensorboardX.event_file_writer import EventsWriter

FOLDER = "tensorboard"


class TensorBoardRuns:
    """On the driver's disk, which for a sweep on a disk is its folder; to S3 the files are sent whenever they grow.

    Events are written at once. (SummaryWriter hands them to a thread, for which its flush does not wait.)
    """

    def __init__(self, about: About, settings: TensorBoard) -> None:
        self.about, self.settings = about, settings
        self.folder = about.paths.here / FOLDER
        shutil.rmtree(self.folder, ignore_errors=True)
        self.writers: dict[str, EventsWriter] = {}
        self.sent: dict[Path, int] = {}

    def begin(self, record: TrialRecord) -> Known:
        from tensorboardX.event_file_writer import EventsWriter

        folder = self.folder / record.trial
        folder.mkdir(parents=True, exist_ok=True)
        self.writers[record.trial] = EventsWriter(str(folder / "events"))
        return Known()

    def evaluated(self, record: TrialRecord, row: EvaluationRow) -> None:
        from tensorboardX import summary

        for name, value in values_of(row).items():
            self._write(record.trial, summary.scalar(name, value), row.step, row.time)
        grid = self.about.paths.sample_grid(record.trial, row.step)
        # From S3 all of them would be fetched again at every start.
        if self.settings.images and isinstance(grid, Path) and grid.is_file():
            picture = summary.image("samples", _pixels(grid), dataformats="HWC")
            self._write(record.trial, picture, row.step, row.time)

    def ended(self, record: TrialRecord) -> None:
        from tensorboardX import summary

        assert record.end is not None
        end = record.end
        self._write(record.trial, summary.text("outcome", f"{end.outcome}: {end.reason}"), end.step, end.time)
        if record.evaluations:
            settings = {name: _plain(value) for name, value in self.about.settings(record).items()}
            metrics = dict(record.evaluations[-1].metrics)
            for part in summary.hparams({**settings, "outcome": end.outcome}, metrics):
                self._write(record.trial, part, None, end.time)
        self.writers.pop(record.trial).close()

    def flush(self) -> None:
        for writer in self.writers.values():
            writer.flush()
        root = self.about.paths.root
        if isinstance(root, ObjectPath):
            self._send(root / FOLDER)

    def close(self) -> None:
        for writer in self.writers.values():
            writer.close()
        self.writers.clear()

    def _write(self, trial: str, summary: Any, step: int | None, moment: float) -> None:
        from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

        self.writers[trial].write_event(Event(wall_time=moment, step=step or 0, summary=summary))

    def _send(self, target: ObjectPath) -> None:
        if not self.sent:  # what an earlier start has sent says the same
            for path in target.files():
                path.remove()
        for file in sorted(self.folder.rglob("events*")):
            size = file.stat().st_size
            if self.sent.get(file) != size:
                (target / file.relative_to(self.folder).as_posix()).upload(file)
                self.sent[file] = size


def _pixels(grid: Path) -> Any:
    import numpy as np
    from PIL import Image

    return np.asarray(Image.open(grid).convert("RGB"))


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | bool | int | float) else str(value)
