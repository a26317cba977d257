"""A sweep's folder that tests fill, row by row, with the ledger's own classes."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from prx_model.model import MODELS
from sweeps.audit import audited
from sweeps.config import to_plain
from sweeps.confirmation import Confirm, confirmation_name
from sweeps.ledger import (
    BASELINE,
    CANDIDATE,
    CONFIRMATION,
    FINISHED,
    STOPPED,
    End,
    EvaluationRow,
    Ledger,
    Start,
    baseline_curves,
    verdict_row,
)
from sweeps.locations import Location, write_whole
from sweeps.report import Summary, summarise, write_page
from sweeps.rule import StopConfig, judge
from sweeps.space import Budget, Dimension, Objective, Resources, SearchSpace
from sweeps.storage import SweepPaths

OBJECTIVE, OTHER = "mmd_opennsfw", "frechet_opennsfw_pc32"
STEPS = (40, 80, 120, 160, 200)
LOOKS, ALL, BIAS = (48, 96, 192, 384), 384, 0.1
START = {
    "time": "2026-01-02T03:04:05+0000",
    "command": "python sweeps/run.py search_spaces/repa.yaml",
    "profile": "laptop",
    "profile_reason": "no running Ray cluster was found",
    "commit": "0123abcd",
    "dirty": True,
    "python": "3.11.7",
    "packages": {"torch": "2.13.0"},
    "hardware": "2 cores, no GPU",
}


class Lab:
    """A sweep's folder that tests fill."""

    def __init__(
        self,
        folder: Location,
        *,
        candidates: int,
        question: str = "Which teacher wins?",
        mode: str = "min",
        seeds: int = 2,
        confirm: int = 0,
        cache: Path | None = None,
    ) -> None:
        self.space = SearchSpace(
            file="search_spaces/repa.yaml",
            name="repa",
            profile="laptop",
            question=question,
            objective=Objective(metric=OBJECTIVE, mode=mode),
            base={
                "model": to_plain(MODELS["prx_tiny"]),
                "training": {"steps": STEPS[-1], "eval_every_steps": STEPS[0]},
                "evaluation": {"metrics": [OBJECTIVE, OTHER], "num_samples": 384, "noise_seed": 7},
            },
            baseline={"repa": None},
            dimensions=(
                Dimension(path="repa.teacher", kind="choice", values=("dinov2s_saliency", "efficientnet_lite0")),
                Dimension(path="repa.depth", kind="int", low=1, high=2),
                Dimension(path="repa.weight", kind="float", low=0.05, high=2.0, log=True),
            ),
            points=(),
            stop=StopConfig(),
            budget=Budget(candidates=candidates, baseline_seeds=seeds),
            resources=Resources(),
            confirm=Confirm(best=confirm),
        )
        self.paths = SweepPaths.of(self.space, folder, cache)
        self.paths.create()
        self.ledger = Ledger(self.paths)
        self.orders = itertools.count()

    def baselines(self, *factors: float) -> None:
        for seed, factor in enumerate(factors):
            self.trial(f"baseline-seed{seed}", factor, role=BASELINE, seed=seed, overrides={"repa": None})

    def trial(
        self,
        name: str,
        factor: float,
        *,
        role: str = CANDIDATE,
        seed: int = 0,
        overrides: Mapping[str, Any] | None = None,
        until: int = STEPS[-1],
        outcome: str | None = FINISHED,
        end_step: int | None = None,
        reason: str = "trained all 200 steps",
        samples: Mapping[int, int] | None = None,
        confirms: str = "",
        reused_from: str = "",
    ) -> None:
        """`factor` times one falling curve; `samples`: of the steps that were evaluated on fewer than ALL."""
        chosen = overrides or {"repa.teacher": "dinov2s_saliency", "repa.depth": 1, "repa.weight": 0.4217}
        start = Start(trial=name, role=role, seed=seed, overrides=chosen, fingerprint="f" * 12, num_steps=STEPS[-1])
        # The ledger would number it after reading all of its trials.
        self.ledger.append(replace(start, confirms=confirms, reused_from=reused_from, order=next(self.orders)))
        for step in STEPS:
            if step <= until:
                self.row(name, step, factor, num_samples=(samples or {}).get(step, ALL))
        if outcome is not None:
            log = str(self.paths.trial_log(name))
            self.ledger.append(End(trial=name, outcome=outcome, step=end_step or until, reason=reason, log=log))

    def confirmations(self, candidate: str, *factors: float) -> None:
        """The candidate's runs with seeds 1, 2, ..."""
        for seed, factor in enumerate(factors, start=1):
            name = confirmation_name(candidate, seed)
            self.trial(name, factor, role=CONFIRMATION, seed=seed, confirms=candidate)

    def judged(self, name: str, factors: Sequence[float], *, audit: bool = False, until: int = STEPS[-1]) -> None:
        """A candidate as a worker runs it, with a factor for each step: judged, stopped, or audited instead."""
        chosen = {"repa.teacher": "dinov2s_saliency", "repa.depth": 2, "repa.weight": 0.5}
        start = Start(trial=name, role=CANDIDATE, seed=0, overrides=chosen, fingerprint="f" * 12, num_steps=STEPS[-1])
        self.ledger.append(start)
        share, verdict = float(audit), None
        for step, factor in zip(STEPS, factors, strict=True):
            if step > until:
                return
            row = self._row(name, step, factor)
            record = self.ledger.record(name)
            curve = {**(record.curve(OBJECTIVE) if record else {}), step: row.scores(OBJECTIVE)}
            baselines, mode = baseline_curves(self.ledger.records(), OBJECTIVE), self.space.objective.mode
            verdict = judge(curve, baselines, self.space.stop, num_steps=STEPS[-1], mode=mode)
            last = step == STEPS[-1]
            verdict = replace(verdict, stop=False) if last else audited(verdict, name, "f" * 12, share)
            self.ledger.append(replace(row, verdict=verdict_row(verdict)))
            if verdict.stop or last:
                outcome, reason = (STOPPED, verdict.reason) if verdict.stop else (FINISHED, "trained all 200 steps")
                log = str(self.paths.trial_log(name))
                self.ledger.append(End(trial=name, outcome=outcome, step=step, reason=reason, log=log))
                return

    def row(self, name: str, step: int, factor: float, num_samples: int = ALL, **change: Any) -> None:
        self.ledger.append(self._row(name, step, factor, num_samples, **change))

    def _row(self, name: str, step: int, factor: float, num_samples: int = ALL, **change: Any) -> EvaluationRow:
        """10 s of training, 2 s of evaluation. On n samples the value is larger by the same factor for all trials."""
        value = factor * 500 * math.exp(-step / 150)
        nested = {n: value * (1 + BIAS * (ALL / n - 1)) for n in LOOKS if n <= num_samples}
        row = EvaluationRow(
            trial=name,
            step=step,
            metrics={OBJECTIVE: nested[num_samples], OTHER: nested[num_samples] / 40},
            num_samples=num_samples,
            nested={str(n): {OBJECTIVE: there, OTHER: there / 40} for n, there in nested.items()},
            flow_loss=0.3,
            repa_loss=None,
            grad_norm=0.1,
            images_per_s=70.0,
            train_s=10.0,
            eval_s=2.0,
            peak_memory_bytes=1,
            resumed_from=0,
        )
        return replace(row, **change)

    def grids(self, name: str, side: int = 65, steps: tuple[int, ...] = STEPS) -> None:
        for step in steps:
            path = self.paths.sample_grid(name, step)
            pixels = np.random.default_rng(step).integers(0, 256, (side, side, 3), dtype=np.uint8)
            picture = io.BytesIO()
            Image.fromarray(pixels).save(picture, format="png")
            write_whole(path, picture.getvalue())

    def summary(self) -> Summary:
        return summarise(self.space, self.ledger)

    def page(self) -> str:
        return write_page(self.space, self.paths, self.summary(), [START]).read_text()
