"""docs/search-space.md is what the dataclasses say, of every key that a file can have."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from prx_model.metrics.table import METRICS
from prx_model.model import MODELS
from prx_model.teachers.table import TEACHERS
from sweeps.config import setting_paths
from sweeps.space_file import KINDS, SECTIONS, SWEEP_KEYS

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "search-space.md"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("space_reference", ROOT / "tools" / "space_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_page_is_what_the_dataclasses_say(tool: ModuleType) -> None:
    assert PAGE.read_text() == tool.page(), "make reference"


def test_every_setting_and_every_name_stands_on_the_page(tool: ModuleType) -> None:
    sections = dict(re.findall(r"^###? (\S+)$(.*?)(?=^## |^### |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL))
    sections["The keys"] = PAGE.read_text().partition("## The keys")[2].partition("\n## ")[0]
    for key in (*SWEEP_KEYS, *SECTIONS):
        assert f"| `{key}` |" in sections["The keys"]
    for path in setting_paths():
        section, _, name = path.rpartition(".")
        assert not section or f"`{name}`" in sections[section], path
    for name in (*KINDS, *MODELS, *TEACHERS, *METRICS):
        assert f"`{name}` |" in PAGE.read_text()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Told:
    """What is told.

    first, second: both of these. third: with a colon: inside,
        and on a second line; None is nothing.
    """

    first: int = 1
    second: int = 2
    third: str | None = None


def test_a_docstring_is_read_field_by_field(tool: ModuleType) -> None:
    assert tool.introduction_of(Told) == "What is told."
    assert list(tool._rows(Told)) == [
        ("`first`, `second`", "integer", "`1`, `2`", "both of these"),
        ("`third`", "text or null", "`null`", "with a colon: inside, and on a second line; null is nothing"),
    ]


def test_a_field_without_text_is_an_error(tool: ModuleType) -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Untold(Told):
        """What is told.

        first: this. second: that.
        """

    with pytest.raises(ValueError, match="Untold: its docstring has no `third"):
        list(tool._rows(Untold))
