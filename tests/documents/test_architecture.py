"""docs/architecture.md and its picture name what is there, and the picture's arrows are imports."""

from __future__ import annotations

import ast
import inspect
import re
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import pytest

from prx_model import ExperimentConfig
from prx_model.evaluation import Evaluation
from prx_model.experiment import Experiment
from tests.documents.blocks import ROOT, fenced, text_of

PICTURE = ElementTree.fromstring(text_of("docs/architecture.svg"))
SVG = "{http://www.w3.org/2000/svg}"
PAGE = text_of("docs/architecture.md")
ARROWS = [
    (arrow.get("data-from", ""), arrow.get("data-to", ""))
    for arrow in PICTURE.iter(f"{SVG}path")
    if arrow.get("class") in ("calls", "writes", "reads")
]
ASKS = [arrow for arrow in PICTURE.iter(f"{SVG}path") if arrow.get("class") == "asks"]


def imported_by(module: str) -> set[str]:
    """Every module that the module imports, at its top or where it needs it."""
    spec = find_spec(module)
    assert spec is not None, module
    assert spec.origin is not None, module
    found: set[str] = set()
    for node in ast.walk(ast.parse(Path(spec.origin).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return found


@pytest.mark.parametrize(("source", "target"), ARROWS, ids=["->".join(arrow) for arrow in ARROWS])
def test_an_arrow_is_an_import(source: str, target: str) -> None:
    assert target in imported_by(source)


def test_no_arrow_leads_from_prx_model_to_sweeps() -> None:
    assert len(ARROWS) >= 20
    assert not [arrow for arrow in ARROWS if arrow[0].startswith("prx_model") and arrow[1].startswith("sweeps")]


def test_both_ends_of_what_is_asked_know_the_desk() -> None:
    assert {arrow.get("data-from") for arrow in ASKS} == {"sweeps.trial", "sweeps.slot"}
    for arrow in ASKS:
        module = find_spec(arrow.get("data-from", ""))
        assert module is not None
        assert module.origin is not None
        assert "desk" in Path(module.origin).read_text()


def test_the_files_in_the_picture_are_there() -> None:
    names = {text.text or "" for text in PICTURE.iter(f"{SVG}text") if text.get("class") == "code"}
    modules = {name for name in names if name.endswith(".py")}
    assert len(modules) >= 19
    for name in modules:
        places = (ROOT / name, ROOT / "sweeps" / name, ROOT / "prx_model" / name)
        assert any(place.is_file() for place in places), name


def test_the_names_on_the_page_are_there() -> None:
    prose = re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)
    for name in re.findall(r"`([\w/]+\.py)`", prose):
        assert (ROOT / "sweeps" / name).is_file() or (ROOT / "prx_model" / name).is_file(), name
    tree = next(block.text for block in fenced("docs/architecture.md"))
    parents: list[str] = []
    for line in tree.splitlines():
        level, name = (len(line) - len(line.lstrip())) // 4, line.split()[0]
        parents = [*parents[:level], name]
        assert (ROOT / "".join(parents)).is_dir(), line


def test_the_flow_names_classes_that_are_there() -> None:
    classes = {"Batch", "LossTerms", "Evaluation", "Verdict", "SearchSpace", "ExperimentConfig"}
    assert all(name in PAGE for name in classes)
    code = "\n".join(file.read_text() for package in ("sweeps", "prx_model") for file in (ROOT / package).rglob("*.py"))
    assert {name for name in classes if re.search(rf"^class {name}\b", code, re.MULTILINE)} == classes


def test_the_example_is_an_experiment() -> None:
    """Its configuration is made; what it does with it is tested in tests/prx_model, with less to train."""
    [example] = [block.text for block in fenced("docs/architecture.md") if block.language == "python"]
    setting_up, running = example.split("prepare(config", 1)
    names: dict[str, object] = {}
    exec(setting_up, names)
    assert isinstance(names["config"], ExperimentConfig)
    ast.parse(f"prepare(config{running}")
    assert "evaluation.scores().values" in running
    assert ".evaluations()" in running
    assert inspect.isfunction(Experiment.evaluations)
    assert inspect.isfunction(Evaluation.scores)
