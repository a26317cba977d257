"""Search-space files by the thousand: a sound one, changed here and there by whatever the settings' own types suggest.

The places are those of the dataclasses that a file fills, so that a new setting is among them as soon as it exists.
"""

from __future__ import annotations

import copy
import math
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from prx_model.metrics.table import METRICS
from prx_model.model import MODELS
from prx_model.teachers.table import TEACHERS
from sweeps.config import load_config, override, setting_paths
from sweeps.space import SearchSpace, SpaceError
from sweeps.space_file import KINDS, SWEEP_KEYS, profiles_of, read_space, resolve
from tests.sweeps.space_files import CONTENT, FILE, TEXT, P

TRIAL_PATHS = setting_paths()
SWEEP_PATHS = [path for path in setting_paths(SearchSpace) if path.split(".")[0] in {*SWEEP_KEYS} - {"points"}]


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _places(item, (*path, key))


WRITTEN = [path for path in _places(CONTENT) if path]
# A setting of a trial in its section or as a dotted key of the profile; one of the sweep in its section; searched ones.
KNOWN = [
    *((*P, *path.split(".")) for path in TRIAL_PATHS),
    *((*P, path) for path in [*TRIAL_PATHS, *SWEEP_PATHS]),
    *(tuple(path.split(".")) for path in SWEEP_PATHS),
    *(("space", path) for path in TRIAL_PATHS),
    *(("baseline", path) for path in TRIAL_PATHS),
    *(("points", 0, path) for path in TRIAL_PATHS),
]
NAMES = [*TEACHERS, *METRICS, *MODELS, "muon", "adamw", "cosine", "constant", "linear", "stop", "mlp", "conv"]
NAMES += ["bf16", "fp32", "ddp", "fsdp", "store", "openmoji", "adaptive", "full", "min", "max", "auto"]
ODD = [10**400, -(10**20), 2**63, 1e308, 5e-324, math.nan, math.inf, -math.inf]
WORDS = ["", "\n", ".", "a.b", "repa.weight", "\ud800", "${training.steps}", "${x", "!!python/none", "0x10", "1e3", "~"]
MARKS = [*"{}[]:,-#&*!|>'\"%@`\t\n ", "&a ", "*a", "<<: ", "---\n", "\0", "\ufeff"]  # what means something to YAML
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-3, 10)
    | st.sampled_from([*ODD, *WORDS, *NAMES, 0.5, 0.25, 1.0, 16, 32, 64, 240])
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=2)
)
keys = st.sampled_from([*KINDS, *SWEEP_KEYS, *TRIAL_PATHS, *(p.split(".")[-1] for p in SWEEP_PATHS), "", "."]) | scalars
ranges = st.builds(
    lambda kind, ends: {kind: ends}, st.sampled_from(KINDS), st.lists(scalars, min_size=1, max_size=3) | scalars
)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=5
)


@st.composite
def contents(draw: st.DrawFn) -> dict[str, Any]:
    """The content of a file, as YAML would give it."""
    content = copy.deepcopy(CONTENT)
    for _ in range(draw(st.integers(1, 3))):
        *parents, last = draw(st.sampled_from(WRITTEN) | st.sampled_from(KNOWN))
        place: Any = content
        try:
            for key in parents:
                place = place.setdefault(key, {}) if isinstance(place, dict) else place[key]
            match draw(st.sampled_from(["set", "set", "set", "delete", "add", "rename"])):
                case "set":
                    place[last] = draw(ranges if parents == ["space"] else scalars | anything)
                case "delete":
                    del place[last]
                case "add" if isinstance(place, dict):
                    place[draw(keys)] = draw(anything)
                case "rename" if isinstance(place, dict):
                    place[draw(keys)] = place.pop(last)
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took the place away
    return content


@st.composite
def texts(draw: st.DrawFn) -> str:
    """The text of a file: of changed content where YAML can write it, then changed letter by letter."""
    try:
        text = draw(st.just(TEXT) | contents().map(lambda content: yaml.safe_dump(content, allow_unicode=True)))
    except yaml.YAMLError:
        text = TEXT
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(text)))
        put = draw(
            st.sampled_from([*"{}[]:,-#&*!|>'\"%@`\t\n ", "&a ", "*a", "<<: ", "---\n", "\0", "\ufeff"]) | st.text()
        )
        text = text[:at] + put + text[at + draw(st.integers(0, 3)) :]
    return text


def check_content(content: dict[str, Any]) -> bool:
    """Whether it resolves. It does, to a space whose trials can be built, or it is an error of one line."""
    try:
        space = resolve(content, file=FILE, profile="laptop")
    except SpaceError as error:
        _check_line(error, FILE)
        return False
    _check_space(space)
    return True


def check_text(text: str) -> bool:
    """The same of a file's text."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "x.yaml"
        file.write_text(text, encoding="utf-8", errors="surrogatepass")
        try:
            content = read_space(file)
            profiles_of(content)
            space = resolve(content, file=file, profile="laptop")
        except SpaceError as error:
            _check_line(error, file)
            return False
    _check_space(space)
    return True


def _check_line(error: SpaceError, file: Path) -> None:
    message = str(error)
    assert message.startswith(f"{file}: "), message
    assert len(message.splitlines()) == 1, message


def _check_space(space: SearchSpace) -> None:
    assert re.fullmatch("[0-9a-f]{12}", space.fingerprint)
    for seed in space.baseline_seeds[:3]:
        space.baseline_config(seed)
    for point in space.points:
        space.candidate_config(point)
    assert load_config(override(space.base, space.baseline))
