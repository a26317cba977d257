"""Commands as pages show them, each tried as far as it can be without doing anything. A command nobody knows fails."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Sequence

import click
import yaml

from sweeps import main, run
from tests.documents.blocks import ROOT

Words = Sequence[str]
SPACES = {"SPACE": "search_spaces/repa.yaml"}  # what a page writes for one of yours


def check(line: str) -> None:
    """Raise AssertionError where the command does not exist, or not with these arguments."""
    words = shlex.split(line)
    while words and re.fullmatch(r"[A-Z_a-z0-9]+=\S*", words[0]):
        words = words[1:]
    for part in _parts(words):
        known = KNOWN.get(part[0])
        assert known is not None, f"no test knows the command {part[0]}: {line}"
        known(part[1:])


def _parts(words: Words) -> list[list[str]]:
    """The commands between `&&`."""
    parts: list[list[str]] = [[]]
    for word in words:
        if word == "&&":
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


def _python(words: Words) -> None:
    if words[0] == "-m":
        assert (ROOT / words[1].replace(".", "/")).is_dir() or (ROOT / f"{words[1].replace('.', '/')}.py").is_file()
        return
    assert (ROOT / words[0]).is_file(), words[0]
    if words[0] == "sweeps/run.py":
        _plan(run.parse_arguments([SPACES.get(word, word) for word in words[1:]]))


def _plan(options: argparse.Namespace) -> None:
    """The plan of what would run, with results that are nowhere yet."""
    with tempfile.TemporaryDirectory() as results:
        profile = ["--profile", options.profile] if options.profile else []
        command = [str(ROOT / options.space), "--plan", *profile, "--results", results, "--address", "local"]
        assert run.main(command) == 0, options


def _prx_sweeps(words: Words) -> None:
    assert words[0] in main.COMMANDS, f"no such sub-command: {words[0]}"
    main.parser().parse_args(list(words))


def _make(words: Words) -> None:
    targets = re.findall(r"^([a-z0-9]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    missing = [word for word in words if "=" not in word and word not in targets]
    assert not missing, f"no such target: {missing}"
    subprocess.run(["make", "--dry-run", *words], cwd=ROOT, check=True, capture_output=True)


def _ray(words: Words) -> None:
    from ray.scripts.scripts import cli

    command: click.Command = cli
    rest, name = list(words), "ray"
    while isinstance(command, click.Group):
        name = rest.pop(0)
        assert name in command.commands, f"ray has no {name}"
        command = command.commands[name]
    context = command.make_context(name, rest)  # an option that is not there raises
    for word in words:
        if re.fullmatch(r"[\w/-]+\.ya?ml", word):
            assert yaml.safe_load((ROOT / word).read_text())
    inner = context.params.get("cmd") or shlex.join(context.params.get("entrypoint") or ())
    if inner:
        check(inner.replace("~/prx-sweeps", "."))


def _kubectl(words: Words) -> None:
    assert list(words[:2]) == ["apply", "-f"]
    assert yaml.safe_load((ROOT / words[2]).read_text())["kind"] == "RayJob"


def _of_the_shell(words: Words) -> None:
    """export, cd and what belongs to nobody here: nothing to look up."""


KNOWN: dict[str, Callable[[Words], None]] = {
    "python": _python,
    "prx-sweeps": _prx_sweeps,
    "make": _make,
    "ray": _ray,
    "kubectl": _kubectl,
    "export": _of_the_shell,
    "source": _of_the_shell,
    "cd": _of_the_shell,
    "git": _of_the_shell,
    "aws": _of_the_shell,
}
