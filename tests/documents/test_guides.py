"""The guides of docs/, followed to the letter: each code block is run where the page says that it goes."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from prx_model.encoding.encoder import Encoder
from prx_model.metrics import features
from prx_model.metrics import table as metric_table
from prx_model.teachers import hub_families
from prx_model.teachers import table as teacher_table
from sweeps import main, plan, preflight
from sweeps.encoding.command import request_of
from sweeps.encoding.progress import data_section
from sweeps.space import SearchSpace
from tests.documents.blocks import Block, fenced
from tests.encoding_job import EncodingJob
from tests.picture_sources import pairs, write_folder
from tests.sweeps.space_files import laptop, space_of


def row_of(block: Block, module: Any) -> Any:
    """The value of a block that is one expression, with the names of the module that it is to stand in."""
    return eval(block.text, vars(module))


def run_in(block: Block, module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a block as if it stood in the module; what it defines is taken back after the test."""
    names = dict(vars(module))
    exec(block.text, names)
    for name in names.keys() - vars(module).keys():
        monkeypatch.setattr(module, name, names[name], raising=False)


def asked(block: Block, change: dict[str, Any]) -> SearchSpace:
    """The space of the tests with the page's section in it."""
    sections = yaml.safe_load(block.text)
    dotted = {f"space.{path}": value for path, value in sections.pop("space", {}).items()}
    return space_of(laptop({**sections, **dotted, **change}))


def test_a_teacher_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    names: dict[str, Any] = {}
    for block in fenced("docs/adding-a-teacher.md"):
        match block.language, block.place:
            case "python", "hub_families":
                run_in(block, hub_families, monkeypatch)
            case "python", "table":
                spec = row_of(block, teacher_table)
                assert spec.name not in teacher_table.TEACHERS
                monkeypatch.setitem(teacher_table.TEACHERS, spec.name, spec)
            case "python", "":
                torch.manual_seed(0)
                exec(block.text, names)
            case "yaml", "space":
                space = asked(block, {"points": [], "stop.grace": 0.3})
                told = [finding.line for finding in preflight.weight_findings(space)]
                assert any("google/vit-large-patch16-224-in21k" in line and "hf download" in line for line in told)
            case other:
                raise AssertionError(f"nobody follows this block: {other}")
    assert {"tokens", "change"} <= names.keys()


def test_a_metric_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "EXTRACTORS", dict(features.EXTRACTORS))
    monkeypatch.setattr(metric_table, "EXTRACTORS", features.EXTRACTORS)
    names: dict[str, Any] = {}
    for block in fenced("docs/adding-a-metric.md"):
        match block.language, block.place:
            case "python", "features":
                run_in(block, features, monkeypatch)
            case "python", "table":
                spec = row_of(block, metric_table)
                monkeypatch.setitem(metric_table.METRICS, spec.name, spec)
            case "python", "":
                torch.manual_seed(0)
                exec(block.text, names)
            case "yaml", "space":
                monkeypatch.setattr("sweeps.space_checks.EXTRACTORS", features.EXTRACTORS)
                space = asked(block, {})
                assert space.objective.metric == "mmd_colours"
                assert space.baseline_config(0).evaluation.metrics[1] == "mmd_lite0_wide"
            case other:
                raise AssertionError(f"nobody follows this block: {other}")
    assert names["dark"] > names["darker"] > 0


def test_a_data_set_is_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "photos", pairs(120, side=32))
    blocks = fenced("docs/adding-a-data-set.md")
    commands = [shlex.split(block.text) for block in blocks if block.language == "sh"]
    assert [command[0] for command in commands] == ["prx-sweeps"] * 2
    here, cluster = (main.parser().parse_args(command[1:]) for command in commands)
    assert (cluster.autoencoder, cluster.resolution, cluster.to) == ("flux", 256, "s3://bucket/encoded")

    request = request_of(here)
    encoder = Encoder(request.settings, device=torch.device("cpu"), batch_size=60)
    job = EncodingJob(Path(here.source), Path(here.to), encoder, num_heldout=request.num_heldout, rows=60)
    for unit in range(job.plan.num_units):
        job.bench.do(unit)
    manifest = job.finish()

    [look] = [block.text for block in blocks if block.language == "python"]
    exec(look, {})
    assert "{'train': 20, 'heldout': 100}" in capsys.readouterr().out

    [section] = [block for block in blocks if block.place == "data"]
    assert section.text.splitlines() == data_section(here.to, manifest)
    space = space_of(laptop({**yaml.safe_load(section.text), "evaluation.num_samples": 100}))
    line = plan._data_line(space.baseline_config(space.first_seed))
    assert "20 images as pixels" in line
    assert "100 held out" in line
