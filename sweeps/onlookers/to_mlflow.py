"""MLflow: an experiment per sweep, a run per trial, found again by its tags."""

from __future__ import annotations

import os
from typing import Any

from sweeps.ledger import FAILED, FINISHED, STOPPED, EvaluationRow, TrialRecord
from sweeps.onlookers.trackers import MLflow
from sweeps.onlookers.tracking import About, Known, values_of

STATUS = {FINISHED: "FINISHED", STOPPED: "KILLED", FAILED: "FAILED"}
# A server that does not answer is waited for so long; mlflow's own patience is minutes.
PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
LONGEST_TAG = 5000  # characters


class MLflowRuns:
    def __init__(self, about: About, settings: MLflow) -> None:
        for name, value in PATIENCE.items():
            os.environ.setdefault(name, value)
        from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports]

        self.about = about
        self.client = MlflowClient(tracking_uri=settings.uri)
        self.experiment = self._experiment(settings.experiment or about.sweep)
        self.there = {run.data.tags["trial"]: run for run in self._runs()}
        self.runs: dict[str, str] = {}  # trial -> MLflow's id

    def _experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        return found.experiment_id if found is not None else self.client.create_experiment(name)

    def _runs(self) -> list[Any]:
        """Those that earlier starts have made."""
        found, token = [], None
        while True:
            page = self.client.search_runs(
                [self.experiment], filter_string=f"tags.sweep = '{self.about.sweep}'", page_token=token
            )
            found, token = [*found, *page], page.token
            if not token:
                return found

    def begin(self, record: TrialRecord) -> Known:
        from mlflow.entities import Param  # pyright: ignore[reportMissingImports]

        run = self.there.get(record.trial)
        if run is None:
            run = self.client.create_run(
                self.experiment, start_time=_ms(record.start.time), tags=self._tags(record), run_name=record.trial
            )
        self.runs[record.trial] = own = run.info.run_id
        if "outcome" in run.data.tags:
            return Known(ended=True)
        settings = self.about.settings(record)
        self.client.log_batch(own, params=[Param(name, str(value)) for name, value in settings.items()])
        # The numbers of an evaluation go there in one batch: where one of them is, all are.
        history = self.client.get_metric_history(own, self.about.metric())
        return Known(steps=frozenset(point.step for point in history))

    def _tags(self, record: TrialRecord) -> dict[str, str]:
        told = {"sweep": self.about.sweep, "trial": record.trial, "role": record.start.role}
        told |= {"config": self.about.title(record), "results": str(self.about.paths.root)}
        return told | ({"reused_from": record.start.reused_from} if record.start.reused_from else {})

    def evaluated(self, record: TrialRecord, row: EvaluationRow) -> None:
        from mlflow.entities import Metric  # pyright: ignore[reportMissingImports]

        values = [Metric(name, value, _ms(row.time), row.step) for name, value in values_of(row).items()]
        self.client.log_batch(self.runs[record.trial], metrics=values)

    def ended(self, record: TrialRecord) -> None:
        assert record.end is not None
        own, end = self.runs[record.trial], record.end
        self.client.set_terminated(own, status=STATUS[end.outcome], end_time=_ms(end.time))
        self.client.set_tag(own, "reason", end.reason[:LONGEST_TAG])
        self.client.set_tag(own, "outcome", end.outcome)

    def flush(self) -> None:
        """Every call is answered when the server has it."""

    def close(self) -> None:
        """Runs that go on stay open: the next start goes on in them."""


def _ms(seconds: float) -> int:
    return round(1000 * seconds)
