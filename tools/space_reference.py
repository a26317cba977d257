"""Write docs/search-space.md: every key of a search-space file, from the dataclasses that it is read into.

    python tools/space_reference.py            writes the page
    python tools/space_reference.py --check    exit code 1 where the page is not what it would write

What a setting means stands in the docstring of its dataclass, as `name: text`, and nowhere else. Here stands only what
no dataclass holds: the keys at the top, and the ranges.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
import sys
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from prx_model.experiment_config import ExperimentConfig  # noqa: E402
from prx_model.metrics.table import METRICS, network_of  # noqa: E402
from prx_model.model import MODELS  # noqa: E402
from prx_model.teachers.table import TEACHERS  # noqa: E402
from sweeps.config import WITHOUT_EFFECT, listing, shown  # noqa: E402
from sweeps.space import FRACTION_OF, SearchSpace  # noqa: E402
from sweeps.space_checks import READERS  # noqa: E402
from sweeps.space_file import KINDS, SECTIONS, SHARED, SWEEP_KEYS  # noqa: E402

PAGE = ROOT / "docs" / "search-space.md"

# What is read as plain values; all else is a section, read into a dataclass.
PLAIN = {
    "question": "what is asked, in a sentence; it stands on the page and in the plan",
    "baseline": "dotted paths of settings and the values that make a trial the baseline: `{repa: null}`",
    "space": "dotted paths of the settings that are searched, each with one range (below)",
    "points": "a list of candidates to try first, each with one value for every searched setting; may be left out",
    "warm_start": "folders or `s3://` addresses of earlier sweeps, whose candidates Optuna is told of",
    "results": "the folder or `s3://bucket/prefix` of the results; `--results` stands above it",
    "profiles": "what differs between `laptop` and `cluster`; the run says which it takes and why",
    "seed": "the first baseline's seed, and all candidates'; the others count up from it (0)",
}
RANGES = {
    "choice": ("a list", "one of the values, which may be `null`"),
    "uniform": ("[low, high]", "any number between, ends included"),
    "log_uniform": ("[low, high]", "the same, sampled in the logarithm; low above 0"),
    "int": ("[low, high]", "a whole number, ends included"),
    "fraction": ("[low, high]", "a fraction above 0, at most 1, of {wholes}, rounded to a whole number of at least 1"),
}
INTRODUCTION = """\
# What a search-space file can say

Made by `make reference` from the dataclasses that a file is read into: their docstrings are the text. A test compares.

A file is YAML. Under `profiles` stand the same keys again: a profile's section replaces the file's, and a dotted
key sets one value inside it (`stop.margin: 3`, `space.repa.weight: {uniform: [0, 1]}`). Unknown keys, wrong types
and impossible values are refused before anything starts, in one line: file, dotted path, what came, what is
allowed. `--plan` tells what a file comes to. `${oc.env:NAME}` reads an environment variable.
[search_spaces/](../search_spaces) has eight files to copy.
"""
SPOKEN = {int: "integer", float: "number", str: "text", bool: "true or false"}


def page() -> str:
    """The whole page. ValueError where a key or a field has no text."""
    classes = classes_of_sections()
    _same_names("keys of a file", [*PLAIN, *classes], [*SWEEP_KEYS, *SECTIONS])
    _same_names("ranges", RANGES, KINDS)
    parts = [INTRODUCTION, *_keys(classes), *_space()]
    for name, cls in classes.items():
        parts += _section(name, cls)
    return "\n".join([*parts, *_tables()]).rstrip() + "\n"


def _same_names(what: str, told: typing.Collection[str], there: typing.Collection[str]) -> None:
    differ = sorted(set(told) ^ set(there))
    if differ:
        raise ValueError(f"{what}: {listing(differ)} is in one of code and {Path(__file__).name} only")


def classes_of_sections() -> dict[str, type]:
    """What each section is read into: of the sweep in the order of the keys, then of a trial."""
    found = {**dict(_inner(SearchSpace)), **dict(_inner(ExperimentConfig))}
    return {key: found[key] for key in (*SWEEP_KEYS, *SECTIONS) if key in found}


def _keys(classes: dict[str, type]) -> list[str]:
    rows = []
    for key in (*SWEEP_KEYS, *SECTIONS):
        text = PLAIN.get(key) or f"{summary_of(classes[key])} [All of it](#{key})"
        rows.append((f"`{key}`", text))
    return ["## The keys\n", *_table(("key", "what it says"), rows), ""]


def _space() -> list[str]:
    wholes = listing(f"`{whole}` (for `{path}`)" for path, whole in FRACTION_OF.items())
    rows = [(f"`{kind}`", value, text.format(wholes=wholes)) for kind, (value, text) in RANGES.items()]
    readers = [(f"`{path}`", f"`{words}`") for path, (words, _) in READERS.items()]
    return [
        "## space\n",
        "Any setting of a trial can be searched, whole sections too, by its dotted path:\n",
        *_table(("range", "value", "a candidate gets"), rows),
        f"\nNot {listing(f'`{path}`' for path in SHARED)}: all trials of a sweep share these, so that they compare.",
        "Searched where no candidate would read it, a setting is refused:\n",
        *_table(("setting", "is read only with"), readers),
        "",
    ]


def _section(name: str, cls: type) -> list[str]:
    level = "#" * (2 + name.count("."))
    head = ("key", "type", "default", "what it says")
    parts = [f"{level} {name}\n", introduction_of(cls), "", *_table(head, _rows(cls)), ""]
    free = [path for path in WITHOUT_EFFECT if path.rpartition(".")[0] == name]
    if free:
        parts += [f"{listing(f'`{path}`' for path in free)} changes no result, and may change under way.\n"]
    for field, inner in _inner(cls):
        parts += _section(f"{name}.{field}", inner)
    return parts


def _rows(cls: type) -> Iterator[tuple[str, str, str, str]]:
    """A row for every field, or for those that the docstring tells of together."""
    hints, defaults = typing.get_type_hints(cls), {field.name: _default(field) for field in dataclasses.fields(cls)}
    texts = texts_of(cls)
    untold = [name for name in defaults if not any(name in names for names in texts)]
    if untold:
        raise ValueError(f"{cls.__name__}: its docstring has no `{untold[0]}: ...`")
    for names, text in texts.items():
        kinds = dict.fromkeys(_kind(hints[name]) for name in names)
        values = dict.fromkeys(defaults[name] for name in names)
        yield listing(f"`{name}`" for name in names), listing(kinds), listing(values), text


def texts_of(cls: type) -> dict[tuple[str, ...], str]:
    """Fields -> their text in the docstring, where `name: text` or `name, name: text` opens a sentence."""
    names = "|".join(field.name for field in dataclasses.fields(cls))
    opening = re.compile(rf"(?:^|(?<=[.;] ))((?:{names})(?:, (?:{names}))*): ")
    text = " ".join(_docstring(cls).partition("\n\n")[2].split())
    starts = list(opening.finditer(text))
    ends = [found.start() for found in starts[1:]] + [len(text)]
    return {
        tuple(found.group(1).split(", ")): _spoken(text[found.end() : end])
        for found, end in zip(starts, ends, strict=True)
    }


def _spoken(text: str) -> str:
    """As a file has it: Python's None is null there."""
    return re.sub(r"\bNone\b", "null", text.strip()).removesuffix(".").removesuffix(";")


def introduction_of(cls: type) -> str:
    """What the docstring says before its first field, on one line."""
    opening = re.compile("|".join(rf"^{f.name}(, \w+)*: " for f in dataclasses.fields(cls)), re.MULTILINE)
    found = opening.search(_docstring(cls))
    return " ".join(_docstring(cls)[: found.start() if found else None].split())


def summary_of(cls: type) -> str:
    return _docstring(cls).partition("\n")[0]


def _docstring(cls: type) -> str:
    return inspect.cleandoc(cls.__doc__ or "")


def _inner(cls: type) -> Iterator[tuple[str, type]]:
    for name, hint in typing.get_type_hints(cls).items():
        for option in _options(hint):
            if dataclasses.is_dataclass(option):
                yield name, typing.cast(type, option)


def _options(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def _kind(hint: Any) -> str:
    words = []
    for option in _options(hint):
        if option is type(None):
            words.append("null")
        elif dataclasses.is_dataclass(option):
            words.append("section")
        elif typing.get_origin(option) is tuple:
            words.append(f"list of {SPOKEN[typing.get_args(option)[0]]}s")
        else:
            words.append(SPOKEN[option])
    return " or ".join(words)


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return "its own defaults"
    if field.default is dataclasses.MISSING:
        return "needed"
    value = field.default
    text = f"{value:,}".replace(",", "") if isinstance(value, int) and not isinstance(value, bool) else shown(value)
    return f"`[{listing(value)}]`" if isinstance(value, tuple) else f"`{text.strip(chr(39))}`"


def _tables() -> Iterator[str]:
    yield "## Models, teachers, metrics\n"
    shape = (
        "{0.hidden_size} wide, {0.depth} blocks, {0.num_heads} heads, {0.in_channels} channels, patch {0.patch_size}"
    )
    yield from _table(("model", "what it is"), [(f"`{name}`", shape.format(one)) for name, one in MODELS.items()])
    yield "\nA `model` may also be a section, with the keys above.\n"
    yield from _table(
        ("teacher", "source", "width", "px a token", "licence", "what it is"),
        [(f"`{t.name}`", t.source, str(t.width), str(t.patch), t.licence, t.note) for t in TEACHERS.values()],
    )
    yield "\n[Add one](adding-a-teacher.md). A teacher whose network also scores the objective is refused.\n"
    yield from _table(
        ("metric", "network", "what it is"),
        [(f"`{m.name}`", f"`{network_of(m.name)}`", m.description) for m in METRICS.values()],
    )
    yield "\n[Add one](adding-a-metric.md). Lower is better in all of them."


def _table(head: Sequence[str], rows: typing.Iterable[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit code 1 where the page is not up to date"
    )
    made, options = page(), parser.parse_args()
    if not options.check:
        PAGE.write_text(made)
    elif not PAGE.is_file() or PAGE.read_text() != made:
        print(f"{PAGE.relative_to(ROOT)} is not what the dataclasses say: make reference", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
