"""Every command that README and docs/cluster.md show exists, with these arguments; and links lead somewhere."""

from __future__ import annotations

import re

import click
import pytest

from sweeps import plan
from tests.documents.blocks import ROOT, indented, text_of
from tests.documents.commands import check

PAGES = ("README.md", "CONTRIBUTING.md", "docs/cluster.md")
SHOWN = [(page, command) for page in PAGES for command in indented(page)]
TEXTS = sorted(
    str(path.relative_to(ROOT))
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))
    if ".venv" not in path.parts
)


@pytest.fixture(autouse=True)
def without_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "seconds_per_trial", lambda config: None)  # tests of the plan take the time of steps


@pytest.mark.parametrize(("page", "command"), SHOWN, ids=[command[:60] for _, command in SHOWN])
def test_a_command_that_is_shown_exists(page: str, command: str) -> None:
    check(command)


@pytest.mark.parametrize(
    "command",
    [
        "rm -rf /",
        "python sweeps/ran.py search_spaces/repa.yaml",
        "python sweeps/run.py search_spaces/repa.yaml --profile lptop",
        "python sweeps/run.py search_spaces/no.yaml",
        "python sweeps/run.py search_spaces/repa.yaml --plans-ahead",
        "prx-sweeps incode photos/ --to encoded",
        "prx-sweeps encode photos/",
        "make sweeps",
        "ray upp cluster.yaml",
        "ray up cluster.yml",
        "ray exec cluster.yaml --tmuxx ls",
        "ray exec cluster.yaml 'cd ~/prx-sweeps && python sweeps/ran.py'",
        "ray job submit --working-dir . -- python sweeps/ran.py",
        "kubectl apply -f cluster.yaml",
    ],
)
def test_a_command_that_does_not_exist_is_noticed(command: str) -> None:
    with pytest.raises((Exception, SystemExit)) as caught:  # of make, argparse, click, and our own
        check(command)
    assert not isinstance(caught.value, click.exceptions.Exit)


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page: str) -> None:
    folder = (ROOT / page).parent
    text = re.sub(r"```.*?```|`[^`\n]*`", "", text_of(page), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in target and not target.startswith("#"):
            file = folder / target.partition("#")[0]
            assert file.exists(), f"{page}: {target}"
